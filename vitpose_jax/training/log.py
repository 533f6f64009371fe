"""What a run writes down while it goes: scalars to a JSON-lines file and to TensorBoard."""

import json
import os
import pathlib
import tempfile
import time
from collections.abc import Mapping

from vitpose_jax import paths

_UPLOAD_SECONDS = 60.0


class ScalarLog:
    """Scalars of a run, in `<workdir>/metrics.jsonl` and `<workdir>/tensorboard`.

    A resumed run goes on in the same files; what a stopped run wrote after its last checkpoint is dropped, so that
    every step stands there once. Files of a bucket cannot be appended to: there, they are written on this machine and
    copied every minute, and at the end.

    Args:
        workdir: the run's folder; made if it is not there.
        start_step: the step that the run (re)starts from.
        silent: write nothing; for all processes of a run but the first.
    """

    def __init__(self, workdir: str | os.PathLike, *, start_step: int, silent: bool = False):
        folder = paths.path(workdir)
        self.path = folder / "metrics.jsonl"
        self._silent = silent
        if silent:
            return
        import tensorboardX  # loads torch where it is installed, which takes seconds: only who writes waits for it

        kept = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in kept if _step_of(line) <= start_step]
        paths.write(self.path, "".join(line + "\n" for line in kept))
        self._temporary = tempfile.TemporaryDirectory() if paths.in_bucket(folder) else None
        self._folder = pathlib.Path(self._temporary.name if self._temporary else folder)
        if self._temporary:
            (self._folder / self.path.name).write_bytes(self.path.read_bytes())
        self._uploaded = time.monotonic()
        self._lines = (self._folder / self.path.name).open("a")
        self._tensorboard = tensorboardX.SummaryWriter(str(self._folder / "tensorboard"), purge_step=start_step)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one line and one TensorBoard point for each scalar.

        Args:
            step: updates made so far.
            scalars: name to value.
        """
        if self._silent:
            return
        self._lines.write(json.dumps({"step": step, **scalars}) + "\n")
        self._lines.flush()
        for name, value in scalars.items():
            self._tensorboard.add_scalar(name, value, step)
        if self._temporary and time.monotonic() - self._uploaded > _UPLOAD_SECONDS:
            self._tensorboard.flush()
            self._upload()

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._silent:
            return
        self._lines.close()
        self._tensorboard.close()
        if self._temporary:
            self._upload()
            self._temporary.cleanup()

    def _upload(self) -> None:
        paths.copy_folder(self._folder, self.path.parent)
        self._uploaded = time.monotonic()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (json.JSONDecodeError, KeyError):
        return float("inf")  # a line cut off when the machine went down
