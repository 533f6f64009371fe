"""A trained model that another learns from: its heatmaps of each training batch, computed or read from a cache.

The teacher runs in a program of its own, before the student's update: nothing differentiates it, its weights are
arguments of that program and lie where the sharding tables say, and neither state nor checkpoints know of it.
"""

import hashlib
import io
import math
import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from vitpose_jax import paths
from vitpose_jax.models.settings import DTYPES
from vitpose_jax.models.vitpose import ViTPose
from vitpose_jax.training import checkpoint, sharding, tasks
from vitpose_jax.training.model_file import ModelFile


class Teacher:
    """Adds the teacher's heatmaps to training batches.

    Args:
        path: see `checkpoint.load_model`.
        student: what learns from it.
        student_file: its model file.
        datasets: those that are trained on, in the order of `TrainBatch.dataset`.
        mesh: devices to run on.
        dtype: of the teacher's computation, "float32" or "bfloat16"; None: as its checkpoint says.
        cache_dir: folder that keeps heatmaps, in float16, for runs that see the same batches; "" for none.
        cache_steps: how many of a run's first steps it keeps; None: all.

    Raises:
        ValueError: the teacher's crops, heatmaps or keypoints are not those of the student, or a setting is out of its
            range.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        student: ViTPose,
        student_file: ModelFile,
        datasets: Sequence[str],
        mesh: Mesh,
        dtype: str | None = None,
        cache_dir: str = "",
        cache_steps: int | None = None,
    ):
        if dtype is not None and dtype not in DTYPES:
            raise ValueError(f"teacher dtype must be one of {sorted(DTYPES)}, or None, not {dtype!r}")
        if cache_steps is not None and cache_steps < 1:
            raise ValueError(f"teacher cache_steps must be 1 or more, or None for all, not {cache_steps}")
        loaded = checkpoint.load_model(path)
        if loaded.file.task != "pose":
            raise ValueError(
                f"the teacher {loaded.path} predicts no poses: it is a model of the task {loaded.file.task!r}"
            )
        _check(loaded.path, loaded.model, loaded.file, student, student_file, datasets)
        model = loaded.model if dtype is None else loaded.model.clone(dtype=DTYPES[dtype])
        names = tuple(datasets)
        self._mesh, self._cache_steps = mesh, math.inf if cache_steps is None else cache_steps
        self._variables = {part: sharding.place(tree, mesh) for part, tree in loaded.variables.items()}
        self._cache = _Cache(cache_dir, loaded, model.dtype, names) if cache_dir else None

        def heatmaps(variables: Mapping, batch: Mapping[str, jax.Array]) -> jax.Array:
            return tasks.inference_heatmaps(model, names, variables["params"], variables["batch_stats"], batch)

        self._heatmaps = jax.jit(
            sharding.on_mesh(heatmaps, mesh), out_shardings=NamedSharding(mesh, sharding.BATCH_SPEC)
        )
        count = sum(leaf.size for leaf in jax.tree.leaves(loaded.variables["params"]))
        size = sum(leaf.addressable_data(0).nbytes for leaf in jax.tree.leaves(self._variables))
        self.description = (
            f"teacher: {loaded.path}, {count / 1e6:.1f} M parameters, {size / 2**20:.1f} MiB on each device"
        )
        if self._cache:
            per_crop = 2 * math.prod(student.heatmap_size) * max(student.num_keypoints[name] for name in names)
            self.description += f"; its heatmaps are kept in {self._cache.folder}, {per_crop / 2**10:.0f} KiB a crop"

    def __call__(self, step: int, rows: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """This process's rows of a batch as its part of global arrays, and the teacher's heatmaps of them.

        Args:
            step: number of the batch in its run; the cache may end at one.
            rows: what the training stream gives.

        Returns:
            The batch as `sharding.global_batch` makes it, with "teacher_heatmaps" [B, h, w, largest K]: float32, where
            the cache keeps them float16, whether they were read or computed.
        """
        batch = sharding.global_batch(rows, self._mesh)
        if self._cache is None or step >= self._cache_steps:
            return batch | {"teacher_heatmaps": self._heatmaps(self._variables, batch)}
        key = self._cache.key(rows)
        known = self._cache.read(key)
        # The teacher runs on all devices together, or not at all.
        if multihost_utils.process_allgather(np.array(known is not None)).all():
            return batch | sharding.global_batch({"teacher_heatmaps": known}, self._mesh)
        computed = self._heatmaps(self._variables, batch).astype(jnp.float16)
        if known is None:
            self._cache.write(key, _own_rows(computed))
        return batch | {"teacher_heatmaps": computed}


class _Cache:
    """Heatmaps by the crops that they are of: whatever makes the same batch finds them, whatever differs does not."""

    def __init__(self, folder: str, teacher: checkpoint.LoadedModel, dtype: Any, names: Sequence[str]):
        whose = hashlib.sha256(repr((jnp.dtype(dtype).name, names, sorted(teacher.file.settings.items()))).encode())
        for leaf in jax.tree.leaves(teacher.variables):
            whose.update(np.ascontiguousarray(leaf).data)
        self.folder = paths.path(folder) / whose.hexdigest()[:16]

    def key(self, rows: Mapping[str, np.ndarray]) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(rows["image"]).data)
        digest.update(np.ascontiguousarray(rows["dataset"]).data)
        return digest.hexdigest()[:32]

    def read(self, key: str) -> np.ndarray | None:
        file = self.folder / f"{key}.npy"
        return np.load(io.BytesIO(file.read_bytes())) if file.exists() else None

    def write(self, key: str, heatmaps: np.ndarray) -> None:
        content = io.BytesIO()
        np.save(content, heatmaps)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{key}.{uuid.uuid4().hex}.partial"  # another run may be writing the same
        partial.write_bytes(content.getvalue())
        partial.replace(self.folder / f"{key}.npy")


def _own_rows(array: jax.Array) -> np.ndarray:
    """The rows of a batch that this process's devices hold, ascending, see `sharding.process_rows`."""
    by_start = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(by_start[start]) for start in sorted(by_start)])


