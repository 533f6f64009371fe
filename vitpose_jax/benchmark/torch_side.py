"""Hugging Face's VitPose beside ours, with the same weights, in processes of their own that wait for their turn.

Baselines, by name:

    torch-eager           as installed
    torch-compiled        torch.compile, as installed
    torch-eager-fast      the same two, with MKL's fast code
    torch-compiled-fast

MKL, which multiplies matrices for PyTorch on an x86 processor, takes its fast code where the processor is Intel's. On
others it is made to by answering its question with yes: a library of one function, loaded first.
"""

import contextlib
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vitpose_jax import codec
from vitpose_jax.benchmark import machine
from vitpose_jax.benchmark.programs import LEARNING_RATE, random_batch
from vitpose_jax.benchmark.timing import Run
from vitpose_jax.convert import hugging_face
from vitpose_jax.keypoints import KEYPOINT_SETS, reference
from vitpose_jax.models.vitpose import ViTPose, normalize
from vitpose_jax.training.model_file import ModelFile

BASELINES = ("torch-eager", "torch-compiled", "torch-eager-fast", "torch-compiled-fast")
_WORKER = pathlib.Path(__file__).with_name("torch_worker.py")
_YES = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"

# Largest difference from ours, relative to the largest value, that still is the same computation.
DIFFERENCE = {"float32": 5e-3, "bfloat16": 0.1}


def baselines(wanted: Sequence[str]) -> tuple[str, ...]:
    """The baselines that can run here; "torch" stands for all of them.

    Raises:
        ValueError: for an unknown name, a missing package, or a baseline that was named and cannot run here.
    """
    unknown = sorted(set(wanted) - {"torch", *BASELINES})
    if unknown:
        raise ValueError(f"--against takes torch or some of {', '.join(BASELINES)}, not {', '.join(unknown)}")
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if wanted and missing:
        raise ValueError(f"--against needs {' and '.join(missing)}: pip install -r requirements-test.txt")
    reasons = {name: reason for name in BASELINES if (reason := _why_not(name))}
    for name in wanted:
        if name in reasons:
            raise ValueError(f"{name} cannot run here: {reasons[name]}")
    chosen = BASELINES if "torch" in wanted else tuple(name for name in BASELINES if name in wanted)
    return tuple(name for name in chosen if name not in reasons)


def _why_not(name: str) -> str | None:
    if "compiled" in name and jax.default_backend() == "cpu" and not shutil.which("g++"):
        return "torch.compile needs a C++ compiler (g++)"
    if not name.endswith("-fast"):
        return None
    if jax.default_backend() != "cpu" or "AMD" not in machine.processor():
        return "MKL takes its fast code by itself where the processor is not AMD's"
    return None if shutil.which("cc") else "to make MKL take its fast code needs a C compiler (cc)"


class TorchSide:
    """The baselines of one model. Use as a context; the processes end with it.

    Args:
        model: ours; has one decoder.
        settings: what it was made of, see `vitpose`.
        variables: its weights.
        names: of `BASELINES`.
    """

    def __init__(self, model: ViTPose, settings: Mapping[str, Any], variables: Mapping, names: Sequence[str]):
        self._model, self._names = model, names
        self._stack = contextlib.ExitStack()
        self._folder = pathlib.Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        (dataset,) = model.num_keypoints
        points = next(each for each in KEYPOINT_SETS.values() if len(each) == model.num_keypoints[dataset])
        file = ModelFile(
            settings={**settings, "num_keypoints": {dataset: len(points)}},
            datasets={dataset: {**reference(points), "udp": True}},
            codec={"sigma": 2.0, "blur_kernel": 11},
        )
        if names:
            hugging_face.write(self._folder / "model", jax.device_get(variables), file, dataset)
        self._workers: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "TorchSide":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        for worker in self._workers.values():
            if kind is not None:
                worker.kill()
            worker.communicate()  # no more commands: it ends
        self._stack.close()

    def prepare(self, task: str, batch_size: int, dtype: str, ours: np.ndarray) -> Iterator[tuple[str, dict[str, Any]]]:
        """Makes the baselines ready to run, one after the other, each once it has given what ours gives.

        Args:
            task: "forward" or "train".
            batch_size: crops, those of `random_batch`.
            dtype: of the computation.
            ours: heatmaps, or the loss of the first step.

        Yields:
            Name and facts of each baseline.

        Raises:
            RuntimeError: outputs differ by more than rounding.
        """
        inputs, outputs = self._folder / "inputs.npz", self._folder / "outputs.npy"
        np.savez(inputs, **self._inputs(task, batch_size))
        for name in self._names:
            facts = self._ask(
                name, "prepare", task=task, dtype=dtype, inputs=str(inputs), outputs=str(outputs),
                learning_rate=LEARNING_RATE,
            )  # fmt: skip
            facts["difference"] = check_equal(name, np.load(outputs), ours, dtype)
            yield name, facts

    def variants(self) -> dict[str, Any]:
        """What `take_turns` runs."""
        return {name: lambda name=name: Run(**self._ask(name, "run")) for name in self._names}

    def peaks(self) -> dict[str, dict[str, float]]:
        """The most memory of each."""
        return {name: self._ask(name, "peak") for name in self._names}

    def _inputs(self, task: str, batch_size: int) -> dict[str, Any]:
        batch = random_batch(self._model, batch_size)
        arrays = {"image": normalize(batch["image"])}
        if task == "train":
            arrays["target"], arrays["weights"] = codec.encode(
                batch["keypoints"], crop_size=self._model.image_size, heatmap_size=self._model.heatmap_size, udp=True
            )
        return jax.device_get(arrays)

    def _ask(self, name: str, command: str, **settings: Any) -> dict[str, Any]:
        worker = self._workers.get(name) or self._start(name)
        assert worker.stdin is not None and worker.stdout is not None
        try:
            worker.stdin.write(json.dumps({command: settings}) + "\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise RuntimeError(f"{name} ended with code {worker.wait()} at {command!r}; what it said stands above")
        return json.loads(answer)

    def _start(self, name: str) -> subprocess.Popen:
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
        environment |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        if name.endswith("-fast"):
            environment["LD_PRELOAD"] = str(self._yes())
        kind, device = name.split("-")[1], "cpu" if jax.default_backend() == "cpu" else "cuda"
        self._workers[name] = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER), str(self._folder / "model"), kind, device],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self._workers[name]

    def _yes(self) -> pathlib.Path:
        source, library = self._folder / "yes.c", self._folder / "yes.so"
        if not library.exists():
            source.write_text(_YES)
            subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        return library


def check_equal(name: str, theirs: np.ndarray, ours: np.ndarray, dtype: str) -> float:
    """The largest difference, relative to the largest value of ours.

    Raises:
        RuntimeError: it is more than rounding explains, or shapes differ.
    """
    if theirs.shape != ours.shape:
        raise RuntimeError(f"{name} gives {theirs.shape}, ours {ours.shape}: not the same computation")
    difference = float(np.abs(theirs - ours).max() / np.abs(ours).max())
    if not difference <= DIFFERENCE[dtype]:
        raise RuntimeError(
            f"{name} differs from ours by {difference:.2g} of the largest value in {dtype}; rounding explains "
            f"{DIFFERENCE[dtype]:.2g} at most: not the same computation"
        )
    return float(f"{difference:.2g}")
