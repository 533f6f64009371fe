"""`make bench`: the cases that suit the machine, one process each, into `docs/performance.md` and lines beside it.

A run that is stopped goes on where it was; until it is through, older lines stand for what is missing. Lines of other
devices stay.
"""

import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from vitpose_jax import paths
from vitpose_jax.benchmark import goals, machine, table
from vitpose_jax.progress import progress_bar

BEGIN, END = "<!-- made by `make bench`: begin -->", "<!-- made by `make bench`: end -->"

_B = "--config configs/vitpose_b.py"


def _forwards(*cases: tuple[str, int]) -> tuple[str, ...]:
    """Both precisions of (config, batch): a command each, so that one that was stopped costs little."""
    return tuple(
        f"forward --config configs/vitpose_{name}.py --batch_size {batch} --dtype {dtype} --against torch --repeats 3"
        for name, batch in cases for dtype in ("float32", "bfloat16")
    )  # fmt: skip


# The most telling first.
CPU = (
    f"train {_B} --batch_size 8 --dtype float32 --against torch-eager torch-eager-fast --repeats 3",
    *_forwards(("b", 8)),
    "decode --repeats 20",
    "evaluate --repeats 3",
    "input --repeats 5",
    "compile --config configs/quickstart.py --batch_size 32 --repeats 2",
    f"predict {_B} --batch_size 8 --dtype float32 --repeats 3",
    *_forwards(("b", 1), ("s", 8), ("b_simple", 8), ("s", 1), ("b", 32)),
    "mixed --repeats 3",
    f"compile {_B} --repeats 1",
    *_forwards(("b_simple", 1), ("b_simple", 32), ("s", 32), ("s_simple", 1), ("s_simple", 8), ("s_simple", 32)),
    *_forwards(("l", 1), ("l", 8), ("l_simple", 1), ("l_simple", 8), ("l", 32), ("l_simple", 32)),
)
_BF16 = "--dtype bfloat16 --repeats 20"
GPU = (
    *(
        f"forward --config configs/vitpose_{size}.py --batch_size {batch} {_BF16} --against torch-compiled"
        for size in "blh"
        for batch in (64, 256, 128, 512, 32, 8, 1)
    ),
    *(
        f"predict --config configs/vitpose_{size}.py --batch_size {batch} {_BF16}"
        for size in "blh"
        for batch in (64, 256)
    ),
    *(
        f"train --config configs/vitpose_{config} --batch_size {batch} {_BF16}"
        for config in ("b.py", "l.py", "h.py", "h.py --config.model.remat=none")
        for batch in (64, 128, 256, 512, 32)
    ),
    *(f"train --config configs/vitpose_g.py --batch_size {batch} {_BF16}" for batch in (16, 32, 64, 8, 4)),  # 576x432
    "decode --repeats 50",
    "mixed --batch_size 128 --dtype bfloat16 --repeats 20",
    "evaluate --repeats 3",
    "input --repeats 5",
    "compile --config configs/vitpose_b.py --repeats 2",
)

PAPER = "The paper's images a second on an A100, classic decoder: B 944, L 411, H 241.\n"


def run(document: pathlib.Path, *, only: str = "") -> None:
    """Measures what is missing, and brings the document up to date after each command.

    Args:
        document: a Markdown file with the two marks; its JSON lines stand beside it.
        only: part of a command: only commands with it are run again, all others' lines stay.

    Raises:
        ValueError: the document has no marks, or no command has `only`.
        RuntimeError: a case failed.
    """
    check(document)
    commands = [each for each in set_of_this_machine() if only in each]
    if not commands:
        raise ValueError(f"no command of the set for this machine has {only!r} in it")
    partial = document.with_suffix(".unfinished.jsonl")
    stopped, here = partial.exists(), machine.device()
    measured = [
        record for record in read(partial)
        if record["device"] == here and (not only or record["command"] not in commands)
    ]  # fmt: skip
    done = {record["command"] for record in measured}
    with progress_bar(desc="measuring", unit=" commands", total=len(commands)) as bar:
        for command in commands:
            bar.set_postfix_str(command, refresh=True)
            if command not in done:
                measured += measure(command)
                paths.write(partial, "".join(json.dumps(record) + "\n" for record in measured))
                renew(document, measured, {record["command"] for record in measured})
            bar.update()
    if not only:
        renew(document, measured, None)
    if not (only and stopped):  # a whole run that was stopped can still go on
        partial.unlink()
    print(f"wrote {document} and {document.with_suffix('.jsonl')}")


