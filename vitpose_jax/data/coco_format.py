"""COCO's file formats: annotation files with keypoints, and files of a person detector's boxes.

An entry that breaks the format is described by one sentence that names it; of files with many such entries a person
wants to see them all at once.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vitpose_jax.data.files import read_json
from vitpose_jax.data.tables import Images, Instances
from vitpose_jax.keypoints import KeypointSet

_PERSON_CATEGORY = 1


@dataclasses.dataclass(frozen=True)
class Annotations:
    """An annotation file as read: every image that it lists, every usable instance, and what is wrong with it.

    Attributes:
        images: the listed images, in the file's order.
        instances: ordered by image, within an image in the file's order.
        faults: one sentence for each entry that breaks the format. Such an entry is in neither table.
        faulty_image_ids: ids of the listed images that are not in `images`, because their entries break the format.
    """

    images: Images
    instances: Instances
    faults: list[str]
    faulty_image_ids: list[int]


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
    content = read_json(path)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise ValueError(
            f'{path} is not in COCO\'s format: it needs an object with the lists "images" and "annotations"'
        )
    faults: list[str] = []
    images = _read_images(content["images"], faults)
    instances = _read_instances(content["annotations"], images, len(keypoint_set), faults)
    listed = {entry["id"] for entry in content["images"] if isinstance(entry, dict) and type(entry.get("id")) is int}
    return Annotations(images, instances, faults, sorted(listed - set(images.image_id.tolist())))


def _read_images(entries: list, faults: list[str]) -> Images:
    """The sound ones of "images". Appends a sentence for each other one to `faults`."""
    rows: dict[int, tuple[str, tuple[int, int]]] = {}
    for number, entry in enumerate(entries):
        try:
            image_id, name, size = _image(entry)
            if image_id in rows:
                raise ValueError("another image has the same id")
        except ValueError as error:
            faults.append(f"{_label('image', entry, number)}: {error}")
            continue
        rows[image_id] = name, size
    return Images(
        image_id=np.array(list(rows), np.int64),
        file_name=np.array([name for name, _ in rows.values()], str),
        size=np.array([size for _, size in rows.values()], np.int32).reshape(-1, 2),
    )


def _read_instances(entries: list, images: Images, num_keypoints: int, faults: list[str]) -> Instances:
    """The usable ones of "annotations". Appends a sentence for each that is not sound to `faults`."""
    by_image: dict[int, list[tuple[int, dict]]] = {image_id: [] for image_id in images.image_id.tolist()}
    seen_ids = set()
    for number, entry in enumerate(entries):
        try:
            annotation_id = _integer(entry, "id")
            if annotation_id in seen_ids:
                raise ValueError("another annotation has the same id")
            seen_ids.add(annotation_id)
            image_id = _integer(entry, "image_id")
            if image_id not in by_image:
                raise ValueError(f"its image_id {image_id} is not among the (faultless) images of the file")
        except ValueError as error:
            faults.append(f"{_label('annotation', entry, number)}: {error}")
            continue
        by_image[image_id].append((number, entry))

    rows: list[tuple] = []
    for image, (image_id, numbered) in enumerate(by_image.items()):
        bbox_id = 0
        for number, entry in numbered:
            try:
                instance = _instance(entry, images.size[image].tolist(), num_keypoints)
            except ValueError as error:
                label = _label("annotation", entry, number)
                faults.append(f"{label} of image {images.file_name[image]}: {error}")
                continue
            if instance is not None:
                rows.append((image, image_id, entry["id"], bbox_id, *instance))
                bbox_id += 1

    columns = list(zip(*rows, strict=True)) or [()] * 7
    return Instances(
        image=np.array(columns[0], np.int32),
        image_id=np.array(columns[1], np.int64),
        annotation_id=np.array(columns[2], np.int64),
        bbox_id=np.array(columns[3], np.int64),
        bbox_xywh=np.array(columns[4], np.float64).reshape(-1, 4),
        bbox_score=np.ones(len(rows)),
        area=np.array(columns[5], np.float64),
        keypoints=np.array(columns[6], np.float32).reshape(-1, num_keypoints, 3),
    )


def _image(entry: Any) -> tuple[int, str, tuple[int, int]]:
    """(id, file name, (height, width)) of an entry of "images"."""
    image_id = _integer(entry, "id")
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"it needs a file_name, not {name!r}")
    size = _integer(entry, "height"), _integer(entry, "width")
    if min(size) < 1:
        raise ValueError(f"its height and width are {size[0]} and {size[1]}")
    return image_id, name, size


def _instance(
    entry: Mapping, image_size: tuple[int, int], num_keypoints: int
) -> tuple[list[float], float, np.ndarray] | None:
    """(bbox_xywh, area, [K, 3] keypoints) of an entry of "annotations"; None if it is sound but of no use."""
    if entry.get("iscrowd"):
        return None
    area = _numbers(entry, "area", 1)[0] if "area" in entry else np.nan
    bbox = _numbers(entry, "bbox", 4) if "bbox" in entry else None
    flat = _numbers(entry, "keypoints", 3 * num_keypoints) if "keypoints" in entry else None
    if flat is not None and not np.isin(flat[2::3], (0, 1, 2)).all():
        raise ValueError(f"visibilities are 0, 1 or 2, not {sorted(set(flat[2::3].tolist()) - {0, 1, 2})}")

    if bbox is None or flat is None or area <= 0 or flat.max() == 0 or entry.get("num_keypoints") == 0:
        return None
    # Ends are the last pixel that belongs to the box, hence the 1s. A box that begins outside the image is moved in.
    height, width = image_size
    left, top = max(0.0, bbox[0]), max(0.0, bbox[1])
    right = min(width - 1, left + max(0.0, bbox[2] - 1))
    bottom = min(height - 1, top + max(0.0, bbox[3] - 1))
    if right <= left or bottom <= top:
        return None
    points = flat.reshape(-1, 3).astype(np.float32)
    points[:, 2] = np.minimum(points[:, 2], 1)
    return [left, top, right - left, bottom - top], area, points


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
            image_id, category = _integer(entry, "image_id"), _integer(entry, "category_id")
            bbox, score = _numbers(entry, "bbox", 4), _numbers(entry, "score", 1)[0]
            if min(bbox[2:]) <= 0:
                raise ValueError(f"its width and height are {bbox[2]} and {bbox[3]}")
        except KeyError as error:
            raise ValueError(f"{path}: box number {number} has no {error.args[0]}") from None
        except ValueError as error:
            raise ValueError(f"{path}: box number {number}: {error}") from None
        if category == _PERSON_CATEGORY:
            boxes.append(DetectedBox(image_id, bbox, score))
    return boxes


def _integer(entry: Any, key: str) -> int:
    """A whole number of an entry."""
    if not isinstance(entry, dict):
        raise ValueError(f"an object is needed here, not {entry!r:.80}")
    if key not in entry:
        raise ValueError(f"it has no {key}")
    value = entry[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"its {key} is {value!r:.80}, not a whole number")
    return value


def _numbers(entry: Mapping, key: str, count: int) -> np.ndarray:
    """float64 [count]: finite numbers of an entry."""
    value = entry[key]
    try:
        numbers = np.array(value, np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise ValueError(f"its {key} is {value!r:.80}, not a list of numbers") from None
    if len(numbers) != count:
        raise ValueError(f"its {key} has {len(numbers)} numbers instead of {count}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"its {key} holds NaN or infinity")
    return numbers


def _label(kind: str, entry: Any, number: int) -> str:
    """Names an entry for a person who must find it."""
    entry = entry if isinstance(entry, dict) else {}
    label = f"{kind} {entry['id']!r:.40}" if "id" in entry else f"{kind} without id, number {number} in its list"
    extra = [f"{key} {entry[key]!r:.80}" for key in ("file_name", "image_id") if key in entry]
    return f"{label} ({', '.join(extra)})" if extra else label
