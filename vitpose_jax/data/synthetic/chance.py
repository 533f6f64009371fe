"""Random choices of the drawing; every one takes its numbers from the picture's own generator."""

from collections.abc import Sequence

import numpy as np

Angles = tuple[tuple[float, float], ...]  # (mean, spread) of each, in degrees


def draw_one(rng: np.random.Generator, shares: Sequence[float]) -> int:
    """An index drawn with the given shares (they sum to 1)."""
    place = rng.random()
    for i, share in enumerate(shares):
        place -= share
        if place < 0:
            return i
    return len(shares) - 1


def draw_style(rng: np.random.Generator, **shares: float) -> str:
    """One of the names, drawn with the given shares (they sum to 1)."""
    return list(shares)[draw_one(rng, list(shares.values()))]


def draw_sign(rng: np.random.Generator) -> int:
    """1 or -1."""
    return 1 if rng.random() < 0.5 else -1


def draw_angles(rng: np.random.Generator, spec: Angles) -> list[float]:
    """Normally distributed angles in degrees."""
    noise = rng.standard_normal(len(spec))
    return [mean + spread * n for (mean, spread), n in zip(spec, noise.tolist(), strict=True)]
