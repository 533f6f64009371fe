"""Two real processes over loopback: train, stop, resume, lose one, evaluate. One process does the same beside them.

They find each other by flags, and as Slurm starts them.
"""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest

from tests import tolerances
from tests.conftest import ROOT
from vitpose_jax.training import checkpoint

SETTINGS = (
    "--config.model.embed_dim=32", "--config.model.depth=1", "--config.model.num_heads=4", "--config.model.mlp_dim=32",
    "--config.model.decoder=simple", "--config.model.ratio=1", "--config.model.image_size=(64,48)",
    "--config.augment.rotation_prob=0.6", "--config.schedule.warmup_steps=2", "--config.train.batch_size=8",
    "--config.train.log_every_steps=1", "--config.train.epochs=4", "--config.train.eval_every_epochs=1",
    "--config.eval.batch_size=4",
)  # fmt: skip
LAST_STEP = 12  # 21 instances: 3 steps an epoch

# Runs a script of this project; before the batch of a chosen call, the process sends itself a signal.
WORKER = """
import itertools, os, runpy, sys
from vitpose_jax.training.monitor import Monitor

script, number, at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
take, calls = Monitor.next_batch, itertools.count()

def next_batch(self, stream):
    if next(calls) == at:
        os.kill(os.getpid(), number)
    return take(self, stream)

Monitor.next_batch = next_batch
sys.argv = [script, *sys.argv[4:]]
runpy.run_path(script, run_name="__main__")
"""


def start(script, arguments, *, devices=1, signal_at=(0, -1), environment=None):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    simulated = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", WORKER, script, *map(str, map(int, signal_at)), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | simulated | (environment or {}), **pipes)


def finish(processes) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each."""
    ends = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=420)
            ends.append((process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return ends


def two(script, arguments, *, signal_at=(0, -1), heartbeat_timeout_s=100):
    """Two processes of one device each; the second one sends itself the signal."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    shared = ["--num_processes=2", f"--coordinator_address={address}", *arguments]
    shared += [f"--heartbeat_timeout_s={heartbeat_timeout_s}"]
    return finish(
        [
            start(script, [f"--process_id={number}", *shared], signal_at=signal_at if number else (0, -1))
            for number in (0, 1)
        ]
    )


def two_by_slurm(script, arguments, *, signal_at=(0, -1), heartbeat_timeout_s=100):
    """The same, found by what Slurm tells its tasks instead of by flags. JAX makes a port of the job's number."""
    shared = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    return finish(
        [
            start(
                script,
                [*arguments, f"--heartbeat_timeout_s={heartbeat_timeout_s}"],
                signal_at=signal_at if number else (0, -1),
                environment=shared | {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)},
            )
            for number in (0, 1)
        ]
    )


def scalars(workdir: pathlib.Path) -> list[dict]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timings = ("train/images_per_second", "train/input_wait_fraction")
    return [{name: value for name, value in line.items() if name not in timings} for line in lines]


@pytest.fixture(scope="module")
def arguments(drawn):
    return ["--config", "configs/quickstart.py", f"--config.datasets.synthetic.dir={drawn}", *SETTINGS]


@pytest.fixture(scope="module")
def straight(arguments, tmp_path_factory):
    """A run of one process with two devices, which went through."""
    workdir = tmp_path_factory.mktemp("straight")
    [(code, _, err)] = finish([start("train.py", [*arguments, f"--workdir=file://{workdir}"], devices=2)])
    assert code == 0, err
    return workdir


