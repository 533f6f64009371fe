"""The head of a person: an ellipsoid with a face, ears and hair.

It is the image of the unit sphere, stretched by the skull's radii and turned. Features are given in the axes of that
sphere, and what of them lies on its far side is cut off at the silhouette.
"""

import math

import cv2
import numpy as np

from vitpose_jax.data.synthetic.body import FACE, unit
from vitpose_jax.data.synthetic.canvas import RING, Canvas
from vitpose_jax.data.synthetic.look import shade
from vitpose_jax.data.synthetic.person import Person

_FINE_RING = np.array([(math.cos(k * math.pi / 14), math.sin(k * math.pi / 14)) for k in range(28)])


def _rim(axis: np.ndarray, cosine: float, ring: np.ndarray) -> np.ndarray:
    """The circle u·axis = cosine of the unit sphere, at the angles of `ring` [n, 2]; float [n, 3]."""
    x, y, z = axis.tolist()
    a, b, c = (-z, 0.0, x) if abs(y) < 0.9 else (0.0, z, -y)
    norm = math.sqrt(a * a + b * b + c * c)
    a, b, c = a / norm, b / norm, c / norm
    across = np.array([(a, b, c), (y * c - z * b, z * a - x * c, x * b - y * a)])
    return cosine * axis + math.sqrt(1 - cosine * cosine) * (ring @ across)


# The face is a cap about _FACE_AXIS; all that is not face is scalp.
_FACE_AXIS, _FACE_COSINE = unit(0, -0.60, 0.80), 0.16
_FACE_RIM = _rim(_FACE_AXIS, _FACE_COSINE, _FINE_RING)
_EYES = ("left_eye", "right_eye")
_EYE_WHITES = {
    name: FACE[name] + (_rim(FACE[name], math.cos(0.21), RING) - FACE[name]) * (1, 0.75, 1) for name in _EYES
}
_IRISES = {name: _rim(FACE[name], math.cos(0.13), RING) for name in _EYES}
_BROWS = {
    name: np.array([unit(sign * x, y, 0.85) for x, y in ((0.18, 0.36), (0.40, 0.43), (0.62, 0.34))])
    for name, sign in (("left_eye", 1), ("right_eye", -1))
}
_MOUTH = np.array([unit(x, y, 0.85) for x, y in ((-0.25, -0.44), (-0.12, -0.52), (0.12, -0.52), (0.25, -0.44))])
_LIPS = (150, 45, 50)
_NOSE_BASE = np.array([(0, 0.10, 0.99), (0.13, -0.22, 0.97), (-0.13, -0.22, 0.97)])
_BUN = np.array([[0, 0.45, -1.15]])
_HAIR_ROOTS = np.array([[0.95, 0.2, -0.3], [-0.95, 0.2, -0.3], [0.8, 0.3, -0.9], [-0.8, 0.3, -0.9]])
_HAIR_ENDS = np.array([(x, y, -0.075) for x in (0.06, -0.06) for y in (-0.03, -0.06)])  # body heights from the chest
_HAIR_VOLUME = {"short": 1.08, "long": 1.10, "bun": 1.06, "curly": 1.24, "beanie": 1.09, "bald": 1.0}


