"""Start-up: from the start of a process to its first training step, without and with programs kept from before."""

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

from vitpose_jax import compile_cache
from vitpose_jax.benchmark.timing import Measured, Run, take_turns


def compile_(*, name: str, model: Mapping[str, Any], batch_size: int, repeats: int) -> Iterator[Measured]:
    """One line: "cold", with an empty compilation cache, and "kept", with what the run before left there.

    Args:
        name: of the experiment.
        model: its model section.
        batch_size: crops; noise, no data set is opened.
        repeats: timed starts of each.
    """
    parts: dict[str, dict[str, Any]] = {}
    settings = json.dumps({"model": {**model}, "batch_size": batch_size})
    with tempfile.TemporaryDirectory() as folder:
        caches: list[pathlib.Path] = []

        def start(label: str) -> Run:
            if label == "cold":
                caches.append(pathlib.Path(folder) / str(len(caches)))
            environment = {
                **os.environ,
                "JAX_COMPILATION_CACHE_DIR": str(caches[-1]),
                "JAX_ENABLE_COMPILATION_CACHE": "true",
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(compile_cache.LEAST_COMPILE_S),
            }
            begin, cpu = time.perf_counter(), os.times()
            child = subprocess.run(
                [sys.executable, "-m", "vitpose_jax.benchmark.first_step", settings], env=environment, check=True,
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
            wall, after = time.perf_counter() - begin, os.times()
            parts[label] = json.loads(child.stdout.splitlines()[-1])
            used = after.children_user + after.children_system - cpu.children_user - cpu.children_system
            return Run(wall, used)

        starts = {label: functools.partial(start, label) for label in ("cold", "kept")}
        timings = take_turns(starts, repeats=repeats, again=False)
    yield Measured({"config": name, "batch_size": batch_size}, timings, parts)
