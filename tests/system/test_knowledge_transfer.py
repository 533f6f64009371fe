"""Knowledge transfer, shrunk: a teacher, its token, and students of another width that learn from both."""

import contextlib
import signal

import jax
import numpy as np
import pytest

from configs import distilling
from tests.system.test_training import all_leaves, scalars, stop_at
from train import train
from vitpose_jax import interrupt, trees
from vitpose_jax.inference.estimator import PoseEstimator
from vitpose_jax.training import checkpoint
from vitpose_jax.training.teacher import Teacher

TOKEN = "params/backbone/knowledge/token"


@pytest.fixture(scope="module")
def stage_config(shrunk_config, finished_run, tmp_path_factory):
    """Makes the config of a stage; the teacher is the shared finished run, with a classic decoder added nowhere."""

    def make(stage: str, changes: dict | None = None):
        student = shrunk_config()
        student.model.update(embed_dim=16, num_heads=2, mlp_dim=32, decoder="classic", deconv_filters=8)
        student.train.epochs = 1
        config = distilling.distillation("tiny", stage, teacher=shrunk_config(), student=student)
        if stage == "learn_token":
            config.init_from.path = str(finished_run)
            config.schedule.warmup_steps = 0
            config.train.update(epochs=1, eval_every_epochs=0)
        if config.task == "distill":
            config.teacher.path = str(finished_run)
        config.update_from_flattened_dict(changes or {})
        return config

    return make


@pytest.fixture(scope="module")
def token_run(stage_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("token")
    train(stage_config("learn_token"), workdir)
    return workdir


def test_only_the_token_learns(token_run, finished_run):
    before, after = (trees.flatten(checkpoint.load_model(run).variables) for run in (finished_run, token_run))
    assert set(after) - set(before) == {TOKEN}
    for path, leaf in before.items():
        np.testing.assert_array_equal(after[path], leaf, err_msg=path)
    assert np.abs(after[TOKEN]).max() > 0.03
    print(scalars(token_run))
