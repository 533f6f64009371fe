"""A data set that is drawn, not downloaded: articulated people in the official COCO keypoint folder layout.

Every person is a small 3-D body (a skeleton of joint angles, tapered limbs, a tube for the trunk, an ellipsoid for the
head) seen by a weak-perspective camera and painted far to near. Beside the picture a map of part ids is painted, and
visibility flags, boxes and areas are read from that map, so that they are true to what is drawn. A picture is a pure
function of (seed, split, index).

How keypoints are labelled, following the habits of COCO's annotators:

* ``v=2``: a body part that carries the keypoint is the topmost thing at its place. A trunk seen in profile does not
  count for its far shoulder and hip.
* ``v=1``: inside the image, but behind the person's own body, another person or clutter.
* ``v=0`` (and x = y = 0): outside the image, or an eye, ear or nose that the head itself hides for good (its surface
  points away from the viewer: the face of a person seen from behind, the far ear in profile).

Axes of the body: x to the person's left, y up, z forward. Axes of the scene: x right, y up, z to the viewer. The unit
of both is the body height.
"""

import argparse
import dataclasses
import functools
import json
import math
import multiprocessing
import os
import pathlib
import shutil
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from vitpose_jax.keypoints import COCO

SPLITS = ("train", "val")
RECIPE_FILE = "synthetic.json"
DRAWING_VERSION = 1  # raise it whenever a picture changes, so that an old folder is not taken for a new one

# ---------------------------------------------------------------------------------------------------------------------
# Parts and the keypoints that they carry

PARTS = (
    "torso", "neck", "skull", "hair", "nose", "left_eye", "right_eye", "left_ear", "right_ear",
    "left_upper_arm", "right_upper_arm", "left_forearm", "right_forearm", "left_hand", "right_hand",
    "left_thigh", "right_thigh", "left_shin", "right_shin", "left_foot", "right_foot", "skirt",
)  # fmt: skip
CLUTTER = 255  # id of things in front of people; 0 is the background
_IDS_PER_PERSON = 32


def part_id(person: int, part: str) -> int:
    """Value in a part map of `part` (a name in `PARTS`) of the person drawn as number `person` (0, 1, …)."""
    return 1 + person * _IDS_PER_PERSON + PARTS.index(part)


_CARRIERS = {"shoulder": ("upper_arm",), "elbow": ("upper_arm", "forearm"), "wrist": ("forearm", "hand"),
             "hip": ("thigh",), "knee": ("thigh", "shin"), "ankle": ("shin", "foot")}  # fmt: skip


def carriers(keypoint: str) -> tuple[str, ...]:
    """Names of the parts that carry `keypoint`: a limb's keypoint stands on both limbs that meet there."""
    side, _, place = keypoint.partition("_")
    if place not in _CARRIERS:
        return (keypoint,)
    trunk = {"shoulder": ("torso",), "hip": ("torso", "skirt")}.get(place, ())
    return tuple(f"{side}_{part}" for part in _CARRIERS[place]) + trunk


# ---------------------------------------------------------------------------------------------------------------------
# Poses: (mean, spread) in degrees

_ARMS = {  # flexion (forwards), abduction (outwards), twist, elbow flexion
    "hang": ((0, 12), (10, 6), (0, 20), (14, 10)),
    "swing_forward": ((38, 14), (8, 6), (0, 20), (45, 30)),
    "swing_back": ((-32, 12), (12, 6), (0, 20), (30, 20)),
    "forward": ((85, 14), (4, 10), (0, 30), (15, 14)),
    "raised": ((165, 14), (8, 12), (0, 30), (18, 16)),
    "raised_out": ((0, 14), (140, 16), (0, 30), (18, 14)),
    "sideways": ((0, 14), (88, 14), (0, 30), (12, 12)),
    "wave": ((5, 12), (95, 18), (85, 18), (85, 25)),
    "scarecrow": ((5, 12), (85, 12), (-85, 18), (75, 20)),
    "akimbo": ((-8, 8), (48, 8), (-72, 10), (95, 12)),
    "folded": ((22, 8), (8, 5), (-70, 12), (98, 14)),
    "to_head": ((95, 20), (35, 15), (0, 20), (138, 12)),
}
_ARM_SHARES = (0.29, 0.14, 0.1, 0.04, 0.08, 0.06, 0.08, 0.05, 0.02, 0.09, 0.03, 0.02)

_STRAIGHT = ((0, 6), (6, 4), (6, 8), (5, 5))  # flexion (forwards), abduction, outward rotation, knee flexion


@dataclasses.dataclass(frozen=True)
class _Stance:
    share: float
    legs: tuple  # of one side and of the other; sides are exchanged at random
    pelvis_pitch: tuple[float, float] = (0, 5)  # forwards; the legs stay where they are
    spine_pitch: tuple[float, float] = (4, 8)
    roll: tuple[float, float] = (0, 5)  # of the whole person in the image plane
    seated: bool = False


_STANCES = (
    _Stance(0.42, (_STRAIGHT, _STRAIGHT)),
    _Stance(0.14, (((0, 6), (22, 7), (15, 10), (6, 6)), ((0, 6), (22, 7), (15, 10), (6, 6)))),
    _Stance(0.22, (((28, 8), (4, 3), (4, 6), (10, 8)), ((-18, 7), (4, 3), (4, 6), (22, 12)))),  # walking
    _Stance(0.06, (((62, 14), (4, 4), (4, 6), (85, 20)), ((-18, 10), (4, 4), (4, 6), (45, 30))), (8, 5), (10, 7)),
    _Stance(0.04, (((78, 10), (10, 6), (8, 8), (82, 10)), ((-28, 10), (8, 6), (8, 8), (18, 10)))),  # lunging
    _Stance(0.04, (((86, 8), (10, 8), (5, 8), (84, 14)), ((86, 8), (10, 8), (5, 8), (84, 14))), seated=True),
    _Stance(0.01, (((105, 12), (22, 10), (15, 8), (120, 12)), ((105, 12), (22, 10), (15, 8), (120, 12))),
            (15, 8), (18, 8)),  # squatting
    _Stance(0.01, (((86, 8), (10, 6), (5, 6), (92, 8)), ((0, 8), (8, 4), (0, 6), (92, 8)))),  # kneeling
    _Stance(0.02, (((72, 20), (8, 8), (8, 8), (20, 14)), _STRAIGHT), (-5, 6), (0, 8)),  # kicking
    _Stance(0.02, (((0, 10), (58, 14), (10, 10), (10, 8)), _STRAIGHT), roll=(0, 12)),
    _Stance(0.01, (_STRAIGHT, ((5, 6), (8, 5), (6, 8), (12, 10))), (38, 14), (42, 14)),  # bending
    _Stance(0.006, (((15, 20), (12, 10), (10, 10), (30, 30)), ((15, 20), (12, 10), (10, 10), (30, 30))),
            (0, 12), (0, 12), (90, 14)),  # lying, to either side
    _Stance(0.004, (((0, 15), (25, 15), (10, 10), (15, 15)), ((0, 15), (25, 15), (10, 10), (15, 15))),
            (0, 5), (0, 8), (150, 25)),  # cartwheel, handstand
)  # fmt: skip

# Share, centre and spread (degrees) of the directions people face: front, three-quarter, profile, back; either side.
_VIEWS = ((0.6, 0, 14), (0.22, 45, 12), (0.06, 88, 12), (0.12, 170, 12))

# ---------------------------------------------------------------------------------------------------------------------
# Measures of the body in body heights. Radii stand at five places along a limb, from the trunk outwards.

_RADII = {
    "neck": (0.036, 0.034, 0.033, 0.034, 0.036),
    "upper_arm": (0.039, 0.042, 0.040, 0.036, 0.033),
    "forearm": (0.033, 0.036, 0.033, 0.027, 0.022),
    "hand": (0.021, 0.027, 0.028, 0.024, 0.014),
    "thigh": (0.066, 0.069, 0.064, 0.054, 0.046),
    "shin": (0.045, 0.051, 0.047, 0.037, 0.029),
    "foot": (0.031, 0.031, 0.032, 0.033, 0.027),
}
_FLESHY = ("upper_arm", "forearm", "thigh", "shin")  # thicker in stouter people
# Cross-sections of the trunk: place (0 at the hips, 1 at the shoulders), half width, half depth.
_TRUNK = np.array([
    (-0.17, 0.070, 0.055), (0.00, 0.100, 0.074), (0.20, 0.100, 0.072), (0.48, 0.086, 0.064), (0.75, 0.106, 0.072),
    (0.92, 0.116, 0.068), (1.01, 0.108, 0.058), (1.08, 0.072, 0.048), (1.14, 0.040, 0.038),
])  # fmt: skip
# Where the trunk is cut into slices (two for the trousers, the others for the shirt), and where details sit on it.
_PLACES_PLAIN = np.array([-0.17, -0.05, 0.1, 0.38, 0.7, 0.9, 1.01, 1.08, 1.14])
_PLACES_STRIPED = np.array([-0.17, -0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.01, 1.08, 1.14])
_PLACES_SHIRT = np.array([0.12, 0.4, 0.7, 0.88, 1.0, 1.09])
_PLACES_SKIRT = np.array([0.05])
_SKULL_RADII = np.array([0.060, 0.080, 0.070])
_RING = np.array([(math.cos(k * math.pi / 8), math.sin(k * math.pi / 8)) for k in range(16)])
_FINE_RING = np.array([(math.cos(k * math.pi / 14), math.sin(k * math.pi / 14)) for k in range(28)])

