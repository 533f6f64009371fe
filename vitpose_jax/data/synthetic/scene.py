"""A whole picture: people placed side by side in front of a background, and what is known about them."""

import dataclasses
from collections.abc import Iterable

import cv2
import numpy as np

from vitpose_jax.data.synthetic.body import Body, draw_body
from vitpose_jax.data.synthetic.chance import draw_one, draw_sign
from vitpose_jax.data.synthetic.labels import annotate
from vitpose_jax.data.synthetic.look import Look, draw_look
from vitpose_jax.data.synthetic.painter import paint_person
from vitpose_jax.data.synthetic.person import Person, View
from vitpose_jax.data.synthetic.surroundings import paint_background, paint_clutter, paint_ground

SPLITS = ("train", "val")

_CROWD_SHARES = (0.7, 0.24, 0.06)  # of pictures with one, two and three people
_SIZES = ((0.62, 0.98), (0.52, 0.86), (0.42, 0.72))  # body heights in sides of the picture, by the number of people
_CUT_SHARE = 0.08  # of people who stand partly outside the picture
_CLUTTER_SHARE = 0.06


@dataclasses.dataclass(frozen=True)
class Scene:
    """A drawn picture with everything that is known about it."""

    image: np.ndarray  # uint8 [height, width, 3], RGB
    part_map: np.ndarray  # uint8 [height, width]: 0 background, `CLUTTER`, or `part_id(person, part)`
    annotations: list[dict]  # in COCO's form, one for each person of whom anything is seen
    people: list[int]  # the number in `part_map` of each annotation's person


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


def draw_scene(seed: int, split: str, index: int, image_size: tuple[int, int] = (192, 192)) -> Scene:
    """Draws picture `index` of a split with its part map; see `draw_image` for the arguments."""
    rng = generator(seed, split, index, 0)
    height, width = (round(side * rng.uniform(0.85, 1.2)) for side in image_size)
    canvas = paint_background(rng, height, width)
    light = np.array([0.7 * draw_sign(rng), -0.7])
    people = _draw_people(rng, height, width)
    for person in people:
        paint_ground(canvas, rng, person)
        paint_person(canvas, person, light)
    if rng.random() < _CLUTTER_SHARE:
        paint_clutter(canvas, rng)
    image = expose(canvas.image, rng)

    annotations: list[dict] = []
    numbers: list[int] = []
    for person in people:
        annotation = annotate(canvas.part_map, person)
        if annotation is not None:
            this_image = image_id(split, index)
            annotations.append(annotation | {"id": this_image * 10 + len(annotations), "image_id": this_image})
            numbers.append(person.number)
    return Scene(image, canvas.part_map, annotations, numbers)


def generator(seed: int, split: str, index: int, purpose: int) -> np.random.Generator:
    """The random numbers of one picture; `purpose` (0, 1, …) keeps what draws it apart from what detects people."""
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of the synthetic set: choose one of {', '.join(SPLITS)}")
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index count from 0, but seed={seed} and index={index} were given")
    return np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index, purpose]))


def image_id(split: str, index: int) -> int:
    """COCO's id of a picture; no two pictures of a set share one."""
    return 1 + index + (0 if split == "train" else 1_000_000)


def _draw_people(rng: np.random.Generator, height: int, width: int) -> list[Person]:
    """One to three people, in painting order."""
    crowd = 1 + draw_one(rng, _CROWD_SHARES)
    placed: list[tuple[View, Body, Look]] = []
    taken: list[np.ndarray] = []
    for _ in range(crowd):
        body, look = draw_body(rng), draw_look(rng)
        place = _place(rng, body, height, width, crowd, taken)
        if place is not None:
            placed.append((place[0], body, look))
            taken.append(place[1])
    placed.sort(key=lambda person: person[0].scale)  # who looks larger is nearer
    return [Person(body, look, view, number) for number, (view, body, look) in enumerate(placed)]


def _place(
    rng: np.random.Generator, body: Body, height: int, width: int, crowd: int, taken: list[np.ndarray]
) -> tuple[View, np.ndarray] | None:
    """A view of a body and its box (left, top, right, bottom) beside those `taken`; None if there is no room."""
    extent = _extent(body)
    wide, tall = extent[2:] - extent[:2]
    cut = rng.random() < _CUT_SHARE
    limit = 0.4 if rng.random() < 0.4 else 0.12
    best = None
    for _ in range(10):
        scale = rng.uniform(*_SIZES[crowd - 1]) * min(height, width)
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
        view = View(scale, left - extent[0] * scale, top - extent[1] * scale)
        overlap = _overlap(box, taken)
        if overlap <= limit:
            return view, box
        if best is None or overlap < best[0]:
            best = (overlap, view, box)
    if best is None or best[0] > 0.5:
        return None
    return best[1], best[2]


def _extent(body: Body) -> np.ndarray:
    """(left, top, right, bottom) of a body at scale 1 with its pelvis at the origin."""
    view = View(1.0, 0.0, 0.0)
    points, head = view.points_img(np.array(list(body.points.values()))), view.points_img(body.points["head"])
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


def expose(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The picture a camera takes: a little brighter or darker, and grainy."""
    height, width = image.shape[:2]
    noise = np.frombuffer(rng.bytes(height * width), np.uint8).reshape(height, width)
    strength = rng.uniform(0.0, 0.05)
    brightness = rng.uniform(0.92, 1.08)
    grain = cv2.cvtColor(noise, cv2.COLOR_GRAY2RGB)
    return np.asarray(cv2.addWeighted(image, brightness, grain, strength, -127.5 * strength), np.uint8)
