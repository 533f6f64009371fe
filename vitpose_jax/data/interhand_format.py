"""The annotation files of InterHand2.6M: images and validity, cameras, and keypoints in world coordinates."""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from vitpose_jax.data.annotations import (
    Annotations,
    InstanceRow,
    field_of,
    integer,
    label,
    make_images,
    make_instances,
    numbers,
    text,
)
from vitpose_jax.data.coco_format import check_coco
from vitpose_jax.data.files import read_json
from vitpose_jax.keypoints import KeypointSet
from vitpose_jax.progress import progress_bar

_DATA_ENDING, _CAMERA_ENDING, _JOINTS_ENDING = "_data.json", "_camera.json", "_joint_3d.json"
_HANDS = 2  # right, left
_VALID_ENOUGH = 11  # a hand is an instance if more than this many of its keypoints are valid
_SMALL = np.float32(1e-8)  # keeps the division by the depth finite


class _Camera(NamedTuple):
    position: np.ndarray  # float32 [3], world millimetres
    rotation: np.ndarray  # float32 [3, 3], world to camera
    focal: np.ndarray  # float32 [2], pixels
    principal: np.ndarray  # float32 [2], pixels


def read_interhand(path: pathlib.Path, keypoint_set: KeypointSet) -> Annotations:
    """Reads an annotation file of InterHand2.6M, and the files of cameras and keypoints beside it.

    Keypoints are projected into the image. A hand is an instance if its wrist and altogether more than 11 of its
    keypoints are valid; its box is the tight one around its valid keypoints. So an image has up to two instances, both
    with the id of the image's first annotation.

    Args:
        path: ``InterHand2.6M_<split>_data.json``; ``…_camera.json`` and ``…_joint_3d.json`` lie beside it.
        keypoint_set: "interhand".

    Raises:
        ValueError: a file is no JSON or not in this format, or `path` has another name.
        OSError: a file beside it is missing.

    Source: mmpose interhand2d_dataset.py::_get_db.
    """
    if not path.name.endswith(_DATA_ENDING):
        raise ValueError(f"{path} needs to end in {_DATA_ENDING}, so that the files beside it can be found")
    stem = path.name.removesuffix(_DATA_ENDING)
    content = read_json(path)
    check_coco(content, path)
    cameras, joints = (read_json(path.with_name(stem + ending)) for ending in (_CAMERA_ENDING, _JOINTS_ENDING))
    faults: list[str] = []
    annotations = _first_annotations(content["annotations"], len(keypoint_set), faults)
    known_cameras: dict[tuple[str, str], _Camera] = {}

    images: dict[int, tuple[str, tuple[int, int]]] = {}
    rows: list[InstanceRow] = []
    faulty_ids = set()
    for number, entry in enumerate(progress_bar(content["images"], desc=f"reading {path.name}", unit=" images")):
        try:
            image_id, name = integer(entry, "id"), text(entry, "file_name")
            size = integer(entry, "height"), integer(entry, "width")
            if image_id in images:
                raise ValueError("another image has the same id")
            if image_id not in annotations:
                raise ValueError("it has no annotation")
            annotation_id, valid = annotations[image_id]
            capture, camera = str(integer(entry, "capture")), str(field_of(entry, "camera"))
            if (capture, camera) not in known_cameras:
                known_cameras[capture, camera] = _camera(cameras, capture, camera)
            world = _world_keypoints(joints, capture, str(integer(entry, "frame_idx")), len(keypoint_set))
            points = _project(world, known_cameras[capture, camera]).reshape(_HANDS, len(keypoint_set), 2)
        except ValueError as error:
            faults.append(f"{label('image', entry, number)}: {error}")
            if isinstance(entry, dict) and type(entry.get("id")) is int and entry["id"] not in images:
                faulty_ids.add(entry["id"])
            continue
        hands = [
            (_tight_box(points[hand], hand_valid > 0, size), np.c_[points[hand], hand_valid])
            for hand, hand_valid in enumerate(valid)
            if hand_valid.sum() > _VALID_ENOUGH
        ]
        for bbox, keypoints in hands:
            if min(bbox[2:]) <= 0:
                faults.append(f"{label('image', entry, number)}: a hand's box, {bbox}, has no extent in the image")
                continue
            rows.append(
                InstanceRow(
                    image=len(images), image_id=image_id, annotation_id=annotation_id, category_id=1,
                    bbox_id=len(rows), bbox_xywh=bbox, area=np.nan, keypoints=keypoints,
                )
            )  # fmt: skip
        images[image_id] = name, size
    return Annotations(make_images(images), make_instances(rows, len(keypoint_set)), faults, sorted(faulty_ids))


def _first_annotations(entries: list, num_keypoints: int, faults: list[str]) -> dict[int, tuple[int, np.ndarray]]:
    """(annotation id, float32 [2, K] validity of both hands' keypoints) of each image's first annotation."""
    found: dict[int, tuple[int, np.ndarray]] = {}
    for number, entry in enumerate(entries):
        try:
            image_id = integer(entry, "image_id")
            if image_id in found or entry.get("iscrowd"):
                continue
            valid = numbers(entry, "joint_valid", _HANDS * num_keypoints).reshape(_HANDS, -1)
            # The wrist comes last; without it a hand counts as unknown.
            found[image_id] = integer(entry, "id"), np.minimum(1, valid * valid[:, -1:]).astype(np.float32)
        except ValueError as error:
            faults.append(f"{label('annotation', entry, number)}: {error}")
    return found


def _camera(cameras: Any, capture: str, name: str) -> _Camera:
    try:
        values = [cameras[capture][key][name] for key in ("campos", "camrot", "focal", "princpt")]
        position, rotation, focal, principal = (np.array(value, np.float32) for value in values)
        return _Camera(position.reshape(3), rotation.reshape(3, 3), focal.reshape(2), principal.reshape(2))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"the file of cameras has no sound camera {name} of capture {capture}") from None


def _world_keypoints(joints: Any, capture: str, frame: str, num_keypoints: int) -> np.ndarray:
    """float32 [2K, 3], millimetres."""
    try:
        entry = joints[capture][frame]
    except (KeyError, TypeError):
        raise ValueError(f"the file of keypoints has no frame {frame} of capture {capture}") from None
    return numbers(entry, "world_coord", 3 * _HANDS * num_keypoints).reshape(-1, 3).astype(np.float32)


def _project(world: np.ndarray, camera: _Camera) -> np.ndarray:
    """World points [n, 3] to image pixels, float32 [n, 2]."""
    in_camera = np.dot(camera.rotation, world.T - camera.position[:, None]).T
    return in_camera[:, :2] / (in_camera[:, 2:] + _SMALL) * camera.focal + camera.principal


def _tight_box(points: np.ndarray, valid: np.ndarray, image_size: tuple[int, int]) -> list[float]:
    """(x, y, width, height) around the valid ones of points [K, 2].

    As in the original it begins no further right or down than the image ends, and ends no further left or up than the
    image begins.
    """
    height, width = image_size
    low = np.minimum(points[valid].min(axis=0), np.array([width, height], np.float32))
    high = np.maximum(points[valid].max(axis=0), np.float32(0))
    return [*low.tolist(), *(high - low).tolist()]
