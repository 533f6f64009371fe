"""Draw poses: on a photograph, or predictions beside the ground truth in one picture."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from vitpose_jax import paths
from vitpose_jax.keypoints import KeypointSet

OUTLINE = (16, 18, 24)  # under every line and dot, so that colours read on bright and dark photographs alike
PAPER, INK, FAINT_INK = (250, 250, 248), (32, 36, 44), (120, 126, 138)  # of a comparison picture
SCORE_THRESHOLD = 0.3
_LEAST_RADIUS_PX, _RING_RADIUS_PX = 0.7, 2.2  # of a dot; of the smallest that has a ring of its own
_SUBPIXEL_BITS = 4  # cv2 draws at 1/16 pixel with them
_FAR_PX = 1 << 15  # points are pulled in to here; cv2's fixed-point coordinates overflow beyond


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One sample of `draw_comparison`. All points are in pixels of `image`.

    Attributes:
        image: uint8 [H, W, 3], RGB; a photograph or a crop.
        truth: float [K, 2], annotated x and y.
        truth_weights: float [K], 0 where a keypoint is not annotated.
        prediction: float [K, 2], predicted x and y.
        scores: float [K], predicted scores.
        title: a short line of ASCII text above the pair; may be empty.
    """

    image: np.ndarray
    truth: np.ndarray
    truth_weights: np.ndarray
    prediction: np.ndarray
    scores: np.ndarray
    title: str


