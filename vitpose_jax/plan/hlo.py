"""Reads what a compiled program does from its text: matrix products, memory traffic, collectives.

The compiler's own cost analysis counts the body of a loop once. The encoder is a loop over its blocks, so everything
here is multiplied with the number of times that it runs, which stands in the loop's condition.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

# Bytes of an element; what is not here has no size in memory (tokens).
ITEM_BYTES = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8,
    "u64": 8, "f64": 8, "token": 0,
}  # fmt: skip

# "send": between TPU slices, where the runtime makes all-reduces of what is sent.
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "send")

# Instructions that move nothing themselves.
_NO_TRAFFIC = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "iota", "opt-barrier", "send", "recv",
}  # fmt: skip

_SHAPE = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\](?:\{[^{}]*\})?")
_HEAD = re.compile(r"^(?:ENTRY )?%?([^\s(]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?(\S+) = ")


class Shape(NamedTuple):
    """An array's element type, dimensions, and whether it lives in the chip's main memory."""

    dtype: str
    dims: tuple[int, ...]
    in_main_memory: bool  # TPU programs mark what they keep in the fast on-chip memory with S(1)

    @property
    def num_bytes(self) -> int:
        return math.prod(self.dims) * ITEM_BYTES[self.dtype]


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    shapes: tuple[Shape, ...]  # of its result, which may be a tuple
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    def called(self, *attributes: str) -> list[str]:
        """Names of the computations that these attributes name."""
        pattern = rf"\b(?:{'|'.join(attributes)})=(?:%?([\w.\-]+)|\{{([^}}]*)\}})"
        found = [one or several for one, several in re.findall(pattern, self.attributes)]
        return [name.strip().lstrip("%") for names in found for name in names.split(",")]


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Collective:
    """An exchange between devices, as often as it runs in one step."""

    kind: str  # one of COLLECTIVES
    num_bytes: int  # gathered by all of a group; or what each of them gives to be reduced, scattered or sent
    groups: tuple[tuple[int, ...], ...]  # devices that exchange, by their place in the mesh
    count: int  # times in a step
    hidden: bool  # started and awaited separately, or fused with arithmetic: other work goes on meanwhile


@dataclasses.dataclass(frozen=True)
class Program:
    """What one device does in one step."""

    product_flops: float
    memory_bytes: float
    collectives: tuple[Collective, ...]


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """Computations of a module's text by name, and the name of its entry."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if current is None:
            head = _HEAD.match(line)
            if head:
                current = computations.setdefault(head[1], {})
                entry = head[1] if line.startswith("ENTRY") else entry
        elif line.startswith("}"):
            current = None
        elif match := _INSTRUCTION.match(line):
            current[match[2]] = _instruction(match[2], line[match.end() :], is_root=bool(match[1]))
    if not entry:
        raise ValueError("this is not the text of a compiled program: it has no ENTRY")
    return computations, entry


def read(text: str, num_devices: int) -> Program:
    """Sums up a compiled program, every loop's body as often as it runs.

    Args:
        text: `compiled.as_text()`.
        num_devices: of the mesh; the group of an exchange that names none.

    Raises:
        ValueError: for a loop whose number of rounds does not stand in its condition.
    """
    computations, entry = parse(text)
    flops = memory = 0.0
    collectives: dict[Any, Collective] = {}
    for name, computation, times, fused in _walk(computations, entry):
        for instruction in computation.values():
            if instruction.opcode in ("convolution", "dot"):
                flops += times * _product_flops(instruction, computation)
            if not (fused or instruction.opcode in _NO_TRAFFIC or instruction.opcode.endswith("-done")):
                memory += times * _traffic(instruction, computation, computations)
            collective = _collective(instruction, computation, name, times, num_devices)
            if collective is not None:
                # One exchange in several steps stands in the text once for each step.
                stepwise = "async_collective_fusion_config" in instruction.attributes
                channel = re.search(r"channel_id=(\d+)", instruction.attributes)
                collectives[(channel and channel[1], times, collective) if stepwise else len(collectives)] = collective
    return Program(flops, memory, tuple(collectives.values()))


