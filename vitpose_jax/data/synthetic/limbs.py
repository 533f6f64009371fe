"""Arms, legs and the neck of a person, with the clothes on them."""

from typing import NamedTuple

import numpy as np

from vitpose_jax.data.synthetic.canvas import STATIONS, Canvas, limb_outlines
from vitpose_jax.data.synthetic.look import Color, Look, shade
from vitpose_jax.data.synthetic.person import Person

# Radii in body heights at STATIONS along a limb, from the trunk outwards.
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
_SOCKS = (225, 225, 220)


class _Limb(NamedTuple):
    """One tapered piece between two points of the body, or the share `low`…`high` of it (a sleeve, a stripe)."""

    part: str
    start: str
    end: str
    kind: str  # key of _RADII
    color: Color
    widen: float = 1.0
    low: float = 0.0
    high: float = 1.0


class LimbPainter:
    """Paints the limbs of one person; `light` [2] is the direction towards the light in the image."""

    def __init__(self, canvas: Canvas, person: Person, light: np.ndarray):
        self.canvas, self.person = canvas, person
        self.limbs = _dressed_limbs(person.look)
        self.coats = _outlines(self.limbs, person, light)

    def paint(self, part: str, bright: float) -> None:
        """Paints one part with all that is worn on it; `bright` is a factor on colours."""
        number = self.person.part_id(part)
        for limb, outer, middle, inner in zip(self.limbs, *self.coats, strict=True):
            if limb.part == part:
                self.canvas.fill_fixed(outer, shade(limb.color, 0.70 * bright), number)
                self.canvas.fill_fixed(middle, shade(limb.color, bright))
                if limb.kind != "hand":
                    self.canvas.fill_fixed(inner, shade(limb.color, 1.11 * bright))


def _dressed_limbs(look: Look) -> list[_Limb]:
    """Limbs with their clothes, each part's pieces in painting order."""
    limbs = [_Limb("neck", "neck", "chin", "neck", shade(look.skin, 0.9))]
    sleeves = look.top_second if look.pattern == "block" else look.top
    bands = look.top_second if look.pattern == "stripes" else None
    for s in ("left", "right"):
        upper_arm = _Limb(f"{s}_upper_arm", f"{s}_shoulder", f"{s}_elbow", "upper_arm", look.skin)
        forearm = _Limb(f"{s}_forearm", f"{s}_elbow", f"{s}_wrist", "forearm", look.skin)
        thigh = _Limb(f"{s}_thigh", f"{s}_hip", f"{s}_knee", "thigh", look.skin)
        shin = _Limb(f"{s}_shin", f"{s}_knee", f"{s}_ankle", "shin", look.skin)
        limbs += _dress(upper_arm, look.sleeve, sleeves, 1.12, bands)
        limbs += _dress(forearm, look.sleeve - 1, sleeves, 1.12, bands)
        limbs += _dress(thigh, look.leg_cover, look.bottom, 1.10)
        limbs += _dress(shin, look.leg_cover - 1, look.bottom, 1.10)
        if look.leg_cover < 1.8:
            limbs.append(shin._replace(color=_SOCKS, widen=1.05, low=0.85))
        limbs += [
            _Limb(f"{s}_hand", f"{s}_palm", f"{s}_thumb", "hand", look.skin, 0.45),
            _Limb(f"{s}_hand", f"{s}_palm", f"{s}_fingers", "hand", look.skin),
            _Limb(f"{s}_foot", f"{s}_heel", f"{s}_toes", "foot", look.shoes),
        ]
    return limbs


def _dress(bare: _Limb, cover: float, cloth: Color, widen: float, bands: Color | None = None) -> list[_Limb]:
    """What is seen of a limb and of the cloth over its first `cover` (0 or less: none, 1 or more: all)."""
    pieces = []
    cover = min(max(cover, 0.0), 1.0)
    if cover < 1:
        pieces.append(bare)
    if cover > 0:
        pieces.append(bare._replace(color=cloth, widen=widen, high=cover))
    if bands:
        for low in (0.12 + 0.25 * k for k in range(int(4 * cover))):
            pieces.append(bare._replace(color=bands, widen=widen * 0.97, low=low, high=low + 0.12))
    return pieces


def _outlines(limbs: list[_Limb], person: Person, light: np.ndarray) -> np.ndarray:
    """Outlines of n limbs in three coats, int32 [3, n, 18, 2], fixed-point coordinates."""
    body, view = person.body, person.view
    start = np.array([body.points[limb.start] for limb in limbs])
    end = np.array([body.points[limb.end] for limb in limbs])
    widen = [limb.widen * (body.girth if limb.kind in _FLESHY else 1.0) for limb in limbs]
    radii = np.array([_RADII[limb.kind] for limb in limbs]) * np.array(widen)[:, None]
    low, high = np.array([(limb.low, limb.high) for limb in limbs]).T[..., None]
    # Radii and scale at five places along the piece, between those of the whole limb.
    place = low + (high - low) * STATIONS
    cell = np.minimum((4 * place).astype(int), 3)
    row = np.arange(len(limbs))[:, None]
    radii = radii[row, cell] + (radii[row, cell + 1] - radii[row, cell]) * (4 * place - cell)
    radii = radii * (view.scale_at(start)[:, None] * (1 - place) + view.scale_at(end)[:, None] * place)
    a, b = view.points_img(start), view.points_img(end)
    roundness = np.where(high[:, 0] < 1, 0.25, 1.0)
    return limb_outlines(a + (b - a) * low, a + (b - a) * high, radii, roundness, light)
