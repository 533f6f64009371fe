"""Loss, gradients, parameter groups, schedule and five optimizer steps against the original PyTorch code."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from tests.golden import weights
from tests.parity.conftest import GOLDEN
from vitpose_jax import trees
from vitpose_jax.convert import rules
from vitpose_jax.models import vitpose
from vitpose_jax.training import optimizer, state, tasks, update

HEADS = {"coco": "keypoint_head"}


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "training.npz"))


@pytest.fixture(scope="module")
def facts() -> dict:
    return json.loads((GOLDEN / "training.json").read_text())


def channels_last(heatmaps: np.ndarray) -> jax.Array:
    return jnp.asarray(heatmaps.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("case", range(4))
def test_loss_and_its_gradient(recorded, case):
    output, target, weight = (recorded[f"mse/{name}{case}"] for name in ("output", "target", "target_weight"))
    weight = weight[..., 0] if recorded[f"mse/use_target_weight{case}"] else np.ones(weight.shape[:2], np.float32)
    factor = float(recorded[f"mse/loss_weight{case}"])  # the original's option; every config has 1

    def loss(output):
        return factor * tasks.heatmap_mse(output, channels_last(target), jnp.asarray(weight))

    value, gradient = jax.value_and_grad(loss)(channels_last(output))
    np.testing.assert_allclose(value, recorded[f"mse/loss{case}"], rtol=tolerances.LOSS_RELATIVE)
    expected = recorded[f"mse/grad{case}"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(gradient, expected, rtol=tolerances.LOSS_RELATIVE, atol=1e-9)


@pytest.mark.parametrize("name, decoder", [("vitpose_b", "classic"), ("vitpose_b_simple", "simple")])
def test_parameter_groups_of_every_leaf(facts, name, decoder):
    model = vitpose.vitpose(size="b", decoder=decoder, num_keypoints={"coco": 17})
    params = state.variable_shapes(model)["params"]
    factors = trees.flatten(optimizer.learning_rate_factors(params, 0.75))
    decays = trees.flatten(optimizer.decay_mask(params))
    ours = {}
    for path, leaf in trees.flatten(params).items():
        names = [part.name for part in rules.slices(f"params/{path}", leaf.shape, HEADS)]
        for tensor, factor in zip(names, np.broadcast_to(np.ravel(factors[path]), len(names)), strict=True):
            ours[tensor] = (factor, 0.1 if decays[path] else 0.0)
    assert ours.keys() == facts["groups"][name].keys()
    for tensor, (factor, decay) in ours.items():
        np.testing.assert_allclose((factor, decay), facts["groups"][name][tensor], rtol=1e-6, err_msg=tensor)


def test_learning_rate_of_every_iteration(recorded):
    per_epoch, epochs = int(recorded["schedule/iters_per_epoch"]), int(recorded["schedule/epochs"])
    schedule = optimizer.make_schedule(
        learning_rate=5e-4, steps_per_epoch=per_epoch, total_steps=per_epoch * epochs, warmup_steps=500,
        warmup_ratio=0.001, drop_epochs=(170, 200), drop_factor=0.1,
    )  # fmt: skip
    ours = jax.vmap(schedule)(jnp.arange(per_epoch * epochs))
    np.testing.assert_allclose(ours, recorded["schedule/lr"][:, 0], rtol=1e-6)


def test_five_steps(recorded, facts):
    tiny = facts["tiny"]
    model = vitpose.vitpose(
        embed_dim=tiny["embed_dim"], depth=tiny["depth"], num_heads=tiny["num_heads"], mlp_dim=4 * tiny["embed_dim"],
        image_size=tiny["img_size"], deconv_filters=tiny["num_deconv_filters"][0],
        num_keypoints={"coco": tiny["out_channels"]},
    )  # fmt: skip
    torch_shapes = {name: tuple(shape) for name, shape in facts["tiny_shapes"].items()}
    variables = rules.from_torch(weights.state_dict(torch_shapes), state.variable_shapes(model), decoder_prefixes=HEADS)
    tx = optimizer.adamw(
        variables["params"], lambda step: tiny["lr"], weight_decay=tiny["wd"], layer_decay=tiny["decay"],
        b1=tiny["betas"][0], b2=tiny["betas"][1], eps=tiny["eps"], clip_norm=tiny["grad_clip_max_norm"],
    )  # fmt: skip
    batch = {
        "image": jnp.asarray(recorded["tiny/input"].transpose(0, 2, 3, 1)),
        "target": channels_last(recorded["tiny/target"]),
        "weight": jnp.asarray(recorded["tiny/target_weight"][..., 0]),
    }

    def loss(params, batch_stats, batch, key):
        del key  # no drop path
        outputs, updates = model.apply(
            {"params": params, "batch_stats": batch_stats}, batch["image"], train=True, mutable=["batch_stats"]
        )
        value = tasks.heatmap_mse(outputs["coco"], batch["target"], batch["weight"])
        return value, (updates["batch_stats"], {"loss": value})

    step = jax.jit(update.make_train_step(loss, tx, lambda step: tiny["lr"], jax.random.key(0)))
    current = state.TrainState(
        jnp.int32(0), variables["params"], variables["batch_stats"], tx.init(variables["params"])
    )
    with jax.default_matmul_precision("highest"):
        for i in range(tiny["steps"]):
            current, metrics = step(current, batch)
            np.testing.assert_allclose(metrics["loss"], recorded["tiny/loss"][i], rtol=tolerances.LOSS_RELATIVE)
            np.testing.assert_allclose(
                metrics["gradient_norm"], recorded["tiny/grad_norm_before_clip"][i],
                rtol=tolerances.GRADIENT_NORM_RELATIVE,
            )  # fmt: skip
            ours = rules.to_torch({"params": current.params}, decoder_prefixes=HEADS)
            for j, name in enumerate(recorded["tiny/param_names"]):
                expected = recorded["tiny/param_l2_after_step"][i, j]
                np.testing.assert_allclose(np.linalg.norm(ours[str(name)]), expected, rtol=1e-4, err_msg=str(name))
        trained = {"params": current.params, "batch_stats": current.batch_stats}
        heatmaps = model.apply(trained, batch["image"], train=False)["coco"].transpose(0, 3, 1, 2)

    ours = rules.to_torch(trained, decoder_prefixes=HEADS)
    dim = tiny["embed_dim"]
    for entry, expected in recorded.items():
        if not entry.startswith("tiny/final::"):
            continue
        name = entry.removeprefix("tiny/final::")
        difference = np.abs(ours[name] - expected)
        if name.endswith("attn.qkv.bias"):  # a key bias has no gradient but rounding noise
            layer_rate = tiny["table"][name]["lr"]
            assert difference[dim : 2 * dim].max() < tolerances.KEY_BIAS_AFTER_FIVE_STEPS_LR * layer_rate
            difference[dim : 2 * dim] = 0
        assert difference.max() < tolerances.WEIGHT_AFTER_FIVE_STEPS, name
    np.testing.assert_allclose(heatmaps, recorded["tiny/final_eval_heatmaps"], atol=tolerances.WEIGHT_AFTER_FIVE_STEPS)


def test_loss_and_gradients_of_the_full_size_model(golden_dir):
    """ViTPose-B on two photographs: loss, accuracy, every gradient's norm and probe, batch-norm statistics."""
    recorded = np.load(golden_dir / "2_loss/vitpose_b_classic.npz")
    batch = np.load(golden_dir / "2_loss/batch.npz")
    keys = json.loads((golden_dir / "1_forward/vitpose_b_classic_256x192.keys.json").read_text())
    shapes = {name: tuple(entry["shape"]) for name, entry in keys.items()}
    model = vitpose.vitpose(size="b", num_keypoints={"coco": 17})
    variables = rules.from_torch(weights.state_dict(shapes), state.variable_shapes(model), decoder_prefixes=HEADS)
    target, weight = channels_last(batch["target"]), jnp.asarray(batch["target_weight"][..., 0])

    @jax.jit
    def loss(params):
        outputs, updates = model.apply(
            {"params": params, "batch_stats": variables["batch_stats"]}, jnp.asarray(batch["u8"]), train=True,
            mutable=["batch_stats"],
        )  # fmt: skip
        return tasks.heatmap_mse(outputs["coco"], target, weight), (outputs["coco"], updates["batch_stats"])

    with jax.default_matmul_precision("highest"):
        (value, (_, batch_stats)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    np.testing.assert_allclose(value, recorded["loss"], rtol=tolerances.LOSS_RELATIVE)
    ours = rules.to_torch({"params": gradients, "batch_stats": batch_stats}, decoder_prefixes=HEADS)
    for name, norm, probe in zip(recorded["grad_names"], recorded["grad_l2"], recorded["grad_probe"], strict=True):
        gradient = ours[str(name)].astype(np.float64)
        draw = weights.normal(f"probe.{name}", gradient.shape)
        np.testing.assert_allclose(
            np.linalg.norm(gradient), norm, rtol=tolerances.GRADIENT_NORM_RELATIVE, err_msg=str(name)
        )
        np.testing.assert_allclose(
            (gradient * draw).sum(), probe, atol=tolerances.GRADIENT_PROBE_RELATIVE * norm, err_msg=str(name)
        )
    for entry in recorded.files:
        kind, _, name = entry.partition("::")
        if kind == "grad":
            limit = tolerances.GRADIENT_NORM_RELATIVE * np.linalg.norm(recorded[entry])
            assert np.linalg.norm(ours[name] - recorded[entry]) < limit, name
        elif kind == "buffer" and not name.endswith("num_batches_tracked"):
            np.testing.assert_allclose(ours[name], recorded[entry], atol=tolerances.FEATURE, err_msg=name)
