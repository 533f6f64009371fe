"""Masked-autoencoder pre-training, shrunk: loss falls, resuming is exact, ViTPose starts from it."""

import contextlib
import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import mae_b
from configs.tasks import make_model, make_task
from tests.conftest import ROOT
from tests.system.test_eight_devices import assert_same, updated
from tests.system.test_training import all_leaves, scalars
from train import complete, initial_variables, train
from vitpose_jax.models.mae import MAE, mae
from vitpose_jax.training import checkpoint, sharding, tasks


@pytest.fixture(scope="module")
def mae_config(drawn):
    """Makes configs/mae_b.py of people's crops, shrunk to a tiny model and a few steps, with the given changes."""

    def make(changes: dict | None = None):
        config = mae_b.get_config("coco")
        config.name = "shrunk_mae"
        config.datasets.coco.dir = str(drawn)
        config.model.size = None
        config.model.update(
            embed_dim=32, depth=2, num_heads=4, mlp_dim=64, image_size=(64, 48), decoder_embed_dim=16, decoder_depth=1,
            decoder_num_heads=2, dtype="float32",
        )  # fmt: skip
        config.schedule.update(learning_rate=3e-3, warmup_epochs=1.0)
        config.train.update(
            batch_size=8, epochs=8, log_every_steps=1, eval_every_epochs=4, save_every_steps=5, keep_last=10
        )
        config.eval.update(batch_size=4)
        config.update_from_flattened_dict(changes or {})
        return config

    return make


@pytest.fixture(scope="module")
def pre_trained(mae_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("pre_trained")
    train(mae_config(), workdir)
    return workdir


def test_the_loss_falls_and_reconstructions_are_drawn(pre_trained):
    lines = scalars(pre_trained)
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.05
    assert lines[0]["train/learning_rate"] == 0.0  # the warm-up begins at 0
    held_out = [line["eval/coco/loss"] for line in lines if "eval/coco/loss" in line]
    assert len(held_out) == 2 and held_out[1] < held_out[0]
    assert len(list((pre_trained / "samples").glob("coco_*.jpg"))) == 2


def test_the_checkpoint_is_a_masked_autoencoder(pre_trained):
    loaded = checkpoint.load_model(pre_trained)
    assert isinstance(loaded.model, MAE) and loaded.file.trained_on == ["coco"]
    assert json.loads((pre_trained / "config.json").read_text())["task"] == "mae"


def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(mae_config, pre_trained, tmp_path):
    saved = sorted(int(step.name) for step in (pre_trained / "checkpoints").iterdir())
    assert saved == [5, 10, 12, 15, 20, 24]
    for step in (5, 10):
        shutil.copytree(pre_trained / f"checkpoints/{step}", tmp_path / f"checkpoints/{step}")
    train(mae_config({"datasets.coco.eval_split": ""}), tmp_path)
    straight, resumed = all_leaves(pre_trained), all_leaves(tmp_path)
    assert straight.keys() == resumed.keys()
    for path, leaf in straight.items():
        np.testing.assert_array_equal(leaf, resumed[path], err_msg=path)
    losses = [[line["train/loss"] for line in scalars(run) if "train/loss" in line] for run in (pre_trained, tmp_path)]
    assert losses[0][10:] == losses[1]


def test_whole_images(mae_config):
    config = complete(mae_config({"datasets.coco.views": "images", "datasets.coco.eval_split": ""}))
    task = make_task(config, make_model(config), sharding.make_mesh(data=1, devices=jax.devices()[:1]))
    assert len(task.sources["coco"].split) == 16 and not task.evaluators
    with contextlib.closing(task.make_stream(crop_size=(64, 48), batch_size=2, seed=0)) as stream:
        assert next(stream)["image"].shape == (2, 64, 48, 3)


def test_a_pose_run_starts_from_it(shrunk_config, pre_trained, capsys):
    fresh = ("backbone/last_norm/.*", "decoders/.*")
    changes = {"init_from.path": str(pre_trained), "init_from.fresh": fresh, "model.image_size": (96, 64)}
    config = complete(shrunk_config(changes))
    model = make_model(config)
    initial_variables(config, model, jax.random.key(0))
    said = capsys.readouterr().out
    assert "init_from: 1 leaves resized" in said and "params/backbone/cls_token" in said
    task = make_task(config, model, sharding.make_mesh(data=1, devices=jax.devices()[:1]))
    assert task.model_file.trained_on == ["coco"]


def compare_meshes() -> None:
    """What the subprocess below runs, on eight devices."""
    model = mae(
        embed_dim=64, depth=2, num_heads=8, mlp_dim=128, image_size=(64, 48), decoder_embed_dim=32, decoder_depth=2,
        decoder_num_heads=8,
    )  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (16, 64, 48, 3), dtype=np.uint8)

    def on(mesh):
        batch = sharding.global_batch({"image": images}, mesh)
        fixed = (".*/pos_embed",)  # without gradient anyway
        return updated(model, mesh, loss=tasks.mae_loss(model), batch=batch, freeze=fixed)

    one = on(sharding.make_mesh(data=1, devices=jax.devices()[:1]))
    for data, fsdp, tensor in ((1, 8, 1), (2, 2, 2)):
        print(data, fsdp, tensor, flush=True)
        found = on(sharding.make_mesh(data=data, fsdp=fsdp, tensor=tensor))
        assert_same(found, one)
        kernel = found[0].opt_state["mae_decoder"]["blocks"]["mlp"]["fc1"]["kernel"]  # [layers, D, F]
        assert kernel.sharding.shard_shape(kernel.shape) == (2, 32 // fsdp, 128 // tensor)


@pytest.mark.slow
def test_eight_devices_do_the_update_of_one():
    done = subprocess.run(
        [sys.executable, "-c", "from tests.system.test_pre_training import compare_meshes; compare_meshes()"],
        cwd=ROOT, env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}{done.stderr[-4000:]}"


def test_an_unknown_task_is_refused(mae_config, tmp_path):
    with pytest.raises(ValueError, match=r"config.task must be one of .*'mae', 'pose'.*, not 'jigsaw'"):
        train(mae_config({"task": "jigsaw"}), tmp_path)
