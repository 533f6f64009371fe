"""Checkpoints: a folder that training resumes from, and that evaluation and inference take by its path alone.

    <workdir>/checkpoints/<step>/state     step, parameters, batch statistics, optimizer state (Orbax)
    <workdir>/checkpoints/<step>/model     JSON: the settings that make the model, and where its keypoints are named

Orbax writes a step beside its place and renames it, so that an interrupted save never replaces a good one. In a bucket,
where nothing can be renamed, it writes a step in its place and last a file that says that it is whole.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from vitpose_jax import interrupt, paths, trees
from vitpose_jax.data.files import folder_written_beside
from vitpose_jax.training import processes
from vitpose_jax.training import state as train_state
from vitpose_jax.training.model_file import MODELS, ModelFile

FOLDER = "checkpoints"


class Checkpoints:
    """The checkpoints of one run: the last few, and the best by a metric. Saves run in the background.

    Args:
        workdir: the run's folder.
        model_file: what makes the model usable, written with every checkpoint.
        keep_last: how many of the newest to keep.
        best_metric: the metric whose largest value marks the best checkpoint, which is kept too; None if the newest is
            the one to use.
    """

    def __init__(self, workdir: str | os.PathLike, model_file: "ModelFile", *, keep_last: int, best_metric: str | None):
        if keep_last < 1:
            raise ValueError(f"keep_last must be at least 1, not {keep_last}")
        self.folder = paths.path(workdir).resolve() / FOLDER
        self._model_file = model_file
        self._best_metric = best_metric
        self._keep_last = keep_last
        self._manager = _manager(self.folder, keep_last=keep_last)
        seen = multihost_utils.process_allgather(np.array([self.folder.exists(), self.latest_step or -1]))
        if (seen != seen.reshape(-1, 2)[0]).any():
            raise ValueError(
                f"the processes of this run see different folders as {self.folder}: it needs to be one that all hosts "
                "share, such as a bucket (gs://…) or a network file system"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not processes.lost_another(error):  # else this would wait for a process that is gone
            self.close()

    @property
    def latest_step(self) -> int | None:
        """Newest saved step; None when there is none."""
        return self._manager.latest_step()

    def save(self, state: train_state.TrainState) -> None:
        """Saves a train state; returns as soon as its arrays are copied. A step saved already is left as it is."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state._asdict()), model=ocp.args.JsonSave(self._model_file.as_json())
            ),
        )

    def evaluated(self, step: int) -> bool:
        """Whether the evaluation of a saved step stands beside it."""
        return self._manager.metrics(step) is not None

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Puts an evaluation's result beside a saved step: it may be the best from now on."""
        if self._best_metric is not None and self._best_metric not in metrics:
            raise ValueError(f"the best checkpoint is chosen by {self._best_metric!r}, but there are {sorted(metrics)}")
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            best = step if self._best_metric is None else metrics[self._best_metric]
            content = json.dumps({**metrics, _BEST_KEY: best})
            paths.write(self.folder / str(step) / "metrics" / "metrics", content)  # where Orbax keeps them
        multihost_utils.sync_global_devices(f"metrics of step {step}")
        self._manager.reload()
        kept = {*sorted(self._manager.all_steps())[-self._keep_last :], self._manager.best_step()}
        for superseded in set(self._manager.all_steps()) - kept:
            self._manager.delete(superseded)

    def restore(self, target: train_state.TrainState) -> train_state.TrainState:
        """The newest train state, placed as the target says.

        Args:
            target: shapes, dtypes and shardings, from `state.abstract_state`.

        Raises:
            ValueError: if a leaf's shape differs, or what the model file says of the model, its keypoints or its
                heatmaps: the checkpoint belongs to another model.
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
                f"checkpoint {self.folder / str(step)} is of another model or optimizer (config.model, or "
                "config.optimizer.freeze); use another --workdir, or init_from to start a new run from its weights:\n"
                + "\n".join(faults)
            )
        model = self._manager.restore(step, args=ocp.args.Composite(model=ocp.args.JsonRestore()))["model"]
        differences = self._model_file.differences(ModelFile.from_json(model, self.folder / str(step)))
        if differences:
            raise ValueError(
                f"checkpoint {self.folder / str(step)} fits in its shapes, but means something else: set these back, "
                "use another --workdir, or init_from to start a new run from its weights:\n" + "\n".join(differences)
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
    file = ModelFile.from_json(restored["model"], folder / str(step))
    found = {name: value for name, value in metrics.items() if name != _BEST_KEY}
    variables = {"params": restored["state"]["params"], "batch_stats": restored["state"]["batch_stats"]}
    return LoadedModel(MODELS[file.task](**file.settings), file, variables, str(folder / str(step)), step, found)


def load_model_file(path: str | os.PathLike) -> ModelFile:
    """The model file alone of what `load_model` would load."""
    folder, step = _find(path)
    with _manager(folder, keep_last=None) as manager:
        step = _chosen(manager, step)
        restored = manager.restore(step, args=ocp.args.Composite(model=ocp.args.JsonRestore()))
    return ModelFile.from_json(restored["model"], folder / str(step))


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


def run_folder(step_path: str) -> epath.Path:
    """The folder of the run that a step's folder belongs to."""
    steps = paths.path(step_path).parent
    return steps.parent if steps.name == FOLDER else steps


