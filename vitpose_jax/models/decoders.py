"""The two decoders of ViTPose: features [B, rows, cols, D] to heatmaps four times as fine.

Both are written as matrix products over shifted maps. That is the same arithmetic as the original's convolutions with
fewer operations, and its gradients are matrix products too, which every backend runs well.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

UPSCALE = 4  # heatmap cells per feature cell, along each side
DECONV_FILTERS = 256
BATCH_NORM_EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.9

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
    def __call__(self, features: jax.Array, *, train: bool) -> jax.Array:
        """Args: features [B, rows, cols, D]. Returns: heatmaps float32 [B, 4 rows, 4 cols, K]."""
        x = features
        for i in range(2):
            x = Deconv(self.filters, self.dtype, name=f"deconv{i}")(x)
            x = BatchNorm(name=f"bn{i}")(x, train=train)
            x = nn.relu(x).astype(self.dtype)
        kernel, bias = _KernelAndBias((1, 1, self.filters, self.num_keypoints), _small_init, name="final")()
        return (x @ kernel[0, 0].astype(self.dtype)).astype(jnp.float32) + bias


class SimpleDecoder(nn.Module):
    """ReLU, bilinear upsampling by four, one 3x3 convolution.

    Upsampling and convolution are both linear, so the features are first projected to the nine taps of the K output
    channels at low resolution, and these few maps are upsampled and shifted: one matrix product per side.

    Attributes:
        num_keypoints: K.
        dtype: of the projection; upsampling and the result are float32.

    Source: ViTPose §3.1; `topdown_heatmap_simple_head.py` with `upsample=4`.
    """

    num_keypoints: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool) -> jax.Array:
        """Args: features [B, rows, cols, D]. Returns: heatmaps float32 [B, 4 rows, 4 cols, K]."""
        del train  # nothing here differs between training and inference
        batch, rows, cols, embed_dim = features.shape
        kernel, bias = _KernelAndBias((3, 3, embed_dim, self.num_keypoints), _small_init, name="final")()
        taps = kernel.transpose(2, 0, 1, 3).reshape(embed_dim, 9 * self.num_keypoints)
        x = nn.relu(features) @ taps.astype(self.dtype)
        x = x.astype(jnp.float32).reshape(batch, rows, cols, 3, 3, self.num_keypoints)
        # y, x: taps of the kernel; h, w: feature cells; H, W: heatmap cells.
        highest = jax.lax.Precision.HIGHEST
        x = jnp.einsum("bhwyxk,xWw->bhyWk", x, _upsample_and_shift(cols), precision=highest)
        x = jnp.einsum("bhyWk,yHh->bHWk", x, _upsample_and_shift(rows), precision=highest)
        return x + bias


DECODERS = {"classic": ClassicDecoder, "simple": SimpleDecoder}


class Deconv(nn.Module):
    """Transposed convolution, kernel 4x4, stride 2, padding 1, no bias: [B, h, w, C] to [B, 2h, 2w, filters].

    Output cell 2i+p, along one side, sees only two inputs: cells i-1 and i with taps 3 and 1 where p = 0, cells i and
    i+1 with taps 2 and 0 where p = 1. So each of the four output phases is one product of four shifted maps with a
    quarter of the kernel. The kernel is [4, 4, C, filters], indexed like the original's.
    """

    filters: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x [B, h, w, C]. Returns: [B, 2h, 2w, filters] in `dtype`."""
        batch, h, w, channels = x.shape
        kernel = self.param("kernel", _small_init, (4, 4, channels, self.filters), jnp.float32)
        kernel = kernel.astype(self.dtype)
        x = jnp.pad(x.astype(self.dtype), ((0, 0), (1, 1), (1, 1), (0, 0)))
        # (offset into the padded map, tap of the kernel) of the two inputs that each phase sees.
        inputs = {0: ((0, 3), (1, 1)), 1: ((1, 2), (2, 0))}
        phases = []
        for row_phase in (0, 1):
            for col_phase in (0, 1):
                seen = [(dy, ky, dx, kx) for dy, ky in inputs[row_phase] for dx, kx in inputs[col_phase]]
                maps = jnp.concatenate([x[:, dy : dy + h, dx : dx + w] for dy, _, dx, _ in seen], axis=-1)
                weights = jnp.concatenate([kernel[ky, kx] for _, ky, _, kx in seen], axis=0)
                phases.append(maps @ weights)
        y = jnp.stack(phases, axis=3).reshape(batch, h, w, 2, 2, self.filters)
        return y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * h, 2 * w, self.filters)


class BatchNorm(nn.Module):
    """Batch normalisation in float32, with torch's running statistics (the variance kept is the unbiased one).

    Statistics are those of the whole batch that the jitted step sees: of the global batch under data parallelism.
    """

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Args: x [B, h, w, C]. Returns: float32 of the same shape. Training updates collection `batch_stats`."""
        channels = x.shape[-1]
        x = x.astype(jnp.float32)
        scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if train:
            mean = x.mean(axis=(0, 1, 2))
            var = jnp.square(x - mean).mean(axis=(0, 1, 2))
            if not self.is_initializing():
                count = x.size // channels
                unbiased = var * (count / max(count - 1, 1))
                keep = BATCH_NORM_MOMENTUM
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * jax.lax.rsqrt(var + BATCH_NORM_EPSILON)
        return (x - mean) * factor + bias


class _KernelAndBias(nn.Module):
    """Parameters of a layer whose arithmetic its owner does."""

    shape: tuple[int, ...]
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        kernel = self.param("kernel", self.kernel_init, self.shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.shape[-1],), jnp.float32)
        return kernel, bias


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
