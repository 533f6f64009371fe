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
_PANEL_INCHES = (4.6, 3.6)
_MARKERS = {"finished": "o", "failed": "x"}  # of others, a triangle: they may yet get better


class Trial(NamedTuple):
    """What is drawn of a trial."""

    overrides: Mapping[str, Any]
    curve: Sequence[tuple[int, float]]  # (step, metric)
    steps_per_epoch: float | None
    state: str


def draw(trials: Mapping[str, Trial], metric: str, goal: str, settings: Mapping[str, str], *, title: str) -> bytes:
    """Draws a PNG: the learning curves, then a panel for each setting with the last value of each trial's metric.

    Args:
        trials: by name, in the order of their colours.
        metric: what is drawn.
        goal: "max" or "min".
        settings: swept setting to the name it is shown by.
        title: of the picture.
    """
    panels = 1 + len(settings)
    rows = math.ceil(panels / _COLUMNS)
    columns = min(panels, _COLUMNS)
    figure = Figure(figsize=(_PANEL_INCHES[0] * columns, _PANEL_INCHES[1] * rows), layout="constrained")
    figure.suptitle(f"{title}: {metric}, {'larger' if goal == 'max' else 'smaller'} is better")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    colors = dict(zip(trials, _colors(len(trials)), strict=True))
    _draw_curves(axes[0], trials, colors, metric)
    for panel, (setting, shown) in zip(axes[1:], settings.items(), strict=False):
        _draw_setting(panel, trials, colors, setting)
        panel.set(xlabel=shown, ylabel=metric)
    for panel in axes[panels:]:
        panel.set_visible(False)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


def _colors(count: int) -> list[tuple]:
    return [colormaps["viridis"](index / max(count - 1, 1)) for index in range(count)]


def _draw_curves(axes: Axes, trials: Mapping[str, Trial], colors: Mapping[str, tuple], metric: str) -> None:
    drawn = {name: trial for name, trial in trials.items() if trial.curve}
    in_epochs = all(trial.steps_per_epoch for trial in drawn.values())
    for name, trial in drawn.items():
        steps, values = zip(*trial.curve, strict=True)
        x = [step / trial.steps_per_epoch for step in steps] if in_epochs else steps
        axes.plot(x, values, color=colors[name], label=name, marker="." if len(steps) < 30 else "", linewidth=1)
    axes.set(xlabel="epoch" if in_epochs else "step", ylabel=metric)
    if drawn and len(drawn) <= _LEGEND_TRIALS:
        axes.legend(fontsize=5)


def _draw_setting(axes: Axes, trials: Mapping[str, Trial], colors: Mapping[str, tuple], setting: str) -> None:
    """A point for each trial with the metric; failed ones without it are crosses at the lower edge."""
    shown = {name: trial for name, trial in trials.items() if setting in trial.overrides}
    values = [trial.overrides[setting] for trial in shown.values()]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if numeric:
        positions = dict(zip(shown, values, strict=True))
        if min(values) > 0 and max(values) >= 8 * min(values):
            axes.set_xscale("log")
    else:
        labels = list(dict.fromkeys(map(str, values)))
        positions = {name: labels.index(str(value)) for name, value in zip(shown, values, strict=True)}
        axes.set_xticks(range(len(labels)), labels)
    for name, trial in shown.items():
        marker = _MARKERS.get(trial.state, "^")
        if trial.curve:
            axes.plot(positions[name], trial.curve[-1][1], marker, color=colors[name])
        elif trial.state == "failed":
            axes.plot(positions[name], 0.02, marker, color="red", transform=axes.get_xaxis_transform())
