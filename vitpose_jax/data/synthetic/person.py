"""One person of a picture: a body with its looks, seen from a camera."""

import dataclasses

import numpy as np

from vitpose_jax.data.synthetic.body import Body
from vitpose_jax.data.synthetic.look import Look
from vitpose_jax.data.synthetic.parts import part_id


@dataclasses.dataclass(frozen=True)
class View:
    """Weak perspective: scene axes to image pixels."""

    scale: float  # pixels of one body height at the pelvis
    x: float  # image pixels of the pelvis
    y: float

    def scale_at(self, points: np.ndarray) -> np.ndarray:
        """Pixels of one body height at `points` [..., 3]."""
        return self.scale * (1 + 0.12 * points[..., 2])

    def points_img(self, points: np.ndarray) -> np.ndarray:
        """Image pixels [..., 2] of `points` [..., 3]."""
        scale = self.scale_at(points)
        return np.stack([self.x + scale * points[..., 0], self.y - scale * points[..., 1]], -1)


@dataclasses.dataclass(frozen=True)
class Person:
    """A posed, dressed and placed person."""

    body: Body
    look: Look
    view: View
    number: int  # tells people of one picture apart in the part map

    def point_img(self, name: str) -> np.ndarray:
        """Image pixels [2] of a point of the body."""
        return self.view.points_img(self.body.points[name])

    def points_img(self) -> np.ndarray:
        """Image pixels [n, 2] of all points of the body."""
        return self.view.points_img(np.array(list(self.body.points.values())))

    def depth(self, name: str) -> float:
        """How near to the viewer a point of the body is, in body heights from the pelvis."""
        return float(self.body.points[name][2])

    def part_id(self, part: str) -> int:
        """Value of a part of this person in the part map."""
        return part_id(self.number, part)
