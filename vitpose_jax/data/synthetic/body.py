"""A body in three dimensions: the poses people take, their measures, and the skeleton that follows from both.

Axes of the body: x to the person's left, y up, z forward. Axes of the scene: x right, y up, z to the viewer. The unit
of both is the body height.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from vitpose_jax.data.synthetic.chance import Angles, draw_angles, draw_one, draw_sign

# ---------------------------------------------------------------------------------------------------------------------
# Poses. Most people stand or walk and face the viewer; sitting, sporting, lying and backs are there, but rarer.

# Share, and angles of an arm: flexion (forwards), abduction (outwards), twist, elbow flexion.
_ARMS: tuple[tuple[float, Angles], ...] = (
    (0.36, ((0, 12), (10, 6), (0, 20), (14, 10))),  # hanging
    (0.15, ((38, 14), (8, 6), (0, 20), (45, 30))),  # swung forwards
    (0.11, ((-32, 12), (12, 6), (0, 20), (30, 20))),  # swung back
    (0.03, ((85, 14), (4, 10), (0, 30), (15, 14))),  # stretched forwards
    (0.08, ((165, 14), (8, 12), (0, 30), (18, 16))),  # raised
    (0.05, ((0, 14), (140, 16), (0, 30), (18, 14))),  # raised to the side
    (0.07, ((0, 14), (88, 14), (0, 30), (12, 12))),  # sideways
    (0.04, ((5, 12), (95, 18), (85, 18), (85, 25))),  # waving
    (0.02, ((5, 12), (85, 12), (-85, 18), (75, 20))),  # a scarecrow's
    (0.07, ((-8, 8), (48, 8), (-72, 10), (95, 12))),  # akimbo
    (0.01, ((22, 8), (8, 5), (-70, 12), (98, 14))),  # folded
    (0.01, ((95, 20), (35, 15), (0, 20), (138, 12))),  # hand to the head
)
_BOTH_ARMS_ALIKE = 0.5

_STRAIGHT: Angles = ((0, 6), (6, 4), (6, 8), (5, 5))  # flexion (forwards), abduction, outward rotation, knee flexion


@dataclasses.dataclass(frozen=True)
class _Stance:
    share: float
    legs: tuple[Angles, Angles]  # of one side and of the other; sides are exchanged at random
    pelvis_pitch: tuple[float, float] = (0, 5)  # forwards; the legs stay where they are
    spine_pitch: tuple[float, float] = (4, 8)
    roll: tuple[float, float] = (0, 5)  # of the whole person in the image plane
    seated: bool = False


_STANCES = (
    _Stance(0.47, (_STRAIGHT, _STRAIGHT)),
    _Stance(0.17, (((0, 6), (22, 7), (15, 10), (6, 6)), ((0, 6), (22, 7), (15, 10), (6, 6)))),  # legs apart
    _Stance(0.23, (((28, 8), (4, 3), (4, 6), (10, 8)), ((-18, 7), (4, 3), (4, 6), (22, 12)))),  # walking
    _Stance(0.03, (((62, 14), (4, 4), (4, 6), (85, 20)), ((-18, 10), (4, 4), (4, 6), (45, 30))),
            (8, 5), (10, 7)),  # running
    _Stance(0.025, (((78, 10), (10, 6), (8, 8), (82, 10)), ((-28, 10), (8, 6), (8, 8), (18, 10)))),  # lunging
    _Stance(0.03, (((86, 8), (10, 8), (5, 8), (84, 14)), ((86, 8), (10, 8), (5, 8), (84, 14))), seated=True),
    _Stance(0.006, (((105, 12), (22, 10), (15, 8), (120, 12)), ((105, 12), (22, 10), (15, 8), (120, 12))),
            (15, 8), (18, 8)),  # squatting
    _Stance(0.006, (((86, 8), (10, 6), (5, 6), (92, 8)), ((0, 8), (8, 4), (0, 6), (92, 8)))),  # kneeling
    _Stance(0.01, (((72, 20), (8, 8), (8, 8), (20, 14)), _STRAIGHT), (-5, 6), (0, 8)),  # kicking
    _Stance(0.01, (((0, 10), (58, 14), (10, 10), (10, 8)), _STRAIGHT), roll=(0, 12)),  # a leg to the side
    _Stance(0.007, (_STRAIGHT, ((5, 6), (8, 5), (6, 8), (12, 10))), (38, 14), (42, 14)),  # bending
    _Stance(0.003, (((15, 20), (12, 10), (10, 10), (30, 30)), ((15, 20), (12, 10), (10, 10), (30, 30))),
            (0, 12), (0, 12), (90, 14)),  # lying, to either side
    _Stance(0.003, (((0, 15), (25, 15), (10, 10), (15, 15)), ((0, 15), (25, 15), (10, 10), (15, 15))),
            (0, 5), (0, 8), (150, 25)),  # cartwheel, handstand
)  # fmt: skip

# Share, centre and spread (degrees) of the directions people face: front, three-quarter, profile, back; either side.
_VIEWS = ((0.82, 0, 13), (0.12, 40, 12), (0.03, 88, 10), (0.03, 172, 10))

# ---------------------------------------------------------------------------------------------------------------------
# Measures in body heights

_HALF_SHOULDERS, _HALF_HIPS = 0.118, 0.064
# Cross-sections of the trunk: place (0 at the hips, 1 at the shoulders), half width, half depth.
_TRUNK = np.array([
    (-0.17, 0.070, 0.055), (0.00, 0.100, 0.074), (0.20, 0.100, 0.072), (0.48, 0.086, 0.064), (0.75, 0.106, 0.072),
    (0.92, 0.116, 0.068), (1.01, 0.108, 0.058), (1.08, 0.072, 0.048), (1.14, 0.040, 0.038),
])  # fmt: skip
_SKULL_RADII = np.array([0.060, 0.080, 0.070])


def unit(x: float, y: float, z: float) -> np.ndarray:
    """The direction of (x, y, z), [3]."""
    return np.array([x, y, z]) / math.sqrt(x * x + y * y + z * z)


FACE = {  # directions in the axes of the head's unit sphere
    "nose": unit(0, -0.12, 1.0),
    "left_eye": unit(0.40, 0.14, 0.88),
    "right_eye": unit(-0.40, 0.14, 0.88),
    "left_ear": unit(1.0, -0.02, -0.08),
    "right_ear": unit(-1.0, -0.02, -0.08),
}
_FACE_REACH = {"nose": 1.16, "left_eye": 1.0, "right_eye": 1.0, "left_ear": 1.07, "right_ear": 1.07}

# ---------------------------------------------------------------------------------------------------------------------
# The skeleton


@dataclasses.dataclass(frozen=True)
class Build:
    """What does not change when a person moves; lengths relative to the average."""

    girth: float = 1.15
    head: float = 1.0
    legs: float = 1.0
    arms: float = 1.0
    half_shoulders: float = _HALF_SHOULDERS  # body heights
    half_hips: float = _HALF_HIPS  # body heights
    waist: float = 0.96


@dataclasses.dataclass(frozen=True)
class Posture:
    """How a person stands and is seen: angles in degrees."""

    arms: tuple[Sequence[float], Sequence[float]]  # left, right; as in _ARMS
    legs: tuple[Sequence[float], Sequence[float]]  # left, right; as in _STRAIGHT, and how far the foot points down
    yaw: float = 0.0  # 0 faces the viewer, 90 the picture's right
    roll: float = 0.0
    camera_pitch: float = 6.0
    pelvis_pitch: float = 0.0
    spine: tuple[float, float, float] = (4.0, 0.0, 0.0)  # pitch, tilt, twist
    head: tuple[float, float, float] = (0.0, 2.0, 0.0)  # yaw, pitch, tilt
    seated: bool = False


@dataclasses.dataclass(frozen=True)
class Body:
    """One posed person in scene axes, the pelvis at the origin."""

    points: dict[str, np.ndarray]  # [3] each: the ends of limbs, named like keypoints, and neck, head, hands, toes
    pelvis: np.ndarray  # [3, 3], columns: the pelvis' left, up and forward
    chest: np.ndarray  # [3, 3]
    head: np.ndarray  # [3, 3]
    skull: np.ndarray  # [3], radii of the head along its axes
    girth: float
    trunk: np.ndarray  # [9, 3], cross-sections: place (0 hips … 1 shoulders), half width, half depth
    seated: bool

    def sight(self) -> np.ndarray:
        """Direction to the viewer in the axes of the head's unit sphere: its points u with u·sight > 0 are seen."""
        normal = self.head[2] / self.skull
        return normal / math.sqrt(float(normal @ normal))


