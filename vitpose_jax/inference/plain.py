"""JAX functions in plain operations, for converters that know only these.

Loops over layers are unrolled, functions within functions put in their place, everything that does not depend on the
input computed beforehand, and what few converters translate for a free batch size (reading at computed places, padding)
said by slices, concatenations and products with rows of zeros and ones. In float32 these select exactly.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend import core

_EXACT = lax.Precision.HIGHEST  # accelerators would round to bfloat16 or TF32
_MOST_AXES = 6  # that TensorFlow Lite puts in another order
_FOLDED_SIZE = 4096  # constants this small are computed beforehand even if that makes them larger


def plain(function: Callable[..., jax.Array], *, approximate_erf: bool = False) -> Callable[..., jax.Array]:
    """The same function, to be traced; one result.

    Args:
        function: of arrays.
        approximate_erf: write erf in elementary functions, off by at most 2e-7.
    """

    def run(*arrays: jax.Array) -> jax.Array:
        program = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays))
        (result,) = _Plain(approximate_erf).run(program.jaxpr, program.consts, arrays)
        return result

    return run


class _Plain:
    """Evaluates equations one by one, some of them by other means."""

    def __init__(self, approximate_erf: bool):
        self._approximate_erf = approximate_erf

    def run(self, jaxpr: core.Jaxpr, consts: Sequence[Any], arrays: Sequence[Any]) -> list[Any]:
        """Results of a program."""
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arrays], strict=True))
        for equation in jaxpr.eqns:
            given = [v.val if isinstance(v, core.Literal) else values[v] for v in equation.invars]
            if _folds(equation, given):
                with jax.ensure_compile_time_eval():
                    results = [np.asarray(result) for result in self._results(equation, given)]
            else:
                results = self._results(equation, given)
            values |= zip(equation.outvars, results, strict=True)
        return [v.val if isinstance(v, core.Literal) else values[v] for v in jaxpr.outvars]

    def _results(self, equation: Any, given: list[Any]) -> list[Any]:
        name, params = equation.primitive.name, equation.params
        if name == "scan":
            return self._unrolled(params, given)
        if name in ("jit", "closed_call"):
            return self.run(params["jaxpr"].jaxpr, params["jaxpr"].consts, given)
        if name == "remat2":
            return self.run(params["jaxpr"], (), given)
        if name in ("custom_jvp_call", "custom_vjp_call"):
            return self.run(params["call_jaxpr"].jaxpr, params["call_jaxpr"].consts, given)
        if name in ("optimization_barrier", "stop_gradient", "layout_constraint"):
            return given
        if name == "pad":
            array, value = given
            return [_padded(array, value, params["padding_config"])]
        if name == "stack":
            axis = params["axis"]
            return [lax.concatenate([lax.expand_dims(array, (axis,)) for array in given], axis)]
        if name == "gather":
            array, starts = given
            read = _sliced if isinstance(starts, np.ndarray) and starts.ndim == 1 else _selected
            return [read(array, starts, params["dimension_numbers"], params["slice_sizes"])]
        if name == "dot_general":
            return [_product(*given, **params)]
        if name == "transpose" and given[0].ndim > _MOST_AXES:
            return [_transposed(given[0], params["permutation"])]
        if name == "erf" and self._approximate_erf:
            return [_erf(*given)]
        results = equation.primitive.bind(*given, **params)
        return results if equation.primitive.multiple_results else [results]

    def _unrolled(self, params: dict[str, Any], given: list[Any]) -> list[Any]:
        """A scan that hands on a carry and stacks nothing."""
        fixed, body = params["num_consts"], params["jaxpr"]
        split = fixed + params["num_carry"]
        consts, carry, layers = given[:fixed], given[fixed:split], given[split:]
        for number in range(params["length"]):
            carry = self.run(body.jaxpr, body.consts, [*consts, *carry, *(array[number] for array in layers)])
        return carry


def _folds(equation: Any, given: Sequence[Any]) -> bool:
    """Whether to compute an equation beforehand: no input of the program enters, and constants do not swell."""
    sizes = [math.prod(v.aval.shape) for v in equation.outvars]
    if any(isinstance(value, jax.core.Tracer) for value in given) or not all(isinstance(size, int) for size in sizes):
        return False
    return sum(sizes) <= max(_FOLDED_SIZE, sum(np.size(value) for value in given))


def _product(
    left: Any, right: Any, *, dimension_numbers: Any, preferred_element_type: Any = None, **precision: Any
) -> Any:
    """A dot_general as [batch…, rows, summed] times [batch…, summed, columns]; without a batch axis as any number of
    axes times one matrix, the crops on the left."""
    (left_sum, right_sum), (left_batch, right_batch) = dimension_numbers
    swapped = not left_batch and isinstance(left, np.ndarray)
    if swapped:
        left, right, left_sum, right_sum = right, left, right_sum, left_sum
    left_free = [axis for axis in range(left.ndim) if axis not in (*left_sum, *left_batch)]
    right_free = [axis for axis in range(right.ndim) if axis not in (*right_sum, *right_batch)]
    batch, rows = [left.shape[axis] for axis in left_batch], [left.shape[axis] for axis in left_free]
    columns, summed = [right.shape[axis] for axis in right_free], math.prod(left.shape[axis] for axis in left_sum)
    left = _arranged(left, [*left_batch, *left_free, *left_sum], [*batch, *(_joined(rows) if batch else rows), summed])
    right = _arranged(right, [*right_batch, *right_sum, *right_free], [*batch, summed, *_joined(columns)])
    axes = tuple(range(len(batch)))
    result = lax.dot_general(
        left, right, (((left.ndim - 1,), (len(batch),)), (axes, axes)),
        preferred_element_type=preferred_element_type, **precision,
    )  # fmt: skip
    columns_first = [*range(len(rows), len(rows) + len(columns)), *range(len(rows))]
    result = lax.reshape(result, (*batch, *rows, *columns))
    return lax.transpose(result, columns_first) if swapped else result


def _joined(sizes: Sequence[Any]) -> list[Any]:
    return [math.prod(sizes)]


def _arranged(array: Any, order: Sequence[int], shape: Sequence[Any]) -> Any:
    """Axes in another order, then some of them joined; constants beforehand."""
    if isinstance(array, np.ndarray):
        return np.ascontiguousarray(array.transpose(order)).reshape(shape)
    return lax.reshape(lax.transpose(array, order), shape)


def _transposed(array: Any, order: Sequence[int]) -> Any:
    """Axes in another order, those that stay neighbours as one."""
    runs: list[list[int]] = []
    for axis in order:
        known = isinstance(array.shape[axis], int)  # the number of crops stays apart
        if runs and known and runs[-1][-1] == axis - 1 and isinstance(array.shape[axis - 1], int):
            runs[-1].append(axis)
        else:
            runs.append([axis])
    before = sorted(runs)
    joined = lax.reshape(array, [math.prod(array.shape[axis] for axis in run) for run in before])
    moved = lax.transpose(joined, [before.index(run) for run in runs])
    return lax.reshape(moved, [array.shape[axis] for axis in order])


def _padded(array: Any, value: Any, config: Sequence[tuple[int, int, int]]) -> Any:
    for axis, (before, after, between) in enumerate(config):
        if between or min(before, after) < 0:
            raise NotImplementedError(f"padding {config}")
        parts = [
            lax.broadcast_in_dim(value, (*array.shape[:axis], count, *array.shape[axis + 1 :]), ())
            for count in (before, after)
        ]
        array = lax.concatenate([parts[0]] * bool(before) + [array] + [parts[1]] * bool(after), axis)
    return array


def _sliced(array: Any, start: np.ndarray, numbers: lax.GatherDimensionNumbers, sizes: Sequence[Any]) -> Any:
    """A gather at one place that is known."""
    first: list[int] = [0] * array.ndim
    for axis, place in zip(numbers.start_index_map, start.tolist(), strict=True):
        first[axis] = min(max(place, 0), array.shape[axis] - sizes[axis])
    last = [low + size for low, size in zip(first, sizes, strict=True)]
    return lax.squeeze(lax.slice(array, first, last), numbers.collapsed_slice_dims)


def _selected(array: Any, starts: Any, numbers: lax.GatherDimensionNumbers, sizes: Sequence[Any]) -> Any:
    """A gather as products with rows of zeros and ones, axis by axis.

    Knows two forms: a window of each map of a batch (leading axes of both arrays), and rows of a table (starts have one
    place along one axis).
    """
    batch = starts.ndim - 1
    if tuple(numbers.operand_batching_dims) == tuple(range(batch)) and not numbers.collapsed_slice_dims:
        for place, axis in enumerate(numbers.start_index_map):
            first = lax.squeeze(lax.slice_in_dim(starts, place, place + 1, axis=batch), (batch,))
            first = lax.clamp(np.int32(0), first, np.int32(array.shape[axis] - sizes[axis]))
            shape = (*first.shape, sizes[axis])
            cells = lax.add(lax.broadcast_in_dim(first, shape, tuple(range(batch))), _counted(shape, batch))
            chosen = _ones_at(cells, array.shape[axis])
            together = (tuple(range(batch)),) * 2
            array = _product(chosen, array, dimension_numbers=(((batch + 1,), (axis,)), together), precision=_EXACT)
            order = list(range(array.ndim))
            order.insert(axis, order.pop(batch))
            array = lax.transpose(array, order)
        return array
    (axis,) = numbers.start_index_map
    if tuple(numbers.collapsed_slice_dims) != (axis,) or numbers.operand_batching_dims or starts.shape[-1] != 1:
        raise NotImplementedError(f"gather {numbers}")
    chosen = _ones_at(lax.squeeze(starts, (batch,)), array.shape[axis])
    others = tuple(i for i in range(array.ndim) if i != axis)
    table = lax.convert_element_type(lax.transpose(array, (*others, axis)), np.float32)  # small whole numbers fit, too
    numbers_of_product = (((array.ndim - 1,), (batch,)), ((), ()))
    result = _product(table, chosen, dimension_numbers=numbers_of_product, precision=_EXACT)
    # [others…, batch…]: the axes of the slice go where the gather has them.
    order, rest = [], list(range(len(others), len(others) + batch))
    for i in range(result.ndim):
        order.append(numbers.offset_dims.index(i) if i in numbers.offset_dims else rest.pop(0))
    return lax.convert_element_type(lax.transpose(result, order), array.dtype)


def _ones_at(places: Any, count: int) -> Any:
    """float32 [..., count]: 1 at each place of `places` [...], 0 elsewhere."""
    shape = (*places.shape, count)
    wide = lax.broadcast_in_dim(places, shape, tuple(range(places.ndim)))
    return lax.convert_element_type(lax.eq(wide, _counted(shape, places.ndim)), np.float32)


def _counted(shape: Sequence[Any], axis: int) -> Any:
    """int32 of a shape: 0, 1, 2, … along an axis."""
    return lax.broadcast_in_dim(np.arange(shape[axis], dtype=np.int32), shape, (axis,))


def _erf(x: Any) -> Any:
    """Source: Abramowitz and Stegun, Handbook of Mathematical Functions, formula 7.1.26."""
    size = lax.abs(x)
    t = 1.0 / (1.0 + 0.3275911 * size)
    series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    return lax.sign(x) * (1.0 - series * lax.exp(-size * size))
