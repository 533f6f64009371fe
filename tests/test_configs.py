"""The shipped configs load, fit their callables, and refuse what they do not know."""

import inspect
import pathlib
import re
import runpy

import jax
import pytest

from configs import common, distilling, evaluate
from configs.tasks import TASKS
from train import complete
from vitpose_jax.data import pipeline, views
from vitpose_jax.data.augment import Augment
from vitpose_jax.data.catalog import DATASETS
from vitpose_jax.data.views import RandomResizedCrop
from vitpose_jax.evaluation.predict import Evaluator
from vitpose_jax.evaluation.reconstruction import ReconstructionEvaluator
from vitpose_jax.models.mae import mae
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.training import optimizer, sharding, state, tasks, transfer
from vitpose_jax.training.teacher import Teacher

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "configs"
FILES = sorted(
    path
    for path in FOLDER.glob("*.py")
    if path.stem not in ("__init__", "command_line", "common", "distilling", "evaluate", "pretraining", "tasks")
)
SIZES_AND_DECODERS = {f"vitpose_{size}{suffix}" for size in "sblh" for suffix in ("", "_simple")} | {"vitpose_g"}
SEVERAL = {f"vitpose_{size}_multi" for size in "blh"} | {f"vitpose_plus_{size}" for size in "sblh"}
PRE_TRAINING = {f"mae_{size}" for size in "sblhg"} | {"mae_quickstart"}
PLUS = ("coco", "aic", "mpii", "ap10k", "apt36k", "wholebody")


def load(path: pathlib.Path, *arguments: str):
    return runpy.run_path(str(path))["get_config"](*arguments)


def test_every_size_and_decoder_has_a_config():
    names = SIZES_AND_DECODERS | SEVERAL | PRE_TRAINING | {"quickstart", "finetune_custom", "mae_finetune"}
    names |= {"distill_h_to_b", "distill_l_to_b", "distill_quickstart"}
    assert names <= {path.stem for path in FILES}


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
    model = TASKS[config.task].model(**config.model.to_dict())
    params = state.variable_shapes(model)["params"]
    sharding.param_specs(params)
    if config.task != "mae":
        decoders = {section.decoder or name for name, section in config.datasets.items()}
        assert decoders == set(model.num_keypoints)
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


PRE_TRAINING_SECTIONS = [
    ("model", mae, set()),
    ("augment", RandomResizedCrop, set()),
    ("optimizer", optimizer.adamw, {"params", "schedule"}),
    ("schedule", optimizer.make_schedule, {"steps_per_epoch", "total_steps"}),
    ("mesh", sharding.make_mesh, {"devices"}),
    ("init_from", transfer.init_from, {"model", "key"}),
    ("input", views.train_stream, {"sources", "crop_size", "batch_size", "seed", "start_step", "rows"}),
    ("eval", ReconstructionEvaluator, {"model", "views", "dataset", "mesh", "num_workers", "num_threads"}),
]  # fmt: skip


@pytest.mark.parametrize("section, function, given", PRE_TRAINING_SECTIONS)
def test_so_it_is_in_pre_training(section, function, given):
    config = load(FOLDER / "mae_b.py")
    assert set(config[section]) | given == set(inspect.signature(function).parameters)


@pytest.mark.parametrize("section, function, given", [
    ("teacher", Teacher, {"student", "student_file", "datasets", "mesh"}),
    ("distill", tasks.distillation_loss, {"model", "udp", "sigma"}),
])  # fmt: skip
def test_so_it_is_in_distillation(section, function, given):
    config = load(FOLDER / "distill_l_to_b.py")
    assert set(config[section]) | given == set(inspect.signature(function).parameters)


def test_stages_of_knowledge_transfer():
    """Each differs from the training of its model alone in what the stage is about, and in nothing else."""
    learn_token, heatmap, token, both = (load(FOLDER / "distill_h_to_b.py", stage) for stage in distilling.STAGES)
    assert learn_token.model.size == "h" and {config.model.size for config in (heatmap, token, both)} == {"b"}
    alone = load(FOLDER / "vitpose_b.py")
    for config, different in (
        (heatmap, {"task"}), (token, {"model", "optimizer", "init_from"}),
        (both, {"task", "model", "optimizer", "init_from"}),
    ):  # fmt: skip
        assert {name for name in alone if config[name] != alone[name]} == different | {"name"}
        assert (config.task == "distill") == ("teacher" in config)
        if config is not heatmap:
            assert config.init_from.token == f"runs/{learn_token.name}"
            assert config.model.token_dim == learn_token.model.token_dim == 1280
    assert heatmap.teacher.path == learn_token.init_from.path == "runs/vitpose_h"
    with pytest.raises(ValueError, match="not 'half'"):
        load(FOLDER / "distill_h_to_b.py", "half")


@pytest.mark.parametrize("size", "sblhg")
def test_recipe_of_pre_training(size):
    config = load(FOLDER / f"mae_{size}.py")
    assert (config.model.mask_ratio, config.model.norm_pix_loss, config.model.image_size) == (0.75, True, (224, 224))
    assert (config.optimizer.b1, config.optimizer.b2, config.optimizer.weight_decay) == (0.9, 0.95, 0.05)
    assert config.optimizer.clip_norm is None
    assert (config.schedule.kind, config.schedule.warmup_epochs, config.schedule.warmup_ratio) == ("cosine", 40, 0)
    assert (config.train.batch_size, config.train.epochs) == (4096, 1600)
    assert config.schedule.learning_rate == pytest.approx(2.4e-3)
    config.train.batch_size = 512  # the rate follows
    assert complete(config).schedule.learning_rate == pytest.approx(3e-4)
    config.schedule.learning_rate = 1e-3  # unless it is said
    assert complete(config).schedule.learning_rate == 1e-3
    assert config.augment.min_area == 0.2


@pytest.mark.parametrize("source, names, views_, size", [
    ("imagenet", ("imagenet",), "images", (224, 224)),
    ("coco", ("coco",), "people", (256, 192)),
    ("coco_aic", ("coco", "aic"), "people", (256, 192)),
    ("coco_aic_images", ("coco", "aic"), "images", (224, 224)),
])  # fmt: skip
def test_sources_of_pre_training(source, names, views_, size):
    config = load(FOLDER / "mae_b.py", source)
    assert tuple(common.datasets_in_order(config)) == names and config.model.image_size == size
    assert {section.views for section in config.datasets.values()} == {views_} <= set(views.VIEWS)
    assert config.name == ("mae_b" if source == "imagenet" else f"mae_b_{source}")
    with pytest.raises(ValueError, match="not 'laion'"):
        load(FOLDER / "mae_b.py", "laion")


def test_fine_tuning_fits_what_was_pre_trained():
    """The embedded example: the encoders are of one size, and only one of the two runs starts from weights."""
    pre, fine, scratch = (
        load(FOLDER / "mae_quickstart.py"), load(FOLDER / "mae_finetune.py"),
        load(FOLDER / "mae_finetune.py", "scratch"),
    )  # fmt: skip
    for name in ("embed_dim", "depth", "num_heads", "mlp_dim", "image_size"):
        assert pre.model[name] == fine.model[name]
    different = {name for name in fine if fine[name] != scratch[name]}
    assert different == {"name", "init_from"}


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
