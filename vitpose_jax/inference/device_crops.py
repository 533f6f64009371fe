"""Cutting crops on the accelerator from whole images, to the bit like `geometry.cut_crop`.

One image travels instead of the crops of everybody in it. Images differ in size and a compiled program does not, so
pixels travel as a flat array whose length is one of a few.

OpenCV 4 computes where a crop's pixel lies in the image in whole 1/1024 pixels, rounds that to 1/32, and weights the
four pixels around it in whole numbers. The first part takes float64 and is done on the host (`coordinates`), a few
numbers for each row and column of the crop; the rest is integer arithmetic, equal on every device.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vitpose_jax import geometry

_SCALE_BITS, _FRACTION_BITS = 10, 5  # OpenCV's AB_BITS, INTER_BITS
_FRACTIONS = 1 << _FRACTION_BITS
_LEAST_PIXELS = 1 << 18


def flat_pixels(image: np.ndarray) -> np.ndarray:
    """uint8 [N, 3]: an image's pixels in reading order, followed by black ones up to the next power of two."""
    pixels = image.reshape(-1, 3)
    length = max(_LEAST_PIXELS, 1 << (len(pixels) - 1).bit_length())
    return np.concatenate([pixels, np.zeros((length - len(pixels), 3), np.uint8)])


def coordinates(crop_to_image: np.ndarray, crop_size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Where a crop's pixels lie in the image: the sum of a number of its row and one of its column, in 1/1024 pixels.

    Args:
        crop_to_image: float64 [2, 3].
        crop_size: (H, W).

    Returns:
        int32 [2, H] "rows" and [2, W] "columns", each x before y.

    Source: OpenCV 4 imgproc/src/imgwarp.cpp::warpAffine, ::WarpAffineInvoker.
    """
    height, width = crop_size
    along, across, offset = crop_to_image[:, :1], crop_to_image[:, 1:2], crop_to_image[:, 2:]
    half_a_fraction = 1 << (_SCALE_BITS - _FRACTION_BITS - 1)
    scale = 1 << _SCALE_BITS
    return {
        "rows": (np.rint((across * np.arange(height) + offset) * scale) + half_a_fraction).astype(np.int32),
        "columns": np.rint(along * np.arange(width) * scale).astype(np.int32),
    }


def inverse(matrix: np.ndarray) -> np.ndarray:
    """float64 [2, 3]: the map back, with OpenCV's order of operations: `geometry.invert` rounds otherwise."""
    (a, b, c), (d, e, f) = np.asarray(matrix, np.float64)
    factor = 1.0 / (a * e - b * d)
    a, b, d, e = e * factor, -b * factor, -d * factor, a * factor
    return np.array([[a, b, -a * c - b * f], [d, e, -d * c - e * f]])


def cut_regions(pixels: jax.Array, image_size: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Crops of one image.

    Args:
        pixels: uint8 [N, 3], from `flat_pixels`.
        image_size: int32 [2], (height, width).
        rows: int32 [B, 2, H], from `coordinates`.
        columns: int32 [B, 2, W].

    Returns:
        uint8 [B, H, W, 3], black outside the image.
    """
    height, width = image_size
    fine = (rows[..., None] + columns[:, :, None]) >> (_SCALE_BITS - _FRACTION_BITS)  # [B, 2, H, W]
    whole, fraction = fine >> _FRACTION_BITS, fine & (_FRACTIONS - 1)
    total = jnp.zeros((*whole.shape[:1], *whole.shape[2:], 3), jnp.int32)
    for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = whole[:, 0] + right, whole[:, 1] + below
        weight = (fraction[:, 0] if right else _FRACTIONS - fraction[:, 0]) * (
            fraction[:, 1] if below else _FRACTIONS - fraction[:, 1]
        )
        weight = jnp.where((x >= 0) & (x < width) & (y >= 0) & (y < height), weight, 0)
        total += weight[..., None] * pixels[jnp.clip(y * width + x, 0, len(pixels) - 1)].astype(jnp.int32)
    half = _FRACTIONS**2 // 2
    return ((total + half) >> 2 * _FRACTION_BITS).astype(jnp.uint8)


def predict_regions(
    predict: Callable[..., Any], variables: Mapping, pixels: jax.Array, image_size: jax.Array, batch: Mapping
) -> tuple[jax.Array, jax.Array]:
    """`make_predict`'s function after `cut_regions`; `batch` holds "rows", "columns" and "crop_to_image"."""
    crops = cut_regions(pixels, image_size, batch["rows"], batch["columns"])
    return predict(variables, crops, batch["crop_to_image"])


def region_batch(boxes_cxcywh: np.ndarray, crop_size: tuple[int, int], *, udp: bool) -> dict[str, np.ndarray]:
    """What `predict_regions` asks of regions [B, 4] of one image."""
    matrices = [geometry.crop_matrix(box, crop_size, udp=udp) for box in boxes_cxcywh]
    where = [coordinates(inverse(matrix), crop_size) for matrix in matrices]
    return {
        "rows": np.stack([each["rows"] for each in where]),
        "columns": np.stack([each["columns"] for each in where]),
        "crop_to_image": np.stack([geometry.invert(matrix) for matrix in matrices]).astype(np.float32),
    }
