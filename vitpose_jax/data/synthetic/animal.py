"""A drawn animal, the example of a data set of one's own: climbing lizards seen from above, with twelve keypoints.

The spine is a bent line, the body an outline around it, the legs lie under it. As for people, a map of which animal is
seen where is painted beside the picture, and boxes, areas and visibility are read from it. A picture is a pure function
of (seed, split, index).
"""

import dataclasses

import cv2
import numpy as np

from vitpose_jax.data.synthetic.canvas import RING, Canvas
from vitpose_jax.data.synthetic.chance import draw_sign
from vitpose_jax.data.synthetic.look import Color, any_color, shade
from vitpose_jax.data.synthetic.scene import expose, generator, image_id
from vitpose_jax.data.synthetic.surroundings import paint_background, paint_clutter

KEYPOINTS: dict[str, list] = {
    "names": [
        "snout", "left_eye", "right_eye", "neck", "back", "hips", "tail_middle", "tail_tip",
        "left_front_foot", "right_front_foot", "left_hind_foot", "right_hind_foot",
    ],
    "swap": [
        ["left_eye", "right_eye"], ["left_front_foot", "right_front_foot"], ["left_hind_foot", "right_hind_foot"],
    ],
    "skeleton": [
        ["snout", "left_eye"], ["snout", "right_eye"], ["left_eye", "neck"], ["right_eye", "neck"], ["neck", "back"],
        ["back", "hips"], ["hips", "tail_middle"], ["tail_middle", "tail_tip"], ["neck", "left_front_foot"],
        ["neck", "right_front_foot"], ["hips", "left_hind_foot"], ["hips", "right_hind_foot"],
    ],
}  # fmt: skip

_PURPOSE = 2  # keeps what draws animals apart from what draws people of the same seed
_STATIONS = 33  # along the spine
# Where keypoints lie along the spine, as a fraction of the whole length.
_ALONG = {"snout": 0.0, "neck": 0.15, "back": 0.30, "hips": 0.44, "tail_middle": 0.70, "tail_tip": 1.0}
_EYES = 0.05
# The body's radii, in lengths, at places along the spine.
_RADII_AT = (0.0, 0.03, 0.09, 0.14, 0.30, 0.42, 0.50, 0.70, 1.0)
_RADII = (0.010, 0.030, 0.040, 0.028, 0.055, 0.042, 0.026, 0.014, 0.002)
_SECOND_SHARE, _CLUTTER_SHARE = 0.25, 0.12


@dataclasses.dataclass(frozen=True)
class _Lizard:
    """An animal in its picture; all in pixels."""

    number: int  # its value in the map
    length: float
    spine: np.ndarray  # [_STATIONS, 2], snout first
    left: np.ndarray  # [_STATIONS, 2], unit vectors to the animal's left
    girth: float  # factor on its radii
    limbs: dict[str, np.ndarray]  # foot -> [3, 2]: hip or shoulder, knee or elbow, foot
    points: dict[str, np.ndarray]  # keypoint -> [2]
    skin: Color
    pattern: Color


def draw_animals(
    seed: int, split: str, index: int, image_size: tuple[int, int] = (192, 192)
) -> tuple[np.ndarray, list[dict]]:
    """Draws one picture of lizards, a pure function of its arguments.

    Args:
        seed: of the data set, at least 0.
        split: "train" or "val".
        index: number of the picture within its split, from 0.
        image_size: typical (height, width) in pixels; each side varies from 0.85 to 1.2 times that.

    Returns:
        The picture, uint8 [height, width, 3], RGB; and one COCO annotation for each animal of which anything is seen.
    """
    rng = generator(seed, split, index, _PURPOSE)
    height, width = (round(side * rng.uniform(0.85, 1.2)) for side in image_size)
    canvas = paint_background(rng, height, width)
    lizards = [_draw_lizard(rng, number, height, width) for number in range(1, 2 + (rng.random() < _SECOND_SHARE))]
    for lizard in lizards:
        _paint(canvas, rng, lizard)
    if rng.random() < _CLUTTER_SHARE:
        paint_clutter(canvas, rng)
    annotations: list[dict] = []
    for lizard in lizards:
        annotation = _annotate(canvas.part_map, lizard)
        if annotation is not None:
            this_image = image_id(split, index)
            annotations.append(annotation | {"id": this_image * 10 + len(annotations), "image_id": this_image})
    return expose(canvas.image, rng), annotations


