"""The score of not looking: every person gets the training set's mean pose, fitted into the box.

A model that has learned anything beats it, so its average precision is the honest zero of a small run.
"""

import numpy as np

from vitpose_jax.evaluation.results import Predictions


def mean_pose(keypoints: np.ndarray, bbox_xywh: np.ndarray) -> np.ndarray:
    """Mean place of each keypoint within its instance's box.

    Args:
        keypoints: float [P, K, 3], x and y in image pixels, weight (0: not labelled).
        bbox_xywh: float [P, 4], image pixels.

    Returns:
        float64 [K, 2], x and y as fractions of the box, measured from its top left corner; the box's middle for a
        keypoint that is never labelled.
    """
    keypoints, bbox_xywh = np.asarray(keypoints, np.float64), np.asarray(bbox_xywh, np.float64)
    weights = keypoints[:, :, 2:]  # [P, K, 1]
    fractions = (keypoints[:, :, :2] - bbox_xywh[:, None, :2]) / bbox_xywh[:, None, 2:]
    labelled = weights.sum(axis=0)  # [K, 1]
    return np.where(labelled > 0, (fractions * weights).sum(axis=0) / np.where(labelled > 0, labelled, 1), 0.5)


def predict_mean_pose(
    pose: np.ndarray,
    bbox_xywh: np.ndarray,
    *,
    box_cxcywh: np.ndarray,
    bbox_scores: np.ndarray,
    image_ids: np.ndarray,
    instance_ids: np.ndarray,
    category_ids: np.ndarray,
) -> Predictions:
    """Put the mean pose into every box of an evaluation set.

    Args:
        pose: float [K, 2], from `mean_pose`.
        bbox_xywh: float [P, 4], the boxes themselves, image pixels.
        box_cxcywh: float [P, 4], the padded regions, see `Predictions`.
        bbox_scores: float [P].
        image_ids: int [P].
        instance_ids: int [P].
        category_ids: int [P].

    Returns:
        Predictions with keypoint scores of 1.
    """
    bbox_xywh = np.asarray(bbox_xywh, np.float64)
    keypoints = bbox_xywh[:, None, :2] + pose * bbox_xywh[:, None, 2:]
    return Predictions(
        keypoints=keypoints.astype(np.float32),
        scores=np.ones(keypoints.shape[:2], np.float32),
        box_cxcywh=box_cxcywh,
        bbox_scores=bbox_scores,
        image_ids=image_ids,
        instance_ids=instance_ids,
        category_ids=category_ids,
    )