def draw_pose(
    image: np.ndarray,
    points_img: np.ndarray,
    scores: np.ndarray,
    keypoint_set: KeypointSet,
    *,
    threshold: float = SCORE_THRESHOLD,
    thickness: int | None = None,
) -> np.ndarray:
    """Draw one or several people's keypoints and the lines between them.

    A dark outline lies under every person, so that people who overlap stay apart, later ones in front. Where keypoints
    crowd, as on a face, dots and lines are smaller.

    Args:
        image: uint8 [H, W, 3], RGB. Stays as it is.
        points_img: float [K, 2] or [P, K, 2], x and y in pixels of `image`.
        scores: float [K] or [P, K], scores of a prediction or weights of an annotation.
        keypoint_set: names, skeleton and colours of the K keypoints.
        threshold: keypoints with a score above it are drawn, and lines between two such keypoints.
        thickness: of the lines, pixels; as suits each person's size if not given.

    Returns:
        uint8 [H, W, 3], a copy with the poses on it.

    Raises:
        ValueError: the image is not RGB bytes, or the shapes do not fit the keypoint set.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {image.dtype} {list(image.shape)}; expected uint8 [H, W, 3], RGB")
    points_img, scores = np.asarray(points_img, np.float64), np.asarray(scores, np.float64)
    if points_img.shape != (*scores.shape, 2) or scores.ndim not in (1, 2) or scores.shape[-1] != len(keypoint_set):
        raise ValueError(
            f"points {list(points_img.shape)} and scores {list(scores.shape)} do not fit keypoint set "
            f"{keypoint_set.name!r}: expected [K, 2] and [K], or [P, K, 2] and [P, K], with K = {len(keypoint_set)}"
        )
    canvas = np.ascontiguousarray(image).copy()
    people = points_img.reshape(-1, len(keypoint_set), 2)
    for points, person_scores in zip(people, scores.reshape(-1, len(keypoint_set)), strict=True):
        drawn = (person_scores > threshold) & np.isfinite(points).all(axis=1)
        if drawn.any():
            _draw_person(canvas, points, drawn, keypoint_set, thickness or _thickness(points[drawn]))
    return canvas


def draw_numbers(image: np.ndarray, bboxes_xywh: Sequence[np.ndarray], numbers: Sequence[int]) -> np.ndarray:
    """Write a number at the upper left corner of each box, white on a dark plate.

    Args:
        image: uint8 [H, W, 3], RGB. Stays as it is.
        bboxes_xywh: float [4] each, pixels of `image`.
        numbers: one for each box.

    Returns:
        uint8 [H, W, 3], a copy.
    """
    canvas = image.copy()
    for (x, y, width, height), number in zip(bboxes_xywh, numbers, strict=True):
        capital_px = int(np.clip(np.sqrt(width * height) / 14, 9, 28))
        plate_height, plate_width = 2 * capital_px, round(capital_px * (0.8 + 0.85 * len(str(number))))
        left = int(np.clip(x, 0, max(0, canvas.shape[1] - plate_width)))
        top = int(np.clip(y, 0, max(0, canvas.shape[0] - plate_height)))
        plate = canvas[top : top + plate_height, left : left + plate_width]
        plate[:] = OUTLINE
        _write(
            plate, str(number), left=round(0.4 * capital_px), baseline=round(1.5 * capital_px), capital_px=capital_px,
            color=PAPER,
        )  # fmt: skip
    return canvas


def _thickness(points: np.ndarray) -> int:
    """Line thickness in pixels that suits a person with keypoints [n, 2]; a stray keypoint does not matter."""
    low, high = np.quantile(points, (0.15, 0.85), axis=0)
    return int(np.clip(round(np.sqrt(np.prod(high - low + 1)) / 26), 1, 12))


def _draw_person(
    canvas: np.ndarray, points: np.ndarray, drawn: np.ndarray, keypoint_set: KeypointSet, thickness: int
) -> None:
    """Draw the keypoints [K, 2] of one person that are marked as `drawn` [K] onto `canvas`."""
    points = np.clip(points, -_FAR_PX, _FAR_PX)
    shown = np.flatnonzero(drawn)
    distances = np.linalg.norm(points[shown, None] - points[shown], axis=2)  # [n, n]
    nearest = np.min(distances + np.diag(np.full(len(shown), np.inf)), axis=1, initial=_FAR_PX)
    radii = np.clip(0.4 * nearest, _LEAST_RADIUS_PX, 0.9 * thickness + 1)
    rims = np.minimum(max(1, thickness / 4), 0.3 * nearest)  # where dots crowd, outlines would hide what is between
    rim = max(1, round(thickness / 4))

    def fixed(value) -> Any:
        return np.round(np.asarray(value) * (1 << _SUBPIXEL_BITS)).astype(int).tolist()

    lines = []
    for (start, end), color in zip(keypoint_set.skeleton_index, keypoint_set.skeleton_colors, strict=True):
        if drawn[start] and drawn[end]:
            length = np.linalg.norm(points[start] - points[end])
            width = int(np.clip(round(length / 4), 1, thickness))
            lines.append((fixed(points[start]), fixed(points[end]), color, width))
    dots = [
        (fixed(points[k]), radius, dot_rim, keypoint_set.colors[k])
        for k, radius, dot_rim in zip(shown, radii, rims, strict=True)
    ]

    smooth = {"lineType": cv2.LINE_AA, "shift": _SUBPIXEL_BITS}
    for start, end, _, width in lines:
        cv2.line(canvas, start, end, OUTLINE, width + 2 * rim, **smooth)
    for center, radius, dot_rim, _ in dots:
        cv2.circle(canvas, center, fixed(radius + dot_rim), OUTLINE, cv2.FILLED, **smooth)
    for start, end, color, width in lines:
        cv2.line(canvas, start, end, color, width, **smooth)
    for center, radius, _, color in dots:
        if radius > _RING_RADIUS_PX:
            cv2.circle(canvas, center, fixed(radius), OUTLINE, cv2.FILLED, **smooth)
        cv2.circle(
            canvas, center, fixed((0.75 if radius > _RING_RADIUS_PX else 1) * radius), color, cv2.FILLED, **smooth
        )


def draw_comparison(
    samples: Sequence[Comparison],
    keypoint_set: KeypointSet,
    *,
    columns: int = 4,
    tile_height: int = 288,
    threshold: float = SCORE_THRESHOLD,
) -> np.ndarray:
    """A picture of samples, each as a pair: ground truth on the left, prediction on the right.

    Images are brought to one height before anything is drawn, so that lines are crisp on small crops too.

    Args:
        samples: what to show, in reading order. At least one.
        keypoint_set: names, skeleton and colours of the K keypoints.
        columns: pairs beside each other.
        tile_height: height of every image in the picture, pixels.
        threshold: predicted keypoints with a score above it are drawn.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        ValueError: there is no sample.
    """
    if not samples:
        raise ValueError("draw_comparison got no samples; give at least one")
    return _grid([_draw_pair(sample, keypoint_set, tile_height, threshold) for sample in samples], columns)


def contact_sheet(tiles: Sequence[np.ndarray], titles: Sequence[str], *, columns: int = 8) -> np.ndarray:
    """Pictures of one height in rows, each under a short line of text.

    Args:
        tiles: uint8 [H, W, 3], RGB. At least one.
        titles: a line of ASCII text for each.
        columns: tiles beside each other.

    Returns:
        uint8 [height, width, 3], RGB.

    Raises:
        ValueError: there is no tile.
    """
    if not tiles:
        raise ValueError("contact_sheet got no tiles; give at least one")
    heading_px = 22
    titled = []
    for tile, title in zip(tiles, titles, strict=True):
        canvas = np.full((heading_px + tile.shape[0], tile.shape[1], 3), PAPER, np.uint8)
        canvas[heading_px:] = tile
        _write(canvas, title, left=0, baseline=15, capital_px=9, color=INK)
        titled.append(canvas)
    return _grid(titled, columns)


def _grid(tiles: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Tiles of one height on paper, in rows."""
    height, width = tiles[0].shape[0], max(tile.shape[1] for tile in tiles)
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    margin = 20
    picture = np.full((margin + rows * (height + margin), margin + columns * (width + margin), 3), PAPER, np.uint8)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        top, left = margin + row * (height + margin), margin + column * (width + margin)
        picture[top : top + height, left : left + tile.shape[1]] = tile
    return picture