def _instruction(name: str, rest: str, *, is_root: bool) -> Instruction:
    end = _closing(rest, 0) if rest.startswith("(") else rest.index(" ")
    shapes = tuple(_shape(match) for match in _SHAPE.finditer(rest[:end]) if match[1] in ITEM_BYTES)
    rest = rest[end:].lstrip(") ")
    opcode, _, rest = rest.partition("(")
    end = _closing("(" + rest, 0) - 1
    literal = opcode in ("constant", "parameter")  # a value, a number
    operands = (rest[:end],) if literal else tuple(re.findall(r"%([\w.\-]+)", rest[:end]))
    return Instruction(name, shapes, opcode, operands, rest[end + 1 :], is_root)


def _closing(text: str, start: int) -> int:
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place
    raise ValueError(f"unbalanced parentheses in {text[:80]!r}")


def _shape(match: re.Match) -> Shape:
    dims = tuple(int(size) for size in match[2].split(",") if size)
    return Shape(match[1], dims, not re.search(r"S\([1-9]\)", match[0]))


def _walk(computations: Mapping[str, Computation], entry: str) -> Iterator[tuple[str, Computation, int, bool]]:
    """(name, computation, times that it runs, whether it is the inside of a fusion), once for each caller."""
    waiting = [(entry, 1, False)]
    while waiting:
        name, times, fused = waiting.pop()
        computation = computations[name]
        yield name, computation, times, fused
        for instruction in computation.values():
            if instruction.opcode == "while":
                (condition,), (body,) = instruction.called("condition"), instruction.called("body")
                rounds = trip_count(computations[condition], computations[body], condition)
                waiting.append((body, times * rounds, fused))
            elif instruction.opcode == "conditional":
                branches = instruction.called("branch_computations", "true_computation", "false_computation")
                waiting += [(branch, times, fused) for branch in branches]
            elif instruction.opcode in ("fusion", "call", "async-start"):
                inside = fused or instruction.opcode == "fusion"
                waiting += [(each, times, inside) for each in instruction.called("calls", "to_apply")]


