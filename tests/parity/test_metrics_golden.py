"""Rescoring, suppression and every metric against values recorded from the original's evaluation (xtcocotools)."""

import functools
import json
import pathlib

import numpy as np
import pytest
import scipy.io

from tests import tolerances
from vitpose_jax.evaluation import pck
from vitpose_jax.evaluation.coco import COCO_METRICS, coco_metrics
from vitpose_jax.evaluation.coco_variants import crowdpose_metrics, wholebody_metrics, wholebody_part_metrics
from vitpose_jax.evaluation.results import Predictions, coco_results, detect
from vitpose_jax.evaluation.suppression import oks_matrix, oks_nms, soft_oks_nms
from vitpose_jax.keypoints import KEYPOINT_SETS

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
RECORDED = json.loads((GOLDEN / "metrics.json").read_text())
MPII = RECORDED.pop("mpii")
CASES = [(name, variant) for name, recorded in RECORDED.items() for variant in recorded["variants"]]
METRICS_OF = {
    "coco": coco_metrics,
    "ochuman": coco_metrics,
    "ap10k": coco_metrics,
    "aic": functools.partial(coco_metrics, use_area=False),
    "crowdpose": crowdpose_metrics,
    "wholebody": wholebody_metrics,
}
PARTS = {"body": "body", "foot": "foot", "face": "face", "left hand": "lefthand", "right hand": "righthand"}
PARTS["whole"] = "wholebody"


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / "metrics.npz") as file:
        return dict(file)


def _detections(arrays, name, variant):
    settings = RECORDED[name]["variants"][variant]["settings"]
    keypoints = arrays[f"{name}/keypoints"]
    fields = ("box_cxcywh", "bbox_scores", "image_ids", "instance_ids", "category_ids")
    predictions = Predictions(
        keypoints=keypoints[:, :, :2],
        scores=keypoints[:, :, 2],
        **{field: arrays[f"{name}/{field}"] for field in fields},
    )
    return detect(
        predictions,
        sigmas=arrays[f"{name}/sigmas"],
        suppression=("soft_oks" if settings["soft_nms"] else "oks") if settings["use_nms"] else "none",
        oks_threshold=settings["oks_thr"],
        min_keypoint_score=settings["vis_thr"],
    )


@pytest.fixture
def annotation_file(tmp_path):
    def write(name):
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps(RECORDED[name]["annotations"]))
        return path

    return write


@pytest.mark.parametrize("name", RECORDED)
def test_sigmas_are_those_of_our_keypoint_set(arrays, name):
    ours = {"ochuman": "coco"}.get(name.split("_")[0], name.split("_")[0])
    np.testing.assert_array_equal(KEYPOINT_SETS[ours].sigmas, arrays[f"{name}/sigmas"])


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_results_are_the_originals_in_its_order(arrays, name, variant):
    results = coco_results(_detections(arrays, name, variant))
    assert len(results) == RECORDED[name]["variants"][variant]["kept"]
    expected = {field: arrays[f"{name}/{variant}/{field}"] for field in ("image_id", "score", "first_xy")}
    np.testing.assert_array_equal([result["image_id"] for result in results], expected["image_id"])
    np.testing.assert_allclose(
        [result["score"] for result in results], expected["score"], rtol=0, atol=tolerances.METRIC
    )
    np.testing.assert_array_equal([result["keypoints"][:2] for result in results], expected["first_xy"])


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_average_precision_and_recall(arrays, annotation_file, name, variant):
    metrics_of = METRICS_OF[name.split("_")[0]]
    metrics = metrics_of(
        annotation_file(name), _detections(arrays, name, variant), sigmas=arrays[f"{name}/sigmas"].tolist()
    )
    recorded = RECORDED[name]["variants"][variant]["metrics"]
    expected = {key.replace("AP(", "AP ("): value for key, value in recorded.items()}  # CrowdPose's "AP(E)"
    found = {key: metrics[key] for key in list(metrics)[: len(expected)]}
    assert found == pytest.approx(expected, rel=0, abs=tolerances.METRIC)
    assert next(iter(metrics)) == "AP"
    extra = set(metrics) - set(expected)
    assert extra == ({f"{m} {part}" for m in ("AP", "AR") for part in PARTS if part != "whole"} if extra else set())


