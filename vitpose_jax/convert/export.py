"""From a checkpoint of this project to the official layout, tensor by tensor and bit by bit."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitpose_jax.convert import layouts, rules, torch_file
from vitpose_jax.training.model_file import ModelFile


def write_pth(path: pathlib.Path, variables: Mapping, file: ModelFile) -> None:
    """Writes a file that the original code loads; our model file stands among its notes, for an exact way back.

    Args:
        path: written whole or not at all.
        variables: {"params", "batch_stats"}.
        file: the model's settings and data sets.

    Raises:
        ValueError: the file is there already.
    """
    if path.exists():
        raise ValueError(f"{path} is there already; choose another name, or delete it first")
    torch_file.write_pth(path, official_tensors(variables, file), meta={torch_file.OWN_ENTRY: model_file_json(file)})


def official_tensors(variables: Mapping, file: ModelFile) -> dict[str, np.ndarray]:
    """{key: array} in the order of the original, batch norm's step counters included.

    Keys are those of the official ViTPose, of a masked autoencoder those of the official MAE.

    Raises:
        ValueError: the original cannot be this model.
    """
    check_known_to_pytorch(file.settings)
    prefixes = rules.decoder_prefixes(decoder_order(file))
    tensors = rules.to_torch(variables, decoder_prefixes=prefixes)
    counted = file.provenance.get("counters", {})
    for name, key in rules.counter_names(prefixes).items():
        if name.replace("num_batches_tracked", "running_mean") in tensors:
            tensors[name] = np.array(counted.get(key, 0), np.int64)
    ordered = {name: tensors[name] for name in sorted(tensors, key=_official_place)}
    if file.task != "mae":
        return ordered
    names = layouts.rename(ordered, layouts.MAE, to_layout=True)
    return {str(names[name]): array for name, array in ordered.items()}


def check_known_to_pytorch(settings: Mapping[str, Any]) -> None:
    """Raises ValueError for a model that no PyTorch implementation of ViTPose has: with windows or a knowledge token.

    Args:
        settings: of a model file.
    """
    attention, relative = settings.get("attention", "full"), settings.get("relative_positions")
    if attention != "full" or relative is not None:
        raise ValueError(
            f"this model has attention {attention!r} and relative_positions {relative!r}: no PyTorch implementation of "
            "ViTPose has windows or relative positions, and with full attention its weights would predict something "
            "else; only a model with attention 'full' and relative_positions None can be written for PyTorch"
        )
    if settings.get("token_dim") is not None:
        raise ValueError(
            "this model has a knowledge token, which no PyTorch implementation of ViTPose has, and without it its "
            "weights would predict something else; only a model with token_dim None can be written for PyTorch"
        )


def decoder_order(file: ModelFile) -> tuple[str, ...]:
    """Data sets in the order of their decoders in the official layout: that of the experts, if there are any."""
    names = tuple(file.settings.get("num_keypoints", ()))
    return tuple(name for name in file.settings.get("experts") or names if name in names)


def model_file_json(file: ModelFile) -> dict[str, Any]:
    """Our model file as it accompanies exported weights; `order` says whose decoder is the first, second …"""
    return {**file.as_json(), "order": list(decoder_order(file))}


def with_decoders(variables: Mapping, file: ModelFile, names: Sequence[str]) -> tuple[dict, ModelFile]:
    """The model with the decoders of the named data sets only."""
    parts = {
        part: {
            name: {dataset: tree[dataset] for dataset in names} if name == "decoders" else tree
            for name, tree in variables[part].items()
        }
        for part in ("params", "batch_stats")
    }
    chosen = dataclasses.replace(
        file,
        settings={**file.settings, "num_keypoints": {name: file.settings["num_keypoints"][name] for name in names}},
        datasets={name: file.datasets[name] for name in names},
    )
    return parts, chosen


_GROUPS = (
    "backbone.cls_token", "backbone.pos_embed", "mae_decoder.mask_token", "mae_decoder.pos_embed",
    "backbone.patch_embed", "backbone.blocks", "backbone.last_norm", "mae_decoder.embed", "mae_decoder.blocks",
    "mae_decoder.norm", "mae_decoder.pred", "keypoint_head",
)  # fmt: skip
_PARTS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2", "mlp.experts")
_LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def _official_place(name: str) -> tuple:
    """Sorts names as the original's modules register their tensors."""
    group = next((i for i, start in enumerate(_GROUPS) if name.startswith(start)), len(_GROUPS))
    part = next((i for i, part in enumerate(_PARTS) if f".{part}." in name), 0)
    numbers = tuple(int(word) for word in name.split(".") if word.isdigit())
    stacked = name.startswith(("backbone.blocks.", "mae_decoder.blocks.", "associate_"))
    module = numbers[0] if stacked else 0  # block, or further decoder
    leaf = name.rsplit(".", 1)[-1]
    return group, module, part, "final_layer" in name, numbers, _LEAVES.index(leaf) if leaf in _LEAVES else -1
