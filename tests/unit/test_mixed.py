"""Crops of several data sets in one batch: each pays for its own expert and decoder, and nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitpose_jax import trees
from vitpose_jax.models import batch_norm, vitpose
from vitpose_jax.models.own import own_product, own_vector
from vitpose_jax.training import monitor, state, tasks

SIZE = (64, 48)
UDP = {"coco": True, "hands": False, "paws": False}
NUM_KEYPOINTS = {"coco": 5, "hands": 7, "paws": 2}
EXPERTS = {"experts": ("paws", "coco", "hands"), "part_features": 8}  # another order than the batch's


def model_of(decoder="classic", dtype="float32", **more):
    return vitpose.vitpose(
        embed_dim=32, depth=2, num_heads=4, mlp_dim=64, image_size=SIZE, deconv_filters=16, decoder=decoder,
        num_keypoints=NUM_KEYPOINTS, drop_path=0.2, dtype=dtype, **more,
    )  # fmt: skip


def variables_of(model):
    """Values that make every term of the loss and of the gradients count; scales and variances are positive."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape).astype(np.float32) * np.float32(0.2)
        return 1 + np.abs(noise) if path.endswith(("scale", "var")) else noise

    return trees.map_with_path(draw, state.variable_shapes(model))


def batch_of(dataset):
    rng = np.random.default_rng(0)
    size, k = len(dataset), max(NUM_KEYPOINTS.values())
    keypoints = np.concatenate([rng.uniform(5, 43, (size, k, 2)), rng.integers(0, 2, (size, k, 1))], -1)
    keypoints[:, 0, 2] = 1
    return {
        "image": rng.integers(0, 256, (size, *SIZE, 3), dtype=np.uint8),
        "keypoints": keypoints.astype(np.float32),  # beyond a data set's own K, too: must not count
        "dataset": np.array(dataset, np.int32),
    }


def compiled(loss):
    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def run(step, variables, batch):
    (value, (stats, metrics)), gradients = step(variables["params"], variables["batch_stats"], batch, jax.random.key(2))
    return value, stats, metrics, gradients


def assert_close(ours, expected, **limits):
    ours, expected = trees.flatten(ours), trees.flatten(expected)
    assert ours.keys() == expected.keys()
    for path, leaf in ours.items():
        np.testing.assert_allclose(leaf, expected[path], **limits, err_msg=path)


@pytest.mark.parametrize("decoder, experts", [
    ("classic", {}), ("simple", EXPERTS), pytest.param("classic", EXPERTS, marks=pytest.mark.slow),
])  # fmt: skip
def test_grouped_equals_dense(decoder, experts):
    model = model_of(decoder, **experts)
    variables = variables_of(model)
    grouped = compiled(tasks.pose_loss(model, udp=UDP, sigma=2.0))
    dense = compiled(tasks.dense_pose_loss(model, udp=UDP, sigma=2.0, own_statistics=True))
    for dataset in ((0, 1, 1, 2, 0, 1), (2, 0, 0, 2, 2, 0)):
        value, stats, metrics, gradients = run(grouped, variables, batch_of(dataset))
        expected, dense_stats, dense_metrics, dense_gradients = run(dense, variables, batch_of(dataset))
        assert value == pytest.approx(float(expected), rel=1e-5)
        assert_close(metrics, dense_metrics, rtol=1e-5)
        assert_close(stats, dense_stats, rtol=1e-5, atol=1e-6)
        others = trees.flatten(dense_gradients)
        for path, leaf in trees.flatten(gradients).items():
            assert np.linalg.norm(leaf - others[path]) <= 1e-4 * np.linalg.norm(others[path]) + 1e-7, path
    # The second batch has no hands.
    absent = [leaf for path, leaf in trees.flatten(gradients).items() if path.startswith("decoders/hands")]
    assert absent and not any(leaf.any() for leaf in absent)
    assert np.isnan(metrics["accuracy/hands"]) and metrics["loss/hands"] == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradients, stats)))
    if decoder == "classic":
        assert_close(stats["decoders"]["hands"], variables["batch_stats"]["decoders"]["hands"])


