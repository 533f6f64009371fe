"""Where the boxes around instances come from: files in COCO's formats, the whole image, a detector, any function.

A source is a function of a `Picture` that returns `Boxes`. `box_source` makes one from what stands on a command line.
"""

import dataclasses
import importlib
import pathlib
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from vitpose_jax.data.coco_format import clean_box
from vitpose_jax.data.files import read_json
from vitpose_jax.inference.detector import hugging_face_detector

WHOLE, DETECTOR = "whole", "detector"
FORMS = (
    f"FILE.json (COCO detections or annotations), {WHOLE!r} (the image is the box), {DETECTOR!r} or "
    f"'{DETECTOR}:NAME' (Hugging Face's object detection), or 'module:function'"
)


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image on its way: a file of a folder, or a frame of a video.

    Attributes:
        name: path relative to the input folder, with slashes; of a frame its number.
        pixels: uint8 [H_img, W_img, 3], RGB.
        number: of a frame, from 0; None for a file.
    """

    name: str
    pixels: np.ndarray
    number: int | None = None


@dataclasses.dataclass(frozen=True)
class Boxes:
    """The boxes of one image.

    Attributes:
        bboxes_xywh: float64 [P, 4], image pixels.
        scores: float64 [P], the detector's confidence, or 1.
        category_ids: int [P].
        image_id: as the source numbers the image; None where it does not.
    """

    bboxes_xywh: np.ndarray
    scores: np.ndarray
    category_ids: np.ndarray
    image_id: int | None = None


BoxSource = Callable[[Picture], Boxes]


def make_boxes(bboxes_xywh: Any, scores: Any = None, category_ids: Any = None, image_id: int | None = None) -> Boxes:
    """`Boxes` from lists; scores and categories are 1 where there are none."""
    bboxes = np.asarray(bboxes_xywh, np.float64)
    bboxes = bboxes.reshape(-1, 4) if bboxes.size == 0 else bboxes
    ones = np.ones(len(bboxes))
    return Boxes(
        bboxes,
        ones if scores is None else np.asarray(scores, np.float64),
        ones.astype(int) if category_ids is None else np.asarray(category_ids, int),
        image_id,
    )


def box_source(
    source: str,
    *,
    threshold: float,
    names: Sequence[str] = (),
    category_ids: Collection[int] | None = None,
    labels: Collection[str] = ("person",),
) -> BoxSource:
    """The source that a command line names.

    Args:
        source: see `FORMS`.
        threshold: boxes below this confidence are left out.
        names: of the images that will be asked for, which a file must tell apart; none for a video.
        category_ids: only boxes of these categories of a file; None: all.
        labels: what a detector shall look for, in its own words.

    Raises:
        ValueError: there is no such source, or it does not hold what it should.
        ImportError: for a detector without transformers.
    """
    if source == WHOLE:
        return _whole_image
    if source == DETECTOR or source.startswith(f"{DETECTOR}:"):
        detect = hugging_face_detector(source[len(DETECTOR) + 1 :] or None, threshold=threshold, labels=labels)
        return lambda picture: make_boxes(*detect(picture.pixels))
    if pathlib.Path(source).suffix == ".json":
        content = read_json(_existing(pathlib.Path(source)))
        if isinstance(content, list):
            return _detections(source, content, names, threshold, category_ids)
        return _annotations(source, content, names, category_ids)
    if ":" in source:
        return _function(source, threshold)
    raise ValueError(f"--bboxes is {source!r}; expected {FORMS}")


def _existing(path: pathlib.Path) -> pathlib.Path:
    if not path.is_file():
        raise ValueError(f"--bboxes: there is no file {path}")
    return path


def _whole_image(picture: Picture) -> Boxes:
    height, width = picture.pixels.shape[:2]
    return make_boxes([[0, 0, width, height]])


def _detections(
    path: str, entries: list, names: Sequence[str], threshold: float, category_ids: Collection[int] | None
) -> BoxSource:
    """A list of {image_id, category_id, bbox, score}.

    An entry belongs to the image that its file_name names; without one to the image whose name ends in the number
    image_id, or to that frame of a video, counted from 0.
    """
    by_name: dict[str, list[tuple]] = defaultdict(list)
    by_id: dict[int, list[tuple]] = defaultdict(list)
    ids: dict[str, int] = {}
    for number, entry in enumerate(entries):
        try:
            box = [float(value) for value in entry["bbox"]]
            score, category = float(entry["score"]), int(entry.get("category_id", 1))
            if len(box) != 4:
                raise ValueError(f"its bbox has {len(box)} numbers")
            if "file_name" in entry:
                found = by_name[str(entry["file_name"])]
                if "image_id" in entry:
                    ids[str(entry["file_name"])] = int(entry["image_id"])
            else:
                found = by_id[int(entry["image_id"])]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path}: box number {number} is not an object with image_id, category_id, bbox (left, top, width, "
                f"height) and score: {type(error).__name__} {error}"
            ) from None
        if score >= threshold and (category_ids is None or category in category_ids):
            found.append((box, score, category))
    if not any(by_name.values()) and not any(by_id.values()):
        raise ValueError(
            f"{path} has no box with a score of at least {threshold}"
            + (f" in categories {sorted(category_ids)}" if category_ids else "")
        )

    def image_id(name: str) -> int | None:
        digits = pathlib.PurePath(name).stem.rsplit("_", 1)[-1]
        if name in by_name or not by_id or not digits.isdecimal():
            return ids.get(name)
        return int(digits)

    if names and not any(name in by_name or image_id(name) in by_id for name in names):
        raise ValueError(
            f"{path} has no box for any of the {len(names)} images: boxes are found by file_name, the path within the "
            f"folder as in {names[0]!r}, or else by image_id, the number at the end of the name"
        )
    _refuse_shared_ids(path, names, image_id)

    def find(picture: Picture) -> Boxes:
        this_id = picture.number if picture.number is not None else image_id(picture.name)
        found = by_name.get(picture.name) or (by_id.get(this_id) if this_id is not None else None)
        if not found:
            return make_boxes([], image_id=this_id)
        bboxes, scores, categories = zip(*found, strict=True)
        return make_boxes(bboxes, scores, categories, this_id)

    return find


def _annotations(path: str, content: Any, names: Sequence[str], category_ids: Collection[int] | None) -> BoxSource:
    """The boxes of a COCO annotation file, cleaned as for evaluation; groups (iscrowd) are left out."""
    by_image: dict[int, list[tuple]] = defaultdict(list)
    try:
        image_ids = {str(image["file_name"]): int(image["id"]) for image in content["images"]}
        for entry in content["annotations"]:
            category = int(entry.get("category_id", 1))
            if not entry.get("iscrowd") and "bbox" in entry and (category_ids is None or category in category_ids):
                left, top, width, height = (float(value) for value in entry["bbox"])
                by_image[int(entry["image_id"])].append((np.array([left, top, width, height]), category))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is neither a list of detections nor an annotation file with images (id, file_name) and "
            f"annotations (image_id, bbox): {type(error).__name__} {error}"
        ) from None
    if not by_image:
        raise ValueError(f"{path} has no boxes" + (f" in categories {sorted(category_ids)}" if category_ids else ""))
    by_base = _unique_by_base_name(image_ids)

    def image_id(name: str) -> int | None:
        return image_ids.get(name, by_base.get(pathlib.PurePath(name).name))

    if names and all(image_id(name) is None for name in names):
        raise ValueError(
            f"none of the {len(names)} images is in {path}, which has {sorted(image_ids)[:3]} … as file_name"
        )
    _refuse_shared_ids(path, names, image_id)

    def find(picture: Picture) -> Boxes:
        this_id = picture.number if picture.number is not None else image_id(picture.name)
        if this_id is None:
            raise ValueError(f"{picture.name} is not among the images of {path}")
        kept = [
            (clean, category)
            for box, category in by_image.get(this_id, [])
            if (clean := clean_box(box, picture.pixels.shape[:2])) is not None
        ]
        return make_boxes([box for box, _ in kept], None, [category for _, category in kept], this_id)

    return find


def _unique_by_base_name(image_ids: Mapping[str, int]) -> dict[str, int]:
    """Image ids by file name without folders, of the names that occur once."""
    found = defaultdict(list)
    for name, image_id in image_ids.items():
        found[pathlib.PurePath(name).name].append(image_id)
    return {name: ids[0] for name, ids in found.items() if len(ids) == 1}


def _refuse_shared_ids(path: str, names: Sequence[str], image_id: Callable[[str], int | None]) -> None:
    """Raises ValueError if two images have one id: nobody could tell their poses apart."""
    first: dict[int, str] = {}
    for name in names:
        this_id = image_id(name)
        if this_id is not None and first.setdefault(this_id, name) != name:
            raise ValueError(
                f"{first[this_id]} and {name} are both image {this_id} of {path}; give one folder at a time, or boxes "
                "with the file_name of each image"
            )


def _function(source: str, threshold: float) -> BoxSource:
    """A function that takes an RGB image and returns boxes [P, 4], or (boxes, scores [P])."""
    module, _, name = source.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"--bboxes is {source!r}, but there is no function {name!r} in a module {module!r} ({error}); a module in "
            "this folder is found, too. Expected " + FORMS
        ) from error

    def find(picture: Picture) -> Boxes:
        found = function(picture.pixels)
        try:
            boxes = make_boxes(*found) if isinstance(found, tuple) else make_boxes(found)
            sure = boxes.scores.reshape(len(boxes.bboxes_xywh)) >= threshold
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{source} returned {found!r:.200}; expected boxes [P, 4], or (boxes, scores [P])"
            ) from error
        return make_boxes(boxes.bboxes_xywh[sure], boxes.scores[sure])

    return find
