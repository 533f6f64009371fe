"""Our COCO metrics against plain pycocotools, on real annotations and real detector boxes of 269 images."""

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vitpose_jax import keypoints
from vitpose_jax.evaluation.coco import COCO_METRICS, coco_metrics
from vitpose_jax.evaluation.results import Detections, Predictions, coco_results, detect, write_results

SIGMAS = keypoints.COCO.sigmas


@pytest.fixture(scope="module")
def annotation_file(samples_dir):
    return samples_dir / "coco_eval_only" / "person_keypoints_val2017.json"


@pytest.fixture(scope="module")
def predictions(samples_dir, annotation_file) -> Predictions:
    """For each detector box the keypoints of the person it overlaps most, moved by noise of 5 % of its size."""
    detections = json.loads((annotation_file.parent / "COCO_val2017_detections_AP_H_56_person.json").read_text())
    people: dict[int, list[dict]] = {}
    for annotation in json.loads(annotation_file.read_text())["annotations"]:
        people.setdefault(annotation["image_id"], []).append(annotation)
    boxes = np.array([detection["bbox"] for detection in detections])
    rng = np.random.default_rng(0)
    size = np.sqrt(boxes[:, 2] * boxes[:, 3])
    points = boxes[:, None, :2] + rng.random((len(boxes), len(SIGMAS), 2)) * boxes[:, None, 2:]
    for row, detection in enumerate(detections):
        annotations = people.get(detection["image_id"], [])
        overlaps = [_overlap(boxes[row], np.array(annotation["bbox"])) for annotation in annotations]
        if overlaps and max(overlaps) > 0:
            truth = np.array(annotations[int(np.argmax(overlaps))]["keypoints"]).reshape(-1, 3)
            labelled = truth[:, 2] > 0
            points[row, labelled] = truth[labelled, :2]
    points += 0.05 * size[:, None, None] * rng.standard_normal(points.shape)
    return Predictions(
        keypoints=points.astype(np.float32),
        scores=rng.uniform(-0.1, 1, points.shape[:2]).astype(np.float32),
        box_cxcywh=np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, 1.25 * boxes[:, 2:]], axis=1),
        bbox_scores=np.array([detection["score"] for detection in detections]),
        image_ids=np.array([detection["image_id"] for detection in detections]),
        instance_ids=np.arange(len(boxes)),
        category_ids=np.ones(len(boxes), np.int64),
    )


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two bbox_xywh."""
    sides = np.minimum(a[:2] + a[2:], b[:2] + b[2:]) - np.maximum(a[:2], b[:2])
    intersection = np.prod(np.maximum(sides, 0))
    return float(intersection / (a[2] * a[3] + b[2] * b[3] - intersection))


@pytest.mark.parametrize("suppression", ["oks", "none"])
def test_equals_plain_pycocotools(annotation_file, predictions, tmp_path, suppression):
    detections = detect(predictions, sigmas=SIGMAS, suppression=suppression)
    metrics = coco_metrics(annotation_file, detections, sigmas=SIGMAS)

    write_results(tmp_path / "results.json", coco_results(detections))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotation_file))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert metrics == dict(zip(COCO_METRICS, evaluation.stats.tolist(), strict=True))
    assert 0.2 < metrics["AP"] < 0.9  # predictions neither hopeless nor perfect: the comparison says something


def test_perfect_keypoints_are_nearly_perfect_metrics(annotation_file):
    annotations = [a for a in json.loads(annotation_file.read_text())["annotations"] if a["num_keypoints"]]
    detections = Detections(
        keypoints=np.array([a["keypoints"] for a in annotations], np.float64).reshape(len(annotations), -1, 3),
        scores=np.ones(len(annotations)),
        image_ids=np.array([a["image_id"] for a in annotations]),
        category_ids=np.array([a["category_id"] for a in annotations]),
    )
    metrics = coco_metrics(annotation_file, detections, sigmas=SIGMAS)
    assert metrics["AP"] > 0.99
    assert metrics["AR"] > 0.99
