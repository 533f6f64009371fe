"""Masked autoencoder: the encoder of ViTPose sees a quarter of the patches, a light decoder paints the rest.

The encoder's parameters stand under the paths that ViTPose has them under (`backbone/…`), so that fine-tuning starts
from a pre-training run by `init_from`. What a ViTPose has no place for is left behind: the class token and
`mae_decoder/…`.

Source: arXiv 2111.06377; `models_mae.py` of facebookresearch/mae, which takes square images only.
"""

import functools
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitpose_jax.models import pos_embed, vit
from vitpose_jax.models.products import dot_general
from vitpose_jax.models.settings import DTYPES, check_choices, encoder_fields
from vitpose_jax.models.vitpose import normalize
from vitpose_jax.types import Size

PATCH_VALUES = vit.PATCH_SIZE * vit.PATCH_SIZE * 3  # of a patch's pixels
_TARGET_EPS = 1e-6

_linear_init = nn.initializers.xavier_uniform()
_token_init = nn.initializers.normal(stddev=0.02)


class Masking(NamedTuple):
    """Which patches an encoder sees.

    Attributes:
        kept: int32 [B, kept], patches that are seen, in ascending order of their noise.
        restore: int32 [B, L], place of each patch among all in that order.
        mask: float32 [B, L], 1 where a patch is removed.
    """

    kept: jax.Array
    restore: jax.Array
    mask: jax.Array


def num_kept(num_patches: int, mask_ratio: float) -> int:
    """How many of an image's patches the encoder sees."""
    return int(num_patches * (1 - mask_ratio))


def masking(noise: jax.Array, mask_ratio: float) -> Masking:
    """Removes the patches with the largest noise, image by image.

    Args:
        noise: float32 [B, L], uniform.
        mask_ratio: fraction of the patches to remove.

    Source: `models_mae.py::random_masking`.
    """
    order = jnp.argsort(noise, axis=1)
    restore = jnp.argsort(order, axis=1)
    keep = num_kept(noise.shape[1], mask_ratio)
    return Masking(order[:, :keep], restore, (restore >= keep).astype(jnp.float32))


def patches(images: jax.Array) -> jax.Array:
    """[B, H, W, 3] to [B, L, 768]: 16x16 patches in raster order, a patch's values by row, column, channel."""
    batch, height, width, channels = images.shape
    rows, cols, p = height // vit.PATCH_SIZE, width // vit.PATCH_SIZE, vit.PATCH_SIZE
    blocks = images.reshape(batch, rows, p, cols, p, channels).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(batch, rows * cols, p * p * channels)