def _check(
    path: str, model: ViTPose, file: ModelFile, student: ViTPose, student_file: ModelFile, datasets: Sequence[str]
) -> None:
    """Raises ValueError unless a teacher's heatmaps mean what the student's shall mean."""
    sizes = (
        ("takes crops", "image_size", model.image_size, student.image_size),
        ("predicts heatmaps", "image_size and ratio", model.heatmap_size, student.heatmap_size),
    )
    for what, setting, theirs, ours in sizes:
        if tuple(theirs) != tuple(ours):
            raise ValueError(
                f"the teacher {path} {what} of {tuple(theirs)} (height, width), the student of {tuple(ours)}: give the "
                f"student the teacher's model {setting}"
            )
    if file.codec["sigma"] != student_file.codec["sigma"]:
        raise ValueError(
            f"the teacher {path} has learned heatmaps of sigma {file.codec['sigma']}, the student's are of sigma "
            f"{student_file.codec['sigma']}: set config.codec.sigma to the teacher's"
        )
    for name in datasets:
        if name not in file.datasets:
            raise ValueError(f"the teacher {path} has no decoder for {name!r}, only for {sorted(file.datasets)}")
        taught, wanted = file.keypoint_set(name), student_file.keypoint_set(name)
        if (taught.names, set(taught.swap)) != (wanted.names, set(wanted.swap)):
            raise ValueError(
                f"{name}: the teacher {path} predicts the keypoints {taught.names}, the student {wanted.names}; a "
                "teacher needs to have learned the same ones, in the same order"
            )
        if file.datasets[name]["udp"] != student_file.datasets[name]["udp"]:
            raise ValueError(
                f"{name}: one of the teacher {path} and the student has learned unbiased (UDP) heatmaps, the other has "
                "not; the same heatmap means other places to them"
            )
