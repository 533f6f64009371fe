"""Checkpoints: a folder that training resumes from, and that evaluation and inference take by its path alone.

    <workdir>/checkpoints/<step>/state     step, parameters, batch statistics, optimizer state (Orbax)
    <workdir>/checkpoints/<step>/model     JSON: the settings that make the model, and where its keypoints are named

Orbax writes a step beside its place and renames it, so that an interrupted save never replaces a good one.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy

from vitpose_jax import interrupt, trees
from vitpose_jax.data.files import folder_written_beside
from vitpose_jax.keypoints import KEYPOINT_SETS, KeypointSet, keypoint_set
from vitpose_jax.models.mae import mae
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.training import state as train_state

FOLDER = "checkpoints"
FORMAT = 1  # of the model file

# Task to the function that makes its model from plain settings.
MODELS: dict[str, Callable[..., Any]] = {"pose": vitpose, "mae": mae}


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
        settings: keyword arguments of the task's row in `MODELS`.
        datasets: per decoder the data set's facts: `keypoint_set` (a name), `udp`; for a keypoint set that is not a
            published one also `keypoints`, its fields.
        codec: how heatmaps were made and are read: `sigma` (cells), `blur_kernel` (cells).
        task: what the model is for, a key of `MODELS`.
        trained_on: names of the data sets that the weights learned from, here or before (`DATASETS`, or "custom").
        provenance: where converted weights come from: `source` (file name), `sha256`, `converter` (its version),
            `layout`, `size`, `decoder`, `datasets`, `recognized_as` (a key of `convert.released.RELEASED`, or None).
            Empty for weights that were trained here.
    """

    settings: Mapping[str, Any]
    datasets: Mapping[str, Mapping[str, Any]]
    codec: Mapping[str, Any]
    task: str = "pose"
    trained_on: Sequence[str] = ()
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def keypoint_set(self, dataset: str) -> KeypointSet:
        """What a data set's decoder predicts.

        Raises:
            ValueError: the model has no such decoder, or its keypoint set is unknown.
        """
        if dataset not in self.datasets:
            raise ValueError(f"this model has no decoder for {dataset!r}, only for {sorted(self.datasets)}")
        name, own = self.datasets[dataset]["keypoint_set"], self.datasets[dataset].get("keypoints")
        if own is not None:
            return keypoint_set(name, own)
        if name not in KEYPOINT_SETS:
            raise ValueError(f"the checkpoint names the keypoint set {name!r}; known are {sorted(KEYPOINT_SETS)}")
        return KEYPOINT_SETS[name]

    def as_json(self) -> dict:
        """Plain dictionaries, lists, strings and numbers."""
        return {
            "format": FORMAT,
            "settings": _plain(self.settings),
            "datasets": _plain(self.datasets),
            "codec": _plain(self.codec),
            "task": self.task,
            "trained_on": _plain(self.trained_on),
            "provenance": _plain(self.provenance),
        }


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with its weights."""

    model: Any  # ViTPose, or what else the file's task has in `MODELS`
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
        step = _chosen(manager, step)
        metrics = manager.metrics(step) or {}
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
    file = _model_file(restored["model"], folder / str(step))
    found = {name: value for name, value in metrics.items() if name != _BEST_KEY}
    variables = {"params": restored["state"]["params"], "batch_stats": restored["state"]["batch_stats"]}
    return LoadedModel(MODELS[file.task](**file.settings), file, variables, str(folder / str(step)), step, found)


def load_model_file(path: str | os.PathLike) -> ModelFile:
    """The model file alone of what `load_model` would load."""
    folder, step = _find(path)
    with _manager(folder, keep_last=None) as manager:
        step = _chosen(manager, step)
        restored = manager.restore(step, args=ocp.args.Composite(model=ocp.args.JsonRestore()))
    return _model_file(restored["model"], folder / str(step))


def save_model(folder: str | os.PathLike, variables: Mapping[str, Any], model_file: ModelFile) -> None:
    """Writes weights that were not trained here as a run's folder with one step, whole or not at all.

    Args:
        folder: must not exist, or be empty.
        variables: {"params", "batch_stats"} of float32 arrays.
        model_file: what makes them usable.
    """
    state = {"step": np.array(0, np.int32), "params": variables["params"], "batch_stats": variables["batch_stats"]}
    with (
        folder_written_beside(pathlib.Path(folder).resolve()) as partial,
        interrupt.held_back(),
        ocp.CheckpointManager(
            epath.Path(partial) / FOLDER,
            options=ocp.CheckpointManagerOptions(enable_async_checkpointing=False),
            item_handlers={"state": _frugal_handler(), "model": ocp.JsonCheckpointHandler()},
        ) as manager,
    ):
        manager.save(
            0,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(state, ocdbt_target_data_file_size=_FRUGAL_FILE_BYTES),
                model=ocp.args.JsonSave(model_file.as_json()),
            ),
        )


def is_checkpoint(path: str | os.PathLike) -> bool:
    """Whether `load_model` would find a checkpoint there."""
    try:
        _find(path)
    except ValueError:
        return False
    return True


def run_folder(step_path: str) -> pathlib.Path:
    """The folder of the run that a step's folder belongs to."""
    steps = pathlib.Path(step_path).parent
    return steps.parent if steps.name == FOLDER else steps


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


_FRUGAL_FILE_BYTES = 1 << 26


def _frugal_handler() -> ocp.PyTreeCheckpointHandler:
    """Writes numpy arrays without copying them first: a model in memory is written with hardly any more."""
    handlers = ocp.type_handlers
    registry = handlers.create_type_handler_registry(
        (int, handlers.ScalarHandler()),
        (np.ndarray, handlers.NumpyHandler(deepcopy_host_arrays=False)),
        (jax.Array, handlers.ArrayHandler()),
    )
    return ocp.PyTreeCheckpointHandler(save_concurrent_gb=1, type_handler_registry=registry)


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


def _chosen(manager: ocp.CheckpointManager, step: int | None) -> int:
    """The step asked for; else the best when an evaluation marked one; else the newest."""
    if step is not None:
        return step
    steps = sorted(manager.all_steps())
    marks = {s: metrics[_BEST_KEY] for s in steps if (metrics := manager.metrics(s))}
    return max(marks, key=lambda s: (marks[s], s)) if marks else steps[-1]


def _model_file(fields: Mapping[str, Any], path: epath.Path) -> ModelFile:
    if fields.get("format") != FORMAT:
        raise ValueError(f"{path} has format {fields.get('format')}, this version reads {FORMAT}")
    return ModelFile(
        **{field.name: fields[field.name] for field in dataclasses.fields(ModelFile) if field.name in fields}
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