class HeadPainter:
    """Paints the head of one person."""

    def __init__(self, canvas: Canvas, person: Person):
        self.canvas, self.person, self.body, self.look = canvas, person, person.body, person.look
        self.centre = person.point_img("head")
        self.scale = float(person.view.scale_at(person.body.points["head"]))
        self.sight = person.body.sight()

    def paint(self, bright: float) -> None:
        """Paints all but the hair that hangs behind; `bright` is a factor on colours."""
        far_ear, near_ear = sorted(("left_ear", "right_ear"), key=self.person.depth)
        profile = float(FACE["nose"] @ self.sight)
        self._paint_ear(far_ear, bright)
        if profile < 0.05:
            self._paint_nose(profile, bright)
        self._paint_skull(bright)
        self._paint_ear(near_ear, bright)
        self._paint_eyes_and_mouth(bright)
        if profile >= 0.05:
            self._paint_nose(profile, bright)

    def paint_hair_behind(self, bright: float) -> None:
        """Long hair falls down the back, a bun sits on it."""
        hair = self.look.hair
        if self.look.hair_style == "bun":
            shape = self._points_img(_BUN) + RING * (0.42 * self.body.skull[0] * self.scale)
        else:
            ends = self.person.view.points_img(self.body.points["chest"] + _HAIR_ENDS @ self.body.chest.T)
            corners = np.concatenate([self._points_img(_HAIR_ROOTS), ends]).astype(np.float32)
            shape = cv2.convexHull(corners)[:, 0]
        middle = shape.mean(0)
        self.canvas.fill(shape, shade(hair, 0.75 * bright), self.person.part_id("hair"))
        self.canvas.fill(middle + 0.75 * (shape - middle), shade(hair, 0.95 * bright))

    def _paint_skull(self, bright: float) -> None:
        """Skin and scalp."""
        look, canvas, skull = self.look, self.canvas, self.person.part_id("skull")
        hair = {"bald": look.skin, "beanie": look.top_second}.get(look.hair_style, look.hair)
        scalp = skull if look.hair_style == "bald" else self.person.part_id("hair")
        volume = _HAIR_VOLUME[look.hair_style]
        outline, face = _rim(self.sight, 0.0, _FINE_RING), self._visible_cap(_FACE_RIM)
        canvas.fill(self._points_img(outline), shade(look.skin, 0.85 * bright), skull)
        if -float(_FACE_AXIS @ self.sight) < _FACE_COSINE:  # the scalp holds the far pole: face over scalp
            grow = np.where(outline @ _FACE_AXIS < _FACE_COSINE, volume, 0.97)[:, None]
            canvas.fill(self._points_img(outline * grow), shade(hair, 0.85 * bright), scalp)
            canvas.fill(self._points_img(face), shade(look.skin, 0.85 * bright), skull)
            canvas.fill(self._points_img(0.9 * face + 0.1 * face.mean(0)), shade(look.skin, bright))
        else:
            canvas.fill(self._points_img(face * volume), shade(hair, 0.78 * bright), scalp)
            canvas.fill(self._points_img((0.8 * face + 0.2 * face.mean(0)) * volume), shade(hair, bright))

    def _paint_eyes_and_mouth(self, bright: float) -> None:
        canvas = self.canvas
        for name in _EYES:
            if float(FACE[name] @ self.sight) > 0.05:
                white, iris = self._visible_cap(_EYE_WHITES[name]), self._visible_cap(_IRISES[name])
                canvas.fill(self._points_img(white), shade((250, 250, 250), bright), self.person.part_id(name))
                canvas.fill(self._points_img(iris), (34, 26, 24))
                canvas.stroke(self._points_img(_BROWS[name]), shade(self.look.hair, 0.7 * bright))
        mouth = _MOUTH[_MOUTH @ self.sight > 0.05]
        if len(mouth) > 1:
            red, green, blue = (int(0.5 * (a + b)) for a, b in zip(shade(self.look.skin, 0.8), _LIPS, strict=True))
            canvas.stroke(self._points_img(mouth), (red, green, blue), max(1, round(0.008 * self.scale)))

    def _paint_ear(self, name: str, bright: float) -> None:
        up = self.body.head[:2, 1] * (1, -1)
        up = up / max(float(np.hypot(*up)), 1e-6)
        height = 0.26 * self.body.skull[1] * self.scale
        width = height * (0.45 + 0.3 * abs(float(self.body.head[2, 0])))
        shape = RING[:, :1] * np.array([-up[1], up[0]]) * width + RING[:, 1:] * up * height
        centre = self.person.point_img(name)
        self.canvas.fill(centre + shape, shade(self.look.skin, 0.72 * bright), self.person.part_id(name))
        self.canvas.fill(centre + 0.6 * shape, shade(self.look.skin, 0.92 * bright))

    def _paint_nose(self, profile: float, bright: float) -> None:
        """`profile` is the cosine between the nose and the direction to the viewer."""
        if profile < -0.25:
            return
        tip = self.person.point_img("nose") + RING[::2] * (0.075 * self.body.skull[1] * self.scale)
        hull = cv2.convexHull(np.concatenate([self._points_img(_NOSE_BASE), tip]).astype(np.float32))[:, 0]
        self.canvas.fill(hull, shade(self.look.skin, 0.82 * bright), self.person.part_id("nose"))
        self.canvas.fill(tip, shade(self.look.skin, 1.04 * bright))

    def _points_img(self, points: np.ndarray) -> np.ndarray:
        """Image pixels [n, 2] of points [n, 3] in the axes of the head's unit sphere."""
        scene = (points * self.body.skull) @ self.body.head[:2].T
        return self.centre + self.scale * scene * (1, -1)

    def _visible_cap(self, rim: np.ndarray) -> np.ndarray:
        """Outline of the visible part of a cap of the unit sphere that does not hold the far pole.

        Points of its rim on the far side move along meridians to the silhouette, which keeps the seen region.
        """
        hidden = np.minimum(rim @ self.sight, 0)[:, None]
        if not hidden.any():
            return rim
        rim = rim - hidden * self.sight
        return rim / np.sqrt((rim * rim).sum(1, keepdims=True))
