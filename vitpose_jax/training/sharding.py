"""Where arrays live: the device mesh, and two tables from parameter paths to its axes.

    data    replicas of the model; the slow links between hosts or slices
    fsdp    parameters and optimizer state are split, gathered when used; fast links
    tensor  heads and FFN features are split

A batch is split over data and fsdp. Only the three numbers change from a laptop core to a pod.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vitpose_jax import trees
from vitpose_jax.models.placement import CROPS, placed

MESH_AXES = ("data", "fsdp", "tensor")
REPLICATED_MOST = 2**20  # bytes of one leaf
BATCH_SPEC = PartitionSpec(CROPS)

# Path to logical axes, one name or None per dimension.
LOGICAL_AXES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    ("(backbone|mae_decoder)/pos_embed", (None, None, "embed")),
    ("backbone/(cls_token|knowledge/token)", (None, None, "embed")),
    ("backbone/knowledge/proj/kernel", (None, "embed")),
    ("backbone/knowledge/proj/bias", (None,)),
    ("mae_decoder/mask_token", (None, None, "embed")),
    ("backbone/patch_embed/kernel", (None, None, None, "embed")),
    ("backbone/patch_embed/bias", (None,)),
    ("(backbone|mae_decoder)/blocks/norm[12]/(scale|bias)", ("layers", None)),
    ("(backbone|mae_decoder)/blocks/attn/qkv/kernel", ("layers", "embed", None, "heads", None)),
    ("(backbone|mae_decoder)/blocks/attn/qkv/bias", ("layers", None, "heads", None)),
    ("(backbone|mae_decoder)/blocks/attn/proj/kernel", ("layers", "heads", None, "embed")),
    ("(backbone|mae_decoder)/blocks/attn/proj/bias", ("layers", None)),
    ("backbone/blocks/attn/rel_pos/table", ("layers", None, None, "heads")),
    ("backbone/blocks/attn/rel_pos/(rows|cols)", ("layers", None, None)),
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


def make_mesh(*, data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of all devices of all processes.

    Args:
        data: replicas. One of the three numbers may be -1 and takes the devices that the others leave. If data and
            fsdp both are, fsdp takes the devices of one host and data the hosts: a model that does not fit one device
            runs with these numbers on any number of them.
        fsdp: ways that parameters are split.
        tensor: ways that heads and FFN features are split.
        devices: of a described topology; None for those that are there.

    Raises:
        ValueError: if the product is not the number of devices, or data cannot be split over the slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    per_host = sum(_host(device) == _host(devices[0]) for device in devices)
    sizes = mesh_sizes(data=data, fsdp=fsdp, tensor=tensor, devices=len(devices), per_host=per_host)
    return Mesh(arrange(sizes, devices), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def mesh_sizes(*, data: int, fsdp: int, tensor: int, devices: int, per_host: int) -> tuple[int, int, int]:
    """The three numbers with each -1 replaced, see `make_mesh`, for so many devices, so many of them on a host."""
    shape = {"data": data, "fsdp": fsdp, "tensor": tensor}
    if data == fsdp == -1 and tensor > 0:
        shape["fsdp"] = max(1, per_host // tensor)
    free = [axis for axis, size in shape.items() if size == -1]
    wrong = {axis: size for axis, size in shape.items() if size < 1 and size != -1}
    known = math.prod(size for size in shape.values() if size != -1)
    if len(free) > 1 or wrong or (devices % known if free else devices != known):
        raise ValueError(
            f"mesh {shape} does not fit {devices} device(s): the product of its axes must be {devices}; one "
            "of them may be -1 and takes what the others leave"
        )
    if free:
        shape[free[0]] = devices // known
    return shape["data"], shape["fsdp"], shape["tensor"]


def arrange(shape: tuple[int, int, int], devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices in the shape of a mesh, so that the axis `data` runs over the slowest links there are.

    Several TPU slices each hold whole rows of `data`, and within a slice the mesh follows the torus. Other devices are
    taken host by host: neighbours in `tensor`, then in `fsdp`, share a host as far as a host has devices.

    Raises:
        ValueError: if data is no multiple of the number of slices.
    """
    if devices[0].platform != "tpu":
        ordered = sorted(devices, key=lambda device: (_host(device), device.process_index, device.id))
        return np.array(ordered, dtype=object).reshape(shape)
    slices: dict[int, list[jax.Device]] = {}
    for device in devices:  # one slice may not be numbered
        slices.setdefault(getattr(device, "slice_index", 0), []).append(device)
    check_slices(shape, len(slices))
    data, *within = shape
    return np.concatenate([_on_torus((data // len(slices), *within), members) for _, members in sorted(slices.items())])


def check_slices(shape: tuple[int, int, int], slices: int) -> None:
    """Raises ValueError unless each of so many TPU slices holds whole rows of `data`."""
    data = shape[0]
    if data % slices:
        raise ValueError(
            f"mesh data = {data} cannot be split over {slices} slices: only data goes across slices, make it a "
            f"multiple of {slices}, fsdp x tensor a divisor of the {math.prod(shape) // slices} devices of one"
        )


def _on_torus(shape: tuple[int, ...], devices: Sequence[jax.Device]) -> np.ndarray:
    for split_axes in (False, True):
        try:
            return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=split_axes)
        except (NotImplementedError, AssertionError):  # no product of the torus' axes; cores of a chip listed apart
            continue
    return np.array(devices, dtype=object).reshape(shape)


def _host(device: jax.Device) -> int:
    # GPUs joined by fast links share a slice_index, though each may have a process of its own.
    return getattr(device, "slice_index", device.process_index) if device.platform == "gpu" else device.process_index


def on_mesh(function: Callable, mesh: Mesh) -> Callable:
    """The function that is jitted instead of `function`, so that its activations are split over the mesh too."""
    device = mesh.abstract_mesh.abstract_device  # None for a mesh of devices that are only described
    if mesh.size == 1 and device is not None and device.platform == jax.default_backend():
        return function

    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return traced


def param_specs(params: Any) -> dict[str, PartitionSpec]:
    """{path: partition} of parameters or batch statistics, by the two tables.

    Raises:
        ValueError: for a path without a row.
    """
    rows = trees.match(LOGICAL_AXES, trees.flatten(params), name="sharding")
    return {path: PartitionSpec(*(MESH_AXIS_OF[axis] for axis in axes)) for path, axes in rows.items()}


def place(params: Any, mesh: Mesh) -> Any:
    """Puts parameters or batch statistics of the host onto the devices that the tables say; see `check_sizes`."""
    check_sizes(params, mesh)
    specs = param_specs(params)
    return trees.map_with_path(lambda path, leaf: put(leaf, NamedSharding(mesh, specs[path])), params)


def put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """Puts an array that every process has in full onto the devices; each process sends what its own devices hold.

    (`jax.device_put` would first gather the array of every process, to compare them.)
    """
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def as_parameters(tree: Any) -> Any:
    """Something in the shape of the parameters, such as gradients, split as they are; for use within `on_mesh`."""
    specs = param_specs(tree)
    return trees.map_with_path(lambda path, leaf: placed(leaf, *specs[path]), tree)


def check_sizes(params: Any, mesh: Mesh) -> None:
    """Raises unless the mesh divides what it splits; for use before anything is opened or compiled.

    Args:
        params: parameters or their shapes.
        mesh: from `make_mesh`.

    Raises:
        ValueError: names the sizes that are not divided, and the nearest numbers that divide all.
    """
    flat = trees.flatten(params)
    rows = trees.match(LOGICAL_AXES, flat, name="sharding")
    for mesh_axis in ("fsdp", "tensor"):
        ways = mesh.shape[mesh_axis]
        sizes = {  # to the first place where it stands
            size: f"{size} ({axis}, {path})"
            for path, axes in reversed(rows.items())
            for size, axis in zip(flat[path].shape, axes, strict=True)
            if MESH_AXIS_OF[axis] == mesh_axis
        }
        wrong = [sizes[size] for size in sorted(sizes) if size % ways]
        if wrong:
            common = math.gcd(*sizes)
            near = _nearest(ways, [n for n in range(1, common + 1) if common % n == 0])
            raise ValueError(
                f"mesh.{mesh_axis} = {ways} does not divide {', '.join(wrong)}; the nearest that do: {near}"
            )


def _nearest(number: int, candidates: Sequence[int]) -> str:
    """The candidates (ascending) on either side of a number, as words."""
    below = [n for n in candidates if n < number][-1:]
    return " and ".join(map(str, below + [n for n in candidates if n > number][:1]))


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """Shardings of a whole `TrainState`: optimizer moments lie where their parameter lies, scalars everywhere.

    Args:
        state: a TrainState of arrays or shapes.
        mesh: from `make_mesh`.

    Returns:
        A tree like `state` of `NamedSharding`.

    Raises:
        ValueError: for a leaf that belongs to no parameter, a dimension that its mesh axis does not divide, or a leaf
            above `REPLICATED_MOST` bytes that every device would hold in whole though fsdp is above 1.
    """
    check_sizes(state.params, mesh)
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
        place = NamedSharding(mesh, specs[owner])
        size = math.prod(leaf.shape) * leaf.dtype.itemsize
        if mesh.shape["fsdp"] > 1 and place.is_fully_replicated and size > REPLICATED_MOST:
            raise ValueError(
                f"{path} of shape {leaf.shape} would lie in whole on every device: {size} bytes, and only leaves up to "
                f"{REPLICATED_MOST} may where fsdp is above 1; give its row of LOGICAL_AXES an axis that is split"
            )
        return place

    return trees.map_with_path(sharding, state)


def _part_starts(path: str) -> list[int]:
    return [0, *(i + 1 for i, character in enumerate(path) if character == "/")]


def check_batch_size(batch_size: int, mesh: Mesh, *, name: str, accumulate: int = 1) -> None:
    """Raises ValueError unless a batch can be split over the devices, in each of its parts.

    Args:
        batch_size: of all devices together.
        mesh: from `make_mesh`; its axes data and fsdp split a batch.
        name: of the setting, for the message.
        accumulate: parts that are computed one after the other.
    """
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    unit = ways * accumulate
    if batch_size < 1 or batch_size % unit:
        product = f"mesh data x fsdp = {ways}" + (f" times {accumulate} parts = {unit}" if accumulate > 1 else "")
        below = max(batch_size, 0) // unit * unit
        near = _nearest(batch_size, [size for size in (below, below + unit) if size])
        raise ValueError(f"{name} must be a positive multiple of {product}, not {batch_size}; the nearest: {near}")


def rounded_up(batch_size: int, mesh: Mesh, *, name: str) -> int:
    """The next batch that can be split over the devices, for work whose result does not depend on the batch.

    Args:
        batch_size: of all devices together.
        mesh: see `check_batch_size`.
        name: of the setting, for the message.

    Raises:
        ValueError: `batch_size` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"{name} must be positive, not {batch_size}")
    ways = mesh.shape["data"] * mesh.shape["fsdp"]
    return -(-batch_size // ways) * ways


def process_rows(batch_size: int, mesh: Mesh) -> np.ndarray:
    """Which rows of a global batch this process's devices hold, ascending: the rows that it has to make.

    Processes whose devices differ only along the tensor axis hold the same rows, and each of them makes them.

    Raises:
        ValueError: processes hold overlapping, but different rows.
    """
    rows_of: dict[int, set[int]] = {}
    device: jax.Device
    for device, index in NamedSharding(mesh, BATCH_SPEC).devices_indices_map((batch_size,)).items():
        rows_of.setdefault(device.process_index, set()).update(range(batch_size)[index[0]])
    own = rows_of[jax.process_index()]
    for process, rows in rows_of.items():
        if rows != own and rows & own:
            raise ValueError(
                f"mesh {dict(mesh.shape)} gives processes {jax.process_index()} and {process} overlapping rows of a "
                "batch, but not the same; choose mesh.tensor as a divisor or a multiple of the devices of a process, "
                f"which are {jax.local_device_count()}"
            )
    return np.array(sorted(own))


def global_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's rows of a batch, as its part of global arrays split over data and fsdp.

    Args:
        batch: dictionary of numpy arrays [R, …], of the rows that `process_rows` names.
        mesh: from `make_mesh`.

    Returns:
        The same dictionary of global `jax.Array`s [B, …].
    """
    sharding = NamedSharding(mesh, BATCH_SPEC)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}
