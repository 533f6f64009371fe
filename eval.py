"""Evaluate a checkpoint on the data sets of a config.

    python eval.py --config configs/vitpose_b.py --checkpoint runs/vitpose_b [--config.eval.boxes=annotations …]

The model comes from the checkpoint, data sets and evaluation settings from the config. Numbers that were published for
converted weights are printed beside the measured ones.

Writes, into --workdir (default: the checkpoint's run): eval.json (data set, metric, value), results_<data set>.json in
COCO's result format, and a picture of predictions beside ground truth.
"""

import json
import os
from collections.abc import Mapping

import jax
import ml_collections
from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from configs import command_line, common
from vitpose_jax import compile_cache, draw, paths
from vitpose_jax.data import datasets
from vitpose_jax.data.truncate import PARTS
from vitpose_jax.evaluation import published
from vitpose_jax.evaluation.leaks import leaks
from vitpose_jax.evaluation.predict import Evaluator
from vitpose_jax.evaluation.results import write_results
from vitpose_jax.evaluation.scoring import HEADLINE
from vitpose_jax.evaluation.table import print_metrics
from vitpose_jax.evaluation.truncation import check_truncation
from vitpose_jax.training import checkpoint, processes, sharding
from vitpose_jax.training.model_file import ModelFile


def evaluate(
    config: ml_collections.ConfigDict,
    checkpoint_path: str | os.PathLike,
    workdir: str | os.PathLike | None = None,
    *,
    mean_pose: bool = False,
    truncate: bool = False,
) -> dict[str, dict[str, float]]:
    """Evaluates a checkpoint and writes what came out.

    Args:
        config: an experiment; its `datasets`, `eval`, `input` and `mesh` sections are used.
        checkpoint_path: see `vitpose_jax.training.checkpoint.load_model`.
        workdir: where to write; None for the checkpoint's run.
        mean_pose: also evaluate predicting the mean pose, as "<data set> (mean pose)".
        truncate: also evaluate on half of each annotated box, as "<data set> (upper 50 %)" and so on.

    Returns:
        Data set to metric to value.

    Raises:
        ValueError: if the checkpoint has no decoder for a data set, or a setting does not fit.
    """
    if config.task == "mae":
        raise ValueError("poses are evaluated here; train.py evaluates a pre-training run itself, see its samples")
    loaded = checkpoint.load_model(checkpoint_path)
    trained_on = "" if not loaded.metrics else f", {_short(loaded.metrics)} when it was saved"
    print(f"checkpoint {loaded.path}: step {loaded.step}{trained_on}")
    folder = paths.path(workdir) if workdir else checkpoint.run_folder(loaded.path)
    writes = jax.process_index() == 0
    mesh = sharding.make_mesh(**config.mesh)
    variables = {part: sharding.place(tree, mesh) for part, tree in loaded.variables.items()}
    sections = {name: section for name, section in common.datasets_in_order(config).items() if section.eval_split}
    if not sections:
        raise ValueError("no data set of this config has an eval_split: there is nothing to evaluate on")

    # Everything that may be missing is missed before the first crop is predicted.
    evaluators, train_splits = {}, {}
    for name, section in sections.items():
        split = datasets.open_split(section.dir, section.eval_split)
        _check_keypoints(name, section.decoder or name, split, loaded.file)
        evaluators[name] = Evaluator(
            loaded.model, split, mesh=mesh, blur_kernel=loaded.file.codec["blur_kernel"],
            **common.evaluator_settings(config, name),
        )  # fmt: skip
        if truncate:
            check_truncation(split, common.evaluator_settings(config, name)["boxes"])
        if mean_pose:
            train_splits[name] = datasets.open_split(section.dir, section.train_split or section.eval_split)

    found: dict[str, dict[str, float]] = {}
    references: dict[str, dict[str, float]] = {}
    footnotes: list[str] = []
    for name, evaluator in evaluators.items():
        evaluation = evaluator(variables)
        found[name] = evaluation.metrics
        numbers, remarks = published.reference(
            loaded.file.provenance,
            evaluator.split,
            image_size=loaded.model.image_size,
            settings=common.own_or_shared(sections[name].eval, config.eval),
        )
        if numbers:
            references[name] = numbers
            footnotes += remarks
        footnotes += leaks(loaded.file.trained_on, evaluator.split.dataset.name, evaluator.split.name)
        picture = evaluator.picture(variables)
        if writes:
            write_results(folder / f"results_{name}.json", evaluation.results)
            draw.save_image(folder / f"predictions_{name}.jpg", picture)
        if truncate:
            for part in PARTS:
                found[f"{name} ({part} 50 %)"] = evaluator.truncated(variables, part).metrics
        if mean_pose:
            found[f"{name} (mean pose)"] = evaluator.mean_pose(train_splits[name]).metrics
        if writes:
            _write_table(folder / "eval.json", found)
    print_metrics(found, references, footnotes=footnotes)
    print(f"metrics:  {folder / 'eval.json'}")
    for name in sections:
        print(f"results:  {folder / f'results_{name}.json'}\npicture:  {folder / f'predictions_{name}.jpg'}")
    return found


def _check_keypoints(name: str, decoder: str, split: datasets.Split, file: ModelFile) -> None:
    """Raises ValueError unless a decoder predicts, in this order, the keypoints that a data set annotates."""
    predicted, annotated = file.keypoint_set(decoder), split.keypoint_set
    if (predicted.names, set(predicted.swap)) != (annotated.names, set(annotated.swap)):
        raise ValueError(
            f"{name}: the checkpoint's decoder {decoder!r} predicts {predicted.names}, {split!r} annotates "
            f"{annotated.names}"
        )


def _write_table(path: epath.Path, found: dict[str, dict[str, float]]) -> None:
    rows = [
        {"dataset": dataset, "metric": metric, "value": value}
        for dataset, metrics_ in found.items()
        for metric, value in metrics_.items()
    ]
    paths.write(path, json.dumps(rows, indent=1))


def _short(values: Mapping[str, float]) -> str:
    heads = set(HEADLINE.values())
    return ", ".join(f"{name} {value:.3f}" for name, value in values.items() if name.rsplit("/", 1)[-1] in heads)


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    logging.set_verbosity(logging.ERROR)  # Orbax tells how it opens a folder
    compile_cache.use()
    try:
        with processes.joined(**command_line.processes(), saves_on_sigterm=False):
            evaluate(
                flags.FLAGS.config, str(flags.FLAGS.checkpoint), flags.FLAGS.workdir, mean_pose=flags.FLAGS.mean_pose,
                truncate=flags.FLAGS.truncate,
            )  # fmt: skip
    except KeyboardInterrupt:
        print("eval.py: interrupted; what was evaluated before is written")
        raise SystemExit(130) from None
    except (ValueError, OSError) as error:
        raise SystemExit(f"eval.py: {error}") from error


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", None, "Experiment whose data sets to evaluate on, in configs/.")
    flags.DEFINE_string("checkpoint", None, "A run's folder (its best step is taken) or one step's folder.")
    flags.DEFINE_string("workdir", None, "Where to write; the checkpoint's run when not given.")
    flags.DEFINE_bool("mean_pose", False, "Also score predicting the training set's mean pose in every box.")
    command_line.define_processes()
    flags.DEFINE_bool(
        "truncate", False, "Also score upper, lower, left and right half, and a random half, of each box."
    )
    flags.mark_flags_as_required(["config", "checkpoint"])
    app.run(main, flags_parser=command_line.parse)
