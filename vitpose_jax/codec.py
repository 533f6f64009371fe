"""Keypoints to heatmaps and back: the training target, the decoders, the flip test and the training accuracy.

Everything is jittable and batched over crops and keypoints. Heatmaps are channels-last, [B, h, w, K]. Decoding computes
in float32 whatever the heatmaps' type.

Two conventions tell crop pixels from heatmap cells (`heatmap_scale`), the same two as in `geometry`. They come with
two ways of drawing targets and of reading maps:

* UDP (unbiased data processing; Huang et al. 2020, "The Devil Is in the Details") draws each Gaussian around the exact
  position and reads it with DARK (Zhang et al. 2020, "Distribution-Aware Coordinate Representation"): one Newton step
  on the logarithm of the blurred map.
* The older way (Xiao et al. 2018, "Simple Baselines") rounds the position to a cell before drawing, and reads the
  highest cell, moved by a quarter towards its higher neighbours.
"""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Layout, with_layout_constraint

from vitpose_jax.models.placement import on_cpu

DecodeMethod = Literal["dark_udp", "quarter_shift", "argmax"]

# DARK takes the logarithm of the blurred map between these bounds, and adds the constant to the Hessian's diagonal.
_LOG_FLOOR, _LOG_CEILING = 0.001, 50.0
_HESSIAN_EPS = float(np.finfo(np.float32).eps)

_MIN_TARGET_WEIGHT = 0.5  # a Gaussian is drawn for keypoints that weigh more
_ACCURACY_THRESHOLD = 0.05

# Kernels this small are not sampled from a Gaussian by OpenCV, whose blur is the reference, but taken from a table.
_SMALL_KERNELS = {
    1: np.array([1.0]),
    3: np.array([1, 2, 1]) / 4,
    5: np.array([1, 4, 6, 4, 1]) / 16,
    7: np.array([2, 7, 14, 18, 14, 7, 2]) / 64,
    9: np.array([4, 13, 30, 51, 60, 51, 30, 13, 4]) / 256,
}


def heatmap_scale(crop_size: tuple[int, int], heatmap_size: tuple[int, int], *, udp: bool) -> tuple[float, float]:
    """Crop pixels per heatmap cell.

    Args:
        crop_size: (H, W).
        heatmap_size: (h, w).
        udp: sizes between the centres of the outermost pixels, (W-1) / (w-1), rather than W / w.

    Returns:
        (along x, along y).
    """
    (crop_height, crop_width), (height, width) = crop_size, heatmap_size
    if udp:
        if height < 2 or width < 2:
            raise ValueError(f"heatmap_size is {heatmap_size}; UDP measures between cell centres and needs 2 each way")
        return (crop_width - 1) / (width - 1), (crop_height - 1) / (height - 1)
    return crop_width / width, crop_height / height


