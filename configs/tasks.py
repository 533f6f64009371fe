"""What a config's task is made of: model, training data, loss, evaluators. The loop in train.py is the same for all.

`config.task` names a row of `TASKS`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import common
from vitpose_jax import keypoints, trees
from vitpose_jax.data import datasets, pipeline, streams, views
from vitpose_jax.data.augment import Augment
from vitpose_jax.evaluation.leaks import leaks
from vitpose_jax.evaluation.predict import Evaluator, check_decoder
from vitpose_jax.evaluation.reconstruction import ReconstructionEvaluator
from vitpose_jax.models.mae import MAE, mae
from vitpose_jax.models.vitpose import ViTPose, vitpose
from vitpose_jax.training import checkpoint, freezing, sharding, tasks
from vitpose_jax.training import state as train_state
from vitpose_jax.training.model_file import ModelFile
from vitpose_jax.training.teacher import Teacher


class Task(NamedTuple):
    """What `train.py` needs of a task besides its model.

    Attributes:
        sources: training data sets by name, in the order that numbers them; each has `split` and `weight`.
        make_stream: the training stream of these sources; takes crop_size, batch_size, seed, start_step, rows and what
            `config.input` holds.
        loss: see `vitpose_jax.training.tasks`.
        on_devices: (step, this process's rows of its batch) to the global arrays that the loss takes.
        evaluators: by data set; called with {"params", "batch_stats"} they return something with `metrics`, and their
            `picture` takes the same.
        best_metric: the metric whose largest value marks the best checkpoint; None if the newest is the one to use.
        model_file: what makes the model usable.
        remarks: sentences to print at the start.
    """

    sources: Mapping[str, streams.Source]
    make_stream: Callable[..., Any]
    loss: tasks.Loss
    on_devices: Callable[[int, Mapping[str, np.ndarray]], Mapping[str, jax.Array]]
    evaluators: Mapping[str, Any]
    best_metric: str | None
    model_file: ModelFile
    remarks: Sequence[str]


def pose(
    config: ConfigDict,
    model: ViTPose,
    mesh: jax.sharding.Mesh,
    *,
    make_loss: Callable[..., tasks.Loss] = tasks.pose_loss,
    taught_on: Sequence[str] = (),
) -> Task:
    """Pose estimation on one or more data sets.

    Args:
        config: see `make_task`.
        model: see `make_task`.
        mesh: see `make_task`.
        make_loss: takes what `tasks.pose_loss` takes.
        taught_on: data sets that a teacher has learned from.
    """
    sources = pose_sources(config, model)
    udp = {name: source.split.dataset.udp for name, source in sources.items()}
    evaluators = {
        name: Evaluator(
            model, datasets.open_split(section.dir, section.eval_split), mesh=mesh,
            blur_kernel=config.codec.blur_kernel, **common.evaluator_settings(config, name),
        )
        for name, section in common.datasets_in_order(config).items()
        if section.eval_split
    }  # fmt: skip
    learner = freezing.model_in_training(model, config.optimizer.freeze)
    trained = {source.split.dataset.name for source in sources.values()} | _trained_before(config) | {*taught_on}
    splits = {evaluator.dataset: evaluator.split for evaluator in evaluators.values()}
    splits |= {name: source.split for name, source in sources.items()}
    return Task(
        sources=sources,
        make_stream=lambda **settings: pipeline.train_stream(list(sources.values()), **settings),
        loss=make_loss(learner, udp=udp, sigma=config.codec.sigma),
        on_devices=lambda step, rows: sharding.global_batch(rows, mesh),
        evaluators=evaluators,
        best_metric=next((f"{name}/{evaluator.headline}" for name, evaluator in evaluators.items()), None),
        model_file=ModelFile(
            settings=config.model.to_dict(),
            datasets={
                name: {**keypoints.reference(split.keypoint_set), "udp": split.dataset.udp}
                for name, split in splits.items()
            },
            codec=config.codec.to_dict(),
            trained_on=sorted(trained),
        ),
        remarks=[
            sentence
            for evaluator in evaluators.values()
            for sentence in leaks(trained, evaluator.split.dataset.name, evaluator.split.name)
        ],
    )


def distillation(config: ConfigDict, model: ViTPose, mesh: jax.sharding.Mesh) -> Task:
    """Pose estimation that also learns from the heatmaps of a trained model."""
    if not config.teacher.path:
        raise ValueError("distillation needs a trained model to learn from: set config.teacher.path")
    taught_on = checkpoint.load_model_file(config.teacher.path).trained_on
    make_loss = functools.partial(tasks.distillation_loss, **config.distill)
    task = pose(config, model, mesh, make_loss=make_loss, taught_on=taught_on)
    teacher = Teacher(
        **config.teacher, student=model, student_file=task.model_file, datasets=tuple(task.sources), mesh=mesh
    )
    return task._replace(on_devices=teacher, remarks=[teacher.description, *task.remarks])


def knowledge_token(config: ConfigDict, model: ViTPose, mesh: jax.sharding.Mesh) -> Task:
    """The token stage: a trained model stays as it is, and a token that goes through its blocks learns."""
    trained = freezing.trainable(train_state.variable_shapes(model)["params"], config.optimizer.freeze)
    if [*trees.flatten(trained)] != ["backbone/knowledge/token"]:
        raise ValueError(
            "the token stage trains the knowledge token and nothing else: set config.model.token_dim to the width of "
            "the model, and config.optimizer.freeze to freeze the rest, as configs/distilling.py does"
        )
    return pose(config, model, mesh, make_loss=tasks.token_loss)


def masked_autoencoder(config: ConfigDict, model: MAE, mesh: jax.sharding.Mesh) -> Task:
    """Masked-autoencoder pre-training on images or on crops of people."""
    sections = common.datasets_in_order(config)
    sources = {
        name: views.ViewSource(
            views.open_views(section.dir, section.train_split, section.views, crop_size=model.image_size),
            views.RandomResizedCrop(**config.augment),
            section.weight,
        )
        for name, section in sections.items()
        if section.train_split
    }
    evaluators = {
        name: ReconstructionEvaluator(
            model, views.open_views(section.dir, section.eval_split, section.views, crop_size=model.image_size),
            dataset=name, mesh=mesh, num_workers=config.input.num_workers, num_threads=config.input.num_threads,
            **config.eval,
        )
        for name, section in sections.items()
        if section.eval_split
    }  # fmt: skip
    trained = {source.split.dataset_name for source in sources.values()} | _trained_before(config)
    return Task(
        sources=sources,
        make_stream=lambda **settings: views.train_stream(list(sources.values()), **settings),
        loss=tasks.mae_loss(model),
        on_devices=lambda step, rows: sharding.global_batch(rows, mesh),
        evaluators=evaluators,
        best_metric=None,  # the loss says little about how well a model fine-tunes; the original takes the last one
        model_file=ModelFile(
            settings=config.model.to_dict(), datasets={}, codec={}, task="mae", trained_on=sorted(trained)
        ),
        remarks=[],
    )


class Row(NamedTuple):
    """How a task is made: its model from `config.model`, the rest from config, model and mesh."""

    model: Callable[..., Any]
    task: Callable[[ConfigDict, Any, jax.sharding.Mesh], Task]


TASKS: dict[str, Row] = {
    "pose": Row(vitpose, pose),
    "distill": Row(vitpose, distillation),
    "token": Row(vitpose, knowledge_token),
    "mae": Row(mae, masked_autoencoder),
}


def make_model(config: ConfigDict) -> Any:
    """The model of a complete config's task."""
    return TASKS[config.task].model(**config.model.to_dict())


def make_task(config: ConfigDict, model: Any, mesh: jax.sharding.Mesh) -> Task:
    """The rest of a complete config's task: opens its data.

    Raises:
        ValueError: for a setting that does not fit, or a config without training data.
    """
    task = TASKS[config.task].task(config, model, mesh)
    if not task.sources:
        raise ValueError("no data set of this config has a train_split: there is nothing to train on")
    return task


def pose_sources(config: ConfigDict, model: ViTPose) -> dict[str, pipeline.TrainSource]:
    """The training data sets of poses by name, in the order that numbers them."""
    sources = {}
    for name, section in common.datasets_in_order(config).items():
        if not section.train_split:
            continue
        if section.decoder:
            raise ValueError(f'{name} has the decoder of {section.decoder}: evaluate on it only, with train_split=""')
        split = datasets.open_split(section.dir, section.train_split)
        check_decoder(model, split, name)
        chosen = common.own_or_shared(section.augment, config.augment)
        chosen = {setting: value for setting, value in chosen.items() if value is not None}
        augment = Augment(**{**split.dataset.augment_defaults, **chosen})
        sources[name] = pipeline.TrainSource(split, augment, section.weight)
    return sources


def _trained_before(config: ConfigDict) -> set[str]:
    """Data sets that the weights this run starts from have learned from."""
    paths = filter(None, (config.init_from.path, config.init_from.token))
    return {name for path in paths for name in checkpoint.load_model_file(path).trained_on}
