"""The plain vision transformer that ViTPose uses as its encoder.

Blocks are stacked on a leading `layers` axis and scanned: one block is compiled, whatever the depth. Each tensor of the
original PyTorch model is exactly one slice of one leaf here, so one table converts both ways. Only inference on one CPU
may have the layers apart, see `inference_weights.py`.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitpose_jax.models.gelu import gelu
from vitpose_jax.models.knowledge import KnowledgeToken
from vitpose_jax.models.layers import one_by_one, scan_periods
from vitpose_jax.models.own import own_product, own_vector
from vitpose_jax.models.placement import CROPS, placed
from vitpose_jax.models.products import as_weights, dot_general, matmul, product, promote_dtype
from vitpose_jax.models.windows import RelativePositions, Windows, pattern
from vitpose_jax.types import Size

PATCH_SIZE = 16
LAYER_NORM_EPS = 1e-6

# What a backward pass may keep of a block instead of computing it again, by the name used in configs.
REMAT_POLICIES: dict[str, Callable | None] = {
    "none": None,  # keep everything: fastest, most memory
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # keep matrix products with weights
    "full": jax.checkpoint_policies.nothing_saveable,  # keep only the input of each block
}

# Every weight matrix of the blocks. The original truncates at ±2, which is ±100 standard deviations: a plain normal.
_weight_init = nn.initializers.normal(stddev=0.02)


def patch_padding(ratio: int) -> int:
    """Zero pixels that the original patch embedding adds on each side (`vit.py::PatchEmbed`)."""
    return 4 + 2 * (ratio // 2 - 1)


def patch_grid(image_size: Size, ratio: int = 1, *, padding: int | None = None) -> Size:
    """Number of patches along (height, width).

    Args:
        image_size: (H, W) of the input in pixels.
        ratio: 1, 2 or 4: patches overlap and lie 16 // ratio pixels apart.
        padding: zero pixels on each side; None is `patch_padding`.

    Raises:
        ValueError: if the ratio is not one of these, or the image is smaller than one patch.

    Source: `vit.py::PatchEmbed`, convolution arithmetic with floor division.
    """
    if ratio not in (1, 2, 4):
        raise ValueError(f"ratio must be 1, 2 or 4, not {ratio!r}")
    stride = PATCH_SIZE // ratio
    padding = patch_padding(ratio) if padding is None else padding
    rows, cols = ((side + 2 * padding - PATCH_SIZE) // stride + 1 for side in image_size)
    if rows < 1 or cols < 1:
        raise ValueError(
            f"image size {tuple(image_size)} (height, width) holds no {PATCH_SIZE}x{PATCH_SIZE} patch; make it larger"
        )
    return rows, cols


class PatchEmbed(nn.Module):
    """Patches of 16x16 pixels, `16 // ratio` pixels apart, each projected to one token.

    Equal to a convolution with zero padding (the sampling grid lies 2 pixels up and left of the image at ratio 1, and
    the last rows and columns may be read by no patch), computed as one matrix product.

    Attributes:
        embed_dim: D, width of a token.
        ratio: 1, 2 or 4.
        dtype: of the computation; parameters are float32.
        padding: zero pixels on each side; None is the original ViTPose's `patch_padding`.
        kernel_init: None is the default of torch's convolution, which the original never re-initialises.
    """

    embed_dim: int
    ratio: int
    dtype: jnp.dtype
    padding: int | None = None
    kernel_init: nn.initializers.Initializer | None = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Args: images [B, H, W, 3], normalised. Returns: tokens [B, rows, cols, D]."""
        batch, height, width, channels = images.shape
        padding = patch_padding(self.ratio) if self.padding is None else self.padding
        rows, cols = patch_grid((height, width), self.ratio, padding=padding)
        # The default of torch's convolution: ±1/sqrt(fan in).
        init = uniform((PATCH_SIZE * PATCH_SIZE * channels) ** -0.5)
        kernel = self.param(
            "kernel", self.kernel_init or init, (PATCH_SIZE, PATCH_SIZE, channels, self.embed_dim), jnp.float32
        )
        bias = self.param("bias", init, (self.embed_dim,), jnp.float32)

        # A patch is r x r blocks of s x s pixels; blocks are shared between overlapping patches.
        r, s = self.ratio, PATCH_SIZE // self.ratio
        block_rows, block_cols = rows + r - 1, cols + r - 1
        images = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
        images = images[:, : block_rows * s, : block_cols * s].astype(self.dtype)
        blocks = images.reshape(batch, block_rows, s, block_cols, s, channels)
        blocks = blocks.transpose(0, 1, 3, 2, 4, 5).reshape(batch, block_rows, block_cols, s * s * channels)
        patches = jnp.concatenate(
            [blocks[:, a : a + rows, b : b + cols] for a in range(r) for b in range(r)], axis=-1
        )  # [B, rows, cols, r * r * s * s * 3]
        kernel = kernel.reshape(r, s, r, s, channels, self.embed_dim).transpose(0, 2, 1, 3, 4, 5)
        kernel = kernel.reshape(-1, self.embed_dim).astype(self.dtype)
        return matmul(patches, kernel) + bias.astype(self.dtype)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, or within windows; softmax in float32."""

    num_heads: int
    dtype: jnp.dtype
    windows: Windows | None = None
    kernel_init: nn.initializers.Initializer = _weight_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Args: x [B, L, D]. Returns: [B, L, D]."""
        embed_dim = x.shape[-1]
        head_dim = embed_dim // self.num_heads
        windows = self.windows
        x = windows.split(x) if windows else x  # [B, W, T, D] if there are several windows; else [B, L, D], T is L
        dense = functools.partial(
            nn.DenseGeneral, dtype=self.dtype, kernel_init=self.kernel_init, promote_dtype=promote_dtype,
            dot_general=dot_general,
        )  # fmt: skip
        qkv = dense((3, self.num_heads, head_dim), name="qkv")(x)  # [B, (W,) T, 3, N, d]
        # Heads before tokens: the products below are then plain batched matrix products, four times faster on a CPU.
        q, k, v = jnp.moveaxis(qkv, (-3, -2), (0, -3))  # [B, (W,) N, T, d] each
        if windows and windows.pool:
            k, v = (windows.with_summaries(each) for each in (k, v))  # [B, W, N, T + W, d]
        scores = product("...qd,...kd->...qk", q * head_dim**-0.5, k, jnp.float32)
        if windows and windows.relative_positions:
            scores = windows.add_relative(scores, RelativePositions(windows, name="rel_pos")(q))
        if windows:
            scores = windows.hide(scores)
        # Softmax, divided by its sum only behind the product with v, where there are d numbers a row instead of L.
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))  # [B, (W,) N, T, keys]
        x = product("...qk,...kd->...qd", weights.astype(self.dtype), v, jnp.float32)
        x = (x / weights.sum(axis=-1, keepdims=True)).astype(self.dtype).swapaxes(-3, -2)  # [B, (W,) T, N, d]
        x = dense(embed_dim, axis=(-2, -1), name="proj")(x)
        return windows.merge(x) if windows else x


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between them.

    With experts, the last `part_features` outputs come from the expert of the crop's data set, the others from the
    layer that all data sets share.

    Source: `vit.py::Mlp`, `vit_moe.py::MoEMlp`.
    """

    mlp_dim: int
    num_experts: int
    part_features: int
    dtype: jnp.dtype
    kernel_init: nn.initializers.Initializer = _weight_init

    @nn.compact
    def __call__(self, x: jax.Array, expert: jax.Array | None) -> jax.Array:
        """Args: x [B, L, D]; expert int32 scalar or [B], None without experts. Returns: [B, L, D]."""
        dense = functools.partial(
            nn.Dense, dtype=self.dtype, kernel_init=self.kernel_init, promote_dtype=promote_dtype,
            dot_general=dot_general,
        )  # fmt: skip
        hidden = gelu(dense(self.mlp_dim, name="fc1")(x))  # [B, L, F]
        shared = dense(x.shape[-1] - self.part_features, name="fc2")(hidden)
        if expert is None:
            return shared
        part = Experts(self.num_experts, self.part_features, self.dtype, name="experts")(hidden, expert)
        return jnp.concatenate([shared, part], axis=-1)


class Experts(nn.Module):
    """A linear layer for each data set, of which a crop uses its own."""

    num_experts: int
    features: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: jax.Array, expert: jax.Array) -> jax.Array:
        """Args: x [B, L, F]; expert int32 scalar (one for all crops) or [B]. Returns: [B, L, features]."""
        shape = (self.num_experts, x.shape[-1], self.features)
        kernels = self.param("kernel", _weight_init, shape, jnp.float32)
        biases = self.param("bias", nn.initializers.zeros, (self.num_experts, self.features), jnp.float32)
        kernels, biases = as_weights(kernels), as_weights(biases)
        if expert.ndim == 0:
            return matmul(x, kernels[expert].astype(self.dtype)) + biases[expert].astype(self.dtype)
        return own_product(x, kernels, expert, "tensor") + own_vector(biases, expert)[:, None].astype(self.dtype)


class Block(nn.Module):
    """One pre-norm transformer block with stochastic depth; the body of the scan over layers."""

    num_heads: int
    mlp_dim: int
    num_experts: int
    part_features: int
    layer_norm_eps: float
    dtype: jnp.dtype
    train: bool
    stochastic: bool
    windows: Windows | None = None
    kernel_init: nn.initializers.Initializer = _weight_init

    @nn.compact
    def __call__(self, x: jax.Array, drop_rate: jax.Array, expert: jax.Array | None) -> tuple[jax.Array, None]:
        """Args: x [B, L, D]; drop_rate float32 scalar, this layer's; expert see `Mlp`. Returns: ([B, L, D], None)."""
        attention = Attention(self.num_heads, self.dtype, self.windows, self.kernel_init, name="attn")
        mlp = Mlp(self.mlp_dim, self.num_experts, self.part_features, self.dtype, self.kernel_init, name="mlp")
        x = placed(x, CROPS, None, None)
        x = x + self._drop_path(attention(norm("norm1", self.layer_norm_eps)(x)), drop_rate)
        x = x + self._drop_path(mlp(norm("norm2", self.layer_norm_eps)(x), expert), drop_rate)
        return placed(x, CROPS, None, None), None

    def _drop_path(self, branch: jax.Array, rate: jax.Array) -> jax.Array:
        """Zeroes the branch of a sample with probability `rate` and scales kept ones up (training only)."""
        if not (self.train and self.stochastic):
            return branch
        keep = 1.0 - rate
        kept = jax.random.bernoulli(self.make_rng("drop_path"), keep, (branch.shape[0], 1, 1))
        return branch * jnp.where(kept, 1.0 / keep, 0.0).astype(branch.dtype)


