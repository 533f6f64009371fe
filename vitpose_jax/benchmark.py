"""Speed, measured side by side: variants of one thing take turns in one process, so that other load slows all alike.

    python -m vitpose_jax.benchmark mixed [--size b] [--batch_size 8] [--dtype float32] [--repeats 5]

Each case prints one JSON line: what ran where, and for each variant the seconds that its first run took (compiling) and
those of the timed runs (median, quartiles, all). Ratios are to the first variant, the median of those of each round.
`cpu` are seconds of processor time of this process: on a CPU that others use too they say more than the clock.

Cases:
    mixed   a training step on several data sets against one on a single data set, same encoder and batch
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vitpose_jax.keypoints import KEYPOINT_SETS
from vitpose_jax.models.vitpose import ViTPose, vitpose
from vitpose_jax.training import state, tasks, update
from vitpose_jax.training.sharding import make_mesh

WARMUP_RUNS = 1

# The data sets of the papers, by name of their keypoint set.
MULTI = {"coco": "coco", "aic": "aic", "mpii": "mpii"}
PLUS = MULTI | {"ap10k": "ap10k", "apt36k": "ap10k", "wholebody": "wholebody"}


class Run(NamedTuple):
    """What one run took."""

    wall_s: float
    cpu_s: float  # of this process, on all cores


@dataclasses.dataclass(frozen=True)
class Timing:
    """What was measured of one variant."""

    first: Run  # compiling included
    runs: tuple[Run, ...]

    def summary(self, reference: "Timing") -> dict[str, Any]:
        """For the JSON line."""
        found: dict[str, Any] = {"first_s": round(self.first.wall_s, 2)}
        for name, field in (("wall", "wall_s"), ("cpu", "cpu_s")):
            ours, theirs = (np.array([getattr(run, field) for run in timing.runs]) for timing in (self, reference))
            low, median, high = np.percentile(ours, (25, 50, 75)).round(4).tolist()
            ratio = round(float(np.median(ours / theirs)), 4)
            found[name] = {
                "median_s": median, "quartiles_s": [low, high], "all_s": ours.round(4).tolist(), "ratio": ratio
            }  # fmt: skip
        return found


def take_turns(variants: Mapping[str, Callable[[], Any]], *, repeats: int) -> dict[str, Timing]:
    """Runs variants one after another, again and again, each waited for.

    Args:
        variants: name to a function that does the work once and returns what `jax.block_until_ready` can wait for.
        repeats: timed runs of each, after compiling and warming up.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats}")

    def timed(run: Callable[[], Any]) -> Run:
        wall, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(run())
        return Run(time.perf_counter() - wall, time.process_time() - cpu)

    first = {name: timed(run) for name, run in variants.items()}
    for _ in range(WARMUP_RUNS):
        for run in variants.values():
            timed(run)
    rounds = [{name: timed(run) for name, run in variants.items()} for _ in range(repeats)]
    return {name: Timing(first[name], tuple(each[name] for each in rounds)) for name in variants}


def report(case: str, settings: Mapping[str, Any], timings: Mapping[str, Timing]) -> str:
    """The JSON line of a case; the first variant is the reference."""
    device = jax.devices()[0]
    reference = next(iter(timings.values()))
    return json.dumps(
        {
            "case": case,
            **settings,
            "device": f"{jax.device_count()} x {device.device_kind}",
            "jax": jax.__version__,
            "variants": {name: timing.summary(reference) for name, timing in timings.items()},
        }
    )


def mixed(
    *, size: str, batch_size: int, dtype: str, decoder: str, repeats: int, image_size: tuple[int, int] = (256, 192)
) -> dict[str, Timing]:
    """A training step: on one data set, on three with a decoder each, on six with an expert and a decoder each.

    Crops of a mixed batch come from its data sets in turn.
    """
    common: dict[str, Any] = {"size": size, "dtype": dtype, "decoder": decoder, "image_size": image_size}
    part_features = vitpose(num_keypoints={}, **common).backbone["embed_dim"] // 4
    variants: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
        "single": ({"coco": "coco"}, {}),
        "multi": (MULTI, {}),
        "plus": (PLUS, {"experts": tuple(PLUS), "part_features": part_features}),
    }
    models = {
        name: vitpose(num_keypoints={each: len(KEYPOINT_SETS[kind]) for each, kind in sets.items()}, **common, **extra)
        for name, (sets, extra) in variants.items()
    }
    return take_turns({name: training_step(model, batch_size) for name, model in models.items()}, repeats=repeats)


def training_step(model: ViTPose, batch_size: int) -> Callable[[], Any]:
    """Runs one update of a model, as `train.py` makes it, on random crops of all its data sets; donates its state."""
    names = tuple(model.num_keypoints)
    loss = tasks.pose_loss(model, udp=dict.fromkeys(names, True), sigma=2.0)
    mesh, key = make_mesh(), jax.random.key(0)
    program = update.make_program(
        model, loss, lambda step: 1e-4, optimizer_settings={"layer_decay": 0.75}, key=key, mesh=mesh
    )
    rng = np.random.default_rng(0)
    height, width = model.image_size
    points = rng.uniform(0, (width, height), (batch_size, max(model.num_keypoints.values()), 2))
    batch = {
        "image": jnp.asarray(rng.integers(0, 256, (batch_size, height, width, 3), dtype=np.uint8)),
        "keypoints": jnp.concatenate([jnp.asarray(points, jnp.float32), jnp.ones((*points.shape[:2], 1))], axis=-1),
        "dataset": jnp.arange(batch_size, dtype=jnp.int32) % len(names),
    }
    current = state.init_state(model, program.tx, key, mesh)

    def run() -> Any:
        nonlocal current
        current, metrics = program.step(current, batch)
        return metrics["loss"]

    return run


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m vitpose_jax.benchmark", description="Speed, side by side.")
    cases = parser.add_subparsers(dest="case", required=True)
    case = cases.add_parser("mixed", help="training on several data sets against training on one")
    case.add_argument("--size", default="b", help="s, b, l, h or g (default b)")
    case.add_argument("--decoder", default="classic", help="classic or simple (default classic)")
    case.add_argument("--batch_size", type=int, default=8)
    case.add_argument("--dtype", default="float32", help="float32 or bfloat16 (default float32)")
    case.add_argument("--repeats", type=int, default=5)
    settings = vars(parser.parse_args(arguments))
    name = settings.pop("case")
    try:
        print(report(name, settings, {"mixed": mixed}[name](**settings)))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
