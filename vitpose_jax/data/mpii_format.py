"""The annotation files of MPII as mmpose converted them: a JSON list with one entry for each person."""

import pathlib
from typing import Any

import numpy as np

from vitpose_jax.data.annotations import (
    Annotations,
    InstanceRow,
    check_object,
    label,
    make_images,
    make_instances,
    numbers,
    text,
)
from vitpose_jax.data.files import read_json
from vitpose_jax.keypoints import KeypointSet

_UNIT_PX = 200.0  # MPII's "scale" is a person's height in units of this
_SHIFT_DOWN = 15.0  # the annotated centre lies high on the body: it is moved down by this times the scale
_PADDING = 1.25  # of the row in `catalog`; an entry without a centre is not padded


def read_mpii(path: pathlib.Path, keypoint_set: KeypointSet) -> Annotations:
    """Reads an annotation file of MPII: entries {image, center, scale, joints, joints_vis}.

    A box is the square of side 200 * scale about the centre, 15 * scale further down. Coordinates of the file count
    from 1, those of the tables from 0. The file says no image ids and sizes: images are numbered from 0, as they first
    occur. `annotation_id` and `bbox_id` are an entry's place in the list, which is its column in mpii_gt_val.mat.

    Args:
        path: annotation file.
        keypoint_set: "mpii".

    Raises:
        ValueError: the file is no JSON list.

    Source: mmpose topdown_mpii_dataset.py::_get_db.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        raise ValueError(f"{path} is not in MPII's format: it needs a list of people, not a {type(entries).__name__}")
    image_rows: dict[str, int] = {}
    rows: list[InstanceRow] = []
    faults = []
    for number, entry in enumerate(entries):
        try:
            check_object(entry)
            bbox, points, name = _box(entry), _keypoints(entry, len(keypoint_set)), text(entry, "image")
        except ValueError as error:
            faults.append(f"{label('annotation', entry, number)}: {error}")
            continue
        image = image_rows.setdefault(name, len(image_rows))
        rows.append(
            InstanceRow(
                image=image, image_id=image, annotation_id=number, category_id=1, bbox_id=number, bbox_xywh=bbox,
                area=np.nan, keypoints=points,
            )
        )  # fmt: skip
    rows.sort(key=lambda row: (row.image, row.bbox_id))
    images = make_images({image: (name, (0, 0)) for name, image in image_rows.items()})
    return Annotations(images, make_instances(rows, len(keypoint_set)), faults)


def _box(entry: dict[str, Any]) -> list[float]:
    """The square (x, y, width, height). Sums in float32, as the original's."""
    x, y = numbers(entry, "center", 2).astype(np.float32)
    scale = numbers(entry, "scale", 1).astype(np.float32)[0]
    if scale <= 0:
        raise ValueError(f"its scale is {scale}")
    side = float(scale) * _UNIT_PX
    if x == -1:  # no centre is known
        side /= _PADDING
    else:
        y += np.float32(_SHIFT_DOWN) * scale
    return [float(x - 1) - side / 2, float(y - 1) - side / 2, side, side]


def _keypoints(entry: dict[str, Any], num_keypoints: int) -> np.ndarray:
    """float32 [K, 3]: x, y, weight."""
    points = numbers(entry, "joints", 2 * num_keypoints).reshape(-1, 2) - 1
    visible = numbers(entry, "joints_vis", num_keypoints)
    if not np.isin(visible, (0, 1)).all():
        raise ValueError(f"its joints_vis are 0 or 1, not {sorted(set(visible.tolist()) - {0, 1})}")
    return np.concatenate([points, visible[:, None]], axis=1).astype(np.float32)
