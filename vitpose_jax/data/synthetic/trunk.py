"""The trunk of a person, its shirt, and a skirt.

The trunk is a stack of slices; a slice is the convex hull of two elliptic cross-sections. Places along it are counted
from 0 at the hips to 1 at the shoulders.
"""

import math

import cv2
import numpy as np

from vitpose_jax.data.synthetic.canvas import RING, Canvas, fixed
from vitpose_jax.data.synthetic.look import shade
from vitpose_jax.data.synthetic.person import Person

# Where the trunk is cut into slices (the first two are the trousers', the others the shirt's).
_PLACES_PLAIN = np.array([-0.17, -0.05, 0.1, 0.38, 0.7, 0.9, 1.01, 1.08, 1.14])
_PLACES_STRIPED = np.array([-0.17, -0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.01, 1.08, 1.14])
# Where details sit on it.
_PLACES_SHIRT = np.array([0.12, 0.4, 0.7, 0.88, 1.0, 1.09])
_PLACES_SKIRT = np.array([0.05])


class TrunkPainter:
    """Paints the trunk and the skirt of one person; `light` [2] is the direction towards the light in the image."""

    def __init__(self, canvas: Canvas, person: Person, light: np.ndarray):
        self.canvas, self.person, self.light = canvas, person, light
        self.body, self.look, self.scale = person.body, person.look, person.view.scale

    def paint(self, bright: float) -> None:
        """Paints the trunk in trousers and shirt; `bright` is a factor on colours."""
        look, body, number = self.look, self.body, self.person.part_id("torso")
        striped = look.pattern == "stripes"
        places = _PLACES_STRIPED if striped else _PLACES_PLAIN
        centre, rings = _cross_sections(self.person, np.concatenate([places, _PLACES_SHIRT]))
        centre, rings, shirt = centre[: len(places)], rings[: len(places)], rings[len(places) :]
        slices = list(range(len(places) - 1))
        if body.points["chest"][2] < body.points["pelvis"][2]:
            slices.reverse()
        colors = [look.bottom if i < 2 else look.top_second if striped and i % 2 else look.top for i in slices]
        for width, shift, factor in ((1.0, 0.0, 0.72), (0.82, 0.012, 1.0), (0.45, 0.030, 1.08)):
            scaled = fixed(centre + (rings - centre) * width + shift * self.scale * self.light)
            if width < 0.5 and not striped:  # one highlight over the whole shirt
                self.canvas.fill_fixed(cv2.convexHull(scaled[3:-2].reshape(-1, 2)), shade(look.top, factor * bright))
                continue
            for i, color in zip(slices, colors, strict=True):
                hull = cv2.convexHull(scaled[i : i + 2].reshape(-1, 2))
                self.canvas.fill_fixed(hull, shade(color, factor * bright), number if width == 1.0 else None)
        self._paint_shirt(shirt, bright)

    def _paint_shirt(self, rings: np.ndarray, bright: float) -> None:
        """What tells the front from the back: neckline, buttons, and a pocket on the person's left breast.

        `rings` are the cross-sections at _PLACES_SHIRT.
        """
        look, canvas, chest = self.look, self.canvas, self.body.chest
        second = shade(look.top_second, bright)
        # The entry of a ring that points most to the viewer, and its neighbours: the side that is seen.
        middle = round(math.atan2(float(chest[2, 2]), float(chest[2, 0])) / (math.pi / 8))
        seen = np.arange(middle - 4, middle + 5) % 16
        if look.pattern == "checks":
            for entry in seen[2:7].tolist():
                canvas.stroke(rings[:5, entry], second)
            for ring in rings[1:4]:
                canvas.stroke(ring[seen[1:8]], second)
        canvas.stroke(rings[0, seen], shade(look.bottom, 0.5 * bright), max(1, round(0.012 * self.scale)))
        if chest[2, 2] < 0.15:  # seen from behind
            return
        if look.neckline == "open":
            canvas.stroke(rings[:, 4], shade(look.top, 0.55 * bright))
        depth = {"round": 0.6, "v": 0.15, "open": 0.3}[look.neckline]
        tip, left, right = rings[3, 4] * (1 - depth) + rings[4, 4] * depth, rings[5, 2], rings[5, 6]
        patch = [left, right, tip]
        if look.neckline == "round":
            patch = [left, right, 0.35 * right + 0.65 * tip, tip, 0.35 * left + 0.65 * tip]
        canvas.fill(np.array(patch), shade(look.skin, 0.95 * bright))
        if look.pattern in ("plain", "block"):
            inner, outer = rings[3:1:-1, 3], 0.5 * (rings[3:1:-1, 1] + rings[3:1:-1, 2])
            low_inner, low_outer = 0.6 * inner[0] + 0.4 * inner[1], 0.6 * outer[0] + 0.4 * outer[1]
            canvas.fill(np.array([inner[0], outer[0], low_outer, low_inner]), second)

    def paint_skirt(self, bright: float) -> None:
        """Paints a skirt that hangs from the waist over both thighs."""
        _, (waist,) = _cross_sections(self.person, _PLACES_SKIRT)
        corners = [waist]
        for s in ("left", "right"):
            hip, knee = self.person.point_img(f"{s}_hip"), self.person.point_img(f"{s}_knee")
            along = (knee - hip) / max(float(np.hypot(*(knee - hip))), 1e-6)
            across = np.array([-along[1], along[0]]) * (0.10 * self.body.girth * self.scale)
            hem = 0.3 * hip + 0.7 * knee
            corners.append(np.array([hem - across, hem + across, hem + 0.15 * (knee - hip)]))
        hull = cv2.convexHull(np.concatenate(corners).astype(np.float32))[:, 0]
        middle = hull.mean(0)
        self.canvas.fill(hull, shade(self.look.bottom, 0.75 * bright), self.person.part_id("skirt"))
        inner = middle + 0.85 * (hull - middle) + 0.012 * self.scale * self.light
        self.canvas.fill(inner, shade(self.look.bottom, bright))


def _cross_sections(person: Person, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Trunk at n `places`: centres [n, 1, 2] and outlines [n, 16, 2] in image pixels.

    Entry 0 of an outline lies on the person's left, 4 in front, 8 on the right, 12 behind.
    """
    body, view = person.body, person.view
    half_width = np.interp(places, body.trunk[:, 0], body.trunk[:, 1])[:, None]
    half_depth = np.interp(places, body.trunk[:, 0], body.trunk[:, 2])[:, None]
    t = places[:, None]
    u = np.clip(t, 0, 1)
    # A quadratic curve through pelvis, waist and chest, continued in a straight line beyond the ends.
    centre = 2 * u * (1 - u) * body.points["waist"] + u * u * body.points["chest"]
    centre = centre + 0.28 * (np.minimum(t, 0) * body.pelvis[:, 1] + np.maximum(t - 1, 0) * body.chest[:, 1])
    lateral = ((1 - u) * body.pelvis[:, 0] + u * body.chest[:, 0]) * half_width
    forward = ((1 - u) * body.pelvis[:, 2] + u * body.chest[:, 2]) * half_depth
    ring = centre[:, None] + RING[:, :1] * lateral[:, None] + RING[:, 1:] * forward[:, None]
    return view.points_img(centre)[:, None], view.points_img(ring)
