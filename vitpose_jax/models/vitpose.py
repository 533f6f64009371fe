"""ViTPose: one encoder, one decoder per data set."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vitpose_jax.models import decoders, grouped, vit, windows
from vitpose_jax.models.placement import in_turn
from vitpose_jax.models.settings import DTYPES, check_choices, check_experts, check_token, encoder_fields
from vitpose_jax.types import Size

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


class ViTPose(nn.Module):
    """Crops to heatmaps. Made by `vitpose`, which checks the settings.

    Parameters live under `backbone/…` and `decoders/<data set>/…`.

    Attributes:
        backbone: the encoder's fields, keyword arguments of `vit.ViT`.
        decoder: "classic" or "simple".
        num_keypoints: data-set name to K; one decoder each.
        experts: data-set names in the order of the encoder's experts (ViTPose++); empty for the plain encoder.
        deconv_filters: channels of the classic decoder.
        dtype: of the computation; parameters and heatmaps are float32.
    """

    backbone: Mapping
    decoder: str
    num_keypoints: Mapping[str, int]
    experts: tuple[str, ...]
    deconv_filters: int
    dtype: jnp.dtype

    @property
    def image_size(self) -> Size:
        """(H, W) of the crops this model takes, in pixels."""
        return self.backbone["image_size"]

    @property
    def patch_grid(self) -> Size:
        """(rows, cols) of patches."""
        return vit.patch_grid(self.image_size, self.backbone["ratio"])

    @property
    def heatmap_size(self) -> Size:
        """(h, w) of the heatmaps it returns, in cells."""
        rows, cols = self.patch_grid
        return rows * decoders.UPSCALE, cols * decoders.UPSCALE

    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool,
        datasets: Sequence[str] | None = None,
        expert: jax.Array | None = None,
        dataset: jax.Array | None = None,
    ) -> dict[str, jax.Array]:
        """Runs the encoder and the decoders of the named data sets on its features.

        Args:
            images: uint8 [B, H, W, 3], RGB crops, which are normalised here; or float of the same shape, taken as
                already normalised.
            train: batch statistics in batch norm (collection `batch_stats` must be mutable) and stochastic depth (rng
                stream "drop_path").
            datasets: decoders to run; all when None.
            expert: int32 [B], index into `experts` of the data set that each crop belongs to; every decoder sees the
                same features. None with experts: each decoder sees the features of its own expert, and the encoder
                runs once for each. Without experts always None.
            dataset: int32 [B], index into `datasets` of the data set that each crop belongs to: in training, a
                decoder's batch statistics are then those of its own crops. None: those of all crops.

        Returns:
            Data-set name to heatmaps, float32 [B, h, w, K]. Raw values: no sigmoid, no softmax.

        Raises:
            ValueError: for a data set without decoder or images of another size.
        """
        names = self._known(datasets)
        own = None if dataset is None else {name: dataset == i for i, name in enumerate(names)}

        def decode(all_decoders: _Decoders, features: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
            return all_decoders(features, train=train, own=own)

        return self._run(images, train, names, expert, decode)

    def own_heatmaps(self, images: jax.Array, *, datasets: Sequence[str], dataset: jax.Array) -> jax.Array:
        """Runs the encoder and, on each crop, its own data set's expert and decoder only; for training.

        Costs about what training on a single data set costs. Equal to the other form with `expert` and `dataset`,
        looked at where each decoder's own crops are: batch statistics are those of a data set's own crops.

        Args:
            images: as above.
            datasets: data-set names.
            dataset: int32 [B], index into `datasets` of the data set that each crop belongs to.

        Returns:
            float32 [B, h, w, largest K], raw values; 0 in the channels beyond a data set's own K.

        Raises:
            ValueError: for a data set without decoder or images of another size.
        """
        names = self._known(datasets)
        expert = self.expert_of(names, dataset)

        def decode(all_decoders: _Decoders, features: Mapping[str, jax.Array]) -> jax.Array:
            return all_decoders.own(features[names[0]], dataset)

        return self._run(images, True, names, expert, decode)

    def expert_of(self, datasets: Sequence[str], dataset: jax.Array) -> jax.Array | None:
        """int32 [B], index into `experts`, of crops whose `dataset` [B] is an index into `datasets`; None without."""
        if not self.experts:
            return None
        return jnp.array([self.experts.index(name) for name in datasets], jnp.int32)[dataset]

    def _known(self, datasets: Sequence[str] | None) -> tuple[str, ...]:
        unknown = sorted(set(datasets or ()) - set(self.num_keypoints))
        if unknown:
            raise ValueError(f"no decoder for {unknown}; this model has {sorted(self.num_keypoints)}")
        return tuple(datasets or self.num_keypoints)

    @nn.compact
    def _run(
        self,
        images: jax.Array,
        train: bool,
        names: tuple[str, ...],
        expert: jax.Array | None,
        decode: "Callable[[_Decoders, Mapping[str, jax.Array]], Any]",
    ) -> Any:
        """`decode` of the decoders of `names` and each one's features."""
        if images.dtype == jnp.uint8:
            images = normalize(images)
        encoder = vit.ViT(**self.backbone, dtype=self.dtype, name="backbone")
        if not self.experts or expert is not None or not names:
            shared = encoder(images, train=train, expert=expert if names or not self.experts else jnp.int32(0))
            features = dict.fromkeys(names, shared)
        else:
            features = {
                name: encoder(images, train=train, expert=jnp.int32(self.experts.index(name))) for name in names
            }
        all_decoders = _Decoders(
            self.decoder, {name: self.num_keypoints[name] for name in names}, self.deconv_filters, self.dtype,
            name="decoders",
        )  # fmt: skip
        return decode(all_decoders, features)


