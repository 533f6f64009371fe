"""Mixed training against the original PyTorch code: the joint loss, parameter groups, plain weights into experts."""

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from tests.golden import weights
from tests.parity.conftest import GOLDEN
from vitpose_jax import trees
from vitpose_jax.convert import rules
from vitpose_jax.models import vit, vitpose
from vitpose_jax.training import optimizer, state, tasks, transfer

TINY = ("coco", "aic", "mpii")
PLUS = ("coco", "aic", "mpii", "ap10k", "apt36k", "wholebody")


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "mixed.npz"))


@pytest.fixture(scope="module")
def facts() -> dict:
    return json.loads((GOLDEN / "mixed.json").read_text())


def channels_last(heatmaps: np.ndarray) -> jax.Array:
    return jnp.asarray(heatmaps.transpose(0, 2, 3, 1))


@pytest.fixture(scope="module")
def joint(recorded, facts):
    """Loss of the tiny joint model on the recorded batch, a function of (parameters, own statistics or not)."""
    tiny = facts["tiny"]
    field = tiny["backbone"]
    model = vitpose.vitpose(
        embed_dim=field["embed_dim"], depth=field["depth"], num_heads=field["num_heads"],
        mlp_dim=field["mlp_ratio"] * field["embed_dim"], image_size=tuple(field["img_size"]), experts=TINY,
        part_features=field["part_features"], deconv_filters=tiny["num_deconv_filters"][0],
        num_keypoints=dict(zip(TINY, tiny["head_out_channels"], strict=True)),
    )  # fmt: skip
    shapes = {name: tuple(shape) for name, shape in facts["tiny_shapes"].items()}
    prefixes = rules.decoder_prefixes(TINY)
    variables = rules.from_torch(weights.state_dict(shapes), state.variable_shapes(model), decoder_prefixes=prefixes)
    images = channels_last(weights.normal("moe.input", (6, 3, 64, 48)))
    dataset = jnp.asarray(recorded["loss/dataset_idx"], jnp.int32)
    target, weight = channels_last(recorded["loss/target"]), jnp.asarray(recorded["loss/target_weight"][..., 0])

    def loss(params, own_statistics):
        outputs, updates = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]}, images, train=True, datasets=TINY,
            expert=dataset, dataset=dataset if own_statistics else None, mutable=["batch_stats"],
        )  # fmt: skip
        losses, accuracies = tasks.dense_losses(outputs, target, weight, dataset)
        return sum(losses.values()), (losses, accuracies, updates["batch_stats"])

    return loss, variables["params"]


def test_joint_loss_and_gradients(recorded, joint):
    """Every decoder on every crop, batch statistics over all crops, losses masked."""
    loss, params = joint
    run = jax.jit(jax.value_and_grad(loss, has_aux=True), static_argnums=1)
    with jax.default_matmul_precision("highest"):
        (total, (losses, accuracies, batch_stats)), gradients = run(params, False)
    np.testing.assert_allclose(total, recorded["loss/total_loss"], rtol=tolerances.LOSS_RELATIVE)
    for name, entry in zip(TINY, ("main_stream", "1", "2"), strict=True):
        np.testing.assert_allclose(losses[name], recorded[f"loss/log::{entry}_loss"], rtol=tolerances.LOSS_RELATIVE)
        assert accuracies[name] == recorded[f"loss/log::{entry}_acc"]
    ours = rules.to_torch(
        {"params": gradients, "batch_stats": batch_stats}, decoder_prefixes=rules.decoder_prefixes(TINY)
    )
    assert set(recorded["loss/grad_names"]) < set(ours)
    for name, norm, probe in zip(
        *(recorded[f"loss/grad_{entry}"] for entry in ("names", "l2", "probe")), strict=True
    ):  # fmt: skip
        gradient = ours[str(name)].astype(np.float64)
        limit = tolerances.GRADIENT_NORM_RELATIVE
        np.testing.assert_allclose(np.linalg.norm(gradient), norm, rtol=limit, err_msg=str(name))
        draw = weights.normal(f"probe.{name}", gradient.shape)
        np.testing.assert_allclose(
            (gradient * draw).sum(), probe, atol=tolerances.GRADIENT_PROBE_RELATIVE * norm, err_msg=str(name)
        )
    buffers = [entry for entry in recorded if "::" in entry and entry.endswith(("running_mean", "running_var"))]
    assert len(buffers) == 12
    for entry in buffers:
        name = entry.partition("::")[2]
        np.testing.assert_allclose(ours[name], recorded[entry], atol=tolerances.FEATURE, err_msg=name)


