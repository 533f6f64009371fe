"""Variants of one thing take turns, so that other load slows all alike; what came out is one line of JSON."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from vitpose_jax.benchmark import machine


class Run(NamedTuple):
    """What one run took."""

    wall_s: float
    cpu_s: float  # of the process that did the work, on all cores


@dataclasses.dataclass(frozen=True)
class Timing:
    """What was measured of one variant."""

    first: Run
    runs: tuple[Run, ...]

    def summary(self, reference: "Timing") -> dict[str, Any]:
        """For the JSON line."""
        found: dict[str, Any] = {"first_s": _rounded(self.first.wall_s)}
        for name, field in (("wall", "wall_s"), ("cpu", "cpu_s")):
            ours, theirs = (np.array([getattr(run, field) for run in timing.runs]) for timing in (self, reference))
            low, median, high = map(_rounded, np.percentile(ours, (25, 50, 75)))
            # The processor's clock may tick less often than a run is long.
            ratio = round(float(np.median(ours / theirs)), 4) if theirs.all() else None
            found[name] = {
                "median_s": median, "quartiles_s": [low, high], "all_s": list(map(_rounded, ours)), "ratio": ratio
            }  # fmt: skip
        return found


class Measured(NamedTuple):
    """What a case found: one line."""

    settings: Mapping[str, Any]
    timings: Mapping[str, Timing]  # by variant; may be empty
    facts: Mapping[str, Mapping[str, Any]]  # what else is known of variants


# Does the work once. Returns what `jax.block_until_ready` can wait for, or, where another process works, a `Run`.
Variant = Callable[[], Any]


SECONDS_A_TURN = 0.5


def take_turns(variants: Mapping[str, Variant], *, repeats: int, again: bool = True) -> dict[str, Timing]:
    """Runs variants one after another, again and again, each waited for.

    In its turn a variant runs twice, and further until half a second has passed; the first run does not count, and of
    the others the median is taken. What is measured works without a pause where it is used; here it would begin with
    caches full of the others' data, and where the host of a virtual machine takes back memory that lay free for some
    seconds, with fetching all of it again.

    Args:
        variants: by name.
        repeats: turns of each, after its first run.
        again: False for what is not run again and again where it is used: one run a turn.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats}")
    first = {name: timed(run) for name, run in variants.items()}
    rounds = [{name: _turn(run) if again else timed(run) for name, run in variants.items()} for _ in range(repeats)]
    return {name: Timing(first[name], tuple(each[name] for each in rounds)) for name in variants}


def _turn(run: Variant) -> Run:
    end = time.perf_counter() + SECONDS_A_TURN
    timed(run)
    found = [timed(run)]
    while time.perf_counter() < end:
        found.append(timed(run))
    return sorted(found)[len(found) // 2]


def timed(run: Variant) -> Run:
    """One run of a variant."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    if isinstance(result, Run):
        return result
    jax.block_until_ready(result)
    return Run(time.perf_counter() - wall, time.process_time() - cpu)


def report(case: str, measured: Measured, *, load: float | None = None) -> str:
    """The JSON line of a case; the first variant is the reference of all ratios.

    Args:
        case: its name.
        measured: what it found.
        load: the machine's load average when the case began: of other work, if this process had not computed before.
    """
    reference = next(iter(measured.timings.values()), None)
    known = {name: dict(measured.facts.get(name, {})) for name in (*measured.timings, *measured.facts)}
    for name, timing in measured.timings.items():
        known[name] |= timing.summary(reference or timing)
        known[name] |= _rates(known[name], measured.settings)
    return json.dumps(
        {
            "case": case,
            **measured.settings,
            "device": machine.device(),
            "jax": jax.__version__,
            "load": load,
            "variants": known,
        }
    )


def _rates(known: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, float]:
    """Crops and operations a second, and the share of the device's most operations, as far as these are known."""
    if "crops" in settings:  # made by one thread
        return {"crops_per_core_s": float(f"{settings['crops'] / known['cpu']['median_s']:.4g}")}
    if "batch_size" not in settings or "gmac_per_crop" not in known:
        return {}
    crops = settings["batch_size"] / known["wall"]["median_s"]
    tflops = 2 * known["gmac_per_crop"] * crops / 1e3
    found = {"crops_per_s": float(f"{crops:.4g}"), "tflops": float(f"{tflops:.4g}")}
    peak = machine.peak_flops() if settings.get("dtype") == "bfloat16" else None
    return found if peak is None else {**found, "mfu": round(tflops * 1e12 / peak / known.get("devices", 1), 4)}


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.4g}")
