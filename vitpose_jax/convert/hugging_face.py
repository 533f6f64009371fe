"""Hugging Face's VitPose: what its config says, and folders that `transformers` loads."""

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitpose_jax.convert import layouts, torch_file
from vitpose_jax.convert.export import check_known_to_pytorch, model_file_json, official_tensors, with_decoders
from vitpose_jax.data.files import folder_written_beside, write_text
from vitpose_jax.keypoints import KEYPOINT_SETS, KeypointSet
from vitpose_jax.models import decoders, vit
from vitpose_jax.models.vitpose import IMAGE_MEAN, IMAGE_STD, vitpose
from vitpose_jax.training.model_file import ModelFile

CONFIG_FILE = "config.json"
PYTORCH_FILE = "pytorch_model.bin"
TENSOR_FILES = (torch_file.SAFETENSORS_FILE, torch_file.SAFETENSORS_INDEX, PYTORCH_FILE)
OWN_FILE = "vitpose_jax.json"  # our model file in such a folder, for an exact way back


def settings_of(config: Any, path: pathlib.Path, keypoints: KeypointSet | None) -> dict[str, Any]:
    """What a `config.json` says of the model: `num_heads`, `depth`, `image_size`, `layer_norm_eps`.

    Args:
        config: its content.
        path: where it is.
        keypoints: the user's own keypoint set, if there is one.

    Raises:
        ValueError: it is another model's, or of a kind of VitPose that the original never was.
    """
    model_type = config.get("model_type") if isinstance(config, Mapping) else None
    if model_type != "vitpose":
        raise ValueError(f"{path} is of model_type {model_type!r}, not 'vitpose'")
    backbone = config.get("backbone_config") or {}
    if not isinstance(backbone, Mapping):
        raise ValueError(f"{path}: backbone_config is {backbone!r:.80}, not the settings of an encoder")
    depth = backbone.get("num_hidden_layers", 12)
    _check_labels(config, path, keypoints)
    only = {
        "patch_size": (backbone.get("patch_size", [16, 16]), ([16, 16], 16)),
        "hidden_act": (backbone.get("hidden_act", "gelu"), ("gelu",)),
        "qkv_bias": (backbone.get("qkv_bias", True), (True,)),
        "scale_factor": (config.get("scale_factor", 4), (4,)),
        "out_indices": (backbone.get("out_indices"), ([depth], [-1], None)),
    }
    for key, (value, allowed) in only.items():
        if value not in allowed:
            raise ValueError(f"{path}: {key} is {value!r}; the models here have {allowed[0]!r}")
    size = backbone.get("image_size", [256, 192])
    try:
        return {
            "num_heads": int(backbone.get("num_attention_heads", 12)),
            "depth": int(depth),
            "image_size": (size, size) if isinstance(size, int) else tuple(int(side) for side in size),
            "layer_norm_eps": float(backbone.get("layer_norm_eps", 1e-12)),
        }
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: a setting of the encoder is no number: {error}") from error


def read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """The tensors of a folder: of safetensors, or of PyTorch's own file where there are none."""
    if (folder / PYTORCH_FILE).is_file() and not list(folder.glob("*.safetensors*")):
        return torch_file.read(folder / PYTORCH_FILE).tensors
    return torch_file.read_safetensors_folder(folder)


def _check_labels(config: Mapping[str, Any], path: pathlib.Path, keypoints: KeypointSet | None) -> None:
    """Raises ValueError if a folder names keypoints that no published set has in this order."""
    labels = config.get("id2label")
    if not isinstance(labels, Mapping) or keypoints is not None:
        return
    names = [_plain_name(str(labels[key])) for key in sorted(labels, key=lambda key: int(key))]
    if all(name.startswith("label_") for name in names):
        return
    known = [[_plain_name(name) for name in points.names] for points in KEYPOINT_SETS.values()]
    if names not in known:
        raise ValueError(
            f"{path}: id2label names keypoints that no published data set has in this order ({names[:3]} …); describe "
            "them by --keypoints FILE"
        )


def _plain_name(name: str) -> str:
    """A keypoint's name as both sides write it: "L_Eye" and "left_eye" are the same."""
    name = re.sub(r"[\s-]+", "_", name.strip().lower())
    return re.sub(r"^r_", "right_", re.sub(r"^l_", "left_", name))


