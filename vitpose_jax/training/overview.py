"""What a run will hold on each device, in one table before it starts."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import rich.box
import rich.console
import rich.table
from jax.sharding import Mesh

from vitpose_jax import trees
from vitpose_jax.training.state import TrainState


def bytes_per_device(target: TrainState) -> dict[str, int]:
    """Bytes that each device holds of a state, by kind, and of the gradients of a step.

    Args:
        target: `Program.target`: shapes, dtypes and shardings.

    Returns:
        Kind to bytes. Activations are not among them: `remat` and the compiler decide about those.
    """
    moments = [leaf for path, leaf in trees.flatten(target.opt_state).items() if "/mu/" in path]
    kinds = {
        "parameters": target.params,
        "optimizer": target.opt_state,
        "running statistics": target.batch_stats,
        "gradients": moments,  # of what is trained: float32 and split like the parameters, as Adam's first moments are
    }
    return {kind: sum(map(_bytes, jax.tree.leaves(tree))) for kind, tree in kinds.items()}


def _bytes(leaf: Any) -> int:
    return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize


def print_overview(
    name: str,
    target: TrainState,
    mesh: Mesh,
    *,
    batch_size: int,
    accumulate: int,
    console: rich.console.Console | None = None,
) -> None:
    """Prints the mesh, the parameters, the bytes on each device by kind, and each device's share of a batch.

    Args:
        name: of the run.
        target: `Program.target`.
        mesh: the one that the target is split over.
        batch_size: of all devices together.
        accumulate: parts that a batch is computed in.
        console: where to print; standard output by default.
    """
    devices = mesh.devices.flat[0].device_kind
    split_ways = mesh.shape["data"] * mesh.shape["fsdp"]
    kinds = bytes_per_device(target)
    table = rich.table.Table(title=name, box=rich.box.SIMPLE_HEAD, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    rows: Mapping[str, str] = {
        f"devices ({devices})": f"{mesh.size}",
        "mesh": " × ".join(f"{axis} {size}" for axis, size in mesh.shape.items()),
        "parameters": f"{sum(leaf.size for leaf in jax.tree.leaves(target.params)) / 1e6:.1f} M",
        "crops of a batch": f"{batch_size}",
        "on each device at a time": f"{batch_size // split_ways // accumulate}"
        + (f", {accumulate} times a step" if accumulate > 1 else ""),
    }
    for row, value in rows.items():
        table.add_row(row, value, end_section=row.startswith("on each"))
    for kind, size in kinds.items():
        table.add_row(f"{kind}, each device", _readable(size))
    table.add_row("together, without activations", _readable(sum(kinds.values())))
    (console or rich.console.Console()).print(table)


def _readable(size: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= scale / 10:
            return f"{size / scale:.2f} {unit}"
    return f"{size / 2**10:.2f} KiB"
