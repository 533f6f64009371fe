"""Checkpoints: a folder that training resumes from, and that evaluation and inference take by its path alone.

    <workdir>/checkpoints/<step>/state     step, parameters, batch statistics, optimizer state (Orbax)
    <workdir>/checkpoints/<step>/model     JSON: the settings that make the model, and where its keypoints are named

Orbax writes a step beside its place and renames it, so that an interrupted save never replaces a good one.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from vitpose_jax import trees
from vitpose_jax.models import pos_embed
from vitpose_jax.models.vitpose import ViTPose, vitpose
from vitpose_jax.training import state as train_state
from vitpose_jax.training import transfer

FOLDER = "checkpoints"
FORMAT = 1  # of the model file


class Checkpoints:
    """The checkpoints of one run: the last few, and the best by a metric. Saves run in the background.

    Args:
        workdir: the run's folder.
        model_file: what makes the model usable, written with every checkpoint.
        keep_last: how many of the newest to keep.
        best_metric: the metric whose largest value marks the best checkpoint, which is kept too; None if the run is
            never evaluated.
    """

    def __init__(self, workdir: str | os.PathLike, model_file: "ModelFile", *, keep_last: int, best_metric: str | None):
        if keep_last < 1:
            raise ValueError(f"keep_last must be at least 1, not {keep_last}")
        self.folder = epath.Path(workdir).resolve() / FOLDER
        self._model_file = model_file
        self._best_metric = best_metric
        self._manager = _manager(self.folder, keep_last=keep_last)

    @property
    def latest_step(self) -> int | None:
        """Newest saved step; None when there is none."""
        return self._manager.latest_step()

    def save(self, state: train_state.TrainState, metrics: Mapping[str, float] | None = None) -> None:
        """Saves a train state; returns as soon as its arrays are copied. A step saved already is left as it is.

        Args:
            state: what to save.
            metrics: the evaluation's result at this step, if there was one.
        """
        step = int(state.step)
        if metrics and (self._best_metric is None or self._best_metric not in metrics):
            raise ValueError(f"the best checkpoint is chosen by {self._best_metric!r}, but there are {sorted(metrics)}")
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state._asdict()), model=ocp.args.JsonSave(self._model_file.as_json())
            ),
            metrics={**metrics, _BEST_KEY: metrics[str(self._best_metric)]} if metrics else None,
        )

    def restore(self, target: train_state.TrainState) -> train_state.TrainState:
        """The newest train state, placed as the target says.

        Args:
            target: shapes, dtypes and shardings, from `state.abstract_state`.

        Raises:
            ValueError: if a leaf's shape differs: the checkpoint belongs to another model.
        """
        step = self.latest_step
        saved = trees.flatten(dict(self._manager.item_metadata(step)["state"]))
        wanted = trees.flatten(target._asdict())
        faults = [
            f"  {path}: {tuple(saved[path].shape) if path in saved else 'missing'} in the checkpoint, "
            f"{tuple(leaf.shape)} in this run"
            for path, leaf in wanted.items()
            if path not in saved or tuple(saved[path].shape) != tuple(leaf.shape)
        ]
        faults += [f"  {path}: in the checkpoint only" for path in saved if path not in wanted]
        if faults:
            raise ValueError(
                f"checkpoint {self.folder / str(step)} is of another model or optimizer; use another --workdir, or "
                "init_from to start a new run from its weights:\n" + "\n".join(faults)
            )
        restored = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target._asdict()))
        )
        return train_state.TrainState(**restored["state"])

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


@dataclasses.dataclass(frozen=True)
class ModelFile:
    """What, besides arrays, makes a model usable from its folder alone.

    Attributes:
        settings: keyword arguments of `vitpose_jax.models.vitpose.vitpose`.
        datasets: per decoder the data set's facts: `keypoint_set` (a name), `udp`.
        codec: how heatmaps were made and are read: `sigma` (cells), `blur_kernel` (cells).
    """

    settings: Mapping[str, Any]
    datasets: Mapping[str, Mapping[str, Any]]
    codec: Mapping[str, Any]

    def as_json(self) -> dict:
        """Plain dictionaries, lists, strings and numbers."""
        return {
            "format": FORMAT,
            "settings": _plain(self.settings),
            "datasets": _plain(self.datasets),
            "codec": _plain(self.codec),
        }


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with its weights."""

    model: ViTPose
    file: ModelFile
    variables: dict  # {"params", "batch_stats"} of numpy float32
    path: str  # the step's folder
    step: int
    metrics: Mapping[str, float]  # of the evaluation at this step; empty when there was none


def load_model(path: str | os.PathLike) -> LoadedModel:
    """Loads a model from a run's folder, its `checkpoints` folder or one step's folder.

    Of several steps the best is taken when an evaluation marked one, else the newest.

    Raises:
        ValueError: if there is no checkpoint there, naming what was looked for.
    """
    folder, step = _find(path)
    with _manager(folder, keep_last=None) as manager:
        steps = sorted(manager.all_steps())
        metrics = {s: manager.metrics(s) for s in steps}
        if step is None:
            marked = [s for s in steps if metrics[s]]
            step = max(marked, key=lambda s: (metrics[s][_BEST_KEY], s)) if marked else steps[-1]
        saved = dict(manager.item_metadata(step)["state"])
        wanted = {part: saved.get(part) or {} for part in ("params", "batch_stats")}
        target = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), wanted)
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    target, restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), target),
                    partial_restore=True,
                ),
                model=ocp.args.JsonRestore(),
            ),
        )  # fmt: skip
    if restored["model"].get("format") != FORMAT:
        raise ValueError(
            f"{folder / str(step)} has format {restored['model'].get('format')}, this version reads {FORMAT}"
        )
    file = ModelFile(**{field.name: restored["model"][field.name] for field in dataclasses.fields(ModelFile)})
    found = {name: value for name, value in (metrics[step] or {}).items() if name != _BEST_KEY}
    variables = {"params": restored["state"]["params"], "batch_stats": restored["state"]["batch_stats"]}
    return LoadedModel(vitpose(**file.settings), file, variables, str(folder / str(step)), step, found)


