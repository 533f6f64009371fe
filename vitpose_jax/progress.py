"""Progress bars with the time left, for long work of any kind."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

_TERMINAL_SECONDS, _LOG_SECONDS = 0.5, 10.0


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    desc: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    show: bool = True,
) -> tqdm:
    """A bar that moves often on a terminal, and writes few lines where stderr goes to a file.

    Args:
        items: what to go through; without it the caller counts with ``update``.
        desc: what is going on.
        unit: of the count, with a leading space.
        total: how many there will be, if `items` does not know.
        initial: how many were done before.
        show: False for a silent bar.
    """
    seconds = _TERMINAL_SECONDS if sys.stderr.isatty() else _LOG_SECONDS
    return tqdm(
        items, desc=desc, unit=unit, total=total, initial=initial, disable=not show, mininterval=seconds,
        maxinterval=seconds, dynamic_ncols=True,
    )  # fmt: skip
