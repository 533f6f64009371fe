"""People over time: who is who from frame to frame, and steadier keypoints.

Identities come from ByteTrack (Zhang et al. 2022) as the package `trackers` has it. Smoothing is the One Euro filter
(Casiez et al. 2012) on arrays: the package of that name filters one number at a time.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from vitpose_jax.types import Pose

INSTALL = "pip install --no-deps -r requirements-tracking.txt"
_LOST_SECONDS = 1.0  # for so long an individual may be out of sight


class Tracker:
    """Gives the poses of one frame after another their `track_id`.

    Args:
        frame_rate: frames per second.
        min_overlap: least IoU of a box and where its individual is expected.

    Raises:
        ImportError: the tracker's package is missing.
    """

    def __init__(self, frame_rate: float, *, min_overlap: float = 0.1):
        try:
            import supervision
            import trackers
        except ImportError as error:
            raise ImportError(
                f"identities over frames need a tracker, and {error.name} is missing: {INSTALL}; or give --no-track"
            ) from error
        self._detections = supervision.Detections
        self._tracker = trackers.ByteTrackTracker(
            # Its buffer counts frames of a video with 30 a second.
            lost_track_buffer=round(30 * _LOST_SECONDS), frame_rate=frame_rate, track_activation_threshold=0.5,
            high_conf_det_threshold=0.5, minimum_consecutive_frames=1, minimum_iou_threshold=min_overlap,
        )  # fmt: skip

    def __call__(self, poses: Sequence[Pose]) -> list[Pose]:
        """The next frame's poses with their identities, in the same order.

        None in an individual's first frame, and for a box that is not sure enough and belongs to nobody known.
        """
        boxes = np.array([pose.bbox_xywh for pose in poses], np.float64).reshape(-1, 4)
        found = self._tracker.update(
            self._detections(
                xyxy=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
                confidence=np.array([pose.bbox_score for pose in poses], np.float64),
                class_id=np.arange(len(poses)),  # which box it was: the tracker returns them in another order
            )
        )
        identity: dict[int, int] = {}
        if found.class_id is not None and found.tracker_id is not None:
            numbers = zip(found.class_id.tolist(), found.tracker_id.tolist(), strict=True)
            identity = {row: number for row, number in numbers if number >= 0}
        return [dataclasses.replace(pose, track_id=identity.get(row)) for row, pose in enumerate(poses)]


class Smoother:
    """One Euro filter: steady where a keypoint rests, quick where it moves. Filters each individual's keypoints.

    Args:
        min_cutoff_hz: lower is steadier at rest.
        speed_factor: how much faster it follows, in Hz for each person's size a second; higher lags less.

    Source: Casiez, Roussel, Vogel 2012, "1 € Filter". Speed counts in sizes of the box (root of its area), so that one
    setting serves near and far people.
    """

    def __init__(self, *, min_cutoff_hz: float = 1.5, speed_factor: float = 2.0):
        self._min_cutoff_hz, self._speed_factor = min_cutoff_hz, speed_factor
        self._states: dict[int, tuple[float, np.ndarray, np.ndarray]] = {}  # by track: time, points, speeds

    def __call__(self, poses: Sequence[Pose], time_s: float) -> list[Pose]:
        """The frame's poses, smoothed; one without identity stays as it is."""
        self._states = {track: state for track, state in self._states.items() if time_s - state[0] <= _LOST_SECONDS}
        return [self._smooth(pose, time_s) for pose in poses]

    def _smooth(self, pose: Pose, time_s: float) -> Pose:
        if pose.track_id is None:
            return pose
        points = pose.keypoints.astype(np.float64)
        before = self._states.get(pose.track_id)
        if before is None or time_s <= before[0]:
            self._states[pose.track_id] = (time_s, points, np.zeros_like(points))
            return pose
        last_time, last_points, last_speed = before
        step = time_s - last_time
        size = math.sqrt(float(np.prod(pose.bbox_xywh[2:])))
        speed = last_speed + _weight(1.0, step) * ((points - last_points) / step - last_speed)
        cutoff = self._min_cutoff_hz + self._speed_factor * np.linalg.norm(speed, axis=1, keepdims=True) / size
        smooth = last_points + _weight(cutoff, step) * (points - last_points)
        self._states[pose.track_id] = (time_s, smooth, speed)
        return dataclasses.replace(pose, keypoints=smooth.astype(np.float32))


def _weight(cutoff_hz, step_s: float):
    """Of the newest value in a first-order low-pass filter."""
    turn = 2 * math.pi * cutoff_hz * step_s
    return turn / (turn + 1)
