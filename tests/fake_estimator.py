"""Stands for `PoseEstimator` where files, videos and identities are tested and no model is needed."""

import numpy as np

from vitpose_jax.keypoints import KEYPOINT_SETS
from vitpose_jax.types import Pose


class FakeEstimator:
    """Every keypoint k lies at a fixed place in its box; scores fall with k from 1, times the box's score."""

    def __init__(self, keypoint_set: str = "coco", batch_size: int = 8):
        self.keypoint_set = KEYPOINT_SETS[keypoint_set]
        self.batch_sizes = (1, batch_size)
        self.calls: list[list[int]] = []  # boxes of each image, by call

    def __call__(self, images, bboxes_xywh, bbox_scores):
        self.calls.append([len(boxes) for boxes in bboxes_xywh])
        return [
            [self.pose(box, float(score)) for box, score in zip(boxes, scores, strict=True)]
            for boxes, scores in zip(bboxes_xywh, bbox_scores, strict=True)
        ]

    def pose(self, box, score: float) -> Pose:
        count = len(self.keypoint_set)
        places = np.stack([np.linspace(0.1, 0.9, count), np.linspace(0.9, 0.1, count)], axis=1)
        return Pose(
            keypoints=(np.asarray(box)[:2] + places * np.asarray(box)[2:]).astype(np.float32),
            scores=np.linspace(1, 0.1, count, dtype=np.float32) * np.float32(score),
            bbox_xywh=np.asarray(box, np.float32),
            bbox_score=score,
            score=0.5 * score,
            keypoint_set=self.keypoint_set,
        )
