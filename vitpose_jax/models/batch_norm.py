"""Batch normalisation in float32 with torch's running statistics, over all crops of a batch or by groups of crops."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

EPSILON = 1e-5
MOMENTUM = 0.9


class BatchNorm(nn.Module):
    """Batch normalisation of one decoder.

    Statistics are those of the whole batch that the jitted step sees: of the global batch under data parallelism.
    """

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, own: jax.Array | None = None) -> jax.Array:
        """Normalises; training updates collection `batch_stats`.

        Args:
            x: [B, h, w, C].
            train: with the batch's statistics instead of the running ones.
            own: bool [B], the crops whose statistics are taken; None for all. All crops are normalised with them.

        Returns:
            float32 [B, h, w, C].
        """
        channels = x.shape[-1]
        x = x.astype(jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        mean, var = running_mean.value, running_var.value
        if train:
            members = jnp.ones((len(x), 1)) if own is None else own[:, None].astype(jnp.float32)
            batch = statistics(x, members)
            if not self.is_initializing():
                updated = running(mean[None], var[None], batch)
                running_mean.value, running_var.value = updated[0][0], updated[1][0]
            mean, var = batch.mean[0], batch.var[0]
        return normalize(x, mean, var, scale, bias)


class Statistics(NamedTuple):
    """Of groups of crops, over their crops and cells."""

    mean: jax.Array  # float32 [G, C]; 0 for a group without crops
    var: jax.Array  # float32 [G, C], biased; 0 for a group without crops
    cells: jax.Array  # float32 [G], of all crops of the group


def statistics(x: jax.Array, members: jax.Array) -> Statistics:
    """Mean and variance of each group.

    Args:
        x: float32 [B, h, w, C].
        members: float32 [B, G], 1 where a crop belongs to a group, else 0. A crop belongs to one group at most.
    """
    highest = jax.lax.Precision.HIGHEST
    crops = members.sum(axis=0)
    share = members / jnp.maximum(crops, 1.0)
    mean = jnp.einsum("bg,bc->gc", share, x.mean(axis=(1, 2)), precision=highest)
    own_mean = jnp.einsum("bg,gc->bc", members, mean, precision=highest)
    squares = jnp.square(x - own_mean[:, None, None]).mean(axis=(1, 2))
    var = jnp.einsum("bg,bc->gc", share, squares, precision=highest)
    return Statistics(mean, var, crops * (x.shape[1] * x.shape[2]))


def running(mean: jax.Array, var: jax.Array, batch: Statistics) -> tuple[jax.Array, jax.Array]:
    """Running statistics [G, C] after a batch. As in torch the variance kept is the unbiased one.

    A group without crops keeps its own.
    """
    cells = batch.cells[:, None]
    unbiased = batch.var * (cells / jnp.maximum(cells - 1, 1.0))
    return (
        jnp.where(cells > 0, MOMENTUM * mean + (1 - MOMENTUM) * batch.mean, mean),
        jnp.where(cells > 0, MOMENTUM * var + (1 - MOMENTUM) * unbiased, var),
    )


def normalize(x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """float32 [B, h, w, C] with statistics and parameters that are [C] for all crops or [B, C], each crop's own."""
    factor = scale * jax.lax.rsqrt(var + EPSILON)
    return (x - mean[..., None, None, :]) * factor[..., None, None, :] + bias[..., None, None, :]
