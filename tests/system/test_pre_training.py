"""Masked-autoencoder pre-training, shrunk: loss falls, resuming is exact, ViTPose starts from it."""

import json
import shutil

import numpy as np
import pytest

from configs import mae_b
from tests.system.test_training import all_leaves, scalars
from train import train
from vitpose_jax.models.mae import MAE
from vitpose_jax.training import checkpoint


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
    train(mae_config(), tmp_path)
    straight, resumed = all_leaves(pre_trained), all_leaves(tmp_path)
    assert straight.keys() == resumed.keys()
    for path, leaf in straight.items():
        np.testing.assert_array_equal(leaf, resumed[path], err_msg=path)
    losses = [[line["train/loss"] for line in scalars(run) if "train/loss" in line] for run in (pre_trained, tmp_path)]
    assert losses[0][10:] == losses[1]


def test_whole_images_and_fine_tuning_from_it(mae_config, shrunk_config, pre_trained, tmp_path, capsys):
    changes = {"init_from.path": str(pre_trained), "train.epochs": 2}
    changes |= {"datasets.coco.views": "images", "datasets.coco.eval_split": "", "model.mask_ratio": 0.5}
    train(mae_config(changes), tmp_path / "images")
    assert "init_from: 0 leaves fresh" in capsys.readouterr().out
    fine_tuning = {
        "init_from.path": str(tmp_path / "images"), "init_from.fresh": ("backbone/last_norm/.*", "decoders/.*"),
        "model.image_size": (96, 64), "train.epochs": 1, "datasets.synthetic.eval_split": "",
    }  # fmt: skip
    train(shrunk_config(fine_tuning), tmp_path / "fine")
    said = capsys.readouterr().out
    assert "init_from: 1 leaves resized" in said and "params/backbone/cls_token" in said
    assert checkpoint.load_model_file(tmp_path / "fine").trained_on == ["coco"]


def test_an_unknown_task_is_refused(mae_config, tmp_path):
    with pytest.raises(ValueError, match=r"config.task must be one of \['distill', .*\], not 'jigsaw'"):
        train(mae_config({"task": "jigsaw"}), tmp_path)