_SKIN = ((240, 206, 180), (241, 194, 160), (224, 172, 128), (198, 134, 92), (163, 106, 70), (120, 76, 50), (88, 56, 40))
_HAIR = ((28, 24, 24), (58, 38, 26), (96, 62, 36), (150, 102, 54), (214, 174, 104), (168, 76, 40), (150, 148, 146))


def _rotation(axis: int, degrees: float) -> np.ndarray:
    """Right-handed rotation about axis 0, 1 or 2."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    if axis == 0:
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    if axis == 1:
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def _draw_one(rng: np.random.Generator, shares: Sequence[float]) -> int:
    """An index drawn with the given shares (they sum to 1)."""
    place = rng.random()
    for i, share in enumerate(shares):
        place -= share
        if place < 0:
            return i
    return len(shares) - 1


def _draw_sign(rng: np.random.Generator) -> int:
    return 1 if rng.random() < 0.5 else -1


def _draw_angles(rng: np.random.Generator, spec: Sequence[tuple[float, float]]) -> list[float]:
    noise = rng.standard_normal(len(spec))
    return [mean + spread * n for (mean, spread), n in zip(spec, noise.tolist(), strict=True)]


# ---------------------------------------------------------------------------------------------------------------------
# The body


@dataclasses.dataclass(frozen=True)
class _Body:
    """One posed person in scene axes, the pelvis at the origin."""

    points: dict[str, np.ndarray]  # [3] each: the ends of limbs, named like keypoints, and neck, head, hands, toes
    pelvis: np.ndarray  # [3, 3], columns: the pelvis' left, up and forward
    chest: np.ndarray  # [3, 3]
    head: np.ndarray  # [3, 3]
    skull: np.ndarray  # [3], radii of the head along its axes
    girth: float
    trunk: np.ndarray  # [9, 3], as _TRUNK
    seated: bool

    def sight(self) -> np.ndarray:
        """Direction to the viewer in the axes of the head's unit sphere: its points u with u·sight > 0 are seen."""
        normal = self.head[2] / self.skull
        return normal / math.sqrt(float(normal @ normal))


def _unit(x: float, y: float, z: float) -> np.ndarray:
    return np.array([x, y, z]) / math.sqrt(x * x + y * y + z * z)


_FACE = {  # unit vectors of head axes
    "nose": _unit(0, -0.12, 1.0),
    "left_eye": _unit(0.40, 0.14, 0.88),
    "right_eye": _unit(-0.40, 0.14, 0.88),
    "left_ear": _unit(1.0, -0.02, -0.08),
    "right_ear": _unit(-1.0, -0.02, -0.08),
}
_FACE_REACH = {"nose": 1.16, "left_eye": 1.0, "right_eye": 1.0, "left_ear": 1.07, "right_ear": 1.07}


def _draw_body(rng: np.random.Generator) -> _Body:
    """A person of random build, in a random pose, seen from a random side."""
    stance = _STANCES[_draw_one(rng, [s.share for s in _STANCES])]
    girth = float(np.clip(rng.normal(1.06, 0.12), 0.85, 1.4))
    head_scale, long_legs, long_arms = (1 + 0.06 * rng.standard_normal(3)).tolist()
    shoulders, hips = (0.118 * (1 + 0.07 * rng.standard_normal()), 0.064 * (1 + 0.08 * rng.standard_normal()))
    head_scale = max(head_scale, 0.92) * 1.06

    _, yaw_mean, yaw_spread = _VIEWS[_draw_one(rng, [view[0] for view in _VIEWS])]
    yaw = (yaw_mean + yaw_spread * rng.standard_normal()) * _draw_sign(rng)
    pelvis_pitch, spine_pitch, roll = _draw_angles(rng, (stance.pelvis_pitch, stance.spine_pitch, stance.roll))
    roll *= _draw_sign(rng)
    camera_pitch = rng.uniform(-4, 16)
    root = _rotation(2, roll) @ _rotation(0, camera_pitch) @ _rotation(1, yaw)
    pelvis = root @ _rotation(0, pelvis_pitch)
    tilt, twist, head_yaw, head_pitch, head_tilt = _draw_angles(rng, ((0, 8), (0, 10), (0, 20), (2, 10), (0, 8)))
    chest = pelvis @ _rotation(0, spine_pitch) @ _rotation(2, tilt) @ _rotation(1, twist)
    # People tend to look ahead: the head takes back part of the trunk's pitch.
    look = head_pitch - 0.5 * (pelvis_pitch + spine_pitch)
    head = chest @ _rotation(1, head_yaw) @ _rotation(0, look) @ _rotation(2, head_tilt)

    points = {"pelvis": np.zeros(3)}
    points["waist"] = pelvis @ (0, 0.11, 0)
    points["chest"] = points["waist"] + chest @ (0, 0.17, 0)
    points["neck"] = points["chest"] + chest @ (0, 0.02, 0)
    points["chin"] = points["neck"] + 0.5 * (chest + head) @ (0, 0.065, 0.008)
    skull = _SKULL_RADII * head_scale
    points["head"] = points["chin"] + head @ (skull * (0, 0.8, 0.12))
    for name, direction in _FACE.items():
        points[name] = points["head"] + head @ (skull * direction * _FACE_REACH[name])

    arm_names = list(_ARMS)
    first_arm = _draw_one(rng, _ARM_SHARES)
    second_arm = first_arm if rng.random() < 0.4 else _draw_one(rng, _ARM_SHARES)
    legs = stance.legs if rng.random() < 0.5 else stance.legs[::-1]
    for side, sign, arm, leg in (("left", 1, first_arm, legs[0]), ("right", -1, second_arm, legs[1])):
        flexion, abduction, turn, elbow = _draw_angles(rng, _ARMS[arm_names[arm]])
        elbow = min(max(elbow, 0), 150)
        upper = chest @ _rotation(0, -flexion) @ _rotation(2, sign * abduction) @ _rotation(1, sign * turn)
        fore = upper @ _rotation(0, -elbow)
        points[f"{side}_shoulder"] = points["chest"] + chest @ (sign * shoulders, -0.012, 0)
        points[f"{side}_elbow"] = points[f"{side}_shoulder"] + upper @ (0, -0.165 * long_arms, 0)
        points[f"{side}_wrist"] = points[f"{side}_elbow"] + fore @ (0, -0.14 * long_arms, 0)
        points[f"{side}_palm"] = points[f"{side}_wrist"] + fore @ (0, -0.012, 0)
        points[f"{side}_fingers"] = points[f"{side}_wrist"] + fore @ (0, -0.068, 0.008)
        points[f"{side}_thumb"] = points[f"{side}_wrist"] + fore @ (-sign * 0.012, -0.045, 0.035)

        flexion, abduction, turn, knee = _draw_angles(rng, leg)
        knee = min(max(knee, 0), 145)
        flexion += pelvis_pitch
        thigh = pelvis @ _rotation(0, -flexion) @ _rotation(2, sign * abduction) @ _rotation(1, sign * turn)
        shin = thigh @ _rotation(0, knee)
        foot = shin @ _rotation(0, rng.normal(6, 8))
        points[f"{side}_hip"] = pelvis @ (sign * hips, -0.01, 0)
        points[f"{side}_knee"] = points[f"{side}_hip"] + thigh @ (0, -0.235 * long_legs, 0)
        points[f"{side}_ankle"] = points[f"{side}_knee"] + shin @ (0, -0.225 * long_legs, 0)
        points[f"{side}_heel"] = points[f"{side}_ankle"] + foot @ (0, -0.020, -0.012)
        points[f"{side}_toes"] = points[f"{side}_ankle"] + foot @ (sign * 0.008, -0.028, 0.095)

    trunk = _TRUNK.copy()
    trunk[:, 1] *= np.interp(trunk[:, 0], (0, 0.5, 1), (hips / 0.064, rng.uniform(0.85, 1.08), shoulders / 0.118))
    trunk[:8, 1:] *= girth
    return _Body(points, pelvis, chest, head, skull, girth, trunk, stance.seated and abs(roll) < 15)


