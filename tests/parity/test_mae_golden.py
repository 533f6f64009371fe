"""Masked-autoencoder pre-training against the original PyTorch code: model, loss, gradients, steps, schedule."""

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tolerances
from tests.golden import weights
from tests.golden.reduce_mae import EVERY
from tests.parity.conftest import GOLDEN
from vitpose_jax import trees
from vitpose_jax.convert import layouts, rules
from vitpose_jax.models import mae, pos_embed
from vitpose_jax.models.vitpose import normalize
from vitpose_jax.training import optimizer, state, tasks


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "mae.npz"))


@pytest.fixture(scope="module")
def facts() -> dict:
    return json.loads((GOLDEN / "mae.json").read_text())


def make(config: dict, *, norm_pix_loss: bool = True) -> mae.MAE:
    return mae.mae(
        embed_dim=config["embed_dim"], depth=config["depth"], num_heads=config["num_heads"],
        mlp_dim=config["mlp_ratio"] * config["embed_dim"], image_size=(config["img_size"],) * 2,
        decoder_embed_dim=config["decoder_embed_dim"], decoder_depth=config["decoder_depth"],
        decoder_num_heads=config["decoder_num_heads"], norm_pix_loss=norm_pix_loss,
    )  # fmt: skip


def to_ours(tensors: dict[str, np.ndarray], shapes) -> dict:
    """Tensors under the original's names as our parameters (or gradients)."""
    names = layouts.rename(tensors, layouts.MAE)
    assert None not in names.values()
    return rules.from_torch({names[n]: array for n, array in tensors.items()}, shapes, decoder_prefixes={})["params"]


def to_theirs(params) -> dict[str, np.ndarray]:
    tensors = rules.to_torch({"params": params}, decoder_prefixes={})
    names = layouts.rename(tensors, layouts.MAE, to_layout=True)
    return {names[name]: array for name, array in tensors.items()}


@pytest.fixture(scope="module")
def tensors(recorded, facts) -> dict[str, np.ndarray]:
    """The tiny network's weights, under the original's names."""
    made = weights.state_dict(facts["shapes"], weights.MAE_SEED)
    return made | {
        "pos_embed": recorded["positions/tiny_pos_embed"],
        "decoder_pos_embed": recorded["positions/tiny_decoder_pos_embed"],
    }


@pytest.fixture(scope="module")
def model(facts) -> mae.MAE:
    return make(facts["config"])


@pytest.fixture(scope="module")
def params(model, tensors) -> dict:
    return to_ours(tensors, state.variable_shapes(model))


def images_of(array: np.ndarray) -> jax.Array:
    return jnp.asarray(array.transpose(0, 2, 3, 1))


@pytest.fixture(scope="module")
def images(recorded) -> jax.Array:
    return images_of(recorded["tiny/imgs"])


