"""What is learned: a task is a loss. The loop, the optimizer, the sharding and the checkpoints are the same for all."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vitpose_jax import codec
from vitpose_jax.models.mae import MAE
from vitpose_jax.models.vitpose import ViTPose

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
    """Supervised pose estimation on one or more data sets; what `train.py` trains with.

    Each data set's loss is a mean over the whole batch, so that a data set weighs as much as its share of the batch.
    With several data sets every crop runs through its own expert and decoder only, which costs about what a single data
    set costs, and batch norm's statistics are those of a data set's own crops: what its decoder will see when it is
    used. (The original runs every decoder on every crop, see `dense_pose_loss`.)

    Args:
        model: has a decoder for each data set.
        udp: data-set name to whether its targets are unbiased (UDP) Gaussians, in the order of `TrainBatch.dataset`.
        sigma: of the Gaussians, in heatmap cells.

    Returns:
        A `Loss` on `TrainBatch`es. Metrics are `loss` and `accuracy`; with several data sets also each one's own, and
        `accuracy` is the mean of those that are not NaN. The accuracy of a data set without a labelled keypoint in the
        batch is NaN.
    """
    names = tuple(udp)
    if len(names) == 1:
        return dense_pose_loss(model, udp=udp, sigma=sigma, own_statistics=False)
    num_keypoints = {name: model.num_keypoints[name] for name in names}

    def loss(params, batch_stats, batch, key):
        heatmaps, batch_stats = _training_heatmaps(model, names, params, batch_stats, batch, key)
        target, weights = _targets(model, udp, sigma, batch)
        losses, accuracies = own_losses(heatmaps, target, weights, batch["dataset"], num_keypoints)
        return _sum(losses), (batch_stats, _metrics(losses, accuracies))

    return loss


def dense_pose_loss(model: ViTPose, *, udp: Mapping[str, bool], sigma: float, own_statistics: bool) -> Loss:
    """The same with every decoder run on every crop, and each crop counting for its own data set only.

    This is what the original does, at size B and six data sets with 40 % more arithmetic, and the reference that
    `pose_loss` is tested against.

    Args:
        model: see `pose_loss`.
        udp: see `pose_loss`.
        sigma: see `pose_loss`.
        own_statistics: batch norm's statistics are those of a data set's own crops, as in `pose_loss`; else, as in the
            original, those of all crops.

    Source: `top_down_moe.py::forward_train`.
    """
    names = tuple(udp)

    def loss(params, batch_stats, batch, key):
        mixed = len(names) > 1
        outputs, updates = model.apply(
            {"params": params, "batch_stats": batch_stats}, batch["image"], train=True, datasets=names,
            expert=model.expert_of(names, batch["dataset"]) if mixed else None,
            dataset=batch["dataset"] if own_statistics else None, rngs={"drop_path": key}, mutable=["batch_stats"],
        )  # fmt: skip
        target, weights = _targets(model, udp, sigma, batch)
        losses, accuracies = dense_losses(outputs, target, weights, batch["dataset"])
        return _sum(losses), (updates.get("batch_stats", {}), _metrics(losses, accuracies))

    return loss


def distillation_loss(
    model: ViTPose,
    *,
    udp: Mapping[str, bool],
    sigma: float,
    truth_weight: float = 1.0,
    teacher_weight: float = 1.0,
    unlabelled: bool = True,
) -> Loss:
    """Pose estimation that also learns from a teacher's heatmaps; each crop through its own decoder, as in `pose_loss`.

    Args:
        model: the student.
        udp: see `pose_loss`.
        sigma: see `pose_loss`.
        truth_weight: of the loss towards the annotations, which is that of `pose_loss`.
        teacher_weight: of the loss towards the teacher's heatmaps.
        unlabelled: the teacher's heatmaps of keypoints that nobody labelled count, too.

    Returns:
        A `Loss` on `TrainBatch`es with "teacher_heatmaps", float32 or float16 [B, h, w, largest K], see
        `teacher.Teacher`. Metrics are those of `pose_loss`, `loss` the weighted sum, and both losses without weights:
        `truth_loss`, `teacher_loss`.

    Raises:
        ValueError: for a negative weight, or none above 0.

    Source: ViTPose §3.5; both losses are mean squared errors, and weigh the same.
    """
    if min(truth_weight, teacher_weight) < 0 or truth_weight + teacher_weight == 0:
        raise ValueError(
            f"distill truth_weight and teacher_weight must be 0 or more, and one above 0, not {truth_weight} and "
            f"{teacher_weight}"
        )
    names = tuple(udp)
    num_keypoints = {name: model.num_keypoints[name] for name in names}

    def loss(params, batch_stats, batch, key):
        heatmaps, batch_stats = _training_heatmaps(model, names, params, batch_stats, batch, key)
        target, weights = _targets(model, udp, sigma, batch)
        teacher = batch["teacher_heatmaps"].astype(jnp.float32)
        seen = jnp.ones_like(weights) if unlabelled else weights
        losses, accuracies = own_losses(heatmaps, target, weights, batch["dataset"], num_keypoints)
        towards_teacher, _ = own_losses(heatmaps, teacher, seen, batch["dataset"], num_keypoints)
        truth_loss, teacher_loss = _sum(losses), _sum(towards_teacher)
        total = truth_weight * truth_loss + teacher_weight * teacher_loss
        metrics = _metrics(losses, accuracies)
        metrics |= {"loss": total, "truth_loss": truth_loss, "teacher_loss": teacher_loss}
        return total, (batch_stats, metrics)

    return loss


def token_loss(model: ViTPose, *, udp: Mapping[str, bool], sigma: float) -> Loss:
    """The pose loss of a trained model that stays as it is while its knowledge token learns.

    The model runs as in inference: batch norm by its running statistics, no stochastic depth. Arguments and metrics are
    those of `pose_loss`.

    Source: ViTPose §3.5, the first stage of distilling by a token.
    """
    names = tuple(udp)
    num_keypoints = {name: model.num_keypoints[name] for name in names}

    def loss(params, batch_stats, batch, key):
        del key
        heatmaps = inference_heatmaps(model, names, params, batch_stats, batch)
        target, weights = _targets(model, udp, sigma, batch)
        losses, accuracies = own_losses(heatmaps, target, weights, batch["dataset"], num_keypoints)
        return _sum(losses), (batch_stats, _metrics(losses, accuracies))

    return loss


def inference_heatmaps(
    model: ViTPose, names: Sequence[str], params: Any, batch_stats: Any, batch: Mapping[str, jax.Array]
) -> jax.Array:
    """A trained model's heatmaps of a training batch, those of each crop's own data set.

    Args:
        model: has a decoder for each data set.
        names: data sets, in the order of `TrainBatch.dataset`.
        params: the model's.
        batch_stats: the model's.
        batch: `image` and `dataset`.

    Returns:
        float32 [B, h, w, largest K of `names`]; 0 in the channels beyond a data set's own K.
    """
    dataset = batch["dataset"]
    outputs: Any = model.apply(
        {"params": params, "batch_stats": batch_stats}, batch["image"], train=False, datasets=names,
        expert=model.expert_of(names, dataset),
    )  # fmt: skip
    widest = max(heatmaps.shape[-1] for heatmaps in outputs.values())
    padded = [jnp.pad(outputs[name], [(0, 0)] * 3 + [(0, widest - outputs[name].shape[-1])]) for name in names]
    return jnp.select([(dataset == i)[:, None, None, None] for i in range(len(names))], padded)


def mae_loss(model: MAE) -> Loss:
    """Masked-autoencoder pre-training: the mean squared error of the patches that the encoder did not see.

    What is masked is drawn from the step's key. The only metric is `loss`; the targets of `norm_pix_loss` have variance
    1, so that predicting each patch's mean scores 1.

    Source: `models_mae.py::forward_loss`.
    """

    def loss(params, batch_stats, batch, key):
        outputs: Any = model.apply({"params": params}, batch["image"], train=True, rngs={"mask": key})
        predicted, mask = outputs
        value = reconstruction_loss(predicted, model.target(batch["image"]), mask)
        return value, (batch_stats, {"loss": value})

    return loss


def reconstruction_loss(predicted: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean squared error of the removed patches.

    Args:
        predicted: float32 [B, L, values].
        target: float32 [B, L, values].
        mask: float32 [B, L], 1 where a patch was removed.

    Returns:
        float32 scalar.
    """
    return (jnp.square(predicted - target).mean(axis=-1) * mask).sum() / mask.sum()


