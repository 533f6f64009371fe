"""One update: gradient, optimizer, new state, compiled for a mesh. What training runs, planning and timing run, too."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vitpose_jax.models.mae import MAE
from vitpose_jax.models.placement import CROPS, placed
from vitpose_jax.models.vitpose import ViTPose
from vitpose_jax.training import freezing, optimizer, sharding
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
    model: ViTPose | MAE,
    loss: Loss,
    schedule: optimizer.Schedule,
    *,
    optimizer_settings: Mapping[str, Any],
    key: jax.Array,
    mesh: Mesh,
    accumulate: int = 1,
) -> Program:
    """The optimizer, the sharded state and the jitted update of a run. Nothing is computed yet.

    Args:
        model: what is trained.
        loss: the task.
        schedule: step to base learning rate.
        optimizer_settings: keyword arguments of `optimizer.adamw`.
        key: seed of all randomness on the device.
        mesh: where the state lives, from `sharding.make_mesh`.
        accumulate: see `make_train_step`.

    Raises:
        ValueError: for a setting out of its range, or sizes that the mesh does not divide.
    """
    tx = optimizer.adamw(train_state.variable_shapes(model)["params"], schedule, **optimizer_settings)
    target = train_state.abstract_state(model, tx, mesh)
    step = jax.jit(
        sharding.on_mesh(
            make_train_step(
                loss, tx, schedule, key, accumulate=accumulate, freeze=optimizer_settings.get("freeze", ())
            ),
            mesh,
        ),
        donate_argnums=0,
        out_shardings=(jax.tree.map(lambda leaf: leaf.sharding, target), None),
    )
    return Program(tx, target, step)


def make_train_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    schedule: optimizer.Schedule,
    key: jax.Array,
    *,
    accumulate: int = 1,
    freeze: Sequence[str] = (),
) -> TrainStep:
    """The update itself, to be jitted.

    Args:
        loss: the task; a mean over the crops of a batch.
        tx: the optimizer.
        schedule: step to base learning rate, for the log.
        key: seed of all randomness on the device; a step folds its number in, so that resuming repeats it.
        accumulate: parts that a batch is computed in, one after the other, for the memory of one part. The update is
            that of the whole batch; only batch norm normalises each part by its own statistics.
        freeze: what the optimizer was made to leave alone, see `freezing.frozen_paths`; no gradient of it is computed.

    Returns:
        (state, batch) to (new state, metrics); metrics are the task's and `gradient_norm`, `learning_rate`.
    """

    def train_step(state: TrainState, batch: Mapping[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        step_key = jax.random.fold_in(key, state.step)
        trained = freezing.trainable(state.params, freeze)

        def loss_of(trained: Any, *rest: Any) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
            return loss(freezing.joined(state.params, trained), *rest)

        gradient = jax.grad(loss_of, has_aux=True)
        if accumulate == 1:
            gradients, (batch_stats, metrics) = gradient(trained, state.batch_stats, batch, step_key)
        else:
            of_trained = state._replace(params=trained)
            gradients, batch_stats, metrics = _in_parts(gradient, accumulate, of_trained, batch, step_key)
        gradients = sharding.as_parameters(gradients)
        updates, opt_state = tx.update(gradients, state.opt_state, trained)
        params = freezing.joined(state.params, optax.apply_updates(trained, updates))
        metrics |= {"gradient_norm": optax.tree.norm(gradients), "learning_rate": schedule(state.step)}
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return train_step


def _in_parts(
    gradient: Callable, parts: int, state: TrainState, batch: Mapping[str, jax.Array], key: jax.Array
) -> tuple[Any, Any, dict[str, jax.Array]]:
    """Means over the parts of gradients, of the running statistics that each part would leave, and of metrics."""

    def split(rows: jax.Array) -> jax.Array:
        # Part i has rows i, i + parts, …: with a batch split over devices, some of every device.
        rows = rows.reshape(-1, parts, *rows.shape[1:]).swapaxes(0, 1)
        return placed(rows, None, CROPS, *(None,) * (rows.ndim - 2))

    def add(sums: Any, part: tuple[jax.Array, Mapping[str, jax.Array]]) -> tuple[Any, dict[str, jax.Array]]:
        number, rows = part
        gradients, (batch_stats, metrics) = gradient(
            state.params, state.batch_stats, rows, jax.random.fold_in(key, number)
        )
        added = jax.tree.map(lambda total, value: total + value / parts, sums, (gradients, batch_stats))
        return (sharding.as_parameters(added[0]), added[1]), metrics

    zeros = jax.tree.map(jnp.zeros_like, (state.params, state.batch_stats))
    (gradients, batch_stats), metrics = jax.lax.scan(
        add, (sharding.as_parameters(zeros[0]), zeros[1]), (jnp.arange(parts), jax.tree.map(split, dict(batch)))
    )
    # A data set's accuracy is NaN in a part without it. A loss that is NaN stays so.
    means = {name: (jnp.mean if name == "loss" else jnp.nanmean)(values, axis=0) for name, values in metrics.items()}
    return gradients, batch_stats, means
