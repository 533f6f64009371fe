"""The same crops through PyTorch, with the weights as the source has them, and through JAX, with the converted ones."""

import importlib.util
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitpose_jax.convert import hugging_face, rules
from vitpose_jax.convert.export import decoder_order, official_tensors
from vitpose_jax.convert.importer import Source
from vitpose_jax.models import vit
from vitpose_jax.models.mae import MAE
from vitpose_jax.models.vitpose import IMAGE_MEAN, IMAGE_STD, vitpose
from vitpose_jax.training.model_file import MODELS, ModelFile

# Largest difference of heatmaps that float32 explains, for heatmaps up to 1 high; larger heatmaps may differ more.
TOLERANCE = 2e-5
CROPS = 2


def verify(
    variables: Mapping, file: ModelFile, *, source: Source | None = None, say: Callable[[str], None] = print
) -> bool:
    """Compares heatmaps of random crops (features, of an encoder alone) and says how far they are apart.

    PyTorch runs a plain transcription of the original's arithmetic on the source's own tensors, and Hugging Face's
    VitPose runs where `transformers` is installed: the source's folder itself if it is one, else the folder that would
    be written for it. What a source does not say (heads, data sets) is the same on both sides and not verified.

    Args:
        variables: {"params", "batch_stats"} of the converted model.
        file: its settings.
        source: the weights as they came; None takes what would be exported.
        say: gets the report, line by line.

    Returns:
        Whether all differences are within `TOLERANCE`.
    """
    model = MODELS[file.task](**{**file.settings, "dtype": "float32"})
    crops = np.random.default_rng(0).integers(0, 256, (CROPS, *model.image_size, 3), dtype=np.uint8)
    mean, deviation = np.array(IMAGE_MEAN, np.float32), np.array(IMAGE_STD, np.float32)
    pixels = ((crops.astype(np.float32) / np.float32(255) - mean) / deviation).transpose(0, 3, 1, 2)
    if file.task == "mae":
        return _verify_reconstruction(model, variables, source, pixels, say)
    tensors = official_tensors(variables, file)
    if source is not None:
        resized = "resized_from_image_size" in file.provenance
        tensors = {**tensors, **{n: a for n, a in source.tensors.items() if not (resized and n.endswith("pos_embed"))}}
        if resized:
            say("  verify    the position embedding was resized: both sides have the resized one")
    theirs = {"PyTorch": _reference(tensors, file, pixels)}
    if not model.num_keypoints:
        encoder = vit.ViT(**model.backbone)
        parameters = {"params": variables["params"]["backbone"]}
        expert = jnp.int32(0) if model.experts else None
        with jax.default_matmul_precision("highest"):
            ours = {"features": encoder.apply(parameters, pixels.transpose(0, 2, 3, 1), train=False, expert=expert)}
    else:
        with jax.default_matmul_precision("highest"):
            ours = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, crops)
        theirs |= _transformers(variables, file, source, pixels, say)
    good = True
    for name, maps in theirs.items():
        for dataset, expected in maps.items():
            difference = float(np.abs(np.asarray(ours[dataset]).transpose(0, 3, 1, 2) - expected).max())
            height = float(np.abs(expected).max())
            good &= difference <= TOLERANCE * max(1.0, height)
            say(f"  verify    {dataset}: values up to {height:.3g}, largest difference from {name} {difference:.2g}")
    return good


def _verify_reconstruction(
    model: MAE, variables: Mapping, source: Source | None, pixels: np.ndarray, say: Callable[[str], None]
) -> bool:
    """`verify` of a masked autoencoder: predictions of all patches when none is masked."""
    import torch

    arrays = rules.to_torch({"params": variables["params"]}, decoder_prefixes={}) if source is None else source.tensors
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    with torch.no_grad():
        expected = _reconstruct(torch, tensors, model, torch.from_numpy(pixels)).numpy()
    rows, cols = model.patch_grid
    in_order = jnp.tile(jnp.arange(rows * cols) / (rows * cols), (len(pixels), 1))
    unmasked = model.clone(mask_ratio=0.0)
    with jax.default_matmul_precision("highest"):
        outputs = jax.jit(
            lambda params, images: unmasked.apply({"params": params}, images, train=False, noise=in_order)
        )(variables["params"], pixels.transpose(0, 2, 3, 1))
    difference, height = (float(np.abs(array).max()) for array in (np.asarray(outputs[0]) - expected, expected))
    say(f"  verify    patches: values up to {height:.3g}, largest difference from PyTorch {difference:.2g}")
    return difference <= TOLERANCE * max(1.0, height)