def image_of(values: jax.Array, image_size: Size) -> jax.Array:
    """The inverse of `patches`: [B, L, 768] to [B, H, W, 3]."""
    (height, width), p = image_size, vit.PATCH_SIZE
    blocks = values.reshape(-1, height // p, width // p, p, p, 3).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(-1, height, width, 3)


def standardize(values: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Every patch less its mean, over its deviation.

    Args:
        values: float32 [B, L, values].

    Returns:
        (float32 [B, L, values], mean [B, L, 1], deviation [B, L, 1]): over all values of a patch, channels together;
        the variance is unbiased and 1e-6 is added to it under the root.
    """
    mean = values.mean(axis=-1, keepdims=True)
    centred = values - mean
    rest = centred.mean(axis=-1, keepdims=True)  # what rounding left: it shows where a patch hardly varies
    centred = centred - rest
    variance = jnp.square(centred).sum(axis=-1, keepdims=True) / (values.shape[-1] - 1)
    deviation = jnp.sqrt(variance + _TARGET_EPS)
    return centred / deviation, mean + rest, deviation


class MAE(nn.Module):
    """Images to their reconstruction. Made by `mae`, which checks the settings.

    Parameters live under `backbone/…` and `mae_decoder/…`. Both position embeddings are fixed: parameters without a
    gradient, so that checkpoints and files of others hold them.

    Attributes:
        backbone: embed_dim, depth, num_heads, mlp_dim, image_size, layer_norm_eps, remat, scan_unroll.
        decoder: embed_dim, depth, num_heads.
        mask_ratio: fraction of patches that are removed.
        norm_pix_loss: targets are the pixels of a patch less their mean, over their deviation.
        dtype: of the computation; parameters, norms, softmax and predictions are float32.
    """

    backbone: Mapping
    decoder: Mapping
    mask_ratio: float
    norm_pix_loss: bool
    dtype: jnp.dtype

    experts = ()  # like those of a ViTPose
    num_keypoints: ClassVar[Mapping[str, int]] = MappingProxyType({})  # likewise: it has no decoder of poses

    @property
    def image_size(self) -> Size:
        """(H, W) of the images this model takes, in pixels."""
        return self.backbone["image_size"]

    @property
    def patch_grid(self) -> Size:
        """(rows, cols) of patches."""
        return vit.patch_grid(self.image_size, padding=0)

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool, noise: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Encodes the patches that masking leaves, and predicts all of them.

        Args:
            images: uint8 [B, H, W, 3], RGB, which are normalised here; or float, taken as already normalised.
            train: changes nothing: there is neither dropout nor stochastic depth.
            noise: float32 [B, L] that decides what is masked; None draws it from the rng stream "mask".

        Returns:
            (float32 [B, L, 768] predicted targets of all patches in raster order, float32 [B, L] mask: 1 is removed).

        Raises:
            ValueError: if the images are not of `image_size`.
        """
        if images.shape[1:] != (*self.image_size, 3):
            raise ValueError(
                f"images have shape {images.shape}, this model takes [B, {self.image_size[0]}, {self.image_size[1]}, 3]"
            )
        if images.dtype == jnp.uint8:
            images = normalize(images)
        if noise is None:
            rows, cols = self.patch_grid
            noise = jax.random.uniform(self.make_rng("mask"), (images.shape[0], rows * cols))
        chosen = masking(noise, self.mask_ratio)
        latent = Encoder(**self.backbone, dtype=self.dtype, name="backbone")(images, chosen.kept, train=train)
        predicted = Decoder(
            **self.decoder, grid=self.patch_grid, layer_norm_eps=self.backbone["layer_norm_eps"],
            remat=self.backbone["remat"], scan_unroll=self.backbone["scan_unroll"], dtype=self.dtype,
            name="mae_decoder",
        )(latent, chosen.restore, train=train)  # fmt: skip
        return predicted, chosen.mask

    def target(self, images: jax.Array) -> jax.Array:
        """What is to be predicted of images [B, H, W, 3], given as to `__call__`: float32 [B, L, 768]."""
        values = patches(normalize(images) if images.dtype == jnp.uint8 else images)
        return standardize(values)[0] if self.norm_pix_loss else values


class Encoder(nn.Module):
    """The encoder of ViTPose with a class token, on some of the patches; unlike ViTPose's, patches have no margin."""

    embed_dim: int
    depth: int
    num_heads: int
    mlp_dim: int
    image_size: Size
    layer_norm_eps: float
    remat: str
    scan_unroll: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: jax.Array, kept: jax.Array, *, train: bool) -> jax.Array:
        """Args: images [B, H, W, 3], kept int32 [B, l]. Returns: [B, 1 + l, D], the class token first."""
        bound = (6 / (PATCH_VALUES + self.embed_dim)) ** 0.5  # Xavier, as if it were a linear layer
        x = vit.PatchEmbed(
            self.embed_dim, 1, self.dtype, padding=0, kernel_init=vit.uniform(bound), name="patch_embed"
        )(images)  # fmt: skip
        batch, rows, cols, width = x.shape
        positions = _fixed_positions(self, (rows, cols), width)
        x = x.reshape(batch, rows * cols, width) + positions[:, 1:].astype(self.dtype)
        x = jnp.take_along_axis(x, kept[..., None], axis=1)  # [B, l, D]
        token = self.param("cls_token", _token_init, (1, 1, width), jnp.float32) + positions[:, :1]
        x = jnp.concatenate([jnp.broadcast_to(token.astype(self.dtype), (batch, 1, width)), x], axis=1)
        x = _blocks(self, x, self.mlp_dim, train=train)
        return vit.norm("last_norm", self.layer_norm_eps)(x).astype(self.dtype)


class Decoder(nn.Module):
    """A narrow transformer that sees the encoded patches and a mask token in each removed one's place."""

    embed_dim: int
    depth: int
    num_heads: int
    grid: Size
    layer_norm_eps: float
    remat: str
    scan_unroll: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, latent: jax.Array, restore: jax.Array, *, train: bool) -> jax.Array:
        """Args: latent [B, 1 + l, D], restore int32 [B, L]. Returns: float32 [B, L, 768]."""
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=_linear_init, dot_general=dot_general)
        x = dense(self.embed_dim, name="embed")(latent)
        batch, seen, width = x.shape
        token = self.param("mask_token", _token_init, (1, 1, width), jnp.float32).astype(self.dtype)
        removed = jnp.broadcast_to(token, (batch, restore.shape[1] - (seen - 1), width))
        shuffled = jnp.concatenate([x[:, 1:], removed], axis=1)
        x = jnp.concatenate([x[:, :1], jnp.take_along_axis(shuffled, restore[..., None], axis=1)], axis=1)
        x = x + _fixed_positions(self, self.grid, width).astype(self.dtype)
        x = _blocks(self, x, 4 * width, train=train)
        x = vit.norm("norm", self.layer_norm_eps)(x).astype(self.dtype)
        x = dense(PATCH_VALUES, name="pred")(x)
        return x[:, 1:].astype(jnp.float32)


