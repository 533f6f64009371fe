"""The canvas: a picture and the map of part ids beside it, and the shapes that are painted on both."""

import math

import cv2
import numpy as np

from vitpose_jax.data.synthetic.look import Color, shade

RING = np.array([(math.cos(k * math.pi / 8), math.sin(k * math.pi / 8)) for k in range(16)])
STATIONS = np.linspace(0, 1, 5)  # where along a limb its radii are given
_SUBPIXEL_BITS = 4


def fixed(points: np.ndarray) -> np.ndarray:
    """Pixels to OpenCV's fixed-point coordinates."""
    return np.rint(points * (1 << _SUBPIXEL_BITS)).astype(np.int32)


class Canvas:
    """A picture with its part map.

    Attributes:
        image: uint8 [height, width, 3], RGB.
        part_map: uint8 [height, width], 0 where nothing but background is painted.
    """

    def __init__(self, image: np.ndarray):
        self.image = image
        self.part_map: np.ndarray = np.zeros(image.shape[:2], np.uint8)

    def fill(self, points: np.ndarray, color: Color, part: int | None = None) -> None:
        """Fills an outline [n, 2] (pixels) smoothly in the picture and, if `part` is given, sharply in the map."""
        self.fill_fixed(fixed(points), color, part)

    def fill_fixed(self, outline: np.ndarray, color: Color, part: int | None = None) -> None:
        """As `fill`, for an outline in fixed-point coordinates."""
        cv2.fillPoly(self.image, [outline], color, cv2.LINE_AA, _SUBPIXEL_BITS)
        if part is not None:
            cv2.fillPoly(self.part_map, [outline], (part,), cv2.LINE_8, _SUBPIXEL_BITS)

    def stroke(self, points: np.ndarray, color: Color, thickness: int = 1) -> None:
        """A line on something already painted; the map is not touched."""
        cv2.polylines(self.image, [fixed(points)], False, color, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)

    def box(self, x0: float, y0: float, x1: float, y1: float, color: Color, part: int | None = None) -> None:
        """Fills an upright rectangle."""
        self.fill(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), color, part)

    def rods(self, start: np.ndarray, end: np.ndarray, radius: float, color: Color, part: int | None = None) -> None:
        """Round sticks from `start` [n, 2] to `end` [n, 2]."""
        radii = np.full((len(start), len(STATIONS)), radius)
        outer, inner, _ = limb_outlines(start, end, radii, np.ones(len(start)), np.array([-0.7, -0.7]))
        for rim, core in zip(outer, inner, strict=True):
            self.fill_fixed(rim, shade(color, 0.72), part)
            self.fill_fixed(core, color)


# Three coats give a round limb: width and shift towards the light, both in radii.
_COAT_WIDTHS = np.array([1.0, 0.80, 0.36])
_COAT_SHIFTS = np.array([0.0, 0.13, 0.40])
_CAP = np.linspace(0.5 * np.pi, -0.5 * np.pi, 6)[1:-1]
_CAP_OUT, _CAP_SIDE = np.cos(_CAP)[:, None], np.sin(_CAP)[:, None]


def limb_outlines(
    start: np.ndarray, end: np.ndarray, radii: np.ndarray, roundness: np.ndarray, light: np.ndarray
) -> np.ndarray:
    """Outlines of n tapered limbs in three coats, the widest first.

    The inner coats keep the length of the outer one, so that no dark rim crosses an elbow or a knee.

    Args:
        start, end: [n, 2], pixels.
        radii: [n, 5], pixels, at `STATIONS`.
        roundness: [n], 1 for a round end, 0 for a flat cuff.
        light: [2], the direction towards the light in the image.

    Returns:
        int32 [3, n, 18, 2], fixed-point coordinates.
    """
    along = end - start
    along = along / np.maximum(np.sqrt((along * along).sum(1, keepdims=True)), 1e-6)
    across = (along[:, ::-1] * (-1, 1))[:, None]
    centre = start[:, None] + (end - start)[:, None] * STATIONS[:, None]
    centre = centre + (_COAT_SHIFTS[:, None] * light)[:, None, None] * radii.mean(1)[:, None, None]  # [3, n, 5, 2]
    half = across * radii[..., None] * _COAT_WIDTHS[:, None, None, None]
    reach = along[:, None] * _CAP_OUT * 0.97
    sideways = across * _CAP_SIDE * _COAT_WIDTHS[:, None, None, None]
    far = centre[:, :, -1:] + radii[:, -1:, None] * (reach * roundness[:, None, None] + sideways)
    near = centre[:, :, :1] - radii[:, :1, None] * (reach + sideways)
    return fixed(np.concatenate([centre + half, far, (centre - half)[:, :, ::-1], near], 2))
