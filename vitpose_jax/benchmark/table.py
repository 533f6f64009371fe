"""JSON lines of cases as tables, for the terminal and for documents: one row a line, one column a variant."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_NOT_SETTINGS = ("case", "device", "jax", "load", "variants", "command")

# What is said of a variant besides its time, in words.
_FACTS = {
    "crops_per_s": "{} crops/s", "crops_per_core_s": "{} crops/s a core", "compile_s": "compiling {} s",
    "gmac_per_crop": "{} GMAC a crop",
    "tflops": "{} TFLOP/s", "mfu": "MFU {}", "arguments_gib": "arguments {} GiB",
    "temporaries_gib": "temporaries {} GiB", "peak_gib": "peak {} GiB",
    "import_s": "imports {} s", "state_s": "state {} s", "step_s": "first step {} s", "pixels": "pixels {}",
}  # fmt: skip


def print_lines(lines: Iterable[str]) -> None:
    """Prints the lines of one case as a table."""
    records = [json.loads(line) for line in lines]
    if records:
        print("\n" + markdown(records))


def markdown(records: Sequence[Mapping[str, Any]], *, clock: str = "wall") -> str:
    """A Markdown table.

    The first variant's cell is its median and quartiles; another's is its time over the first one's, the median of that
    of each round, so that above 1 the first is faster.

    Args:
        records: lines of one case.
        clock: "wall" or "cpu".
    """
    settings = [name for name in records[0] if name not in _NOT_SETTINGS]
    variants = list(dict.fromkeys(name for record in records for name in record["variants"]))
    rows = [[*settings, *variants, "besides"], ["---"] * (len(settings) + len(variants) + 1)]
    for record in records:
        cells = [plain(record.get(name)) for name in settings]
        for name in variants:
            cells.append(_cell(record["variants"].get(name), clock, is_first=name == next(iter(record["variants"]))))
        rows.append([*cells, facts(record)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def facts(record: Mapping[str, Any]) -> str:
    """What else is known of the first variant; of a start-up, of all."""
    shown = list(record["variants"].items())[: None if record["case"] == "compile" else 1]
    words = {
        name: ", ".join(text.format(known[key]) for key, text in _FACTS.items() if known.get(key) is not None)
        for name, known in shown
    }
    return "; ".join(f"{name}: {text}" if len(words) > 1 else text for name, text in words.items())


def seconds(value: float) -> str:
    """A time with three digits and a unit: "45.1 ms"."""
    unit, factor = ("s", 1) if value >= 1 else ("ms", 1e3) if value >= 1e-3 else ("µs", 1e6)
    return f"{float(f'{value * factor:.3g}'):g} {unit}"


def plain(value: Any) -> str:
    """A setting in a cell."""
    if isinstance(value, list | tuple):
        return "x".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _cell(found: Mapping[str, Any] | None, clock: str, *, is_first: bool) -> str:
    if found is None:
        return "not run"
    if not found.get("fits", True):
        return "does not fit"
    if clock not in found:
        return "not timed"
    timing = found[clock]
    if is_first:
        low, high = timing["quartiles_s"]
        return f"{seconds(timing['median_s'])} ({seconds(low)} to {seconds(high)})"
    return "too short" if timing["ratio"] is None else f"{timing['ratio']:.2f}"
