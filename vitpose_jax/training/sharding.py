"""Where arrays live: the device mesh, and two tables from parameter paths to its axes.

    data    replicas of the model; the slow links between hosts or slices
    fsdp    parameters and optimizer state are split, gathered when used; fast links
    tensor  heads and FFN features are split

A batch is split over data and fsdp. Only the three numbers change from a laptop core to a pod.
"""

import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vitpose_jax import trees

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_SPEC = PartitionSpec(("data", "fsdp"))

# Path to logical axes, one name or None per dimension.
LOGICAL_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    ("(backbone|mae_decoder)/pos_embed", (None, None, "embed")),
    ("backbone/cls_token", (None, None, "embed")),
    ("mae_decoder/mask_token", (None, None, "embed")),
    ("backbone/patch_embed/kernel", (None, None, None, "embed")),
    ("backbone/patch_embed/bias", (None,)),
    ("(backbone|mae_decoder)/blocks/norm[12]/(scale|bias)", ("layers", None)),
    ("(backbone|mae_decoder)/blocks/attn/qkv/kernel", ("layers", "embed", None, "heads", None)),
    ("(backbone|mae_decoder)/blocks/attn/qkv/bias", ("layers", None, "heads", None)),
    ("(backbone|mae_decoder)/blocks/attn/proj/kernel", ("layers", "heads", None, "embed")),
    ("(backbone|mae_decoder)/blocks/attn/proj/bias", ("layers", None)),
    ("(backbone|mae_decoder)/blocks/mlp/fc1/kernel", ("layers", "embed", "mlp")),
    ("(backbone|mae_decoder)/blocks/mlp/fc1/bias", ("layers", "mlp")),
    ("(backbone|mae_decoder)/blocks/mlp/fc2/kernel", ("layers", "mlp", "embed")),
    ("(backbone|mae_decoder)/blocks/mlp/fc2/bias", ("layers", None)),
    ("backbone/blocks/mlp/experts/kernel", ("layers", None, "mlp", "embed")),
    ("backbone/blocks/mlp/experts/bias", ("layers", None, None)),
    ("backbone/last_norm/(scale|bias)", (None,)),
    ("decoders/[^/]+/deconv[01]/kernel", (None, None, "embed", None)),
    ("decoders/[^/]+/bn[01]/(scale|bias|mean|var)", (None,)),
    ("decoders/[^/]+/final/kernel", (None, None, "embed", None)),
    ("decoders/[^/]+/final/bias", (None,)),
    ("mae_decoder/embed/kernel", (None, "embed")),
    ("mae_decoder/pred/kernel", ("embed", None)),
    ("mae_decoder/(embed|pred)/bias", (None,)),
    ("mae_decoder/norm/(scale|bias)", (None,)),
)  # fmt: skip

# Logical axis to mesh axis.
MESH_AXIS_OF: dict[str | None, str | None] = {
    None: None,
    "layers": None,
    "embed": "fsdp",
    "heads": "tensor",
    "mlp": "tensor",
}


def make_mesh(*, data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """The mesh of all devices of all processes.

    Args:
        data: replicas; one of the three may be -1 and takes the devices that the others leave.
        fsdp: ways that parameters are split.
        tensor: ways that heads and FFN features are split.

    Raises:
        ValueError: if the product is not the number of devices.
    """
    shape = {"data": data, "fsdp": fsdp, "tensor": tensor}
    free = [axis for axis, size in shape.items() if size == -1]
    wrong = {axis: size for axis, size in shape.items() if size < 1 and size != -1}
    devices = jax.device_count()
    known = math.prod(size for size in shape.values() if size != -1)
    if len(free) > 1 or wrong or (devices % known if free else devices != known):
        raise ValueError(
            f"mesh {shape} does not fit {devices} device(s): the product of its axes must be {devices}; at most one of "
            "them may be -1 and takes what the others leave"
        )
    if free:
        shape[free[0]] = devices // known
    return jax.make_mesh(tuple(shape.values()), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def param_specs(params: Any) -> dict[str, PartitionSpec]:
    """{path: partition} of parameters or batch statistics, by the two tables.

    Raises:
        ValueError: for a path without a row.
    """
    rows = trees.match(LOGICAL_AXES, trees.flatten(params), name="sharding")
    return {path: PartitionSpec(*(MESH_AXIS_OF[axis] for axis in axes)) for path, axes in rows.items()}


def place(params: Any, mesh: Mesh) -> Any:
    """Puts parameters or batch statistics of the host onto the devices that the tables say."""
    specs = param_specs(params)
    return trees.map_with_path(lambda path, leaf: jax.device_put(leaf, NamedSharding(mesh, specs[path])), params)


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """Shardings of a whole `TrainState`: optimizer moments lie where their parameter lies, scalars everywhere.

    Args:
        state: a TrainState of arrays or shapes.
        mesh: from `make_mesh`.

    Returns:
        A tree like `state` of `NamedSharding`.

    Raises:
        ValueError: for a leaf that belongs to no parameter, or a dimension that its mesh axis does not divide.
    """
    specs = param_specs(state.params) | param_specs(state.batch_stats)

    def sharding(path: str, leaf: Any) -> NamedSharding:
        if leaf.ndim == 0:
            return NamedSharding(mesh, PartitionSpec())
        # "opt_state/1/mu/backbone/…" belongs to the parameter that its end names.
        owner = next((p for p in (path[i:] for i in _part_starts(path)) if p in specs), None)
        if owner is None:
            raise ValueError(
                f"state leaf {path} of shape {leaf.shape} belongs to no parameter; give it a sharding rule"
            )
        for size, axis in zip(leaf.shape, specs[owner], strict=True):
            if axis is not None and size % mesh.shape[axis]:
                raise ValueError(f"{path}: {size} is not divisible by mesh axis {axis!r} = {mesh.shape[axis]}")
        return NamedSharding(mesh, specs[owner])

    return trees.map_with_path(sharding, state)


def _part_starts(path: str) -> list[int]:
    return [0, *(i + 1 for i, character in enumerate(path) if character == "/")]


def check_batch_size(batch_size: int, mesh: Mesh, *, name: str) -> None:
    """Raises ValueError, naming the setting, unless a batch can be split over the mesh's data and fsdp axes."""
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size < 1 or batch_size % ways:
        raise ValueError(f"{name} must be a positive multiple of mesh data x fsdp = {ways}, not {batch_size}")


def global_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's rows of a batch, as its part of global arrays split over data and fsdp.

    Args:
        batch: dictionary of numpy arrays [rows of this process, …].
        mesh: from `make_mesh`.

    Returns:
        The same dictionary of global `jax.Array`s [B, …].
    """
    sharding = NamedSharding(mesh, BATCH_SPEC)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