@pytest.mark.parametrize(("name", "variant"), [case for case in CASES if case[0].startswith("wholebody")])
def test_parts_of_the_whole_body(arrays, annotation_file, name, variant):
    path, detections = annotation_file(name), _detections(arrays, name, variant)
    sigmas = arrays[f"{name}/sigmas"].tolist()
    recorded = RECORDED[name]["variants"][variant]["parts"]
    parts = wholebody_part_metrics(path, detections, sigmas=sigmas)
    assert set(parts) == set(PARTS)
    for part, original in PARTS.items():
        expected = dict(zip(COCO_METRICS, recorded[f"keypoints_{original}"], strict=True))
        assert parts[part] == pytest.approx(expected, rel=0, abs=tolerances.METRIC), part
    metrics = wholebody_metrics(path, detections, sigmas=sigmas)
    assert metrics["AP left hand"] == parts["left hand"]["AP"]
    assert metrics["AR foot"] == parts["foot"]["AR"]


def test_pckh(arrays, tmp_path):
    """Through a file like the original's; predictions are in another order than the file, and one of them repeats."""
    joints = np.empty((1, 16), object)
    joints[0] = [np.array([name]) for name in arrays["mpii/dataset_joints"].tolist()]
    tables = {key: arrays[f"mpii/{key}"] for key in ("pos_gt_src", "jnt_missing", "headboxes_src")}
    scipy.io.savemat(tmp_path / "mpii_gt_val.mat", {"dataset_joints": joints, **tables})
    truth = pck.read_mpii_ground_truth(tmp_path / "mpii_gt_val.mat")
    people, rows = np.unique(arrays["mpii/bbox_ids"], return_index=True)
    assert len(people) == MPII["persons"] < len(arrays["mpii/bbox_ids"])
    metrics = pck.pckh_metrics(arrays["mpii/preds"][rows, :, :2], truth)
    found = {name: metrics[name] for name in MPII["metrics"]}
    assert found == pytest.approx(MPII["metrics"], rel=0, abs=tolerances.METRIC)
    assert next(iter(metrics)) == "PCKh"


def test_recorded_matlab_file_is_read(golden_dir, arrays):
    truth = pck.read_mpii_ground_truth(golden_dir / "6_eval" / "mpii" / "mpii_gt_val.mat")
    np.testing.assert_array_equal(truth.points.transpose(1, 2, 0), arrays["mpii/pos_gt_src"])
    np.testing.assert_array_equal(truth.is_missing.T, arrays["mpii/jnt_missing"] == 1)


def test_pck_auc_and_epe(arrays):
    """Also with different units by axis, and with a unit of 0, which takes its instance out."""
    keypoints, truth, mask = (arrays[f"pck/{key}"] for key in ("pred_argmax", "target_argmax", "mask"))
    unit, one = arrays["pck/pck_norm"], np.ones((len(mask), 2))
    found = {
        "pck_avg": pck.pck(pck.keypoint_distances(keypoints, truth, mask, unit), float(arrays["pck/pck_thr"])),
        "auc": pck.auc(pck.keypoint_distances(keypoints, truth, mask, 30 * one), steps=20),
        "epe": pck.epe(pck.keypoint_distances(keypoints, truth, mask, one)),
    }
    expected = {key: float(arrays[f"pck/{key}"]) for key in found}
    assert found == pytest.approx(expected, rel=0, abs=tolerances.METRIC)

    weighted = np.concatenate([truth, mask[:, :, None]], axis=2)
    boxes = np.concatenate([np.zeros_like(one), one * [20, 10]], axis=1)
    hands = pck.hand_metrics(keypoints, weighted, boxes)
    assert next(iter(hands)) == "AUC"
    assert [hands["AUC"], hands["EPE"]] == pytest.approx([expected["auc"], expected["epe"]], abs=tolerances.METRIC)


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
