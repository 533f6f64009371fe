"""Converted checkpoints are taken by path alone: evaluated, fine-tuned, and started from after pre-training."""

import json

import pytest
import torch

import eval as eval_script
from configs import common
from tests import torch_files
from train import train
from vitpose_jax.convert import layouts
from vitpose_jax.convert.command import main
from vitpose_jax.training import checkpoint


@pytest.fixture
def config(drawn):
    config = common.get_config()
    config.name = "converted"
    config.datasets.coco.dir = str(drawn)
    config.model.update(
        embed_dim=32, depth=2, num_heads=4, mlp_dim=128, image_size=(64, 48), deconv_filters=16, dtype="float32"
    )
    config.train.update(batch_size=8, epochs=1, log_every_steps=1, eval_every_epochs=0)
    config.schedule.update(warmup_steps=1)
    config.eval.update(batch_size=8, boxes="annotations")
    return config


def convert(state, folder, *extra):
    path = torch_files.save(folder / "vitpose-b.pth", state)
    assert main(["--input", str(path), "--output", str(folder / "converted"), *torch_files.SAID, *extra]) == 0
    return folder / "converted"


def test_evaluated_by_its_path(config, tmp_path):
    found = eval_script.evaluate(config, convert(torch_files.official(), tmp_path), tmp_path / "evaluation")
    assert 0 <= found["coco"]["AP"] <= 1
    assert json.loads((tmp_path / "evaluation/eval.json").read_text())


def test_fine_tuned(config, tmp_path, capsys):
    config.init_from.path = str(convert(torch_files.official(), tmp_path))
    train(config, tmp_path / "run")
    assert "leaves restored" in capsys.readouterr().out
    assert checkpoint.load_model(tmp_path / "run").step > 0


def test_started_from_a_pre_trained_encoder(config, tmp_path, capsys):
    state = torch_files.in_layout(torch_files.official(), layouts.MAE)
    state["pos_embed"] = torch.randn(1, 1 + 16, 32)  # 4x4 patches, as of square pictures
    config.init_from.path = str(convert(state, tmp_path))
    with pytest.raises(ValueError, match="decoders/coco"):
        train(config, tmp_path / "run")  # what starts fresh must be said
    config.init_from.fresh = ("backbone/last_norm/.*", "decoders/.*")
    train(config, tmp_path / "run")
    assert "1 leaves resized" in capsys.readouterr().out
