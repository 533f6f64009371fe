"""Chips, and how they are wired: what the numbers of a plan are divided by.

Every number is the maker's for one chip, in one direction where it is a link; none was measured here. Of a TPU's memory
it is what libtpu's compiler says a program may use; of a GPU's nine tenths (XLA_PYTHON_CLIENT_MEM_FRACTION=.9; the rest
is left to the driver and NCCL).
"""

import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator.

    Attributes:
        name: as in a topology.
        peak_flops: bfloat16 products, operations a second.
        memory_bytes: main memory that a program may use.
        memory_bandwidth: of it, bytes a second.
        link_bandwidth: bytes a second of one fast link in one direction: one of a TPU's links to its neighbours; all of
            a GPU's links to its host's other GPUs.
        slow_bandwidth: bytes a second between slices or hosts, this chip's share.
        torus_axes: of the fast links; 0 where every chip of a host reaches every other.
        ring: an axis of the torus is a ring where its length is a multiple of this, a line otherwise; a 3D torus has
            rings only if all of its axes are.
        per_host: chips of a host.
        source: of the numbers.
    """

    name: str
    peak_flops: float
    memory_bytes: float
    memory_bandwidth: float
    link_bandwidth: float
    slow_bandwidth: float
    torus_axes: int
    ring: int
    per_host: int
    source: str


GIB = 2**30

_TPU = "cloud.google.com/tpu/docs/{}: ICI bandwidth of a chip over its {} ports and two directions; DCN of a {}"
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 197e12, 15.75 * GIB, 819e9, 50e9, 3.125e9, 2, 16, 4, _TPU.format("v5e", 4, "pod of 256")),
        Chip("v5p", 459e12, 95.73 * GIB, 2765e9, 100e9, 6.25e9, 3, 4, 4, _TPU.format("v5p", 6, "chip")),
        Chip("v6e", 918e12, 31.24 * GIB, 1638e9, 100e9, 12.5e9, 2, 16, 4, _TPU.format("v6e", 4, "pod of 256")),
        Chip("A100", 312e12, 0.9 * 80e9, 2039e9, 300e9, 25e9, 0, 0, 8, "NVIDIA A100 SXM data sheet; 200 Gb/s a GPU"),
        Chip("H100", 989e12, 0.9 * 80e9, 3350e9, 450e9, 50e9, 0, 0, 8, "NVIDIA H100 SXM data sheet; 400 Gb/s a GPU"),
        Chip("H200", 989e12, 0.9 * 141e9, 4800e9, 450e9, 50e9, 0, 0, 8, "NVIDIA H200 SXM data sheet; 400 Gb/s a GPU"),
    )
}  # fmt: skip

HOP_S = 1e-6  # assumed: what one hop of a fast link adds to an exchange
SLOW_HOP_S = 20e-6  # assumed: the same between slices or hosts


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips that work on one program.

    Attributes:
        name: as it was given: "v5e:16x16", "gpu:2x8xH100".
        chip: each of them.
        shape: of a slice's torus; of GPUs (those of a host,).
        slices: slices of TPUs, hosts of GPUs: between them are the slow links.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]
    slices: int

    @property
    def num_devices(self) -> int:
        return self.slices * math.prod(self.shape)

    @property
    def per_host(self) -> int:
        """Chips of a host: a slice of 8 chips of v5e or v6e is a single one."""
        if self.is_gpu:
            return self.shape[0]
        return 8 if self.chip.name in ("v5e", "v6e") and math.prod(self.shape) == 8 else self.chip.per_host

    @property
    def is_gpu(self) -> bool:
        return self.chip.torus_axes == 0

    @property
    def label(self) -> str:
        return self.name if self.is_gpu or self.slices == 1 else f"{self.slices} x {self.name}"


def topology(name: str, slices: int = 1) -> Topology:
    """A topology from its name.

    Args:
        name: "v5e:4x4", "v5p:2x2x1", "v6e:16x16"; "gpu:8xH100", or of several hosts "gpu:4x8xH100".
        slices: of TPUs, joined by the data-centre network.

    Raises:
        ValueError: for a name that is none of these.
    """
    if match := re.fullmatch(r"gpu:(?:(\d+)x)?(\d+)x(\w+)", name):
        hosts, each, kind = int(match[1] or 1), int(match[2]), match[3]
        if kind in CHIPS and CHIPS[kind].torus_axes == 0 and slices == 1 and 0 < each <= CHIPS[kind].per_host and hosts:
            return Topology(name, CHIPS[kind], (each,), hosts)
    elif match := re.fullmatch(r"(v\w+):(\d+(?:x\d+)*)", name):
        shape = tuple(int(size) for size in match[2].split("x"))
        chip = CHIPS.get(match[1])
        if chip is not None and len(shape) == chip.torus_axes and all(shape) and slices >= 1:
            return Topology(name, chip, shape, slices)
    tpus = [f"{chip.name}:{'x'.join(['4'] * chip.torus_axes)}" for chip in CHIPS.values() if chip.torus_axes]
    gpus = [f"gpu:8x{chip.name}" for chip in CHIPS.values() if not chip.torus_axes]
    raise ValueError(
        f"unknown topology {name!r} of {slices} slice(s); topologies are written {', '.join(tpus + gpus)}, any sizes; "
        "gpu:4x8xH100 are four hosts of 8 GPUs (--slices is for TPUs)"
    )


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one exchange costs one device."""

    fast_bytes: float
    slow_bytes: float
    seconds: float


