"""Traces of a few steps, for TensorBoard's profile page or Perfetto."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax

from vitpose_jax import paths


class Tracer:
    """Traces chosen steps of a run by `jax.profiler` into `<workdir>/profile`; of several processes, the first does.

    Args:
        workdir: the run's folder.
        steps: the first and the last step to trace, counted from where this call starts: the first few compile.
            Empty for none.
        start: the step that this call starts from.
        total: the run's last step.

    Raises:
        ValueError: the steps are no such pair, or beyond the end of the run.
    """

    def __init__(self, workdir: str | os.PathLike, steps: Sequence[int], *, start: int, total: int):
        self._first, self._last = (start + step for step in steps) if len(steps) == 2 else (-1, -1)
        if len(steps) not in (0, 2) or (steps and not start <= self._first <= self._last < total):
            raise ValueError(
                f"profile takes the first and the last step, from 0 to {total - start - 1}, counted from where this "
                f"call starts, not {list(steps)}"
            )
        self._target = paths.path(workdir) / "profile"

    def run(self, step: int, function: Callable, *arguments: Any) -> Any:
        """Calls a function for a step, under its name in the trace, if this step is traced."""
        if jax.process_index() > 0 or not self._first <= step <= self._last:
            return function(*arguments)
        if step == self._first:
            self._folder = contextlib.ExitStack()
            self._local = self._folder.enter_context(tempfile.TemporaryDirectory())
            jax.profiler.start_trace(self._local)
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            result = function(*arguments)
        if step == self._last:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            paths.copy_folder(self._local, self._target)
            self._folder.close()
            print(f"profile of steps {self._first} to {self._last}: {self._target}")
        return result
