"""The programs that are timed: a forward pass, crops to keypoints, a training step. Compiled apart from being run."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from vitpose_jax import trees
from vitpose_jax.benchmark.timing import Timing, take_turns
from vitpose_jax.models.cost import multiply_accumulates
from vitpose_jax.models.vitpose import ViTPose
from vitpose_jax.training import freezing, sharding, state, tasks, update

# Untrained heatmaps are some thousandths high. Times this, the decoders' weights make them as high as trained ones.
DECODER_FACTOR = 20.0

# AdamW as `train.py` runs it.
OPTIMIZER: Mapping[str, Any] = {"layer_decay": 0.75}
LEARNING_RATE = 1e-4


class Prepared(NamedTuple):
    """A compiled program and how to run it."""

    facts: Mapping[str, Any]
    start: Callable[[], Callable[[], Any]]  # makes its arguments and returns what runs it once


def measure(prepared: Mapping[str, Prepared], repeats: int) -> tuple[dict[str, Timing], dict[str, Mapping[str, Any]]]:
    """Timings, none for 0 repeats, and facts of programs."""
    facts = {name: each.facts for name, each in prepared.items()}
    if repeats == 0:
        return {}, facts
    return take_turns({name: each.start() for name, each in prepared.items()}, repeats=repeats), facts


def random_variables(model: ViTPose) -> dict[str, Any]:
    """Weights that were not trained, with heatmaps about as high as trained ones."""

    def scaled(path: str, leaf: jax.Array) -> jax.Array:
        is_kernel = path.startswith("params/decoders") and path.endswith("kernel")
        return leaf * DECODER_FACTOR if is_kernel else leaf

    variables = jax.jit(lambda key: state.init_variables(model, key))(jax.random.key(0))
    return trees.map_with_path(scaled, variables)


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


def prepare_forward(model: ViTPose, batch_size: int) -> Prepared:
    """Heatmaps of random crops."""

    def forward(variables, images):
        return model.apply(variables, images, train=False)

    return prepare(forward, (state.variable_shapes(model), random_batch(model, batch_size)["image"]), batch_size,
                   lambda: jax.jit(lambda key: state.init_variables(model, key))(jax.random.key(0)))  # fmt: skip


def prepare(
    function: Callable, arguments: tuple, batch_size: int, make_first: Callable[[], Any] | None = None
) -> Prepared:
    """Any function of arrays.

    Args:
        function: what is jitted.
        arguments: what it is called with.
        batch_size: crops that it works on.
        make_first: makes its first argument, where `arguments` only holds that one's shapes.
    """
    jitted = jax.jit(function)
    compiled, seconds = _compile(jitted, arguments)

    def start() -> Callable[[], Any]:
        given = arguments if make_first is None else (make_first(), *arguments[1:])
        return lambda: compiled(*given)

    return Prepared(_facts(compiled, jitted, arguments, batch_size, seconds), start)


def training_step(model: ViTPose, batch_size: int) -> Callable[[], Any]:
    """Runs one update of a model, as `train.py` makes it, on random crops of all its data sets; donates its state."""
    return prepare_step(model, batch_size).start()


def prepare_step(
    model: ViTPose,
    batch_size: int,
    freeze: tuple[str, ...] = (),
    variables: dict[str, Any] | None = None,
) -> Prepared:
    """One update of a model, as `train.py` makes it, on random crops of all its data sets.

    Args:
        model: what is trained.
        batch_size: crops.
        freeze: see `freezing`.
        variables: to start from; fresh ones if not given.
    """
    mesh, key = sharding.make_mesh(), jax.random.key(0)
    program = _program(model, freeze, mesh, key)
    batch = random_batch(model, batch_size)
    compiled, seconds = _compile(program.step, (program.target, batch))
    # What is computed twice to save memory counts once.
    once = _program(model.clone(backbone={**model.backbone, "remat": "none"}), freeze, mesh, key)

    def start() -> Callable[[], Any]:
        current = state.init_state(model, program.tx, key, mesh, variables)

        def run() -> Any:
            nonlocal current
            current, metrics = compiled(current, batch)
            return metrics["loss"]

        return run

    return Prepared(_facts(compiled, once.step, (once.target, batch), batch_size, seconds), start)


def _program(model: ViTPose, freeze: tuple[str, ...], mesh: Mesh, key: jax.Array) -> update.Program:
    learner = freezing.model_in_training(model, freeze)
    loss = tasks.pose_loss(learner, udp=dict.fromkeys(model.num_keypoints, True), sigma=2.0)
    return update.make_program(
        model, loss, lambda step: LEARNING_RATE, optimizer_settings={**OPTIMIZER, "freeze": freeze}, key=key, mesh=mesh
    )


def _compile(jitted: Any, arguments: tuple) -> tuple[Any, float]:
    """The program, and the seconds that tracing and compiling took."""
    begin = time.perf_counter()
    compiled = jitted.lower(*arguments).compile()
    return compiled, time.perf_counter() - begin


def _facts(compiled: Any, function: Callable, arguments: tuple, batch_size: int, seconds: float) -> dict[str, Any]:
    memory = compiled.memory_analysis()
    macs = multiply_accumulates(function, *arguments)
    return {
        "devices": len(jax.tree.leaves(compiled.input_shardings)[0].device_set),
        "compile_s": round(seconds, 2),
        "gmac_per_crop": round(macs / batch_size / 1e9, 3),
        "arguments_gib": round(memory.argument_size_in_bytes / 2**30, 3),
        "temporaries_gib": round(memory.temp_size_in_bytes / 2**30, 3),
    }
