"""Files of masked-autoencoder pre-training: the whole model, or an encoder that a pose model starts from."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vitpose_jax.models import mae, vit

if TYPE_CHECKING:
    from vitpose_jax.convert.importer import Options

# Heads of the published decoder, by its width: `models_mae.py`, the same for all sizes of the encoder.
_HEADS = {512: 16}


def is_whole(tensors: Mapping[str, np.ndarray]) -> bool:
    """Whether tensors under official names are a masked autoencoder with its decoder, for patches as they are here."""
    kernel, predicted = (tensors.get(f"{name}.weight") for name in ("mae_decoder.embed", "mae_decoder.pred"))
    theirs, ours = (
        {name.removeprefix(block) for name in tensors if name.startswith(block)}
        for block in ("mae_decoder.blocks.0.", "backbone.blocks.0.")
    )
    return kernel is not None and predicted is not None and len(predicted) == mae.PATCH_VALUES and theirs == ours


def without_decoder(tensors: dict[str, np.ndarray]) -> dict[str, str]:
    """Takes out what a pose model has no place for; returns name to reason."""
    reasons = {}
    for name in [name for name in tensors if name.startswith(("backbone.cls_token", "mae_decoder."))]:
        del tensors[name]
        reasons[name] = (
            "ViTPose has no class token"
            if name == "backbone.cls_token"
            else f"the decoder of masked-autoencoder pre-training, not a whole one for {vit.PATCH_SIZE}x"
            f"{vit.PATCH_SIZE} patches"
        )
    return reasons


def settings(
    tensors: Mapping[str, np.ndarray],
    encoder: Mapping[str, int],
    image_size: list[int],
    options: "Options",
    notes: list[str],
) -> dict[str, Any]:
    """Keyword arguments of `mae.mae`.

    Args:
        tensors: under official names.
        encoder: embed_dim, depth, num_heads, mlp_dim.
        image_size: (H, W).
        options: what the user says.
        notes: gets what was assumed.

    Raises:
        ValueError: nothing says how many heads the decoder has, or the user names what there is not.
    """
    if options.datasets or options.keypoints:
        raise ValueError("--datasets, --keypoints: this is a masked autoencoder, it has no keypoints; leave it out")
    width = len(tensors["mae_decoder.embed.weight"])
    num_heads = options.decoder_num_heads or _HEADS.get(width)
    if num_heads is None:
        raise ValueError(
            f"the weights do not say how many heads the decoder has, and the published one is not {width} wide; say it "
            "by --decoder-num-heads"
        )
    if not options.decoder_num_heads:
        notes.append(f"{num_heads} heads in the decoder: the published number (--decoder-num-heads for another)")
    notes.append("mask ratio 0.75, normalised pixels: the published recipe, of which weights say nothing")
    prefix = "mae_decoder.blocks."
    blocks = {int(name.removeprefix(prefix).split(".")[0]) for name in tensors if name.startswith(prefix)}
    return {
        **encoder,
        "image_size": image_size,
        "decoder_embed_dim": width,
        "decoder_depth": max(blocks, default=0) + 1,
        "decoder_num_heads": num_heads,
        "mask_ratio": 0.75,
        "norm_pix_loss": True,
        "layer_norm_eps": vit.LAYER_NORM_EPS,
        "dtype": "float32",
    }
