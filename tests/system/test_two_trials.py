"""Two trials through the real train.py: one trains to its end, one fails and does not stop the other."""

import csv
import subprocess
import sys

import pytest

from tests.conftest import ROOT

SWEEP = """
from vitpose_jax.sweep import Sweep

def get_sweep():
    return Sweep(
        config="configs/quickstart.py",
        trials=[{{"schedule.learning_rate": 1e-3, "model.drop_path": 1.5}}, {{"schedule.learning_rate": 2e-3}}],
        fixed={{
            "datasets.synthetic.dir": {built!r}, "model.embed_dim": 32, "model.depth": 1, "model.mlp_dim": 32,
            "model.decoder": "simple", "model.image_size": (64, 48), "train.batch_size": 8, "train.epochs": 1,
            "train.log_every_steps": 1, "schedule.warmup_steps": 1, "eval.flip_test": False,
        }},
        metric="eval/synthetic/AP",
    )
"""


@pytest.mark.slow  # the default tests launch a stand-in for train.py
def test_a_sweep_of_two_trials(drawn, tmp_path):
    (tmp_path / "two.py").write_text(SWEEP.format(built=str(drawn)))
    command = [sys.executable, "-m", "vitpose_jax.sweep", str(tmp_path / "two.py"), "--folder", str(tmp_path / "two")]
    done = subprocess.run([*command, "--launch", "local"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    with (tmp_path / "two" / "results.csv").open() as file:
        good, bad = csv.DictReader(file)
    assert (good["state"], good["model.drop_path"]) == ("finished", "0.0")  # the config's own value
    assert float(good["eval/synthetic/AP"]) >= 0
    assert bad["state"] == "failed" and bad["error"].startswith("train.py: ") and "drop_path" in bad["error"]
    output = (tmp_path / "two" / bad["trial"] / "output.txt").read_text()
    assert bad["error"] in output
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert bad["error"] in again and "python train.py" not in again  # nothing is left to start
