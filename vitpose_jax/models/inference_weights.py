"""Weights as inference reads them: in the precision that a model computes in, and on one CPU layer by layer."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vitpose_jax import trees
from vitpose_jax.models.products import BITS, as_bits, as_weights
from vitpose_jax.models.vitpose import ViTPose

# Whether the model's first use of a variable is to cast it to its own precision, and nothing else uses it.
CAST_FIRST: trees.Table[bool] = (
    ("params/backbone/(pos_embed|knowledge/token)", False),
    ("params/backbone/knowledge/proj/(kernel|bias)", True),
    ("params/backbone/patch_embed/(kernel|bias)", True),
    ("params/backbone/blocks/norm[12]/(scale|bias)", False),
    ("params/backbone/blocks/attn/(qkv|proj)/(kernel|bias)", True),
    ("params/backbone/blocks/attn/rel_pos/(table|rows|cols)", False),
    ("params/backbone/blocks/mlp/(fc1|fc2|experts)/(kernel|bias)", True),
    ("params/backbone/last_norm/(scale|bias)", False),
    ("params/decoders/[^/]+/deconv[01]/kernel", True),
    ("params/decoders/[^/]+/bn[01]/(scale|bias)", False),
    ("params/decoders/[^/]+/final/kernel", True),
    ("params/decoders/[^/]+/final/bias", False),
    ("batch_stats/decoders/[^/]+/bn[01]/(mean|var)", False),
)

# A block of fewer bytes lies in a CPU's cache when it is copied out of the stack, which then costs nothing.
_SMALLEST_APART = 8 * 2**20


def prepared(model: ViTPose, variables: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a model computes the same with when it does not learn: to the bit, or to rounding where layers are apart.

    On one CPU device the layers of large blocks stand apart, in a tuple, as copies: of a stack, each would be copied
    out whenever it is multiplied with. Stacks of bfloat16 weights come as bits on a CPU, see `products.as_bits`.

    Args:
        model: a float32 one takes everything as precise as it is.
        variables: {"params", "batch_stats"} of float32 arrays; or what this function returned, which stays as it is.

    Returns:
        What `model.apply` takes in place of `variables`.
    """
    if isinstance(_blocks(variables), tuple):
        return variables
    variables = _rounded(model, variables)
    blocks = _blocks(variables)
    return _with_blocks(variables, _layers(blocks, _depth(blocks))) if _are_large_on_one_cpu(blocks) else variables


def stacked(variables: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `prepared` returned, with its layers stacked again; for programs that are to be written out."""
    if not isinstance(_blocks(variables), tuple):
        return variables

    def stack(*layers: jax.Array) -> jax.Array:
        weights = jnp.stack(layers)
        return as_bits(weights) if weights.dtype == jnp.bfloat16 else weights

    return _with_blocks(variables, jax.tree.map(stack, *_blocks(variables)))


def _rounded(model: ViTPose, variables: Mapping[str, Any]) -> Mapping[str, Any]:
    if model.dtype == jnp.float32 or any(leaf.dtype == BITS for leaf in jax.tree.leaves(_blocks(variables))):
        return variables
    casts = trees.match(CAST_FIRST, trees.flatten(variables), name="rounding")

    bits = jax.default_backend() == "cpu"

    def cast(path: str, leaf: jax.Array) -> jax.Array:
        if not casts[path]:
            return leaf
        leaf = leaf.astype(model.dtype)
        return as_bits(leaf) if bits and path.startswith("params/backbone/blocks/") else leaf

    return jax.jit(lambda variables: trees.map_with_path(cast, variables))(variables)


def _are_large_on_one_cpu(blocks: Any) -> bool:
    leaves = jax.tree.leaves(blocks)
    devices = {device for leaf in leaves if isinstance(leaf, jax.Array) for device in leaf.devices()}
    alone = [device.platform for device in devices] == ["cpu"]
    return alone and sum(leaf.nbytes for leaf in leaves) >= _depth(blocks) * _SMALLEST_APART


@functools.partial(jax.jit, static_argnums=1)
def _layers(blocks: Any, depth: int) -> tuple[Any, ...]:
    return tuple(jax.tree.map(lambda leaf, layer=layer: as_weights(leaf[layer]), blocks) for layer in range(depth))


def _depth(blocks: Any) -> int:
    return len(jax.tree.leaves(blocks)[0])


def _blocks(variables: Mapping[str, Any]) -> Any:
    return variables["params"]["backbone"]["blocks"]


def _with_blocks(variables: Mapping[str, Any], blocks: Any) -> dict[str, Any]:
    params = variables["params"]
    return {**variables, "params": {**params, "backbone": {**params["backbone"], "blocks": blocks}}}