def _fixed_positions(module: nn.Module, grid: Size, width: int) -> jax.Array:
    """float32 [1, 1 + L, width]: a parameter that is never trained."""

    def init(key: jax.Array) -> jax.Array:
        del key
        return jnp.asarray(pos_embed.sincos(grid, width))

    return jax.lax.stop_gradient(module.param("pos_embed", init))


def _blocks(module: "Encoder | Decoder", x: jax.Array, mlp_dim: int, *, train: bool) -> jax.Array:
    """The transformer blocks of the encoder or the decoder, as parameters `blocks/…`."""
    block = vit.stacked_blocks(module.depth, remat=module.remat, scan_unroll=module.scan_unroll)
    blocks = block(
        module.num_heads, mlp_dim, 0, 0, module.layer_norm_eps, module.dtype, train, False,
        kernel_init=_linear_init, name="blocks",
    )  # fmt: skip
    return blocks(x, jnp.zeros(module.depth), None)[0]


def mae(
    *,
    size: str | None = None,
    embed_dim: int | None = None,
    depth: int | None = None,
    num_heads: int | None = None,
    mlp_dim: int | None = None,
    image_size: Sequence[int] = (224, 224),
    decoder_embed_dim: int = 512,
    decoder_depth: int = 8,
    decoder_num_heads: int = 16,
    mask_ratio: float = 0.75,
    norm_pix_loss: bool = True,
    layer_norm_eps: float = vit.LAYER_NORM_EPS,
    remat: str = "none",
    scan_unroll: int = 1,
    dtype: str = "float32",
) -> MAE:
    """Makes a masked autoencoder from plain settings; a config's `model` section and a model file are these.

    Args:
        size: of the encoder, see `vitpose`.
        embed_dim: D, see `vitpose`.
        depth: see `vitpose`.
        num_heads: N, see `vitpose`.
        mlp_dim: F, see `vitpose`.
        image_size: (H, W) in pixels, multiples of 16.
        decoder_embed_dim: width of the decoder; its MLPs are four times as wide.
        decoder_depth: blocks of the decoder.
        decoder_num_heads: heads of the decoder.
        mask_ratio: fraction of patches that are removed.
        norm_pix_loss: predict the pixels of a patch less their mean, over their deviation.
        layer_norm_eps: of all norms.
        remat: see `vitpose`.
        scan_unroll: see `vitpose`.
        dtype: see `vitpose`.

    Raises:
        ValueError: for a value outside these, a missing field, or heads that do not divide the width.
    """
    fields = encoder_fields(size, embed_dim, depth, num_heads, mlp_dim)
    check_choices(remat=remat, dtype=dtype)
    if not 0.0 < layer_norm_eps < 1.0:
        raise ValueError(f"layer_norm_eps must be in (0, 1), not {layer_norm_eps}")
    decoder = {"embed_dim": decoder_embed_dim, "depth": decoder_depth, "num_heads": decoder_num_heads}
    if min(decoder.values()) < 1 or decoder_embed_dim % decoder_num_heads:
        raise ValueError(f"the decoder needs positive settings and heads that divide its width, not {decoder}")
    for name, width in (("embed_dim", fields["embed_dim"]), ("decoder_embed_dim", decoder_embed_dim)):
        if width % 4:
            raise ValueError(f"{name} must be a multiple of 4 for the sine-cosine position embedding, not {width}")
    if len(image_size) != 2 or any(side < vit.PATCH_SIZE or side % vit.PATCH_SIZE for side in image_size):
        raise ValueError(f"image_size (height, width) must be multiples of {vit.PATCH_SIZE} pixels, not {image_size!r}")
    height, width = image_size
    count = (height // vit.PATCH_SIZE) * (width // vit.PATCH_SIZE)
    if not 0 < num_kept(count, mask_ratio) < count:
        raise ValueError(
            f"mask_ratio {mask_ratio} keeps {num_kept(count, mask_ratio)} of {count} patches; some must be seen and "
            "some removed"
        )
    return MAE(
        backbone={
            **fields, "image_size": (height, width), "layer_norm_eps": layer_norm_eps, "remat": remat,
            "scan_unroll": scan_unroll,
        },
        decoder=decoder,
        mask_ratio=mask_ratio,
        norm_pix_loss=norm_pix_loss,
        dtype=DTYPES[dtype],
    )  # fmt: skip
