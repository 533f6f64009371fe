"""What a run writes down while it goes: scalars to a JSON-lines file and to TensorBoard."""

import json
import os
import pathlib
from collections.abc import Mapping

import tensorboardX


class ScalarLog:
    """Scalars of a run, in `<workdir>/metrics.jsonl` and `<workdir>/tensorboard`.

    A resumed run goes on in the same files; what a stopped run wrote after its last checkpoint is dropped, so that
    every step stands there once.

    Args:
        workdir: the run's folder; made if it is not there.
        start_step: the step that the run (re)starts from.
    """

    def __init__(self, workdir: str | os.PathLike, *, start_step: int):
        folder = pathlib.Path(workdir)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        if self.path.exists():
            kept = [line for line in self.path.read_text().splitlines() if _step_of(line) <= start_step]
            partial = self.path.with_suffix(".partial")
            partial.write_text("".join(line + "\n" for line in kept))
            partial.rename(self.path)
        self._lines = self.path.open("a")
        self._tensorboard = tensorboardX.SummaryWriter(str(folder / "tensorboard"), purge_step=start_step)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one line and one TensorBoard point for each scalar.

        Args:
            step: updates made so far.
            scalars: name to value.
        """
        self._lines.write(json.dumps({"step": step, **scalars}) + "\n")
        self._lines.flush()
        for name, value in scalars.items():
            self._tensorboard.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes the files."""
        self._lines.close()
        self._tensorboard.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")  # a line cut off when the machine went down