# Orbax keeps metrics beside a step; the one that marks the best is stored under this name too, so that whoever opens
# the folder later need not know which it was.
_BEST_KEY = "best_metric"


def _manager(folder: epath.Path, *, keep_last: int | None) -> ocp.CheckpointManager:
    """Opens a folder of steps: for writing, or (keep_last None) for reading any part of a state."""
    if keep_last is None:
        return _Manager(
            folder,
            options=ocp.CheckpointManagerOptions(read_only=True, create=False, best_fn=_best),
            item_handlers={"state": ocp.PyTreeCheckpointHandler(), "model": ocp.JsonCheckpointHandler()},
        )
    best = preservation_policy.BestN(get_metric_fn=_best, n=1, keep_checkpoints_without_metrics=False)
    policy = preservation_policy.AnyPreservationPolicy([preservation_policy.LatestN(keep_last), best])
    return _Manager(
        folder,
        # Orbax stores metrics only where it is told how to compare them.
        options=ocp.CheckpointManagerOptions(preservation_policy=policy, best_fn=_best),
        item_handlers={"state": ocp.StandardCheckpointHandler(), "model": ocp.JsonCheckpointHandler()},
    )


class _Manager(ocp.CheckpointManager):
    """Leaves it to `processes.Stop` to ask JAX for the moment to stop: both would disturb each other's count."""

    def reached_preemption(self, step: int) -> bool:
        return False


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
    folder = paths.path(path).resolve()
    if not folder.exists():
        raise ValueError(f"no checkpoint: {folder} does not exist")
    if _is_step(folder):
        return folder.parent, int(folder.name)
    for candidate in (folder / FOLDER, folder):
        if candidate.is_dir() and any(map(_is_step, candidate.iterdir())):
            return candidate, None
    raise ValueError(
        f"no checkpoint in {folder}: give a run's folder (with {FOLDER}/<step> inside) or one step's folder"
    )


def _is_step(folder: epath.Path) -> bool:
    return folder.name.isdigit() and (folder / "model").exists() and (folder / "state").exists()


def _chosen(manager: ocp.CheckpointManager, step: int | None) -> int:
    """The step asked for; else the best when an evaluation marked one; else the newest."""
    if step is not None:
        return step
    steps = sorted(manager.all_steps())
    if not steps:
        raise ValueError(f"no checkpoint in {manager.directory}: no step there was saved whole")
    marks = {s: metrics[_BEST_KEY] for s in steps if (metrics := manager.metrics(s))}
    return max(marks, key=lambda s: (marks[s], s)) if marks else steps[-1]
