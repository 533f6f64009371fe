"""The plot of a sweep: the metric while trials train, and what became of it for each value of each swept setting."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLUMNS = 3  # panels side by side
_LEGEND_TRIALS = 12  # more would hide the plot
_TICKS = 6  # more values than this are not all written out
_PANEL_INCHES = (4.6, 3.6)
_MARKERS = {"finished": "o", "failed": "x"}  # of others, a triangle: they may yet get better


class Trial(NamedTuple):
    """What is drawn of a trial."""

    values: Mapping[str, Any]  # of the swept settings
    curve: Sequence[tuple[int, float]]  # (step, metric)
    steps_per_epoch: float | None
    state: str


def draw(trials: Sequence[Trial], metric: str, goal: str, settings: Mapping[str, str], *, title: str) -> bytes:
    """Draws a PNG: the learning curves, then a panel for each setting with the last value of each trial's metric.

    Args:
        trials: in the order of their colours.
        metric: what is drawn.
        goal: "max" or "min".
        settings: swept setting to the name it is shown by.
        title: of the picture.
    """
    panels = 1 + len(settings)
    rows, columns = math.ceil(panels / _COLUMNS), min(panels, _COLUMNS)
    figure = Figure(figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows), layout="constrained")
    figure.suptitle(f"{title}: {metric}, {'larger' if goal == 'max' else 'smaller'} is better")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    colors = [colormaps["viridis"](index / max(len(trials) - 1, 1)) for index in range(len(trials))]
    _draw_curves(axes[0], trials, colors, settings)
    for panel, (setting, shown) in zip(axes[1:], settings.items(), strict=False):
        _draw_setting(panel, trials, colors, setting)
        panel.set_xlabel(shown)
    for panel in axes[:panels]:
        panel.set_ylabel(metric)
    for panel in axes[panels:]:
        panel.set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def _draw_curves(axes: Axes, trials: Sequence[Trial], colors: Sequence[tuple], settings: Mapping[str, str]) -> None:
    drawn = [(trial, color) for trial, color in zip(trials, colors, strict=True) if trial.curve]
    in_epochs = all(trial.steps_per_epoch for trial, _ in drawn)
    for trial, color in drawn:
        steps, values = zip(*trial.curve, strict=True)
        x = [step / trial.steps_per_epoch for step in steps] if in_epochs else steps
        label = ", ".join(f"{shown} {trial.values[setting]}" for setting, shown in settings.items())
        axes.plot(x, values, color=color, label=label, marker="." if len(steps) < 30 else "", linewidth=1)
    axes.set_xlabel("epoch" if in_epochs else "step")
    axes.locator_params(axis="x", nbins=_TICKS)
    if drawn and len(drawn) <= _LEGEND_TRIALS:
        axes.legend(fontsize=6)


def _draw_setting(axes: Axes, trials: Sequence[Trial], colors: Sequence[tuple], setting: str) -> None:
    """A point for each trial that has the metric; a failed one that has not is a red cross at the lower edge."""
    values = [trial.values[setting] for trial in trials]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        positions = values
        ticks = {value: f"{value:g}" for value in values}
        if min(values) > 0 and max(values) >= 8 * min(values):
            axes.set_xscale("log")
    else:
        labels = list(dict.fromkeys(map(str, values)))
        positions = [labels.index(str(value)) for value in values]
        ticks = dict(enumerate(labels))
    if len(ticks) <= _TICKS:
        axes.set_xticks(list(ticks), list(ticks.values()))
        axes.set_xticks([], minor=True)
    for trial, position, color in zip(trials, positions, colors, strict=True):
        marker = _MARKERS.get(trial.state, "^")
        if trial.curve:
            axes.plot(position, trial.curve[-1][1], marker, color=color)
        elif trial.state == "failed":
            axes.plot(position, 0.02, marker, color="red", transform=axes.get_xaxis_transform())