def exchange(
    kind: str, num_bytes: float, group: Sequence[int], coordinates: np.ndarray, slice_of: np.ndarray, where: Topology
) -> Traffic:
    """Bytes that a device sends and the time that takes, by the rings that make an exchange cheapest.

    Over slow links an exchange is done in two steps: within each slice, then between the devices of equal place in
    different slices.

    Args:
        kind: of `hlo.COLLECTIVES`.
        num_bytes: see `hlo.Collective`.
        group: places in the mesh of the devices that exchange.
        coordinates: int [devices, axes of the torus], by place in the mesh.
        slice_of: int [devices].
        where: the topology.
    """
    members = np.asarray(group)
    slices = len(set(slice_of[members].tolist())) if kind != "send" else where.slices
    slow_hops = math.ceil(math.log2(slices))  # a tree between slices, where a hop is dear
    if kind == "send":  # the runtime reduces what every slice sent
        slow = 2 * num_bytes * (slices - 1) / slices
        return Traffic(0.0, slow, slow / where.chip.slow_bandwidth + slow_hops * SLOW_HOP_S)
    if kind == "collective-permute":
        fast, slow = (0.0, num_bytes) if slices > 1 else (num_bytes, 0.0)
        seconds = slow / where.chip.slow_bandwidth + fast / where.chip.link_bandwidth
        return Traffic(fast, slow, seconds + (SLOW_HOP_S if slow else HOP_S))
    within = len(members) // slices
    rounds = 2 if kind == "all-reduce" else 1
    fast = rounds * num_bytes * (within - 1) / within
    slow = rounds * num_bytes / within * (slices - 1) / slices
    seconds = 0.0
    if within > 1:
        own = members[slice_of[members] == slice_of[members[0]]]
        bandwidth, hops = _fast_links(coordinates[own], where)
        seconds += fast / bandwidth + rounds * hops * HOP_S
    if slices > 1:
        seconds += slow / where.chip.slow_bandwidth + rounds * slow_hops * SLOW_HOP_S
    return Traffic(fast, slow, seconds)


def _fast_links(places: np.ndarray, where: Topology) -> tuple[float, float]:
    """Bytes a second that each device of a group can send within it, and the hops of the longest way round."""
    if where.is_gpu:
        return where.chip.link_bandwidth, 1.0
    bandwidth, hops = 0.0, 0.0
    for axis, length in enumerate(where.shape):
        taken = np.unique(places[:, axis])
        if len(taken) == 1:
            continue
        stride = (taken[-1] - taken[0]) / (len(taken) - 1)  # groups that lie between each other share the links
        whole = [length] if where.chip.torus_axes == 2 else where.shape
        ring = all(each % where.chip.ring == 0 for each in whole) and round(len(taken) * stride) == length
        bandwidth += where.chip.link_bandwidth * (2 if ring else 1) / stride
        hops += (len(taken) - 1) * stride / (2 if ring else 1)
    return float(bandwidth), float(hops)
