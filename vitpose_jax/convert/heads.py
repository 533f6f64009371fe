"""Whose decoders a file holds: which data sets, with which keypoints."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vitpose_jax.data.datasets import DATASETS
from vitpose_jax.keypoints import KEYPOINT_SETS, reference

if TYPE_CHECKING:
    from vitpose_jax.convert.importer import Options

# ViTPose++ in the order of its experts; the first decoder is the main one.
PLUS_DATASETS = ("coco", "aic", "mpii", "ap10k", "apt36k", "wholebody")
# Data sets by the parts of a published file's name, longer ones first.
_NAMED_IN_FILES = (
    "coco_25", "wholebody", "crowdpose", "ochuman", "interhand", "apt36k", "ap10k", "mpii", "aic", "coco",
)  # fmt: skip


def find_decoders(
    tensors: dict[str, np.ndarray],
    file_name: str,
    options: "Options",
    experts: tuple[str, ...],
    split_of: str | None,
    ignored: dict[str, str],
    notes: list[str],
    faults: list[str],
) -> dict[str, str]:
    """{data set: prefix} of the decoders that are kept. Takes the others out."""
    prefixes = sorted(
        {m[0] for name in tensors if (m := re.match(r"keypoint_head|associate_(keypoint_)?heads\.\d+", name))},
        key=lambda prefix: (prefix != "keypoint_head", _number(prefix)),
    )
    if not prefixes:
        return {}
    if len(prefixes) > 1 and experts and not options.datasets:
        names: tuple[str, ...] = PLUS_DATASETS[: len(prefixes)]
    elif options.datasets:
        names = tuple(options.datasets)
    else:
        names = (_guess_dataset(tensors, prefixes[0], file_name, options, split_of, notes),)
    if len(names) > len(prefixes) or len(set(names)) != len(names):
        faults.append(f"--datasets names {list(names)}, the file has {len(prefixes)} decoder(s); each needs one name")
        names = names[: len(prefixes)]
    for prefix in prefixes[len(names) :]:
        for name in [name for name in tensors if name.startswith(f"{prefix}.")]:
            del tensors[name]
            ignored[name] = "a further data set's decoder; the file does not say which: --datasets names and keeps them"
    kept = dict(zip(names, prefixes, strict=False))
    for dataset, prefix in kept.items():
        _check_keypoints(tensors, dataset, prefix, options, notes, faults)
    return kept


def _guess_dataset(
    tensors: Mapping[str, np.ndarray],
    prefix: str,
    file_name: str,
    options: "Options",
    split_of: str | None,
    notes: list[str],
) -> str:
    """The data set of a file's only named decoder."""
    if options.keypoints is not None:
        return options.keypoints.name
    count = _keypoint_count(tensors, prefix)
    if split_of and _expected_keypoints(split_of) == count:
        return split_of
    fitting = [name for name in _NAMED_IN_FILES if _expected_keypoints(name) == count]
    tokens = file_name.lower().replace("-", "_").replace("+", "_")
    named = next((name for name in _NAMED_IN_FILES if name in tokens and name in fitting), None)
    if named:
        return named
    usual = next((name for name in ("coco", *PLUS_DATASETS, *fitting) if name in fitting), None)
    if usual is None:
        raise ValueError(
            f"{file_name}: its decoder has {count} keypoints, which no published data set has; describe them by "
            "--keypoints FILE"
        )
    others = [name for name in fitting if name != usual and name not in ("ochuman",)]
    if others:
        notes.append(f"{count} keypoints: taken for {usual} (could be {' or '.join(others)}: --datasets says which)")
    return usual


def _check_keypoints(
    tensors: dict[str, np.ndarray], dataset: str, prefix: str, options: "Options", notes: list[str], faults: list[str]
) -> None:
    """Compares a decoder with its data set; cuts the rows with which joint training pads a decoder."""
    count = _keypoint_count(tensors, prefix)
    expected = len(options.keypoints) if options.keypoints is not None else _expected_keypoints(dataset)
    if expected is None:
        faults.append(
            f"data set {dataset!r} is not a published one; describe its {count} keypoints by --keypoints FILE"
        )
    elif count > expected and prefix.startswith("associate_keypoint_heads"):
        for leaf in ("weight", "bias"):
            tensors[f"{prefix}.final_layer.{leaf}"] = tensors[f"{prefix}.final_layer.{leaf}"][:expected]
        notes.append(f"{prefix}.final_layer: rows {expected} to {count - 1} are padding of the joint training, cut")
    elif count != expected:
        faults.append(f"{prefix} has {count} keypoints, {dataset} has {expected}; --datasets names another")


def _keypoint_count(tensors: Mapping[str, np.ndarray], prefix: str) -> int:
    array = tensors.get(f"{prefix}.final_layer.weight", tensors.get(f"{prefix}.final_layer.bias"))
    if array is None:
        raise ValueError(f"the decoder {prefix} has no final_layer; the file is incomplete")
    return int(array.shape[0])


def _expected_keypoints(dataset: str) -> int | None:
    keypoint_set = KEYPOINT_SETS.get(_keypoint_set_name(dataset))
    return len(keypoint_set) if keypoint_set else None


def _keypoint_set_name(dataset: str) -> str:
    if dataset in DATASETS:
        return DATASETS[dataset].keypoint_set.name
    return {"ochuman": "coco", "apt36k": "ap10k"}.get(dataset, dataset)


def dataset_facts(dataset: str, options: "Options") -> dict[str, Any]:
    """The entry of `ModelFile.datasets`."""
    udp = DATASETS[dataset].udp if dataset in DATASETS else True
    if options.keypoints is not None:
        return {**reference(options.keypoints), "udp": udp}
    return {"keypoint_set": _keypoint_set_name(dataset), "udp": udp}


def decoder_kind(tensors: Mapping[str, np.ndarray]) -> str:
    final = tensors.get("keypoint_head.final_layer.weight")
    simple = final is not None and final.ndim == 4 and final.shape[2:] == (3, 3)
    return "simple" if simple and "keypoint_head.deconv_layers.0.weight" not in tensors else "classic"


def _number(prefix: str) -> int:
    return int(prefix.rsplit(".", 1)[1]) if "." in prefix else 0
