"""Metrics that pair each prediction with one annotated instance: MPII's PCKh, and PCK, AUC and EPE of hands.

They count keypoints within a distance of the truth (PCK: percentage of correct keypoints) and rank nobody: neither
instance scores nor suppression enter.
"""

import dataclasses
import io
import os

import numpy as np
import scipy.io

from vitpose_jax import paths
from vitpose_jax.evaluation.coco import NOTHING_TO_MEASURE

# The keypoints as MPII's evaluation file names them, in the order in which MPII stores them.
MPII_NAMES = (
    "rank", "rkne", "rhip", "lhip", "lkne", "lank", "pelv", "thor", "neck", "head", "rwri", "relb", "rsho", "lsho",
    "lelb", "lwri",
)  # fmt: skip
MPII_GROUPS = {
    "Head": ("head",), "Shoulder": ("lsho", "rsho"), "Elbow": ("lelb", "relb"), "Wrist": ("lwri", "rwri"),
    "Hip": ("lhip", "rhip"), "Knee": ("lkne", "rkne"), "Ankle": ("lank", "rank"),
}  # fmt: skip
MPII_NOT_IN_MEAN = ("pelv", "thor")
MPII_HEAD_SIZE = 0.6  # of the head box's diagonal
MPII_FIRST_PIXEL = 1.0  # MPII counts pixels from 1, this project from 0

HAND_PCK_THRESHOLD = 0.2  # of the larger side of the hand's box
HAND_AUC_PX = 30.0  # the largest distance of the curve
HAND_AUC_STEPS = 20


@dataclasses.dataclass(frozen=True)
class MpiiGroundTruth:
    """What MPII's evaluation file says of N people, in the order of the annotation file.

    Attributes:
        points: float64 [N, 16, 2], pixels counted from 1.
        is_missing: bool [N, 16].
        head_sizes: float64 [N], pixels.
    """

    points: np.ndarray
    is_missing: np.ndarray
    head_sizes: np.ndarray


def read_mpii_ground_truth(path: str | os.PathLike) -> MpiiGroundTruth:
    """Reads MPII's evaluation file, mpii_gt_val.mat.

    Raises:
        ValueError: the file is absent, not a MATLAB file, lacks a table, or orders keypoints in another way.

    Source: topdown_mpii_dataset.py::evaluate.
    """
    file = paths.path(path)
    if not file.is_file():
        raise ValueError(f"there is no {path}; MPII is scored by mpii_gt_val.mat, which holds its head boxes")
    try:
        content = scipy.io.loadmat(io.BytesIO(file.read_bytes()))
        names = tuple(str(name.item()) for name in content["dataset_joints"].ravel())
        points, missing, head_boxes = content["pos_gt_src"], content["jnt_missing"], content["headboxes_src"]
    except KeyError as error:
        raise ValueError(f"{path} has no table {error}; expected MPII's mpii_gt_val.mat") from None
    except (ValueError, NotImplementedError) as error:
        raise ValueError(f"{path} cannot be read as a MATLAB file: {error}") from error
    if names != MPII_NAMES:
        raise ValueError(f"{path} has the keypoints {names}, expected {MPII_NAMES}")
    diagonals = np.linalg.norm(head_boxes[1].astype(np.float64) - head_boxes[0], axis=0)
    return MpiiGroundTruth(
        points=points.astype(np.float64).transpose(2, 0, 1),
        is_missing=missing.T != 0,
        head_sizes=MPII_HEAD_SIZE * diagonals,
    )


def pckh_metrics(keypoints: np.ndarray, truth: MpiiGroundTruth) -> dict[str, float]:
    """MPII's PCKh: percentage of keypoints closer to the truth than a share of the head's size.

    Args:
        keypoints: float [P, 16, 2], x and y in image pixels, counted from 0.
        truth: of the same P people, in the same order.

    Returns:
        {name: percentage} at half a head's size: "PCKh", the mean of all keypoints but pelvis and thorax, then of each
        of `MPII_GROUPS`; the same at a tenth as "PCKh@0.1", "Head@0.1" and so on. -1 for a group without a labelled
        keypoint; such a keypoint does not enter the mean (the original's mean is then NaN).

    Source: topdown_mpii_dataset.py::evaluate, which returns the @0.1 mean only, and counts it in float32.
    """
    # In float32 as the model says them: this decides keypoints that lie exactly at the threshold.
    errors_px = np.linalg.norm(np.asarray(keypoints, np.float32) + np.float32(MPII_FIRST_PIXEL) - truth.points, axis=2)
    errors = errors_px / truth.head_sizes[:, None]
    metrics: dict[str, float] = {}
    for suffix, threshold, precision in (("", 0.5, np.float64), ("@0.1", 0.1, np.float32)):
        labelled = ~truth.is_missing
        counts = labelled.sum(axis=0)
        hits = (labelled & (errors <= threshold)).sum(axis=0)
        percent = (100.0 * hits / np.maximum(counts, 1)).astype(precision).astype(np.float64)
        metrics |= {name + suffix: value for name, value in _mpii_groups(percent, counts).items()}
    return metrics