class _Decoders(nn.Module):
    """The decoders of several data sets, each on its features."""

    decoder: str
    num_keypoints: Mapping[str, int]
    deconv_filters: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, features: Mapping[str, jax.Array], *, train: bool, own: Mapping[str, jax.Array] | None = None
    ) -> dict[str, jax.Array]:
        """Every decoder on all crops; `own` [B] see `BatchNorm`."""
        options = {"filters": self.deconv_filters} if self.decoder == "classic" else {}
        make = decoders.DECODERS[self.decoder]
        heatmaps = {}
        for name, k in self.num_keypoints.items():
            decoder = make(num_keypoints=k, dtype=self.dtype, name=name, **options)
            if in_turn() and not train and len(features[name]) > 1:
                heatmaps[name] = _crop_by_crop(decoder, features[name])
            else:
                heatmaps[name] = decoder(features[name], train=train, own=own[name] if own else None)
        return heatmaps

    def own(self, features: jax.Array, dataset: jax.Array) -> jax.Array:
        """Every crop through its own decoder, see `grouped.own_heatmaps`. The parameters must be there already."""
        names = tuple(self.num_keypoints)
        params, stats = (self.variables.get(part, {}) for part in ("params", "batch_stats"))
        heatmaps, new_stats = grouped.own_heatmaps(
            self.decoder, {name: params[name] for name in names},
            {name: stats[name] for name in names if name in stats}, features, dataset,
        )  # fmt: skip
        for name, updated in new_stats.items():
            self.put_variable("batch_stats", name, updated)
        return heatmaps


def _crop_by_crop(decoder: nn.Module, features: jax.Array) -> jax.Array:
    """Heatmaps of one crop after another: what a decoder makes on the way is large; one crop's stays in the cache.

    Several crops' would also be memory that the system has to find anew for every batch.
    """

    def decode(decoder: nn.Module, carry: None, crop: jax.Array) -> tuple[None, jax.Array]:
        return carry, decoder(crop[None], train=False)[0]

    scan = nn.scan(decode, variable_broadcast=("params", "batch_stats"), split_rngs={"params": False})
    return scan(decoder, None, features)[1]


