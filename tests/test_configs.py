"""The shipped configs load, fit their callables, and refuse what they do not know."""

import inspect
import pathlib
import re
import runpy

import jax
import pytest

from configs import evaluate
from train import complete
from vitpose_jax.data import pipeline
from vitpose_jax.data.augment import Augment
from vitpose_jax.evaluation.predict import Evaluator
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.training import checkpoint, optimizer, sharding, state

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "configs"
FILES = sorted(
    path for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "command_line", "common", "evaluate")
)
SIZES_AND_DECODERS = {f"vitpose_{size}{suffix}" for size in "sblh" for suffix in ("", "_simple")} | {"vitpose_g"}


def load(path: pathlib.Path):
    return runpy.run_path(str(path))["get_config"]()


def test_every_size_and_decoder_has_a_config():
    assert SIZES_AND_DECODERS | {"quickstart", "finetune_custom"} <= {path.stem for path in FILES}


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
    ("mesh", sharding.make_mesh, set()),
    ("init_from", checkpoint.init_from, {"model", "key"}),
    ("input", pipeline.train_stream, {
        "sources", "crop_size", "batch_size", "seed", "start_step", "process_index", "process_count",
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
    others = evaluate.get_config("mpii,ap10k")
    assert others.eval.boxes == "annotations"
    assert {name: section.eval_split for name, section in others.datasets.items()} == {"mpii": "val", "ap10k": "test"}
    with pytest.raises(AttributeError):
        others.datasets.ap10k.dri = "elsewhere"


@pytest.mark.parametrize("names, message", [
    ("coco,nothing", "no published protocol for nothing; known are coco"),
    ("coco,mpii", "coco detections, mpii annotations"),
])  # fmt: skip
def test_data_sets_that_cannot_be_evaluated_together(names, message):
    with pytest.raises(ValueError, match=message):
        evaluate.get_config(names)