def _draw_lizard(rng: np.random.Generator, number: int, height: int, width: int) -> _Lizard:
    length = rng.uniform(0.55, 0.95) * min(height, width)
    along = np.linspace(0, 1, _STATIONS)
    # They climb: the head is up, more or less. The spine is bent, and winds like a wave.
    bend = rng.normal(0, 0.7) * along + rng.normal(0, 0.5) * np.sin(2 * np.pi * (along + rng.random()))
    angle = -0.5 * np.pi + rng.uniform(-1.0, 1.0) + bend
    towards_snout = np.stack([np.cos(angle), np.sin(angle)], 1)
    spine = -np.cumsum(towards_snout, 0) * length / (_STATIONS - 1)
    low, high = spine.min(0) - 0.05 * length, spine.max(0) + 0.05 * length
    room = np.maximum(np.array([width, height]) - (high - low), 0.0)
    spine = spine - low + rng.uniform(-0.08, 1.08, 2) * room
    left = np.stack([towards_snout[:, 1], -towards_snout[:, 0]], 1)  # y points down

    girth = rng.uniform(0.85, 1.25)
    points = {name: _at(spine, place) for name, place in _ALONG.items()}
    limbs = {}
    for side, sign in (("left", 1), ("right", -1)):
        points[f"{side}_eye"] = _at(spine, _EYES) + sign * _at(left, _EYES) * 0.027 * girth * length
        for pair, place, stride in (("front", 0.18, 0.04), ("hind", 0.43, -0.01)):
            foot = f"{side}_{pair}_foot"
            limbs[foot] = _limb(rng, spine, left, place, sign, stride)
            points[foot] = limbs[foot][2]
    skin = any_color(rng, (0.25, 0.8), (0.3, 0.85))
    return _Lizard(number, length, spine, left, girth, limbs, points, skin, any_color(rng, (0.1, 0.8), (0.1, 0.95)))


def _at(line: np.ndarray, place: float) -> np.ndarray:
    """The value [2] at a fraction of a line [_STATIONS, 2]."""
    position = place * (len(line) - 1)
    cell = min(int(position), len(line) - 2)
    return line[cell] + (position - cell) * (line[cell + 1] - line[cell])


def _limb(
    rng: np.random.Generator, spine: np.ndarray, left: np.ndarray, place: float, sign: int, stride: float
) -> np.ndarray:
    """[3, 2]: where a leg leaves the body, its joint, its foot."""
    outwards = sign * _at(left, place)
    forwards = np.array([-outwards[1], outwards[0]]) * sign
    length = np.linalg.norm(np.diff(spine, axis=0), axis=1).sum()
    root = _at(spine, place) + outwards * 0.02 * length
    joint = root + (outwards * rng.uniform(0.06, 0.09) + forwards * (stride + rng.normal(0, 0.025))) * length
    foot = joint + (outwards * rng.uniform(0.02, 0.06) + forwards * rng.normal(0.02, 0.045)) * length
    return np.stack([root, joint, foot])


def _paint(canvas: Canvas, rng: np.random.Generator, lizard: _Lizard) -> None:
    unit = lizard.length
    for limb in lizard.limbs.values():
        canvas.rods(limb[:2], limb[1:], 0.015 * unit, lizard.skin, lizard.number)
        away = limb[2] - limb[1]
        spread = np.arctan2(away[1], away[0]) + np.array([-0.7, 0.0, 0.7])
        toes = limb[2] + 0.028 * unit * np.stack([np.cos(spread), np.sin(spread)], 1)
        canvas.rods(np.tile(limb[2], (3, 1)), toes, 0.006 * unit, shade(lizard.skin, 0.85), lizard.number)
    along = np.linspace(0, 1, _STATIONS)
    radii = np.interp(along, _RADII_AT, _RADII)[:, None] * lizard.girth * unit
    for share, bright, part in ((1.0, 0.72, lizard.number), (0.78, 1.0, None), (0.3, 1.15, None)):
        sides = (lizard.spine + lizard.left * radii * share, lizard.spine - lizard.left * radii * share)
        canvas.fill(np.concatenate([sides[0], sides[1][::-1]]), shade(lizard.skin, bright), part)
    if rng.random() < 0.6:  # bands across the back and tail
        for station in range(6, _STATIONS - 4, 3):
            across = lizard.left[station] * radii[station] * 0.8
            ends = np.array([lizard.spine[station] + across, lizard.spine[station] - across])
            canvas.stroke(ends, lizard.pattern, max(1, round(0.014 * unit)))
    light = draw_sign(rng) * 0.3
    for side in ("left", "right"):
        eye, size = lizard.points[f"{side}_eye"], 0.012 * unit
        canvas.fill(eye + RING * max(1.6, size), (24, 22, 20), lizard.number)
        canvas.fill(eye + np.array([light, -0.3]) * size + RING * max(0.6, 0.35 * size), (235, 230, 200))


def _annotate(part_map: np.ndarray, lizard: _Lizard) -> dict | None:
    """COCO's annotation of an animal, without ids, as the map [height, width] shows it; None if nothing is seen."""
    silhouette = cv2.inRange(part_map, lizard.number, lizard.number)
    left, top, wide, tall = cv2.boundingRect(silhouette)
    keypoints = _label(part_map, lizard)
    if min(wide, tall) < 8 or not any(keypoints[2::3]):
        return None
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [left, top, wide, tall],
        "area": cv2.countNonZero(silhouette),
        "num_keypoints": sum(flag > 0 for flag in keypoints[2::3]),
        "keypoints": keypoints,
    }


def _label(part_map: np.ndarray, lizard: _Lizard) -> list[float]:
    """(x, y, v) of all keypoints in a row: 2 seen, 1 hidden by something, 0 outside the picture."""
    height, width = part_map.shape
    labels: list[float] = []
    for name in KEYPOINTS["names"]:
        x, y = lizard.points[name].round(2).tolist()
        column, row = round(x), round(y)
        if not (0 <= column < width and 0 <= row < height):
            labels += [0, 0, 0]
            continue
        around = part_map[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        seen = bool((around == lizard.number).any())
        labels += [min(max(x, 0), width - 1), min(max(y, 0), height - 1), 2 if seen else 1]
    return labels
