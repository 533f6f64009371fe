"""What the project wants of its speed, and whether lines that were measured show it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Record = Mapping[str, Any]
Value = Callable[[Record], float | None]  # None: the line does not say


class Goal(NamedTuple):
    """One wish.

    Attributes:
        text: in words.
        case: whose lines tell.
        value: what is compared, of a line.
        limit: with it.
        at_least: the value is to be no smaller; else no larger.
        unit: behind the value.
        best: of several lines of one experiment the best one counts: that of the best batch.
    """

    text: str
    case: str
    value: Value
    limit: float
    at_least: bool = True
    unit: str = ""
    best: bool = False


def ratio(*variants: str, clock: str = "wall", dtype: str | None = None) -> Value:
    """The smallest ratio of some variants, that of the fastest of them; of lines that have all of them."""

    def value(record: Record) -> float | None:
        if (dtype is not None and record["dtype"] != dtype) or not set(variants) <= record["variants"].keys():
            return None
        found = [record["variants"][name][clock]["ratio"] for name in variants]
        return None if None in found else min(found)

    return value


def of_task(task: str, value: Value) -> Value:
    """The same for lines of one task only."""
    return lambda record: value(record) if record["task"] == task else None


def _flip(record: Record) -> float:
    """Round by round, as all ratios."""
    twice, once = (np.array(record["variants"][name]["wall"]["all_s"]) for name in ("flip test", "keypoints"))
    return float(np.median(twice / once))


def _median(record: Record) -> float:
    return record["variants"]["vitpose_jax"]["wall"]["median_s"]


def _mfu(record: Record) -> float | None:
    """Of 256x192 pixels, as in the goals."""
    return record["variants"]["vitpose_jax"].get("mfu") if record.get("image_size") == [256, 192] else None


_LOOP = ratio("loop", clock="cpu")
INSTALLED, FAST = ("torch-eager", "torch-compiled"), ("torch-eager-fast", "torch-compiled-fast")
CPU = (
    Goal("1 forward, float32: the faster of torch as installed", "forward", ratio(*INSTALLED, dtype="float32"), 1.5),
    Goal("1 forward, bfloat16: the faster of torch as installed", "forward", ratio(*INSTALLED, dtype="bfloat16"), 1.2),
    Goal("1 forward: the faster of torch with MKL's fast code", "forward", ratio(*FAST), 1.0),
    Goal("2 training step: torch eager as installed", "train", ratio("torch-eager"), 1.0),
    Goal("4 decoding: a loop over keypoints", "decode", ratio("loop"), 10.0),
    Goal("5 crops for training: a plain loop, processor time", "input", of_task("train", _LOOP), 2.0),
    Goal("5 the same, image by image (`input.by_image`)", "input", of_task("train by_image", _LOOP), 2.0),
    Goal("5 crops for evaluation: the same", "input", of_task("evaluate", _LOOP), 2.0),
    Goal("6 scoring COCO val", "evaluate", _median, 30.0, at_least=False, unit=" s"),
    Goal("8 a step on three data sets: on one", "mixed", ratio("multi"), 1.15, at_least=False),
    Goal("8 a step of ViTPose++ on six data sets: on one", "mixed", ratio("plus"), 1.15, at_least=False),
    Goal("8 flip test: without", "predict", _flip, 2.05, at_least=False),
)
GPU = (
    Goal("3 forward, MFU at the best batch", "forward", _mfu, 0.5, best=True),
    Goal("3 forward: torch.compile, at the best batch", "forward", ratio("torch-compiled"), 1.2, best=True),
    Goal("3 crops to keypoints: the forward pass alone", "predict", ratio("keypoints"), 1.05, at_least=False),
    Goal("3 training step, MFU at the best batch", "train", _mfu, 0.45, best=True),
    Goal("4 decoding: the forward pass", "predict", ratio("decoding"), 0.02, at_least=False),
    Goal("8 a step on three data sets: on one", "mixed", ratio("multi"), 1.15, at_least=False),
    Goal("8 a step of ViTPose++ on six data sets: on one", "mixed", ratio("plus"), 1.15, at_least=False),
    Goal("8 flip test: without", "predict", _flip, 2.05, at_least=False),
)


def table(records: Sequence[Record], goals: Sequence[Goal]) -> str:
    """A Markdown table of goals and what was measured, the worst case first."""
    lines = ["| goal | wanted | measured | |", "|---|---|---|---|"]
    timed = [record for record in records if all("wall" in found for found in record["variants"].values())]
    for goal in goals:
        found = [
            (record, value) for record in timed
            if record["case"] == goal.case and (value := goal.value(record)) is not None
        ]  # fmt: skip
        values = _best(found, goal) if goal.best else [value for _, value in found]
        wanted = f"{'≥' if goal.at_least else '≤'} {goal.limit:g}{goal.unit}"
        lines.append(f"| {goal.text} | {wanted} | {' | '.join(_found(goal, values))} |")
    return "\n".join(lines) + "\n"


def _best(found: Sequence[tuple[Record, float]], goal: Goal) -> list[float]:
    """The best value of each experiment."""
    better = max if goal.at_least else min
    best: dict[str, float] = {}
    for record, value in found:
        name = record["config"]
        best[name] = better(best.get(name, value), value)
    return list(best.values())


def _found(goal: Goal, values: Sequence[float]) -> tuple[str, str]:
    """(what was measured, the verdict)."""
    if not values:
        return "not measured", ""
    met = [value for value in values if (value >= goal.limit if goal.at_least else value <= goal.limit)]
    worst, best = (min, max) if goal.at_least else (max, min)
    if len(values) == 1:
        measured = f"{values[0]:.2f}{goal.unit}"
    else:
        measured = f"{worst(values):.2f} to {best(values):.2f}{goal.unit} in {len(values)} cases"
    if len(met) == len(values):
        return measured, "met"
    missed = f"missed by {abs(1 - worst(values) / goal.limit):.0%}"
    return measured, missed if len(values) == 1 else f"{missed} at worst, met in {len(met)}"
