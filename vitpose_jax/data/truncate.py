"""Truncated instances: the picture ends within the body, as it does in crops of body parts and at an image's border.

A part of an instance's box is kept. Where an edge of the part is not an edge of the box, the picture ends: what lies
beyond is black in the crop, like everything outside an image, and keypoints there are not labelled. Without that, the
crop would show the rest of the body again: a crop is 1.25 times its box, and a half of a slim box grows to the crop's
shape. Apart from that, a part is a box like any other.
"""

from typing import NamedTuple

import numpy as np

# Left and right are those of the image. "random": a smaller box of the same shape somewhere in the whole one.
PARTS = ("upper", "lower", "left", "right", "random")


class Truncated(NamedTuple):
    """A part of an instance.

    Attributes:
        bbox_xywh: float64 [4], the part of the box, image pixels.
        picture_ltrb: int64 [4], the columns left … right-1 and rows top … bottom-1 of the image that are left of it;
            beyond any image where nothing is cut.
    """

    bbox_xywh: np.ndarray
    picture_ltrb: np.ndarray


_UNCUT = 2**31  # beyond any image


def truncate(bbox_xywh: np.ndarray, part: str, *, share: float, place: tuple[float, float] = (0.0, 0.0)) -> Truncated:
    """Keeps a part of an instance.

    Args:
        bbox_xywh: [4], the whole box, image pixels.
        part: one of `PARTS`.
        share: of the box's area that is kept, in (0, 1].
        place: of a "random" part, (x, y) in [0, 1]: 0 keeps the left or upper edge, 1 the right or lower one.

    Raises:
        ValueError: for another part or share.
    """
    if part not in PARTS:
        raise ValueError(f"a part is one of {PARTS}, not {part!r}")
    if not 0 < share <= 1:
        raise ValueError(f"the share of a box that is kept is in (0, 1], not {share}")
    low, size = np.split(np.asarray(bbox_xywh, np.float64), 2)
    kept = {"upper": (1, share), "lower": (1, share), "left": (share, 1), "right": (share, 1)}.get(
        part, (share**0.5,) * 2
    )
    start = {"upper": (0, 0), "lower": (0, 1), "left": (0, 0), "right": (1, 0)}.get(part, place)
    part_low = low + (1 - np.array(kept)) * start * size
    part_high = part_low + kept * size
    # Told by the shares: sums of rounded coordinates may miss the box's own edge by a rounding error.
    cut_off = (1 - np.array(kept)) * [start, 1 - np.array(start)] > 0
    left_top = np.where(cut_off[0], np.round(part_low), -_UNCUT)
    right_bottom = np.where(cut_off[1], np.round(part_high), _UNCUT)
    return Truncated(
        np.concatenate([part_low, part_high - part_low]), np.concatenate([left_top, right_bottom]).astype(np.int64)
    )


def is_shown(points_img: np.ndarray, picture_ltrb: np.ndarray) -> np.ndarray:
    """bool [..., K]: which points [..., K, 2] lie in what is left of their picture [..., 4]."""
    low, high = picture_ltrb[..., None, :2], picture_ltrb[..., None, 2:]
    return np.all((points_img >= low) & (points_img < high), axis=-1)
