"""Which tokens a block's attention sees: all, or those of its window; shifted, with summaries of the other windows.

A window is a rectangle of tokens. Every second windowed block moves the windows by half their size (Swin's shift); a
window that then wraps around the grid's border holds tokens of opposite borders, which do not see each other. A pooling
window sees, besides its own tokens, one summary of each window: the mean of its keys and of its values, which are the
key and the value of its mean token. Windows have no parameters of their own, so that any weights fit any of them;
relative positions have.

Source: ViTPose Table 5, whose code was never released; what it leaves open is said in `docs/transfer.md`.
"""

import dataclasses
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vitpose_jax.types import Size

# Name in configs to (windows shift in every second block, windows see summaries of all windows).
WINDOWED: dict[str, tuple[bool, bool]] = {
    "window": (False, False),
    "shift": (True, False),
    "pool": (False, True),
    "shift_pool": (True, True),
}
ATTENTIONS = ("full", *WINDOWED)
RELATIVE_POSITIONS = ("full", "decomposed")


@dataclasses.dataclass(frozen=True)
class Windows:
    """What the attention of one block looks at.

    Attributes:
        grid: (rows, cols) of tokens.
        size: (rows, cols) of a window; divides the grid.
        shift: (rows, cols) by which the windows lie further down and right.
        pool: whether each window sees summaries of all.
        relative_positions: a name of `RELATIVE_POSITIONS`, or None.
        reach: (rows, cols) of the largest window of any block: the area that tables of relative positions speak of.
    """

    grid: Size
    size: Size
    shift: Size = (0, 0)
    pool: bool = False
    relative_positions: str | None = None
    reach: Size = (0, 0)

    def split(self, x: jax.Array) -> jax.Array:
        """Tokens [B, L, …] to [B, W, T, …], T tokens of each of W windows; one window leaves them as they are."""
        if self.size == self.grid:
            return x
        x = x.reshape(x.shape[0], *self.grid, *x.shape[2:])
        if any(self.shift):
            x = jnp.roll(x, (-self.shift[0], -self.shift[1]), axis=(1, 2))
        return _cut(x, self.size)

    def merge(self, x: jax.Array) -> jax.Array:
        """The inverse of `split`."""
        if self.size == self.grid:
            return x
        x = _join(x, self.grid, self.size)
        if any(self.shift):
            x = jnp.roll(x, self.shift, axis=(1, 2))
        return x.reshape(x.shape[0], self.grid[0] * self.grid[1], *x.shape[3:])

    def with_summaries(self, keys: jax.Array) -> jax.Array:
        """Keys or values [B, W, N, T, d] and, behind those of each window, their means over every window.

        The means are over windows that do not shift: each is of one rectangle of the crop.

        Returns: [B, W, N, T + W, d].
        """
        tokens = keys.swapaxes(2, 3)  # [B, W, T, N, d]
        if any(self.shift):
            tokens = dataclasses.replace(self, shift=(0, 0)).split(self.merge(tokens))
        means = tokens.mean(axis=2, dtype=jnp.float32).astype(keys.dtype).swapaxes(1, 2)[:, None]  # [B, 1, N, W, d]
        means = jnp.broadcast_to(means, (*keys.shape[:3], *means.shape[-2:]))
        return jnp.concatenate([keys, means], axis=-2)

    def add_relative(self, scores: jax.Array, relative: jax.Array) -> jax.Array:
        """Scores [..., T, keys] and what `RelativePositions` adds to those of tokens; summaries have no position."""
        summaries = scores.shape[-1] - relative.shape[-1]
        return scores + jnp.pad(relative, [(0, 0)] * (relative.ndim - 1) + [(0, summaries)])

    def hide(self, scores: jax.Array) -> jax.Array:
        """Scores [B, W, N, T, keys], minus infinity where a window wraps and the key is of the opposite border."""
        if not any(self.shift):
            return scores
        rows, cols = (np.arange(side) >= side - moved for side, moved in zip(self.grid, self.shift, strict=True))
        region = jnp.asarray(_cut((2 * rows[:, None] + cols)[None], self.size)[0])  # [W, T]; what wrapped is apart
        seen = region[:, :, None] == region[:, None, :]
        seen = jnp.pad(seen, ((0, 0), (0, 0), (0, scores.shape[-1] - seen.shape[-1])), constant_values=True)
        return jnp.where(seen[:, None], scores, -jnp.inf)


