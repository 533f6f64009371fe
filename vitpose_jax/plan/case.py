"""What is planned: an experiment's train step, built as `train.py` builds it, for chips that are only described."""

import importlib.util
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from vitpose_jax.models.mae import MAE, mae
from vitpose_jax.models.vitpose import ViTPose, vitpose
from vitpose_jax.plan.chips import Topology
from vitpose_jax.training import freezing, optimizer, sharding, tasks, update

# The schedule only needs some numbers: they stand in the program as constants.
STEPS_PER_EPOCH, TOTAL_STEPS = 1000, 210_000


# libtpu looks for a TPU when it is loaded, asks the cloud about it, and warns when there is none.
NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}  # fmt: skip


class Case(NamedTuple):
    """The settings of an experiment that its compiled step depends on; sections of a config."""

    name: str
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    schedule: Mapping[str, Any]
    codec: Mapping[str, Any]  # empty with task "mae"
    batch_size: int
    accumulate: int = 1
    task: str = "pose"

    def make_model(self) -> ViTPose | MAE:
        """The model.

        Raises:
            ValueError: for settings that make none.
        """
        if self.task not in ("pose", "mae"):
            raise ValueError(f"{self.name}: plans are made for the tasks 'pose' and 'mae', not {self.task!r}")
        if self.task == "mae":
            return mae(**self.model)
        missing = [name for name, count in self.model["num_keypoints"].items() if count is None]
        if missing:
            raise ValueError(
                f"{self.name}: how many keypoints {missing} have stands in their data, which a plan does not open; say "
                f"--config.model.num_keypoints.{missing[0]}=17"
            )
        return vitpose(**self.model)

    def program(self, mesh: Any) -> tuple[update.Program, dict[str, jax.ShapeDtypeStruct]]:
        """The update that `train.py` runs on this mesh (of devices, or abstract), and a batch's shapes.

        Raises:
            ValueError: for sizes that the mesh does not divide.
        """
        sharding.check_batch_size(self.batch_size, mesh, name="config.train.batch_size", accumulate=self.accumulate)
        model = self.make_model()
        schedule = optimizer.make_schedule(**self.schedule, steps_per_epoch=STEPS_PER_EPOCH, total_steps=TOTAL_STEPS)
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {"image": ((*model.image_size, 3), jnp.uint8)}
        if isinstance(model, MAE):
            loss = tasks.mae_loss(model)
        else:
            learner = freezing.model_in_training(model, self.optimizer.get("freeze", ()))
            loss = tasks.pose_loss(learner, udp=dict.fromkeys(model.num_keypoints, True), sigma=self.codec["sigma"])
            most = max(model.num_keypoints.values())
            shapes |= {"keypoints": ((most, 3), jnp.float32), "dataset": ((), jnp.int32)}
        program = update.make_program(
            model,
            loss,
            schedule,
            optimizer_settings=self.optimizer,
            key=jax.random.key(0),
            mesh=mesh,
            accumulate=self.accumulate,
        )
        place = NamedSharding(mesh, sharding.BATCH_SPEC)
        return program, {
            name: jax.ShapeDtypeStruct((self.batch_size, *shape), dtype, sharding=place)
            for name, (shape, dtype) in shapes.items()
        }


def abstract_mesh(sizes: tuple[int, int, int]) -> Any:
    """A mesh without devices: for shapes, shardings and lowering."""
    return AbstractMesh(sizes, sharding.MESH_AXES, axis_types=(AxisType.Auto,) * len(sizes))


def described_devices(where: Topology) -> list[Any]:
    """Devices of a TPU topology, from libtpu, without any TPU.

    Raises:
        ValueError: libtpu is not installed, or knows no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            "libtpu, which holds the TPU compiler, is not installed: pip install -r requirements-plan.txt. Plans for "
            "GPUs, and of TPUs with --estimate, do without it"
        )
    for name, value in NO_TPU_HERE.items():
        os.environ.setdefault(name, value)
    slices = {"num_slices": where.slices} if where.slices > 1 else {}
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=where.name, **slices).devices)
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(f"libtpu has no topology {where.name!r}: {str(error).splitlines()[0]}") from None


class Places(NamedTuple):
    """Where the devices of a mesh are, by their place in it."""

    coordinates: np.ndarray  # int [devices, axes of the torus]
    slice_of: np.ndarray  # int [devices]: slice of a TPU, host of a GPU


def places(where: Topology, sizes: tuple[int, int, int], devices: np.ndarray | None) -> Places:
    """Where devices are.

    Args:
        where: the topology.
        sizes: of the mesh.
        devices: of a TPU mesh; None takes chips row by row, slice by slice.
    """
    each = int(np.prod(where.shape))
    if devices is None:
        index = np.arange(where.num_devices)
        return Places(np.stack(np.unravel_index(index % each, where.shape), axis=-1), index // each)
    flat = devices.reshape(-1)
    coordinates = np.array([device.coords[: len(where.shape)] for device in flat])
    return Places(coordinates, np.array([getattr(device, "slice_index", None) or 0 for device in flat]))


def group(sizes: tuple[int, int, int], *axes: str) -> tuple[int, ...]:
    """Places in the mesh of the devices that differ from the first one only along these axes."""
    index = np.arange(int(np.prod(sizes))).reshape(sizes)
    cut = tuple(slice(None) if name in axes else 0 for name in sharding.MESH_AXES)
    return tuple(index[cut].reshape(-1).tolist())


def split_over(spec: PartitionSpec) -> set[str]:
    """Mesh axes that a partition names."""
    return {name for entry in spec if entry for name in ((entry,) if isinstance(entry, str) else entry)}
