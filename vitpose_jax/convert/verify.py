"""The same crops through PyTorch and through JAX, with the weights as the source file has them."""

import importlib.util
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from vitpose_jax.convert import hugging_face
from vitpose_jax.convert.export import decoder_order, official_tensors
from vitpose_jax.models.vitpose import IMAGE_MEAN, IMAGE_STD, vitpose
from vitpose_jax.training.checkpoint import ModelFile

# Largest difference of heatmaps that float32 explains, for heatmaps up to 1 high; larger heatmaps may differ more.
TOLERANCE = 2e-5
CROPS = 2


def verify(variables: Mapping, file: ModelFile, *, say: Callable[[str], None] = print) -> bool:
    """Compares heatmaps of random crops, data set by data set, and says how far they are apart.

    PyTorch runs a plain transcription of the original's arithmetic on the official tensors, and Hugging Face's VitPose
    where `transformers` is installed and can be this model.

    Returns:
        Whether all differences are within `TOLERANCE`.

    Raises:
        ValueError: the model has no decoder.
    """
    model = vitpose(**{**file.settings, "dtype": "float32"})
    if not model.num_keypoints:
        raise ValueError("an encoder alone has no heatmaps to compare")
    crops = np.random.default_rng(0).integers(0, 256, (CROPS, *model.image_size, 3), dtype=np.uint8)
    with jax.default_matmul_precision("highest"):
        ours = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, crops)
    mean, deviation = np.array(IMAGE_MEAN, np.float32), np.array(IMAGE_STD, np.float32)
    pixels = (crops.astype(np.float32) / np.float32(255) - mean) / deviation
    theirs = {"PyTorch": _reference(variables, file, pixels.transpose(0, 3, 1, 2))}
    if importlib.util.find_spec("transformers") is None:
        say("  verify    transformers is not installed: compared with a transcription in PyTorch only")
    else:
        try:
            theirs["transformers"] = _transformers(variables, file, pixels.transpose(0, 3, 1, 2))
        except ValueError as error:
            say(f"  verify    without transformers: {error}")
    good = True
    for name, heatmaps in theirs.items():
        for dataset, expected in heatmaps.items():
            difference = float(np.abs(np.asarray(ours[dataset]).transpose(0, 3, 1, 2) - expected).max())
            height = float(np.abs(expected).max())
            good &= difference <= TOLERANCE * max(1.0, height)
            say(f"  verify    {dataset}: heatmaps up to {height:.3g}, largest difference from {name} {difference:.2g}")
    return good


def _transformers(variables: Mapping, file: ModelFile, pixels: np.ndarray) -> dict[str, np.ndarray]:
    import torch
    import transformers

    heatmaps = {}
    experts = list(file.settings.get("experts") or ())
    transformers.utils.logging.disable_progress_bar()
    for dataset in decoder_order(file):
        with tempfile.TemporaryDirectory() as place:
            folder = pathlib.Path(place) / "model"
            hugging_face.write(folder, variables, file, dataset)
            model = transformers.VitPoseForPoseEstimation.from_pretrained(folder).eval()
        index = torch.full((len(pixels),), experts.index(dataset)) if experts else None
        with torch.no_grad():
            heatmaps[dataset] = model(torch.from_numpy(pixels), dataset_index=index).heatmaps.numpy()
    return heatmaps


def _reference(variables: Mapping, file: ModelFile, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """The original's forward pass, written down once more with PyTorch's own layers."""
    import torch

    tensors = {name: torch.from_numpy(np.array(array)) for name, array in official_tensors(variables, file).items()}
    fields = vitpose(**file.settings).backbone
    experts = list(file.settings.get("experts") or ())
    heatmaps = {}
    with torch.no_grad():
        for number, dataset in enumerate(decoder_order(file)):
            expert = experts.index(dataset) if experts else None
            features = _encode(torch, tensors, fields, torch.from_numpy(pixels), expert)
            prefix = "keypoint_head" if number == 0 else f"associate_keypoint_heads.{number - 1}"
            heatmaps[dataset] = _decode(torch, tensors, features, prefix).numpy()
    return heatmaps


def _encode(torch: Any, tensors: Mapping[str, Any], fields: Mapping, pixels: Any, expert: int | None) -> Any:
    functional = torch.nn.functional
    ratio, width, heads = fields["ratio"], fields["embed_dim"], fields["num_heads"]

    def norm(x: Any, name: str) -> Any:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return functional.layer_norm(x, (width,), weight, bias, fields["layer_norm_eps"])

    def linear(x: Any, name: str) -> Any:
        return functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    x = functional.conv2d(
        pixels, tensors["backbone.patch_embed.proj.weight"], tensors["backbone.patch_embed.proj.bias"],
        stride=16 // ratio, padding=4 + 2 * (ratio // 2 - 1),
    )  # fmt: skip
    batch, _, rows, cols = x.shape
    positions = tensors["backbone.pos_embed"]
    x = x.flatten(2).transpose(1, 2) + positions[:, 1:] + positions[:, :1]
    for layer in range(fields["depth"]):
        block = f"backbone.blocks.{layer}"
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv").reshape(batch, -1, 3, heads, width // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        weights = (q * (width // heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        x = x + linear((weights @ v).transpose(1, 2).reshape(batch, -1, width), f"{block}.attn.proj")
        hidden = functional.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        y = linear(hidden, f"{block}.mlp.fc2")
        x = x + (y if expert is None else torch.cat([y, linear(hidden, f"{block}.mlp.experts.{expert}")], -1))
    return norm(x, "backbone.last_norm").transpose(1, 2).reshape(batch, width, rows, cols)


def _decode(torch: Any, tensors: Mapping[str, Any], x: Any, prefix: str) -> Any:
    functional = torch.nn.functional
    final, bias = tensors[f"{prefix}.final_layer.weight"], tensors[f"{prefix}.final_layer.bias"]
    if f"{prefix}.deconv_layers.0.weight" not in tensors:
        x = functional.interpolate(functional.relu(x), scale_factor=4, mode="bilinear", align_corners=False)
        return functional.conv2d(x, final, bias, padding=1)
    for i in (0, 3):
        x = functional.conv_transpose2d(x, tensors[f"{prefix}.deconv_layers.{i}.weight"], stride=2, padding=1)
        statistics = (tensors[f"{prefix}.deconv_layers.{i + 1}.{leaf}"] for leaf in
                      ("running_mean", "running_var", "weight", "bias"))  # fmt: skip
        x = functional.relu(functional.batch_norm(x, *statistics, eps=1e-5))
    return functional.conv2d(x, final, bias)