def test_the_original_s_statistics_are_those_of_all_crops():
    model = model_of()
    variables, batch = variables_of(model), batch_of((0, 1, 1, 2, 0, 1))
    found = {}
    for own in (True, False):
        loss = tasks.dense_pose_loss(model, udp=UDP, sigma=2.0, own_statistics=own)
        _, (found[own], _) = jax.jit(loss)(variables["params"], variables["batch_stats"], batch, jax.random.key(2))
    for name in UDP:
        own, every = (found[flag]["decoders"][name]["bn0"]["mean"] for flag in (True, False))
        assert not np.allclose(own, every, rtol=1e-3), name


def test_one_data_set_of_a_model_with_experts_trains_its_own():
    model = model_of(**EXPERTS)
    variables, batch = variables_of(model), batch_of((0, 0, 0, 0))
    _, stats, _, gradients = run(compiled(tasks.pose_loss(model, udp={"hands": False}, sigma=2.0)), variables, batch)
    by_expert = np.abs(gradients["backbone"]["blocks"]["mlp"]["experts"]["kernel"]).max(axis=(0, 2, 3))
    assert (by_expert > 0).tolist() == [False, False, True]
    assert_close(stats["decoders"]["coco"], variables["batch_stats"]["decoders"]["coco"])


def test_own_product_and_its_gradients():
    key = jax.random.split(jax.random.key(0), 4)
    x, kernels = jax.random.normal(key[0], (5, 3, 4)), jax.random.normal(key[1], (3, 4, 6))
    vectors, index = jax.random.normal(key[2], (3, 6)), jnp.array([2, 0, 0, 2, 2])
    factor = jax.random.normal(key[3], (5, 3, 6))

    def ours(x, kernels, vectors):
        return ((own_product(x, kernels, index) + own_vector(vectors, index)[:, None]) * factor).sum()

    def plain(x, kernels, vectors):
        return ((x @ kernels[index] + vectors[index][:, None]) * factor).sum()

    results = [jax.value_and_grad(function, (0, 1, 2))(x, kernels, vectors) for function in (ours, plain)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), *results)


def test_gradients_of_bfloat16_products_are_summed_in_float32():
    x = jnp.ones((4096, 1, 1), jnp.bfloat16)
    index = jnp.zeros(4096, jnp.int32)
    gradient = jax.grad(lambda kernels: own_product(x, kernels, index).astype(jnp.float32).sum())(jnp.ones((2, 1, 1)))
    assert gradient.dtype == jnp.float32
    np.testing.assert_array_equal(gradient.ravel(), [4096, 0])


def test_batch_statistics_by_group():
    x = jax.random.normal(jax.random.key(0), (5, 3, 2, 4)) * 2 + 1
    members = jax.nn.one_hot(jnp.array([0, 2, 0, 2, 2]), 3)
    found = batch_norm.statistics(x, members)
    means, variances = batch_norm.running(jnp.full((3, 4), 7.0), jnp.full((3, 4), 5.0), found)
    for group, rows in ((0, [0, 2]), (2, [1, 3, 4])):
        own = np.asarray(x)[rows].reshape(-1, 4)
        np.testing.assert_allclose(found.mean[group], own.mean(0), rtol=1e-5)
        np.testing.assert_allclose(found.var[group], own.var(0), rtol=1e-5)
        np.testing.assert_allclose(means[group], 0.9 * 7 + 0.1 * own.mean(0), rtol=1e-5)
        np.testing.assert_allclose(variances[group], 0.9 * 5 + 0.1 * own.var(0, ddof=1), rtol=1e-5)
    assert (means[1] == 7).all() and (variances[1] == 5).all()


def test_logged_means_leave_out_what_is_not_known():
    window = [{"loss": 1.0, "accuracy/a": float("nan"), "accuracy/b": float("nan")}, {"loss": 3.0, "accuracy/a": 0.5,
               "accuracy/b": float("nan")}]  # fmt: skip
    assert monitor.average(window) == {"loss": 2.0, "accuracy/a": 0.5}