def write(folder: pathlib.Path, variables: Mapping, file: ModelFile, dataset: str | None) -> None:
    """Writes `config.json`, `preprocessor_config.json`, `model.safetensors` and our own model file.

    Args:
        folder: must not exist, or be empty.
        variables: {"params", "batch_stats"}.
        file: the model's settings and data sets.
        dataset: the decoder to write, for a model of several: Hugging Face's models have one. None takes the only one.

    Raises:
        ValueError: Hugging Face's VitPose cannot be this model.
    """
    dataset = check(file, dataset)
    config = _config(file, dataset)
    variables, single = with_decoders(variables, file, (dataset,))
    split = layouts.split_qkv(official_tensors(variables, single))
    names = layouts.rename(split, layouts.HUGGING_FACE, to_layout=True)
    tensors = {str(names[name]): array for name, array in split.items()}
    with folder_written_beside(folder) as partial:
        torch_file.write_safetensors(partial / torch_file.SAFETENSORS_FILE, tensors)
        write_text(partial / "config.json", json.dumps(config, indent=2) + "\n")
        write_text(partial / "preprocessor_config.json", json.dumps(_processor(file), indent=2) + "\n")
        write_text(partial / OWN_FILE, json.dumps(model_file_json(single), indent=2) + "\n")


def check(file: ModelFile, dataset: str | None) -> str:
    """The data set whose decoder a folder would hold.

    Raises:
        ValueError: Hugging Face's VitPose cannot be this model, or there are several decoders and none is named.
    """
    check_known_to_pytorch(file.settings)
    dataset = _one_dataset(file, dataset)
    _config(file, dataset)
    return dataset


def _one_dataset(file: ModelFile, dataset: str | None) -> str:
    names = list(file.settings.get("num_keypoints", ()))
    if not names:
        raise ValueError("this is an encoder alone; Hugging Face's VitPose needs a decoder")
    if dataset is None and len(names) > 1:
        raise ValueError(f"a Hugging Face folder holds one decoder, this model has {names}: name one by --datasets")
    if dataset is not None and dataset not in names:
        raise ValueError(f"this model has no decoder for {dataset!r}, only for {names}")
    return dataset or names[0]


def _config(file: ModelFile, dataset: str) -> dict[str, Any]:
    model = vitpose(**file.settings)
    fields = model.backbone
    height, width = model.image_size
    ratio = fields["mlp_dim"] / fields["embed_dim"]
    cannot = [
        (fields["ratio"] != 1, f"its patches overlap (ratio {fields['ratio']})"),
        (ratio != int(ratio), f"its MLP is {ratio:.3g} times as wide as the encoder, not a whole number of times"),
        (
            model.decoder == "classic" and model.deconv_filters != decoders.DECONV_FILTERS,
            f"its decoder has {model.deconv_filters} filters instead of {decoders.DECONV_FILTERS}",
        ),
        (
            model.patch_grid != (height // vit.PATCH_SIZE, width // vit.PATCH_SIZE),
            f"a {height}x{width} crop has {model.patch_grid} patches, which is not its size over {vit.PATCH_SIZE}",
        ),
    ]
    reasons = [reason for wrong, reason in cannot if wrong]
    if reasons:
        raise ValueError(f"Hugging Face's VitPose cannot be this model: {'; '.join(reasons)}")
    keypoints: KeypointSet = file.keypoint_set(dataset)
    depth = fields["depth"]
    backbone = {
        "model_type": "vitpose_backbone",
        "image_size": [height, width],
        "patch_size": [vit.PATCH_SIZE, vit.PATCH_SIZE],
        "num_channels": 3,
        "hidden_size": fields["embed_dim"],
        "num_hidden_layers": depth,
        "num_attention_heads": fields["num_heads"],
        "mlp_ratio": int(ratio),
        "num_experts": fields["num_experts"] or 1,
        "part_features": fields["part_features"],
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": fields["layer_norm_eps"],
        "out_features": [f"stage{depth}"],
        "out_indices": [depth],
    }
    return {
        "architectures": ["VitPoseForPoseEstimation"],
        "model_type": "vitpose",
        "backbone_config": backbone,
        "use_simple_decoder": model.decoder == "simple",
        "scale_factor": decoders.UPSCALE,
        "id2label": dict(enumerate(keypoints.names)),
        "label2id": {name: number for number, name in enumerate(keypoints.names)},
        "edges": np.asarray(keypoints.skeleton_index).tolist(),
        "torch_dtype": "float32",
    }


def _processor(file: ModelFile) -> dict[str, Any]:
    height, width = file.settings["image_size"]
    return {
        "image_processor_type": "VitPoseImageProcessor",
        "do_affine_transform": True,
        "do_normalize": True,
        "do_rescale": True,
        "image_mean": list(IMAGE_MEAN),
        "image_std": list(IMAGE_STD),
        "rescale_factor": 1 / 255,
        "normalize_factor": 200.0,
        "size": {"height": height, "width": width},
    }
