"""Plans: a compiled TPU program read, or a traced program estimated."""

import collections
import functools
import itertools
import json
import math
import re
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vitpose_jax import trees
from vitpose_jax.plan import hlo
from vitpose_jax.plan.case import Case, Places, abstract_mesh, described_devices, group, places, split_over
from vitpose_jax.plan.chips import Topology, exchange
from vitpose_jax.plan.cost import Ledger, Plan, block_outputs, leaf_bytes, model_flops
from vitpose_jax.plan.trace import estimate
from vitpose_jax.training import sharding
from vitpose_jax.training.state import TrainState


def compiled(case: Case, where: Topology, sizes: tuple[int, int, int]) -> Plan:
    """Compiles the step for the topology and reads the program. Takes one to five minutes.

    Raises:
        ValueError: for sizes that do not divide, a topology that libtpu does not know, or a libtpu whose programs this
            jaxlib cannot read.
    """
    mesh = sharding.make_mesh(**dict(zip(sharding.MESH_AXES, sizes, strict=True)), devices=described_devices(where))
    program, batch = case.program(mesh)
    begin = time.perf_counter()
    try:
        executable = program.step.trace(program.target, batch).lower().compile()
    except jax.errors.JaxRuntimeError as error:
        return _out_of_memory(case, where, sizes, program.target, batch, str(error), time.perf_counter() - begin)
    seconds = time.perf_counter() - begin
    found = hlo.read(_text(executable), math.prod(sizes))
    where_they_are = places(where, sizes, mesh.devices)
    ledger = Ledger()
    for each in found.collectives:
        traffic = exchange(each.kind, each.num_bytes, each.groups[0], *where_they_are, where)
        name = "between slices" if each.kind == "send" else each.kind
        ledger.add(name, traffic, count=each.count, hidden=each.hidden)
    stats = executable.memory_analysis()
    memory = state_memory(program.target, batch)
    memory["tiles"] = float(stats.argument_size_in_bytes) - sum(memory.values())  # state and batch are padded to tiles
    memory["activations"] = float(stats.temp_size_in_bytes)
    memory["output"] = float(stats.output_size_in_bytes - stats.alias_size_in_bytes)
    memory["program"] = float(stats.generated_code_size_in_bytes)
    return _plan(
        case, where, sizes, source="compiled", memory=memory, product_flops=found.product_flops,
        memory_bytes=found.memory_bytes, ledger=ledger, compile_s=seconds,
    )  # fmt: skip


def _text(executable: Any) -> str:
    try:
        return executable.as_text()
    except jax.errors.JaxRuntimeError as error:
        raise ValueError(
            f"jaxlib {jax.lib.__version__} cannot read what this libtpu compiled; install the libtpu of this jax, see "
            f"requirements-plan.txt: {str(error)[:300]}"
        ) from error


def estimated(case: Case, where: Topology, sizes: tuple[int, int, int]) -> Plan:
    """The same without a compiler: one device's share of the traced program, and exchanges by the sharding tables.

    Products are split evenly over `tensor`. Parameters split over fsdp are gathered before the forward and the backward
    pass and their gradients scattered, in the type of the computation; what is left is summed over data. Gathering
    runs beside the arithmetic; sums are waited for, of gradients and of activations over tensor. That is what most
    compiled programs do.

    Raises:
        ValueError: for sizes that do not divide.
    """
    data, fsdp, tensor = sizes
    mesh = abstract_mesh(sizes)
    if not where.is_gpu:
        sharding.check_slices(sizes, where.slices)
    sharding.check_batch_size(case.batch_size, mesh, name="config.train.batch_size", accumulate=case.accumulate)
    crops = case.batch_size // (data * fsdp)
    share = _share(json.dumps(case._replace(batch_size=crops)._asdict()))
    target = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        share.state, sharding.state_shardings(share.state, mesh),
    )  # fmt: skip
    specs = sharding.param_specs(target.params)
    ways = {
        tuple(leaf.shape): math.prod(_sizes(sizes, split_over(specs[path])))
        for path, leaf in trees.flatten(target.params).items()
    }
    counted = estimate(share.jaxpr, ways)
    ledger = exchanges(case, where, sizes, target, crops)
    memory = state_memory(target, share.batch)
    # Activations of one device's crops; those of heads and FFN features, most of them, are split over tensor.
    memory["activations"] = counted.peak_bytes / tensor
    state_bytes = sum(memory[name] for name in ("parameters", "optimizer"))
    return _plan(
        case, where, sizes, source="estimate", memory=memory, product_flops=counted.product_flops / tensor,
        memory_bytes=counted.memory_bytes / tensor + 2 * state_bytes, ledger=ledger,
    )  # fmt: skip


