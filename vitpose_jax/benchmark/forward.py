"""Heatmaps of crops, beside Hugging Face's VitPose with the same weights. Both get normalised float32 crops."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vitpose_jax.benchmark import programs, torch_side
from vitpose_jax.benchmark.machine import peak_memory_gib
from vitpose_jax.benchmark.timing import Measured, take_turns
from vitpose_jax.models import inference_weights
from vitpose_jax.models.placement import in_chunks
from vitpose_jax.models.vitpose import ViTPose, normalize, vitpose

OURS = "vitpose_jax"


def forward(
    *,
    name: str,
    model: Mapping[str, Any],
    batch_sizes: Sequence[int],
    dtypes: Sequence[str],
    repeats: int,
    against: Sequence[str],
) -> Iterator[Measured]:
    """One line for each precision and batch.

    Args:
        name: of the experiment.
        model: its model section.
        batch_sizes: crops.
        dtypes: "float32", "bfloat16".
        repeats: timed runs of each.
        against: see `torch_side.baselines`.
    """
    yield from sweep("forward", name, model, batch_sizes, dtypes, repeats, torch_side.baselines(against))


def train(
    *,
    name: str,
    model: Mapping[str, Any],
    batch_sizes: Sequence[int],
    dtypes: Sequence[str],
    repeats: int,
    against: Sequence[str],
) -> Iterator[Measured]:
    """A training step (forward, backward, clipping, AdamW); arguments as of `forward`.

    Without stochastic depth, which Hugging Face's model does not have. Ours draws its targets in the step and
    normalises the crops; the others get both ready-made.
    """
    model = {**model, "drop_path": 0.0}
    yield from sweep("train", name, model, batch_sizes, dtypes, repeats, torch_side.baselines(against))


def sweep(
    task: str,
    name: str,
    settings: Mapping[str, Any],
    batch_sizes: Sequence[int],
    dtypes: Sequence[str],
    repeats: int,
    baselines: Sequence[str],
) -> Iterator[Measured]:
    """Every precision and batch; of a precision it ends with the first batch that does not fit the memory."""
    variables = programs.random_variables(vitpose(**settings))
    with torch_side.TorchSide(vitpose(**settings), settings, variables, baselines) as side:
        for dtype in dtypes:
            model = vitpose(**{**settings, "dtype": dtype})
            for batch_size in batch_sizes:
                said = {
                    "config": name, "image_size": list(model.image_size), "decoder": model.decoder,
                    "batch_size": batch_size, "dtype": dtype,
                    **({"remat": model.backbone["remat"]} if task == "train" else {}),
                }  # fmt: skip
                try:
                    yield _one(task, model, variables, batch_size, dtype, repeats, side, said)
                except jax.errors.JaxRuntimeError as error:
                    if "RESOURCE_EXHAUSTED" not in str(error):
                        raise
                    yield Measured(said, {}, {OURS: {"fits": False}})
                    break


def _one(
    task: str, model: ViTPose, variables: Any, batch_size: int, dtype: str, repeats: int, side: torch_side.TorchSide,
    said: Mapping[str, Any],
) -> Measured:  # fmt: skip
    if task == "train":
        prepared = programs.prepare_step(model, batch_size, variables=variables)
    else:
        images = normalize(programs.random_batch(model, batch_size)["image"])
        (dataset,) = model.num_keypoints

        def heatmaps(variables, images):
            outputs: Any = model.apply(variables, images, train=False)
            return outputs[dataset]

        prepared = programs.prepare(
            in_chunks(heatmaps), (inference_weights.prepared(model, variables), images), batch_size
        )
    run = prepared.start()
    ours = np.asarray(run())
    facts = {OURS: dict(prepared.facts), **dict(side.prepare(task, batch_size, dtype, ours))}
    timings = take_turns({OURS: run, **side.variants()}, repeats=repeats)
    if (peak := peak_memory_gib()) is not None:
        facts[OURS]["peak_gib"] = peak
    for name, peaks in side.peaks().items():
        facts[name] |= peaks
    return Measured(said, timings, facts)
