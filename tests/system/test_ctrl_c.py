"""Ctrl-C as a terminal sends it: to the whole process group, worker processes included; a trace of steps before it.

Tracing stands here because this run is a process of its own: where the tests of plans have loaded libtpu, the profiler
crashes the process.
"""

import os
import signal
import subprocess
import sys
import time

from tests.conftest import ROOT
from vitpose_jax.training import checkpoint

SETTINGS = (
    "--config.model.embed_dim=32", "--config.model.depth=1", "--config.model.mlp_dim=32",
    "--config.model.decoder=simple", "--config.model.image_size=(64,48)", "--config.train.batch_size=8",
    "--config.train.epochs=100000", "--config.train.log_every_steps=1", "--config.input.num_workers=1",
)  # fmt: skip


def test_the_run_is_saved_and_says_so(drawn, tmp_path):
    command = [sys.executable, "train.py", "--config", "configs/quickstart.py", "--workdir", str(tmp_path / "run")]
    command += [f"--config.datasets.synthetic.dir={drawn}", "--profile=1,2", *SETTINGS]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
        deadline = time.monotonic() + 180
        while not list((tmp_path / "run" / "profile").rglob("*.xplane.pb")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        exit_code = process.wait(timeout=180)
    text = (tmp_path / "output").read_text()
    assert exit_code == 130, text
    assert "Traceback" not in text
    assert f"profile of steps 1 to 2: {tmp_path / 'run' / 'profile'}" in text
    assert checkpoint.load_model(tmp_path / "run").step >= 3
