"""Knowledge transfer, shrunk: a teacher's token learns, a student of another width learns from both."""

import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import distilling
from tests.conftest import ROOT
from tests.random_models import random_model
from tests.system.test_eight_devices import assert_same, batch_of, model_of, updated, variables_of
from tests.system.test_training import all_leaves, scalars
from train import train
from vitpose_jax import trees
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.training import checkpoint, sharding, tasks
from vitpose_jax.training.model_file import ModelFile
from vitpose_jax.training.teacher import Teacher

TOKEN = "params/backbone/knowledge/token"
DECODER = {"decoder": "classic", "deconv_filters": 8}


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory):
    """A teacher with batch norm and stochastic depth, of random weights."""
    loaded = random_model({"synthetic": "coco"}, udp=True, depth=1, drop_path=0.3, **DECODER)
    file = ModelFile(loaded.file.settings, loaded.file.datasets, {"sigma": 1.5, "blur_kernel": 7}, trained_on=["aic"])
    folder = tmp_path_factory.mktemp("teacher") / "run"
    checkpoint.save_model(folder, loaded.variables, file)
    return folder


@pytest.fixture(scope="module")
def stage_config(shrunk_config, teacher_run):
    def make(stage: str, changes: dict):
        teacher, student = shrunk_config({"model.depth": 1}), shrunk_config()
        teacher.model.update(**DECODER)
        student.model.update(embed_dim=16, num_heads=2, mlp_dim=32)
        config = distilling.distillation("tiny", stage, teacher=teacher, student=student)
        config.datasets.synthetic.eval_split = ""
        config.update_from_flattened_dict({"train.epochs": 1, **changes})
        return config

    return make


@pytest.fixture(scope="module")
def token_run(stage_config, teacher_run, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("token")
    train(stage_config("learn_token", {"init_from.path": str(teacher_run), "schedule.warmup_steps": 0}), workdir)
    return workdir


@pytest.fixture(scope="module")
def both_config(stage_config, teacher_run, token_run, tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    return stage_config("both", {
        "init_from.token": str(token_run), "teacher.path": str(teacher_run), "teacher.cache_dir": cache,
        "teacher.cache_steps": 2,
    })  # fmt: skip


def test_only_the_token_learns(token_run, teacher_run):
    before, after = (trees.flatten(checkpoint.load_model(run).variables) for run in (teacher_run, token_run))
    assert set(after) - set(before) == {TOKEN}
    for path, leaf in before.items():  # running statistics, too
        np.testing.assert_array_equal(after[path], leaf, err_msg=path)
    moments = {path: leaf for path, leaf in all_leaves(token_run).items() if "/mu/" in path or "/nu/" in path}
    assert len(moments) == 2 and all(path.endswith("knowledge/token") for path in moments)
    assert all(leaf.all() for leaf in moments.values())


def test_the_token_stage_trains_nothing_else(stage_config, teacher_run, tmp_path):
    with pytest.raises(ValueError, match="trains the knowledge token and nothing else"):
        train(
            stage_config("learn_token", {"init_from.path": str(teacher_run), "optimizer.freeze": ("mhsa",)}), tmp_path
        )


def test_a_student_learns_from_both_and_resumes_bit_for_bit(both_config, token_run, tmp_path, capsys):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    both_config.train.update(save_every_steps=1, keep_last=3)
    train(both_config, straight)
    shutil.copytree(straight, resumed)
    for later in ("2", "3"):
        shutil.rmtree(resumed / "checkpoints" / later)
    train(both_config, resumed)
    assert f"resumed from step 1 in {resumed}" in capsys.readouterr().out
    ours, theirs = all_leaves(resumed), all_leaves(straight)
    assert ours.keys() == theirs.keys()
    for path, leaf in theirs.items():
        np.testing.assert_array_equal(ours[path], leaf, err_msg=path)
    student = checkpoint.load_model(straight)
    np.testing.assert_array_equal(
        trees.flatten(student.variables)[TOKEN], trees.flatten(checkpoint.load_model(token_run).variables)[TOKEN]
    )
    assert student.file.settings["token_dim"] == 32 and student.model.backbone["embed_dim"] == 16
    assert student.file.trained_on == ["aic", "coco"]  # what the teacher has seen counts
    metrics = scalars(straight)[0]
    assert metrics["train/loss"] == pytest.approx(metrics["train/truth_loss"] + metrics["train/teacher_loss"], rel=1e-5)


def distilled(mesh: jax.sharding.Mesh, folder: str) -> tuple:
    """One update of a student with a token, and with a teacher of its own sizes."""
    student = model_of("dense", token_dim=32)
    file = checkpoint.load_model_file(folder)
    teacher = Teacher(folder, student=student, student_file=file, datasets=("coco",), mesh=mesh)
    loss = tasks.distillation_loss(student, udp={"coco": True}, sigma=2.0)
    return updated(student, mesh, loss=loss, batch=teacher(0, batch_of(student)))


def compare_distillation(folder: str) -> None:
    """What the subprocess below runs, on eight devices."""
    one = distilled(sharding.make_mesh(data=1, devices=jax.devices()[:1]), folder)
    assert_same(distilled(sharding.make_mesh(data=2, fsdp=2, tensor=2), folder), one)


@pytest.mark.slow
def test_eight_devices_learn_what_one_does(tmp_path):
    settings = {
        "num_keypoints": {"coco": 5}, "decoder": "simple", "embed_dim": 32, "depth": 1, "num_heads": 4, "mlp_dim": 64,
        "image_size": (64, 48),
    }  # fmt: skip
    points = {"names": list("abcde"), "swap": [], "skeleton": [], "sigmas": [0.1] * 5}
    datasets = {"coco": {"keypoint_set": "five", "keypoints": points, "udp": True}}
    file = ModelFile(settings, datasets, {"sigma": 2.0, "blur_kernel": 11})
    folder = str(tmp_path / "teacher")
    checkpoint.save_model(folder, variables_of(vitpose(**settings)), file)
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    command = f"from tests.system import test_knowledge_transfer as t; t.compare_distillation({folder!r})"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
