"""Stopping long work cleanly.

`Guard`: a signal is noted, the work saves at its next good moment and stops. `sigterm_like_ctrl_c`: for work that can
be cut off anywhere, because all that it has finished is on the disk.
"""

import contextlib
import signal
import threading
import types
from collections.abc import Iterator, Sequence
from typing import Self


class Stopped(Exception):
    """Raised by work that has saved its state after a signal.

    Attributes:
        exit_code: 0 after SIGTERM, which asks for exactly this; 130 after Ctrl-C, as shells expect.
    """

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 130 if signal_number == signal.SIGINT else 0


class Guard:
    """Within this context, Ctrl-C and SIGTERM only set `requested`. A second Ctrl-C interrupts at once.

    Args:
        numbers: the signals.
    """

    def __init__(self, numbers: Sequence[int] = (signal.SIGINT, signal.SIGTERM)) -> None:
        self._numbers = numbers
        self.requested = False
        self.signal_number = 0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> Self:
        for number in self._numbers:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested, self.signal_number = True, number
        print("\nstopping after this step; once more Ctrl-C to stop at once", flush=True)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C and SIGTERM take effect at the end of this context: threads of others are writing files meanwhile."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, lambda number, _: pending.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if pending:
        raise KeyboardInterrupt


@contextlib.contextmanager
def sigterm_like_ctrl_c() -> Iterator[None]:
    """Within this context SIGTERM raises KeyboardInterrupt, as Ctrl-C does anyway."""

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
