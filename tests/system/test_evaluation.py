"""eval.py on a finished run, and the two scripts as a user starts them."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

import eval as eval_script
from tests.conftest import ROOT
from vitpose_jax.training import checkpoint


def test_eval_gives_what_training_saw_and_writes_its_files(shrunk_config, finished_run, tmp_path):
    found = eval_script.evaluate(shrunk_config(), str(finished_run), str(tmp_path), mean_pose=True, truncate=True)
    saved = checkpoint.load_model(finished_run).metrics
    for metric, value in found["synthetic"].items():
        assert saved[f"synthetic/{metric}"] == pytest.approx(value, abs=1e-9)
    rows = json.loads((tmp_path / "eval.json").read_text())
    parts = {f"synthetic ({part} 50 %)" for part in ("upper", "lower", "left", "right", "random")}
    assert {row["dataset"] for row in rows} == {"synthetic", "synthetic (mean pose)"} | parts
    assert {"dataset", "metric", "value"} == set(rows[0])
    results = json.loads((tmp_path / "results_synthetic.json").read_text())
    assert len(results[0]["keypoints"]) == 51
    assert (tmp_path / "predictions_synthetic.jpg").stat().st_size > 1000


def test_every_box_counts_once_whatever_the_batch_size(shrunk_config, finished_run, tmp_path):
    results = []
    for size in (4, 64):
        config = shrunk_config({"eval.batch_size": size, "eval.suppression": "none"})
        eval_script.evaluate(config, str(finished_run), str(tmp_path / str(size)))
        results.append(json.loads((tmp_path / str(size) / "results_synthetic.json").read_text()))
    assert len(results[0]) == len(results[1])
    # Scores only: maps of a model that was hardly trained are so flat that their DARK step is ill-conditioned.
    scores = [np.array([entry["keypoints"][2::3] for entry in found]) for found in results]
    np.testing.assert_allclose(*scores, atol=1e-5)


def test_detector_boxes(shrunk_config, finished_run, tmp_path):
    config = shrunk_config({"eval.boxes": "detections"})
    assert "AP" in eval_script.evaluate(config, str(finished_run), str(tmp_path))["synthetic"]


def test_published_numbers_stand_beside_the_measured_ones(shrunk_config, finished_run, tmp_path, monkeypatch, capsys):
    loaded = checkpoint.load_model(finished_run)
    provenance = {"source": "vitpose-b.pth", "recognized_as": "vitpose-b", "size": "b", "decoder": "classic"}
    converted = dataclasses.replace(loaded, file=dataclasses.replace(loaded.file, provenance=provenance))
    monkeypatch.setattr(checkpoint, "load_model", lambda path: converted)
    eval_script.evaluate(shrunk_config(), str(finished_run), str(tmp_path))
    printed = capsys.readouterr().out
    (row,) = [line.split() for line in printed.splitlines() if line.split()[1:2] == ["AP"]]
    assert row[0] == "synthetic"
    assert row[3] == "0.758"
    assert "published for ViTPose-B (ViTPose README) on val, 5000 images" in printed
    assert "6 images instead of 5000; crops of 64x48 instead of 256x192; boxes annotations" in printed

    monkeypatch.setattr(checkpoint, "load_model", lambda path: loaded)
    eval_script.evaluate(shrunk_config(), str(finished_run), str(tmp_path))
    assert "published for" not in capsys.readouterr().out


def test_a_model_without_the_decoder_is_refused(shrunk_config, finished_run, tmp_path):
    config = shrunk_config()
    with config.unlocked():
        config.datasets.other = config.datasets.synthetic
        del config.datasets.synthetic
    with pytest.raises(ValueError, match="no decoder for 'other'"):
        eval_script.evaluate(config, str(finished_run), str(tmp_path))


def script(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("arguments, expected", [
    (("train.py", "--config", "configs/quickstart.py", "--config.model.drop_pth=0.1"), "drop_path"),
    (("train.py", "--config", "configs/quickstart.py", "--config.train.batch_size=many"), "batch_size"),
    (("train.py", "--config", "configs/quickstart.py", "--config.augment.foo=1"), "foo"),
    (("train.py", "--config", "configs/quickstart.py", "--config.train.batch_size=0"), "config.train.batch_size"),
    (("train.py", "--config", "configs/nowhere.py"), "nowhere.py"),
    (("train.py", "--config", "configs/quickstart.py", "--config.datasets.synthetic.dir=nowhere"), "data.build"),
    (("eval.py", "--config", "configs/quickstart.py", "--checkpoint", "nowhere"), "nowhere does not exist"),
    (("eval.py", "--config", "configs/evaluate.py:cocoo", "--checkpoint", "nowhere"), "protocol for cocoo"),
], ids=[
    "near key", "wrong type", "far-off key", "out of range", "no config", "no data", "no checkpoint", "no protocol",
])  # fmt: skip
def test_the_scripts_refuse_what_they_do_not_know(arguments, expected):
    done = script(*arguments)
    assert done.returncode != 0
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
