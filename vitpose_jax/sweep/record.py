"""What the folder of a trial says of it: whether it is finished, runs, was stopped or has failed, and its metrics.

    <trial>/finished.json   written by train.py when a run has gone to its end
    <trial>/metrics.jsonl   written by train.py: a line for each logged step
    <trial>/config.json     written by train.py
    <trial>/output.txt      all that the trial printed, every start appended
    <trial>/trial.json      how the last start ended
    <trial>/trial.lock      held while the trial runs, also by a trial whose launcher died

The first three are all there is of a trial that was started in another way, and suffice for its results.
"""

import contextlib
import dataclasses
import fcntl
import json
import pathlib
import re
import signal
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from vitpose_jax import trees

FINISHED, METRICS, CONFIG = "finished.json", "metrics.jsonl", "config.json"
OUTPUT, TRIAL, LOCK = "output.txt", "trial.json", "trial.lock"

# Settings that say where, how and how long a run computes, not what: they may change between two starts of a run.
_FREE = (
    "mesh.", "input.num_workers", "input.num_threads", "input.prefetch", "model.remat", "model.scan_unroll",
    "train.epochs", "train.keep_last", "train.save_every_steps", "train.log_every_steps",
)  # fmt: skip

# Exit codes of train.py that mean it was stopped: saved after SIGTERM, Ctrl-C, or either before there was anything to
# save. 143 is what srun makes of SIGTERM.
STOPPED_CODES = (0, 130, 143, -signal.SIGINT, -signal.SIGTERM)


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of a trial.

    Attributes:
        state: "waiting", "running", "stopped", "failed" or "finished".
        error: why it failed; "" if it did not.
        lines: the logged steps, {"step": 100, "train/loss": …}.
        differences: what its checkpoints were trained with otherwise than the sweep says now, one sentence each.
    """

    state: str
    error: str = ""
    lines: tuple[dict[str, float], ...] = ()
    differences: tuple[str, ...] = ()

    @property
    def step(self) -> int | None:
        """The last logged step."""
        return int(self.lines[-1]["step"]) if self.lines else None

    @property
    def steps_per_epoch(self) -> float | None:
        """Known as soon as training has logged anything."""
        known = (line["step"] / line["train/epoch"] for line in self.lines if line.get("train/epoch"))
        return next(known, None)

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) wherever a metric was logged."""
        return [(int(line["step"]), line[metric]) for line in self.lines if metric in line]


def read(folder: epath.Path, config: Mapping[str, Any]) -> Record:
    """Reads a trial's folder.

    Args:
        folder: of the trial; need not exist.
        config: the trial's, nested dictionaries; a run is finished when it has made as many epochs as this says.
    """
    if not folder.exists():
        return Record("waiting")
    lines = tuple(_log_lines(folder / METRICS))
    last = _json(folder / TRIAL)
    if is_finished(folder, config):
        state = "finished"
    elif _is_locked(folder):
        state = "running"
    elif last.get("error"):
        state = "failed"
    else:
        state = "stopped" if last or lines else "waiting"
    error = last["error"] if state == "failed" else ""
    differences = _differences(_json(folder / CONFIG), config) if _is_saved(folder) else ()
    return Record(state, error, lines, tuple(differences))


def is_finished(folder: epath.Path, config: Mapping[str, Any]) -> bool:
    """Whether train.py has gone to the end that the config says."""
    return _json(folder / FINISHED).get("epochs") == config["train"]["epochs"]


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[int]:
    """Holds a trial's folder; yields the file descriptor, which the trial's process inherits and so holds it too.

    Raises:
        BlockingIOError: the trial runs already, here or on another machine.
    """
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"{folder.name} runs already; it is left alone") from None
        yield file.fileno()


def last_error(output: str, exit_code: int) -> str:
    """Why a run failed, in one line.

    Args:
        output: what it printed since it was started.
        exit_code: as Popen says it; negative for a signal.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    # train.py's own sentence or Python's last one. JAX prints a remark on its tracebacks after that.
    said = [line for line in lines if re.match(r"train\.py: |[\w.]*(Error|Exception|Exit|Interrupt)(:|$)", line)]
    if exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"killed by {name}" + (", perhaps for lack of memory" if name == "SIGKILL" else "")
    return (said or lines or [f"exit code {exit_code}, without a word"])[-1]


def _log_lines(path: epath.Path) -> Iterator[dict[str, float]]:
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):  # the line that is being written
            yield json.loads(line)


def _json(path: epath.Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _is_saved(folder: epath.Path) -> bool:
    checkpoints = folder / "checkpoints"
    return checkpoints.exists() and any(step.name.isdigit() for step in checkpoints.iterdir())


def _is_locked(folder: epath.Path) -> bool:
    if not (folder / LOCK).exists():
        return False
    with open(folder / LOCK) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _differences(found: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """What train.py wrote and what the sweep says; train.py fills in what a config leaves None."""
    old, new = trees.dotted(found), trees.dotted(json.loads(json.dumps(config)))
    for name in sorted(old.keys() & new.keys()):
        if new[name] is not None and old[name] != new[name] and not name.startswith(_FREE):
            yield f"ran with {name} {old[name]!r}, the sweep now says {new[name]!r}"
