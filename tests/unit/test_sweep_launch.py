"""What a sweep starts and what not, signals, Slurm and xpk; train.py and Slurm's commands are stand-ins here."""

import csv
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from etils import epath

from tests.conftest import ROOT
from vitpose_jax.sweep import __main__ as command
from vitpose_jax.sweep import local, record

# Does what its seed says: 0 to 9 train, 10 raises, 20 trains until it is stopped, 30 is killed.
TRAIN = """
import json, os, pathlib, signal, sys, time
given = dict(argument[2:].split("=", 1) for argument in sys.argv[1:])
folder, seed = pathlib.Path(given["workdir"]), int(given.get("config.seed", 0))
folder.mkdir(parents=True, exist_ok=True)
with (folder / "starts").open("a") as starts:
    print(os.getpid(), file=starts)
stopped = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: stopped.append(number))
with (folder / "metrics.jsonl").open("a") as log:
    for epoch in (1, 2):
        line = {"step": 10 * epoch, "train/epoch": epoch, "eval/synthetic/AP": seed / 10 * epoch}
        print(json.dumps(line), file=log, flush=True)
while seed == 20 and not stopped:
    time.sleep(0.02)
if stopped:
    print("stopped")
    sys.exit(130 if stopped[0] == signal.SIGINT else 0)
if seed == 30:
    os.kill(os.getpid(), signal.SIGKILL)
if seed == 10:
    raise FloatingPointError("the loss is nan")
(folder / "finished.json").write_text(json.dumps({"step": 20, "epochs": 2}))
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a stand-in for train.py; makes a sweep file of some seeds, and gives its arguments."""
    (tmp_path / "train.py").write_text(TRAIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def make(*seeds: int, epochs: int = 2) -> list[str]:
        (tmp_path / "seeds.py").write_text(
            "from vitpose_jax.sweep import Sweep, grid\n"
            f"def get_sweep():\n    return Sweep({str(ROOT / 'configs' / 'quickstart.py')!r}, "
            f"grid({{'seed': {list(seeds)}}}), 'eval/synthetic/AP', fixed={{'train.epochs': {epochs}}})\n"
        )
        return ["seeds.py", "--folder", "runs/seeds"]

    return make


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        command.main(arguments)
    return end.value.code


def starts(seed: int) -> int:
    return len(pathlib.Path(f"runs/seeds/seed={seed}/starts").read_text().splitlines())


def table() -> dict[str, dict[str, str]]:
    with open("runs/seeds/results.csv") as file:
        return {row["trial"]: row for row in csv.DictReader(file)}


def test_the_sweep_runs_to_its_end_and_is_not_run_again(project, capsys):
    arguments = project(3, 10, 30, 4)
    assert call(*arguments) == 0
    said = capsys.readouterr().out
    assert said.count("waiting") == 4
    assert f"python train.py --workdir=runs/seeds/seed=3 --config={ROOT}/configs/quickstart.py " in said
    assert not pathlib.Path("runs/seeds").exists()
    assert call(*arguments, "--launch", "local") == 1
    said = capsys.readouterr().out
    assert "seed=10 failed: FloatingPointError: the loss is nan" in said
    assert "seed=30 failed: killed by SIGKILL" in said
    found = table()
    assert list(found) == ["seed=4", "seed=3", "seed=10", "seed=30"]  # the best one first, unfinished ones last
    assert [row["state"] for row in found.values()] == ["finished", "finished", "failed", "failed"]
    assert float(found["seed=4"]["eval/synthetic/AP"]) == pytest.approx(0.8)
    assert pathlib.Path("runs/seeds/results.png").read_bytes().startswith(b"\x89PNG")
    assert call(*arguments, "--launch", "local") == 1
    assert [starts(seed) for seed in (3, 10, 30, 4)] == [1, 1, 1, 1]
    assert call(*arguments, "--launch", "local", "--retry") == 1
    assert [starts(seed) for seed in (3, 10, 30, 4)] == [1, 2, 2, 1]
    assert call(*project(3, epochs=3), "--launch", "local") == 0  # longer training: not finished any more
    assert starts(3) == 2


def launched(arguments: list[str], *more: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "vitpose_jax.sweep", *arguments, *more], start_new_session=True)


