"""What a training step reads and writes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from vitpose_jax.models.mae import MAE
from vitpose_jax.models.vitpose import ViTPose
from vitpose_jax.training import sharding


class TrainState(NamedTuple):
    """Everything that a stopped run needs to go on, besides its config."""

    step: jax.Array  # int32 scalar: updates made so far
    params: Any  # float32 leaves
    batch_stats: Any  # running statistics of batch norm
    opt_state: optax.OptState


def init_variables(model: ViTPose | MAE, key: jax.Array) -> dict:
    """Fresh {"params", "batch_stats"} of a model (the second empty where there is no batch norm)."""
    images = jnp.zeros((1, *model.image_size, 3), jnp.float32)
    variables = jax.jit(lambda key: model.init(key, images, train=False))(key)  # computes no more than the leaves
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def variable_shapes(model: ViTPose | MAE) -> dict:
    """Shapes of `init_variables`, without making them."""
    return jax.eval_shape(lambda key: init_variables(model, key), jax.random.key(0))


def abstract_state(model: ViTPose | MAE, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the train state: what restoring needs to know."""
    shapes = jax.eval_shape(lambda key: _fresh(model, tx, key), jax.random.key(0))
    shardings = sharding.state_shardings(shapes, mesh)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, shardings
    )


def init_state(
    model: ViTPose | MAE, tx: optax.GradientTransformation, key: jax.Array, mesh: Mesh, variables: dict | None = None
) -> TrainState:
    """A train state at step 0, every leaf made where it belongs.

    Args:
        model: the model.
        tx: the optimizer.
        key: for the initial values.
        mesh: from `sharding.make_mesh`.
        variables: {"params", "batch_stats"} to start from instead, as numpy or jax arrays.
    """
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract_state(model, tx, mesh))
    if variables is None:
        return jax.jit(lambda key: _fresh(model, tx, key), out_shardings=places)(key)
    given = (variables["params"], variables["batch_stats"])
    placed = jax.tree.map(sharding.put, given, (places.params, places.batch_stats))
    return jax.jit(
        lambda params, stats: TrainState(jnp.int32(0), params, stats, tx.init(params)), out_shardings=places
    )(*placed)


def _fresh(model: ViTPose | MAE, tx: optax.GradientTransformation, key: jax.Array) -> TrainState:
    variables = init_variables(model, key)
    return TrainState(jnp.int32(0), variables["params"], variables["batch_stats"], tx.init(variables["params"]))
