"""What is around people: rooms, the open air, furniture, and the ground under their feet."""

import cv2
import numpy as np

from vitpose_jax.data.synthetic.canvas import RING, Canvas
from vitpose_jax.data.synthetic.chance import draw_style
from vitpose_jax.data.synthetic.look import SKIN, Color, any_color, pick, shade
from vitpose_jax.data.synthetic.parts import CLUTTER
from vitpose_jax.data.synthetic.person import Person


def paint_background(rng: np.random.Generator, height: int, width: int) -> Canvas:
    """A canvas with a room, the open air or nothing in particular; its part map is empty."""
    kind = draw_style(rng, room=0.45, outdoors=0.35, plain=0.2)
    upper, lower = any_color(rng, (0.03, 0.28), (0.6, 0.98)), any_color(rng, (0.05, 0.4), (0.3, 0.8))
    if kind == "outdoors":
        upper = _color_between(rng, (130, 175, 205), (195, 215, 245))
        lower = _color_between(rng, (85, 110, 65), (150, 165, 115))
    ramp = np.linspace(0, 1, 10)[:, None, None]
    field = np.array(upper) * (1 - ramp) + np.array(lower if kind == "plain" else shade(upper, 0.78)) * ramp
    field = field + rng.uniform(1, 9) * rng.standard_normal((10, 10, 1)) + 2 * rng.standard_normal((10, 10, 3))
    # Smooth at low cost: cubic to a small picture, linear to the full one.
    small = cv2.resize(np.clip(field, 0, 255).astype(np.uint8), (48, 48), interpolation=cv2.INTER_CUBIC)
    canvas = Canvas(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR))
    horizon = rng.uniform(0.5, 0.75) * height
    if kind == "plain":
        corners = rng.random((rng.integers(2, 6), 1, 2)) + rng.normal(0, 0.15, (1, 5, 2))
        for hull in corners * (width, height):
            canvas.fill(cv2.convexHull(hull.astype(np.float32))[:, 0], any_color(rng, (0.05, 0.5), (0.3, 0.9)))
    else:
        for k in range(4):  # the ground brightens towards the viewer
            canvas.box(0, horizon + (height - horizon) * k / 4, width, height, shade(lower, 0.82 + 0.08 * k))
    if kind == "room":
        _furnish(canvas, rng, horizon, lower)
    elif kind == "outdoors":
        for _ in range(rng.integers(1, 4)):
            (_house, _tree)[rng.integers(2)](canvas, rng, horizon)
    for thing, share in ((_table, 0.3), (_plant, 0.25), (_pole, 0.4), (_stray_limbs, 0.45)):
        if rng.random() < share:
            thing(canvas, rng, None)
    return canvas


def paint_clutter(canvas: Canvas, rng: np.random.Generator) -> None:
    """Something that stands in front of people."""
    (_table, _plant, _pole)[rng.integers(3)](canvas, rng, CLUTTER)


def paint_ground(canvas: Canvas, rng: np.random.Generator, person: Person) -> None:
    """The shadow under a person and, under a seated one, a seat."""
    view, points = person.view, person.points_img()
    ground = float(points[:, 1].max()) + 0.02 * view.scale
    _paint_shadow(canvas.image, float(points[:, 0].mean()), ground, 0.2 * view.scale)
    if not person.body.seated:
        return
    reach = 0.15 * view.scale
    color = any_color(rng, (0.1, 0.6), (0.3, 0.8))
    top = view.y + 0.05 * view.scale
    bottom = max(ground, top + reach)
    canvas.box(view.x - reach, top, view.x + reach, bottom, shade(color, 0.7), CLUTTER)
    canvas.box(view.x - 1.1 * reach, top - 2, view.x + 1.1 * reach, top + 0.04 * view.scale, color, CLUTTER)


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


def _furnish(canvas: Canvas, rng: np.random.Generator, horizon: float, floor: Color) -> None:
    """Floor boards, and windows, pictures or cupboards on the wall."""
    height, width = canvas.part_map.shape
    vanish = rng.uniform(0.2, 0.8) * width
    for x in (np.linspace(-1.5, 2.5, 12) * width).tolist():
        canvas.stroke(np.array([(vanish + (x - vanish) * 0.3, horizon), (x, height)]), shade(floor, 0.72))
    canvas.box(0, horizon - 0.012 * height, width, horizon, shade(floor, 0.6))
    for _ in range(rng.integers(1, 4)):
        share = rng.uniform((-0.1, -0.05, 0.1, 0.1), (0.9, 0.4, 0.35, 0.4))
        x, y, w, h = (share * (width, height, width, height)).tolist()
        pane = any_color(rng, (0.03, 0.45), (0.35, 0.95))
        canvas.box(x, y, x + w, y + h, shade(pane, 0.65))
        canvas.box(x + 4, y + 4, x + w - 4, y + h - 4, pane)
        canvas.stroke(np.array([(x + w / 2, y), (x + w / 2, y + h)]), shade(pane, 0.65), 2)


