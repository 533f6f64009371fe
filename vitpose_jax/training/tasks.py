"""What is learned: a task is a loss. The loop, the optimizer, the sharding and the checkpoints are the same for all."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vitpose_jax import codec
from vitpose_jax.models.vitpose import ViTPose
from vitpose_jax.training.state import TrainState

# (params, batch statistics, batch, random key) to (loss, (new batch statistics, metrics)).
Loss = Callable[[Any, Any, Mapping[str, jax.Array], jax.Array], tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]]


def heatmap_mse(predicted: jax.Array, target: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean squared error of weighted heatmaps, over all maps, unlabelled ones included.

    Args:
        predicted: float32 [B, h, w, K].
        target: float32 [B, h, w, K].
        weights: float32 [B, K]; enters squared.

    Returns:
        float32 scalar.

    Source: `mse_loss.py::JointsMSELoss` with `use_target_weight`; there is no factor one half.
    """
    return jnp.mean(jnp.square((predicted - target) * weights[:, None, None, :]))


def pose_loss(model: ViTPose, *, udp: Mapping[str, bool], sigma: float) -> Loss:
    """Supervised pose estimation on one or more data sets.

    Every decoder runs on every crop; a crop counts only for its own data set, and each data set's loss is a mean over
    the whole batch, so that a data set weighs as much as its share of the batch.

    Args:
        model: has a decoder for each data set.
        udp: data-set name to whether its targets are unbiased (UDP) Gaussians, in the order of `TrainBatch.dataset`.
        sigma: of the Gaussians, in heatmap cells.

    Returns:
        A `Loss` on `TrainBatch`es. Metrics are `loss` and `accuracy`; with several data sets also each one's own.

    Source: `top_down_moe.py::forward_train`.
    """
    names = tuple(udp)

    def loss(params, batch_stats, batch, key):
        outputs, updates = model.apply(
            {"params": params, "batch_stats": batch_stats}, batch["image"], train=True, datasets=names,
            rngs={"drop_path": key}, mutable=["batch_stats"],
        )  # fmt: skip
        target, weights = codec.encode(
            batch["keypoints"], crop_size=model.image_size, heatmap_size=model.heatmap_size, sigma=sigma,
            udp=jnp.array([udp[name] for name in names])[batch["dataset"]],
        )  # fmt: skip
        losses, accuracies = {}, {}
        for index, name in enumerate(names):
            k = model.num_keypoints[name]  # keypoints beyond a data set's own are padding
            own = weights[:, :k] * (batch["dataset"] == index)[:, None]
            losses[name] = heatmap_mse(outputs[name], target[..., :k], own)
            accuracies[name] = codec.heatmap_accuracy(outputs[name], target[..., :k], own)
        total = sum(losses.values())
        metrics = {"loss": total, "accuracy": sum(accuracies.values()) / len(names)}
        if len(names) > 1:
            metrics |= {f"loss/{name}": value for name, value in losses.items()}
            metrics |= {f"accuracy/{name}": value for name, value in accuracies.items()}
        return total, (updates.get("batch_stats", {}), metrics)

    return loss


def make_train_step(
    loss: Loss, tx: optax.GradientTransformation, schedule: Callable, key: jax.Array
) -> Callable[[TrainState, Mapping[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """The function that `train.py` jits: one update.

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