def draw_body(rng: np.random.Generator) -> Body:
    """A person of random build, in a random pose, seen from a random side."""
    stance = _STANCES[draw_one(rng, [s.share for s in _STANCES])]
    girth = float(np.clip(rng.normal(1.15, 0.12), 0.9, 1.5))
    head, long_legs, long_arms = (1 + 0.06 * rng.standard_normal(3)).tolist()
    half_shoulders = _HALF_SHOULDERS * (1 + 0.07 * rng.standard_normal())
    half_hips = _HALF_HIPS * (1 + 0.08 * rng.standard_normal())

    _, yaw_mean, yaw_spread = _VIEWS[draw_one(rng, [share for share, _, _ in _VIEWS])]
    yaw = (yaw_mean + yaw_spread * rng.standard_normal()) * draw_sign(rng)
    pelvis_pitch, spine_pitch, roll = draw_angles(rng, (stance.pelvis_pitch, stance.spine_pitch, stance.roll))
    roll *= draw_sign(rng)
    camera_pitch = rng.uniform(-4, 16)
    tilt, twist, head_yaw, head_pitch, head_tilt = draw_angles(rng, ((0, 8), (0, 10), (0, 20), (2, 10), (0, 8)))
    first_arm = _draw_arm(rng)
    second_arm = first_arm if rng.random() < _BOTH_ARMS_ALIKE else _draw_arm(rng)
    legs = stance.legs if rng.random() < 0.5 else stance.legs[::-1]
    (left_arm, left_leg), (right_arm, right_leg) = (
        (draw_angles(rng, arm), [*draw_angles(rng, leg), rng.normal(6, 8)])
        for arm, leg in zip((first_arm, second_arm), legs, strict=True)
    )
    build = Build(girth, max(head, 0.92), long_legs, long_arms, half_shoulders, half_hips, rng.uniform(0.85, 1.08))
    posture = Posture(
        (left_arm, right_arm), (left_leg, right_leg), yaw, roll, camera_pitch, pelvis_pitch,
        (spine_pitch, tilt, twist), (head_yaw, head_pitch, head_tilt), stance.seated and abs(roll) < 15,
    )  # fmt: skip
    return posed_body(build, posture)