def _house(canvas: Canvas, rng: np.random.Generator, base: float) -> None:
    """`base` is the row where it meets the ground."""
    height, width = canvas.part_map.shape
    x, w, h = (rng.uniform((0, 0.12, 0.2), (1, 0.3, 0.6)) * (width, width, height)).tolist()
    wall = any_color(rng, (0.05, 0.4), (0.4, 0.85))
    canvas.box(x, base - h, x + w, base + 2, wall)
    for column in (0.15, 0.6):
        for row in (0.92, 0.62, 0.32):
            left, top = x + w * column, base - h * row
            canvas.box(left, top, left + 0.25 * w, top + 0.15 * h, shade(wall, 0.55))


def _tree(canvas: Canvas, rng: np.random.Generator, base: float) -> None:
    height, width = canvas.part_map.shape
    r, g, b = rng.integers((40, 95, 35), (100, 150, 80)).tolist()
    foot = np.array([[rng.uniform(0, width), base + 4]])
    top = foot - (0, rng.uniform(0.2, 0.5) * height)
    canvas.rods(foot, top, 0.02 * width, (105, 75, 50))
    for dx, dy, size in (rng.normal((0, 0, 0.075), (0.045, 0.035, 0.015), (5, 3)) * width).tolist():
        canvas.fill(top[0] + (dx, dy) + RING * max(size, 4), shade((r, g, b), rng.uniform(0.8, 1.15)))


def _table(canvas: Canvas, rng: np.random.Generator, part: int | None) -> None:
    height, width = canvas.part_map.shape
    color = any_color(rng, (0.15, 0.6), (0.25, 0.75))
    x, y = rng.uniform(-0.1, 0.9) * width, rng.uniform(0.55, 0.9) * height
    wide, tall = rng.uniform(0.2, 0.45) * width, rng.uniform(0.15, 0.35) * height
    feet = x + wide * np.array([0.05, 0.3, 0.7, 0.95])
    tops = np.stack([feet, np.full(4, y)], 1)
    canvas.rods(tops, tops + np.array([0, tall]), 0.012 * width, shade(color, 0.7), part)
    canvas.box(x, y - 0.025 * height, x + wide, y + 0.012 * height, color, part)


def _plant(canvas: Canvas, rng: np.random.Generator, part: int | None) -> None:
    height, width = canvas.part_map.shape
    x, y = rng.uniform(0, 1) * width, rng.uniform(0.7, 1.05) * height
    leaf = (int(rng.integers(30, 90)), int(rng.integers(90, 170)), int(rng.integers(30, 90)))
    angle, length = rng.uniform(-1.0, 1.0, 6), rng.uniform(0.12, 0.3, 6) * height
    tips = np.stack([x + np.sin(angle) * length, y - np.cos(angle) * length], 1)
    canvas.rods(np.tile((x, y), (6, 1)), tips, 0.016 * width, leaf, part)
    canvas.box(x - 0.04 * width, y - 0.02 * height, x + 0.04 * width, y + 0.09 * height, (150, 88, 60), part)


def _pole(canvas: Canvas, rng: np.random.Generator, part: int | None) -> None:
    height, width = canvas.part_map.shape
    x, lean = rng.uniform(0, 1) * width, rng.normal(0, 0.06) * width
    radius = rng.uniform(0.007, 0.02) * width
    top = rng.uniform(-0.1, 0.4) * height
    foot, end = np.array([[x, 1.05 * height]]), np.array([[x + lean, top]])
    canvas.rods(foot, end, radius, any_color(rng, (0.0, 0.4), (0.3, 0.8)), part)


def _stray_limbs(canvas: Canvas, rng: np.random.Generator, part: int | None) -> None:
    """Shapes and colours of limbs without a body."""
    height, width = canvas.part_map.shape
    color = pick(rng, SKIN) if rng.random() < 0.5 else any_color(rng, (0.2, 0.8), (0.3, 0.9))
    steps = rng.normal(0, 0.13, (rng.integers(2, 4), 2))
    corners = (rng.random(2) + np.cumsum(steps, 0)) * (width, height)
    canvas.rods(corners[:-1], corners[1:], rng.uniform(0.018, 0.04) * width, color, part)


def _color_between(rng: np.random.Generator, low: Color, high: Color) -> Color:
    red, green, blue = rng.uniform(low, high).astype(int).tolist()
    return red, green, blue
