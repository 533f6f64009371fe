"""Weights as inference reads them: in the precision that a model computes in, and on one CPU layer by layer."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vitpose_jax import trees
from vitpose_jax.models.products import as_bits, as_weights
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


def inference_weights(model: ViTPose, variables: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a model computes the same with when it does not learn: to the bit, or to rounding where layers are apart.

    On one CPU device the layers of large blocks stand apart, in a tuple: of a stack, each would be copied out before
    it is multiplied with. Stacks of bfloat16 weights come as bits on a CPU, see `products.as_bits`.

    Args:
        model: a float32 one takes everything as precise as it is.
        variables: {"params", "batch_stats"} of float32 arrays.

    Returns:
        What `model.apply` takes in place of `variables`.
    """
    return _layers_apart(_rounded(model, variables))


def stacked(variables: Mapping[str, Any]) -> Mapping[str, Any]:
    """What `inference_weights` returned, with its layers stacked again; for programs that are to be written out."""
    if not isinstance(_blocks(variables), tuple):
        return variables

    def stack(*layers: jax.Array) -> jax.Array:
        weights = jnp.stack(layers)
        return as_bits(weights) if weights.dtype == jnp.bfloat16 else weights

    return _with_blocks(variables, jax.tree.map(stack, *_blocks(variables)))


def _rounded(model: ViTPose, variables: Mapping[str, Any]) -> Mapping[str, Any]:
    if model.dtype == jnp.float32:
        return variables
    casts = trees.match(CAST_FIRST, trees.flatten(variables), name="rounding")

    bits = jax.default_backend() == "cpu"

    def cast(path: str, leaf: jax.Array) -> jax.Array:
        if not casts[path]:
            return leaf
        leaf = leaf.astype(model.dtype)
        return as_bits(leaf) if bits and path.startswith("params/backbone/blocks/") else leaf

    return jax.jit(lambda variables: trees.map_with_path(cast, variables))(variables)


def _layers_apart(variables: Mapping[str, Any]) -> Mapping[str, Any]:
    leaves = jax.tree.leaves(_blocks(variables))
    depth = len(leaves[0])
    devices = {device for leaf in leaves if isinstance(leaf, jax.Array) for device in leaf.devices()}
    alone = len(devices) == 1 and all(device.platform == "cpu" for device in devices)
    if not alone or sum(leaf.nbytes for leaf in leaves) < depth * _SMALLEST_APART:
        return variables

    def layers(blocks: Any) -> tuple[Any, ...]:
        return tuple(jax.tree.map(lambda leaf, layer=layer: as_weights(leaf[layer]), blocks) for layer in range(depth))

    return _with_blocks(variables, jax.jit(layers)(_blocks(variables)))


def _blocks(variables: Mapping[str, Any]) -> Any:
    return variables["params"]["backbone"]["blocks"]


def _with_blocks(variables: Mapping[str, Any], blocks: Any) -> dict[str, Any]:
    params = variables["params"]
    return {**variables, "params": {**params, "backbone": {**params["backbone"], "blocks": blocks}}}