def run_folder(step_path: str) -> pathlib.Path:
    """The folder of the run that a step's folder belongs to."""
    steps = pathlib.Path(step_path).parent
    return steps.parent if steps.name == FOLDER else steps


def init_from(
    path: str, model: ViTPose, *, key: jax.Array, fresh: Sequence[str] = ()
) -> tuple[dict, dict[str, list[str]]]:
    """Variables of a new run from the weights of another model.

    Leaves of equal path and shape are restored; the MLPs of a plain encoder are expanded into experts where this model
    has them; the position embedding is resized to this model's patch grid; leaves that a pattern of `fresh` matches are
    initialised as usual, whatever the checkpoint holds.

    Args:
        path: as for `load_model`.
        model: the new run's model.
        key: for the fresh leaves.
        fresh: regular expressions over whole paths, such as "decoders/.*".

    Returns:
        ({"params", "batch_stats"}, {"restored" | "expanded" | "resized" | "fresh" | "unused": paths}).

    Raises:
        ValueError: if nothing matched, a pattern matches no leaf, or a leaf is neither found nor declared fresh.
    """
    source = load_model(path)
    initial = train_state.init_variables(model, key)
    report: dict[str, list[str]] = {"restored": [], "expanded": [], "resized": [], "fresh": [], "unused": []}
    faults = []
    try:
        patterns = [re.compile(pattern) for pattern in fresh]
    except re.error as error:
        raise ValueError(f"init_from.fresh: {error.pattern!r} is no regular expression: {error}") from error
    result = {}
    theirs, expanded = transfer.expand_into_experts(trees.flatten(source.variables), model)
    used_patterns = set()
    for path_, leaf in trees.flatten(initial).items():
        name = path_.split("/", 1)[1]  # patterns speak of paths without "params/" or "batch_stats/"
        declared = [pattern for pattern in patterns if pattern.fullmatch(name)]
        used_patterns.update(declared)
        there = theirs.get(path_)
        if declared:
            kind, result[path_] = "fresh", leaf
        elif there is not None and there.shape == leaf.shape:
            kind, result[path_] = "expanded" if path_ in expanded else "restored", there
        elif there is not None and name == "backbone/pos_embed" and there.shape[-1] == leaf.shape[-1]:
            kind = "resized"
            result[path_] = pos_embed.resize(there, source.model.patch_grid, model.patch_grid)
        else:
            shape = "nothing" if there is None else f"shape {there.shape}"
            faults.append(f"  {path_} {leaf.shape}: the checkpoint has {shape}")
            continue
        report[kind].append(path_)
    report["unused"] = [path_ for path_ in theirs if path_ not in result]
    faults += [f"  fresh pattern {p.pattern!r} matches no parameter" for p in patterns if p not in used_patterns]
    if not report["restored"]:
        faults.append("  nothing matched")
    if faults:
        raise ValueError(
            f"init_from {source.path}: declare what shall start fresh by patterns, such as "
            '--config.init_from.fresh=("decoders/.*",), or choose a fitting checkpoint:\n' + "\n".join(faults)
        )
    return {"batch_stats": {}} | trees.unflatten(result), report


# Orbax keeps metrics beside a step; the one that marks the best is stored under this name too, so that whoever opens
# the folder later need not know which it was.
_BEST_KEY = "best_metric"


def _manager(folder: epath.Path, *, keep_last: int | None) -> ocp.CheckpointManager:
    """Opens a folder of steps: for writing, or (keep_last None) for reading any part of a state."""
    if keep_last is None:
        return ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(read_only=True, create=False, best_fn=_best),
            item_handlers={"state": ocp.PyTreeCheckpointHandler(), "model": ocp.JsonCheckpointHandler()},
        )
    best = preservation_policy.BestN(get_metric_fn=_best, n=1, keep_checkpoints_without_metrics=False)
    policy = preservation_policy.AnyPreservationPolicy([preservation_policy.LatestN(keep_last), best])
    return ocp.CheckpointManager(
        folder,
        # Orbax stores metrics only where it is told how to compare them.
        options=ocp.CheckpointManagerOptions(preservation_policy=policy, best_fn=_best),
        item_handlers={"state": ocp.StandardCheckpointHandler(), "model": ocp.JsonCheckpointHandler()},
    )


def _best(metrics: Mapping[str, float]) -> float:
    return metrics[_BEST_KEY]


def _find(path: str | os.PathLike) -> tuple[epath.Path, int | None]:
    """The folder of steps that a path means, and the step if it names one."""
    folder = epath.Path(path).resolve()
    if not folder.exists():
        raise ValueError(f"no checkpoint: {folder} does not exist")
    if folder.name.isdigit() and (folder / "model").exists():
        return folder.parent, int(folder.name)
    for candidate in (folder / FOLDER, folder):
        if candidate.is_dir() and any(p.name.isdigit() and (p / "model").exists() for p in candidate.iterdir()):
            return candidate, None
    raise ValueError(
        f"no checkpoint in {folder}: give a run's folder (with {FOLDER}/<step> inside) or one step's folder"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
