"""Two drawn data sets in one run, with and without experts: loss falls, resuming is exact, one eval run does all."""

import json
import signal

import jax
import ml_collections
import numpy as np
import pytest

import eval as eval_script
import train as train_script
from configs import common
from configs.tasks import pose_sources
from tests.system.test_training import all_leaves, scalars, stop_at
from train import train
from vitpose_jax import interrupt
from vitpose_jax.data import build
from vitpose_jax.data.synthetic import write_synthetic
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.training import checkpoint, state

NAMES = ("people", "more_people")  # not in the order of the alphabet


@pytest.fixture(scope="module")
def several_config(shrunk_config, drawn, tmp_path_factory):
    """Makes the shrunk config with a second data set; with `experts`, a small ViTPose++."""
    folder = tmp_path_factory.mktemp("more_drawn")
    write_synthetic(folder / "source", num_train=8, num_val=4, seed=7, num_workers=0, progress=False)
    build.build("coco", folder / "source", folder / "built")

    def make(experts: bool, changes: dict | None = None) -> ml_collections.ConfigDict:
        config = shrunk_config()
        with config.unlocked():
            config.datasets = ml_collections.ConfigDict(
                {"people": common.dataset(str(drawn)), "more_people": common.dataset(str(folder / "built"))}
            )
            config.model.num_keypoints = ml_collections.ConfigDict(dict.fromkeys(NAMES, 17))
        config.dataset_order = NAMES
        if experts:
            config.model.update(experts=NAMES, part_features=8)
        config.model.update(decoder="classic", deconv_filters=16, scan_unroll=1)
        config.train.epochs = 3
        config.update_from_flattened_dict(
            {"datasets.more_people.augment.rotation_prob": 0.0, "datasets.people.eval.flip_test": False}
        )
        config.update_from_flattened_dict(changes or {})
        return config

    return make


@pytest.fixture(scope="module", params=[pytest.param(False, marks=pytest.mark.slow), True], ids=["multi", "plus"])
def run(request, several_config, tmp_path_factory):
    """(config maker, folder of a run that went through without a stop)."""
    workdir = tmp_path_factory.mktemp("several")

    def make(changes: dict | None = None):
        return several_config(request.param, changes)

    train(make(), workdir)
    return make, workdir


def test_each_data_set_has_its_own_numbers_and_the_loss_falls(run):
    _, workdir = run
    lines = [line for line in scalars(workdir) if "train/loss" in line]
    for line in lines:
        assert sum(line[f"train/loss/{name}"] for name in NAMES) == pytest.approx(line["train/loss"], rel=1e-5)
        assert all(0 <= line[f"train/accuracy/{name}"] <= 1 for name in NAMES)
    assert len(lines) >= 6
    losses = [line["train/loss"] for line in lines]
    assert np.mean(losses[-2:]) < np.mean(losses[:2])
    assert {f"eval/{name}/AP" for name in NAMES} <= scalars(workdir)[-1].keys()
    loaded = checkpoint.load_model(workdir)
    assert list(loaded.model.experts) in ([], list(NAMES))
    assert (loaded.file.datasets.keys(), loaded.file.trained_on) == (set(NAMES), ["coco"])


def test_stop_and_resume_is_bit_exact(run, tmp_path, monkeypatch):
    make, workdir = run
    with monkeypatch.context() as patch:
        stop_at(patch, 2, signal.SIGTERM)
        with pytest.raises(interrupt.Stopped):
            train(make(), tmp_path)
    train(make(), tmp_path)
    straight, resumed = all_leaves(workdir), all_leaves(tmp_path)
    assert straight.keys() == resumed.keys()
    for path, leaf in straight.items():
        np.testing.assert_array_equal(leaf, resumed[path], err_msg=path)


def test_one_eval_run_evaluates_all_in_their_order(run, tmp_path, capsys):
    make, workdir = run
    found = eval_script.evaluate(make(), str(workdir), str(tmp_path))
    assert tuple(found) == NAMES
    saved = checkpoint.load_model(workdir).metrics
    assert saved == pytest.approx(
        {f"{name}/{metric}": value for name, values in found.items() for metric, value in values.items()}, abs=1e-9
    )
    rows = json.loads((tmp_path / "eval.json").read_text())
    assert {row["dataset"] for row in rows} == set(NAMES)
    assert all((tmp_path / f"results_{name}.json").is_file() for name in NAMES)
    printed = capsys.readouterr().out
    assert printed.count("data set") == 1 and all(name in printed for name in NAMES)


def test_a_plain_run_s_weights_become_experts(several_config, finished_run, capsys):
    config = several_config(True, {"init_from.path": str(finished_run), "init_from.fresh": ("decoders/.*",)})
    model = vitpose(**config.model.to_dict())
    variables = train_script.initial_variables(config, model, jax.random.key(0))
    assert "4 leaves expanded" in capsys.readouterr().out
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, state.variable_shapes(model))
    mlp = variables["params"]["backbone"]["blocks"]["mlp"]
    whole = checkpoint.load_model(finished_run).variables["params"]["backbone"]["blocks"]["mlp"]["fc2"]
    for leaf in ("kernel", "bias"):
        for expert in range(len(NAMES)):
            joined = np.concatenate([mlp["fc2"][leaf], mlp["experts"][leaf][:, expert]], axis=-1)
            np.testing.assert_array_equal(joined, whole[leaf])


def test_a_data_set_s_own_settings_go_before_the_shared_ones(several_config):
    config = several_config(False, {"augment.rotation_prob": 0.5})
    model = vitpose(**config.model.to_dict())
    sources = pose_sources(config, model)
    assert {name: source.augment.rotation_prob for name, source in sources.items()} == {
        "people": 0.5, "more_people": 0.0
    }  # fmt: skip
    settings = {name: common.evaluator_settings(config, name) for name in NAMES}
    assert [settings[name]["flip_test"] for name in NAMES] == [False, True]
    assert settings["people"]["boxes"] == config.eval.boxes


def test_a_data_set_that_is_only_evaluated_is_in_the_model_file(several_config, tmp_path, capsys):
    config = several_config(False, {"datasets.people.train_split": "", "train.epochs": 1, "schedule.warmup_steps": 0})
    train(config, tmp_path)
    file = checkpoint.load_model_file(tmp_path)
    assert file.datasets.keys() == set(NAMES)
    assert "a batch holds" not in capsys.readouterr().out


def test_the_make_up_of_a_batch_is_said(several_config, capsys):
    config = several_config(False)
    sources = pose_sources(config, vitpose(**config.model.to_dict()))
    train_script.print_shares(sources, 1000, batch_norm=True)
    said = capsys.readouterr().out
    assert "crops of people" in said and "WARNING" not in said
    train_script.print_shares(sources, 6, batch_norm=True)
    assert "fewer than 4 crops a batch of" in capsys.readouterr().out


def test_an_order_of_other_data_sets_is_refused(several_config, tmp_path):
    with pytest.raises(ValueError, match="dataset_order"):
        train(several_config(False, {"dataset_order": ("people",)}), tmp_path)
