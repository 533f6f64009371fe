"""AdamW with layer-wise learning-rate decay, and its schedules: the published recipe.

Which group a parameter belongs to is written in two tables over parameter paths. Blocks are stacked on one axis, so a
block's learning-rate factor is a vector over layers, never a guess from a tensor's rank.

Source: ViTPose Table 1; `mmcv_custom/layer_decay_optimizer_constructor.py` and mmcv's `StepLrUpdaterHook`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vitpose_jax import trees
from vitpose_jax.training import freezing

Schedule = Callable[[Any], Any]

# Embeddings are layer 0, block i is layer i + 1, everything behind the blocks has the full learning rate, and so has
# what no pre-training has seen: a knowledge token and its projection.
LAYER_TABLE: tuple[tuple[str, Literal["embeddings", "blocks", "top"]], ...] = (
    ("backbone/(pos_embed|cls_token)", "embeddings"),
    ("backbone/patch_embed/(kernel|bias)", "embeddings"),
    ("backbone/blocks/.+", "blocks"),
    ("backbone/last_norm/(scale|bias)", "top"),
    ("backbone/knowledge/.+", "top"),
    ("decoders/.+", "top"),
    ("mae_decoder/.+", "top"),
)

# No decay for vectors (biases, scales of norms, a knowledge token) and positions, embedded or relative; MAE's tokens
# decay, as in the original.
WEIGHT_DECAY_TABLE: tuple[tuple[str, bool], ...] = (
    ("(backbone|mae_decoder)/pos_embed", False),
    ("backbone/blocks/attn/rel_pos/(table|rows|cols)", False),
    ("backbone/knowledge/token", False),
    ("backbone/cls_token", True),
    ("mae_decoder/mask_token", True),
    ("(backbone|decoders|mae_decoder)/.+/(bias|scale)", False),
    ("(backbone|decoders|mae_decoder)/.+/kernel", True),
)


def learning_rate_factors(params: Any, layer_decay: float) -> Any:
    """What each parameter's learning rate is multiplied with.

    Args:
        params: the model's parameters or their shapes; blocks are stacked on axis 0.
        layer_decay: rho; a layer's factor is rho ** (layers above it).

    Returns:
        A tree like `params` of float32 arrays that broadcast to the parameters.

    Raises:
        ValueError: for a parameter without a row in `LAYER_TABLE`.
    """
    flat = trees.flatten(params)
    layers = trees.match(LAYER_TABLE, flat, name="layer-wise learning rate")
    depth = max((leaf.shape[0] for path, leaf in flat.items() if layers[path] == "blocks"), default=0)

    def factor(path: str, leaf: Any) -> np.ndarray:
        if layers[path] == "blocks":
            factors = layer_decay ** np.arange(depth, 0, -1, dtype=np.float64)
            return factors.astype(np.float32).reshape(depth, *(1,) * (leaf.ndim - 1))
        return np.asarray(layer_decay ** (depth + 1) if layers[path] == "embeddings" else 1.0, np.float32)

    return trees.map_with_path(factor, params)


def decay_mask(params: Any) -> Any:
    """A tree like `params`: True where weight decay applies."""
    rows = trees.match(WEIGHT_DECAY_TABLE, trees.flatten(params), name="weight decay")
    return trees.map_with_path(lambda path, _: rows[path], params)


def adamw(
    params: Any,
    schedule: Schedule,
    *,
    weight_decay: float = 0.1,
    layer_decay: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    clip_norm: float | None = 1.0,
    freeze: Sequence[str] = (),
) -> optax.GradientTransformation:
    """AdamW as the original trains with: clip, Adam, decoupled decay, layer-wise factors, learning rate.

    Decay is multiplied with the layer's own learning rate, as in torch's parameter groups.

    Args:
        params: the model's parameters or their shapes.
        schedule: step to base learning rate.
        weight_decay: of the leaves that `WEIGHT_DECAY_TABLE` says decay.
        layer_decay: see `learning_rate_factors`; 1 is one rate for all.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment.
        clip_norm: largest global norm of the gradient; None does not clip.
        freeze: what is not trained, see `freezing.frozen_paths`. The optimizer's state, gradients and updates are then
            trees of the other parameters; `init` takes all parameters.

    Raises:
        ValueError: for a setting out of its range or a parameter without a row in a table.
    """
    for name, value, low, high in (
        ("weight_decay", weight_decay, 0.0, math.inf), ("layer_decay", layer_decay, 1e-6, 1.0),
        ("b1", b1, 0.0, 1.0), ("b2", b2, 0.0, 1.0), ("eps", eps, 0.0, 1.0),
        ("clip_norm", clip_norm if clip_norm is not None else 1.0, 1e-12, math.inf),
    ):  # fmt: skip
        if not low <= value <= high:
            raise ValueError(f"optimizer setting {name} must be between {low} and {high}, not {value}")
    factors = freezing.trainable(learning_rate_factors(params, layer_decay), freeze)

    def scale_layers(updates: Any, params: Any = None) -> Any:
        del params
        return jax.tree.map(lambda update, factor: update * factor, updates, factors)

    tx = optax.chain(
        optax.clip_by_global_norm(clip_norm) if clip_norm is not None else optax.identity(),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(weight_decay, mask=decay_mask),
        optax.stateless(scale_layers),
        optax.scale_by_learning_rate(schedule),
    )
    return optax.GradientTransformation(lambda params: tx.init(freezing.trainable(params, freeze)), tx.update)


def step_schedule(
    learning_rate: float,
    *,
    steps_per_epoch: int,
    warmup_steps: int,
    warmup_ratio: float,
    drop_epochs: Sequence[int],
    drop_factor: float,
) -> Schedule:
    """Constant, dropped at given epochs, after a linear warm-up that is counted in steps.

    Args:
        learning_rate: base rate.
        steps_per_epoch: of this run.
        warmup_steps: steps until the full rate; 0 for none.
        warmup_ratio: fraction of the rate at step 0.
        drop_epochs: number of full epochs after which the rate drops, ascending.
        drop_factor: what it is multiplied with at each.

    Returns:
        Step (counted from 0) to learning rate.
    """
    if list(drop_epochs) != sorted(drop_epochs):
        raise ValueError(f"drop_epochs must ascend, not {tuple(drop_epochs)}")
    boundaries = np.array([epoch * steps_per_epoch for epoch in drop_epochs], np.int32)

    def schedule(step):
        drops = jnp.sum(step >= boundaries) if len(boundaries) else 0
        return learning_rate * drop_factor**drops * _warmup(step, warmup_steps, warmup_ratio)

    return schedule


def cosine_schedule(learning_rate: float, *, total_steps: int, warmup_steps: int, warmup_ratio: float) -> Schedule:
    """Half a cosine from the base rate to zero over the whole run, after a linear warm-up.

    Args:
        learning_rate: base rate.
        total_steps: of the run; zero is reached there.
        warmup_steps: steps until the full rate.
        warmup_ratio: fraction of the rate at step 0.
    """
    if total_steps <= warmup_steps:
        raise ValueError(
            f"a run of {total_steps} steps is not longer than its warm-up: train longer (config.train.epochs) or set "
            f"config.schedule.warmup_steps below {total_steps}; it is {warmup_steps}"
        )

    def schedule(step):
        progress = jnp.clip((step - warmup_steps) / (total_steps - warmup_steps), 0.0, 1.0)
        return learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * progress)) * _warmup(step, warmup_steps, warmup_ratio)

    return schedule


def make_schedule(
    *,
    learning_rate: float,
    kind: str = "step",
    steps_per_epoch: int,
    total_steps: int,
    warmup_steps: int = 500,
    warmup_epochs: float | None = None,
    warmup_ratio: float = 0.001,
    drop_epochs: Sequence[int] = (170, 200),
    drop_factor: float = 0.1,
) -> Schedule:
    """The schedule of a config's `schedule` section: "step" (the published one) or "cosine".

    `warmup_epochs`, where given, says how long the warm-up is instead of `warmup_steps`; the other arguments are those
    of `step_schedule` and `cosine_schedule`.
    """
    if warmup_epochs is not None:
        warmup_steps = round(warmup_epochs * steps_per_epoch)
    if kind == "step":
        return step_schedule(
            learning_rate, steps_per_epoch=steps_per_epoch, warmup_steps=warmup_steps, warmup_ratio=warmup_ratio,
            drop_epochs=drop_epochs, drop_factor=drop_factor,
        )  # fmt: skip
    if kind == "cosine":
        return cosine_schedule(
            learning_rate, total_steps=total_steps, warmup_steps=warmup_steps, warmup_ratio=warmup_ratio
        )
    raise ValueError(f"schedule kind must be 'step' or 'cosine', not {kind!r}")


def _warmup(step, steps: int, ratio: float):
    if steps == 0:
        return 1.0
    return jnp.minimum(1.0, ratio + (1.0 - ratio) * step / steps)