def _transformers(
    variables: Mapping, file: ModelFile, source: Source | None, pixels: np.ndarray, say: Callable[[str], None]
) -> dict[str, dict[str, np.ndarray]]:
    """{"transformers": {data set: heatmaps}}, or nothing and the reason said."""
    if importlib.util.find_spec("transformers") is None:
        say("  verify    transformers is not installed: compared with a transcription in PyTorch only")
        return {}
    try:
        for dataset in decoder_order(file):
            hugging_face.check(file, dataset)
    except ValueError as error:
        say(f"  verify    without transformers: {error}")
        return {}
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    experts = list(file.settings.get("experts") or ())
    resized = "resized_from_image_size" in file.provenance
    original = source.folder if source is not None and not resized else None
    heatmaps = {}
    for dataset in decoder_order(file):
        with tempfile.TemporaryDirectory() as place:
            folder = original
            if folder is None:
                folder = pathlib.Path(place) / "model"
                hugging_face.write(folder, variables, file, dataset)
            model = transformers.VitPoseForPoseEstimation.from_pretrained(folder).eval()
        index = torch.full((len(pixels),), experts.index(dataset)) if experts else None
        with torch.no_grad():
            heatmaps[dataset] = model(torch.from_numpy(pixels), dataset_index=index).heatmaps.numpy()
    return {"transformers on the source" if original else "transformers on an export": heatmaps}


def _reference(arrays: Mapping[str, np.ndarray], file: ModelFile, pixels: np.ndarray) -> dict[str, np.ndarray]:
    """The original's forward pass, written down once more with PyTorch's own layers."""
    import torch

    tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    fields = vitpose(**file.settings).backbone
    experts = list(file.settings.get("experts") or ())
    prefixes = rules.decoder_prefixes(decoder_order(file))
    with torch.no_grad():
        if not prefixes:
            expert = 0 if experts else None
            return {"features": _encode(torch, tensors, fields, torch.from_numpy(pixels), expert).numpy()}
        heatmaps = {}
        for dataset, prefix in prefixes.items():
            expert = experts.index(dataset) if experts else None
            features = _encode(torch, tensors, fields, torch.from_numpy(pixels), expert)
            heatmaps[dataset] = _decode(torch, tensors, features, prefix).numpy()
        return heatmaps


def _encode(torch: Any, tensors: Mapping[str, Any], fields: Mapping, pixels: Any, expert: int | None) -> Any:
    ratio = fields["ratio"]
    x = torch.nn.functional.conv2d(
        pixels, tensors["backbone.patch_embed.proj.weight"], tensors["backbone.patch_embed.proj.bias"],
        stride=16 // ratio, padding=4 + 2 * (ratio // 2 - 1),
    )  # fmt: skip
    batch, width, rows, cols = x.shape
    positions = tensors["backbone.pos_embed"]
    x = x.flatten(2).transpose(1, 2) + positions[:, 1:] + positions[:, :1]
    x = _blocks(torch, tensors, x, "backbone", fields, fields["layer_norm_eps"], expert)
    x = _norm(torch, tensors, x, "backbone.last_norm", fields["layer_norm_eps"])
    return x.transpose(1, 2).reshape(batch, width, rows, cols)


def _reconstruct(torch: Any, tensors: Mapping[str, Any], model: MAE, pixels: Any) -> Any:
    """Predictions of a masked autoencoder that sees all patches, in their order."""
    eps = model.backbone["layer_norm_eps"]
    x = torch.nn.functional.conv2d(
        pixels, tensors["backbone.patch_embed.proj.weight"], tensors["backbone.patch_embed.proj.bias"], stride=16
    )
    positions = tensors["backbone.pos_embed"]
    x = x.flatten(2).transpose(1, 2) + positions[:, 1:]
    token = (tensors["backbone.cls_token"] + positions[:, :1]).expand(len(x), -1, -1)
    x = _blocks(torch, tensors, torch.cat([token, x], 1), "backbone", model.backbone, eps, None)
    x = _linear(torch, tensors, _norm(torch, tensors, x, "backbone.last_norm", eps), "mae_decoder.embed")
    x = _blocks(torch, tensors, x + tensors["mae_decoder.pos_embed"], "mae_decoder", model.decoder, eps, None)
    return _linear(torch, tensors, _norm(torch, tensors, x, "mae_decoder.norm", eps), "mae_decoder.pred")[:, 1:]


def _norm(torch: Any, tensors: Mapping[str, Any], x: Any, name: str, eps: float) -> Any:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps)


def _linear(torch: Any, tensors: Mapping[str, Any], x: Any, name: str) -> Any:
    return torch.nn.functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def _blocks(
    torch: Any, tensors: Mapping[str, Any], x: Any, module: str, fields: Mapping, eps: float, expert: int | None
) -> Any:
    (batch, _, width), heads = x.shape, fields["num_heads"]
    for layer in range(fields["depth"]):
        block = f"{module}.blocks.{layer}"
        qkv = _linear(torch, tensors, _norm(torch, tensors, x, f"{block}.norm1", eps), f"{block}.attn.qkv")
        q, k, v = qkv.reshape(batch, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        weights = (q * (width // heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        attended = (weights @ v).transpose(1, 2).reshape(batch, -1, width)
        x = x + _linear(torch, tensors, attended, f"{block}.attn.proj")
        hidden = _linear(torch, tensors, _norm(torch, tensors, x, f"{block}.norm2", eps), f"{block}.mlp.fc1")
        hidden = torch.nn.functional.gelu(hidden)
        y = _linear(torch, tensors, hidden, f"{block}.mlp.fc2")
        if expert is not None:
            y = torch.cat([y, _linear(torch, tensors, hidden, f"{block}.mlp.experts.{expert}")], -1)
        x = x + y
    return x


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
