"""How predictions on each kind of data set are scored: one row of `METRICS` for each kind.

A row's function takes predictions and the split they were made on, and returns metrics, the headline first, and
results to be written as JSON. All take the same settings (`suppression`, `oks_threshold`, `min_keypoint_score`), which
are those of average precision; the metrics of `pck` rank and suppress nobody, so these settings cannot change them.

Results for average precision are in COCO's format. For MPII and InterHand2.6M they are a list of
`{"image_id", "instance_id", "keypoints"}`: the instance's `bbox_id`, and 3K numbers, x and y in image pixels counted
from 0, and score.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from etils import epath

from vitpose_jax.data.datasets import Split
from vitpose_jax.evaluation import pck
from vitpose_jax.evaluation.coco import coco_metrics
from vitpose_jax.evaluation.coco_variants import WHOLEBODY_FIELDS, crowdpose_metrics, wholebody_metrics
from vitpose_jax.evaluation.results import Evaluation, Predictions, coco_results, detect, flat_keypoints

MPII_FILE = "mpii_gt_val.mat"

# The metric that stands for all of its kind: the best checkpoint is the one with its largest value.
HEADLINE: dict[str, str] = {
    "coco": "AP", "coco_box_area": "AP", "crowdpose": "AP", "wholebody": "AP", "ap10k": "AP", "mpii": "PCKh",
    "interhand": "AUC",
}  # fmt: skip

_ANNOTATED_BOXES_ONLY = {
    "mpii": "PCKh compares each prediction with the person whose box it was made for",
    "interhand": "AUC, PCK and EPE compare each prediction with the hand whose box it was made for",
    "ap10k": "its AP is a mean over species, and a detector's box has none",
}


def check_boxes(metric: str, boxes: str) -> None:
    """Raises ValueError if a metric cannot be computed with boxes of this kind, "annotations" or "detections"."""
    if boxes == "detections" and metric in _ANNOTATED_BOXES_ONLY:
        raise ValueError(
            f"this data set needs annotated boxes, because {_ANNOTATED_BOXES_ONLY[metric]}; "
            "set config.eval.boxes=annotations"
        )


def check_files(split: Split) -> None:
    """Raises ValueError if a split was built without a file that its metric needs; asked before training, not after."""
    if split.dataset.metric == "mpii":
        _mpii_file(split)


def _average_precision(
    metrics_of: Callable[..., dict[str, float]],
    predictions: Predictions,
    split: Split,
    *,
    suppression: str,
    oks_threshold: float,
    min_keypoint_score: float,
    fields: Mapping[str, slice] | None = None,
) -> Evaluation:
    """Rescored and suppressed predictions, by a function such as `coco_metrics`. `fields` as in `coco_results`."""
    sigmas = split.keypoint_set.sigmas
    detections = detect(
        predictions, sigmas=sigmas, suppression=suppression, oks_threshold=oks_threshold,
        min_keypoint_score=min_keypoint_score,
    )  # fmt: skip
    metrics = metrics_of(
        split.annotation_file, detections, sigmas=sigmas, left_out_image_ids=split.skipped_image_ids.tolist()
    )
    return Evaluation(metrics, coco_results(detections, fields=fields))


def _mpii(predictions: Predictions, split: Split, **_average_precision_settings: Any) -> Evaluation:
    """PCKh of the split's people; others of the evaluation file, on images that the builder left out, do not count."""
    path = _mpii_file(split)
    truth = pck.read_mpii_ground_truth(path)
    rows, people = _paired(predictions, split)  # ids are places in the annotation file, and so in the evaluation file
    if people.max(initial=-1) >= len(truth.points):
        raise ValueError(f"{path} has {len(truth.points)} people, {split!r} more; it belongs to mpii_val.json")
    truth = pck.MpiiGroundTruth(truth.points[people], truth.is_missing[people], truth.head_sizes[people])
    return Evaluation(pck.pckh_metrics(predictions.keypoints[rows], truth), _paired_results(predictions, rows))


def _mpii_file(split: Split) -> epath.Path:
    files = [path for path in split.other_files if path.name == MPII_FILE]
    if not files:
        raise ValueError(
            f"{split!r} was built without {MPII_FILE}, which holds the head boxes that PCKh is measured by; it belongs "
            "to mpii_val.json: put it beside that file and build the data set anew"
        )
    return files[0]


def _interhand(predictions: Predictions, split: Split, **_average_precision_settings: Any) -> Evaluation:
    rows, _ = _paired(predictions, split)
    annotated = split.instances.take(np.argsort(split.instances.bbox_id))
    metrics = pck.hand_metrics(predictions.keypoints[rows], annotated.keypoints, annotated.bbox_xywh)
    return Evaluation(metrics, _paired_results(predictions, rows))


def _paired(predictions: Predictions, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the predictions by rising instance id, the first of a repeated id, and those ids.

    Raises:
        ValueError: the predictions are not of exactly the split's instances.
    """
    ids, rows = np.unique(predictions.instance_ids, return_index=True)
    if not np.array_equal(ids, np.sort(split.instances.bbox_id)):
        raise ValueError(
            f"there are predictions for {len(ids)} instances, {split!r} has others; predict each of its instances once"
        )
    return rows, ids


def _paired_results(predictions: Predictions, rows: np.ndarray) -> list[dict[str, Any]]:
    keypoints = np.concatenate([predictions.keypoints[rows], predictions.scores[rows][:, :, None]], axis=2)
    columns = (predictions.image_ids[rows].tolist(), predictions.instance_ids[rows].tolist(), flat_keypoints(keypoints))
    return [
        {"image_id": image_id, "instance_id": instance_id, "keypoints": flat}
        for image_id, instance_id, flat in zip(*columns, strict=True)
    ]


# score(predictions, split, *, suppression, oks_threshold, min_keypoint_score) by `Dataset.metric`.
METRICS: dict[str, Callable[..., Evaluation]] = {
    "coco": functools.partial(_average_precision, coco_metrics),
    "coco_box_area": functools.partial(_average_precision, functools.partial(coco_metrics, use_area=False)),
    "crowdpose": functools.partial(_average_precision, crowdpose_metrics),
    "wholebody": functools.partial(_average_precision, wholebody_metrics, fields=WHOLEBODY_FIELDS),
    "ap10k": functools.partial(_average_precision, coco_metrics),  # a category is a species, the mean is over them
    "mpii": _mpii,
    "interhand": _interhand,
}
