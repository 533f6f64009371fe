"""Paints a person part by part, far to near."""

import numpy as np

from vitpose_jax.data.synthetic.canvas import Canvas
from vitpose_jax.data.synthetic.head import HeadPainter
from vitpose_jax.data.synthetic.limbs import LimbPainter
from vitpose_jax.data.synthetic.person import Person
from vitpose_jax.data.synthetic.trunk import TrunkPainter


def paint_person(canvas: Canvas, person: Person, light: np.ndarray) -> None:
    """Paints `person`; `light` [2] is the direction towards the light in the image."""
    limbs = LimbPainter(canvas, person, light)
    trunk = TrunkPainter(canvas, person, light)
    head = HeadPainter(canvas, person)
    others = {
        "torso": trunk.paint,
        "skirt": trunk.paint_skirt,
        "head": head.paint,
        "hair_behind": head.paint_hair_behind,
    }
    for depth, part in sorted(_parts_with_depth(person)):
        # Far limbs lie in the body's shadow, which tells a far arm or leg from the near one.
        bright = 1 + 0.9 * min(max(depth, -0.3), 0.12)
        if part in others:
            others[part](bright)
        else:
            limbs.paint(part, bright)


def _parts_with_depth(person: Person) -> list[tuple[float, str]]:
    """All that is to be painted.

    A bias settles neighbours at equal depth: sleeves over trunk, trunk over thighs and neck.
    """

    def between(a: str, b: str) -> float:
        return 0.5 * (person.depth(a) + person.depth(b))

    parts = [
        (between("pelvis", "chest"), "torso"),
        (between("neck", "chin") - 0.03, "neck"),
        (person.depth("head") + 0.02, "head"),
    ]
    for s in ("left", "right"):
        parts += [
            (between(f"{s}_shoulder", f"{s}_elbow") + 0.03, f"{s}_upper_arm"),
            (between(f"{s}_elbow", f"{s}_wrist") + 0.03, f"{s}_forearm"),
            (between(f"{s}_wrist", f"{s}_fingers") + 0.025, f"{s}_hand"),
            (between(f"{s}_hip", f"{s}_knee") - 0.02, f"{s}_thigh"),
            (between(f"{s}_knee", f"{s}_ankle") - 0.02, f"{s}_shin"),
            (between(f"{s}_heel", f"{s}_toes") - 0.03, f"{s}_foot"),
        ]
    if person.look.hair_style in ("long", "bun"):
        parts.append((person.depth("head") - 0.12 * float(person.body.head[2, 2]), "hair_behind"))
    if person.look.skirt:
        thighs = max(between("left_hip", "left_knee"), between("right_hip", "right_knee"))
        parts.append((thighs - 0.015, "skirt"))
    return parts
