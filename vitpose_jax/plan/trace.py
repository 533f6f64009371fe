"""What a step costs one device, estimated from the program as JAX traces it, before any compiler has seen it.

This is all there is for GPUs, whose compiler is not at hand, and what meshes are compared by before the best few are
compiled. Compiled TPU programs say how good it is, see `docs/scaling.md`.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from jax.extend import core

# Their results pass main memory, and so do the operands of products; elementwise work is fused into its neighbours.
_PRODUCTS = {"dot_general", "conv_general_dilated"}
_MATERIALISED = _PRODUCTS | {
    "scan", "while", "cond", "concatenate", "gather", "scatter", "scatter-add", "sort", "cumsum", "argmax", "argmin",
}  # fmt: skip


class Estimate(NamedTuple):
    """Of one device and one step, with nothing split between devices."""

    product_flops: float
    memory_bytes: float  # that pass main memory
    peak_bytes: float  # of what lives besides the program's inputs


def estimate(jaxpr: Any, ways: Mapping[tuple[int, ...], int]) -> Estimate:
    """Counts products, traffic and live arrays of a traced program.

    Args:
        jaxpr: of one device's share of the batch.
        ways: shape of a parameter to the number of devices that its state and its gradient are split over.
    """
    flops, traffic = 0.0, 0.0
    for eqn, times in _equations(jaxpr, 1):
        operands: list[Any] = [variable.aval for variable in eqn.invars]
        results: list[Any] = [variable.aval for variable in eqn.outvars]
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            flops += times * 2.0 * math.prod(results[0].shape) * math.prod(operands[0].shape[i] for i in contracted)
            traffic += times * sum(map(_bytes, operands + results))
        elif eqn.primitive.name == "conv_general_dilated":
            raise NotImplementedError("a convolution: its arithmetic is not counted here, write it as products")
        elif eqn.primitive.name.startswith("reduce"):
            traffic += times * sum(map(_bytes, operands))
    return Estimate(flops, traffic, _peak(jaxpr, ways))


def _bytes(aval: Any) -> int:
    return math.prod(aval.shape) * aval.dtype.itemsize if hasattr(aval, "shape") else 0


def _inner(eqn: core.JaxprEqn) -> list[tuple[Any, int]]:
    """Programs inside an equation, and how often each runs."""
    times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
    found = []
    for value in eqn.params.values():
        for each in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(each, core.ClosedJaxpr):
                found.append((each.jaxpr, times))
            elif isinstance(each, core.Jaxpr):
                found.append((each, times))
    return found


def _equations(jaxpr: Any, times: int) -> Iterator[tuple[core.JaxprEqn, int]]:
    for eqn in jaxpr.eqns:
        inner = _inner(eqn)
        if not inner:
            yield eqn, times
        for each, rounds in inner:
            yield from _equations(each, times * rounds)


def _peak(jaxpr: Any, ways: Mapping[tuple[int, ...], int]) -> float:
    """Most bytes alive at once, of what equations of this program make; inputs are the caller's."""
    last_use: dict[Any, int] = {}
    materialised: set[Any] = set()
    for place, eqn in enumerate(jaxpr.eqns):
        for variable in eqn.invars:
            if isinstance(variable, core.Var):
                last_use[variable] = place
                if eqn.primitive.name in _MATERIALISED or _inner(eqn):
                    materialised.add(variable)
        if eqn.primitive.name in _MATERIALISED or _inner(eqn):
            materialised |= set(eqn.outvars)
    for variable in jaxpr.outvars:
        if isinstance(variable, core.Var):
            last_use[variable] = len(jaxpr.eqns)
    live, peak = 0.0, 0.0
    dying: dict[int, float] = {}
    for place, eqn in enumerate(jaxpr.eqns):
        inside = max((_peak(each, ways) for each, _ in _inner(eqn)), default=0.0)
        made = 0.0
        for variable in eqn.outvars:
            if variable in materialised and variable in last_use:
                size = _bytes(variable.aval) / ways.get(tuple(variable.aval.shape), 1)
                made += size
                dying[last_use[variable]] = dying.get(last_use[variable], 0.0) + size
        live += made
        peak = max(peak, live + inside)
        live -= dying.pop(place, 0.0)
    return peak
