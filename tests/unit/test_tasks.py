"""The loss: what counts, what does not, and several data sets in one batch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vitpose_jax import codec
from vitpose_jax.models import vitpose
from vitpose_jax.training import state, tasks, update

SIZE = (64, 48)


def model_of(num_keypoints):
    return vitpose.vitpose(
        embed_dim=32, depth=1, num_heads=4, mlp_dim=64, image_size=SIZE, decoder="simple", num_keypoints=num_keypoints
    )


def batch_of(size, k, dataset=0):
    rng = np.random.default_rng(size)
    keypoints = np.concatenate([rng.uniform(5, 43, (size, k, 2)), np.ones((size, k, 1))], -1).astype(np.float32)
    return {
        "image": rng.integers(0, 256, (size, *SIZE, 3), dtype=np.uint8),
        "keypoints": keypoints,
        "dataset": np.full(size, dataset, np.int32),
    }


def value(model, udp, batch, params):
    loss, (_, metrics) = tasks.pose_loss(model, udp=udp, sigma=2.0)(params, {}, batch, jax.random.key(0))
    return float(loss), metrics


def test_unlabelled_keypoints_have_no_gradient_but_count_in_the_mean():
    predicted, target = jnp.ones((2, 4, 3, 5)), jnp.zeros((2, 4, 3, 5))
    weights = jnp.ones((2, 5)).at[0, 1].set(0.0)
    assert tasks.heatmap_mse(predicted, target, weights) == pytest.approx(9 / 10)
    gradient = jax.grad(tasks.heatmap_mse)(predicted, target, weights)
    assert not gradient[0, :, :, 1].any() and gradient[0, :, :, 0].all()


def test_weights_enter_squared():
    predicted, target = jnp.ones((1, 2, 2, 1)), jnp.zeros((1, 2, 2, 1))
    assert tasks.heatmap_mse(predicted, target, jnp.full((1, 1), 0.5)) == pytest.approx(0.25)


def test_the_target_is_the_codec_s():
    model = model_of({"coco": 5})
    params = state.init_variables(model, jax.random.key(0))["params"]
    batch = batch_of(3, 5)
    loss, _ = value(model, {"coco": True}, batch, params)
    heatmaps = model.apply({"params": params}, batch["image"], train=True)["coco"]
    target, weights = codec.encode(batch["keypoints"], crop_size=SIZE, heatmap_size=(16, 12), sigma=2.0, udp=True)
    assert loss == pytest.approx(float(tasks.heatmap_mse(heatmaps, target, weights)), rel=1e-6)


def test_each_data_set_pays_by_its_share_of_the_batch():
    model = model_of({"coco": 5, "hands": 3})
    params = state.init_variables(model, jax.random.key(0))["params"]
    coco, hands = batch_of(3, 5, 0), batch_of(1, 5, 1)
    hands["keypoints"][:, 3:] = 0  # padding up to the largest K
    mixed = {name: np.concatenate([coco[name], hands[name]]) for name in coco}
    udp = {"coco": True, "hands": False}
    total, metrics = value(model, udp, mixed, params)
    alone = [value(model, udp, part, params)[1] for part in (coco, hands)]
    assert metrics["loss/coco"] == pytest.approx(float(alone[0]["loss/coco"]) * 3 / 4, rel=1e-5)
    assert metrics["loss/hands"] == pytest.approx(float(alone[1]["loss/hands"]) * 1 / 4, rel=1e-5)
    assert total == pytest.approx(float(metrics["loss/coco"] + metrics["loss/hands"]), rel=1e-6)


def test_the_random_key_depends_on_the_step_only():
    model = vitpose.vitpose(
        embed_dim=32, depth=2, num_heads=4, mlp_dim=64, image_size=SIZE, decoder="simple", num_keypoints={"coco": 5},
        drop_path=0.5,
    )  # fmt: skip
    variables = state.init_variables(model, jax.random.key(0))
    tx = optax.sgd(0.0)
    step = jax.jit(
        update.make_train_step(
            tasks.pose_loss(model, udp={"coco": True}, sigma=2.0), tx, lambda s: 0.0, jax.random.key(1)
        )
    )
    start = state.TrainState(jnp.int32(0), variables["params"], {}, tx.init(variables["params"]))
    batch = batch_of(8, 5)
    after_one, first = step(start, batch)
    _, again = step(start, batch)
    _, second = step(after_one, batch)
    assert first["loss"] == again["loss"] != second["loss"]
    assert after_one.step == 1
