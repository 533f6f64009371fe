"""A data set of one's own: annotation files in COCO's format, and a keypoint file.

Nobody has checked such files before, so more is looked at here than in the published ones: what would be left out of
those without a word is a fault with a name.
"""

import contextlib
import dataclasses
import functools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitpose_jax.data.annotations import Annotations, numbers
from vitpose_jax.data.catalog import Dataset, SplitFiles
from vitpose_jax.data.coco_format import check_coco, clean_box, parse_coco
from vitpose_jax.data.files import read_json
from vitpose_jax.keypoints import KeypointSet

CUSTOM = "custom"  # name of every such set

# Stands for the OKS constant of each keypoint where the keypoint file names none: it lies amid COCO's (0.025 to 0.107).
# Only the metric depends on it, never the training.
FALLBACK_SIGMA = 0.05

SPLIT_SEED = 0  # of the draw of the images that `val_fraction` holds out

_AREA_OF_BOX = 0.53  # share of its box that an instance covers, where its area is not annotated; as for AI Challenger
_BORDER_PX = 1.0  # boxes are rounded
# How far off labelled keypoints may lie. In 774 annotations of COCO, AIC, AP-10K, CrowdPose and OCHuman, none lies
# outside of its image, and the farthest lies 0.495 of the box's longer side outside of its box.
_OFF_IMAGE = 0.1  # of the image's longer side: no labelled keypoint is farther outside of the image
_OFF_BOX = 1.0  # of the box's longer side: no labelled keypoint is farther outside of the box
_MOST_OFF_BOX = 0.25  # of the box's longer side: no more than half of the labelled ones are farther outside of the box
_MIXED_UP = (
    "keypoints are x, y, visibility and a bbox is x, y, width, height (no corners, no centre), all in pixels of the "
    "image; a keypoint that is not labelled has visibility 0"
)
_OTHER_SIDE = {"left": "right", "right": "left", "l": "r", "r": "l"}
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|\d+")


@dataclasses.dataclass(frozen=True)
class CustomFiles:
    """Where the files lie in the source folder.

    Attributes:
        train: annotation file of the training split.
        val: annotation file of the evaluation split. It may be absent.
        images: image folder of both, to which the file names of the annotations are relative.
        val_fraction: instead of reading `val`, hold out this fraction of those images of `train` that have
            annotations, in (0, 1). Which ones depends on their ids alone. Images without annotations stay in "train".

    Raises:
        ValueError: a path leads out of the source folder, or the fraction is none.
    """

    train: str = "annotations/train.json"
    val: str = "annotations/val.json"
    images: str = "images"
    val_fraction: float | None = None

    def __post_init__(self):
        for name in ("train", "val", "images"):
            path = pathlib.PurePath(getattr(self, name))
            if path.is_absolute() or ".." in path.parts:
                raise ValueError(f"--{name} is {str(path)!r}; it needs to be a path inside of the folder --source")
        if self.val_fraction is not None and not 0 < self.val_fraction < 1:
            raise ValueError(f"--val-fraction is {self.val_fraction}; it needs to be above 0 and below 1")


