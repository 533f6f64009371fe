"""The loop on a shrunk shipped config: stop and resume, broken runs, starting from other weights."""

import itertools
import json
import os
import signal

import jax
import numpy as np
import pytest

import train as train_script
from train import train
from vitpose_jax import interrupt, trees
from vitpose_jax.data import pipeline
from vitpose_jax.evaluation.predict import Evaluator
from vitpose_jax.training import checkpoint, transfer


def scalars(workdir) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def all_leaves(workdir) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint, optimizer state included."""
    import orbax.checkpoint as ocp

    steps = sorted(int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit())
    return {
        path: np.asarray(leaf)
        for path, leaf in trees.flatten(
            ocp.StandardCheckpointer().restore(workdir / "checkpoints" / str(steps[-1]) / "state")
        ).items()
    }


def test_a_run_leaves_what_it_promises(finished_run):
    lines = scalars(finished_run)
    steps = [line["step"] for line in lines if "train/loss" in line]
    assert steps == list(range(1, steps[-1] + 1))
    assert lines[-1].keys() >= {"eval/synthetic/AP", "eval/synthetic/AR"}
    assert {"train/images_per_second", "train/input_wait_fraction", "train/learning_rate"} <= lines[0].keys()
    assert list((finished_run / "tensorboard").glob("events*"))
    assert list((finished_run / "samples").glob("synthetic_*.jpg"))
    assert json.loads((finished_run / "config.json").read_text())["model"]["embed_dim"] == 32


def stop_at(monkeypatch, step, number=signal.SIGTERM):
    take, steps = train_script.Monitor.next_batch, itertools.count()

    def next_batch(self, stream):
        if next(steps) == step:
            os.kill(os.getpid(), number)
        return take(self, stream)

    monkeypatch.setattr(train_script.Monitor, "next_batch", next_batch)


@pytest.mark.parametrize("number, exit_code", [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_stop_and_resume_is_bit_exact(shrunk_config, finished_run, tmp_path, monkeypatch, number, exit_code):
    with monkeypatch.context() as patch:
        stop_at(patch, 2, number)
        with pytest.raises(interrupt.Stopped) as stopped:
            train(shrunk_config(), tmp_path)
    assert stopped.value.exit_code == exit_code
    assert [line["step"] for line in scalars(tmp_path)] == [1, 2, 3]
    (tmp_path / "metrics.jsonl").open("a").write('{"step": 4, "train/loss": 0}\n{"cut off')  # a harder stop, later
    train(shrunk_config(), tmp_path)

    straight, resumed = all_leaves(finished_run), all_leaves(tmp_path)
    assert straight.keys() == resumed.keys()
    for path, leaf in straight.items():
        np.testing.assert_array_equal(leaf, resumed[path], err_msg=path)
    losses = [[line["train/loss"] for line in scalars(run) if "train/loss" in line] for run in (finished_run, tmp_path)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("end", ["signal", "failure"])
def test_an_evaluation_that_was_cut_off_is_made_up_for(shrunk_config, finished_run, tmp_path, monkeypatch, end):
    with monkeypatch.context() as patch:
        predict = Evaluator._run

        def cut_off(self, *arguments, **options):
            if end == "failure":
                raise OSError("a disk is gone")
            os.kill(os.getpid(), signal.SIGTERM)
            return predict(self, *arguments, **options)

        patch.setattr(Evaluator, "_run", cut_off)
        with pytest.raises(interrupt.Stopped if end == "signal" else OSError):
            train(shrunk_config(), tmp_path)
    assert not [line for line in scalars(tmp_path) if "eval/synthetic/AP" in line]
    assert train(shrunk_config(), tmp_path) == checkpoint.load_model(finished_run).metrics
    assert checkpoint.load_model(tmp_path).metrics == checkpoint.load_model(finished_run).metrics
    assert [line["step"] for line in scalars(tmp_path)] == [1, 2, 3, 4, 5, 6, 6]


def test_steps_that_cannot_be_traced_are_refused(shrunk_config, tmp_path):
    with pytest.raises(ValueError, match="from 0 to 2, counted from where this call starts, not"):
        train(shrunk_config({"train.epochs": 1}), tmp_path, profile=(1, 3))


def test_a_finished_run_does_nothing_more(shrunk_config, finished_run, capsys):
    before = sorted((finished_run / "checkpoints").iterdir())
    train(shrunk_config(), finished_run)
    assert sorted((finished_run / "checkpoints").iterdir()) == before
    assert "resumed from step" in capsys.readouterr().out


def test_a_loss_that_is_not_finite_stops_before_anything_is_saved(shrunk_config, tmp_path):
    with pytest.raises(FloatingPointError, match=r"step \d+: loss .*no checkpoint was saved yet"):
        train(shrunk_config({"schedule.learning_rate": 1e30, "optimizer.clip_norm": 1e30}), tmp_path)
    assert not [p for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()]


def test_a_batch_without_labelled_keypoints_is_refused(shrunk_config, tmp_path, monkeypatch):
    make = pipeline.train_stream

    class Unlabelled:
        def __init__(self, stream):
            self.stream, self.close = stream, stream.close

        def __next__(self):
            batch = dict(next(self.stream))
            batch["keypoints"] = batch["keypoints"] * [1, 1, 0]
            return batch

    monkeypatch.setattr(pipeline, "train_stream", lambda *a, **k: Unlabelled(make(*a, **k)))
    with pytest.raises(ValueError, match="step 0 has no labelled keypoint"):
        train(shrunk_config(), tmp_path)


def test_another_model_in_the_same_folder_is_refused(shrunk_config, finished_run):
    with pytest.raises(ValueError, match="use another --workdir") as error:
        train(shrunk_config({"model.mlp_dim": 128}), finished_run)
    assert "params/backbone/blocks/mlp/fc1/kernel: (2, 32, 64) in the checkpoint, (2, 32, 128)" in str(error.value)
    with pytest.raises(ValueError, match="fits in its shapes, but means something else") as error:
        train(shrunk_config({"model.layer_norm_eps": 1e-5, "codec.sigma": 3.0, "model.drop_path": 0.1}), finished_run)
    assert "config.codec.sigma: 1.5 in the checkpoint, 3.0 in this run" in str(error.value)
    assert "config.model.layer_norm_eps: 1e-06 in the checkpoint, 1e-05 in this run" in str(error.value)
    assert "drop_path" not in str(error.value)


class TestInitFrom:
    def variables(self, config, finished_run, **options):
        from vitpose_jax.models.vitpose import vitpose

        model = vitpose(**config.model.to_dict())
        return transfer.init_from(str(finished_run), model, key=jax.random.key(0), **options)

    def test_everything_is_restored(self, shrunk_config, finished_run):
        variables, report = self.variables(shrunk_config(), finished_run)
        loaded = checkpoint.load_model(finished_run).variables
        jax.tree.map(np.testing.assert_array_equal, variables, loaded)
        assert report["restored"] and not (report["resized"] or report["fresh"] or report["unused"])

    def test_another_resolution_resizes_the_position_embedding(self, shrunk_config, finished_run):
        _, report = self.variables(shrunk_config({"model.image_size": (128, 96)}), finished_run)
        assert report["resized"] == ["params/backbone/pos_embed"]

    def test_what_shall_be_fresh_must_be_declared(self, shrunk_config, finished_run):
        config = shrunk_config({"model.decoder": "classic"})
        with pytest.raises(ValueError, match=r"decoders/synthetic/deconv0/kernel.*has nothing"):
            self.variables(config, finished_run)
        _, report = self.variables(config, finished_run, fresh=("decoders/.*",))
        assert any("deconv0" in path for path in report["fresh"])
        assert report["unused"] == []

    def test_nothing_matched(self, shrunk_config, finished_run):
        with pytest.raises(ValueError, match="nothing matched"):
            self.variables(
                shrunk_config({"model.embed_dim": 64, "model.mlp_dim": 128}), finished_run, fresh=("decoders/.*bias",)
            )

    def test_a_pattern_without_a_parameter(self, shrunk_config, finished_run):
        with pytest.raises(ValueError, match=r"'heads/\.\*' matches no parameter"):
            self.variables(shrunk_config(), finished_run, fresh=("heads/.*",))

    def test_no_checkpoint_there(self, shrunk_config, tmp_path):
        with pytest.raises(ValueError, match="no checkpoint"):
            self.variables(shrunk_config(), tmp_path)

    def test_training_starts_from_it(self, shrunk_config, finished_run, tmp_path, capsys):
        train(shrunk_config({"init_from.path": str(finished_run), "train.epochs": 1}), tmp_path)
        assert "leaves restored" in capsys.readouterr().out
