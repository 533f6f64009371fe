"""Training on several data sets at once: every crop through its own data set's decoder, and no other.

The decoders' parameters are stacked over data sets, and a crop takes its own (`own.py`). Shapes depend on neither
the order nor the mixture of a batch. Channels are padded with zeros to the largest K.
"""

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitpose_jax import trees
from vitpose_jax.models import batch_norm, decoders
from vitpose_jax.models.own import own_product, own_vector


def own_heatmaps(
    decoder: str, params: Mapping[str, Any], batch_stats: Mapping[str, Any], features: jax.Array, dataset: jax.Array
) -> tuple[jax.Array, dict[str, Any]]:
    """Heatmaps of each crop by its own data set's decoder, in training.

    Batch norm's statistics are those of each data set's own crops. A data set without a crop in the batch keeps its
    running statistics and gets gradients of zero.

    Args:
        decoder: "classic" or "simple".
        params: data-set name to its decoder's parameters, in the order of `dataset`.
        batch_stats: the same of running statistics; empty for a decoder without batch norm.
        features: [B, rows, cols, D], in the dtype of the computation.
        dataset: int32 [B], place in `params` of each crop's data set.

    Returns:
        (heatmaps float32 [B, h, w, largest K], 0 in the channels beyond a data set's own K; new running statistics).
    """
    stacked = _stack(params)
    multiply = functools.partial(own_product, index=dataset)
    x = nn.relu(features) if decoder == "simple" else features
    new_stats: dict[str, jax.Array] = {}
    if decoder == "classic":
        running = _stack(batch_stats)
        members = jax.nn.one_hot(dataset, len(params), dtype=jnp.float32)
        for i in range(2):
            x = decoders.deconv(x, stacked[f"deconv{i}/kernel"], multiply).astype(jnp.float32)
            batch = batch_norm.statistics(x, members)
            of_group = (*batch[:2], stacked[f"bn{i}/scale"], stacked[f"bn{i}/bias"])
            x = batch_norm.normalize(x, *(own_vector(values, dataset) for values in of_group))
            x = nn.relu(x).astype(features.dtype)
            new_stats[f"bn{i}/mean"], new_stats[f"bn{i}/var"] = batch_norm.running(
                running[f"bn{i}/mean"], running[f"bn{i}/var"], batch
            )
    last_layer = decoders.pointwise if decoder == "classic" else decoders.upsample_and_convolve
    heatmaps = last_layer(x, stacked["final/kernel"], multiply)
    heatmaps += own_vector(stacked["final/bias"], dataset)[:, None, None]
    unstacked = {
        name: trees.unflatten({path: values[i] for path, values in new_stats.items()})
        for i, name in enumerate(batch_stats)
    }
    return heatmaps, unstacked


def _stack(by_dataset: Mapping[str, Any]) -> dict[str, jax.Array]:
    """{path within a decoder: [G, …]}; the last axis of `final/…`, the keypoints, is padded with zeros."""
    flat = [trees.flatten(tree) for tree in by_dataset.values()]

    def stack(leaves: list[jax.Array]) -> jax.Array:
        widest = max(leaf.shape[-1] for leaf in leaves)
        return jnp.stack(
            [jnp.pad(leaf, [(0, 0)] * (leaf.ndim - 1) + [(0, widest - leaf.shape[-1])]) for leaf in leaves]
        )

    return {path: stack([leaves[path] for leaves in flat]) for path in (flat[0] if flat else ())}