@dataclasses.dataclass(frozen=True)
class _View:
    """Weak perspective: scene axes to image pixels."""

    scale: float  # pixels of one body height at the pelvis
    x: float  # image pixels of the pelvis
    y: float

    def scale_at(self, points: np.ndarray) -> np.ndarray:
        return self.scale * (1 + 0.12 * points[..., 2])

    def points_img(self, points: np.ndarray) -> np.ndarray:
        scale = self.scale_at(points)
        return np.stack([self.x + scale * points[..., 0], self.y - scale * points[..., 1]], -1)


# ---------------------------------------------------------------------------------------------------------------------
# Clothes and colours

_Color = tuple[int, int, int]


def _shade(color: _Color, factor: float) -> _Color:
    red, green, blue = color
    return min(255, int(red * factor)), min(255, int(green * factor)), min(255, int(blue * factor))


def _pick(rng: np.random.Generator, colors: Sequence[_Color]) -> _Color:
    return _shade(colors[int(rng.integers(len(colors)))], rng.uniform(0.92, 1.06))


def _any_color(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> _Color:
    """A colour of any hue; `saturation` and `value` are ranges within 0…1."""
    hue, s, v = rng.uniform(0, 6), rng.uniform(*saturation), rng.uniform(*value)
    channels = (v * (1 - s * min(max(2 - abs((hue - k) % 6 - 3), 0), 1)) for k in (3, 5, 1))
    return tuple(int(255 * c) for c in channels)  # type: ignore[return-value]


@dataclasses.dataclass(frozen=True)
class _Look:
    skin: _Color
    hair: _Color
    hair_style: str  # key of _HAIR_VOLUME
    top: _Color
    top_second: _Color
    pattern: str  # "plain", "stripes", "checks" or "block"
    sleeve: float  # 0 none, 1 to the elbow, 2 to the wrist
    bottom: _Color
    leg_cover: float  # 0 none, 1 to the knee, 2 to the ankle
    skirt: bool
    shoes: _Color
    neckline: str  # "round", "v" or "open"


def _draw_style(rng: np.random.Generator, **shares: float) -> str:
    return list(shares)[_draw_one(rng, list(shares.values()))]


def _draw_look(rng: np.random.Generator) -> _Look:
    top = _any_color(rng, (0.1, 0.9), (0.3, 1.0))
    top_second = _any_color(rng, (0.0, 0.8), (0.15, 1.0))
    skirt = rng.random() < 0.13
    return _Look(
        skin=_pick(rng, _SKIN),
        hair=_pick(rng, _HAIR),
        hair_style=_draw_style(rng, short=0.46, long=0.2, bun=0.12, curly=0.1, beanie=0.08, bald=0.04),
        top=top,
        top_second=top_second,
        pattern=_draw_style(rng, plain=0.48, stripes=0.24, checks=0.13, block=0.15),
        sleeve=(0.0, 0.55, 0.75, 1.5, 1.92)[_draw_one(rng, (0.12, 0.28, 0.15, 0.12, 0.33))],
        bottom=_any_color(rng, (0.1, 0.7), (0.18, 0.8)),
        leg_cover=0.0 if skirt else (0.5, 0.85, 1.55, 1.93)[_draw_one(rng, (0.12, 0.22, 0.12, 0.54))],
        skirt=skirt,
        shoes=_any_color(rng, (0.0, 0.7), (0.12, 0.95)),
        neckline=_draw_style(rng, round=0.4, v=0.3, open=0.3),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Painting

_SUBPIXEL_BITS = 4
# Three coats give a round limb: width, shift towards the light (both in radii), brightness.
_COATS = np.array([(1.0, 0.0, 0.70), (0.80, 0.13, 1.0), (0.36, 0.40, 1.11)])


def _fixed(points: np.ndarray) -> np.ndarray:
    """Pixels to OpenCV's fixed-point coordinates."""
    return np.rint(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)


class _Canvas:
    """A picture and the map of part ids beside it."""

    def __init__(self, image: np.ndarray, part_map: np.ndarray):
        self.image, self.part_map = image, part_map

    def fill(self, points: np.ndarray, color: _Color, part: int | None = None) -> None:
        """Fills an outline [n, 2] (pixels) smoothly in the picture and, if `part` is given, sharply in the map."""
        self.fill_fixed(_fixed(points), color, part)

    def fill_fixed(self, outline: np.ndarray, color: _Color, part: int | None = None) -> None:
        cv2.fillPoly(self.image, [outline], color, cv2.LINE_AA, _SUBPIXEL_BITS)
        if part is not None:
            cv2.fillPoly(self.part_map, [outline], (part,), cv2.LINE_8, _SUBPIXEL_BITS)

    def stroke(self, points: np.ndarray, color: _Color, thickness: int = 1) -> None:
        """A line on something already painted; the map is not touched."""
        cv2.polylines(self.image, [_fixed(points)], False, color, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)

    def rods(self, start: np.ndarray, end: np.ndarray, radius: float, color: _Color, part: int | None = None) -> None:
        """Round sticks from `start` [n, 2] to `end` [n, 2]."""
        radii = np.full((len(start), 5), radius)
        coats = _limb_outlines(start, end, radii, np.ones(len(start)), np.array([-0.7, -0.7]))
        for outlines in zip(*coats[:2], strict=True):
            self.fill_fixed(outlines[0], _shade(color, 0.72), part)
            self.fill_fixed(outlines[1], color)


_STATIONS = np.linspace(0, 1, 5)
_CAP = np.linspace(0.5 * np.pi, -0.5 * np.pi, 6)[1:-1]
_CAP_OUT, _CAP_SIDE = np.cos(_CAP)[:, None], np.sin(_CAP)[:, None]


def _limb_outlines(
    start: np.ndarray, end: np.ndarray, radii: np.ndarray, roundness: np.ndarray, light: np.ndarray
) -> np.ndarray:
    """Outlines of n limbs in three coats, fixed-point, int32 [3, n, 18, 2].

    `start` and `end` [n, 2], `radii` [n, 5] are in pixels; `roundness` [n] is 1 for a round end, 0 for a flat cuff. The
    inner coats keep the length of the outer one, so that no dark rim crosses an elbow or a knee.
    """
    along = end - start
    along = along / np.maximum(np.sqrt((along * along).sum(1, keepdims=True)), 1e-6)
    across = (along[:, ::-1] * (-1, 1))[:, None]
    centre = start[:, None] + (end - start)[:, None] * _STATIONS[:, None]
    centre = centre + (_COATS[:, 1, None] * light)[:, None, None] * radii.mean(1)[:, None, None]  # [3, n, 5, 2]
    half = across * radii[..., None] * _COATS[:, 0, None, None, None]
    reach = along[:, None] * _CAP_OUT * 0.97
    sideways = across * _CAP_SIDE * _COATS[:, 0, None, None, None]
    far = centre[:, :, -1:] + radii[:, -1:, None] * (reach * roundness[:, None, None] + sideways)
    near = centre[:, :, :1] - radii[:, :1, None] * (reach + sideways)
    return _fixed(np.concatenate([centre + half, far, (centre - half)[:, :, ::-1], near], 2))


class _Limb(NamedTuple):
    """One tapered piece between two points of the body, or the share `low`…`high` of it (a sleeve, a stripe)."""

    part: str
    start: str
    end: str
    kind: str  # key of _RADII
    color: _Color
    widen: float = 1.0
    low: float = 0.0
    high: float = 1.0


def _rim(axis: np.ndarray, cosine: float, ring: np.ndarray) -> np.ndarray:
    """The circle u·axis = cosine of the unit sphere, at the angles of `ring` [n, 2]; float [n, 3]."""
    x, y, z = axis.tolist()
    a, b, c = (-z, 0.0, x) if abs(y) < 0.9 else (0.0, z, -y)
    norm = math.sqrt(a * a + b * b + c * c)
    a, b, c = a / norm, b / norm, c / norm
    across = np.array([(a, b, c), (y * c - z * b, z * a - x * c, x * b - y * a)])
    return cosine * axis + math.sqrt(1 - cosine * cosine) * (ring @ across)


# The head in the axes of its unit sphere. All that is not face (a cap about _FACE_AXIS) is scalp.
_FACE_AXIS, _FACE_COSINE = _unit(0, -0.60, 0.80), 0.16
_FACE_RIM = _rim(_FACE_AXIS, _FACE_COSINE, _FINE_RING)
_EYE_RIMS = {
    name: (
        _FACE[name] + (_rim(_FACE[name], math.cos(0.21), _RING) - _FACE[name]) * (1, 0.75, 1),
        _rim(_FACE[name], math.cos(0.13), _RING),
    )
    for name in ("left_eye", "right_eye")
}
_BROWS = {
    name: np.array([_unit(sign * x, y, 0.85) for x, y in ((0.18, 0.36), (0.40, 0.43), (0.62, 0.34))])
    for name, sign in (("left_eye", 1), ("right_eye", -1))
}
_MOUTH = np.array([_unit(x, y, 0.85) for x, y in ((-0.25, -0.44), (-0.12, -0.52), (0.12, -0.52), (0.25, -0.44))])
_NOSE_BASE = np.array([(0, 0.10, 0.99), (0.13, -0.22, 0.97), (-0.13, -0.22, 0.97)])
_BUN = np.array([[0, 0.45, -1.15]])
_HAIR_ROOTS = np.array([[0.95, 0.2, -0.3], [-0.95, 0.2, -0.3], [0.8, 0.3, -0.9], [-0.8, 0.3, -0.9]])
_HAIR_ENDS = np.array([(x, y, -0.075) for x in (0.06, -0.06) for y in (-0.03, -0.06)])
_HAIR_VOLUME = {"short": 1.08, "long": 1.10, "bun": 1.06, "curly": 1.24, "beanie": 1.09, "bald": 1.0}


class _PersonPainter:
    """Paints one posed, dressed and placed person; `number` tells people of one picture apart in the part map."""

    def __init__(self, canvas: _Canvas, body: _Body, look: _Look, view: _View, number: int, light: np.ndarray):
        self.canvas, self.body, self.look, self.view, self.number, self.light = canvas, body, look, view, number, light
        names = list(body.points)
        scene = np.array(list(body.points.values()))
        self.index = {name: i for i, name in enumerate(names)}
        self.points_img = view.points_img(scene)
        self.scales = view.scale_at(scene)
        self.depth = dict(zip(names, scene[:, 2].tolist(), strict=True))
        self.head_scale = float(self.scales[self.index["head"]])
        self.sight = body.sight()

    def paint(self) -> None:
        """Far to near. A bias settles neighbours at equal depth: sleeves over trunk, trunk over thighs and neck."""
        limbs = self._limbs()
        coats = self._outlines(limbs)
        by_part: dict[str, list[int]] = {}
        for i, limb in enumerate(limbs):
            by_part.setdefault(limb.part, []).append(i)

        def between(a: str, b: str) -> float:
            return 0.5 * (self.depth[a] + self.depth[b])

        order = [
            (between("pelvis", "chest"), "torso"),
            (between("neck", "chin") - 0.03, "neck"),
            (self.depth["head"] + 0.02, "head"),
        ]
        for s in ("left", "right"):
            order += [
                (between(f"{s}_shoulder", f"{s}_elbow") + 0.03, f"{s}_upper_arm"),
                (between(f"{s}_elbow", f"{s}_wrist") + 0.03, f"{s}_forearm"),
                (between(f"{s}_wrist", f"{s}_fingers") + 0.025, f"{s}_hand"),
                (between(f"{s}_hip", f"{s}_knee") - 0.02, f"{s}_thigh"),
                (between(f"{s}_knee", f"{s}_ankle") - 0.02, f"{s}_shin"),
                (between(f"{s}_heel", f"{s}_toes") - 0.03, f"{s}_foot"),
            ]
        if self.look.hair_style in ("long", "bun"):
            order.append((self.depth["head"] - 0.12 * float(self.body.head[2, 2]), "hair_behind"))
        if self.look.skirt:
            order.append((max(between("left_hip", "left_knee"), between("right_hip", "right_knee")) - 0.015, "skirt"))
        special = {"torso": self._paint_trunk, "head": self._paint_head, "skirt": self._paint_skirt,
                   "hair_behind": self._paint_hair_behind}  # fmt: skip
        for depth, part in sorted(order):
            # Far limbs lie in the body's shadow, which tells a far arm or leg from the near one.
            bright = 1 + 0.9 * min(max(depth, -0.3), 0.12)
            if part in special:
                special[part](bright)
                continue
            number = self._id(part)
            for i in by_part[part]:
                color = limbs[i].color
                self.canvas.fill_fixed(coats[0, i], _shade(color, 0.70 * bright), number)
                self.canvas.fill_fixed(coats[1, i], _shade(color, bright))
                if limbs[i].kind != "hand":
                    self.canvas.fill_fixed(coats[2, i], _shade(color, 1.11 * bright))

    def _id(self, part: str) -> int:
        return part_id(self.number, part)

    def _at(self, name: str) -> np.ndarray:
        return self.points_img[self.index[name]]

    def _limbs(self) -> list[_Limb]:
        """Limbs with their clothes, each part's pieces in painting order."""
        look = self.look
        limbs = [_Limb("neck", "neck", "chin", "neck", _shade(look.skin, 0.9))]

        def chain(pieces: tuple, cover: float, cloth: _Color, widen: float, bands: _Color | None) -> None:
            """Limbs of one arm or leg, of which the first `cover` (counted in limbs) are dressed."""
            for i, (part, start, end, kind) in enumerate(pieces):
                share = min(max(cover - i, 0.0), 1.0)
                if share < 1:
                    limbs.append(_Limb(part, start, end, kind, look.skin))
                if share > 0:
                    limbs.append(_Limb(part, start, end, kind, cloth, widen, 0.0, share))
                if bands:
                    for k in range(int(4 * share)):
                        low = 0.12 + 0.25 * k
                        limbs.append(_Limb(part, start, end, kind, bands, widen * 0.97, low, low + 0.12))

        sleeves = look.top_second if look.pattern == "block" else look.top
        bands = look.top_second if look.pattern == "stripes" else None
        for s in ("left", "right"):
            arm = ((f"{s}_upper_arm", f"{s}_shoulder", f"{s}_elbow", "upper_arm"),
                   (f"{s}_forearm", f"{s}_elbow", f"{s}_wrist", "forearm"))  # fmt: skip
            leg = ((f"{s}_thigh", f"{s}_hip", f"{s}_knee", "thigh"),
                   (f"{s}_shin", f"{s}_knee", f"{s}_ankle", "shin"))  # fmt: skip
            chain(arm, look.sleeve, sleeves, 1.12, bands)
            chain(leg, look.leg_cover, look.bottom, 1.10, None)
            if look.leg_cover < 1.8:  # socks
                limbs.append(_Limb(f"{s}_shin", f"{s}_knee", f"{s}_ankle", "shin", (225, 225, 220), 1.05, 0.85))
            limbs += [
                _Limb(f"{s}_hand", f"{s}_palm", f"{s}_thumb", "hand", look.skin, 0.45),
                _Limb(f"{s}_hand", f"{s}_palm", f"{s}_fingers", "hand", look.skin),
                _Limb(f"{s}_foot", f"{s}_heel", f"{s}_toes", "foot", look.shoes),
            ]
        return limbs

    def _outlines(self, limbs: list[_Limb]) -> np.ndarray:
        start = [self.index[limb.start] for limb in limbs]
        end = [self.index[limb.end] for limb in limbs]
        widen = [limb.widen * (self.body.girth if limb.kind in _FLESHY else 1.0) for limb in limbs]
        radii = np.array([_RADII[limb.kind] for limb in limbs]) * np.array(widen)[:, None]
        span = np.array([(limb.low, limb.high) for limb in limbs])
        place = span[:, :1] + (span[:, 1:] - span[:, :1]) * _STATIONS
        cell = np.minimum((4 * place).astype(int), 3)
        row = np.arange(len(limbs))[:, None]
        radii = radii[row, cell] + (radii[row, cell + 1] - radii[row, cell]) * (4 * place - cell)
        radii = radii * (self.scales[start][:, None] * (1 - place) + self.scales[end][:, None] * place)
        a, b = self.points_img[start], self.points_img[end]
        low, high = span[:, :1], span[:, 1:]
        roundness = np.where(span[:, 1] < 1, 0.25, 1.0)
        return _limb_outlines(a + (b - a) * low, a + (b - a) * high, radii, roundness, self.light)

    # The trunk is a stack of slices; a slice is the convex hull of two elliptic cross-sections.

    def _cross_sections(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Trunk at `places` (0 hips … 1 shoulders): centres [n, 1, 2] and outlines [n, 16, 2] in image pixels.

        Entry 0 of an outline lies on the person's left, 4 in front, 8 on the right, 12 behind.
        """
        body = self.body
        half_width = np.interp(places, body.trunk[:, 0], body.trunk[:, 1])[:, None]
        half_depth = np.interp(places, body.trunk[:, 0], body.trunk[:, 2])[:, None]
        t = places[:, None]
        u = np.clip(t, 0, 1)
        # A quadratic curve through pelvis, waist and chest, continued in a straight line beyond the ends.
        centre = 2 * u * (1 - u) * body.points["waist"] + u * u * body.points["chest"]
        centre = centre + 0.28 * (np.minimum(t, 0) * body.pelvis[:, 1] + np.maximum(t - 1, 0) * body.chest[:, 1])
        lateral = ((1 - u) * body.pelvis[:, 0] + u * body.chest[:, 0]) * half_width
        forward = ((1 - u) * body.pelvis[:, 2] + u * body.chest[:, 2]) * half_depth
        ring = centre[:, None] + _RING[:, :1] * lateral[:, None] + _RING[:, 1:] * forward[:, None]
        return self.view.points_img(centre)[:, None], self.view.points_img(ring)

    def _paint_trunk(self, bright: float) -> None:
        look, body, number = self.look, self.body, self._id("torso")
        striped = look.pattern == "stripes"
        places = _PLACES_STRIPED if striped else _PLACES_PLAIN
        centre, rings = self._cross_sections(np.concatenate([places, _PLACES_SHIRT]))
        centre, rings, shirt = centre[: len(places)], rings[: len(places)], rings[len(places) :]
        slices = list(range(len(places) - 1))
        if body.points["chest"][2] < body.points["pelvis"][2]:
            slices.reverse()
        colors = [look.bottom if i < 2 else look.top_second if striped and i % 2 else look.top for i in slices]
        for width, shift, factor in ((1.0, 0.0, 0.72), (0.82, 0.012, 1.0), (0.45, 0.030, 1.08)):
            scaled = _fixed(centre + (rings - centre) * width + shift * self.view.scale * self.light)
            if width < 0.5 and not striped:  # one highlight over the whole shirt
                self.canvas.fill_fixed(cv2.convexHull(scaled[3:-2].reshape(-1, 2)), _shade(look.top, factor * bright))
                continue
            for i, color in zip(slices, colors, strict=True):
                hull = cv2.convexHull(scaled[i : i + 2].reshape(-1, 2))
                self.canvas.fill_fixed(hull, _shade(color, factor * bright), number if width == 1.0 else None)
        self._paint_shirt(shirt, bright)

    def _paint_shirt(self, rings: np.ndarray, bright: float) -> None:
        """What tells the front from the back: neckline, buttons, and a pocket on the person's left breast.

        `rings` are the cross-sections at _PLACES_SHIRT.
        """
        look, canvas = self.look, self.canvas
        facing = float(self.body.chest[2, 2])
        second = _shade(look.top_second, bright)
        # The entry of a ring that points most to the viewer, and its neighbours: the side that is seen.
        chest = self.body.chest
        middle = round(math.atan2(float(chest[2, 2]), float(chest[2, 0])) / (math.pi / 8))
        seen = np.arange(middle - 4, middle + 5) % 16
        if look.pattern == "checks":
            for entry in seen[2:7].tolist():
                canvas.stroke(rings[:5, entry], second)
            for ring in rings[1:4]:
                canvas.stroke(ring[seen[1:8]], second)
        canvas.stroke(rings[0, seen], _shade(look.bottom, 0.5 * bright), max(1, round(0.012 * self.view.scale)))
        if facing < 0.15:
            return
        if look.neckline == "open":
            canvas.stroke(rings[:, 4], _shade(look.top, 0.55 * bright))
        depth = {"round": 0.6, "v": 0.15, "open": 0.3}[look.neckline]
        tip, left, right = rings[3, 4] * (1 - depth) + rings[4, 4] * depth, rings[5, 2], rings[5, 6]
        patch = [left, right, tip]
        if look.neckline == "round":
            patch = [left, right, 0.35 * right + 0.65 * tip, tip, 0.35 * left + 0.65 * tip]
        canvas.fill(np.array(patch), _shade(look.skin, 0.95 * bright))
        if look.pattern in ("plain", "block"):
            inner, outer = rings[3:1:-1, 3], 0.5 * (rings[3:1:-1, 1] + rings[3:1:-1, 2])
            low_inner, low_outer = 0.6 * inner[0] + 0.4 * inner[1], 0.6 * outer[0] + 0.4 * outer[1]
            canvas.fill(np.array([inner[0], outer[0], low_outer, low_inner]), second)

    def _paint_skirt(self, bright: float) -> None:
        waist = self._cross_sections(_PLACES_SKIRT)[1][0]
        corners = [waist]
        for s in ("left", "right"):
            hip, knee = self._at(f"{s}_hip"), self._at(f"{s}_knee")
            along = (knee - hip) / max(float(np.hypot(*(knee - hip))), 1e-6)
            across = np.array([-along[1], along[0]]) * (0.10 * self.body.girth * self.view.scale)
            hem = 0.3 * hip + 0.7 * knee
            corners.append(np.array([hem - across, hem + across, hem + 0.15 * (knee - hip)]))
        hull = cv2.convexHull(np.concatenate(corners).astype(np.float32))[:, 0]
        middle = hull.mean(0)
        self.canvas.fill(hull, _shade(self.look.bottom, 0.75 * bright), self._id("skirt"))
        inner = middle + 0.85 * (hull - middle) + 0.012 * self.view.scale * self.light
        self.canvas.fill(inner, _shade(self.look.bottom, bright))

    # The head is an ellipsoid: the image of the unit sphere, stretched by the skull's radii and turned.

    def _head_img(self, directions: np.ndarray) -> np.ndarray:
        """Image pixels of points [n, 3] in the axes of the head's unit sphere."""
        scene = (directions * self.body.skull) @ self.body.head[:2].T
        return self._at("head") + self.head_scale * scene * (1, -1)

    def _visible_cap(self, rim: np.ndarray) -> np.ndarray:
        """Outline of the visible part of a cap of the unit sphere that does not hold the far pole.

        Points of its rim on the far side move along meridians to the silhouette, which keeps the seen region.
        """
        hidden = np.minimum(rim @ self.sight, 0)[:, None]
        if not hidden.any():
            return rim
        rim = rim - hidden * self.sight
        return rim / np.sqrt((rim * rim).sum(1, keepdims=True))

    def _paint_head(self, bright: float) -> None:
        look, canvas, sight = self.look, self.canvas, self.sight
        far_ear, near_ear = sorted(("left_ear", "right_ear"), key=self.depth.__getitem__)
        self._paint_ear(far_ear, bright)
        profile = float(_FACE["nose"] @ sight)
        if profile < 0.05:
            self._paint_nose(profile, bright)
        skin, skull = look.skin, self._id("skull")
        hair = skin if look.hair_style == "bald" else look.top_second if look.hair_style == "beanie" else look.hair
        scalp = skull if look.hair_style == "bald" else self._id("hair")
        volume = _HAIR_VOLUME[look.hair_style]
        outline, face = _rim(self.sight, 0.0, _FINE_RING), self._visible_cap(_FACE_RIM)
        canvas.fill(self._head_img(outline), _shade(skin, 0.85 * bright), skull)
        if -float(_FACE_AXIS @ sight) < _FACE_COSINE:  # the scalp holds the far pole: face over scalp
            grow = np.where(outline @ _FACE_AXIS < _FACE_COSINE, volume, 0.97)[:, None]
            canvas.fill(self._head_img(outline * grow), _shade(hair, 0.85 * bright), scalp)
            canvas.fill(self._head_img(face), _shade(skin, 0.85 * bright), skull)
            canvas.fill(self._head_img(0.9 * face + 0.1 * face.mean(0)), _shade(skin, bright))
        else:
            canvas.fill(self._head_img(face * volume), _shade(hair, 0.78 * bright), scalp)
            canvas.fill(self._head_img((0.8 * face + 0.2 * face.mean(0)) * volume), _shade(hair, bright))
        self._paint_ear(near_ear, bright)
        for name in ("left_eye", "right_eye"):
            if float(_FACE[name] @ sight) > 0.05:
                white, iris = _EYE_RIMS[name]
                canvas.fill(self._head_img(self._visible_cap(white)), _shade((250, 250, 250), bright), self._id(name))
                canvas.fill(self._head_img(self._visible_cap(iris)), (34, 26, 24))
                canvas.stroke(self._head_img(_BROWS[name]), _shade(look.hair, 0.7 * bright))
        mouth = _MOUTH[_MOUTH @ sight > 0.05]
        if len(mouth) > 1:
            lips = tuple(int(0.5 * (a + b)) for a, b in zip(_shade(skin, 0.8), (150, 45, 50), strict=True))
            canvas.stroke(self._head_img(mouth), lips, max(1, round(0.008 * self.head_scale)))  # type: ignore[arg-type]
        if profile >= 0.05:
            self._paint_nose(profile, bright)

    def _paint_ear(self, name: str, bright: float) -> None:
        up = self.body.head[:2, 1] * (1, -1)
        up = up / max(float(np.hypot(*up)), 1e-6)
        height = 0.26 * self.body.skull[1] * self.head_scale
        width = height * (0.45 + 0.3 * abs(float(self.body.head[2, 0])))
        shape = _RING[:, :1] * np.array([-up[1], up[0]]) * width + _RING[:, 1:] * up * height
        self.canvas.fill(self._at(name) + shape, _shade(self.look.skin, 0.72 * bright), self._id(name))
        self.canvas.fill(self._at(name) + 0.6 * shape, _shade(self.look.skin, 0.92 * bright))

    def _paint_nose(self, profile: float, bright: float) -> None:
        if profile < -0.25:
            return
        tip = self._at("nose") + _RING[::2] * (0.075 * self.body.skull[1] * self.head_scale)
        hull = cv2.convexHull(np.concatenate([self._head_img(_NOSE_BASE), tip]).astype(np.float32))[:, 0]
        self.canvas.fill(hull, _shade(self.look.skin, 0.82 * bright), self._id("nose"))
        self.canvas.fill(tip, _shade(self.look.skin, 1.04 * bright))

    def _paint_hair_behind(self, bright: float) -> None:
        """Long hair falls down the back, a bun sits on it."""
        hair = self.look.hair
        if self.look.hair_style == "bun":
            shape = self._head_img(_BUN) + _RING * (0.42 * self.body.skull[0] * self.head_scale)
        else:
            ends = self.view.points_img(self.body.points["chest"] + _HAIR_ENDS @ self.body.chest.T)
            corners = np.concatenate([self._head_img(_HAIR_ROOTS), ends]).astype(np.float32)
            shape = cv2.convexHull(corners)[:, 0]
        middle = shape.mean(0)
        self.canvas.fill(shape, _shade(hair, 0.75 * bright), self._id("hair"))
        self.canvas.fill(middle + 0.75 * (shape - middle), _shade(hair, 0.95 * bright))


# ---------------------------------------------------------------------------------------------------------------------
# Surroundings


def _box(canvas: _Canvas, x0: float, y0: float, x1: float, y1: float, color: _Color, part: int | None = None) -> None:
    canvas.fill(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), color, part)


def _table(canvas: _Canvas, rng: np.random.Generator, part: int | None) -> None:
    height, width = canvas.part_map.shape
    color = _any_color(rng, (0.15, 0.6), (0.25, 0.75))
    x, y = rng.uniform(-0.1, 0.9) * width, rng.uniform(0.55, 0.9) * height
    wide, tall = rng.uniform(0.2, 0.45) * width, rng.uniform(0.15, 0.35) * height
    feet = x + wide * np.array([0.05, 0.3, 0.7, 0.95])
    tops = np.stack([feet, np.full(4, y)], 1)
    canvas.rods(tops, tops + np.array([0, tall]), 0.012 * width, _shade(color, 0.7), part)
    _box(canvas, x, y - 0.025 * height, x + wide, y + 0.012 * height, color, part)


def _plant(canvas: _Canvas, rng: np.random.Generator, part: int | None) -> None:
    height, width = canvas.part_map.shape
    x, y = rng.uniform(0, 1) * width, rng.uniform(0.7, 1.05) * height
    leaf = (int(rng.integers(30, 90)), int(rng.integers(90, 170)), int(rng.integers(30, 90)))
    angle, length = rng.uniform(-1.0, 1.0, 6), rng.uniform(0.12, 0.3, 6) * height
    tips = np.stack([x + np.sin(angle) * length, y - np.cos(angle) * length], 1)
    canvas.rods(np.tile((x, y), (6, 1)), tips, 0.016 * width, leaf, part)
    _box(canvas, x - 0.04 * width, y - 0.02 * height, x + 0.04 * width, y + 0.09 * height, (150, 88, 60), part)


def _pole(canvas: _Canvas, rng: np.random.Generator, part: int | None) -> None:
    height, width = canvas.part_map.shape
    x, lean = rng.uniform(0, 1) * width, rng.normal(0, 0.06) * width
    radius = rng.uniform(0.007, 0.02) * width
    top = rng.uniform(-0.1, 0.4) * height
    foot, end = np.array([[x, 1.05 * height]]), np.array([[x + lean, top]])
    canvas.rods(foot, end, radius, _any_color(rng, (0.0, 0.4), (0.3, 0.8)), part)


def _stray_limbs(canvas: _Canvas, rng: np.random.Generator, part: int | None) -> None:
    """Shapes and colours of limbs without a body."""
    height, width = canvas.part_map.shape
    color = _pick(rng, _SKIN) if rng.random() < 0.5 else _any_color(rng, (0.2, 0.8), (0.3, 0.9))
    steps = rng.normal(0, 0.13, (rng.integers(2, 4), 2))
    corners = (rng.random(2) + np.cumsum(steps, 0)) * (width, height)
    canvas.rods(corners[:-1], corners[1:], rng.uniform(0.018, 0.04) * width, color, part)


def _paint_background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A room, the open air or nothing in particular, uint8 [height, width, 3]."""
    kind = _draw_style(rng, room=0.45, outdoors=0.35, plain=0.2)
    upper, lower = _any_color(rng, (0.03, 0.28), (0.6, 0.98)), _any_color(rng, (0.05, 0.4), (0.3, 0.8))
    if kind == "outdoors":
        r, g, b = rng.uniform((130, 175, 205), (195, 215, 245)).astype(int).tolist()
        upper = (r, g, b)
        r, g, b = rng.uniform((85, 110, 65), (150, 165, 115)).astype(int).tolist()
        lower = (r, g, b)
    ramp = np.linspace(0, 1, 10)[:, None, None]
    field = np.array(upper) * (1 - ramp) + np.array(lower if kind == "plain" else _shade(upper, 0.78)) * ramp
    field = field + rng.uniform(1, 9) * rng.standard_normal((10, 10, 1)) + 2 * rng.standard_normal((10, 10, 3))
    # Smooth at low cost: cubic to a small picture, linear to the full one.
    small = cv2.resize(np.clip(field, 0, 255).astype(np.uint8), (48, 48), interpolation=cv2.INTER_CUBIC)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    canvas = _Canvas(image, np.zeros((height, width), np.uint8))
    horizon = rng.uniform(0.5, 0.75) * height
    if kind == "plain":
        corners = rng.random((rng.integers(2, 6), 1, 2)) + rng.normal(0, 0.15, (1, 5, 2))
        for hull in corners * (width, height):
            canvas.fill(cv2.convexHull(hull.astype(np.float32))[:, 0], _any_color(rng, (0.05, 0.5), (0.3, 0.9)))
    else:
        for k in range(4):  # the ground brightens towards the viewer
            _box(canvas, 0, horizon + (height - horizon) * k / 4, width, height, _shade(lower, 0.82 + 0.08 * k))
    if kind == "room":
        _furnish(canvas, rng, horizon, lower)
    elif kind == "outdoors":
        for _ in range(rng.integers(1, 4)):
            (_house, _tree)[rng.integers(2)](canvas, rng, horizon)
    for thing, share in ((_table, 0.3), (_plant, 0.25), (_pole, 0.4), (_stray_limbs, 0.45)):
        if rng.random() < share:
            thing(canvas, rng, None)
    return image


def _furnish(canvas: _Canvas, rng: np.random.Generator, horizon: float, floor: _Color) -> None:
    """Floor boards, and windows, pictures or cupboards on the wall."""
    height, width = canvas.part_map.shape
    vanish = rng.uniform(0.2, 0.8) * width
    for x in (np.linspace(-1.5, 2.5, 12) * width).tolist():
        canvas.stroke(np.array([(vanish + (x - vanish) * 0.3, horizon), (x, height)]), _shade(floor, 0.72))
    _box(canvas, 0, horizon - 0.012 * height, width, horizon, _shade(floor, 0.6))
    for _ in range(rng.integers(1, 4)):
        share = rng.uniform((-0.1, -0.05, 0.1, 0.1), (0.9, 0.4, 0.35, 0.4))
        x, y, w, h = (share * (width, height, width, height)).tolist()
        pane = _any_color(rng, (0.03, 0.45), (0.35, 0.95))
        _box(canvas, x, y, x + w, y + h, _shade(pane, 0.65))
        _box(canvas, x + 4, y + 4, x + w - 4, y + h - 4, pane)
        canvas.stroke(np.array([(x + w / 2, y), (x + w / 2, y + h)]), _shade(pane, 0.65), 2)


def _house(canvas: _Canvas, rng: np.random.Generator, base: float) -> None:
    height, width = canvas.part_map.shape
    x, w, h = (rng.uniform((0, 0.12, 0.2), (1, 0.3, 0.6)) * (width, width, height)).tolist()
    wall = _any_color(rng, (0.05, 0.4), (0.4, 0.85))
    _box(canvas, x, base - h, x + w, base + 2, wall)
    for column in (0.15, 0.6):
        for row in (0.92, 0.62, 0.32):
            left, top = x + w * column, base - h * row
            _box(canvas, left, top, left + 0.25 * w, top + 0.15 * h, _shade(wall, 0.55))


def _tree(canvas: _Canvas, rng: np.random.Generator, base: float) -> None:
    height, width = canvas.part_map.shape
    r, g, b = rng.integers((40, 95, 35), (100, 150, 80)).tolist()
    foot = np.array([[rng.uniform(0, width), base + 4]])
    top = foot - (0, rng.uniform(0.2, 0.5) * height)
    canvas.rods(foot, top, 0.02 * width, (105, 75, 50))
    for dx, dy, size in (rng.normal((0, 0, 0.075), (0.045, 0.035, 0.015), (5, 3)) * width).tolist():
        canvas.fill(top[0] + (dx, dy) + _RING * max(size, 4), _shade((r, g, b), rng.uniform(0.8, 1.15)))


def _paint_shadow(image: np.ndarray, x: float, y: float, half_width: float) -> None:
    """Darkens the ground under a person."""
    height, width = image.shape[:2]
    half_height = max(2.0, 0.22 * half_width)
    x0, x1 = max(0, int(x - half_width)), min(width, int(x + half_width) + 1)
    y0, y1 = max(0, int(y - half_height)), min(height, int(y + half_height) + 1)
    if x1 <= x0 or y1 <= y0:
        return
    u = (np.arange(x0, x1, dtype=np.float32) - x) / half_width
    v = (np.arange(y0, y1, dtype=np.float32) - y) / half_height
    keep = 1 - 0.5 * np.clip(1 - u * u - (v * v)[:, None], 0, 1)
    image[y0:y1, x0:x1] = (image[y0:y1, x0:x1] * keep[..., None]).astype(np.uint8)


# ---------------------------------------------------------------------------------------------------------------------
# The scene


@dataclasses.dataclass(frozen=True)
class Scene:
    """A drawn picture with everything that is known about it."""

    image: np.ndarray  # uint8 [height, width, 3], RGB
    part_map: np.ndarray  # uint8 [height, width]: 0 background, `CLUTTER`, or `part_id(person, part)`
    annotations: list[dict]  # in COCO's form, one for each person of whom anything is seen
    people: list[int]  # the number in `part_map` of each annotation's person


def _extent(body: _Body) -> np.ndarray:
    """(left, top, right, bottom) of a body at scale 1 with its pelvis at the origin."""
    points = _View(1.0, 0.0, 0.0).points_img(np.array(list(body.points.values())))
    head = points[list(body.points).index("head")]
    low = np.minimum(points.min(0) - 0.04, head - 0.085)
    high = np.maximum(points.max(0) + 0.04, head + 0.085)
    return np.array([*low, *high])


def _overlap(box: np.ndarray, others: Iterable[np.ndarray]) -> float:
    """The largest share of the smaller of two boxes (left, top, right, bottom) that the other one covers."""
    worst = 0.0
    for other in others:
        sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
        if (sides > 0).all():
            smaller = min(np.prod(box[2:] - box[:2]), np.prod(other[2:] - other[:2]))
            worst = max(worst, float(np.prod(sides) / smaller))
    return worst


def _place(
    rng: np.random.Generator, body: _Body, height: int, width: int, crowd: int, taken: list[np.ndarray]
) -> tuple[_View, np.ndarray] | None:
    """A place and size in the picture beside those `taken`; None if there is no room."""
    extent = _extent(body)
    wide, tall = extent[2:] - extent[:2]
    side = min(height, width)
    cut = rng.random() < 0.12
    limit = 0.4 if rng.random() < 0.4 else 0.12
    best = None
    for _ in range(10):
        scale = rng.uniform(*((0.62, 0.98), (0.52, 0.86), (0.42, 0.72))[crowd - 1]) * side
        scale = min(scale, 0.97 * width / wide, 0.97 * height / tall)
        if cut:
            scale *= rng.uniform(1.1, 1.5)
        box_width, box_height = wide * scale, tall * scale
        left = rng.uniform(0, max(width - box_width, 0.0))
        top = rng.uniform(0.5, 1.0) * max(height - box_height, 0.0)
        if cut:
            edge, hidden = rng.random(), rng.uniform(0.12, 0.38)
            if edge < 0.5:
                top = height - (1 - hidden) * box_height
            elif edge < 0.7:
                left = -hidden * box_width
            elif edge < 0.9:
                left = width - (1 - hidden) * box_width
            else:
                top = -0.5 * hidden * box_height
        box = np.array([left, top, left + box_width, top + box_height])
        overlap = _overlap(box, taken)
        view = _View(scale, left - extent[0] * scale, top - extent[1] * scale)
        if overlap <= limit:
            return view, box
        if best is None or overlap < best[0]:
            best = (overlap, view, box)
    if best is None or best[0] > 0.5:
        return None
    return best[1], best[2]


def draw_scene(seed: int, split: str, index: int, image_size: tuple[int, int] = (192, 192)) -> Scene:
    """Draws picture `index` of a split with its part map; see `draw_image` for the arguments."""
    rng = _generator(seed, split, index, 0)
    height, width = (round(side * rng.uniform(0.85, 1.2)) for side in image_size)
    image = _paint_background(rng, height, width)
    part_map = np.zeros((height, width), np.uint8)
    canvas = _Canvas(image, part_map)
    light = np.array([0.7 * _draw_sign(rng), -0.7])

    crowd = 1 + _draw_one(rng, (0.66, 0.27, 0.07))
    placed: list[tuple[_View, _Body, _Look]] = []
    taken: list[np.ndarray] = []
    for _ in range(crowd):
        body, look = _draw_body(rng), _draw_look(rng)
        place = _place(rng, body, height, width, crowd, taken)
        if place is not None:
            placed.append((place[0], body, look))
            taken.append(place[1])
    placed.sort(key=lambda person: person[0].scale)  # who looks larger is nearer

    for number, (view, body, look) in enumerate(placed):
        points = view.points_img(np.array(list(body.points.values())))
        ground = float(points[:, 1].max()) + 0.02 * view.scale
        _paint_shadow(image, float(points[:, 0].mean()), ground, 0.2 * view.scale)
        if body.seated:
            reach = 0.15 * view.scale
            seat = _any_color(rng, (0.1, 0.6), (0.3, 0.8))
            top = view.y + 0.05 * view.scale
            bottom = max(ground, top + reach)
            _box(canvas, view.x - reach, top, view.x + reach, bottom, _shade(seat, 0.7), CLUTTER)
            _box(canvas, view.x - 1.1 * reach, top - 2, view.x + 1.1 * reach, top + 0.04 * view.scale, seat, CLUTTER)
        _PersonPainter(canvas, body, look, view, number, light).paint()
    if rng.random() < 0.1:
        (_table, _plant, _pole)[rng.integers(3)](canvas, rng, CLUTTER)

    noise = np.frombuffer(rng.bytes(height * width), np.uint8).reshape(height, width)
    strength = rng.uniform(0.0, 0.05)
    brightness = rng.uniform(0.92, 1.08)
    grain = cv2.cvtColor(noise, cv2.COLOR_GRAY2RGB)
    image = np.asarray(cv2.addWeighted(image, brightness, grain, strength, -127.5 * strength), np.uint8)

    annotations: list[dict] = []
    people: list[int] = []
    image_id = _image_id(split, index)
    for number, (view, body, _) in enumerate(placed):
        annotation = _annotate(part_map, number, body, view)
        if annotation is not None:
            annotation |= {"id": image_id * 10 + len(people), "image_id": image_id}
            annotations.append(annotation)
            people.append(number)
    return Scene(image, part_map, annotations, people)


def _annotate(part_map: np.ndarray, number: int, body: _Body, view: _View) -> dict | None:
    """One person's annotation as the part map shows it; None if nothing of the person is seen."""
    height, width = part_map.shape
    first = part_id(number, PARTS[0])
    silhouette = cv2.inRange(part_map, first, first + len(PARTS) - 1)
    left, top, wide, tall = cv2.boundingRect(silhouette)
    if wide == 0:
        return None
    points = view.points_img(np.array([body.points[name] for name in COCO.names])).round(2)
    sight = body.sight()
    keypoints: list[float] = []
    for name, (x, y) in zip(COCO.names, points.tolist(), strict=True):
        column, row = round(x), round(y)
        if not (0 <= column < width and 0 <= row < height):
            keypoints += [0, 0, 0]
            continue
        parts = carriers(name)
        if parts[-1] in ("torso", "skirt"):
            lateral = float((body.pelvis if name.endswith("hip") else body.chest)[2, 0])
            if (lateral if name.startswith("left") else -lateral) < -0.75:
                parts = parts[:1]  # the far side of a trunk in profile
        around = part_map[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        seen = not {part_id(number, part) for part in parts}.isdisjoint(around.ravel().tolist())
        if not seen and name in _FACE and float(_FACE[name] @ sight) < -0.2:
            keypoints += [0, 0, 0]
        else:
            keypoints += [min(max(x, 0), width - 1), min(max(y, 0), height - 1), 2 if seen else 1]
    contours, _ = cv2.findContours(silhouette, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outlines = [cv2.approxPolyDP(contour, 1.0, True).ravel().tolist() for contour in contours]
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [float(left), float(top), float(wide), float(tall)],
        "area": float(cv2.countNonZero(silhouette)),
        "num_keypoints": sum(flag > 0 for flag in keypoints[2::3]),
        "keypoints": keypoints,
        "segmentation": [outline for outline in outlines if len(outline) >= 6],
    }


def draw_image(
    seed: int, split: str, index: int, image_size: tuple[int, int] = (192, 192)
) -> tuple[np.ndarray, list[dict]]:
    """Draws one picture of people, a pure function of its arguments.

    Args:
        seed: seed of the data set, at least 0.
        split: "train" or "val".
        index: number of the picture within its split, from 0.
        image_size: typical (height, width) in pixels; each side of a picture varies from 0.85 to 1.2 times that.

    Returns:
        The picture, uint8 [height, width, 3], RGB; and one COCO annotation per person (``bbox`` and ``area`` are those
        of the visible silhouette, ``keypoints`` 51 numbers).

    Raises:
        ValueError: for an unknown split, or a negative seed or index.
    """
    scene = draw_scene(seed, split, index, image_size)
    return scene.image, scene.annotations


def _generator(seed: int, split: str, index: int, purpose: int) -> np.random.Generator:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of the synthetic set: choose one of {', '.join(SPLITS)}")
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index count from 0, but seed={seed} and index={index} were given")
    return np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index, purpose]))


