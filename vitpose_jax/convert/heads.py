"""Whose decoders a file holds: which data sets, with which keypoints."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vitpose_jax.data.datasets import DATASETS
from vitpose_jax.keypoints import KEYPOINT_SETS, reference

if TYPE_CHECKING:
    from vitpose_jax.convert.importer import Options

V = TypeVar("V")

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
        if options.datasets:
            faults.append(f"--datasets names {list(options.datasets)}, the file is an encoder alone")
        return {}
    known = dict(zip(PLUS_DATASETS, prefixes, strict=False)) if len(prefixes) > 1 and experts == PLUS_DATASETS else {}
    if known:  # ViTPose++, whose order is known: names choose
        kept = select(known, options.datasets, faults)
        reason = "not among --datasets"
    else:
        named = (_guess_dataset(tensors, prefixes[0], file_name, options, split_of, notes),)
        names = tuple(options.datasets) or named
        if len(names) > len(prefixes) or len(set(names)) != len(names):
            faults.append(f"--datasets names {list(names)}, the file has {len(prefixes)} decoder(s); one name for each")
        kept = dict(zip(names, prefixes, strict=False))
        reason = "a further data set's decoder; the file does not say which: --datasets names and keeps them"
    for prefix in prefixes:
        if prefix not in kept.values():
            for name in [name for name in tensors if name.startswith(f"{prefix}.")]:
                del tensors[name]
                ignored[name] = reason
    for dataset, prefix in kept.items():
        _check_keypoints(tensors, dataset, prefix, options, notes, faults)
    return kept


def select(known: Mapping[str, V], names: Sequence[str], faults: list[str]) -> dict[str, V]:
    """The decoders that `names` chooses among those of a model that says whose they are; all without names."""
    unknown = [name for name in names if name not in known]
    if unknown:
        faults.append(f"--datasets names {unknown}; the decoders are {list(known)}")
    return {name: value for name, value in known.items() if not names or name in names}


def _guess_dataset(
    tensors: Mapping[str, np.ndarray],
    prefix: str,
    file_name: str,
    options: "Options",
    split_of: str | None,
    notes: list[str],
) -> str:
    """The data set of a file's only named decoder."""
    if options.datasets:
        return options.datasets[0]
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
    own = options.keypoints if prefix == "keypoint_head" else None
    expected = len(own) if own is not None else _expected_keypoints(dataset)
    if expected is None:
        faults.append(
            f"data set {dataset!r} is not a published one; describe its {count} keypoints by --keypoints FILE"
        )
    elif count > expected and prefix.startswith("associate_keypoint_heads"):
        for leaf in ("weight", "bias"):
            tensors[f"{prefix}.final_layer.{leaf}"] = tensors[f"{prefix}.final_layer.{leaf}"][:expected]
        notes.append(f"{prefix}.final_layer: rows {expected} to {count - 1} are padding of the joint training, cut")
    elif count != expected:
        other = "the keypoint file" if own is not None else "--datasets"
        faults.append(f"{prefix} has {count} keypoints, {dataset} has {expected}; {other} should name as many")


def _keypoint_count(tensors: Mapping[str, np.ndarray], prefix: str) -> int:
    array = tensors.get(f"{prefix}.final_layer.weight", tensors.get(f"{prefix}.final_layer.bias"))
    if array is None:
        raise ValueError(f"the decoder {prefix} has no final_layer; the file is incomplete")
    return int(array.shape[0]) if array.ndim else 0


def _expected_keypoints(dataset: str) -> int | None:
    keypoint_set = KEYPOINT_SETS.get(_keypoint_set_name(dataset))
    return len(keypoint_set) if keypoint_set else None


def _keypoint_set_name(dataset: str) -> str:
    if dataset in DATASETS:
        return DATASETS[dataset].keypoint_set.name
    return {"ochuman": "coco", "apt36k": "ap10k"}.get(dataset, dataset)


def dataset_facts(dataset: str, prefix: str, options: "Options") -> dict[str, Any]:
    """The entry of `ModelFile.datasets`."""
    if options.keypoints is not None and prefix == "keypoint_head":
        return {**reference(options.keypoints), "udp": options.udp}
    udp = DATASETS[dataset].udp if dataset in DATASETS else options.udp  # coco_25, too, was trained with UDP
    return {"keypoint_set": _keypoint_set_name(dataset), "udp": udp}


def decoder_kind(tensors: Mapping[str, np.ndarray], prefixes: Mapping[str, str]) -> str:
    """ "classic" or "simple", by the first decoder; "classic" without one."""
    prefix = next(iter(prefixes.values()), "")
    final = tensors.get(f"{prefix}.final_layer.weight")
    simple = final is not None and final.ndim == 4 and final.shape[2:] == (3, 3)
    return "simple" if simple and f"{prefix}.deconv_layers.0.weight" not in tensors else "classic"


def deconv_filters(tensors: Mapping[str, np.ndarray], prefixes: Mapping[str, str]) -> int | None:
    """Channels of the classic decoder, from whichever of its tensors is there."""
    prefix = next(iter(prefixes.values()), "")
    for name, axis in (("deconv_layers.1.bias", 0), ("deconv_layers.0.weight", 1), ("deconv_layers.4.bias", 0)):
        array = tensors.get(f"{prefix}.{name}")
        if array is not None and array.ndim > axis:
            return int(array.shape[axis])
    return None


def _number(prefix: str) -> int:
    return int(prefix.rsplit(".", 1)[1]) if "." in prefix else 0
