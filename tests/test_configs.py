"""The shipped configs load, fit their callables, and refuse what they do not know."""

import inspect
import pathlib
import re
import runpy

import jax
import pytest

from configs import common, evaluate
from train import complete
from vitpose_jax.data import pipeline
from vitpose_jax.data.augment import Augment
from vitpose_jax.data.catalog import DATASETS
from vitpose_jax.evaluation.predict import Evaluator
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.training import optimizer, sharding, state, transfer

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "configs"
FILES = sorted(
    path for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "command_line", "common", "evaluate")
)
SIZES_AND_DECODERS = {f"vitpose_{size}{suffix}" for size in "sblh" for suffix in ("", "_simple")} | {"vitpose_g"}
SEVERAL = {f"vitpose_{size}_multi" for size in "blh"} | {f"vitpose_plus_{size}" for size in "sblh"}
PLUS = ("coco", "aic", "mpii", "ap10k", "apt36k", "wholebody")


def load(path: pathlib.Path, *arguments: str):
    return runpy.run_path(str(path))["get_config"](*arguments)


def test_every_size_and_decoder_has_a_config():
    assert SIZES_AND_DECODERS | SEVERAL | {"quickstart", "finetune_custom"} <= {path.stem for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_makes_its_model(path):
    config = load(path)
    assert config.name == path.stem
    if path.stem == "finetune_custom":  # its model comes from a checkpoint, its number of keypoints from the data
        with pytest.raises(ValueError, match=r"init_from\.path or config\.model\.size"):
            complete(config)
        config.model.update(size="b")
        config.model.num_keypoints.custom = 12
        config = complete(config)
        assert config.model.image_size == (256, 192) and config.model.decoder == "classic"
    model = vitpose(**config.model.to_dict())
    params = state.variable_shapes(model)["params"]
    sharding.param_specs(params)
    assert set(config.datasets) == set(model.num_keypoints)
    for section in common.datasets_in_order(config).values():
        chosen = common.own_or_shared(section.augment, config.augment)
        Augment(**{key: value for key, value in chosen.items() if value is not None})
        assert (set(section.augment), set(section.eval)) == (set(config.augment), set(config.eval))
    text = path.read_text()
    written = re.search(r"([\d.]+) M parameters", text)
    if written:
        count = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6
        assert count == pytest.approx(float(written.group(1)), abs=0.06)


@pytest.mark.parametrize("section, function, given", [
    ("model", vitpose, set()),
    ("augment", Augment, set()),
    ("optimizer", optimizer.adamw, {"params", "schedule"}),
    ("schedule", optimizer.make_schedule, {"steps_per_epoch", "total_steps"}),
    ("mesh", sharding.make_mesh, {"devices"}),
    ("init_from", transfer.init_from, {"model", "key"}),
    ("input", pipeline.train_stream, {
        "sources", "crop_size", "batch_size", "seed", "start_step", "rows",
    }),
    ("eval", Evaluator, {"model", "split", "dataset", "mesh", "blur_kernel", "num_workers", "num_threads"}),
])  # fmt: skip
def test_each_section_is_the_arguments_of_one_callable(section, function, given):
    config = load(FOLDER / "vitpose_b.py")
    assert set(config[section]) | given == set(inspect.signature(function).parameters)


def test_published_recipe():
    config = load(FOLDER / "vitpose_l.py")
    assert (config.optimizer.layer_decay, config.model.drop_path) == (0.8, 0.5)
    assert (config.schedule.learning_rate, config.optimizer.weight_decay, config.train.batch_size) == (5e-4, 0.1, 512)
    assert (config.schedule.warmup_steps, config.schedule.drop_epochs, config.train.epochs) == (500, (170, 200), 210)
    assert load(FOLDER / "vitpose_h.py").optimizer.layer_decay == 0.85


@pytest.mark.parametrize("size, drop_path, layer_decay, part_features", [
    ("s", 0.1, 0.8, 192), ("b", 0.3, 0.75, 192), ("l", 0.5, 0.8, 256), ("h", 0.55, 0.8, 320),
])  # fmt: skip
def test_published_recipe_of_mixed_training(size, drop_path, layer_decay, part_features):
    plus = load(FOLDER / f"vitpose_plus_{size}.py")
    configs = [plus] if size == "s" else [plus, load(FOLDER / f"vitpose_{size}_multi.py")]
    for config in configs:
        assert (config.optimizer.layer_decay, config.model.drop_path) == (layer_decay, drop_path)
        assert (config.schedule.learning_rate, config.train.batch_size, config.train.epochs) == (1e-3, 1024, 210)
        assert config.augment.half_body_prob is None  # as published for each data set
        assert DATASETS["mpii"].augment_defaults["half_body_prob"] == 0
        assert config.datasets.coco.eval.boxes is None and config.datasets.mpii.eval.boxes == "annotations"
        assert config is not plus or config.datasets.ap10k.eval_split == "val"  # test is for the finished model
        assert tuple(common.datasets_in_order(config)) == config.dataset_order == PLUS[: len(config.dataset_order)]
    assert (plus.model.experts, plus.model.part_features) == (PLUS, part_features)
    assert [plus.model.num_keypoints[name] for name in PLUS] == [17, 14, 16, 17, 17, 133]


def test_crowdpose_joins_on_demand():
    config = load(FOLDER / "vitpose_b_multi.py", "crowdpose")
    assert config.name == "vitpose_b_multi_crowdpose"
    assert config.dataset_order == ("coco", "aic", "mpii", "crowdpose")
    assert config.model.num_keypoints.crowdpose == 14
    with pytest.raises(ValueError, match="'crowdpose', not 'ochuman'"):
        load(FOLDER / "vitpose_b_multi.py", "ochuman")


def test_the_order_of_the_data_sets_is_said_not_guessed():
    config = load(FOLDER / "vitpose_b_multi.py")
    assert next(iter(common.datasets_in_order(config))) == "coco"  # "aic" would come first by name
    config.dataset_order = ("coco", "aic")
    with pytest.raises(ValueError, match="dataset_order"):
        common.datasets_in_order(config)


def test_an_unknown_key_names_the_nearest_one():
    config = load(FOLDER / "vitpose_b.py")
    with pytest.raises(AttributeError, match="drop_path"):
        config.model.drop_pth = 0.1


def test_a_wrong_type_raises():
    config = load(FOLDER / "vitpose_b.py")
    with pytest.raises(TypeError):
        config.train.batch_size = "many"


def test_evaluation_by_the_published_protocol():
    coco = evaluate.get_config()
    assert (coco.eval.boxes, coco.datasets.coco.dir, coco.datasets.coco.eval_split) == (
        "detections",
        "data/coco",
        "val",
    )
    assert all(value is None for value in coco.datasets.coco.eval.values())
    others = evaluate.get_config("mpii,ap10k")
    assert {section.eval.boxes for section in others.datasets.values()} == {"annotations"}
    ochuman = evaluate.get_config("ochuman").datasets.ochuman
    assert (ochuman.decoder, ochuman.train_split) == ("coco", "")
    assert {name: section.eval_split for name, section in others.datasets.items()} == {"mpii": "val", "ap10k": "test"}
    with pytest.raises(AttributeError):
        others.datasets.ap10k.dri = "elsewhere"


def test_a_data_set_without_protocol_is_refused():
    with pytest.raises(ValueError, match="no published protocol for nothing; known are coco"):
        evaluate.get_config("coco,nothing")
    with pytest.raises(ValueError, match="coco is named twice"):
        evaluate.get_config("coco,mpii,coco")
