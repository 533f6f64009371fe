"""Speed, measured side by side: variants of one thing take turns in one process, so that other load slows all alike.

    python -m vitpose_jax.benchmark mixed [--size b] [--batch_size 8] [--dtype float32] [--repeats 5]
    python -m vitpose_jax.benchmark attention [--image_size 256 192] [--ratio 2] [--window_size 16 12] [--remat none] …
    python -m vitpose_jax.benchmark freeze [--ratio 1] …

Each case prints one JSON line: what ran where, and for each variant the seconds that its first run took (compiling) and
those of the timed runs (median, quartiles, all). Ratios are to the first variant, the median of those of each round.
`cpu` are seconds of processor time of this process: on a CPU that others use too they say more than the clock.

Cases:
    mixed      a training step on several data sets against one on a single data set, same encoder and batch
    attention  shift + pool in windows against full attention: a forward pass and a training step
    freeze     a training step with a part of the model frozen against one of all of it

The last two also report each program's arithmetic (multiply-accumulates of its matrix products, a crop) and memory as
the compiler planned it: arguments (weights, optimizer state, crops) and temporaries. With --repeats 0 nothing is run.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vitpose_jax.keypoints import KEYPOINT_SETS
from vitpose_jax.models.cost import multiply_accumulates
from vitpose_jax.models.vitpose import ViTPose, vitpose
from vitpose_jax.training import freezing, state, tasks, update
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


def report(
    case: str,
    settings: Mapping[str, Any],
    timings: Mapping[str, Timing],
    facts: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The JSON line of a case; the first variant is the reference. `facts` are what else is known of variants."""
    device = jax.devices()[0]
    reference = next(iter(timings.values()), None)
    known = {name: dict(values) for name, values in (facts or {}).items()}
    for name, timing in timings.items():
        known.setdefault(name, {}).update(timing.summary(reference or timing))
    return json.dumps(
        {
            "case": case,
            **settings,
            "device": f"{jax.device_count()} x {device.device_kind}",
            "jax": jax.__version__,
            "variants": known,
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


class Prepared(NamedTuple):
    """A compiled program and how to run it."""

    compiled: Any
    facts: Mapping[str, Any]
    start: Callable[[], Callable[[], Any]]  # makes its arguments and returns what runs it once


def attention(
    *, size: str, decoder: str, batch_size: int, dtype: str, repeats: int, image_size: Sequence[int], ratio: int,
    window_size: Sequence[int], remat: str,
) -> tuple[dict[str, Timing], dict[str, Mapping[str, Any]]]:  # fmt: skip
    """Forward pass and training step with full attention, and with shift + pool windows."""
    prepared = {}
    windowed: dict[str, Any] = {"attention": "shift_pool", "window_size": tuple(window_size)}
    variants: dict[str, dict[str, Any]] = {"full": {}, "shift_pool": windowed}
    for name, windows in variants.items():
        model = vitpose(
            size=size, decoder=decoder, dtype=dtype, image_size=tuple(image_size), ratio=ratio, remat=remat,
            num_keypoints={"coco": 17}, **windows,
        )  # fmt: skip
        prepared[f"forward {name}"] = prepare_forward(model, batch_size)
        prepared[f"step {name}"] = prepare_step(model, batch_size)
    return measure(prepared, repeats)


def freeze(
    *, size: str, decoder: str, batch_size: int, dtype: str, repeats: int, image_size: Sequence[int], ratio: int,
    remat: str,
) -> tuple[dict[str, Timing], dict[str, Mapping[str, Any]]]:  # fmt: skip
    """A training step with all parameters trained, and with each of `freezing.CHOICES`."""
    model = vitpose(
        size=size, decoder=decoder, dtype=dtype, image_size=tuple(image_size), ratio=ratio, remat=remat,
        num_keypoints={"coco": 17},
    )  # fmt: skip
    choices: tuple[tuple[str, ...], ...] = ((), *((choice,) for choice in freezing.CHOICES))
    return measure({"".join(each) or "none": prepare_step(model, batch_size, each) for each in choices}, repeats)


def measure(prepared: Mapping[str, Prepared], repeats: int) -> tuple[dict[str, Timing], dict[str, Mapping[str, Any]]]:
    """Timings, none for 0 repeats, and facts of programs."""
    facts = {name: each.facts for name, each in prepared.items()}
    if repeats == 0:
        return {}, facts
    return take_turns({name: each.start() for name, each in prepared.items()}, repeats=repeats), facts


def prepare_forward(model: ViTPose, batch_size: int) -> Prepared:
    """Heatmaps of random crops."""

    def forward(variables, images):
        return model.apply(variables, images, train=False)

    images = random_batch(model, batch_size)["image"]
    jitted = jax.jit(forward)
    compiled = jitted.lower(state.variable_shapes(model), images).compile()

    def start() -> Callable[[], Any]:
        variables = jax.jit(lambda key: state.init_variables(model, key))(jax.random.key(0))
        return lambda: compiled(variables, images)

    return Prepared(compiled, _facts(compiled, jitted, (state.variable_shapes(model), images), batch_size), start)


def training_step(model: ViTPose, batch_size: int) -> Callable[[], Any]:
    """Runs one update of a model, as `train.py` makes it, on random crops of all its data sets; donates its state."""
    return prepare_step(model, batch_size).start()


def prepare_step(model: ViTPose, batch_size: int, freeze: tuple[str, ...] = ()) -> Prepared:
    """One update of a model, as `train.py` makes it, on random crops of all its data sets."""
    learner = freezing.model_in_training(model, freeze)
    loss = tasks.pose_loss(learner, udp=dict.fromkeys(model.num_keypoints, True), sigma=2.0)
    mesh, key = make_mesh(), jax.random.key(0)
    program = update.make_program(
        model, loss, lambda step: 1e-4, optimizer_settings={"layer_decay": 0.75, "freeze": freeze}, key=key, mesh=mesh
    )
    batch = random_batch(model, batch_size)
    compiled = program.step.lower(program.target, batch).compile()

    def start() -> Callable[[], Any]:
        current = state.init_state(model, program.tx, key, mesh)

        def run() -> Any:
            nonlocal current
            current, metrics = compiled(current, batch)
            return metrics["loss"]

        return run

    return Prepared(compiled, _facts(compiled, program.step, (program.target, batch), batch_size), start)


def random_batch(model: ViTPose, batch_size: int) -> dict[str, jax.Array]:
    """Crops of noise, in turn of all data sets of a model, with keypoints somewhere."""
    rng = np.random.default_rng(0)
    height, width = model.image_size
    points = rng.uniform(0, (width, height), (batch_size, max(model.num_keypoints.values()), 2))
    return {
        "image": jnp.asarray(rng.integers(0, 256, (batch_size, height, width, 3), dtype=np.uint8)),
        "keypoints": jnp.concatenate([jnp.asarray(points, jnp.float32), jnp.ones((*points.shape[:2], 1))], axis=-1),
        "dataset": jnp.arange(batch_size, dtype=jnp.int32) % len(model.num_keypoints),
    }


def _facts(compiled: Any, function: Callable, arguments: tuple, batch_size: int) -> dict[str, Any]:
    memory = compiled.memory_analysis()
    return {
        "gmac_per_crop": round(multiply_accumulates(function, *arguments) / batch_size / 1e9, 3),
        "arguments_gib": round(memory.argument_size_in_bytes / 2**30, 3),
        "temporaries_gib": round(memory.temp_size_in_bytes / 2**30, 3),
    }


CASES: dict[str, tuple[Callable[..., Any], str]] = {
    "mixed": (mixed, "training on several data sets against training on one"),
    "attention": (attention, "windows against full attention"),
    "freeze": (freeze, "training parts of a model against training all of it"),
}


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m vitpose_jax.benchmark", description="Speed, side by side.")
    cases = parser.add_subparsers(dest="case", required=True)
    for name, (_, what) in CASES.items():
        case = cases.add_parser(name, help=what)
        case.add_argument("--size", default="b", help="s, b, l, h or g (default b)")
        case.add_argument("--decoder", default="classic", help="classic or simple (default classic)")
        case.add_argument("--batch_size", type=int, default=8)
        case.add_argument("--dtype", default="float32", help="float32 or bfloat16 (default float32)")
        case.add_argument("--repeats", type=int, default=5)
        if name != "mixed":
            case.add_argument("--image_size", type=int, nargs=2, default=[256, 192], metavar=("H", "W"))
            case.add_argument("--ratio", type=int, default=2 if name == "attention" else 1, help="1, 2 or 4")
            case.add_argument("--remat", default="none", help="none, dots or full (default none)")
        if name == "attention":
            case.add_argument("--window_size", type=int, nargs=2, default=[16, 12], metavar=("ROWS", "COLS"))
    settings = vars(parser.parse_args(arguments))
    name = settings.pop("case")
    try:
        measured = CASES[name][0](**settings)
        print(report(name, settings, *(measured if isinstance(measured, tuple) else (measured,))))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