def _mpii_groups(percent: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """Mean and groups from percentages and numbers of labelled keypoints, both [16]."""
    weights = np.where(np.isin(MPII_NAMES, MPII_NOT_IN_MEAN), 0, counts)
    total = weights.sum()
    metrics = {"PCKh": float((percent * (weights / total)).sum()) if total else NOTHING_TO_MEASURE}
    for group, names in MPII_GROUPS.items():
        rows = [MPII_NAMES.index(name) for name in names if counts[MPII_NAMES.index(name)]]
        metrics[group] = float(percent[rows].mean()) if rows else NOTHING_TO_MEASURE
    return metrics


def hand_metrics(keypoints: np.ndarray, truth: np.ndarray, bbox_xywh: np.ndarray) -> dict[str, float]:
    """InterHand2.6M's AUC, PCK and end-point error.

    Args:
        keypoints: float [P, K, 2], x and y in image pixels.
        truth: float [P, K, 3], x, y in image pixels and weight (0: not labelled).
        bbox_xywh: float [P, 4], the tight box around the labelled keypoints, image pixels.

    Returns:
        "AUC" in 0…1, area under the curve of PCK over distances up to 30 px; "PCK@0.2" in 0…1, at 0.2 of the box's
        larger side; "EPE", mean distance in pixels. All are -1 if no keypoint is labelled.

    Source: interhand2d_dataset.py::evaluate; mmpose/core/evaluation/top_down_eval.py.
    """
    points, labelled = truth[:, :, :2], truth[:, :, 2] > 0
    one = np.ones((len(keypoints), 2))
    larger_sides = np.asarray(bbox_xywh, np.float64)[:, 2:].max(axis=1, keepdims=True, initial=0.0)
    return {
        "AUC": auc(keypoint_distances(keypoints, points, labelled, one * HAND_AUC_PX), steps=HAND_AUC_STEPS),
        f"PCK@{HAND_PCK_THRESHOLD}": pck(
            keypoint_distances(keypoints, points, labelled, one * larger_sides), HAND_PCK_THRESHOLD
        ),
        "EPE": epe(keypoint_distances(keypoints, points, labelled, one)),
    }


def keypoint_distances(
    keypoints: np.ndarray, truth: np.ndarray, labelled: np.ndarray, unit_px: np.ndarray
) -> np.ndarray:
    """Distances from the truth in an instance's own unit.

    Args:
        keypoints: float [P, K, 2].
        truth: float [P, K, 2].
        labelled: bool [P, K].
        unit_px: float [P, 2], by axis. An instance with a unit of 0 does not count.

    Returns:
        float32 [P, K], NaN where nothing counts.

    Source: mmpose/core/evaluation/top_down_eval.py::_calc_distances.
    """
    counts = labelled & (unit_px != 0).all(axis=1, keepdims=True)
    unit = np.where(unit_px != 0, unit_px, 1.0)
    distances = np.linalg.norm((np.asarray(keypoints, np.float64) - truth) / unit[:, None], axis=2)
    return np.where(counts, distances, np.nan).astype(np.float32)


def pck(distances: np.ndarray, threshold: float) -> float:
    """Share of keypoints closer than `threshold`: by keypoint, then their mean. `distances` is float32 [P, K]."""
    counts = (~np.isnan(distances)).sum(axis=0)
    hits = (distances < threshold).sum(axis=0)
    measured = counts > 0
    return float((hits[measured] / counts[measured]).mean()) if measured.any() else NOTHING_TO_MEASURE


def auc(distances: np.ndarray, *, steps: int) -> float:
    """Mean of `pck` at 0, 1/steps, … (steps - 1)/steps. `distances` is float32 [P, K]."""
    return float(np.mean([pck(distances, step / steps) for step in range(steps)]))


def epe(distances: np.ndarray) -> float:
    """End-point error: the mean of all distances, which are float32 [P, K].

    Source: mmpose/core/evaluation/top_down_eval.py::keypoint_epe, with its rounding: a float32 sum by keypoint.
    """
    by_keypoint = distances.T
    measured = by_keypoint[~np.isnan(by_keypoint)]
    return float(measured.sum()) / len(measured) if len(measured) else NOTHING_TO_MEASURE
