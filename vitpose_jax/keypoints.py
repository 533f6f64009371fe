"""Keypoint sets: names, mirror pairs, skeleton, OKS constants and drawing colours of each annotation scheme.

The published sets are the files of `keypoint_sets/`; a set of one's own is a file of the same kind.
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vitpose_jax import paths


@dataclasses.dataclass(frozen=True)
class KeypointSet:
    """What a data set's K keypoints are and how they relate. Checks itself when made.

    Attributes:
        name: the set's name, a key of `KEYPOINT_SETS`.
        names: K keypoint names in storage order.
        swap: pairs of names that exchange places in a mirrored image.
        skeleton: pairs of names joined by a line when drawn.
        upper_body: names that count as upper body in half-body augmentation; all others count as lower body.
        sigmas: K constants of object keypoint similarity (OKS), as a fraction of the instance's scale; empty where none
            are known (hands): such a set has no OKS.
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
            ("sigmas", len(self.names) if self.sigmas else 0),
            ("colors", len(self.names)),
            ("skeleton_colors", len(self.skeleton)),
        ):
            if len(getattr(self, field)) != expected:
                raise ValueError(
                    f"keypoint set {self.name!r}: {field} needs {expected} entries, not {len(getattr(self, field))}"
                )

        if any(not 0 < sigma < math.inf for sigma in self.sigmas):
            raise ValueError(f"keypoint set {self.name!r}: sigmas need to be finite and above 0, not {self.sigmas}")

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


# Colours of keypoints and lines whose file names none: by side of the body.
_MIDDLE, _LEFT, _RIGHT = (51, 153, 255), (0, 255, 0), (255, 128, 0)
_REQUIRED_FIELDS = ("names", "swap", "skeleton")


def load_keypoint_set(path: str | os.PathLike, *, name: str | None = None) -> KeypointSet:
    """Reads a keypoint file.

    Args:
        path: JSON object with the fields of `KeypointSet`. `names`, `swap` and `skeleton` are needed; without
            `upper_body` there is no half-body augmentation, without `sigmas` no OKS, without `colors` and
            `skeleton_colors` left, right and middle have a colour each.
        name: the set's name; None for the file's name without its ending.

    Raises:
        ValueError: the file is no such object, or its fields contradict each other.
    """
    file = paths.path(path)
    try:
        content = json.loads(file.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"keypoint file {path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"keypoint file {path} needs to be a JSON object, not a {type(content).__name__}")
    try:
        return keypoint_set(name or file.stem, content)
    except ValueError as error:
        raise ValueError(f"keypoint file {path}: {error}") from error


def keypoint_set(name: str, fields: Mapping[str, Any]) -> KeypointSet:
    """A keypoint set from the fields of a keypoint file, see `load_keypoint_set`.

    Raises:
        ValueError: a field is missing, unknown, of the wrong kind, or contradicts another.
    """
    known = {field.name for field in dataclasses.fields(KeypointSet)} - {"name"}
    missing, unknown = [f for f in _REQUIRED_FIELDS if f not in fields], sorted(set(fields) - known)
    if missing or unknown:
        raise ValueError(f"fields {missing} are missing, fields {unknown} are unknown; known are {sorted(known)}")
    try:
        names = tuple(_string(value) for value in fields["names"])
        swap = tuple(_pair(value) for value in fields["swap"])
        skeleton = tuple(_pair(value) for value in fields["skeleton"])
        side = dict.fromkeys((left for left, _ in swap), _LEFT) | dict.fromkeys((right for _, right in swap), _RIGHT)
        colors = fields.get("colors") or [side.get(point, _MIDDLE) for point in names]
        line_colors = fields.get("skeleton_colors") or [
            side.get(a, _MIDDLE) if side.get(a) == side.get(b) else _MIDDLE for a, b in skeleton
        ]
        return KeypointSet(
            name=name, names=names, swap=swap, skeleton=skeleton,
            upper_body=tuple(_string(value) for value in fields.get("upper_body", ())),
            sigmas=tuple(float(value) for value in fields.get("sigmas", ())),
            colors=tuple(_color(value) for value in colors),
            skeleton_colors=tuple(_color(value) for value in line_colors),
        )  # fmt: skip
    except TypeError as error:
        raise ValueError(f"a field is not the list that it should be: {error}") from error


def _string(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"a keypoint's name must be a text, not {value!r:.80}")
    return value


def _pair(value: Any) -> tuple[str, str]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"a pair of keypoint names is needed, not {value!r:.80}")
    return _string(value[0]), _string(value[1])


def _color(value: Any) -> tuple[int, int, int]:
    if (
        not isinstance(value, list | tuple)
        or len(value) != 3
        or not all(isinstance(c, int) and 0 <= c < 256 for c in value)
    ):
        raise ValueError(f"a colour is three whole numbers in 0…255, not {value!r:.80}")
    red, green, blue = value
    return red, green, blue


def reference(points: KeypointSet) -> dict[str, Any]:
    """How a checkpoint names a keypoint set so that it can be had from there: by its name if it is a published one.

    Returns:
        {"keypoint_set": name}; for another set also "keypoints", the fields that `keypoint_set` takes.
    """
    if KEYPOINT_SETS.get(points.name) == points:
        return {"keypoint_set": points.name}
    fields = {field.name: getattr(points, field.name) for field in dataclasses.fields(points) if field.name != "name"}
    return {"keypoint_set": points.name, "keypoints": fields}


_FILES = sorted((pathlib.Path(__file__).parent / "keypoint_sets").glob("*.json"))
# "coco" is also OCHuman's, "ap10k" also APT-36K's; "coco_25" is easy_ViTPose's body with feet.
KEYPOINT_SETS: dict[str, KeypointSet] = {path.stem: load_keypoint_set(path) for path in _FILES}
COCO = KEYPOINT_SETS["coco"]