def _image_id(split: str, index: int) -> int:
    return 1 + index + (0 if split == "train" else 1_000_000)


# ---------------------------------------------------------------------------------------------------------------------
# Detections and files

DETECTIONS_FILE = "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"


def _detect(rng: np.random.Generator, image_id: int, size: tuple[int, int], annotations: list[dict]) -> list[dict]:
    """What a good person detector might say: shaken boxes, few misses, some doubles and false alarms."""
    height, width = size
    boxes: list[tuple[np.ndarray, float]] = []
    for annotation in annotations:
        x, y, w, h = annotation["bbox"]
        for score_range, share, spread in (((0.6, 0.999), 0.97, 0.025), ((0.05, 0.4), 0.12, 0.12)):
            if rng.random() < share:
                shake = rng.normal(0, spread, 4) * (w, h, w, h)
                boxes.append((np.array([x, y, x + w, y + h]) + shake, rng.uniform(*score_range)))
    for _ in range(rng.poisson(0.4)):
        corner = rng.uniform((0, 0), (0.7 * width, 0.6 * height))
        opposite = corner + rng.uniform((20, 40), (0.3 * width, 0.5 * height))
        boxes.append((np.concatenate([corner, opposite]), rng.uniform(0.02, 0.5)))
    detections = []
    for box, score in boxes:
        x0, y0, x1, y1 = np.clip(box, 0, (width, height, width, height)).tolist()
        if x1 - x0 > 4 and y1 - y0 > 4:
            bbox = [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)]
            detections.append({"image_id": image_id, "category_id": 1, "bbox": bbox, "score": round(score, 4)})
    return detections