class _Share(NamedTuple):
    """The program of one device's crops, as if it were alone."""

    jaxpr: Any
    state: TrainState  # shapes
    batch: dict[str, jax.ShapeDtypeStruct]


@functools.lru_cache(maxsize=64)
def _share(case: str) -> _Share:
    """Of a case as JSON: many meshes give a device the same share of the batch."""
    mesh = abstract_mesh((1, 1, 1))
    program, batch = Case(**json.loads(case)).program(mesh)
    with jax.sharding.use_abstract_mesh(mesh):  # not of this machine's CPU: its products of bfloat16 are others
        return _Share(program.step.trace(program.target, batch).jaxpr.jaxpr, program.target, batch)


def lower_for_gpu(case: Case, sizes: tuple[int, int, int]) -> None:
    """Lowers the step for GPUs, as far as that goes without their compiler; fails where JAX has no lowering for them.

    Raises:
        ValueError: for sizes that do not divide.
    """
    program, batch = case.program(abstract_mesh(sizes))
    program.step.trace(program.target, batch).lower(lowering_platforms=("cuda",))


# Arrays on TPUs are tiles of 8 rows. Of shards that are not made of whole tiles libtpu's compiler makes sums instead of
# gathering and scattering: twice the bytes, and waited for. Seen in compiled programs, see `docs/scaling.md`.
TILE_ROWS = 8


def exchanges(case: Case, where: Topology, sizes: tuple[int, int, int], target: TrainState, crops: int) -> Ledger:
    """What the sharding tables make devices exchange in a step; `crops` of one device."""
    model = case.make_model()
    item = jnp.dtype(model.dtype).itemsize
    located = places(where, sizes, None)
    ledger = Ledger()
    specs = sharding.param_specs(target.params)
    _, fsdp, tensor = sizes
    # Of one kind, over the same axes, what a layer exchanges goes together, as compilers combine it.
    together: collections.Counter[tuple[str, tuple[str, ...], int]] = collections.Counter()
    for path, leaf in trees.flatten(target.params).items():
        axes = split_over(specs[path])
        kernel = path.endswith("kernel")
        times = leaf.shape[0] if "/blocks/" in path else 1
        size = leaf.size / times * (item if kernel else leaf.dtype.itemsize) / (tensor if "tensor" in axes else 1)
        left: tuple[str, ...] = ("data", "fsdp")
        if "fsdp" in axes:
            of_shard = next(
                dim // fsdp for dim, names in zip(leaf.shape, specs[path], strict=False) if "fsdp" in (names or ())
            )
            whole = where.is_gpu or of_shard % TILE_ROWS == 0
            together["all-gather" if whole else "all-reduce", ("fsdp",), 2 * times] += size
            together["reduce-scatter" if whole else "all-reduce", ("fsdp",), times] += size
            size, left = size / fsdp, ("data",)
        together["all-reduce", left, times] += size
    for (kind, over, count), size in together.items():
        if math.prod(_sizes(sizes, set(over))) > 1:
            hidden = kind == "all-gather"
            _add(ledger, kind, size, over, sizes, located, where, count=count * case.accumulate, hidden=hidden)
    again = 1 if model.backbone["remat"] == "full" else 0  # the attention's sum is needed for the MLP's input
    for blocks, numbers in block_outputs(model) if tensor > 1 else ():
        size, count = crops // case.accumulate * numbers * item, case.accumulate * (4 + again) * blocks
        _add(ledger, "all-reduce", size, ("tensor",), sizes, located, where, count=count, hidden=False)
    return ledger


def _add(
    ledger: Ledger, kind: str, size: float, axes: tuple[str, ...], sizes: tuple[int, int, int], located: Places,
    where: Topology, *, count: int, hidden: bool,
) -> None:  # fmt: skip
    traffic = exchange(kind, size, group(sizes, *axes), *located, where)
    ledger.add(kind, traffic, count=count, hidden=hidden)