def encode(
    keypoints: jax.Array,
    *,
    crop_size: tuple[int, int],
    heatmap_size: tuple[int, int],
    sigma: float = 2.0,
    udp: bool | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Draws the target heatmaps: a Gaussian of height 1 for each keypoint, cut off beyond 3 sigma.

    A keypoint whose cut-off window misses the map altogether gets weight 0. Kept from the original: a window that ends
    exactly one cell before the map's left or upper edge passes as touching, so the keypoint keeps its weight and its
    target is an empty map.

    Args:
        keypoints: float32 [B, K, 3] (x, y, weight), crop pixels.
        crop_size: (H, W).
        heatmap_size: (h, w).
        sigma: in heatmap cells.
        udp: convention for all crops, or bool [B] for each.

    Returns:
        (heatmaps float32 [B, h, w, K], weights float32 [B, K]).

    Source: mmpose top_down_transform.py::_udp_generate_target, ::_msra_generate_target.
    """
    height, width = heatmap_size
    points, weights = keypoints[..., :2].astype(jnp.float32), keypoints[..., 2].astype(jnp.float32)
    is_udp = jnp.asarray(udp, bool).reshape(-1, 1, 1)  # [B, 1, 1], or [1, 1, 1] for all
    udp_scale, plain_scale = (
        jnp.asarray(heatmap_scale(crop_size, heatmap_size, udp=flag), jnp.float32) for flag in (True, False)
    )
    exact = points / jnp.where(is_udp, udp_scale, plain_scale)
    cell = jnp.trunc(exact + 0.5)  # towards zero: rounds half up right of the edge, and differently left of it
    center = jnp.where(is_udp, exact, cell)

    radius = 3 * sigma
    misses = (cell - radius >= jnp.array([width, height])) | (cell + radius + 1 < 0)
    weights = jnp.where(misses.any(-1), 0.0, weights)

    def profile(axis: int, size: int) -> jax.Array:
        """[B, size, K]: the Gaussian along one axis; a Gaussian in the plane is the product of two."""
        position = jnp.arange(size, dtype=jnp.float32)[:, None]
        inside = jnp.abs(position - cell[:, None, :, axis]) <= radius
        return jnp.where(inside, jnp.exp(-((position - center[:, None, :, axis]) ** 2) / (2 * sigma**2)), 0.0)

    rows = jnp.where((weights > _MIN_TARGET_WEIGHT)[:, None], profile(1, height), 0.0)
    return rows[:, :, None] * profile(0, width)[:, None], weights


def decode(heatmaps: jax.Array, *, method: DecodeMethod, blur_kernel: int = 11) -> tuple[jax.Array, jax.Array]:
    """Reads keypoints from heatmaps.

    The score is the map's maximum. A map without a value above 0 says nothing about a position: its point is (-1, -1)
    (as in the original's other decoders; its DARK reads whatever lies beside such a map in memory).

    Args:
        heatmaps: [B, h, w, K].
        method: "dark_udp" for UDP models, "quarter_shift" for the others, "argmax" for the highest cell itself.
        blur_kernel: cells, odd; size of the Gaussian that "dark_udp" blurs with. The original has 11 for targets with
            sigma 2 and 17 for sigma 3.

    Returns:
        (points_hm float32 [B, K, 2], scores float32 [B, K]). "dark_udp" points may lie outside the map.

    Source: mmpose top_down_eval.py::keypoints_from_heatmaps, ::post_dark_udp.
    """
    if method not in get_args(DecodeMethod):
        raise ValueError(f"decode method {method!r} is unknown; choose one of {', '.join(get_args(DecodeMethod))}")
    heatmaps = _in_order(jnp.asarray(heatmaps, jnp.float32))
    x, y, scores = _peaks(heatmaps)
    points = jnp.stack([x, y], -1).astype(jnp.float32)
    if method == "dark_udp":
        points -= _newton_step(jnp.log(jnp.clip(_blurred_cells(heatmaps, x, y, blur_kernel), _LOG_FLOOR, _LOG_CEILING)))
    elif method == "quarter_shift":
        points += _quarter_shift(heatmaps, x, y)
    return jnp.where((scores > 0)[..., None], points, -1.0), scores


def points_to_crop(
    points_hm: jax.Array, *, crop_size: tuple[int, int], heatmap_size: tuple[int, int], udp: bool
) -> jax.Array:
    """Heatmap cells to crop pixels: float32 [..., 2] to float32 [..., 2]."""
    return points_hm * jnp.asarray(heatmap_scale(crop_size, heatmap_size, udp=udp), jnp.float32)


def points_to_image(points_crop: jax.Array, crop_to_image: jax.Array) -> jax.Array:
    """Crop pixels to image pixels: float32 [B, K, 2] through crop_to_image [B, 2, 3] to float32 [B, K, 2]."""
    # Sums of products, not a matrix product, which accelerators would compute with reduced precision.
    matrix = crop_to_image[:, None].astype(jnp.float32)
    return (matrix[..., :2] * points_crop[..., None, :]).sum(-1) + matrix[..., 2]


def flip_heatmaps(heatmaps: jax.Array, flip_index: jax.Array, *, shift: bool) -> jax.Array:
    """Turns the heatmaps of a mirrored crop into heatmaps of the crop.

    Args:
        heatmaps: [B, h, w, K].
        flip_index: int [K], as `KeypointSet.flip_index`.
        shift: move the result one cell to the right (the first column stays), which aligns it with the crop's own
            heatmaps for models without UDP.

    Returns:
        [B, h, w, K].

    Source: mmpose post_transforms.py::flip_back, topdown_heatmap_simple_head.py::inference_model (shift_heatmap).
    """
    flipped = heatmaps[:, :, ::-1][..., jnp.asarray(flip_index)]
    return jnp.concatenate([flipped[:, :, :1], flipped[:, :, :-1]], axis=2) if shift else flipped


def merge_flip(heatmaps: jax.Array, flipped: jax.Array, flip_index: jax.Array, *, shift: bool) -> jax.Array:
    """Flip test: float32 mean of a crop's heatmaps [B, h, w, K] and those of its mirror image, turned back."""
    return (heatmaps.astype(jnp.float32) + flip_heatmaps(flipped.astype(jnp.float32), flip_index, shift=shift)) * 0.5


def heatmap_accuracy(pred: jax.Array, target: jax.Array, weights: jax.Array) -> jax.Array:
    """Share of keypoints whose highest cell is near the target's, a cheap figure to watch during training.

    Near is a distance below 0.05 with x in units of the map's *height* and y in units of its width (the original's
    mix-up, kept so that its logs compare). The share is taken for each keypoint over the crops where it counts, then
    averaged over the keypoints that count anywhere.

    Args:
        pred: [B, h, w, K].
        target: [B, h, w, K].
        weights: [B, K]; a keypoint counts where its weight is above 0.

    Returns:
        float32 scalar in [0, 1]; 0 if no keypoint counts.

    Source: mmpose top_down_eval.py::pose_pck_accuracy.
    """
    pred_points, _ = decode(jax.lax.stop_gradient(pred), method="argmax")
    target_points, _ = decode(target, method="argmax")
    size = jnp.array(pred.shape[1:3], jnp.float32)
    near = jnp.linalg.norm((pred_points - target_points) / size, axis=-1) < _ACCURACY_THRESHOLD
    counts = weights > 0
    total = counts.sum(0)
    share = (near & counts).sum(0) / jnp.maximum(total, 1)
    return share.sum() / jnp.maximum((total > 0).sum(), 1)


def _in_order(heatmaps: jax.Array) -> jax.Array:
    """The same numbers, in memory in the order of their axes.

    For the few windows that are read below, XLA's CPU backend would write the maps keypoint by keypoint, cell by cell:
    merging and reading a flip test's maps takes 1.6 times as long then.
    """
    if not on_cpu() or not isinstance(heatmaps.shape[0], int):  # a program for any number of crops is to be exported
        return heatmaps
    return with_layout_constraint(heatmaps, Layout(major_to_minor=tuple(range(heatmaps.ndim))))


def _peaks(heatmaps: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The highest cell of each map, the first in reading order among equals: x int32, y int32, value, all [B, K].

    One argmax over h*w cells is several times slower on a CPU than maxima of rows, then a search in one row.
    """
    # The barrier keeps XLA from fusing the maxima into both of their uses and computing them twice.
    row_max = jax.lax.optimization_barrier(heatmaps.max(axis=2))
    y = jnp.argmax(row_max, axis=1)
    row = _windows(heatmaps, jnp.zeros_like(y), y, (1, heatmaps.shape[2]))[:, :, 0]
    return jnp.argmax(row, axis=-1), y, row_max.max(axis=1)


def _windows(heatmaps: jax.Array, x: jax.Array, y: jax.Array, size: tuple[int, int]) -> jax.Array:
    """[B, K, rows, columns]: of each map [B, h, w, K], a window of `size` (rows, columns) with corner (x, y)."""

    def window(heatmap: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(heatmap, (y, x), size)

    return jax.vmap(jax.vmap(window, in_axes=(2, 0, 0)))(heatmaps, x, y)


def _quarter_shift(heatmaps: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """[B, K, 2]: a quarter of a cell towards the higher neighbour, for peaks more than a cell away from the border."""
    height, width = heatmaps.shape[1:3]
    if height < 3 or width < 3:
        return jnp.zeros((*x.shape, 2), jnp.float32)
    near = _windows(heatmaps, jnp.clip(x - 1, 0, width - 3), jnp.clip(y - 1, 0, height - 3), (3, 3))
    slope = jnp.stack([near[..., 1, 2] - near[..., 1, 0], near[..., 2, 1] - near[..., 0, 1]], -1)
    inside = (x > 1) & (x < width - 1) & (y > 1) & (y < height - 1)
    return jnp.where(inside[..., None], 0.25 * jnp.sign(slope), 0.0)


@functools.cache
def _blur_table(length: int, kernel: int) -> tuple[np.ndarray, np.ndarray]:
    """What a blur along an axis of `length` cells has to read around each cell.

    Returns:
        (int32 [length] first cell of the window, float32 [length, 3, window] coefficients which, multiplied with the
        window, give the blurred values at the cell before, the cell and the cell after). Beyond the axis's ends the map
        is mirrored without repeating the edge for the blur (reflect-101), and blurred values repeat the last one.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"blur_kernel is {kernel}; it needs to be odd and positive, because it is centred on a cell")
    radius = kernel // 2
    taps = _SMALL_KERNELS.get(kernel)
    if taps is None:
        sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
        taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        taps /= taps.sum()
    mirrored = np.pad(np.arange(length), radius, mode="reflect")
    blur = np.zeros((length, length))
    for cell in range(length):
        np.add.at(blur[cell], mirrored[cell : cell + kernel], taps)

    window = min(kernel + 2, length)
    first = np.clip(np.arange(length) - radius - 1, 0, length - window)
    cells = np.clip(np.arange(length)[:, None] + np.arange(-1, 2), 0, length - 1)
    coefficients = blur[cells[:, :, None], (first[:, None] + np.arange(window))[:, None]]
    return first.astype(np.int32), coefficients.astype(np.float32)


def _blurred_cells(heatmaps: jax.Array, x: jax.Array, y: jax.Array, kernel: int) -> jax.Array:
    """[B, K, 3, 3]: the blurred map at (x, y) [B, K] and its neighbours, the only cells where DARK looks at it."""
    height, width = heatmaps.shape[1:3]
    first_y, rows = _blur_table(height, kernel)
    first_x, columns = _blur_table(width, kernel)
    size = (rows.shape[-1], columns.shape[-1])
    windows = _windows(heatmaps, jnp.asarray(first_x)[x], jnp.asarray(first_y)[y], size)
    # Sums of products, not matrix products, which accelerators would compute with reduced precision.
    windows = (windows[:, :, None] * jnp.asarray(rows)[y][..., None]).sum(-2)  # [B, K, 3, columns]
    return (windows[..., None, :] * jnp.asarray(columns)[x][:, :, None]).sum(-1)


def _newton_step(f: jax.Array) -> jax.Array:
    """[B, K, 2] (x, y): inverse Hessian times gradient at the middle of f [B, K, 3 (y), 3 (x)]; 0 where it has none."""
    middle, left, right, above, below = f[..., 1, 1], f[..., 1, 0], f[..., 1, 2], f[..., 0, 1], f[..., 2, 1]
    dx, dy = (right - left) * 0.5, (below - above) * 0.5
    dxx = right - 2 * middle + left + _HESSIAN_EPS
    dyy = below - 2 * middle + above + _HESSIAN_EPS
    # From two of the four corners, as in the original.
    dxy = 0.5 * (f[..., 2, 2] - right - below + 2 * middle - left - above + f[..., 0, 0])
    determinant = dxx * dyy - dxy * dxy
    regular = determinant != 0
    step = jnp.stack([dyy * dx - dxy * dy, dxx * dy - dxy * dx], -1) / jnp.where(regular, determinant, 1.0)[..., None]
    return jnp.where(regular[..., None], step, 0.0)
