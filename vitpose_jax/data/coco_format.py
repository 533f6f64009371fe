"""COCO's file formats: annotation files with keypoints, and files of a person detector's boxes.

COCO-WholeBody extends the format: an annotation holds its keypoints in five lists.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from vitpose_jax.data.annotations import (
    Annotations,
    InstanceRow,
    check_object,
    integer,
    label,
    make_images,
    make_instances,
    numbers,
    text,
)
from vitpose_jax.data.files import read_json
from vitpose_jax.data.tables import Images
from vitpose_jax.keypoints import KeypointSet

_PERSON_CATEGORY = 1

# Raises ValueError if an annotation, on an image of (height, width), is sound but not as one's own labels should be.
Check = Callable[[Mapping[str, Any], tuple[int, int]], None]


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How an annotation holds its keypoints.

    Attributes:
        parts: the lists that make up the keypoint set, with the number of keypoints in each. The first one decides
            whether an instance is usable.
        graded: visibilities may be any number from 0 on, as whole-body hands have them; else they are 0, 1 or 2.
        counted: a num_keypoints of 0 makes an instance unusable.
    """

    parts: Mapping[str, int]
    graded: bool = False
    counted: bool = True


_WHOLEBODY = _Layout(
    parts={"keypoints": 17, "foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21},
    graded=True,
    counted=False,
)


def read_coco(path: pathlib.Path, keypoint_set: KeypointSet) -> Annotations:
    """Reads an annotation file in COCO's keypoint format.

    An instance is usable if it is no crowd, has a box with an extent inside the image, an area above 0 (if it has one)
    and a labelled keypoint. Occluded (1) and visible (2) keypoints both weigh 1.

    Args:
        path: annotation file.
        keypoint_set: sets the number of keypoints.

    Returns:
        Its tables and faults.

    Raises:
        ValueError: the file is no JSON, or not COCO's format.

    Source: mmpose topdown_coco_dataset.py::_load_coco_keypoint_annotation_kernel.
    """
    return parse_coco(read_json(path), path, keypoint_set)


def read_wholebody(path: pathlib.Path, keypoint_set: KeypointSet) -> Annotations:
    """Reads an annotation file of COCO-WholeBody: body, feet, face, left and right hand, joined in this order.

    Like `read_coco`, but for these: whether an instance is usable is the body's matter alone, num_keypoints is not
    looked at, and a keypoint weighs 1 as soon as its visibility, which may be a fraction, is above 0.

    Args:
        path: annotation file.
        keypoint_set: "wholebody".

    Raises:
        ValueError: the file is no JSON, or not COCO's format.

    Source: mmpose topdown_coco_wholebody_dataset.py::_load_coco_keypoint_annotation_kernel.
    """
    return _parse(read_json(path), path, len(keypoint_set), _WHOLEBODY, None)


def parse_coco(
    content: Any, path: pathlib.Path, keypoint_set: KeypointSet, *, check: Check | None = None
) -> Annotations:
    """Like `read_coco`, for the content of the file `path`; what `check` refuses is a fault, too.

    With a `check`, the content for evaluation is given in any case.
    """
    return _parse(content, path, len(keypoint_set), _Layout({"keypoints": len(keypoint_set)}), check)


def check_coco(content: Any, path: pathlib.Path) -> None:
    """Raises ValueError unless the content of the file `path` has COCO's two lists."""
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise ValueError(
            f'{path} is not in COCO\'s format: it needs an object with the lists "images" and "annotations"'
        )


def _parse(content: Any, path: pathlib.Path, num_keypoints: int, layout: _Layout, check: Check | None) -> Annotations:
    check_coco(content, path)
    faults: list[str] = []
    images, sound_images = _read_images(content["images"], faults)
    rows, sound_annotations = _read_instances(content["annotations"], images, layout, check, faults)
    listed = {entry["id"] for entry in content["images"] if isinstance(entry, dict) and type(entry.get("id")) is int}
    return Annotations(
        images=images,
        instances=make_instances(rows, num_keypoints),
        faults=faults,
        faulty_image_ids=sorted(listed - set(images.image_id.tolist())),
        # pycocotools refuses files with broken entries.
        for_evaluation={**content, "images": sound_images, "annotations": sound_annotations}
        if faults or check is not None
        else None,
    )


def _read_images(entries: list, faults: list[str]) -> tuple[Images, list[dict]]:
    """The sound ones of "images", as a table and as they are. Appends a sentence for each other one to `faults`."""
    rows: dict[int, tuple[str, tuple[int, int]]] = {}
    sound = []
    for number, entry in enumerate(entries):
        try:
            image_id, name, size = _image(entry)
            if image_id in rows:
                raise ValueError("another image has the same id")
        except ValueError as error:
            faults.append(f"{label('image', entry, number)}: {error}")
            continue
        rows[image_id] = name, size
        sound.append(entry)
    return make_images(rows), sound


def _read_instances(
    entries: list, images: Images, layout: _Layout, check: Check | None, faults: list[str]
) -> tuple[list[InstanceRow], list[dict]]:
    """The usable ones of "annotations" as rows, and all sound ones as they are.

    Appends a sentence for each that is not sound to `faults`.
    """
    by_image: dict[int, list[tuple[int, dict]]] = {image_id: [] for image_id in images.image_id.tolist()}
    seen_ids = set()
    for number, entry in enumerate(entries):
        try:
            annotation_id = integer(entry, "id")
            if annotation_id in seen_ids:
                raise ValueError("another annotation has the same id")
            seen_ids.add(annotation_id)
            image_id = integer(entry, "image_id")
            if image_id not in by_image:
                raise ValueError(f"its image_id {image_id} is not among the (faultless) images of the file")
        except ValueError as error:
            faults.append(f"{label('annotation', entry, number)}: {error}")
            continue
        by_image[image_id].append((number, entry))

    rows: list[InstanceRow] = []
    sound: list[tuple[int, dict]] = []
    for image, (image_id, numbered) in enumerate(by_image.items()):
        bbox_id = 0
        height, width = images.size[image].tolist()
        for number, entry in numbered:
            try:
                category_id = integer(entry, "category_id")
                instance = _instance(entry, (height, width), layout)
                if check is not None:
                    check(entry, (height, width))
            except ValueError as error:
                name = label("annotation", entry, number)
                faults.append(f"{name} of image {images.file_name[image]}: {error}")
                continue
            sound.append((number, entry))
            if instance is not None:
                rows.append(InstanceRow(image, image_id, entry["id"], category_id, bbox_id, *instance))
                bbox_id += 1
    return rows, [entry for _, entry in sorted(sound, key=lambda numbered: numbered[0])]


def _image(entry: Any) -> tuple[int, str, tuple[int, int]]:
    """(id, file name, (height, width)) of an entry of "images"."""
    image_id, name = integer(entry, "id"), text(entry, "file_name")
    size = integer(entry, "height"), integer(entry, "width")
    if min(size) < 1:
        raise ValueError(f"its height and width are {size[0]} and {size[1]}")
    return image_id, name, size


def _instance(
    entry: Mapping, image_size: tuple[int, int], layout: _Layout
) -> tuple[list[float], float, np.ndarray] | None:
    """(bbox_xywh, area, [K, 3] keypoints) of an entry of "annotations"; None if it is sound but of no use."""
    if entry.get("iscrowd"):
        return None
    area = numbers(entry, "area", 1)[0] if "area" in entry else np.nan
    bbox = numbers(entry, "bbox", 4) if "bbox" in entry else None
    deciding, *_ = layout.parts
    points = _keypoints(entry, deciding, layout) if deciding in entry else None

    if bbox is None or points is None or area <= 0 or points.max() == 0:
        return None
    if layout.counted and entry.get("num_keypoints") == 0:
        return None
    clean = clean_box(bbox, image_size)
    if clean is None:
        return None
    points = np.concatenate([_keypoints(entry, part, layout) for part in layout.parts]).astype(np.float32)
    points[:, 2] = points[:, 2] > 0
    return clean, area, points


def _keypoints(entry: Mapping, part: str, layout: _Layout) -> np.ndarray:
    """float64 [count, 3], (x, y, visibility): one of an entry's lists of keypoints."""
    points = numbers(entry, part, 3 * layout.parts[part]).reshape(-1, 3)
    visible = points[:, 2]
    if layout.graded and visible.min() < 0:
        raise ValueError(f"visibilities in its {part} are at least 0, not {visible.min()}")
    if not layout.graded and not np.isin(visible, (0, 1, 2)).all():
        raise ValueError(f"visibilities are 0, 1 or 2, not {sorted(set(visible.tolist()) - {0, 1, 2})}")
    return points


def clean_box(bbox: np.ndarray, image_size: tuple[int, int]) -> list[float] | None:
    """An annotated box (x, y, width, height) as the original uses it; None if it has no extent inside the image.

    Its ends are the last pixels that belong to it, hence the 1s. A box that begins outside the image is moved in.
    """
    height, width = image_size
    left, top = max(0.0, bbox[0]), max(0.0, bbox[1])
    right = min(width - 1, left + max(0.0, bbox[2] - 1))
    bottom = min(height - 1, top + max(0.0, bbox[3] - 1))
    if right <= left or bottom <= top:
        return None
    return [left, top, right - left, bottom - top]


class DetectedBox(NamedTuple):
    """A detector's box around a person.

    Attributes:
        image_id: of the image that it lies on.
        bbox_xywh: float64 [4], image pixels.
        score: the detector's confidence.
    """

    image_id: int
    bbox_xywh: np.ndarray
    score: float


def read_coco_boxes(path: pathlib.Path) -> list[DetectedBox]:
    """Reads a detector's boxes of persons (category 1), in the file's order.

    Args:
        path: JSON list of {image_id, category_id, bbox (x, y, width, height), score}.

    Raises:
        ValueError: the file is no such list; the message names its first faulty entry.

    Source: mmpose topdown_coco_dataset.py::_load_coco_person_detection_results.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        raise ValueError(f"{path} needs to be a JSON list of boxes, not a {type(entries).__name__}")
    boxes = []
    for number, entry in enumerate(entries):
        try:
            check_object(entry)
            image_id, category = integer(entry, "image_id"), integer(entry, "category_id")
            bbox, score = numbers(entry, "bbox", 4), numbers(entry, "score", 1)[0]
            if min(bbox[2:]) <= 0:
                raise ValueError(f"its width and height are {bbox[2]} and {bbox[3]}")
        except ValueError as error:
            raise ValueError(f"{path}: box number {number}: {error}") from None
        if category == _PERSON_CATEGORY:
            boxes.append(DetectedBox(image_id, bbox, score))
    return boxes