def run(model, params, images, noise) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(latent, prediction, mask)."""

    @jax.jit
    def outputs(params, images, noise):
        encoder = mae.Encoder(**model.backbone, dtype=model.dtype)
        kept = mae.masking(noise, model.mask_ratio).kept
        latent = encoder.apply({"params": params["backbone"]}, images, kept, train=False)
        return latent, *model.apply({"params": params}, images, train=False, noise=noise)

    return outputs(params, images, jnp.asarray(noise))


def close(ours, expected, tolerance) -> None:
    np.testing.assert_allclose(np.asarray(ours), expected, rtol=0, atol=tolerance)


def test_position_embeddings(recorded):
    close(pos_embed.sincos((4, 4), 64), recorded["positions/tiny_pos_embed"], 1e-7)
    close(pos_embed.sincos((4, 4), 32), recorded["positions/tiny_decoder_pos_embed"], 1e-7)
    for name, grid, width in (
        ("base", 14, 768), ("large", 14, 1024), ("huge", 16, 1280), ("decoder_patch16", 14, 512),
        ("decoder_patch14", 16, 512),
    ):  # fmt: skip
        rows = recorded[f"positions/{name}_row_index"]
        close(pos_embed.sincos((grid, grid), width)[0, rows], recorded[f"positions/{name}_rows"], 1e-7)


def test_a_rectangular_grid_has_the_rows_of_the_square_one_that_holds_it():
    square, rectangle = pos_embed.sincos((16, 16), 64), pos_embed.sincos((16, 12), 64)
    np.testing.assert_array_equal(rectangle[0, 1:].reshape(16, 12, 64), square[0, 1:].reshape(16, 16, 64)[:, :12])


def test_masking(recorded):
    chosen = mae.masking(jnp.asarray(recorded["tiny/noise"]), 0.75)
    np.testing.assert_array_equal(chosen.mask, recorded["tiny/mask"])
    np.testing.assert_array_equal(chosen.restore, recorded["tiny/ids_restore"])
    assert [mae.num_kept(count, ratio) for count, ratio in ((196, 0.75), (256, 0.75), (10, 0.9))] == [49, 64, 0]


def test_patches_and_back(recorded, images):
    values = mae.patches(images)
    np.testing.assert_array_equal(values[1, :, ::EVERY], recorded["tiny/patchify_image1"])
    np.testing.assert_array_equal(mae.image_of(values, (64, 64)), images)


def test_latent_prediction_and_loss(recorded, facts, model, params, images):
    latent, predicted, mask = run(model, params, images, recorded["tiny/noise"])
    close(latent, recorded["tiny/latent"], tolerances.MAE_OUTPUT)
    close(predicted[..., ::EVERY], recorded["tiny/pred"], tolerances.MAE_OUTPUT)
    close(model.target(images)[2, :, ::EVERY], recorded["tiny/normalised_target_image2"], tolerances.MAE_TARGET)
    for kind, norm_pix_loss in (("pix", False), ("norm", True)):
        per_patch = recorded[f"tiny/loss_per_patch_{kind}"]
        target = make(facts["config"], norm_pix_loss=norm_pix_loss).target(images)
        value = tasks.reconstruction_loss(predicted, target, mask)
        expected = (per_patch * recorded["tiny/mask"]).sum() / recorded["tiny/mask"].sum()
        np.testing.assert_allclose(value, expected, rtol=tolerances.MAE_LOSS_RELATIVE)


@pytest.mark.parametrize("ratio", [0.0, 0.4, 0.9])
def test_other_mask_ratios(recorded, model, params, images, ratio):
    name = f"extra/ratio{round(100 * ratio):02d}"
    other = model.clone(mask_ratio=ratio)
    latent, predicted, mask = run(other, params, images[:2], recorded["tiny/noise"][:2])
    close(latent, recorded[f"{name}_latent"], tolerances.MAE_OUTPUT)
    close(predicted[..., ::EVERY], recorded[f"{name}_pred_every_24th"], tolerances.MAE_OUTPUT)
    if ratio:
        loss = tasks.reconstruction_loss(predicted, other.target(images[:2]), mask)
        np.testing.assert_allclose(loss, recorded[f"{name}_loss_norm"], rtol=tolerances.MAE_LOSS_RELATIVE)


def test_epsilon_of_the_norms(recorded, model, tensors, images):
    """With weights that let the class token stay tiny, an epsilon of 1e-5 would change the latent by 1.4."""
    shrunk = {
        name: array * np.float32(1e-3)
        if name == "cls_token" or name.startswith("decoder_embed.") or ".attn.proj." in name or ".mlp.fc2." in name
        else array
        for name, array in tensors.items()
    }
    params = to_ours(shrunk, state.variable_shapes(model))
    latent, predicted, _ = run(model, params, images[:2], recorded["tiny/noise"][:2])
    close(latent, recorded["extra/eps_latent"], tolerances.MAE_OUTPUT)
    close(predicted[..., ::EVERY], recorded["extra/eps_pred_every_24th"], tolerances.MAE_OUTPUT)


def test_schedule(recorded, facts):
    """The recorded rates are at fractional epochs; 100 steps an epoch hit every one of them."""
    arguments, per_epoch = facts["lr_sched"], 100
    schedule = optimizer.make_schedule(
        kind="cosine", learning_rate=arguments["lr"], steps_per_epoch=per_epoch,
        total_steps=per_epoch * arguments["epochs"], warmup_epochs=arguments["warmup_epochs"], warmup_ratio=0.0,
    )  # fmt: skip
    steps = recorded["schedule/lr_epochs_a"] * per_epoch
    np.testing.assert_allclose(steps, steps.round(), atol=1e-9)
    rates = jax.vmap(schedule)(jnp.asarray(steps.round(), jnp.int32))
    np.testing.assert_allclose(rates, recorded["schedule/lr_values_a"], rtol=1e-5, atol=1e-6 * arguments["lr"])


@pytest.mark.parametrize("name", ["tiny", "mae_vit_base_patch16"])
def test_weight_decay_of_every_parameter(facts, name):
    made = make(facts["config"]) if name == "tiny" else mae.mae(size="b")
    decays = optimizer.decay_mask(state.variable_shapes(made)["params"])
    shapes = trees.flatten(state.variable_shapes(made))
    ours = {}
    for path, decayed in trees.flatten(decays).items():
        parts = [part.name for part in rules.slices(f"params/{path}", shapes[f"params/{path}"].shape, {})]
        names = layouts.rename(parts, layouts.MAE, to_layout=True)
        ours |= dict.fromkeys(names.values(), decayed)
    fixed = [ours.pop(embedding) for embedding in ("pos_embed", "decoder_pos_embed")]
    assert not any(fixed)
    expected = {name: group["weight_decay"] > 0 for group in facts["groups"][name] for name in group["names"]}
    assert ours == expected


def test_initial_values(facts):
    """Bounds and spread of every kind of parameter at size B; the fused qkv counts as one matrix."""
    shallow = mae.mae(size="b", depth=1, decoder_depth=1)
    drawn = to_theirs(jax.jit(lambda key: state.init_variables(shallow, key))(jax.random.key(0))["params"])
    for name, entry in facts["initial"].items():
        assert list(drawn[name].shape) == entry["shape"], name
        np.testing.assert_allclose(drawn[name].std(), entry["std"], rtol=0.15, err_msg=name)
        if name not in ("cls_token", "mask_token"):  # normal draws have no bounds
            np.testing.assert_allclose(drawn[name].min(), entry["min"], rtol=0.02, err_msg=name)
            np.testing.assert_allclose(drawn[name].max(), entry["max"], rtol=0.02, err_msg=name)


@pytest.fixture(scope="module")
def full(golden_dir) -> dict[str, np.ndarray]:
    names = ("tiny", "tiny_extra", "tiny_grads", "base")
    return {f"{name}/{key}": array for name in names for key, array in np.load(golden_dir / f"mae/{name}.npz").items()}


@pytest.fixture(scope="module")
def loss_and_gradients(model):
    """Compiled once for both kinds of target."""

    def loss(params, images, noise, target):
        predicted, mask = model.apply({"params": params}, images, train=True, noise=noise)
        return tasks.reconstruction_loss(predicted, target, mask)

    return jax.jit(jax.value_and_grad(loss))


class TestFullSet:
    """What needs the photograph among the recorded images."""

    @pytest.mark.parametrize("kind", ["pix", "norm"])
    def test_gradient_of_every_parameter(self, full, facts, params, loss_and_gradients, kind):
        images, noise = images_of(full["tiny/imgs"]), jnp.asarray(full["tiny/noise"])
        target = make(facts["config"], norm_pix_loss=kind == "norm").target(images)
        value, gradients = loss_and_gradients(params, images, noise, target)
        np.testing.assert_allclose(value, full[f"tiny/loss_{kind}"], rtol=tolerances.MAE_LOSS_RELATIVE)
        ours = to_theirs(gradients)
        assert not ours.pop("pos_embed").any() and not ours.pop("decoder_pos_embed").any()
        expected = {key.split("::")[1]: array for key, array in full.items() if key.startswith(f"tiny_grads/{kind}::")}
        assert ours.keys() == expected.keys()
        for name, gradient in expected.items():
            close(ours[name], gradient, tolerances.MAE_GRADIENT_OF_LARGEST * np.abs(gradient).max())

    def test_eight_optimizer_steps(self, full, model, params, loss_and_gradients):
        images = images_of(full["tiny/imgs"])
        schedule = optimizer.make_schedule(
            kind="cosine", learning_rate=0.01, steps_per_epoch=2, total_steps=8, warmup_epochs=1, warmup_ratio=0.0
        )
        tx = optimizer.adamw(params, schedule, weight_decay=0.3, b2=0.95, clip_norm=None)
        initial, opt_state = params, tx.init(params)

        @jax.jit
        def update(params, opt_state, gradients):
            updates, opt_state = tx.update(gradients, opt_state, params)
            return jax.tree.map(jnp.add, params, updates), opt_state

        for s, expected in enumerate(full["tiny_extra/train_losses"]):
            np.testing.assert_allclose(schedule(s), full["tiny_extra/train_lr"][s], rtol=1e-6)
            # The recorded batches have two images; each of them twice has the same mean, and is compiled already.
            batch = images[np.array([2 * s, 2 * s + 1] * 2) % 4]
            noise = jnp.asarray(np.tile(full["tiny_extra/train_noise"][s], (2, 1)))
            value, gradients = loss_and_gradients(params, batch, noise, model.target(batch))
            params, opt_state = update(params, opt_state, gradients)
            np.testing.assert_allclose(value, expected, rtol=tolerances.MAE_LOSS_RELATIVE)
        ours = to_theirs(params)
        for key, expected in full.items():
            if key.startswith("tiny_extra/train_final::"):
                name = key.split("::")[1]
                close(ours[name][: len(expected)], expected, tolerances.MAE_WEIGHT_AFTER_EIGHT_STEPS)
        for name in ("pos_embed", "decoder_pos_embed"):  # fixed means fixed
            np.testing.assert_array_equal(ours[name], to_theirs(initial)[name])

    @pytest.mark.slow
    def test_base(self, full, golden_dir):
        keys = json.loads((golden_dir / "mae/base.json").read_text())["keys"]
        model = mae.mae(size="b")
        made = weights.state_dict({name: entry["shape"] for name, entry in keys.items()}, weights.MAE_SEED)
        made["pos_embed"], made["decoder_pos_embed"] = pos_embed.sincos((14, 14), 768), pos_embed.sincos((14, 14), 512)
        assert {name: zlib.crc32(array.tobytes()) for name, array in made.items()} == {
            name: entry["crc32"] for name, entry in keys.items()
        }
        params = to_ours(made, state.variable_shapes(model))
        photo = jnp.asarray(full["base/photo_u8"][None])
        latent, predicted, mask = run(model, params, normalize(photo), full["base/noise"][1:])
        close(latent[:, :, ::16], full["base/latent_every_16th"][1:], tolerances.MAE_OUTPUT)
        close(predicted[:, :, ::48], full["base/pred_every_48th"][1:], tolerances.MAE_OUTPUT)
        loss = tasks.reconstruction_loss(predicted, model.target(photo), mask)
        np.testing.assert_allclose(loss, full["base/loss_photo_norm"], rtol=tolerances.MAE_LOSS_RELATIVE)