def set_of_this_machine() -> Sequence[str]:
    """Commands, the most telling first."""
    return CPU if jax.default_backend() == "cpu" else GPU


def check(document: pathlib.Path) -> str:
    """The text of a document that has the two marks.

    Raises:
        ValueError: it has not.
    """
    text = document.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{document} needs the lines {BEGIN!r} and {END!r}, once each")
    return text


def renew(document: pathlib.Path, measured: Sequence[Mapping[str, Any]], replaced: Collection[str] | None) -> None:
    """Writes lines that were measured on this machine, and the document anew.

    Args:
        document: see `run`.
        measured: lines.
        replaced: commands whose older lines of this machine go; None: all of them.
    """
    book, here, order = document.with_suffix(".jsonl"), machine.device(), set_of_this_machine()
    known = read(book)
    others = [record for record in known if record["device"] != here]
    kept = [
        record for record in known
        if record["device"] == here and record["case"] != "machine"
        and replaced is not None and record["command"] not in replaced
    ]  # fmt: skip
    about = {"case": "machine", "command": "", "device": here, "date": time.strftime("%Y-%m-%d"), **machine.describe()}
    places = {command: place for place, command in enumerate(order)}
    ours = sorted([*kept, *measured], key=lambda record: places.get(record["command"], len(places)))
    records = [*others, about, *ours]
    paths.write(book, "".join(json.dumps(record) + "\n" for record in records))
    text = check(document)
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    paths.write(document, f"{before}{BEGIN}\n{render(records)}{END}{after}")


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Lines of a file, none where there is no such file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def measure(command: str) -> list[dict[str, Any]]:
    """Runs one command in a process of its own and returns its lines.

    Raises:
        RuntimeError: it failed.
    """
    child = subprocess.run(
        [sys.executable, "-m", "vitpose_jax.benchmark", *command.split()], stdout=subprocess.PIPE, text=True
    )
    if child.returncode:
        raise RuntimeError(f"{command!r} ended with code {child.returncode}; what it said stands above")
    lines = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
    return [{**line, "command": command} for line in lines]


def render(records: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: for each device the machine, the goals, and a table for each case."""
    parts = []
    for device in dict.fromkeys(record["device"] for record in records):
        own = [record for record in records if record["device"] == device]
        parts.append(f"\n## {device}\n\n")
        lines = [record for record in own if record["case"] != "machine"]
        for about in own:
            if about["case"] == "machine":
                words = {name: value for name, value in about.items() if name not in ("case", "command", "device")}
                parts += [f"* {name}: {value}\n" for name, value in words.items()]
        loads = [record["load"] for record in lines if record["load"] is not None]
        if loads:
            parts.append(f"* load average when a case began: {min(loads):.1f} to {max(loads):.1f}\n")
        parts.append("\n" + goals.table(lines, goals.CPU if device.endswith("cpu") else goals.GPU))
        for case in dict.fromkeys(record["case"] for record in lines):
            parts.append(f"\n### {case}\n")
            parts += _tables([record for record in lines if record["case"] == case])
            if case == "forward" and not device.endswith("cpu"):
                parts.append("\n" + PAPER)
    return "".join(parts) + "\n"


def _tables(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table by the clock, and one by processor time where the goal is in that."""
    found = ["\n" + table.markdown(records)]
    if records[0]["case"] == "input":
        found.append("\nThe same in processor time:\n\n" + table.markdown(records, clock="cpu"))
    return found
