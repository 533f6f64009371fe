"""A short film of drawn people who move: one walks through the picture and back, one waves, one does jumping jacks.

Joint angles are smooth functions of time; what is painted and how it is labelled is as in the pictures of `scene`.
"""

import fractions
import json
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from vitpose_jax.data.files import write_text
from vitpose_jax.data.synthetic.body import Build, Posture, posed_body
from vitpose_jax.data.synthetic.labels import CATEGORY, annotate
from vitpose_jax.data.synthetic.look import Look, draw_look
from vitpose_jax.data.synthetic.painter import paint_person
from vitpose_jax.data.synthetic.person import Person, View
from vitpose_jax.data.synthetic.scene import expose
from vitpose_jax.data.synthetic.surroundings import paint_background, paint_ground
from vitpose_jax.data.video import video_writer
from vitpose_jax.progress import progress_bar

RATE = 25  # frames a second
IMAGE_SIZE = (360, 640)
_CROSSING_S = 4.0  # from one side of the picture to the other


class _Moment(NamedTuple):
    """Where and how somebody stands at a time."""

    posture: Posture
    x: float  # of the pelvis, widths of the picture
    lifted: float = 0.0  # of the feet above the ground, body heights


class _Actor(NamedTuple):
    moment: Callable[[float], _Moment]  # by the time in seconds
    size: float  # body height, heights of the picture
    ground: float  # where the feet stand, heights of the picture
    build: Build


def _walking(time_s: float) -> _Moment:
    way = time_s / _CROSSING_S % 2  # there until 1, back until 2
    step = 2 * math.pi * time_s / 1.1

    def leg(phase: float) -> tuple[float, ...]:
        return 5 + 24 * math.sin(phase), 4, 4, 12 + 26 * max(0.0, math.cos(phase)), 4

    def arm(phase: float) -> tuple[float, ...]:
        return -26 * math.sin(phase), 9, 0, 22

    yaw = 48 * math.tanh(5 * math.sin(math.pi * way))  # turns around where the way ends
    place = 0.12 + 0.76 * (0.5 - 0.5 * math.cos(math.pi * way))
    return _Moment(Posture((arm(step), arm(step + math.pi)), (leg(step), leg(step + math.pi)), yaw=yaw), place)


def _waving(time_s: float) -> _Moment:
    swing = math.sin(2 * math.pi * time_s / 0.9)
    sway = math.sin(2 * math.pi * time_s / 3)
    arms = (5, 95, 85, 70 + 28 * swing), (3 * sway, 14, 0, 18)
    legs = (0, 8, 8, 4, 5), (0, 8, 8, 4, 5)
    return _Moment(Posture(arms, legs, yaw=-12, roll=2 * sway, spine=(4, 3 * sway, 0), head=(6 * sway, 2, 0)), 0.2)


def _jumping(time_s: float) -> _Moment:
    phase = 2 * math.pi * time_s / 1.2
    opened = 0.5 - 0.5 * math.cos(phase)
    arm = (0, 14 + 128 * opened, 0, 10 + 12 * (1 - opened))
    leg = (0, 4 + 20 * opened, 8, 6, 5)
    return _Moment(Posture((arm, arm), (leg, leg), yaw=10), 0.78, 0.05 * math.sin(phase) ** 2)


# In painting order, who stands further back first.
_ACTORS = (
    _Actor(_waving, 0.56, 0.86, Build(girth=1.05)),
    _Actor(_jumping, 0.6, 0.9, Build(girth=1.25, legs=1.03)),
    _Actor(_walking, 0.72, 0.97, Build()),
)


def film_frames(
    seed: int, count: int, image_size: tuple[int, int] = IMAGE_SIZE
) -> Iterator[tuple[np.ndarray, list[dict]]]:
    """The frames of a film, a pure function of the arguments.

    Args:
        seed: of looks and surroundings, at least 0.
        count: number of frames.
        image_size: (height, width) in pixels.

    Yields:
        A frame, uint8 [height, width, 3], RGB, and the annotations of everybody in it as COCO has them, without ids.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 2]))  # 0 and 1 are the splits of pictures
    looks = [draw_look(rng) for _ in _ACTORS]
    surroundings = rng.integers(1 << 32)
    for number in range(count):
        yield _draw_frame(np.random.default_rng(surroundings), number / RATE, looks, image_size)


def _draw_frame(
    rng: np.random.Generator, time_s: float, looks: list[Look], image_size: tuple[int, int]
) -> tuple[np.ndarray, list[dict]]:
    """One frame; `rng` is the same for all, so that surroundings stay."""
    canvas = paint_background(rng, *image_size)
    people = [
        _place(actor, look, number, time_s, image_size)
        for number, (actor, look) in enumerate(zip(_ACTORS, looks, strict=True))
    ]
    for person in people:
        paint_ground(canvas, rng, person)
        paint_person(canvas, person, np.array([0.7, -0.7]))
    image = expose(canvas.image, rng)
    return image, [found for person in people if (found := annotate(canvas.part_map, person)) is not None]


def _place(actor: _Actor, look: Look, number: int, time_s: float, image_size: tuple[int, int]) -> Person:
    height, width = image_size
    moment = actor.moment(time_s)
    body = posed_body(actor.build, moment.posture)
    scale = actor.size * height
    low = View(scale, 0, 0).points_img(np.array(list(body.points.values())))[:, 1].max()
    view = View(scale, moment.x * width, actor.ground * height - low - moment.lifted * scale)
    return Person(body, look, view, number)


def write_film(path: pathlib.Path, *, seed: int = 0, seconds: float = 8.0, progress: bool = True) -> pathlib.Path:
    """Writes a film, and beside it a COCO annotation file whose image ids are the numbers of frames, from 0.

    Args:
        path: ends in .mp4.
        seed: of looks and surroundings, at least 0.
        seconds: its length.
        progress: show a progress bar.

    Returns:
        The path of the annotations: the video's, ending in .json.

    Raises:
        ValueError: another ending, or a number out of range.
    """
    if path.suffix != ".mp4":
        raise ValueError(f"a film is written as an MP4 file: expected a name that ends in .mp4, not {path}")
    count = round(seconds * RATE)
    if count < 1 or seed < 0:
        raise ValueError(
            f"a film needs at least 1 frame ({1 / RATE} s) and a seed of at least 0, not {seconds}, {seed}"
        )
    images: list[dict] = []
    annotations: list[dict] = []
    frames = progress_bar(film_frames(seed, count), desc="drawing a film", unit=" frames", total=count, show=progress)
    rate = fractions.Fraction(RATE)
    with video_writer(path, rate=rate, time_base=1 / rate) as write:
        for number, (image, found) in enumerate(frames):
            write(image, number)
            height, width = image.shape[:2]
            images.append({"id": number, "file_name": f"{path.name}#{number}", "width": width, "height": height})
            for annotation in found:
                annotations.append(annotation | {"id": len(annotations) + 1, "image_id": number})
    labels = path.with_suffix(".json")
    content = {"images": images, "annotations": annotations, "categories": [CATEGORY]}
    write_text(labels, json.dumps(content))
    return labels