def _cut(x, size: Size):
    """[B, rows, cols, …] into windows [B, W, T, …]."""
    batch, rows, cols, *rest = x.shape
    x = x.reshape(batch, rows // size[0], size[0], cols // size[1], size[1], *rest).swapaxes(2, 3)
    return x.reshape(batch, -1, size[0] * size[1], *rest)


def _join(x, grid: Size, size: Size):
    """Windows [B, W, T, …] into [B, rows, cols, …]."""
    batch, _, _, *rest = x.shape
    x = x.reshape(batch, grid[0] // size[0], grid[1] // size[1], *size, *rest).swapaxes(2, 3)
    return x.reshape(batch, *grid, *rest)


class RelativePositions(nn.Module):
    """What attention scores gain by where a key lies relative to the query, within a window.

    "full" adds a number for each head and offset (Swin); "decomposed" the query's product with a vector for the rows
    between the two and one for the columns, the same for all heads (MViTv2, ViTDet). All start at zero, so that the
    weights of a model without relative positions mean the same here.

    Blocks with windows of other sizes have tables of one size, `Windows.reach`; a small window uses their middle.
    """

    windows: Windows

    @nn.compact
    def __call__(self, q: jax.Array) -> jax.Array:
        """Args: q [..., N, T, d], not scaled. Returns: float32 [N, T, T] or [..., N, T, T], queries before keys."""
        (rows, cols), tokens = self.windows.size, q.shape[-2]
        longest = [2 * side - 1 for side in self.windows.reach]
        y, x = (
            np.arange(side)[:, None] - np.arange(side) + reach - 1
            for side, reach in zip(self.windows.size, self.windows.reach, strict=True)
        )  # rows of the tables, [queries, keys]
        if self.windows.relative_positions == "full":
            table = self.param("table", nn.initializers.zeros, (*longest, q.shape[-3]), jnp.float32)
            of_pairs = jnp.take(table[y], x, axis=2)  # [rows, rows, cols, cols, N], each time queries, keys
            return of_pairs.transpose(4, 0, 2, 1, 3).reshape(-1, tokens, tokens)
        by_row, by_col = (
            self.param(name, nn.initializers.zeros, (length, q.shape[-1]), jnp.float32)
            for name, length in zip(("rows", "cols"), longest, strict=True)
        )
        q = q.reshape(*q.shape[:-2], rows, cols, -1)
        scores_y = jnp.einsum("...yxd,ykd->...yxk", q, by_row[y].astype(q.dtype), preferred_element_type=jnp.float32)
        scores_x = jnp.einsum("...yxd,xkd->...yxk", q, by_col[x].astype(q.dtype), preferred_element_type=jnp.float32)
        scores = scores_y[..., :, None] + scores_x[..., None, :]  # [..., N, rows, cols, rows, cols]
        return scores.reshape(*scores.shape[:-4], tokens, tokens)


def pattern(
    grid: Size,
    *,
    attention: str = "full",
    window_size: Sequence[int] | None = None,
    full_every: int = 0,
    relative_positions: str | None = None,
) -> tuple[Windows, ...]:
    """What the attention of each block of a period looks at; an encoder's blocks repeat the period.

    Args:
        grid: (rows, cols) of tokens.
        attention: a name of `ATTENTIONS`.
        window_size: (rows, cols) of a window; None with full attention.
        full_every: n: the last of every n blocks attends to all tokens; 0: none does. Windows shift in every second of
            the other blocks.
        relative_positions: a name of `RELATIVE_POSITIONS`, or None.

    Raises:
        ValueError: for a value outside these, windows that do not divide the grid, or a setting without effect.
    """
    if attention not in ATTENTIONS:
        raise ValueError(f"model attention must be one of {list(ATTENTIONS)}, not {attention!r}")
    if relative_positions not in (None, *RELATIVE_POSITIONS):
        raise ValueError(
            f"model relative_positions must be one of {list(RELATIVE_POSITIONS)} or None, not {relative_positions!r}"
        )
    whole = Windows(grid, grid, relative_positions=relative_positions, reach=grid)
    if attention == "full":
        unused = {"window_size": window_size, "full_every": full_every}
        if any(unused.values()):
            raise ValueError(f"full attention has no windows: leave out {unused}, or choose another model attention")
        return (whole,)
    size = _checked_size(window_size, grid)
    shifts, pools = WINDOWED[attention]
    shift = (size[0] // 2 * (size[0] < grid[0]), size[1] // 2 * (size[1] < grid[1])) if shifts else (0, 0)
    if (size == grid and (attention != "window" or full_every)) or (shifts and not any(shift)):
        raise ValueError(
            f"with windows of {size} tokens on a grid of {grid}, model attention {attention!r} and full_every "
            f"{full_every} do nothing: choose smaller windows, or attention 'full'"
        )
    if full_every < 0 or full_every == 1:
        raise ValueError(f"model full_every must be 0 or at least 2, not {full_every}; attention 'full' has no windows")
    windowed = (full_every or 2) - 1  # of a round of blocks
    rounds = 2 if shifts and windowed % 2 else 1
    reach = grid if full_every else size
    blocks: list[Windows] = []
    for i in range(rounds * windowed):
        moved = shift if i % 2 else (0, 0)
        blocks.append(Windows(grid, size, moved, pools, relative_positions, reach))
        if full_every and (i + 1) % windowed == 0:
            blocks.append(whole)
    return tuple(blocks)


def _checked_size(window_size: Sequence[int] | None, grid: Size) -> Size:
    if window_size is None or len(window_size) != 2 or not all(isinstance(side, int) for side in window_size):
        raise ValueError(f"windows need model window_size, (rows, cols) in tokens, not {window_size!r}")
    size = window_size[0], window_size[1]
    if any(side < 1 or whole % side for side, whole in zip(size, grid, strict=True)):
        rows, cols = ([side for side in range(1, whole + 1) if whole % side == 0] for whole in grid)
        nearest = tuple(min(sides, key=lambda a: abs(a - b)) for sides, b in zip((rows, cols), size, strict=True))
        raise ValueError(
            f"windows of {size} (rows, cols) do not divide the grid of {grid} tokens; the nearest that do are "
            f"{nearest}; of all, rows are {rows}, columns {cols}"
        )
    return size
