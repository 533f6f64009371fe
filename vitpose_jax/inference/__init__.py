"""Poses from images: a checkpoint, pictures and boxes in, keypoints in image pixels out.

    estimator = PoseEstimator.load("checkpoints/vitpose_b")
    poses = estimator(image, bboxes_xywh)

``python -m vitpose_jax.inference`` does it for files, folders and videos.
"""

from vitpose_jax.inference.estimator import PoseEstimator
from vitpose_jax.types import Pose

__all__ = ["Pose", "PoseEstimator"]