def dense_losses(
    outputs: Mapping[str, jax.Array], target: jax.Array, weights: jax.Array, dataset: jax.Array
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Loss and accuracy of each data set from every decoder's heatmaps of all crops.

    Args:
        outputs: data-set name to heatmaps float32 [B, h, w, its K], in the order of `dataset`.
        target: float32 [B, h, w, K]; maps beyond a data set's own K are padding.
        weights: float32 [B, K].
        dataset: int32 [B].

    Returns:
        (losses, accuracies) by name: float32 scalars. The losses' sum is the batch's loss; an accuracy is NaN where
        nothing counts.
    """
    losses, accuracies = {}, {}
    for index, (name, heatmaps) in enumerate(outputs.items()):
        k = heatmaps.shape[-1]
        own = weights[:, :k] * (dataset == index)[:, None]
        losses[name] = heatmap_mse(heatmaps, target[..., :k], own)
        accuracies[name] = _accuracy(heatmaps, target[..., :k], own)
    return losses, accuracies


def own_losses(
    heatmaps: jax.Array,
    target: jax.Array,
    weights: jax.Array,
    dataset: jax.Array,
    num_keypoints: Mapping[str, int],
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The same from the heatmaps [B, h, w, K] that each crop has from its own decoder.

    Args:
        heatmaps: float32 [B, h, w, K], K the largest of `num_keypoints`.
        target: as above.
        weights: as above.
        dataset: as above.
        num_keypoints: data-set name to its own K, in the order of `dataset`.
    """
    own_k = jnp.array(list(num_keypoints.values()))
    weights = jnp.where(jnp.arange(weights.shape[1]) < own_k[dataset][:, None], weights, 0.0)
    members = jax.nn.one_hot(dataset, len(num_keypoints), axis=0)  # [G, B]
    squares = jnp.square((heatmaps - target) * weights[:, None, None, :]).mean(axis=(1, 2)).sum(axis=-1)
    losses = (members * squares).sum(axis=1) / (len(heatmaps) * own_k)
    accuracies = jax.vmap(_accuracy, in_axes=(None, None, 0))(heatmaps, target, members[..., None] * weights)
    by_name = [dict(zip(num_keypoints, values, strict=True)) for values in (losses, accuracies)]
    return by_name[0], by_name[1]


def _training_heatmaps(
    model: ViTPose,
    names: tuple[str, ...],
    params: Any,
    batch_stats: Any,
    batch: Mapping[str, jax.Array],
    key: jax.Array,
) -> tuple[jax.Array, Any]:
    """(heatmaps float32 [B, h, w, largest K] of each crop by its own decoder, new batch statistics), in training."""
    several = {"dataset": batch["dataset"], "method": "own_heatmaps"} if len(names) > 1 else {"train": True}
    outputs, updates = model.apply(
        {"params": params, "batch_stats": batch_stats}, batch["image"], datasets=names, rngs={"drop_path": key},
        mutable=["batch_stats"], **several,
    )  # fmt: skip
    return outputs if len(names) > 1 else outputs[names[0]], updates.get("batch_stats", {})


def _targets(
    model: ViTPose, udp: Mapping[str, bool], sigma: float, batch: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    return codec.encode(
        batch["keypoints"], crop_size=model.image_size, heatmap_size=model.heatmap_size, sigma=sigma,
        udp=jnp.array(list(udp.values()))[batch["dataset"]],
    )  # fmt: skip


def _accuracy(heatmaps: jax.Array, target: jax.Array, weights: jax.Array) -> jax.Array:
    return jnp.where((weights > 0).any(), codec.heatmap_accuracy(heatmaps, target, weights), jnp.nan)


def _sum(losses: Mapping[str, jax.Array]) -> jax.Array:
    return jnp.stack(list(losses.values())).sum()


def _metrics(losses: Mapping[str, jax.Array], accuracies: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    found = jnp.stack(list(accuracies.values()))
    known = ~jnp.isnan(found)
    accuracy = jnp.where(known, found, 0.0).sum() / jnp.maximum(known.sum(), 1)
    metrics = {"loss": _sum(losses), "accuracy": accuracy}
    if len(losses) > 1:
        metrics |= {f"loss/{name}": value for name, value in losses.items()}
        metrics |= {f"accuracy/{name}": value for name, value in accuracies.items()}
    return metrics
