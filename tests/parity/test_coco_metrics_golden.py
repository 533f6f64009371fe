"""Rescoring, suppression and COCO metrics against values recorded from the original's evaluation (xtcocotools)."""

import json
import pathlib

import numpy as np
import pytest

from tests import tolerances
from vitpose_jax.evaluation.coco import coco_metrics
from vitpose_jax.evaluation.results import Predictions, coco_results
from vitpose_jax.evaluation.suppression import oks_matrix, oks_nms, soft_oks_nms

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
RECORDED = json.loads((GOLDEN / "metrics.json").read_text())
CASES = [(name, variant) for name, recorded in RECORDED.items() for variant in recorded["variants"]]


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "metrics.npz") as file:
        return dict(file)


def _results(arrays, name, variant):
    content, settings = RECORDED[name]["annotations"], RECORDED[name]["variants"][variant]["settings"]
    keypoints = arrays[f"{name}/keypoints"]
    predictions = Predictions(
        keypoints=keypoints[:, :, :2],
        scores=keypoints[:, :, 2],
        category_ids=np.full(len(keypoints), content["categories"][0]["id"]),
        **{field: arrays[f"{name}/{field}"] for field in ("box_cxcywh", "bbox_scores", "image_ids", "instance_ids")},
    )
    suppression = ("soft_oks" if settings["soft_nms"] else "oks") if settings["use_nms"] else "none"
    return coco_results(
        predictions,
        sigmas=arrays[f"{name}/sigmas"],
        suppression=suppression,
        oks_threshold=settings["oks_thr"],
        min_keypoint_score=settings["vis_thr"],
    )


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_results_are_the_originals_in_its_order(arrays, name, variant):
    results = _results(arrays, name, variant)
    assert len(results) == RECORDED[name]["variants"][variant]["kept"]
    expected = {field: arrays[f"{name}/{variant}/{field}"] for field in ("image_id", "score", "first_xy")}
    np.testing.assert_array_equal([result["image_id"] for result in results], expected["image_id"])
    np.testing.assert_allclose(
        [result["score"] for result in results], expected["score"], rtol=0, atol=tolerances.METRIC
    )
    np.testing.assert_array_equal([result["keypoints"][:2] for result in results], expected["first_xy"])


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_metrics(arrays, tmp_path, name, variant):
    annotation_file = tmp_path / "annotations.json"
    annotation_file.write_text(json.dumps(RECORDED[name]["annotations"]))
    results = _results(arrays, name, variant)
    use_area = not name.startswith("aic")
    metrics = coco_metrics(annotation_file, results, sigmas=arrays[f"{name}/sigmas"], use_area=use_area)
    expected = RECORDED[name]["variants"][variant]["metrics"]
    assert metrics == pytest.approx(expected, rel=0, abs=tolerances.METRIC)


@pytest.mark.parametrize("threshold", [0.9, 0.7, 0.3])
def test_suppression(arrays, threshold):
    people = [arrays[f"nms_{field}"] for field in ("keypoints", "scores", "areas", "sigmas")]
    people[0] = people[0][:, :, :2]
    np.testing.assert_array_equal(oks_nms(*people, threshold=threshold), arrays[f"oks_nms_{threshold}"])
    soft = soft_oks_nms(*people, threshold=threshold, max_kept=10)
    np.testing.assert_array_equal(soft, arrays[f"soft_oks_nms_{threshold}"])


def test_oks(arrays):
    oks = oks_matrix(arrays["nms_keypoints"][:, :, :2], arrays["nms_areas"], arrays["nms_sigmas"])
    float32_rounding = 6e-8  # the original stores OKS in float32
    np.testing.assert_allclose(oks[0, 1:], arrays["oks_iou_0_rest"], rtol=0, atol=float32_rounding)
