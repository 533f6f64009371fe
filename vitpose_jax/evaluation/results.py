"""From predicted keypoints to COCO's list of results: rescore, suppress repeated people, write.

    predictions = Predictions(keypoints=…, scores=…, …)          # what the model said, in image pixels
    detections = detect(predictions, sigmas=COCO.sigmas)         # rescored, repeated people suppressed
    metrics = coco_metrics(annotation_file, detections, sigmas=COCO.sigmas)
    write_results("results.json", coco_results(detections))      # the list that the COCO server reads
    print_metrics({"coco": metrics}, published={"coco": {"AP": 0.758}})

This file holds all of it but the metrics and their table, which are in `coco` and `table`.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitpose_jax import paths
from vitpose_jax.evaluation.suppression import oks_nms, soft_oks_nms

SUPPRESSIONS = ("oks", "soft_oks", "none")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model predicted for the P boxes of an evaluation set, in any order.

    Attributes:
        keypoints: float [P, K, 2], x and y in image pixels.
        scores: float [P, K], one per keypoint.
        box_cxcywh: float [P, 4], the padded region that the crop showed, image pixels. Its area is the scale of OKS
            between predictions.
        bbox_scores: float [P], the detector's score, or 1 for an annotated box.
        image_ids: int [P].
        instance_ids: int [P], one per box. A repeated id within an image (a sampler's padding) counts once.
        category_ids: int [P], the annotation file's category of each instance.

    Raises:
        ValueError: the shapes disagree, or a value is not finite.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    box_cxcywh: np.ndarray
    bbox_scores: np.ndarray
    image_ids: np.ndarray
    instance_ids: np.ndarray
    category_ids: np.ndarray

    def __post_init__(self):
        people, keypoints = np.shape(self.scores) if np.ndim(self.scores) == 2 else (len(self.scores), "K")
        expected = {
            "keypoints": (people, keypoints, 2),
            "scores": (people, keypoints),
            "box_cxcywh": (people, 4),
            **dict.fromkeys(("bbox_scores", "image_ids", "instance_ids", "category_ids"), (people,)),
        }
        for field, shape in expected.items():
            if np.shape(getattr(self, field)) != shape:
                raise ValueError(f"predictions: {field} has shape {np.shape(getattr(self, field))}, expected {shape}")
        for field in ("keypoints", "scores", "box_cxcywh", "bbox_scores"):
            bad = int(np.count_nonzero(~np.isfinite(getattr(self, field))))
            if bad:
                raise ValueError(
                    f"predictions: {bad} values of {field} are not finite; the model's weights or input are broken"
                )

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def areas(self) -> np.ndarray:
        """float64 [P]: width times height of `box_cxcywh`, square image pixels."""
        return np.prod(np.asarray(self.box_cxcywh, np.float64)[:, 2:], axis=1)

    def rows_by_image(self) -> list[np.ndarray]:
        """Rows of each image's instances: images as they first appear, instances by id, the first row of an id only."""
        _, first_row, image = np.unique(self.image_ids, return_index=True, return_inverse=True)
        appearance = first_row[image]
        rows = np.lexsort((self.instance_ids, appearance))
        image_and_id = np.stack([appearance[rows], np.asarray(self.instance_ids)[rows]])
        is_new = np.any(np.diff(image_and_id, prepend=-1) != 0, axis=0)  # the first row, too: appearance is never -1
        rows = rows[is_new]
        return np.split(rows, np.flatnonzero(np.diff(appearance[rows])) + 1)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What came out of evaluating a model on one data set.

    Attributes:
        metrics: name to value, the headline first.
        results: the predictions, to be written as JSON.
    """

    metrics: dict[str, float]
    results: list[dict[str, Any]]


def rescore(scores: np.ndarray, bbox_scores: np.ndarray, *, min_keypoint_score: float = 0.2) -> np.ndarray:
    """Score of each instance, to rank it among all others: how sure its keypoints are, times how sure its box is.

    Args:
        scores: float [P, K], keypoint scores.
        bbox_scores: float [P].
        min_keypoint_score: only keypoints above this score enter the mean.

    Returns:
        float64 [P], 0 where no keypoint is above `min_keypoint_score`.

    Source: topdown_coco_dataset.py::evaluate.
    """
    scores = np.asarray(scores, np.float64)
    counted = scores > min_keypoint_score
    mean = np.sum(scores * counted, axis=1) / np.maximum(np.count_nonzero(counted, axis=1), 1)
    return mean * np.asarray(bbox_scores, np.float64)


@dataclasses.dataclass(frozen=True)
class Detections:
    """The predicted instances that are left after suppression, one score each: what average precision is made of.

    Attributes:
        keypoints: float64 [P, K, 3]: x and y in image pixels, keypoint score.
        scores: float64 [P], see `rescore`.
        image_ids: int [P].
        category_ids: int [P].
    """

    keypoints: np.ndarray
    scores: np.ndarray
    image_ids: np.ndarray
    category_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


def detect(
    predictions: Predictions,
    *,
    sigmas: Sequence[float],
    suppression: str = "oks",
    oks_threshold: float = 0.9,
    min_keypoint_score: float = 0.2,
) -> Detections:
    """Rescores predictions and suppresses repeated instances.

    Args:
        predictions: the instances of an evaluation run.
        sigmas: K constants of the keypoint set.
        suppression: how repeated instances go: "oks" (`oks_nms`), "soft_oks" (`soft_oks_nms`) or "none". Instances of
            all categories of an image suppress each other.
        oks_threshold: threshold of the suppression.
        min_keypoint_score: keypoints above it enter an instance's score, see `rescore`.

    Returns:
        Images as they first appear; within an image in the order in which suppression keeps instances.

    Raises:
        ValueError: `suppression` is unknown, or `sigmas` are not as many as the keypoints.

    Source: topdown_coco_dataset.py::evaluate.
    """
    if suppression not in SUPPRESSIONS:
        raise ValueError(f"suppression {suppression!r}: expected one of {', '.join(SUPPRESSIONS)}")
    num_keypoints = np.shape(predictions.scores)[1]
    if num_keypoints != len(sigmas):
        raise ValueError(f"predictions have {num_keypoints} keypoints, but {len(sigmas)} sigmas are given")
    scores = rescore(predictions.scores, predictions.bbox_scores, min_keypoint_score=min_keypoint_score)
    areas = predictions.areas
    kept = []
    for rows in predictions.rows_by_image():
        image = (predictions.keypoints[rows], scores[rows], areas[rows], sigmas)
        if suppression == "oks":
            rows = rows[oks_nms(*image, threshold=oks_threshold)]
        elif suppression == "soft_oks":
            rows = rows[soft_oks_nms(*image, threshold=oks_threshold)]
        kept.append(rows)
    rows = np.concatenate(kept)
    keypoints = np.concatenate([predictions.keypoints[rows], predictions.scores[rows][:, :, None]], axis=2)
    return Detections(
        keypoints=keypoints.astype(np.float64),
        scores=scores[rows],
        image_ids=predictions.image_ids[rows],
        category_ids=predictions.category_ids[rows],
    )


def coco_results(detections: Detections, *, fields: Mapping[str, slice] | None = None) -> list[dict[str, Any]]:
    """Detections as COCO's list of results, ready for `write_results`.

    Entries hold `image_id`, `category_id`, `keypoints` (3K numbers: x, y in image pixels, score) and `score`, but no
    `bbox`: pycocotools takes a results file with boxes for one of a box detector and sizes its people by them.

    Args:
        detections: from `detect`.
        fields: which keypoints stand in which entry, where not all of them stand in `keypoints`.
    """
    columns = {
        "image_id": detections.image_ids.tolist(),
        "category_id": detections.category_ids.tolist(),
        **{
            field: flat_keypoints(detections.keypoints[:, part])
            for field, part in (fields or {"keypoints": slice(None)}).items()
        },
        "score": detections.scores.tolist(),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def flat_keypoints(keypoints: np.ndarray) -> list[list[float]]:
    """Keypoints [P, K, 3] as results hold them: for each instance 3K numbers."""
    return keypoints.reshape(len(keypoints), 3 * keypoints.shape[1]).tolist()


def write_results(path: str | os.PathLike, results: Sequence[Mapping[str, Any]]) -> None:
    """Write results as JSON, the file that the COCO evaluation server takes; an interrupted write leaves no file."""
    paths.write(path, json.dumps(results))