def posed_body(build: Build, posture: Posture) -> Body:
    """The skeleton of a person of this build in this posture."""
    root = _rotation(2, posture.roll) @ _rotation(0, posture.camera_pitch) @ _rotation(1, posture.yaw)
    pelvis = root @ _rotation(0, posture.pelvis_pitch)
    spine_pitch, tilt, twist = posture.spine
    chest = pelvis @ _rotation(0, spine_pitch) @ _rotation(2, tilt) @ _rotation(1, twist)
    # People tend to look ahead: the head takes back part of the trunk's pitch.
    head_yaw, head_pitch, head_tilt = posture.head
    look = head_pitch - 0.5 * (posture.pelvis_pitch + spine_pitch)
    head = chest @ _rotation(1, head_yaw) @ _rotation(0, look) @ _rotation(2, head_tilt)

    points = {"pelvis": np.zeros(3)}
    points["waist"] = pelvis @ (0, 0.11, 0)
    points["chest"] = points["waist"] + chest @ (0, 0.17, 0)
    points["neck"] = points["chest"] + chest @ (0, 0.02, 0)
    points["chin"] = points["neck"] + 0.5 * (chest + head) @ (0, 0.065, 0.008)
    skull = _SKULL_RADII * (build.head * 1.06)
    points["head"] = points["chin"] + head @ (skull * (0, 0.8, 0.12))
    for name, direction in FACE.items():
        points[name] = points["head"] + head @ (skull * direction * _FACE_REACH[name])

    for side, sign, arm, leg in zip(("left", "right"), (1, -1), posture.arms, posture.legs, strict=True):
        shoulder = points["chest"] + chest @ (sign * build.half_shoulders, -0.012, 0)
        for name, point in _arm_points(sign, shoulder, chest, arm, build.arms).items():
            points[f"{side}_{name}"] = point
        hip = pelvis @ (sign * build.half_hips, -0.01, 0)
        flexion, *others = leg
        leg_angles = [flexion + posture.pelvis_pitch, *others]
        for name, point in _leg_points(sign, hip, pelvis, leg_angles, build.legs).items():
            points[f"{side}_{name}"] = point

    trunk = _TRUNK.copy()
    widen = (build.half_hips / _HALF_HIPS, build.waist, build.half_shoulders / _HALF_SHOULDERS)
    trunk[:, 1] *= np.interp(trunk[:, 0], (0, 0.5, 1), widen)
    trunk[:8, 1:] *= build.girth  # not the neckline
    return Body(points, pelvis, chest, head, skull, build.girth, trunk, posture.seated)


