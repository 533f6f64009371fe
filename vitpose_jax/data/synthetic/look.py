"""Colours, and what a person looks like: skin, hair and clothes."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from vitpose_jax.data.synthetic.chance import draw_one, draw_style

Color = tuple[int, int, int]  # RGB

SKIN = ((240, 206, 180), (241, 194, 160), (224, 172, 128), (198, 134, 92), (163, 106, 70), (120, 76, 50), (88, 56, 40))
_HAIR = ((28, 24, 24), (58, 38, 26), (96, 62, 36), (150, 102, 54), (214, 174, 104), (168, 76, 40), (150, 148, 146))


def shade(color: Color, factor: float) -> Color:
    """A darker (`factor` < 1) or brighter colour."""
    red, green, blue = color
    return min(255, int(red * factor)), min(255, int(green * factor)), min(255, int(blue * factor))


def pick(rng: np.random.Generator, colors: Sequence[Color]) -> Color:
    """One of `colors`, a little darker or brighter."""
    return shade(colors[int(rng.integers(len(colors)))], rng.uniform(0.92, 1.06))


def any_color(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Color:
    """A colour of any hue; `saturation` and `value` are ranges within 0…1."""
    hue, s, v = rng.uniform(0, 6), rng.uniform(*saturation), rng.uniform(*value)
    channels = (v * (1 - s * min(max(2 - abs((hue - k) % 6 - 3), 0), 1)) for k in (3, 5, 1))
    red, green, blue = (int(255 * channel) for channel in channels)
    return red, green, blue


@dataclasses.dataclass(frozen=True)
class Look:
    """Looks of one person."""

    skin: Color
    hair: Color
    hair_style: str  # "short", "long", "bun", "curly", "beanie" or "bald"
    top: Color
    top_second: Color
    pattern: str  # "plain", "stripes", "checks" or "block"
    sleeve: float  # 0 none, 1 to the elbow, 2 to the wrist
    bottom: Color
    leg_cover: float  # 0 none, 1 to the knee, 2 to the ankle
    skirt: bool
    shoes: Color
    neckline: str  # "round", "v" or "open"


def draw_look(rng: np.random.Generator) -> Look:
    """Random looks."""
    top = any_color(rng, (0.1, 0.9), (0.3, 1.0))
    top_second = any_color(rng, (0.0, 0.8), (0.15, 1.0))
    skirt = rng.random() < 0.13
    return Look(
        skin=pick(rng, SKIN),
        hair=pick(rng, _HAIR),
        hair_style=draw_style(rng, short=0.46, long=0.2, bun=0.12, curly=0.1, beanie=0.08, bald=0.04),
        top=top,
        top_second=top_second,
        pattern=draw_style(rng, plain=0.48, stripes=0.24, checks=0.13, block=0.15),
        sleeve=(0.0, 0.55, 0.75, 1.5, 1.92)[draw_one(rng, (0.12, 0.28, 0.15, 0.12, 0.33))],
        bottom=any_color(rng, (0.1, 0.7), (0.18, 0.8)),
        leg_cover=0.0 if skirt else (0.5, 0.85, 1.55, 1.93)[draw_one(rng, (0.12, 0.22, 0.12, 0.54))],
        skirt=skirt,
        shoes=any_color(rng, (0.0, 0.7), (0.12, 0.95)),
        neckline=draw_style(rng, round=0.4, v=0.3, open=0.3),
    )
