"""Running trials on this machine: each is a process of train.py; signals reach it, what it prints is kept."""

import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from vitpose_jax.data.files import write_text
from vitpose_jax.progress import progress_bar
from vitpose_jax.sweep import record
from vitpose_jax.sweep.trials import Sweep

# Of a command whose trial was stopped before its end. It is the exit code that xpk restarts workloads on.
UNFINISHED = 42

_POLL_S = 0.5
_OTHER_HOSTS_S = 30.0  # that the first process of a run may need to say that it is finished, after another has ended


class Signals:
    """Within this context, Ctrl-C, SIGTERM and a closed terminal are passed on to the process that is waited for."""

    def __init__(self) -> None:
        self.first: int | None = None  # the first signal that came
        self._to_pass_on: list[int] = []
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: types.FrameType | None) -> None:
        del frame
        self.first = self.first or number
        self._to_pass_on.append(number)

    def wait(self, process: subprocess.Popen, tick: Callable[[], None]) -> int:
        """Waits for the end of a process, and gives its exit code; calls `tick` every half second."""
        while True:
            while self._to_pass_on:
                number = self._to_pass_on.pop(0)
                process.send_signal(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)
            try:
                return process.wait(timeout=_POLL_S)
            except subprocess.TimeoutExpired:
                tick()


def command(sweep: Sweep, name: str, folder: epath.Path) -> list[str]:
    """What runs a trial."""
    return ["python", "train.py", f"--workdir={folder / name}", *sweep.arguments(name)]


def run(
    sweep: Sweep, name: str, folder: epath.Path, signals: Signals, *, prefix: Sequence[str] = (),
    tick: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Runs one trial from where it stopped to its end; its folder says how it ended.

    Args:
        sweep: the trial's.
        name: of the trial.
        folder: of the sweep, on this machine or a disk that several share.
        signals: passes them on.
        prefix: what the command is started by, ("srun",).
        tick: called every half second.

    Raises:
        BlockingIOError: the trial runs already.
    """
    place = pathlib.Path(folder / name)
    place.mkdir(parents=True, exist_ok=True)
    line = [*prefix, sys.executable, *command(sweep, name, folder)[1:]]
    started = {"overrides": {**sweep.fixed, **sweep.by_name[name]}, "command": shlex.join(line)}
    with record.locked(place) as lock, (place / record.OUTPUT).open("ab") as output:
        write_text(place / record.TRIAL, json.dumps(started, indent=1))
        output.write(f"\n$ {shlex.join(line)}\n".encode())
        output.flush()
        begin = output.tell()
        process = subprocess.Popen(  # in a session of its own: a terminal's Ctrl-C comes once, from here
            line, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            pass_fds=[lock], env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        code = signals.wait(process, tick)
        error = ""
        if code not in record.STOPPED_CODES:
            printed = (place / record.OUTPUT).read_bytes()[begin:].decode(errors="replace")
            error = record.last_error(printed, code)
        write_text(place / record.TRIAL, json.dumps({**started, "exit_code": code, "error": error}, indent=1))


def run_unrecorded(sweep: Sweep, name: str, folder: epath.Path, config: Mapping[str, Any]) -> int:
    """Runs one process of a trial whose other processes may run on other hosts; what it prints is not kept.

    Returns:
        0 for a finished trial, `UNFINISHED` for one that was stopped, else the exit code of train.py.
    """
    with Signals() as signals:
        process = subprocess.Popen([sys.executable, *command(sweep, name, folder)[1:]], start_new_session=True)
        code = signals.wait(process, lambda: None)
    if code not in record.STOPPED_CODES:
        return code if code > 0 else 128 - code
    patience = 0.0 if signals.first or code else _OTHER_HOSTS_S
    deadline = time.monotonic() + patience
    while not record.is_finished(folder / name, config):
        if time.monotonic() >= deadline:
            return UNFINISHED
        time.sleep(1)
    return 0


def run_all(
    sweep: Sweep, names: Sequence[str], folder: epath.Path, configs: Mapping[str, Mapping[str, Any]]
) -> int | None:
    """Runs trials one after another. A failed one does not stop the rest; a signal stops it, and then the sweep.

    Args:
        sweep: theirs.
        names: of the trials to run.
        folder: of the sweep.
        configs: of all trials by name, nested dictionaries.

    Returns:
        The signal that stopped the sweep; None if none did.
    """
    bar = progress_bar(desc="sweep", unit=" trials", total=len(names))
    with Signals() as signals, bar:
        for name in names:
            epochs, refreshed = configs[name]["train"]["epochs"], time.monotonic()

            def tick(name: str = name, epochs: int = epochs) -> None:
                nonlocal refreshed
                if time.monotonic() - refreshed < bar.mininterval:
                    return
                found, refreshed = record.read(folder / name, configs[name]), time.monotonic()
                if found.step is not None and found.steps_per_epoch:
                    bar.set_postfix_str(f"{name}: epoch {found.step / found.steps_per_epoch:.1f} of {epochs}")

            bar.write(f"{name}: started, see {folder / name / record.OUTPUT}", file=sys.stderr)
            try:
                run(sweep, name, folder, signals, tick=tick)
            except BlockingIOError as error:
                bar.write(str(error), file=sys.stderr)
            else:
                found = record.read(folder / name, configs[name])
                bar.write(f"{name}: {found.state}" + (f": {found.error}" if found.error else ""), file=sys.stderr)
            if signals.first:
                break
            bar.update()
    return signals.first