def test_statistics_of_own_crops_are_something_else(recorded, joint):
    loss, params = joint
    total, _ = jax.jit(loss, static_argnums=1)(params, True)
    assert abs(float(total) / float(recorded["loss/total_loss"]) - 1) > 100 * tolerances.LOSS_RELATIVE


def test_parameter_groups_of_every_leaf(facts):
    model = vitpose.vitpose(
        size="s", experts=PLUS, part_features=192,
        num_keypoints=dict(zip(PLUS, (17, 14, 16, 17, 17, 133), strict=True)),
    )  # fmt: skip
    params = state.variable_shapes(model)["params"]
    factors = trees.flatten(optimizer.learning_rate_factors(params, 0.8))
    decays = trees.flatten(optimizer.decay_mask(params))
    ours = {}
    for path, leaf in trees.flatten(params).items():
        for part in rules.slices(f"params/{path}", leaf.shape, rules.decoder_prefixes(PLUS)):
            factor = np.ravel(factors[path])[part.place[0] if part.place else 0]
            ours[part.name] = (factor, 0.1 if decays[path] else 0.0)
    assert ours.keys() == facts["groups"].keys()
    for tensor, values in ours.items():
        np.testing.assert_allclose(values, facts["groups"][tensor], rtol=1e-6, err_msg=tensor)


def test_plain_weights_expand_into_experts(recorded, facts):
    """MAE weights as the original loads them into ViTMoE: every tensor's checksum, and the features of a crop."""
    options = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_dim": 128, "image_size": (256, 192)}
    plain = vitpose.vitpose(num_keypoints={}, **options)
    model = vitpose.vitpose(num_keypoints={}, experts=TINY, part_features=8, **options)
    mae = {
        f"backbone.{name}": weights.weight(f"mae.{name}", shape)
        for name, shape in facts["mae_shapes"].items()
        if name.startswith(("blocks.", "patch_embed."))
    }
    mae["backbone.pos_embed"] = recorded["expanded/pos_embed"]
    for leaf in ("weight", "bias"):  # keeps what it had: MAE calls its last norm by another name
        mae[f"backbone.last_norm.{leaf}"] = weights.weight(f"backbone.last_norm.{leaf}", (32,))
    dense = rules.from_torch(mae, state.variable_shapes(plain), decoder_prefixes={})
    flat, expanded = transfer.expand_into_experts(trees.flatten(dense), model)
    assert len(expanded) == 4
    variables = trees.unflatten(flat)
    ours = rules.to_torch({"params": variables["params"]}, decoder_prefixes={})
    assert {name.removeprefix("backbone.") for name in ours} == facts["expanded"].keys()
    for name, entry in facts["expanded"].items():
        assert list(ours[f"backbone.{name}"].shape) == entry["shape"], name
        assert zlib.crc32(ours[f"backbone.{name}"].tobytes()) == entry["crc32"], name
    encoder = vit.ViT(**model.backbone)
    images = channels_last(weights.normal("ckpt.input", (1, 3, 256, 192)))
    with jax.default_matmul_precision("highest"):
        for expert in (jnp.int32(1), jnp.array([2])):
            features = encoder.apply(
                {"params": variables["params"]["backbone"]}, images, train=False, expert=expert
            )  # fmt: skip
            expected = recorded["expanded/features"]
            np.testing.assert_allclose(features.transpose(0, 3, 1, 2), expected, atol=tolerances.FEATURE)
