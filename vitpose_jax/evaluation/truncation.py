"""Evaluation on truncated instances: half of each annotated box, everything beyond its cut unseen and not scored."""

import contextlib
import dataclasses
import json
import pathlib
import tempfile
from collections.abc import Iterator

import numpy as np

from vitpose_jax.data.datasets import Split
from vitpose_jax.data.files import read_json
from vitpose_jax.data.truncate import is_shown, truncate
from vitpose_jax.evaluation.coco_variants import WHOLEBODY_FIELDS
from vitpose_jax.evaluation.scoring import HEADLINE

SHARE = 0.5  # of a box that is kept


def check_truncation(split: Split, boxes: str) -> None:
    """Raises ValueError if a data set has no AP, or boxes are not the annotated ones, which parts are taken of."""
    if HEADLINE[split.dataset.metric] != "AP":
        raise ValueError(f"truncated boxes are scored by AP, {split!r} is scored by {HEADLINE[split.dataset.metric]}")
    if boxes != "annotations":
        raise ValueError(
            f"truncated boxes are parts of annotated ones, not of {boxes}; set config.eval.boxes=annotations"
        )


@contextlib.contextmanager
def truncated_split(split: Split, part: str) -> Iterator[tuple[Split, np.ndarray]]:
    """A split of which a part of every instance is left.

    Keypoints that are cut off are not labelled in its annotation file, which exists until the context is left. Areas
    stay those of the whole instances: the same distance in pixels is the same error, whatever is cut off.

    Args:
        split: has average precision for its metric.
        part: one of `truncate.PARTS`. Where a "random" part lies depends on the instance's row alone.

    Yields:
        (the split with truncated instances, int64 [P, 4] what is left of each one's picture, see `Truncated`).
    """
    instances = split.instances
    parts = [
        truncate(bbox, part, share=SHARE, place=tuple(np.random.default_rng(row).random(2)))
        for row, bbox in enumerate(instances.bbox_xywh)
    ]
    pictures = np.stack([one.picture_ltrb for one in parts])
    keypoints = instances.keypoints * is_shown(instances.keypoints[:, :, :2], pictures)[:, :, None]
    content = read_json(split.annotation_file)
    picture_of = dict(zip(instances.annotation_id.tolist(), pictures, strict=True))
    for annotation in content["annotations"]:
        if annotation["id"] in picture_of:
            _cut_off(annotation, picture_of[annotation["id"]])
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / split.annotation_file.name
        path.write_text(json.dumps(content))
        bbox_xywh = np.stack([one.bbox_xywh for one in parts])
        yield dataclasses.replace(
            split, annotation_file=path,
            instances=dataclasses.replace(instances, bbox_xywh=bbox_xywh, keypoints=keypoints),
        ), pictures  # fmt: skip


def _cut_off(annotation: dict, picture_ltrb: np.ndarray) -> None:
    """Takes the labels of an annotation's keypoints that are not shown."""
    for field in WHOLEBODY_FIELDS.keys() & annotation.keys():
        points = np.array(annotation[field], np.float64).reshape(-1, 3)
        points[~is_shown(points[:, :2], picture_ltrb)] = 0
        annotation[field] = points.ravel().tolist()
        if field == "keypoints" and "num_keypoints" in annotation:
            annotation["num_keypoints"] = min(annotation["num_keypoints"], int(np.count_nonzero(points[:, 2])))