def stacked_blocks(depth: int, *, remat: str, scan_unroll: int) -> Callable[..., nn.Module]:
    """`Block` as a module of `depth` layers, whose parameters and drop rates have a leading `layers` axis.

    Args:
        depth: number of blocks.
        remat: a key of `REMAT_POLICIES`.
        scan_unroll: blocks per iteration of the scan.
    """
    block = Block
    if remat != "none":
        block = nn.remat(Block, policy=REMAT_POLICIES[remat], prevent_cse=False)
    return nn.scan(
        block,
        variable_axes={"params": 0},
        in_axes=(0, nn.broadcast),
        split_rngs={"params": True, "drop_path": True},
        length=depth,
        unroll=scan_unroll,
    )


class ViT(nn.Module):
    """ViTPose's encoder: patch embedding, position embedding, scanned blocks, last norm.

    There is no class token, yet the position embedding keeps the row that MAE pre-training had for one; it is added to
    every token, as in the original (`vit.py::ViT.forward_features`).

    Attributes:
        image_size: (H, W) of the input in pixels; fixes the number of position embeddings.
        embed_dim: D.
        depth: number of blocks.
        num_heads: N; must divide D.
        mlp_dim: F.
        num_experts: E, experts in each block's MLP (ViTPose++); 0 for the plain encoder.
        part_features: p, outputs of an expert: the last p of the MLP's D.
        ratio: 1, 2 or 4; features are 1/16, 1/8 or 1/4 of the input.
        attention: which tokens attend to which, see `windows.pattern`.
        window_size: (rows, cols) of a window in tokens.
        full_every: n: of every n blocks the last attends to all tokens.
        relative_positions: of attention, see `windows.RelativePositions`.
        token_dim: width of the knowledge token, which goes through the blocks beside the patches; 0: there is none.
        token_position: the token gets the position embedding's first row, which MAE has for a class token.
        layer_norm_eps: added to the variance; the original's value unless another implementation's weights want theirs.
        drop_path: stochastic-depth rate of the last block; the first has 0, between them it grows linearly.
        remat: a key of `REMAT_POLICIES`.
        scan_unroll: blocks per iteration of the scan: more compile slower and may run faster.
        dtype: of the computation; parameters, norms and softmax are float32.

    Source: ViTPose §3; `mmpose/models/backbones/vit.py`, `vit_moe.py`.
    """

    image_size: Size
    embed_dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    num_experts: int = 0
    part_features: int = 0
    ratio: int = 1
    attention: str = "full"
    window_size: Size | None = None
    full_every: int = 0
    relative_positions: str | None = None
    token_dim: int = 0
    token_position: bool = False
    layer_norm_eps: float = LAYER_NORM_EPS
    drop_path: float = 0.0
    remat: str = "none"
    scan_unroll: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, expert: jax.Array | None = None) -> jax.Array:
        """Encodes crops.

        Args:
            images: float [B, H, W, 3], normalised.
            train: whether stochastic depth drops branches (needs the rng stream "drop_path").
            expert: int32 scalar or [B], which expert each crop uses, in every block the same; None without experts.

        Returns:
            Features [B, rows, cols, D] in `dtype`.

        Raises:
            ValueError: if the images are not of `image_size`, or an expert is missing or not wanted.
        """
        if (expert is None) != (self.num_experts == 0):
            raise ValueError(f"an encoder of {self.num_experts} experts was given expert {expert}")
        if images.shape[1:] != (*self.image_size, 3):
            raise ValueError(
                f"images have shape {images.shape}, this model takes [B, {self.image_size[0]}, {self.image_size[1]}, 3]"
            )
        x = PatchEmbed(self.embed_dim, self.ratio, self.dtype, name="patch_embed")(images)
        batch, rows, cols, _ = x.shape
        x = x.reshape(batch, rows * cols, self.embed_dim)  # [B, L, D]
        pos_embed = self.param("pos_embed", _weight_init, (1, 1 + rows * cols, self.embed_dim), jnp.float32)
        x = x + (pos_embed[:, 1:] + pos_embed[:, :1]).astype(self.dtype)
        if self.token_dim:
            token = KnowledgeToken(self.embed_dim, self.token_dim, self.dtype, name="knowledge")()
            token = (token + pos_embed[:, :1] if self.token_position else token).astype(self.dtype)
            x = jnp.concatenate([x, jnp.broadcast_to(token, (batch, 1, self.embed_dim))], axis=1)

        period = pattern(
            (rows, cols), attention=self.attention, window_size=self.window_size, full_every=self.full_every,
            relative_positions=self.relative_positions,
        )  # fmt: skip
        settings: dict[str, Any] = {
            "num_heads": self.num_heads, "mlp_dim": self.mlp_dim, "num_experts": self.num_experts,
            "part_features": self.part_features, "layer_norm_eps": self.layer_norm_eps, "dtype": self.dtype,
            "train": train, "stochastic": self.drop_path > 0,
        }  # fmt: skip
        rates = jnp.linspace(0.0, self.drop_path, self.depth)
        if not self.is_initializing() and isinstance(self.variables["params"]["blocks"], tuple):
            x = one_by_one([Block(**settings, windows=windows, parent=None) for windows in period], x,
                           self.variables["params"]["blocks"], expert)  # fmt: skip
        elif len(period) == 1 or self.is_initializing():  # blocks that differ in their windows have the same parameters
            blocks = stacked_blocks(self.depth, remat=self.remat, scan_unroll=self.scan_unroll)
            x, _ = blocks(**settings, windows=period[0], name="blocks")(x, rates, expert)
        else:
            x = scan_periods(
                [Block(**settings, windows=windows, parent=None) for windows in period], x,
                self.variables["params"]["blocks"], rates, expert,
                self.make_rng("drop_path") if train and self.drop_path > 0 else None,
                remat=REMAT_POLICIES[self.remat], unroll=max(1, self.scan_unroll // len(period)),
            )  # fmt: skip
        x = norm("last_norm", self.layer_norm_eps)(x[:, : rows * cols]).astype(self.dtype)
        return x.reshape(batch, rows, cols, self.embed_dim)


def norm(name: str, eps: float) -> nn.LayerNorm:
    """Layer norm, float32 inside whatever the inputs are; the Dense layer behind it casts as the computation wants."""
    return nn.LayerNorm(epsilon=eps, dtype=jnp.float32, name=name)


def uniform(bound: float) -> nn.initializers.Initializer:
    """Initial values between -bound and bound."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