def wait_for(path: str) -> None:
    deadline = time.monotonic() + 120
    while not pathlib.Path(path).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number, code", [
    (signal.SIGINT, 130), pytest.param(signal.SIGTERM, 0, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_signal_stops_the_trial_and_then_the_sweep(project, number, code):
    process = launched(project(1, 20, 2), "--launch", "local")
    wait_for("runs/seeds/seed=20/metrics.jsonl")
    os.killpg(process.pid, number)
    assert process.wait(timeout=180) == code
    assert {name: row["state"] for name, row in table().items()} == {
        "seed=1": "finished", "seed=20": "stopped", "seed=2": "waiting",
    }  # fmt: skip
    assert pathlib.Path("runs/seeds/seed=20/output.txt").read_text().endswith("stopped\n")


def test_a_trial_whose_launcher_died_still_runs_and_is_left_alone(project, capsys):
    arguments = project(20)
    process = launched(arguments, "--launch", "local")
    wait_for("runs/seeds/seed=20/metrics.jsonl")
    process.kill()
    process.wait()
    folder = epath.Path("runs/seeds/seed=20")
    config = {"train": {"epochs": 2}}
    assert record.read(folder, config).state == "running"
    assert call(*arguments, "--trial", "seed=20") == 0
    assert "seed=20 runs already" in capsys.readouterr().out and starts(20) == 1
    os.kill(int((folder / "starts").read_text()), signal.SIGTERM)
    deadline = time.monotonic() + 120
    while record.read(folder, config).state == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert record.read(folder, config).state == "stopped"


def test_one_trial_says_by_its_exit_code_how_it_ended(project):
    for seed, code in ((1, 0), (10, 1), (30, 128 + signal.SIGKILL)):
        assert call(*project(seed), "--trial", f"seed={seed}", "--unrecorded") == code
    process = launched(project(20), "--trial", "seed=20", "--unrecorded")
    wait_for("runs/seeds/seed=20/metrics.jsonl")
    process.terminate()
    assert process.wait(timeout=60) == local.UNFINISHED == 42
    assert not pathlib.Path("runs/seeds/seed=20/output.txt").exists()


def test_a_trial_does_not_go_on_with_other_settings(project, capsys):
    arguments = project(3)
    place = pathlib.Path("runs/seeds/seed=3")
    (place / "checkpoints" / "10").mkdir(parents=True)
    (place / "config.json").write_text('{"schedule": {"learning_rate": 1.0}}')
    assert "seed=3 ran with schedule.learning_rate 1.0, the sweep now says 0.004" in call(
        *arguments, "--launch", "local"
    )
    assert not (place / "starts").exists()
    assert call(*arguments) == 0
    assert "seed=3 ran with" in capsys.readouterr().out


def test_a_closed_terminal_does_not_stop_what_nohup_started():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with local.Signals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_metric_that_nobody_logs_is_said(project, capsys):
    arguments = project(1)
    assert call(*arguments, "--launch", "local") == 0
    file = pathlib.Path("seeds.py")
    file.write_text(file.read_text().replace("synthetic/AP", "coco/AP"))
    capsys.readouterr()
    assert call(*arguments) == 0
    assert "no trial has logged eval/coco/AP yet; logged are eval/synthetic/AP, train/epoch" in capsys.readouterr().out


# Runs every task of the array it is given; srun and scontrol are stand-ins, too.
SBATCH = """#!/bin/bash
echo "$@" > sbatch.said
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
for task in $(seq 0 "$last"); do
    SLURM_ARRAY_JOB_ID=77 SLURM_ARRAY_TASK_ID=$task SLURM_CPUS_PER_TASK=5 bash "$1" >> tasks.said 2>&1
    echo "task $task: $?" >> tasks.said
done
echo "Submitted batch job 77"
"""


def tool(name: str, text: str) -> None:
    pathlib.Path("bin").mkdir(exist_ok=True)
    pathlib.Path("bin", name).write_text(text)
    pathlib.Path("bin", name).chmod(0o755)


def test_slurm_runs_each_trial_as_a_task_and_requeues_what_was_stopped(project, monkeypatch, capsys):
    tool("sbatch", SBATCH)
    # Slurm asks the second trial to save and end, as before a time limit.
    tool("srun", '#!/bin/bash\necho "cpus $SRUN_CPUS_PER_TASK"\nif [[ "$*" == *seed=20* ]]; then "$@" & sleep 1;'
         ' kill -TERM $!; wait $!; else exec "$@"; fi\n')  # fmt: skip
    tool("scontrol", '#!/bin/bash\necho "$@" >> scontrol.said\n')
    monkeypatch.setenv("PATH", f"{pathlib.Path('bin').resolve()}:{os.environ['PATH']}")
    arguments = project(1, 20, 10)
    slurm = ["--launch", "slurm", "--at-once", "2", "--", "--gres=gpu:8", "-t", "12:00:00"]
    assert call(*arguments, *slurm) == 0
    said = capsys.readouterr().out
    assert "Submitted batch job 77" in said
    script = pathlib.Path("runs/seeds/trials.sbatch").read_text()
    assert "#SBATCH --array=0-2%2\n" in script and "#SBATCH --requeue\n" in script
    assert script.index("--signal=TERM@120") < script.index("#SBATCH --gres=gpu:8 -t 12:00:00\n")
    tasks = pathlib.Path("tasks.said").read_text()
    assert re.findall(r"task \d: \d+", tasks) == ["task 0: 0", "task 1: 42", "task 2: 1"], tasks
    assert pathlib.Path("scontrol.said").read_text() == "requeue 77_1\n"
    assert {name: row["state"] for name, row in table().items()} == {
        "seed=1": "finished", "seed=20": "stopped", "seed=10": "failed",
    }  # fmt: skip
    assert "cpus 5" in pathlib.Path("runs/seeds/seed=1/output.txt").read_text()
    assert call(*arguments, *slurm) == 0
    assert "    seed=20\n)" in pathlib.Path("runs/seeds/trials.sbatch").read_text()  # alone: what is left


def test_without_slurm_the_script_is_written_and_said(project, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "trials.sbatch is what would be submitted" in call(*project(1), "--launch", "slurm")
    assert pathlib.Path("runs/seeds/trials.sbatch").exists()


def test_xpk_prints_a_workload_for_each_trial(project, capsys):
    arguments = project(1, 2)
    missing = call(arguments[0], "--launch", "xpk", "--cluster", "c")
    assert "needs --tpu-type or --device-type, --docker-image or --base-docker-image, --folder" in missing
    given = ["--launch", "xpk", "--cluster=c", "--tpu-type=v5litepod-16", "--base-docker-image=i"]
    assert call("seeds.py", "--folder", "/mnt/shared/my seeds", *given, "--", "--max-restarts=50") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[::2] == ["# seed=1", "# seed=2"]
    words = [shlex.split(line) for line in lines[1::2]]
    names = [line[3].removeprefix("--workload=") for line in words]
    assert len(set(names)) == 2
    for name in names:
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) and len(name) <= 40
    assert words[0][:3] == ["xpk", "workload", "create"]
    assert words[0][4:9] == [
        "--cluster=c", "--tpu-type=v5litepod-16", "--base-docker-image=i", "--max-restarts=50", "--command",
    ]  # fmt: skip
    assert shlex.split(words[0][9]) == [
        "exec", "python", "-m", "vitpose_jax.sweep", "seeds.py", "--folder", "/mnt/shared/my seeds", "--trial",
        "seed=1", "--unrecorded",
    ]  # fmt: skip


def test_wrong_calls_are_one_sentence(project, monkeypatch, tmp_path):
    arguments = project(1)
    assert call("nowhere.py").startswith("sweep: no sweep file nowhere.py")
    pathlib.Path("empty.py").write_text("x = 1\n")
    assert "no function get_sweep" in call("empty.py")
    assert "has no trial seed=7; it has seed=1" in call(*arguments, "--trial", "seed=7")
    assert "cannot be appended to" in call("seeds.py", "--folder", "gs://bucket/x", "--launch", "local")
    assert call(*arguments, "--", "--gres=gpu:8") == 2
    assert call(*arguments, "--launch", "slurm", "--at-once", "0") == 2
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "run this in the folder with train.py" in call(*arguments)
