"""The walk-through of docs/datasets.md, shrunk: draw animals, build them, fine-tune a model on them, evaluate it."""

import json
import pathlib
import re

import numpy as np
import pytest

from configs import finetune_custom
from eval import evaluate
from train import complete, train
from vitpose_jax.data import build, datasets
from vitpose_jax.data.synthetic.__main__ import main as draw
from vitpose_jax.training import checkpoint

DOCUMENT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "datasets.md"


@pytest.fixture(scope="module")
def lizards(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("lizards")
    source, out = str(folder / "source"), str(folder / "built")
    draw(["--animal", "--out", source, "--num-train", "24", "--num-val", "6"])
    assert build.main(["custom", "--source", source, "--keypoints", f"{source}/lizard.json", "--out", out]) == 0
    return folder / "built"


@pytest.fixture
def config(lizards, finished_run):
    config = finetune_custom.get_config()
    config.init_from.path = str(finished_run)
    config.datasets.custom.dir = str(lizards)
    config.train.update(batch_size=8, epochs=2, log_every_steps=1, eval_every_epochs=0)
    config.schedule.warmup_steps = 1
    config.eval.batch_size = 8
    return config


def test_fine_tuning_and_evaluating_it(config, finished_run, lizards, tmp_path, capsys):
    metrics = train(config, tmp_path)
    report = capsys.readouterr().out
    assert "0 leaves resized" in report and "    params/decoders/custom/final" in report
    losses = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["train/loss"]) for line in losses if "train/loss" in line)
    assert int(report.split(" leaves restored")[0].split()[-1]) > 10  # the encoder
    assert 0 <= metrics["custom/AP"] <= 1

    before, after = checkpoint.load_model(finished_run), checkpoint.load_model(tmp_path)
    assert after.model.num_keypoints == {"custom": 12}
    how = {"scan_unroll": 1, "remat": "none"}  # is computed is not a part of it
    assert {**after.model.backbone, **how} == {**before.model.backbone, **how}  # the model is the checkpoint's
    assert after.file.datasets["custom"]["keypoint_set"] == "lizard"
    assert after.file.datasets["custom"]["keypoints"]["names"] == list(
        datasets.open_split(lizards, "val").keypoint_set.names
    )
    found = evaluate(config, tmp_path, mean_pose=True)
    assert found["custom"]["AP"] == pytest.approx(metrics["custom/AP"], abs=1e-6)
    assert found["custom (mean pose)"]["AP"] >= 0
    assert (tmp_path / "predictions_custom.jpg").is_file()


def test_what_is_set_wins_over_the_checkpoint(config, finished_run):
    config.model.update(image_size=(96, 64), drop_path=0.1)
    model, theirs = complete(config).model, checkpoint.load_model(finished_run).file.settings
    assert model.image_size == (96, 64) and model.drop_path == 0.1
    for name in ("embed_dim", "depth", "num_heads", "mlp_dim", "ratio", "decoder"):
        assert model[name] == theirs[name], name
    assert model.num_keypoints.to_dict() == {"custom": 12}
    assert config.model.num_keypoints.custom is None  # the given config stays as it is


def test_without_a_built_set_the_builder_is_named(config, tmp_path):
    config.datasets.custom.dir = str(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"vitpose_jax\.data\.build"):
        train(config, tmp_path / "run")


def test_the_document_shows_these_commands():
    commands = re.findall(r"^(?:python .*)$", DOCUMENT.read_text(), re.MULTILINE)
    for expected in (
        "python -m vitpose_jax.data.synthetic --animal", "python -m vitpose_jax.data.build custom",
        "python train.py --config configs/finetune_custom.py", "python eval.py --config configs/finetune_custom.py",
    ):  # fmt: skip
        assert any(command.startswith(expected) for command in commands), expected
