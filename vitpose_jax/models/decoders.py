"""The two decoders of ViTPose: features [B, rows, cols, D] to heatmaps four times as fine.

Both are written as matrix products over shifted maps. That is the same arithmetic as the original's convolutions with
fewer operations, and its gradients are matrix products too, which every backend runs well.

The arithmetic stands in functions that take their weights, because it is done in two ways: the modules here do it with
one decoder's weights for all crops, `grouped.py` with each crop's own.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitpose_jax.models.batch_norm import BatchNorm
from vitpose_jax.models.products import matmul, moved

UPSCALE = 4  # heatmap cells per feature cell, along each side
DECONV_FILTERS = 256

# (rows [B, L, C], weights) to [B, L, F]. Weights are [C, F] for all crops, or [G, C, F] of which each crop takes one.
Multiply = Callable[[jax.Array, jax.Array], jax.Array]

_small_init = nn.initializers.normal(stddev=0.001)


class ClassicDecoder(nn.Module):
    """Two blocks of (transposed convolution, batch norm, ReLU), then a 1x1 convolution.

    Attributes:
        num_keypoints: K.
        filters: channels of both transposed convolutions; 256 in the paper.
        dtype: of the computation; batch norm and the result are float32.

    Source: ViTPose §3.1; `topdown_heatmap_simple_head.py` with two deconvolution layers.
    """

    num_keypoints: int
    filters: int = DECONV_FILTERS
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool, own: jax.Array | None = None) -> jax.Array:
        """Args: features [B, rows, cols, D]; own see `BatchNorm`. Returns: heatmaps float32 [B, 4 rows, 4 cols, K]."""
        x = features
        for i in range(2):
            x = Deconv(self.filters, self.dtype, name=f"deconv{i}")(x)
            x = BatchNorm(name=f"bn{i}")(x, train=train, own=own)
            x = nn.relu(x).astype(self.dtype)
        kernel, bias = _KernelAndBias((1, 1, self.filters, self.num_keypoints), _small_init, name="final")()
        return pointwise(x, kernel) + bias


class SimpleDecoder(nn.Module):
    """ReLU, bilinear upsampling by four, one 3x3 convolution.

    Attributes:
        num_keypoints: K.
        dtype: of the projection; upsampling and the result are float32.

    Source: ViTPose §3.1; `topdown_heatmap_simple_head.py` with `upsample=4`.
    """

    num_keypoints: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool, own: jax.Array | None = None) -> jax.Array:
        """Args: features [B, rows, cols, D]. Returns: heatmaps float32 [B, 4 rows, 4 cols, K]."""
        del train, own  # nothing here differs between training and inference, or depends on other crops
        kernel, bias = _KernelAndBias((3, 3, features.shape[-1], self.num_keypoints), _small_init, name="final")()
        return upsample_and_convolve(nn.relu(features).astype(self.dtype), kernel) + bias


DECODERS = {"classic": ClassicDecoder, "simple": SimpleDecoder}


class Deconv(nn.Module):
    """Transposed convolution, see `deconv`; its kernel is [4, 4, C, filters], indexed like the original's."""

    filters: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x [B, h, w, C]. Returns: [B, 2h, 2w, filters] in `dtype`."""
        kernel = self.param("kernel", _small_init, (4, 4, x.shape[-1], self.filters), jnp.float32)
        return deconv(x.astype(self.dtype), kernel)


class _KernelAndBias(nn.Module):
    """Parameters of a layer whose arithmetic its owner does."""

    shape: tuple[int, ...]
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", self.kernel_init, self.shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.shape[-1],), jnp.float32)
        return kernel, bias


def product(x: jax.Array, weights: jax.Array) -> jax.Array:
    """The `Multiply` of one decoder for all crops, in the dtype of `x`."""
    return matmul(x, weights.astype(x.dtype))


def deconv(x: jax.Array, kernel: jax.Array, multiply: Multiply = product) -> jax.Array:
    """Transposed convolution, kernel 4x4, stride 2, padding 1, no bias.

    Output cell 2i+p, along one side, sees only two inputs: cells i-1 and i with taps 3 and 1 where p = 0, cells i and
    i+1 with taps 2 and 0 where p = 1. So each of the four output phases is one product of four shifted maps with a
    quarter of the kernel.

    Args:
        x: [B, h, w, C].
        kernel: float32 [(G,) 4, 4, C, F].
        multiply: which weights a crop takes.

    Returns:
        [B, 2h, 2w, F] in the dtype of `x`.
    """
    batch, h, w, _ = x.shape
    phases = [
        multiply(moved(_seen_by(p, q), x), moved(_quarter(p, q), kernel)) for p in (0, 1) for q in (0, 1)
    ]  # each [B, h w, F]
    y = jnp.stack(phases, axis=2).reshape(batch, h, w, 2, 2, -1)
    return y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * h, 2 * w, -1)


def _seen_by(p: int, q: int) -> Callable[[jax.Array], jax.Array]:
    """What output phase p along rows and q along columns sees, right and below first: [B, h, w, C] to [B, h w, 4 C]."""

    def seen(x: jax.Array) -> jax.Array:
        batch, h, w, _ = x.shape
        x = jnp.pad(x, ((0, 0), (1 - p, p), (1 - q, q), (0, 0)))
        shifted = [x[:, dy : dy + h, dx : dx + w] for dy in (1, 0) for dx in (1, 0)]
        return jnp.concatenate(shifted, axis=-1).reshape(batch, h * w, -1)

    return seen


def _quarter(p: int, q: int) -> Callable[[jax.Array], jax.Array]:
    """The taps that phase (p, q) multiplies what it sees with: [(G,) 4, 4, C, F] to [(G,) 4 C, F]."""

    def quarter(kernel: jax.Array) -> jax.Array:
        *groups, _, _, channels, filters = kernel.shape
        taps = kernel.reshape(*groups, 2, 2, 2, 2, channels, filters)  # tap 2a + b of a side at [a, b]
        return taps[..., :, 1 - p, :, 1 - q, :, :].reshape(*groups, 4 * channels, filters)

    return quarter


def pointwise(x: jax.Array, kernel: jax.Array, multiply: Multiply = product) -> jax.Array:
    """1x1 convolution without bias: [B, h, w, C] with a kernel float32 [(G,) 1, 1, C, K] to float32 [B, h, w, K]."""
    batch, h, w, channels = x.shape
    rows = multiply(x.reshape(batch, h * w, channels), kernel[..., 0, 0, :, :])
    return rows.reshape(batch, h, w, -1).astype(jnp.float32)


def upsample_and_convolve(x: jax.Array, kernel: jax.Array, multiply: Multiply = product) -> jax.Array:
    """Bilinear upsampling by four, then a 3x3 convolution without bias that sees zeros outside.

    Both are linear, so the maps are first projected to the nine taps of the K output channels at low resolution, and
    these few maps are upsampled and shifted: one matrix product per side.

    Args:
        x: [B, h, w, C].
        kernel: float32 [(G,) 3, 3, C, K].
        multiply: which weights a crop takes.

    Returns:
        float32 [B, 4 h, 4 w, K].
    """
    batch, h, w, channels = x.shape
    taps = jnp.moveaxis(kernel, -2, -4)  # [(G,) C, 3, 3, K]
    taps = taps.reshape(*taps.shape[:-3], -1)
    x = multiply(x.reshape(batch, h * w, channels), taps)
    x = x.astype(jnp.float32).reshape(batch, h, w, 3, 3, -1)
    # y, x: taps of the kernel; h, w: cells; H, W: fine cells.
    highest = jax.lax.Precision.HIGHEST
    x = jnp.einsum("bhwyxk,xWw->bhyWk", x, _upsample_and_shift(w), precision=highest)
    return jnp.einsum("bhyWk,yHh->bHWk", x, _upsample_and_shift(h), precision=highest)


def _upsample_and_shift(cells: int) -> np.ndarray:
    """[3, 4 cells, cells]: for each tap of a 3-tap kernel, bilinear upsampling by four and the shift to that tap.

    Upsampling has half-pixel centres and clamps at the edge; the kernel sees zeros outside the upsampled map.
    """
    fine = cells * UPSCALE
    source = (np.arange(fine) + 0.5) / UPSCALE - 0.5
    lower = np.floor(source)
    upsample = np.zeros((fine, cells))
    rows = np.arange(fine)
    np.add.at(upsample, (rows, np.clip(lower, 0, cells - 1).astype(int)), 1 - (source - lower))
    np.add.at(upsample, (rows, np.clip(lower + 1, 0, cells - 1).astype(int)), source - lower)
    padded = np.pad(upsample, ((1, 1), (0, 0)))
    return np.stack([padded[tap : tap + fine] for tap in range(3)]).astype(np.float32)
