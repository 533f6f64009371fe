"""Where a program runs, and where its activations live when a step is split over devices.

XLA decides it where nothing is said, and follows the parameters: with those split over `fsdp` it would split the width
of the tokens and give every device all crops. So the places that matter say it. The mesh is known while
`training.sharding.on_mesh` traces a function; elsewhere, as on one device, nothing here does anything.
"""

import contextvars
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

CROPS = ("data", "fsdp")  # mesh axes that a batch is split over


def placed(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """`x`, each dimension split over the mesh axes named for it; None: whole on every device."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))


def on_cpu() -> bool:
    """Whether what is traced will run on a CPU; a mesh may be of devices that are only described."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return jax.default_backend() == "cpu"
    return mesh.abstract_device is not None and mesh.abstract_device.platform == "cpu"


CROPS_AT_ONCE = 8
_in_turn = contextvars.ContextVar("_in_turn", default=False)


def in_turn() -> bool:
    """Whether what is traced was asked by `in_chunks` to take few crops at a time."""
    return _in_turn.get()


def in_chunks(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same of (variables, arrays [B, …], …) to a tree of arrays [B, …], some crops at a time.

    On one CPU device the activations of few crops stay in its cache; elsewhere, and for a free batch size, this does
    nothing. Parts of a model whose activations are the largest ask `in_turn` and take one crop after another.
    """

    @functools.wraps(function)
    def run(variables: Any, *batch: jax.Array) -> Any:
        mesh, count = jax.sharding.get_abstract_mesh(), batch[0].shape[0]
        alone = on_cpu() and (mesh.empty or mesh.size == 1)
        if not alone or not isinstance(count, int):
            return function(variables, *batch)
        token = _in_turn.set(True)
        try:
            return by_chunks(count, variables, *batch)
        finally:
            _in_turn.reset(token)

    def by_chunks(count: int, variables: Any, *batch: jax.Array) -> Any:
        if count <= CROPS_AT_ONCE:
            return function(variables, *batch)
        whole = count // CROPS_AT_ONCE * CROPS_AT_ONCE
        chunks = [array[:whole].reshape(-1, CROPS_AT_ONCE, *array.shape[1:]) for array in batch]
        found = jax.lax.map(lambda chunk: function(variables, *chunk), chunks)
        found = jax.tree.map(lambda array: array.reshape(whole, *array.shape[2:]), found)
        if whole == count:
            return found
        rest = function(variables, *(array[whole:] for array in batch))
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), found, rest)

    return run
