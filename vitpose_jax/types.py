"""The data that crosses borders: stored records, crops, batches, and what users hold in the end.

Everything here is numpy and plain Python, so that data-loading worker processes never import jax.
"""

import dataclasses
from typing import TypedDict

import numpy as np

from vitpose_jax.keypoints import KeypointSet

Size = tuple[int, int]  # (height, width)


class Record(TypedDict):
    """One instance as a record source returns it, before any crop is cut."""

    instance: int  # row in the data set's instance index, 0 … P-1
    box_cxcywh: np.ndarray  # float32 [4], the padded, aspect-corrected region that the crop will show, image pixels
    bbox_xywh: np.ndarray  # float32 [4], the cleaned box itself, image pixels
    keypoints: np.ndarray  # float32 [K, 3]: x, y in image pixels, weight 0 or 1


class TrainCrop(TypedDict):
    """One augmented training sample."""

    image: np.ndarray  # uint8 [H, W, 3], RGB
    keypoints: np.ndarray  # float32 [K, 3]: x, y in crop pixels, weight 0 or 1 (0 also for padding up to K)
    dataset: np.int32  # index into the run's list of training data sets


class PlainCrop(TypedDict):
    """One sample without labels, for pre-training."""

    image: np.ndarray  # uint8 [H, W, 3], RGB


class EvalCrop(TypedDict):
    """One sample of an evaluation stream."""

    image: np.ndarray  # uint8 [H, W, 3], RGB
    crop_to_image: np.ndarray  # float32 [2, 3], crop pixels to image pixels
    instance: np.int32  # row in the evaluation set's instance table
    valid: np.bool_  # False for the padding that fills the last batch


class TrainBatch(TypedDict):
    """A stack of `TrainCrop`: a global batch, or one host's rows of it."""

    image: np.ndarray  # uint8 [B, H, W, 3]
    keypoints: np.ndarray  # float32 [B, K, 3]
    dataset: np.ndarray  # int32 [B]


class EvalBatch(TypedDict):
    """A stack of `EvalCrop`."""

    image: np.ndarray  # uint8 [B, H, W, 3]
    crop_to_image: np.ndarray  # float32 [B, 2, 3]
    instance: np.ndarray  # int32 [B]
    valid: np.ndarray  # bool [B]


@dataclasses.dataclass(frozen=True, eq=False)
class Pose:
    """One instance's keypoints, in image pixels: what inference returns."""

    keypoints: np.ndarray  # float32 [K, 2]: x, y
    scores: np.ndarray  # float32 [K]: height of the (flip-averaged) heatmap's peak, about 0 to 1
    bbox_xywh: np.ndarray  # float32 [4]: the box that was given
    bbox_score: float  # the detector's confidence; 1 for a box that no detector gave
    score: float  # of the instance: mean of its sure keypoints' scores, times bbox_score
    keypoint_set: KeypointSet  # what the K keypoints are
    category_id: int = 1  # as the source of the boxes numbers categories
    track_id: int | None = None  # in a video: the same number is the same individual
