"""Keypoint sets: names, mirror pairs, skeleton, OKS constants and drawing colours of each annotation scheme."""

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class KeypointSet:
    """What a data set's K keypoints are and how they relate. Checks itself when made.

    Attributes:
        name: the set's name, a key of `KEYPOINT_SETS`.
        names: K keypoint names in storage order.
        swap: pairs of names that exchange places in a mirrored image.
        skeleton: pairs of names joined by a line when drawn.
        upper_body: names that count as upper body in half-body augmentation; all others count as lower body.
        sigmas: K constants of object keypoint similarity (OKS), as a fraction of the instance's scale.
        colors: K RGB colours in 0…255.
        skeleton_colors: one RGB colour per line of `skeleton`.
    """

    name: str
    names: tuple[str, ...]
    swap: tuple[tuple[str, str], ...]
    skeleton: tuple[tuple[str, str], ...]
    upper_body: tuple[str, ...]
    sigmas: tuple[float, ...]
    colors: tuple[tuple[int, int, int], ...]
    skeleton_colors: tuple[tuple[int, int, int], ...]

    def __post_init__(self):
        known = set(self.names)
        if len(known) != len(self.names):
            raise ValueError(f"keypoint set {self.name!r}: a keypoint name occurs twice in {self.names}")
        for field, used in (
            ("swap", [name for pair in self.swap for name in pair]),
            ("skeleton", [name for pair in self.skeleton for name in pair]),
            ("upper_body", self.upper_body),
        ):
            unknown = sorted(set(used) - known)
            if unknown:
                raise ValueError(f"keypoint set {self.name!r}: {field} names {unknown}, which are not keypoints of it")
        swapped = [name for pair in self.swap for name in pair]
        if len(set(swapped)) != len(swapped):
            raise ValueError(f"keypoint set {self.name!r}: a keypoint stands in two swap pairs: {self.swap}")
        for field, expected in (
            ("sigmas", len(self.names)),
            ("colors", len(self.names)),
            ("skeleton_colors", len(self.skeleton)),
        ):
            if len(getattr(self, field)) != expected:
                raise ValueError(
                    f"keypoint set {self.name!r}: {field} needs {expected} entries, not {len(getattr(self, field))}"
                )

    def __len__(self) -> int:
        return len(self.names)

    @functools.cached_property
    def flip_index(self) -> np.ndarray:
        """int32 [K]: entry k is the keypoint that takes place k in a mirrored image."""
        index = np.arange(len(self.names), dtype=np.int32)
        for left, right in self.swap:
            a, b = self.names.index(left), self.names.index(right)
            index[a], index[b] = b, a
        return index

    @functools.cached_property
    def upper_body_mask(self) -> np.ndarray:
        """bool [K]: True for upper-body keypoints."""
        return np.array([name in self.upper_body for name in self.names])

    @functools.cached_property
    def skeleton_index(self) -> np.ndarray:
        """int32 [S, 2]: `skeleton` as keypoint indices."""
        return np.array([[self.names.index(a), self.names.index(b)] for a, b in self.skeleton], np.int32).reshape(-1, 2)


_BLUE, _GREEN, _ORANGE = (51, 153, 255), (0, 255, 0), (255, 128, 0)

_COCO_NAMES = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip

COCO = KeypointSet(
    name="coco",
    names=_COCO_NAMES,
    swap=tuple((name, name.replace("left", "right")) for name in _COCO_NAMES if name.startswith("left")),
    skeleton=(
        ("left_ankle", "left_knee"), ("left_knee", "left_hip"), ("right_ankle", "right_knee"),
        ("right_knee", "right_hip"), ("left_hip", "right_hip"), ("left_shoulder", "left_hip"),
        ("right_shoulder", "right_hip"), ("left_shoulder", "right_shoulder"), ("left_shoulder", "left_elbow"),
        ("right_shoulder", "right_elbow"), ("left_elbow", "left_wrist"), ("right_elbow", "right_wrist"),
        ("left_eye", "right_eye"), ("nose", "left_eye"), ("nose", "right_eye"), ("left_eye", "left_ear"),
        ("right_eye", "right_ear"), ("left_ear", "left_shoulder"), ("right_ear", "right_shoulder"),
    ),
    upper_body=_COCO_NAMES[:11],
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
        0.089, 0.089,
    ),
    colors=(_BLUE,) * 5 + (_GREEN, _ORANGE) * 6,
    skeleton_colors=(
        _GREEN, _GREEN, _ORANGE, _ORANGE, _BLUE, _BLUE, _BLUE, _BLUE, _GREEN, _ORANGE, _GREEN, _ORANGE,
        _BLUE, _BLUE, _BLUE, _BLUE, _BLUE, _BLUE, _BLUE,
    ),
)  # fmt: skip

KEYPOINT_SETS: dict[str, KeypointSet] = {COCO.name: COCO}
