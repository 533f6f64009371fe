"""Weights in the precision that a model computes in: for inference, half the bytes, read anew for every batch."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vitpose_jax import trees
from vitpose_jax.models.products import as_bits
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


def rounded(model: ViTPose, variables: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a model computes the same with, to the bit, when it does not learn.

    On a CPU the stacked weights of the blocks come as bits, see `products.as_bits`.

    Args:
        model: a float32 one takes everything as it is.
        variables: {"params", "batch_stats"} of float32 arrays.
    """
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