def _sizes(sizes: tuple[int, int, int], axes: set[str]) -> list[int]:
    return [size for name, size in zip(sharding.MESH_AXES, sizes, strict=True) if name in axes]


def state_memory(target: TrainState, batch: dict[str, Any]) -> dict[str, float]:
    """Bytes on one device of what a step is given."""
    return {
        "parameters": sum(map(leaf_bytes, jax.tree.leaves((target.params, target.batch_stats)))),
        "optimizer": sum(map(leaf_bytes, jax.tree.leaves(target.opt_state))),
        "batch": sum(map(leaf_bytes, batch.values())),
    }


TENSOR_WAYS = (1, 2, 4, 8)


def best_meshes(case: Case, where: Topology) -> list[Plan]:
    """Estimates of all meshes that divide model and batch and keep fsdp and tensor within a slice or host, best first.

    Heads and features are split, each step of the network then waiting for sums, only as far as nothing fits otherwise.

    Raises:
        ValueError: when there is none.
    """
    found: list[Plan] = []
    each = math.prod(where.shape)
    for tensor, fsdp in itertools.product(TENSOR_WAYS, _divisors(each)):
        if any(plan.fits and plan.mesh[2] < tensor for plan in found):
            break
        data, rest = divmod(where.num_devices, fsdp * tensor)
        if rest or each % (fsdp * tensor) or case.batch_size % (data * fsdp):
            continue
        try:
            found.append(estimated(case, where, (data, fsdp, tensor)))
        except ValueError:  # heads, features or width that the mesh does not divide
            continue
    if not found:
        raise ValueError(
            f"{case.name}: no mesh of {where.num_devices} devices divides a batch of {case.batch_size} and the model; "
            f"the nearest batch that works is {-(-case.batch_size // where.num_devices) * where.num_devices}"
        )
    return sorted(found, key=rank)


def rank(plan: Plan) -> tuple[bool, float, int]:
    """Order of plans: what fits, the fastest for its number of devices, the simplest mesh."""
    return not plan.fits, -plan.images_per_s, plan.mesh[2] * plan.devices + plan.mesh[1]


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def _out_of_memory(
    case: Case, where: Topology, sizes: tuple[int, int, int], target: TrainState, batch: dict[str, Any], error: str,
    seconds: float,
) -> Plan:  # fmt: skip
    if "RESOURCE_EXHAUSTED" not in error:
        raise ValueError(f"the TPU compiler refused {case.name} on {where.label}, mesh {sizes}: {error[:2000]}")
    needed = re.search(r"\(([\d.]+)([MG])\) exceeds available HBM", error)
    memory = state_memory(target, batch)
    if needed:
        total = float(needed[1]) * 2 ** {"M": 20, "G": 30}[needed[2]]
        memory["activations"] = total - sum(memory.values())  # the compiler's number holds state and batch
    return _plan(
        case, where, sizes, source="compiled", memory=memory, product_flops=0.0, memory_bytes=0.0, ledger=Ledger(),
        compile_s=seconds, problem="does not fit: " + (needed[0] if needed else error.splitlines()[0][:200]),
    )  # fmt: skip


def _plan(
    case: Case, where: Topology, sizes: tuple[int, int, int], *, source: str, memory: dict[str, float],
    product_flops: float, memory_bytes: float, ledger: Ledger, compile_s: float = 0.0, problem: str = "",
) -> Plan:  # fmt: skip
    model = case.make_model()
    return Plan(
        name=case.name, topology=where.label, chip=where.chip.name, devices=where.num_devices, mesh=sizes,
        batch_size=case.batch_size, image_size=model.image_size, remat=model.backbone["remat"],
        accumulate=case.accumulate, source=source,
        memory=memory, memory_limit=where.chip.memory_bytes,
        model_flops=model_flops(model) * case.batch_size / where.num_devices, product_flops=product_flops,
        memory_bytes=memory_bytes, exchanges=ledger.kinds, hidden_s=ledger.hidden_s, exposed_s=ledger.exposed_s,
        peak_flops=where.chip.peak_flops, memory_bandwidth=where.chip.memory_bandwidth, problem=problem,
        compile_s=compile_s,
    )  # fmt: skip
