"""Repeated people: how alike two predicted poses are, and how near-copies of a better one go.

Object keypoint similarity (OKS) of two instances is the mean over keypoints of exp(-d² / (2 (2σ)² area)): 1 for equal
poses, falling off with the distance d on a scale set by the keypoint's sigma and the instance's area.
"""

from collections.abc import Sequence

import numpy as np

MAX_PEOPLE_PER_IMAGE = 20  # COCO's limit for keypoints: of each image and category the best 20 detections count


def oks_matrix(keypoints: np.ndarray, areas: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
    """OKS between every two predicted instances, over all keypoints, at the mean of the two areas.

    Args:
        keypoints: float [P, K, 2], x and y in image pixels.
        areas: float [P], square image pixels.
        sigmas: K constants of the keypoint set.

    Returns:
        float64 [P, P], symmetric, 1 on the diagonal.

    Source: mmpose/core/post_processing/nms.py::oks_iou.
    """
    unit = np.sqrt(2.0) * 2.0 * np.asarray(sigmas, np.float64)  # in it, OKS is exp(-d² / area)
    x, y = np.moveaxis(np.asarray(keypoints, np.float64), 2, 0) / unit  # [P, K] each
    areas = np.asarray(areas, np.float64)
    pair_areas = (areas[:, None] + areas) / 2 + np.spacing(1.0)  # [P, P]
    squared_distances = np.square(x[:, None] - x)  # [P, P, K]
    squared_distances += np.square(y[:, None] - y)
    return np.exp(squared_distances / -pair_areas[:, :, None]).mean(axis=2)


def oks_nms(
    keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray, sigmas: Sequence[float], *, threshold: float = 0.9
) -> np.ndarray:
    """Drop every instance of an image whose pose nearly equals that of a better one.

    Args:
        keypoints: float [P, K, 2], the instances of one image, image pixels.
        scores: float [P], instance scores.
        areas: float [P], square image pixels.
        sigmas: K constants of the keypoint set.
        threshold: an instance goes if its OKS with a kept one is above this.

    Returns:
        int [kept], rows in order of falling score.

    Source: mmpose/core/post_processing/nms.py::oks_nms.
    """
    order = np.argsort(scores)[::-1]
    if len(order) < 2:
        return order
    too_close = oks_matrix(keypoints[order], areas[order], sigmas) > threshold
    dropped = np.zeros(len(order), bool)
    for better in range(len(order)):
        if not dropped[better]:
            dropped[better + 1 :] |= too_close[better, better + 1 :]
    return order[~dropped]


def soft_oks_nms(
    keypoints: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    sigmas: Sequence[float],
    *,
    threshold: float = 0.9,
    max_kept: int = MAX_PEOPLE_PER_IMAGE,
) -> np.ndarray:
    """Rank the instances of an image so that near-copies of a better one come later, and keep the first ones.

    Each time an instance is taken, the scores that order the rest are multiplied by exp(-OKS² / threshold). The lowered
    scores order only: who uses the result keeps the original ones.

    Args:
        keypoints: float [P, K, 2], the instances of one image, image pixels.
        scores: float [P], instance scores.
        areas: float [P], square image pixels.
        sigmas: K constants of the keypoint set.
        threshold: the larger, the milder.
        max_kept: how many are kept at most.

    Returns:
        int [kept], rows in the order in which they were taken.

    Source: mmpose/core/post_processing/nms.py::soft_oks_nms.
    """
    oks = oks_matrix(keypoints, areas, sigmas)
    order = np.argsort(scores)[::-1]
    lowered = np.asarray(scores, np.float64)[order]
    taken: list[int] = []
    while len(order) and len(taken) < max_kept:
        best, order = order[0], order[1:]
        taken.append(best)
        lowered = lowered[1:] * np.exp(-np.square(oks[best, order]) / threshold)
        falling = np.argsort(lowered)[::-1]
        order, lowered = order[falling], lowered[falling]
    return np.array(taken, np.intp)