def _draw_arm(rng: np.random.Generator) -> Angles:
    return _ARMS[draw_one(rng, [share for share, _ in _ARMS])][1]


def _arm_points(
    sign: int, shoulder: np.ndarray, chest: np.ndarray, angles: Sequence[float], length: float
) -> dict[str, np.ndarray]:
    """Points [3] of the left (`sign` 1) or right (-1) arm; `angles` as in _ARMS, `length` relative to the average."""
    flexion, abduction, turn, elbow = angles
    upper = chest @ _rotation(0, -flexion) @ _rotation(2, sign * abduction) @ _rotation(1, sign * turn)
    fore = upper @ _rotation(0, -min(max(elbow, 0), 150))
    points = {"shoulder": shoulder}
    points["elbow"] = shoulder + upper @ (0, -0.165 * length, 0)
    points["wrist"] = points["elbow"] + fore @ (0, -0.14 * length, 0)
    points["palm"] = points["wrist"] + fore @ (0, -0.012, 0)
    points["fingers"] = points["wrist"] + fore @ (0, -0.068, 0.008)
    points["thumb"] = points["wrist"] + fore @ (-sign * 0.012, -0.045, 0.035)
    return points


def _leg_points(
    sign: int, hip: np.ndarray, pelvis: np.ndarray, angles: Sequence[float], length: float
) -> dict[str, np.ndarray]:
    """Points [3] of the left (`sign` 1) or right (-1) leg; `angles` as in _STRAIGHT and that of the foot."""
    flexion, abduction, turn, knee, lowered = angles
    thigh = pelvis @ _rotation(0, -flexion) @ _rotation(2, sign * abduction) @ _rotation(1, sign * turn)
    shin = thigh @ _rotation(0, min(max(knee, 0), 145))
    foot = shin @ _rotation(0, lowered)
    points = {"hip": hip}
    points["knee"] = hip + thigh @ (0, -0.235 * length, 0)
    points["ankle"] = points["knee"] + shin @ (0, -0.225 * length, 0)
    points["heel"] = points["ankle"] + foot @ (0, -0.020, -0.012)
    points["toes"] = points["ankle"] + foot @ (sign * 0.008, -0.028, 0.095)
    return points


def _rotation(axis: int, degrees: float) -> np.ndarray:
    """Right-handed rotation about axis 0, 1 or 2."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    if axis == 0:
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    if axis == 1:
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
