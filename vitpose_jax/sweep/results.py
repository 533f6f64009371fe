"""The trials of a sweep side by side: a table for the terminal, a CSV file, a plot."""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.markup
import rich.table
from etils import epath

from vitpose_jax.sweep import plot, record
from vitpose_jax.sweep.record import Record
from vitpose_jax.sweep.trials import Sweep

_COLORS = {"finished": "green", "failed": "red", "running": "cyan", "stopped": "yellow", "waiting": "dim"}


@dataclasses.dataclass(frozen=True)
class Result:
    """A trial, what its folder says, and its metric.

    Attributes:
        name: of the trial.
        values: of every swept setting, whether this trial changes it or has it from the config.
        record: of its folder.
        value: the metric where it was logged last; None if it never was.
        best: its best value so far; None likewise.
        epochs: how many the trial has.
    """

    name: str
    values: dict[str, Any]
    record: Record
    value: float | None
    best: float | None
    epochs: int

    @property
    def progress(self) -> str:
        """How far it is, in epochs where they are known."""
        if self.record.step is None:
            return ""
        per_epoch = self.record.steps_per_epoch
        return f"{self.record.step / per_epoch:.3g} of {self.epochs}" if per_epoch else f"step {self.record.step}"


def collect(sweep: Sweep, folder: epath.Path, configs: Mapping[str, Mapping[str, Any]]) -> list[Result]:
    """Reads the folders of all trials.

    Returns:
        Finished trials, best first by the metric's last value; then the others, as the sweep lists them.
    """
    better = max if sweep.goal == "max" else min
    results = []
    for name in sweep.by_name:
        found = record.read(folder / name, configs[name])
        settings = {key: _at(configs[name], key) for key in sweep.settings}
        values = [value for _, value in found.curve(sweep.metric)]
        results.append(
            Result(
                name, settings, found, values[-1] if values else None, better(values) if values else None,
                configs[name]["train"]["epochs"],
            )
        )  # fmt: skip

    def rank(result: Result) -> tuple[bool, float]:
        if result.record.state != "finished" or result.value is None:
            return True, 0.0
        return False, -result.value if sweep.goal == "max" else result.value

    return sorted(results, key=rank)


def short_names(settings: Sequence[str]) -> dict[str, str]:
    """The last part of each setting's name, or all of it where the last parts are the same."""
    last = [key.rpartition(".")[2] for key in settings]
    return {key: short if last.count(short) == 1 else key for key, short in zip(settings, last, strict=True)}


def print_results(sweep: Sweep, results: Sequence[Result], *, console: rich.console.Console | None = None) -> None:
    """Prints the table, then what went wrong."""
    console = console or rich.console.Console()
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for heading in short_names(sweep.settings).values():
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("state")
    table.add_column("epoch", justify="right")
    table.add_column(sweep.metric, justify="right", style="bold", overflow="fold")
    table.add_column("best", justify="right")
    for result in results:
        state = f"[{_COLORS[result.record.state]}]{result.record.state}[/]"
        numbers = (result.progress, _number(result.value), _number(result.best))
        table.add_row(*(rich.markup.escape(str(value)) for value in result.values.values()), state, *numbers)
    console.print(table)
    remarks = []
    for result in results:
        remarks += [f"{result.name} failed: {result.record.error}"] if result.record.error else []
        remarks += [f"{result.name} {difference}" for difference in result.record.differences]
    logged = sorted({key for result in results for line in result.record.lines for key in line} - {"step"})
    if logged and all(result.value is None for result in results):
        remarks.append(f"no trial has logged {sweep.metric} yet; logged are {', '.join(logged)}")
    for remark in remarks:
        console.print(remark, markup=False, highlight=False, soft_wrap=True)


def write_results(sweep: Sweep, results: Sequence[Result], folder: epath.Path) -> list[epath.Path]:
    """Writes `results.csv` and `results.png` into the sweep's folder; nothing as long as no trial has logged anything.

    The CSV file has a row for each trial, in the order of the table, with the last value of every metric that an
    evaluation logged.
    """
    if not any(result.record.lines or result.record.error for result in results):
        return []
    evaluated = {key for result in results for line in result.record.lines for key in line if key.startswith("eval/")}
    metrics = sorted(evaluated - {sweep.metric})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    known = ["state", "step", sweep.metric, f"best {sweep.metric}"]
    writer.writerow(["trial", *sweep.settings, *known, *metrics, "error"])
    for result in results:
        last = {metric: curve[-1][1] for metric in metrics if (curve := result.record.curve(metric))}
        writer.writerow([
            result.name, *result.values.values(), result.record.state, result.record.step, result.value, result.best,
            *(last.get(metric) for metric in metrics), result.record.error,
        ])  # fmt: skip
    trials = [
        plot.Trial(result.values, result.record.curve(sweep.metric), result.record.steps_per_epoch, result.record.state)
        for result in results
    ]
    picture = plot.draw(trials, sweep.metric, sweep.goal, short_names(sweep.settings), title=folder.name)
    places = [folder / "results.csv", folder / "results.png"]
    for place, content in zip(places, (text.getvalue().encode(), picture), strict=True):
        partial = place.with_name(place.name + ".partial")
        partial.write_bytes(content)
        partial.replace(place)
    return places


def _at(config: Mapping[str, Any], key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
