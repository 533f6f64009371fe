"""Watching a run without holding it up: losses are looked at a few steps behind the device."""

import collections
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from vitpose_jax.training.checkpoint import Checkpoints
from vitpose_jax.training.log import ScalarLog

STEPS_AHEAD = 2  # updates that may be under way on the device before the host looks at the oldest one's loss


class Monitor:
    """Watches a run: waits for losses a few steps behind the device, checks them, and writes them down."""

    def __init__(self, log: ScalarLog, batch_size: int, steps_per_epoch: int, log_every: int, checkpoints: Checkpoints):
        self._log, self._batch_size, self._steps_per_epoch = log, batch_size, steps_per_epoch
        self._log_every, self._checkpoints = log_every, checkpoints
        self._in_flight: collections.deque[tuple[int, Any]] = collections.deque()
        self._window: list[dict[str, float]] = []
        self._window_start, self._waited = time.perf_counter(), 0.0

    def next_batch(self, stream: Iterator) -> dict[str, np.ndarray]:
        """Takes a batch and notes how long that took."""
        begin = time.perf_counter()
        batch = next(stream)
        self._waited += time.perf_counter() - begin
        return batch

    def add(self, step: int, metrics: dict[str, jax.Array], progress: tqdm) -> None:
        """Takes the metrics of a step that was just started; looks at those of the step two before."""
        self._in_flight.append((step, metrics))
        if len(self._in_flight) > STEPS_AHEAD:
            self._finish(progress)

    def drain(self, progress: tqdm) -> None:
        """Waits for all steps under way. After it, the state is known to be finite."""
        while self._in_flight:
            self._finish(progress)

    def restart_clock(self) -> None:
        """Begins a new window of averages: what was done since the last one was no training."""
        self._window_start, self._waited, self._window = time.perf_counter(), 0.0, []

    def _finish(self, progress: tqdm) -> None:
        step, metrics = self._in_flight.popleft()
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not np.isfinite(values["loss"]) or not np.isfinite(values["gradient_norm"]):
            last = self._checkpoints.latest_step
            good = (
                "no checkpoint was saved yet"
                if last is None
                else f"the last good one is {self._checkpoints.folder / str(last)}"
            )
            raise FloatingPointError(
                f"step {step}: loss {values['loss']}, gradient norm {values['gradient_norm']}; nothing was saved from "
                f"here, {good}. Lower the learning rate, or look at the batch of this step"
            )
        if values["loss"] == 0:  # exactly: nothing counted, in any process
            raise ValueError(f"the batch of step {step - 1} has no labelled keypoint: the training data is broken")
        progress.update()
        self._window.append(values)
        if step % self._log_every:
            return
        elapsed = time.perf_counter() - self._window_start
        scalars = average(self._window)
        scalars["learning_rate"] = values["learning_rate"]
        scalars["images_per_second"] = len(self._window) * self._batch_size / elapsed
        scalars["input_wait_fraction"] = self._waited / elapsed
        scalars["epoch"] = step / self._steps_per_epoch
        self._log.write(step, {f"train/{name}": value for name, value in scalars.items()})
        accuracy = f" acc {scalars['accuracy']:.3f}" if "accuracy" in scalars else ""
        progress.set_postfix_str(f"loss {scalars['loss']:.2e}{accuracy} {scalars['images_per_second']:.0f} images/s")
        self.restart_clock()


def average(window: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over steps, of the steps where a value is known: a data set's accuracy is NaN where it has no crop."""
    known = {name: [entry[name] for entry in window if not np.isnan(entry[name])] for name in window[0]}
    return {name: float(np.mean(values)) for name, values in known.items() if values}
