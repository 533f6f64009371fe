"""The tables of `docs/scaling.md`: which machine for which size of model, where it stops scaling, and why.

Everything that was worked out stands in a file of JSON lines beside the document. A run that is stopped goes on there;
to work something out again, delete its lines.
"""

import json
import math
import pathlib
from collections.abc import Callable, Sequence

from vitpose_jax.plan import planning
from vitpose_jax.plan.case import Case
from vitpose_jax.plan.chips import GIB, Topology, topology
from vitpose_jax.plan.cost import Plan, efficiency, lost_to, plan_of
from vitpose_jax.progress import progress_bar

BEGIN, END = "<!-- made by `make scaling`: begin -->", "<!-- made by `make scaling`: end -->"

_SMALL = "--config.model.image_size=(256,192)"
EXPERIMENTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("configs/vitpose_g.py", ()),
    ("configs/vitpose_h.py", ()),
    ("configs/vitpose_b.py", ()),
    ("configs/vitpose_l.py", ()),
    ("configs/vitpose_g.py", (_SMALL,)),
)  # fmt: skip

_SHAPES_2D = ("2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
MACHINES: dict[str, tuple[str, ...]] = {
    "v5e": tuple(f"v5e:{shape}" for shape in _SHAPES_2D),
    "v6e": tuple(f"v6e:{shape}" for shape in _SHAPES_2D),
    "v5p": tuple(f"v5p:{shape}" for shape in ("2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8")),
    "A100": ("gpu:8xA100", "gpu:32x8xA100"),
    "H100": ("gpu:8xH100", "gpu:4x8xH100", "gpu:8x8xH100", "gpu:32x8xH100"),
}
FROM, TO = 8, 256  # devices that efficiency is between
SHOWN = (FROM, 64, TO)  # devices of the machines that have a row; those between are estimated for where it stops

# What is recomputed, and the parts that a batch is computed in, if nothing fits otherwise.
LESS_MEMORY = {"none": ("none", "dots", "full"), "dots": ("dots", "full"), "full": ("full",)}
PARTS = (1, 2, 4, 8, 16, 32, 64)
STOPS_BELOW = 0.8  # efficiency at which a machine is called too large

ReadConfig = Callable[[str, Sequence[str]], tuple[Case, dict[str, int]]]


class Book:
    """Plans that were worked out, in a file of JSON lines; written after each."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        text = path.read_text() if path.exists() else ""
        self.plans = [plan_of(json.loads(line)) for line in text.splitlines()]

    def find(self, case: Case, where: Topology, source: str) -> list[Plan]:
        """Plans of an experiment on a topology, whatever is recomputed."""
        key = (case.name, tuple(case.model["image_size"]), case.batch_size, where.label, source)
        return [
            plan for plan in self.plans
            if (plan.name, plan.image_size, plan.batch_size, plan.topology, plan.source) == key
        ]  # fmt: skip

    def add(self, plan: Plan) -> None:
        """Keeps a plan."""
        self.plans.append(plan)
        partial = self.path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(each.record()) + "\n" for each in self.plans))
        partial.rename(self.path)


def update(document: pathlib.Path, read_config: ReadConfig, *, estimate_only: bool) -> None:
    """Works out what is missing and writes the tables between their marks.

    Args:
        document: a Markdown file with the two marks; its JSON lines stand beside it.
        read_config: path and overrides to a case and its own mesh.
        estimate_only: compile nothing.

    Raises:
        ValueError: the document has no marks.
    """
    text = document.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{document} needs the lines {BEGIN!r} and {END!r}, once each")
    book = Book(document.with_suffix(".jsonl"))
    cases = [read_config(path, overrides)[0] for path, overrides in EXPERIMENTS]
    work = [(case, topology(name)) for case in cases for names in MACHINES.values() for name in names]
    if not estimate_only:
        programs = [
            (compile_one, case, where)
            for size, compile_one in PROGRAMS for case, where in work if where.num_devices == size and not where.is_gpu
        ]  # fmt: skip
        for compile_one, case, where in progress_bar(programs, desc="compiling", unit=" programs"):
            compile_one(case, where, book)
            write(document, cases, book)
    for case, where in progress_bar(work, desc="estimating", unit=" machines"):
        if not book.find(case, where, "estimate"):
            book.add(candidates(case, where)[0])
    write(document, cases, book)


def candidates(case: Case, where: Topology, below: float = math.inf) -> list[Plan]:
    """Estimates of all meshes, best first: as configured; in parts, recomputing more, only if nothing fits then.

    Args:
        case: an experiment.
        where: a machine.
        below: bytes of a device that a plan has to stay below to be taken for one that fits.
    """
    found: list[Plan] = []
    for remat in LESS_MEMORY[case.model["remat"]]:
        for accumulate in PARTS:
            if case.batch_size % (accumulate * where.num_devices) == 0:
                plans = planning.best_meshes(variant(case, remat, accumulate), where)
                found += plans
                if any(plan.fits and plan.memory_total < below for plan in plans):
                    break
        if any(plan.fits and plan.memory_total < below and plan.accumulate == 1 for plan in found):
            break
    return sorted((plan for plan in found if plan.memory_total < below), key=planning.rank)


def variant(case: Case, remat: str, accumulate: int) -> Case:
    """The same update with more or less of it in memory."""
    return case._replace(model={**case.model, "remat": remat}, accumulate=accumulate)


def compile_best(case: Case, where: Topology, book: Book, *, tries: int = 3) -> None:
    """Compiles the mesh that should be best, and if it does not fit after all, the best that needs clearly less."""
    if any(plan.fits for plan in book.find(case, where, "compiled")):
        return
    below = math.inf
    for _ in range(tries):
        plans = candidates(case, where, below)
        if not plans:
            return
        chosen = plans[0]
        plan = planning.compiled(variant(case, chosen.remat, chosen.accumulate), where, chosen.mesh)
        book.add(plan)
        if plan.fits:
            return
        below = 0.75 * chosen.memory_total


def compile_replicated(case: Case, where: Topology, book: Book) -> None:
    """Compiles the mesh that splits nothing but the batch, where it may fit: what it spares no estimate knows."""
    mesh = (where.num_devices, 1, 1)
    fitting = [plan for plan in candidates(case, where) if plan.mesh == mesh and plan.fits]
    known = [plan for plan in book.find(case, where, "compiled") if plan.mesh == mesh]
    if fitting and not known:
        chosen = fitting[0]
        book.add(planning.compiled(variant(case, chosen.remat, chosen.accumulate), where, mesh))


# Of machines of so many devices, in the order of compiling.
PROGRAMS = (
    (FROM, compile_best), (TO, compile_best), (FROM, compile_replicated), (TO, compile_replicated), (64, compile_best),
)  # fmt: skip


def write(document: pathlib.Path, cases: Sequence[Case], book: Book) -> None:
    """Puts the tables between the marks."""
    before, _, rest = document.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    lines = [scaling_table(cases, book), comparison_table(cases, book), *(machine_table(case, book) for case in cases)]
    partial = document.with_suffix(".partial")
    partial.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(lines) + f"\n\n{END}{after}")
    partial.rename(document)


def chosen(case: Case, where: Topology, book: Book) -> Plan | None:
    """The best plan of a machine that is known: a compiled one that fits, else the estimate."""
    compiled = sorted(book.find(case, where, "compiled"), key=planning.rank)
    found = [plan for plan in compiled if plan.fits] or book.find(case, where, "estimate") or compiled
    return found[0] if found else None


def scaling_table(cases: Sequence[Case], book: Book) -> str:
    """Efficiency from 8 to 256 devices, and where it stops."""
    lines = [
        f"| experiment | chip | {FROM} devices, images/s | {TO} devices, images/s | efficiency | from | "
        f"by estimate, efficiency falls below {STOPS_BELOW:.0%} at | lost to |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        for chip, names in MACHINES.items():
            curve, compiled = (_fitting(case, names, book, source) for source in ("estimate", "compiled"))
            known, source = (compiled, "compiled") if {FROM, TO} <= compiled.keys() else (curve, "estimate")
            row = [title(case), chip, *(f"{known[size].images_per_s:.0f}" if size in known else "does not fit"
                                        for size in (FROM, TO))]  # fmt: skip
            row += [f"{efficiency(known[FROM], known[TO]):.0%}" if {FROM, TO} <= known.keys() else "–", source]
            stop = next((
                plan for size, plan in sorted(curve.items())
                if FROM in curve and efficiency(curve[FROM], plan) < STOPS_BELOW
            ), None)  # fmt: skip
            if stop:
                row += [
                    f"{stop.devices} devices, {stop.batch_size // stop.devices} crops each",
                    lost_to(curve[FROM], stop),
                ]
            else:
                row += [f"not up to {TO}", "–"]
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _fitting(case: Case, names: Sequence[str], book: Book, source: str) -> dict[int, Plan]:
    """The best plans that fit, by number of devices."""
    machines = [topology(name) for name in names]
    plans = [plan for where in machines for plan in book.find(case, where, source) if plan.fits]
    return {plan.devices: plan for plan in sorted(plans, key=planning.rank, reverse=True)}


def comparison_table(cases: Sequence[Case], book: Book) -> str:
    """What was compiled beside its own estimate."""
    lines = [
        "| compiled, estimated | machine | mesh | GiB of activations | GB through main memory | GB exchanged | "
        "ms a step |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        for where in (topology(name) for names in MACHINES.values() for name in names):
            estimates = book.find(case, where, "estimate")
            for plan in book.find(case, where, "compiled"):
                pairs = [(plan, each) for each in estimates if plan.fits and each.mesh == plan.mesh]
                lines += ["| " + " | ".join(_compared(title(case), *pair)) + " |" for pair in pairs]
    return "\n".join(lines)


def _compared(name: str, compiled: Plan, estimate: Plan) -> list[str]:
    measures: list[Callable[[Plan], str]] = [
        lambda plan: f"{plan.memory['activations'] / GIB:.2f}",
        lambda plan: f"{plan.memory_bytes / 1e9:.1f}",
        lambda plan: f"{sum(each['fast_bytes'] + each['slow_bytes'] for each in plan.exchanges.values()) / 1e9:.2f}",
        lambda plan: f"{plan.step_s * 1e3:.0f}",
    ]
    compared = [f"{measure(compiled)}, {measure(estimate)}" for measure in measures]
    return [name, compiled.topology, ",".join(map(str, compiled.mesh)), *compared]


def machine_table(case: Case, book: Book) -> str:
    """The best plan of every machine for one experiment."""
    lines = [
        f"**{title(case)}, batch {case.batch_size}**\n",
        "| machine | devices | mesh data,fsdp,tensor | remat | parts | GiB a device, of | ms a step | images/s | "
        "of peak | most time | exchanged a device, fast + slow MB | source |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for where in (topology(name) for names in MACHINES.values() for name in names):
        if where.num_devices in SHOWN and (plan := chosen(case, where, book)):
            lines.append(_row(plan))
    return "\n".join(lines)


def _row(plan: Plan) -> str:
    memory = f"{plan.memory_total / GIB:.2f}, {plan.memory_limit / GIB:.1f}" + ("" if plan.fits else ": does not fit")
    fast, slow = (sum(entry[kind] for entry in plan.exchanges.values()) / 1e6 for kind in ("fast_bytes", "slow_bytes"))
    cells = [
        plan.topology, plan.devices, ",".join(map(str, plan.mesh)), plan.remat, plan.accumulate, memory,
        f"{plan.step_s * 1e3:.0f}", f"{plan.images_per_s:.0f}", f"{plan.utilisation:.0%}", plan.bound,
        f"{fast:.0f} + {slow:.0f}", plan.source,
    ]  # fmt: skip
    if not plan.fits:
        cells[6:10] = ["–"] * 4
    return "| " + " | ".join(map(str, cells)) + " |"


def title(case: Case) -> str:
    """An experiment's name in the tables."""
    height, width = case.model["image_size"]
    return f"{case.name} {height}x{width}"
