"""Flip merge and decoding (DARK with UDP) of heatmaps, beside a loop over keypoints like the original's."""

import functools
from collections.abc import Iterator

import cv2
import jax
import numpy as np

from vitpose_jax import codec, keypoints
from vitpose_jax.benchmark.timing import Measured, take_turns

DIFFERENCE_CELLS = 1e-3


def decode(
    *, batch_size: int = 64, heatmap_size: tuple[int, int] = (64, 48), blur_kernel: int = 11, repeats: int
) -> Iterator[Measured]:
    """One line: our jitted function, and the loop.

    Args:
        batch_size: crops; of COCO's 17 keypoints each.
        heatmap_size: (h, w).
        blur_kernel: cells.
        repeats: timed runs of each.

    Raises:
        RuntimeError: the two sides disagree.
    """
    flip_index = np.asarray(keypoints.COCO.flip_index)
    heatmaps = made_up_heatmaps(batch_size, len(flip_index), heatmap_size)
    mirrored = np.ascontiguousarray(heatmaps[:, :, ::-1, flip_index])

    ours = jax.jit(functools.partial(read_merged, blur_kernel=blur_kernel))
    on_device = jax.device_put((flip_index, heatmaps, mirrored))
    # The original's maps are [B, K, h, w].
    maps, mirrored_maps = (np.ascontiguousarray(each.transpose(0, 3, 1, 2)) for each in (heatmaps, mirrored))

    def theirs() -> np.ndarray:
        return loop(maps, mirrored_maps, flip_index, blur_kernel)

    difference = float(np.abs(np.asarray(ours(*on_device)) - theirs()).max())
    if not difference <= DIFFERENCE_CELLS:
        raise RuntimeError(f"keypoints of the two sides differ by {difference:.2g} cells")
    timings = take_turns({"vitpose_jax": lambda: ours(*on_device), "loop": theirs}, repeats=repeats)
    said = {"batch_size": batch_size, "keypoints": len(flip_index), "heatmap_size": list(heatmap_size)}
    yield Measured(said, timings, {"loop": {"difference_cells": float(f"{difference:.2g}")}})


def read_merged(flip_index: jax.Array, heatmaps: jax.Array, mirrored: jax.Array, blur_kernel: int = 11) -> jax.Array:
    """Keypoints [B, K, 2] in cells, of the maps [B, h, w, K] of a flip test's two passes."""
    merged = codec.merge_flip(heatmaps, mirrored, flip_index, shift=False)
    return codec.decode(merged, method="dark_udp", blur_kernel=blur_kernel)[0]


def made_up_heatmaps(batch_size: int, num_keypoints: int, heatmap_size: tuple[int, int]) -> np.ndarray:
    """float32 [B, h, w, K]: a Gaussian each, within the map, on a little noise."""
    rng = np.random.default_rng(0)
    height, width = heatmap_size
    x, y = (rng.uniform(4, size - 5, (batch_size, 1, 1, num_keypoints)) for size in (width, height))
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[:, None]
    maps = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 8)
    return (0.8 * maps + rng.uniform(0, 0.02, maps.shape)).astype(np.float32)


def loop(heatmaps: np.ndarray, mirrored: np.ndarray, flip_index: np.ndarray, blur_kernel: int) -> np.ndarray:
    """Keypoints [B, K, 2] in cells, of maps [B, K, h, w] in numpy and OpenCV, blurred map by map.

    Source: what is computed is that of `top_down_eval.py::post_dark_udp`.
    """
    maps = (heatmaps + mirrored[:, flip_index, :, ::-1]) * 0.5
    batch, num_keypoints, _, width = maps.shape
    flat = maps.reshape(batch, num_keypoints, -1)
    peak = flat.argmax(axis=2)
    x, y = peak % width, peak // width
    blurred = np.empty_like(maps)
    for crop in range(batch):
        for keypoint in range(num_keypoints):
            blurred[crop, keypoint] = cv2.GaussianBlur(maps[crop, keypoint], (blur_kernel, blur_kernel), 0)
    logs = np.log(np.clip(blurred, 0.001, 50.0))
    logs = np.pad(logs, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    crops, names = np.ogrid[:batch, :num_keypoints]

    def at(right: int, below: int) -> np.ndarray:
        return logs[crops, names, y + 1 + below, x + 1 + right]

    middle, left, right, above, below = at(0, 0), at(-1, 0), at(1, 0), at(0, -1), at(0, 1)
    gradient = np.stack([(right - left) * 0.5, (below - above) * 0.5], axis=-1)
    mixed = 0.5 * (at(1, 1) - right - below + 2 * middle - left - above + at(-1, -1))
    hessian = np.stack([right - 2 * middle + left, mixed, mixed, below - 2 * middle + above], axis=-1)
    hessian = hessian.reshape(batch, num_keypoints, 2, 2) + np.finfo(np.float32).eps * np.eye(2)
    step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
    return np.stack([x, y], axis=-1) - step