def vitpose(
    *,
    num_keypoints: Mapping[str, int],
    experts: Sequence[str] = (),
    part_features: int | None = None,
    size: str | None = None,
    embed_dim: int | None = None,
    depth: int | None = None,
    num_heads: int | None = None,
    mlp_dim: int | None = None,
    image_size: Sequence[int] = (256, 192),
    ratio: int = 1,
    decoder: str = "classic",
    deconv_filters: int = decoders.DECONV_FILTERS,
    attention: str = "full",
    window_size: Sequence[int] | None = None,
    full_every: int = 0,
    relative_positions: str | None = None,
    token_dim: int | None = None,
    token_position: bool = False,
    layer_norm_eps: float = vit.LAYER_NORM_EPS,
    drop_path: float = 0.0,
    remat: str = "none",
    scan_unroll: int = 1,
    dtype: str = "float32",
) -> ViTPose:
    """Makes a ViTPose from plain settings; a config's `model` section and a checkpoint's model file are these.

    Args:
        num_keypoints: data-set name to its number of keypoints; one decoder each. Empty for an encoder alone, such as a
            pre-trained one.
        experts: names of the data sets that have an expert in each block's MLP, in their order (ViTPose++); every data
            set with a decoder must be among them. Empty for the plain encoder.
        part_features: p, outputs of an expert; None without experts.
        size: "s", "b", "l", "h" or "g"; None takes the next four from the caller.
        embed_dim: D. With a `size`, these four override that size's value where given.
        depth: number of encoder blocks.
        num_heads: N.
        mlp_dim: F.
        image_size: (H, W) of a crop in pixels.
        ratio: 1, 2 or 4: features of 1/16, 1/8 or 1/4 of the crop.
        decoder: "classic" or "simple".
        deconv_filters: channels of the classic decoder's transposed convolutions.
        attention: "full"; or within windows: "window", "shift", "pool", "shift_pool", see `windows.py`.
        window_size: (rows, cols) of a window in tokens; None with full attention.
        full_every: with windows, n: the last of every n blocks attends to all tokens; 0: none does.
        relative_positions: "full", "decomposed", or None.
        token_dim: width of the knowledge token, that of the encoder it was learned with; None: there is none.
        token_position: whether the token gets the position embedding's first row.
        layer_norm_eps: of the encoder's norms; other than the default for weights of implementations that differ.
        drop_path: stochastic-depth rate of the last block.
        remat: what the backward pass keeps of a block: "none" (all), "dots", "full" (its input only).
        scan_unroll: blocks per iteration of the scan over layers.
        dtype: "float32" or "bfloat16", of the computation.

    Raises:
        ValueError: for a value outside these, a missing field, or heads that do not divide the width.
    """
    fields = encoder_fields(size, embed_dim, depth, num_heads, mlp_dim)
    check_choices(decoder=decoder, remat=remat, dtype=dtype)
    if not 0.0 < layer_norm_eps < 1.0:
        raise ValueError(f"layer_norm_eps must be in (0, 1), not {layer_norm_eps}")
    if not 0.0 <= drop_path < 1.0:
        raise ValueError(f"drop_path must be in [0, 1), not {drop_path}")
    if any(k < 1 for k in num_keypoints.values()):
        raise ValueError(f"every data set of num_keypoints needs at least one keypoint: {dict(num_keypoints)}")
    check_experts(tuple(experts), part_features, num_keypoints, fields["embed_dim"])
    if len(image_size) != 2 or not all(isinstance(side, int) and side > 0 for side in image_size):
        raise ValueError(f"model image_size must be (height, width) in pixels, not {image_size!r}")
    height, width = image_size
    period = windows.pattern(
        vit.patch_grid((height, width), ratio), attention=attention, window_size=window_size, full_every=full_every,
        relative_positions=relative_positions,
    )  # fmt: skip
    check_token(token_dim, token_position, windowed=attention != "full" or relative_positions is not None)
    if fields["depth"] % len(period):
        raise ValueError(
            f"blocks with model attention {attention!r} and full_every {full_every} repeat after {len(period)}, which "
            f"does not divide the depth of {fields['depth']}"
        )
    return ViTPose(
        backbone={
            **fields, "num_experts": len(experts), "part_features": part_features or 0, "image_size": (height, width),
            "ratio": ratio, "attention": attention, "window_size": tuple(window_size) if window_size else None,
            "full_every": full_every, "relative_positions": relative_positions, "token_dim": token_dim or 0,
            "token_position": token_position, "layer_norm_eps": layer_norm_eps, "drop_path": drop_path, "remat": remat,
            "scan_unroll": scan_unroll,
        },
        decoder=decoder,
        num_keypoints=dict(num_keypoints),
        experts=tuple(experts),
        deconv_filters=deconv_filters,
        dtype=DTYPES[dtype],
    )  # fmt: skip


def normalize(images: jax.Array) -> jax.Array:
    """uint8 [..., 3] RGB to float32: divided by 255, minus the mean, over the deviation of ImageNet."""
    scaled = images.astype(jnp.float32) / 255.0
    return (scaled - jnp.asarray(IMAGE_MEAN, jnp.float32)) / jnp.asarray(IMAGE_STD, jnp.float32)