def custom_dataset(keypoint_set: KeypointSet, files: CustomFiles | None = None) -> Dataset:
    """The row of a set of one's own.

    Args:
        keypoint_set: as its file says. Without OKS constants, `FALLBACK_SIGMA` stands for each.
        files: where to read it from; None for a set that is built.

    Raises:
        ValueError: left and right keypoints are not paired (see `check_sides`).
    """
    check_sides(keypoint_set)
    splits = {}
    if files is not None:
        train, val = files.train, files.val
        train_reader = val_reader = _read
        if files.val_fraction is not None:
            val = train
            train_reader, val_reader = (
                functools.partial(_read, part=(split, files.val_fraction)) for split in ("train", "val")
            )
        splits = {
            "train": SplitFiles(annotations=train, images=files.images, read=train_reader),
            "val": SplitFiles(annotations=val, images=files.images, read=val_reader, every_image=True),
        }
    return Dataset(
        name=CUSTOM,
        keypoint_set=keypoint_set
        if keypoint_set.sigmas
        else dataclasses.replace(keypoint_set, sigmas=(FALLBACK_SIGMA,) * len(keypoint_set)),
        udp=True,
        read=_read,
        splits=splits,
        # COCO asks for more than 8 of its 17 keypoints; the same share of a smaller set, else it had no such views.
        augment_defaults={"half_body_min_keypoints": min(8, len(keypoint_set) // 2)},
    )


def notes(files: CustomFiles, images: Mapping[str, int]) -> list[str]:
    """What a report says of where the evaluation split comes from.

    Args:
        files: what was asked for.
        images: number of stored images of each split that is built.
    """
    if "val" not in images:
        return [
            "There is no split 'val', so training cannot be judged. Give an annotation file with --val, or hold out "
            "a part of the images with --val-fraction 0.1. To train without evaluation: "
            f'train.py --config.datasets.{CUSTOM}.eval_split=""'
        ]
    if files.val_fraction is None:
        return []
    of = f" of {images['val'] + images['train']}" if "train" in images else ""
    return [
        f"The split 'val' is {images['val']}{of} images with annotations of {files.train}: --val-fraction "
        f"{files.val_fraction:g}, drawn at random with seed {SPLIT_SEED}. If images resemble each other, as a video's "
        "do, the metric looks better than it is: divide the file yourself, and give its parts as --train and --val."
    ]


def check_sides(keypoint_set: KeypointSet) -> None:
    """Raises ValueError if a keypoint is named left or right (or L, R) but does not swap with that of the other side.

    Training mirrors half of its crops, and evaluation averages with the mirrored crop: a side that does not change its
    name there is learned wrong.
    """
    partner_of = {a: b for pair in keypoint_set.swap for a, b in (pair, pair[::-1])}
    by_words = {_words(name): name for name in keypoint_set.names}
    for name in keypoint_set.names:
        words = _words(name)
        mirrored = tuple(_OTHER_SIDE.get(word, word) for word in words)
        if mirrored == words:
            continue
        partner = by_words.get(mirrored)
        if partner is None and not {"left", "right"} & set(words):
            continue  # a letter alone may mean something else: L2 is a vertebra
        if partner is None:
            raise ValueError(
                f"keypoint set {keypoint_set.name!r}: {name!r} has no partner on the other side; if it has none in "
                "nature either, give it a name without a side"
            )
        if partner_of.get(name) != partner:
            raise ValueError(
                f"keypoint set {keypoint_set.name!r}: {name!r} and {partner!r} lie on opposite sides, but are no pair "
                f"of swap; add [{name!r}, {partner!r}] to it"
            )


def _words(name: str) -> tuple[str, ...]:
    """The words of a name such as left_eye, LeftEye, "eye L"."""
    return tuple(word.lower() for word in _WORD.findall(name))


def _read(path: pathlib.Path, keypoint_set: KeypointSet, *, part: tuple[str, float] | None = None) -> Annotations:
    """Reads an annotation file as `coco_format.read_coco` does, and is stricter.

    Faults besides those of the format: an annotation that is no crowd and has no box, no keypoints, or none that is
    labelled; a box that reaches outside its image; labelled keypoints far outside the image or the box; an iscrowd
    other than 0 and 1. An area that is missing or 0 is taken for 0.53 of the box, and categories are not told apart.

    Args:
        path: annotation file.
        keypoint_set: of the set.
        part: read a split of the file only: its name, and the fraction of the images in "val".

    Raises:
        ValueError: the file is not COCO's format, or names other keypoints, or the same in another order.
    """
    content = read_json(path)
    check_coco(content, path)
    _check_names(content, path, keypoint_set)
    if part is not None:
        content = _part(content, *part)
    annotations = [
        _completed(entry, len(keypoint_set)) if isinstance(entry, dict) else entry for entry in content["annotations"]
    ]
    check = functools.partial(_check_annotation, names=keypoint_set.names)
    read = parse_coco({**content, "annotations": annotations}, path, keypoint_set, check=check)
    category = {"id": 1, "name": keypoint_set.name, "keypoints": list(keypoint_set.names)}
    return dataclasses.replace(read, for_evaluation={**(read.for_evaluation or {}), "categories": [category]})


def _check_names(content: Mapping[str, Any], path: pathlib.Path, keypoint_set: KeypointSet) -> None:
    """Annotation files may name their keypoints; then the names decide whether the two files belong together."""
    named = [entry.get("category_id") for entry in content["annotations"] if isinstance(entry, dict)]
    used = {category_id for category_id in named if type(category_id) is int}
    categories = content.get("categories")
    for category in categories if isinstance(categories, list) else []:
        names = category.get("keypoints") if isinstance(category, dict) and category.get("id") in used else None
        if names and list(names) != list(keypoint_set.names):
            raise ValueError(
                f"{path} names the keypoints of category {category.get('name')!r} {list(names)}, but keypoint set "
                f"{keypoint_set.name!r} has {list(keypoint_set.names)}; they need to be the same in the same order"
            )


def _part(content: Mapping[str, Any], split: str, val_fraction: float) -> dict[str, Any]:
    """The images of one split, and their annotations. What names no image stays with the training split.

    Raises:
        ValueError: no image would be left to train on.
    """

    def whole(entries: list, key: str) -> set[int]:
        values = (entry.get(key) for entry in entries if isinstance(entry, dict) and not entry.get("iscrowd"))
        return {value for value in values if type(value) is int}

    ids = sorted(whole(content["images"], "id") & whole(content["annotations"], "image_id"))
    count = max(1, round(val_fraction * len(ids)))
    if count >= len(ids):
        raise ValueError(
            f"--val-fraction {val_fraction:g} of {len(ids)} images with annotations leaves none to train on"
        )
    held_out = set(np.random.default_rng(SPLIT_SEED).permutation(ids)[:count].tolist())

    def belongs(entry: Any, key: str) -> bool:
        image_id = entry.get(key) if isinstance(entry, dict) else None
        return (type(image_id) is int and image_id in held_out) == (split == "val")

    return {
        **content,
        "images": [entry for entry in content["images"] if belongs(entry, "id")],
        "annotations": [entry for entry in content["annotations"] if belongs(entry, "image_id")],
    }


def _completed(entry: Mapping[str, Any], num_keypoints: int) -> dict[str, Any]:
    """An annotation with the fields that labelling tools leave out or leave 0. What is malformed stays as it is."""
    crowd = entry.get("iscrowd", 0)
    done = {**entry, "category_id": 1, "iscrowd": int(crowd) if crowd in (0, 1) else crowd}
    if done["iscrowd"] == 1:
        return {"area": 0, "bbox": [0, 0, 0, 0], **done, "keypoints": [0] * 3 * num_keypoints, "num_keypoints": 0}
    keypoints, bbox = entry.get("keypoints"), entry.get("bbox")
    with contextlib.suppress(TypeError, ValueError):  # no numbers: reading them will say so
        visible = np.array(keypoints, np.float64).reshape(-1)[2::3]
        done["num_keypoints"] = int(np.count_nonzero(visible > 0))
    if not entry.get("area") and isinstance(bbox, list) and len(bbox) == 4:
        sides = bbox[2:]
        if all(isinstance(side, int | float) and side > 0 for side in sides):
            done["area"] = _AREA_OF_BOX * sides[0] * sides[1]
    return done


def _check_annotation(entry: Mapping[str, Any], image_size: tuple[int, int], *, names: Sequence[str]) -> None:
    """Raises ValueError for a sound annotation that could only be left out, or that cannot be meant so; see `_read`."""
    if entry["iscrowd"] not in (0, 1):
        raise ValueError(f"its iscrowd is {entry['iscrowd']!r:.80}; it needs to be 0 or 1")
    if entry["iscrowd"]:
        return
    for key in ("keypoints", "bbox"):
        if key not in entry:
            raise ValueError(f"it has no {key}")
        if np.ndim(entry[key]) != 1:
            raise ValueError(f"its {key} is a list of lists; it needs to be one list of numbers")
    if not entry["num_keypoints"]:
        raise ValueError("all of its keypoints are invisible (visibility 0)")
    height, width = image_size
    if entry.get("area", 1) <= 0:
        raise ValueError(f"its area is {entry['area']}")
    x, y, w, h = numbers(entry, "bbox", 4)
    inside = min(x, y) >= -_BORDER_PX and x + w <= width + _BORDER_PX and y + h <= height + _BORDER_PX
    if not inside or clean_box(np.array([x, y, w, h], np.float64), image_size) is None:
        raise ValueError(
            f"its bbox {entry['bbox']} reaches outside of the image or has no extent; it needs to be x, y, width, "
            f"height in pixels (no corners, no centre), inside of {width} x {height}"
        )
    keypoints = numbers(entry, "keypoints", 3 * len(names)).reshape(-1, 3)
    labelled = np.flatnonzero(keypoints[:, 2] > 0)
    points = keypoints[labelled, :2]

    off_image = _outside(points, (0, 0, width, height))
    off_box = _outside(points, (x, y, w, h))
    for off, limit, what in (
        (off_image, _OFF_IMAGE * max(width, height), f"the image of {width} x {height}"),
        (off_box, _OFF_BOX * max(w, h), f"its bbox {entry['bbox']}"),
    ):
        if off.max() > limit:
            worst = off.argmax()
            at = ", ".join(f"{coordinate:g}" for coordinate in points[worst])
            raise ValueError(
                f"its keypoint {names[labelled[worst]]!r} at ({at}) is {off[worst]:.0f} pixels outside of {what}; "
                f"{_MIXED_UP}"
            )
    far = np.count_nonzero(off_box > _MOST_OFF_BOX * max(w, h))
    if 2 * far > len(labelled):
        raise ValueError(
            f"{far} of its {len(labelled)} labelled keypoints are far outside of its bbox {entry['bbox']}; {_MIXED_UP}"
        )


def _outside(points: np.ndarray, box_xywh: Sequence[float]) -> np.ndarray:
    """float64 [N]: how far points [N, 2] lie outside of a box, along x or y, whichever is more; 0 inside."""
    x, y, w, h = box_xywh
    return np.maximum(np.maximum([x, y] - points, points - [x + w, y + h]).max(axis=1), 0)
