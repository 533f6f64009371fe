"""One update: gradient, optimizer, new state, compiled for a mesh. What training runs, planning and timing run, too."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from vitpose_jax.models.vitpose import ViTPose
from vitpose_jax.training import optimizer, sharding
from vitpose_jax.training import state as train_state
from vitpose_jax.training.state import TrainState
from vitpose_jax.training.tasks import Loss

# (state, batch) to (new state, metrics).
TrainStep = Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]


class Program(NamedTuple):
    """What a run computes again and again."""

    tx: optax.GradientTransformation
    target: TrainState  # shapes, dtypes and shardings of the state
    step: Any  # the jitted `TrainStep`; donates its state


def make_program(
    model: ViTPose,
    loss: Loss,
    schedule: optimizer.Schedule,
    *,
    optimizer_settings: Mapping[str, Any],
    key: jax.Array,
    mesh: Mesh,
) -> Program:
    """The optimizer, the sharded state and the jitted update of a run. Nothing is computed yet.

    Args:
        model: what is trained.
        loss: the task.
        schedule: step to base learning rate.
        optimizer_settings: keyword arguments of `optimizer.adamw`.
        key: seed of all randomness on the device.
        mesh: where the state lives, from `sharding.make_mesh`.

    Raises:
        ValueError: for a setting out of its range, or sizes that the mesh does not divide.
    """
    tx = optimizer.adamw(train_state.variable_shapes(model)["params"], schedule, **optimizer_settings)
    target = train_state.abstract_state(model, tx, mesh)
    step = jax.jit(
        sharding.on_mesh(make_train_step(loss, tx, schedule, key), mesh),
        donate_argnums=0,
        out_shardings=(jax.tree.map(lambda leaf: leaf.sharding, target), None),
    )
    return Program(tx, target, step)


def make_train_step(
    loss: Loss, tx: optax.GradientTransformation, schedule: optimizer.Schedule, key: jax.Array
) -> TrainStep:
    """The update itself, to be jitted.

    Args:
        loss: the task.
        tx: the optimizer.
        schedule: step to base learning rate, for the log.
        key: seed of all randomness on the device; a step folds its number in, so that resuming repeats it.

    Returns:
        (state, batch) to (new state, metrics); metrics are the task's and `gradient_norm`, `learning_rate`.
    """

    def train_step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        step_key = jax.random.fold_in(key, state.step)
        gradients, (batch_stats, metrics) = jax.grad(loss, has_aux=True)(
            state.params, state.batch_stats, batch, step_key
        )
        updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics |= {"gradient_norm": optax.tree.norm(gradients), "learning_rate": schedule(state.step)}
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return train_step