@pytest.fixture(scope="module")
def story(arguments, tmp_path_factory):
    """A run of two processes that is stopped, resumed on another mesh, loses one process, and is finished by one."""
    workdir = tmp_path_factory.mktemp("story")
    arguments = [*arguments, f"--workdir={workdir}", "--config.train.save_every_steps=1"]
    stopped = two("train.py", arguments, signal_at=(signal.SIGTERM, 1))
    at_stop = sorted(int(folder.name) for folder in (workdir / "checkpoints").iterdir() if folder.name.isdigit())
    other_mesh = [*arguments, "--config.mesh.fsdp=2"]
    lost = two_by_slurm("train.py", other_mesh, signal_at=(signal.SIGKILL, 3), heartbeat_timeout_s=5)
    [resumed] = finish([start("train.py", arguments, devices=2)])
    return workdir, stopped, at_stop, lost, resumed


def test_sigterm_to_one_stops_all_after_the_same_step(story):
    _, stopped, at_stop, _, _ = story
    for code, _, err in stopped:
        assert code == 0, err
        assert "Traceback" not in err
    assert re.search(rf"stopped (after|while evaluating) step {at_stop[-1]}; saved in", stopped[0][1])
    assert 2 <= at_stop[-1] < LAST_STEP - 4
    assert "steps 0 to 12" in stopped[0][1] and "steps 0 to" not in stopped[1][1]  # the first process speaks for all


def test_when_one_dies_the_other_ends_and_says_so(story):
    _, _, at_stop, (other, killed), _ = story
    assert killed[0] == -signal.SIGKILL
    assert other[0] not in (0, None)
    assert "another process of this run has died" in other[2] or "another task died" in other[2], other[2]
    assert f"resumed from step {at_stop[-1]}" in other[1]


def test_the_run_is_that_of_one_process(story, straight):
    workdir, _, at_stop, _, resumed = story
    assert resumed[0] == 0, resumed[2]
    step = int(resumed[1].partition("resumed from step ")[2].split()[0])
    assert at_stop[-1] + 2 <= step < LAST_STEP  # the second pair saved on its way
    lines, expected_lines = scalars(workdir), scalars(straight)
    assert len(lines) == len(expected_lines)
    for line, expected in zip(lines, expected_lines, strict=True):  # every loss and metric of every step
        assert line == pytest.approx(expected, rel=tolerances.LOSS_RELATIVE)
    loaded, other = checkpoint.load_model(workdir), checkpoint.load_model(straight)
    assert (loaded.step, loaded.metrics) == (other.step, other.metrics)


def test_two_processes_evaluate_every_instance_once(arguments, straight, tmp_path):
    for folder, run in (
        (tmp_path / "two", lambda given: two("eval.py", given)),
        (tmp_path / "one", lambda given: finish([start("eval.py", given, devices=2)])),
    ):
        for code, _, err in run([*arguments, f"--checkpoint={straight}", f"--workdir=file://{folder}"]):
            assert code == 0, err
    for name in ("eval.json", "results_synthetic.json"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
    assert (tmp_path / "two" / "predictions_synthetic.jpg").exists()
    assert len(json.loads((tmp_path / "two" / "results_synthetic.json").read_text())) > 4  # more than a batch


@pytest.mark.slow
def test_processes_that_hold_the_same_rows_make_the_same_crops(arguments, straight, tmp_path):
    settings = ["--config.mesh.tensor=2", "--config.train.epochs=1"]  # each process has a half of every layer
    for code, _, err in two("train.py", [*arguments, f"--workdir={tmp_path}", *settings]):
        assert code == 0, err
    first, expected = scalars(tmp_path)[0], scalars(straight)[0]
    assert first["train/loss"] == pytest.approx(expected["train/loss"], rel=tolerances.LOSS_RELATIVE)
    norm = pytest.approx(expected["train/gradient_norm"], rel=tolerances.GRADIENT_NORM_RELATIVE)
    assert first["train/gradient_norm"] == norm


def test_some_of_the_numbers_are_missing(arguments, tmp_path):
    [(code, _, err)] = finish([start("train.py", [*arguments, f"--workdir={tmp_path}", "--num_processes=2"])])
    assert code == 1
    assert "several processes need --coordinator_address, --num_processes, --process_id" in err
