"""Position embeddings: MAE's fixed one, and moving one to another patch grid as the original does when it loads it."""

import numpy as np

from vitpose_jax.types import Size

_CUBIC_A = -0.75  # torch's bicubic coefficient; jax.image.resize uses -0.5, antialiases and renormalises at edges


def resize(pos_embed: np.ndarray, old_grid: Size, new_grid: Size) -> np.ndarray:
    """Bicubic resize of the patch rows; the class-token row stays as it is. Equal grids give the input back.

    Args:
        pos_embed: float32 [1, 1 + rows * cols, D] for `old_grid`.
        old_grid: (rows, cols) of patches it was made for.
        new_grid: (rows, cols) wanted.

    Returns:
        float32 [1, 1 + new rows * new cols, D].

    Raises:
        ValueError: if the embedding is not one of `old_grid`.

    Source: `mmcv_custom/checkpoint.py::load_checkpoint` (torch bicubic, align_corners False, no antialias).
    """
    _, length, dim = pos_embed.shape
    if length != 1 + old_grid[0] * old_grid[1]:
        raise ValueError(
            f"a position embedding of {length} rows is not one of a {old_grid[0]}x{old_grid[1]} patch grid"
        )
    grid = pos_embed[0, 1:].reshape(*old_grid, dim).astype(np.float64)
    grid = np.einsum("Rr,rcd->Rcd", _cubic_matrix(old_grid[0], new_grid[0]), grid)
    grid = np.einsum("Cc,Rcd->RCd", _cubic_matrix(old_grid[1], new_grid[1]), grid)
    patches = grid.reshape(1, -1, dim).astype(np.float32)
    return np.concatenate([pos_embed[:, :1], patches], axis=1)


def resize_relative(table: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Relative positions of other windows: linear along the axes of offsets, whose middle stays the middle.

    Args:
        table: float32 [depth, 2 rows - 1, 2 columns - 1, N] or [depth, 2 side - 1, d], see `windows.RelativePositions`.
        shape: wanted; may differ along those axes only.

    Returns:
        float32 of `shape`.

    Source: ViTDet (`get_rel_pos`: torch's linear interpolation, align_corners False).
    """
    resized = table.astype(np.float64)
    for axis in range(1, table.ndim - 1):
        matrix = _linear_matrix(table.shape[axis], shape[axis])
        resized = np.moveaxis(np.tensordot(matrix, resized, axes=(1, axis)), 0, axis)
    return resized.astype(np.float32)


def _linear_matrix(old: int, new: int) -> np.ndarray:
    """[new, old]: linear interpolation with half-pixel centres, clamped to the edge."""
    source = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(0.0, 1.0 - np.abs(source[:, None] - np.arange(old)))


def sincos(grid: Size, embed_dim: int) -> np.ndarray:
    """The fixed two-dimensional sine-cosine embedding of masked-autoencoder pre-training, with a class token's row.

    The first half of the channels tells the column, the second half the row; each half is as many sines as cosines.

    Args:
        grid: (rows, cols) of patches.
        embed_dim: D, a multiple of 4.

    Returns:
        float32 [1, 1 + rows * cols, D]; the class token's row, the first, is 0. Computed in float64.

    Raises:
        ValueError: if D is no multiple of 4.

    Source: `util/pos_embed.py::get_2d_sincos_pos_embed` of facebookresearch/mae, there for square grids.
    """
    if embed_dim % 4:
        raise ValueError(f"a sine-cosine position embedding needs a width that is a multiple of 4, not {embed_dim}")
    quarter = embed_dim // 4
    frequencies = 1.0 / 10000 ** (np.arange(quarter) / quarter)
    row, col = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    angles = [np.outer(position, frequencies) for position in (col, row)]
    patches = np.concatenate([part for angle in angles for part in (np.sin(angle), np.cos(angle))], axis=1)
    return np.concatenate([np.zeros((1, embed_dim)), patches]).astype(np.float32)[None]


def _cubic_matrix(old: int, new: int) -> np.ndarray:
    """[new, old]: one-dimensional cubic interpolation with half-pixel centres and taps clamped to the edge."""
    source = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(source).astype(int)
    matrix = np.zeros((new, old))
    for tap in range(-1, 3):
        weight = _cubic_kernel(np.abs(source - (first + tap)))
        np.add.at(matrix, (np.arange(new), np.clip(first + tap, 0, old - 1)), weight)
    return matrix


def _cubic_kernel(distance: np.ndarray) -> np.ndarray:
    a, x = _CUBIC_A, distance
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, far)