@dataclasses.dataclass(frozen=True)
class _Task:
    folder: str
    seed: int
    split: str
    index: int
    image_size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class _Written:
    image: dict  # COCO's entry
    annotations: list[dict]
    detections: list[dict]


def _write_image(task: _Task) -> _Written:
    """Draws and stores one picture."""
    image, annotations = draw_image(task.seed, task.split, task.index, task.image_size)
    image_id = _image_id(task.split, task.index)
    file_name = f"{image_id:012d}.jpg"
    ok, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    if not ok:
        raise RuntimeError(f"OpenCV could not encode {file_name}")
    (pathlib.Path(task.folder) / f"{task.split}2017" / file_name).write_bytes(jpeg.tobytes())
    height, width = image.shape[:2]
    detections = []
    if task.split == "val":
        rng = _generator(task.seed, task.split, task.index, 1)
        detections = _detect(rng, image_id, (height, width), annotations)
    entry = {"id": image_id, "file_name": file_name, "width": width, "height": height}
    return _Written(entry, annotations, detections)


def _one_thread() -> None:
    cv2.setNumThreads(1)


def write_synthetic(
    out_dir: str | os.PathLike,
    *,
    num_train: int = 4000,
    num_val: int = 200,
    seed: int = 0,
    image_size: tuple[int, int] = (192, 192),
    num_workers: int = 2,
    progress: bool = True,
) -> None:
    """Writes a drawn data set in COCO's folder layout; does nothing if the same one is already there.

    The set is made in ``<out_dir>.partial`` and renamed at the end, so `out_dir` is complete whenever it exists.
    Contents: ``train2017/`` and ``val2017/`` (JPEG), ``annotations/person_keypoints_{train,val}2017.json``, a file of
    detected boxes under ``person_detection_results/``, and ``synthetic.json`` with the arguments. The files do not
    depend on `num_workers`.

    Args:
        out_dir: folder to make.
        num_train: pictures of the training split.
        num_val: pictures of the validation split.
        seed: seed of the whole set, at least 0.
        image_size: typical (height, width) of a picture in pixels.
        num_workers: worker processes; 0 draws in this process.
        progress: show a progress bar.

    Raises:
        ValueError: if a number is out of range.
        FileExistsError: if `out_dir` holds something else.
    """
    if min(num_train, num_val, seed, num_workers) < 0 or min(image_size) < 64:
        raise ValueError(
            "num_train, num_val, seed and num_workers must be at least 0 and both sides of image_size at least 64, but "
            f"{num_train}, {num_val}, {seed}, {num_workers} and {tuple(image_size)} were given"
        )
    out = pathlib.Path(out_dir)
    recipe = {
        "drawing_version": DRAWING_VERSION,
        "num_train": num_train,
        "num_val": num_val,
        "seed": seed,
        "image_size": list(image_size),
    }
    if _holds(out, recipe):
        return
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # what an interrupted run left
    for folder in ("train2017", "val2017", "annotations", "person_detection_results"):
        (partial / folder).mkdir(parents=True)

    counts = {"train": num_train, "val": num_val}
    size = (image_size[0], image_size[1])
    tasks = [_Task(str(partial), seed, split, i, size) for split in SPLITS for i in range(counts[split])]
    bar = functools.partial(tqdm, total=len(tasks), desc="drawing people", unit="image", disable=not progress)
    if num_workers == 0:
        results = list(bar(map(_write_image, tasks)))
    else:
        with multiprocessing.get_context("spawn").Pool(num_workers, initializer=_one_thread) as pool:
            results = list(bar(pool.imap(_write_image, tasks, chunksize=16)))

    by_split = {"train": results[:num_train], "val": results[num_train:]}
    for split, rows in by_split.items():
        _write_json(partial / "annotations" / f"person_keypoints_{split}2017.json", _coco_file(rows))
    _write_json(partial / DETECTIONS_FILE, [found for row in by_split["val"] for found in row.detections])
    _write_json(partial / RECIPE_FILE, recipe)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial.rename(out)