def _draw_pair(sample: Comparison, keypoint_set: KeypointSet, tile_height: int, threshold: float) -> np.ndarray:
    """One sample of the comparison: its title over two captioned tiles."""
    height, width = sample.image.shape[:2]
    tile_width = max(1, round(width * tile_height / height))
    enlarged = tile_height > height
    tile = cv2.resize(
        sample.image, (tile_width, tile_height), interpolation=cv2.INTER_CUBIC if enlarged else cv2.INTER_AREA
    )
    to_tile = np.array([tile_width / width, tile_height / height])
    truth, prediction = (
        (np.asarray(points, np.float64) + 0.5) * to_tile - 0.5  # pixel centres go to pixel centres
        for points in (sample.truth, sample.prediction)
    )
    annotated = np.asarray(sample.truth_weights) > 0
    thickness = _thickness(truth[annotated]) if annotated.any() else None  # one for both sides, whatever was predicted

    gap, heading_px = 4, 42
    pair = np.full((heading_px + tile_height, 2 * tile_width + gap, 3), PAPER, np.uint8)
    _write(pair, sample.title, left=0, baseline=15, capital_px=11, color=INK)
    for caption, left, points, scores, shown_above in (
        ("ground truth", 0, truth, sample.truth_weights, 0.0),
        ("prediction", tile_width + gap, prediction, sample.scores, threshold),
    ):
        drawn = draw_pose(tile, points, scores, keypoint_set, threshold=shown_above, thickness=thickness)
        pair[heading_px:, left : left + tile_width] = drawn
        _write(pair, caption, left=left, baseline=35, capital_px=9, color=FAINT_INK)
    return pair


def _write(canvas: np.ndarray, text: str, *, left: int, baseline: int, capital_px: int, color: Sequence[int]) -> None:
    """Write ASCII text with capitals of `capital_px`; what does not fit is cut off."""
    fine = 4  # drawn larger and averaged down: cv2's stroke letters look ragged at this size
    region = canvas[: baseline + capital_px, left:]
    height, width = region.shape[:2]
    coverage = np.zeros((height * fine, width * fine), np.uint8)
    letter_scale = cv2.getFontScaleFromHeight(cv2.FONT_HERSHEY_SIMPLEX, capital_px * fine, 1)
    origin = (0, baseline * fine)
    cv2.putText(coverage, text, origin, cv2.FONT_HERSHEY_SIMPLEX, letter_scale, 255, fine + 1, cv2.LINE_AA)
    alpha = cv2.resize(coverage, (width, height), interpolation=cv2.INTER_AREA)[:, :, None] / 255.0
    region[:] = np.round(region * (1 - alpha) + np.array(color) * alpha)


def save_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write a picture as PNG or JPEG, as the file name's ending says; an interrupted write leaves no broken file.

    Args:
        path: ends in .png, .jpg or .jpeg.
        image: uint8 [H, W, 3], RGB.

    Raises:
        ValueError: another ending.
    """
    file = paths.path(path)
    options = {".png": [], ".jpg": [cv2.IMWRITE_JPEG_QUALITY, 92], ".jpeg": [cv2.IMWRITE_JPEG_QUALITY, 92]}
    ending = file.suffix.lower()
    if ending not in options:
        raise ValueError(f"cannot write {path}: its ending is {ending!r}; use one of {', '.join(options)}")
    _, encoded = cv2.imencode(ending, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options[ending])
    paths.write(file, encoded.tobytes())