def trip_count(condition: Computation, body: Computation, name: str) -> int:
    """How often a loop runs that counts from 0 up to a constant, as scans do and as products in several rounds do.

    Args:
        condition: compares the counter, an element of the loop's tuple, with a constant.
        body: adds a constant to it.
        name: of the loop, for the error.

    Raises:
        ValueError: for a loop of another kind.
    """
    compared = [each for each in condition.values() if "direction=LT" in each.attributes]
    if len(compared) == 1:
        counter, bound = (condition[operand] for operand in compared[0].operands)
        place = re.search(r"index=(\d+)", counter.attributes)
        root = next(each for each in body.values() if each.is_root)
        if bound.opcode == "constant" and place and root.opcode == "tuple":
            added = body[root.operands[int(place[1])]]
            steps = [body[each] for each in added.operands if each in body and body[each].opcode == "constant"]
            if added.opcode == "add" and len(steps) == 1:
                return -(-int(bound.operands[0]) // int(steps[0].operands[0]))
    raise ValueError(f"loop {name} does not count up to a constant: {list(condition.values())}")


def _product_flops(instruction: Instruction, computation: Computation) -> float:
    """Multiplications and additions of a product, those with padding and with dilation's zeros left out."""
    left, right = (computation[name].shapes[0] for name in instruction.operands[:2])
    out = instruction.shapes[0]
    if instruction.opcode == "dot":
        contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        sizes = [left.dims[int(axis)] for axis in contracted[1].split(",") if axis] if contracted else []
        return 2.0 * math.prod(out.dims) * math.prod(sizes)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    if labels is None:
        raise ValueError(f"convolution {instruction.name} has no dim_labels")
    window = _window(instruction.attributes)
    positions = 1
    for axis in sorted(filter(str.isdigit, labels[1])):
        positions *= _valid_positions(
            out.dims[labels[3].index(axis)], right.dims[labels[2].index(axis)], left.dims[labels[1].index(axis)],
            {key: values[int(axis)] for key, values in window.items()},
        )  # fmt: skip
    groups = re.search(r"batch_group_count=(\d+)", instruction.attributes)
    batch = out.dims[labels[3].index("b")]
    features_in, features_out = (right.dims[labels[2].index(label)] for label in "io")
    return 2.0 * batch * positions * features_in * features_out / (int(groups[1]) if groups else 1)


def _window(attributes: str) -> dict[str, list[str]]:
    found = re.search(r"window=\{([^}]*)\}", attributes)
    pairs = (item.split("=") for item in found[1].split()) if found else ()
    return {key: value.split("x") for key, value in pairs}


def _valid_positions(out: int, size: int, into: int, window: Mapping[str, str]) -> int:
    """Pairs of an output place and a kernel tap, along one axis, that meet an element of the input."""
    low = int(window.get("pad", "0_0").split("_")[0])
    stride, dilate = int(window.get("stride", 1)), int(window.get("lhs_dilate", 1))
    spread = int(window.get("rhs_dilate", 1))
    place = np.arange(out)[:, None] * stride + np.arange(size) * spread - low
    return int(((place >= 0) & (place <= (into - 1) * dilate) & (place % dilate == 0)).sum())


def _traffic(instruction: Instruction, computation: Computation, computations: Mapping[str, Computation]) -> float:
    """Bytes of main memory that an instruction reads and writes; of arrays that it only cuts from, the cut."""
    if instruction.opcode in ("dynamic-slice", "slice", "gather"):
        return 2.0 * _main(instruction.shapes)
    if instruction.opcode == "dynamic-update-slice":
        return 2.0 * _main(computation[instruction.operands[1]].shapes)
    if instruction.opcode == "custom-call" and 'custom_call_target="tpu_custom_call"' not in instruction.attributes:
        return 0.0  # the compiler's own marks; hand-written kernels are the other kind
    if instruction.opcode.endswith("-start"):  # its result holds what is read and what is written
        source, cut, *_ = (*instruction.shapes, *instruction.shapes)
        if instruction.opcode == "slice-start":
            return float(cut.num_bytes * (source.in_main_memory + cut.in_main_memory))
        return _main(instruction.shapes)
    if instruction.opcode == "fusion":
        return _fusion_traffic(instruction, computation, computations)
    operands = [computation[name].shapes for name in instruction.operands if name in computation]
    return _main(instruction.shapes) + sum(map(_main, operands))


def _fusion_traffic(
    instruction: Instruction, computation: Computation, computations: Mapping[str, Computation]
) -> float:
    """What a fusion reads of its operands and writes of its results: stacks of all layers it often only cuts."""
    inside = computations[instruction.called("calls")[0]]
    root = next(each for each in inside.values() if each.is_root)
    results = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
    total = 0.0
    if len(results) == len(instruction.shapes):
        for shape, result in zip(instruction.shapes, results, strict=True):
            total += _written(result, inside, computations) if shape.in_main_memory else 0
    else:  # one instruction with several results, such as a maximum and its place
        total += _main(instruction.shapes)
    for parameter in (each for each in inside.values() if each.opcode == "parameter"):
        operand = computation[instruction.operands[int(parameter.operands[0])]]
        whole = _main(operand.shapes)
        total += min(whole, _read(parameter.name, inside, computations, whole)) if whole else 0
    return total


def _written(result: Instruction, inside: Computation, computations: Mapping[str, Computation]) -> int:
    """Bytes that change in an array that a fusion returns."""
    if result.opcode == "dynamic-update-slice":
        return inside[result.operands[1]].shapes[0].num_bytes
    if result.opcode == "bitcast":
        return _written(inside[result.operands[0]], inside, computations)
    if result.opcode == "fusion":
        called = computations[result.called("calls")[0]]
        return _written(next(each for each in called.values() if each.is_root), called, computations)
    return 0 if result.opcode == "parameter" else sum(shape.num_bytes for shape in result.shapes)


def _read(name: str, inside: Computation, computations: Mapping[str, Computation], whole: float) -> float:
    """Bytes that the inside of a fusion reads of one of its arrays."""
    total = 0.0
    for user in (each for each in inside.values() if name in each.operands):
        if user.opcode == "dynamic-slice":
            total += user.shapes[0].num_bytes
        elif user.opcode == "bitcast":
            total += _read(user.name, inside, computations, whole)
        elif user.opcode == "fusion":
            called = computations[user.called("calls")[0]]
            places = [place for place, operand in enumerate(user.operands) if operand == name]
            for each in called.values():
                if each.opcode == "parameter" and int(each.operands[0]) in places:
                    total += _read(each.name, called, computations, whole)
        elif user.opcode != "tuple" and not (user.opcode == "dynamic-update-slice" and user.operands[0] == name):
            return whole
    return total


def _main(shapes: Sequence[Shape]) -> float:
    return float(sum(shape.num_bytes for shape in shapes if shape.in_main_memory))


def _collective(
    instruction: Instruction, computation: Computation, name: str, times: int, num_devices: int
) -> Collective | None:
    started = instruction.opcode.endswith("-start")
    kind = instruction.opcode.removesuffix("-start")
    if kind not in COLLECTIVES:
        return None
    if kind == "send":
        own = (tuple(range(num_devices)),)
        return Collective(kind, instruction.shapes[0].num_bytes, own, times, hidden=True)
    given = sum(computation[operand].shapes[0].num_bytes for operand in instruction.operands)
    groups = device_groups(instruction.attributes, num_devices)
    if kind == "all-gather":
        given *= len(groups[0])
    if kind == "all-reduce" and "all-reduce-scatter" in name:  # TPU's form of a reduce-scatter
        kind = "reduce-scatter"
    return Collective(kind, given, groups, times, started or "async_collective_fusion_config" in instruction.attributes)


def device_groups(attributes: str, num_devices: int) -> tuple[tuple[int, ...], ...]:
    """Which devices exchange with each other, from any of the ways that this is written.

    Args:
        attributes: of the instruction: `{{0,1},{2,3}}`, `[2,2]<=[4]`, `[2,2]<=[2,2]T(1,0)`, `mesh['a'=2,'b'=2] {'b'}`,
            `mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}`, or `source_target_pairs`.
        num_devices: of the mesh.

    Raises:
        ValueError: for another way.
    """
    found = re.search(r"(?:replica_groups|source_target_pairs)=(.*)", attributes)
    text = found[1] if found else "{}"
    if match := re.match(r"\{((?:\{[\d,]*\},?)*)\}", text):
        groups = [tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", match[1])]
        return tuple(groups) or (tuple(range(num_devices)),)
    if match := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, order, swap = ([int(x) for x in part.split(",")] if part else [] for part in match.groups())
        devices = np.arange(math.prod(order)).reshape(order)
        devices = devices.transpose(swap) if swap else devices
        return tuple(map(tuple, devices.reshape(shape).tolist()))
    ids = r"(?:,? device_ids=\(?\[?([\d,]*)\]?(?:T\(([\d,]+)\))?[^{]*)?"
    if match := re.match(rf"mesh\[([^\]]*)\]{ids} ?\{{([^}}]*)\}}", text):
        sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", match[1])}
        numbers, swap = ([int(x) for x in part.split(",")] if part else [] for part in match.group(2, 3))
        devices = np.array(numbers)
        if len(numbers) != math.prod(sizes.values()):  # a shape, or nothing: in the order of a transposed one
            devices = np.arange(math.prod(sizes.values())).reshape(numbers or -1)
            devices = devices.transpose(swap) if swap else devices
        used = re.findall(r"'([^']+)'", match[4])
        axes = [axis for axis in sizes if axis not in used] + used
        devices = devices.reshape(tuple(sizes.values())).transpose([list(sizes).index(axis) for axis in axes])
        return tuple(map(tuple, devices.reshape(-1, math.prod(sizes[axis] for axis in used)).tolist()))
    raise ValueError(f"groups of devices written in an unknown way: {text[:120]!r}")