def _holds(out: pathlib.Path, recipe: dict) -> bool:
    """True if `out` is the finished set of `recipe`, False if it is absent or empty."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    found = json.loads((out / RECIPE_FILE).read_text()) if (out / RECIPE_FILE).is_file() else "something else"
    if found != recipe:
        raise FileExistsError(
            f"{out} exists and holds {found}, but the synthetic set {recipe} was asked for: choose another folder, or "
            "remove this one"
        )
    return True


def _coco_file(rows: list[_Written]) -> dict:
    skeleton = (COCO.skeleton_index + 1).tolist()
    category = {"supercategory": "person", "id": 1, "name": "person", "keypoints": COCO.names, "skeleton": skeleton}
    return {
        "info": {"description": "People drawn by vitpose_jax.data.synthetic", "version": str(DRAWING_VERSION)},
        "licenses": [],
        "images": [row.image for row in rows],
        "annotations": [annotation for row in rows for annotation in row.annotations],
        "categories": [category],
    }


def _write_json(path: pathlib.Path, content: object) -> None:
    path.write_text(json.dumps(content))


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of `write_synthetic`."""
    parser = argparse.ArgumentParser(description="Draw a data set of people in COCO's folder layout.")
    parser.add_argument("--out", required=True, help="folder to make")
    parser.add_argument("--num-train", type=int, default=4000)
    parser.add_argument("--num-val", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-workers", type=int, default=2, help="worker processes; 0 draws in this one")
    args = parser.parse_args(argv)
    write_synthetic(
        args.out, num_train=args.num_train, num_val=args.num_val, seed=args.seed, num_workers=args.num_workers
    )


if __name__ == "__main__":
    main()
