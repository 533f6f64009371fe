"""Properties of the network: sizes, padding, decoders against plain convolutions, stochastic depth, remat."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.random_models import random_model
from vitpose_jax import trees
from vitpose_jax.models import decoders, placement, vit, vitpose
from vitpose_jax.training import state

TINY = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 4,
    "mlp_dim": 64,
    "image_size": (64, 48),
    "num_keypoints": {"coco": 5},
}


def variables_of(model):
    return state.init_variables(model, jax.random.key(0))


# Source: spec of the original, K = 17, 256x192, buffers excluded.
@pytest.mark.parametrize("size, classic, simple", [
    ("s", 24_290_577, 21_722_513), ("b", 89_994_513, 85_912_337), ("l", 308_544_785, 303_453_201),
    ("h", 637_208_849, 631_107_857),
])  # fmt: skip
def test_parameter_counts(size, classic, simple):
    for decoder, expected in (("classic", classic), ("simple", simple)):
        model = vitpose.vitpose(size=size, decoder=decoder, num_keypoints={"coco": 17})
        params = state.variable_shapes(model)["params"]
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


def test_giant_has_a_billion_parameters():
    model = vitpose.vitpose(size="g", image_size=(576, 432), num_keypoints={"coco": 17})
    count = sum(leaf.size for leaf in jax.tree.leaves(state.variable_shapes(model)["params"]))
    assert 1.0e9 < count < 1.05e9


@pytest.mark.parametrize("image_size, ratio, grid", [
    ((256, 192), 1, (16, 12)), ((384, 288), 1, (24, 18)), ((576, 432), 1, (36, 27)), ((256, 192), 2, (32, 24)),
    ((256, 192), 4, (64, 48)), ((250, 200), 1, (15, 12)),
])  # fmt: skip
def test_patch_grid(image_size, ratio, grid):
    assert vit.patch_grid(image_size, ratio) == grid


@pytest.mark.parametrize("ratio", [1, 2, 4])
@pytest.mark.parametrize("image_size", [(64, 48), (70, 53)])
def test_patch_embedding_is_the_padded_convolution(ratio, image_size):
    images = jax.random.normal(jax.random.key(1), (2, *image_size, 3))
    layer = vit.PatchEmbed(8, ratio, jnp.float32)
    variables = layer.init(jax.random.key(0), images)
    padding, stride = vit.patch_padding(ratio), 16 // ratio
    expected = jax.lax.conv_general_dilated(
        images, variables["params"]["kernel"], (stride, stride), [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ) + variables["params"]["bias"]  # fmt: skip
    np.testing.assert_allclose(layer.apply(variables, images), expected, atol=2e-5)


def test_deconv_is_the_transposed_convolution():
    x = jax.random.normal(jax.random.key(1), (2, 5, 4, 6))
    layer = decoders.Deconv(7, jnp.float32)
    variables = layer.init(jax.random.key(0), x)
    kernel = variables["params"]["kernel"]  # like torch's: scatters in[i] * kernel[tap] to 2 i - 1 + tap
    expected = np.zeros((2, 12, 10, 7))
    for tap_y in range(4):
        for tap_x in range(4):
            part = np.einsum("bhwc,cf->bhwf", x, kernel[tap_y, tap_x])
            expected[:, tap_y : tap_y + 10 : 2, tap_x : tap_x + 8 : 2] += part
    np.testing.assert_allclose(layer.apply(variables, x), expected[:, 1:-1, 1:-1], atol=1e-6)


def test_simple_decoder_is_upsampling_then_convolution():
    features = jax.random.normal(jax.random.key(1), (2, 4, 3, 6))
    layer = decoders.SimpleDecoder(5)
    variables = layer.init(jax.random.key(0), features, train=False)
    fine = jax.image.resize(jax.nn.relu(features), (2, 16, 12, 6), "bilinear")
    expected = jax.lax.conv_general_dilated(
        fine, variables["params"]["final"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(layer.apply(variables, features, train=False), expected, atol=1e-6)


@pytest.mark.parametrize("decoder, dtype", [("classic", "float32"), ("classic", "bfloat16"), ("simple", "float32")])
def test_crop_by_crop_a_decoder_finds_what_it_finds_of_all_crops(decoder, dtype):
    """Which is how it goes in chunks on one CPU, and not where there are more devices or a program is written out."""
    loaded = random_model(decoder=decoder, dtype=dtype)
    images = jax.random.normal(jax.random.key(1), (3, *loaded.model.image_size, 3))

    def apply(variables, images):
        return loaded.model.apply(variables, images, train=False)["coco"]

    def scans(function, images=images):
        return str(jax.make_jaxpr(function)(loaded.variables, images)).count("scan[")

    in_turn = placement.in_chunks(apply)
    assert scans(in_turn) == scans(apply) + 1
    assert scans(in_turn, images[:1]) == scans(apply)
    two = jax.sharding.AbstractMesh((2, 1, 1), ("data", "fsdp", "tensor"))
    with jax.sharding.use_abstract_mesh(two):
        assert scans(in_turn) == scans(apply)
    np.testing.assert_allclose(
        in_turn(loaded.variables, images), apply(loaded.variables, images), atol=2e-5 if dtype == "float32" else 2e-2
    )


def test_batch_norm_keeps_torch_statistics():
    x = jax.random.normal(jax.random.key(1), (2, 3, 4, 5)) * 2 + 1
    layer = decoders.BatchNorm()
    variables = layer.init(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], 1)  # initialising is not a training step
    y, updates = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, atol=1e-4)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-5)
    unbiased = np.var(np.asarray(x), axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * unbiased, rtol=1e-5)


def test_initial_values():
    model = vitpose.vitpose(size="s", num_keypoints={"coco": 17})
    params = trees.flatten(variables_of(model)["params"])
    for path, leaf in params.items():
        if path.endswith("bias") and "patch_embed" not in path:
            assert not leaf.any(), path
        elif path.endswith("scale"):
            assert (leaf == 1).all(), path
        elif "patch_embed" in path:
            assert np.abs(leaf).max() <= 768**-0.5, path
            assert np.std(leaf) == pytest.approx(768**-0.5 / 3**0.5, rel=0.1), path
        else:
            sigma = 0.001 if path.startswith("decoders") else 0.02
            assert np.std(leaf) == pytest.approx(sigma, rel=0.02), path
            assert np.abs(leaf).max() > 3 * sigma, f"{path} is truncated"
    qkv = params["backbone/blocks/attn/qkv/kernel"]
    assert not np.array_equal(qkv[0], qkv[1])


def test_one_decoder_per_data_set_and_any_number_of_keypoints():
    model = vitpose.vitpose(**{**TINY, "num_keypoints": {"coco": 17, "hands": 21, "one": 1}})
    variables = variables_of(model)
    images = jax.random.normal(jax.random.key(1), (2, 64, 48, 3))
    outputs = model.apply(variables, images, train=False)
    assert {name: out.shape for name, out in outputs.items()} == {
        "coco": (2, 16, 12, 17), "hands": (2, 16, 12, 21), "one": (2, 16, 12, 1),
    }  # fmt: skip
    alone = model.apply(variables, images, train=False, datasets=("hands",))
    np.testing.assert_array_equal(alone["hands"], outputs["hands"])
    with pytest.raises(ValueError, match=r"no decoder for \['feet'\]"):
        model.apply(variables, images, train=False, datasets=("feet",))


def test_uint8_images_are_normalised():
    model = vitpose.vitpose(**TINY)
    variables = variables_of(model)
    images = np.random.default_rng(0).integers(0, 256, (1, 64, 48, 3), dtype=np.uint8)
    scaled = (images / np.float32(255) - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    ours = model.apply(variables, images, train=False)["coco"]
    np.testing.assert_allclose(ours, model.apply(variables, scaled, train=False)["coco"], atol=1e-9)


def test_drop_path_drops_whole_branches_of_samples_and_keeps_the_mean():
    block = vit.Block(
        num_heads=4,
        mlp_dim=64,
        num_experts=0,
        part_features=0,
        layer_norm_eps=1e-6,
        dtype=jnp.float32,
        train=True,
        stochastic=True,
    )
    x = jnp.zeros((1, 3, 32)).at[:].set(jax.random.normal(jax.random.key(2), (3, 32)))
    rngs = {"params": jax.random.key(0), "drop_path": jax.random.key(1)}
    variables = block.init(rngs, x, jnp.float32(0.0), None)
    many = jnp.repeat(x, 2000, axis=0)
    kept, _ = block.apply(variables, many, jnp.float32(0.0), None, rngs=rngs)
    dropped, _ = block.apply(variables, many, jnp.float32(0.4), None, rngs=rngs)
    changed = np.asarray(jnp.abs(dropped - many).max((1, 2)) > 0)
    assert changed.mean() == pytest.approx(1 - 0.4**2, abs=0.03)  # both branches dropped
    np.testing.assert_allclose(dropped.mean(0) - x[0], (kept - many).mean(0), atol=0.02)


def test_first_block_never_drops_and_inference_is_deterministic():
    model = vitpose.vitpose(**{**TINY, "depth": 1, "drop_path": 0.9})
    variables = variables_of(model)
    images = jax.random.normal(jax.random.key(1), (4, 64, 48, 3))
    train = [
        model.apply(variables, images, train=True, rngs={"drop_path": jax.random.key(i)}, mutable=["batch_stats"])[0]
        for i in range(2)
    ]
    np.testing.assert_array_equal(train[0]["coco"], train[1]["coco"])
    deep = vitpose.vitpose(**{**TINY, "drop_path": 0.9})
    model.apply(variables, images, train=False)  # needs no random key
    variables = variables_of(deep)
    a, b = (
        deep.apply(variables, images, train=True, rngs={"drop_path": jax.random.key(i)}, mutable=["batch_stats"])[0]
        for i in range(2)
    )
    assert not np.array_equal(a["coco"], b["coco"])


@functools.cache
def loss_and_gradients(**change):
    model = vitpose.vitpose(**{**TINY, "decoder": "simple", "drop_path": 0.3, **change})
    images = jax.random.normal(jax.random.key(1), (2, 64, 48, 3))

    def loss(params):
        out = model.apply({"params": params}, images, train=True, rngs={"drop_path": jax.random.key(3)})
        return jnp.square(out["coco"]).sum()

    return jax.jit(jax.value_and_grad(loss))(variables_of(model)["params"])


@pytest.mark.parametrize("change", [{"remat": "full"}, {"remat": "dots"}, {"scan_unroll": 2}])
def test_remat_and_unroll_change_nothing(change):
    results = loss_and_gradients(), loss_and_gradients(**change)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8), *results)


def test_bfloat16_is_close_and_returns_float32():
    images = jax.random.normal(jax.random.key(1), (2, 64, 48, 3))
    model32, model16 = (vitpose.vitpose(**TINY, dtype=dtype) for dtype in ("float32", "bfloat16"))
    variables = variables_of(model32)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables_of(model16)))
    exact = model32.apply(variables, images, train=False)["coco"]
    rough = model16.apply(variables, images, train=False)["coco"]
    assert rough.dtype == jnp.float32
    assert 0 < np.abs(exact - rough).max() < 0.1 * np.abs(exact).max()


@pytest.mark.parametrize("wrong, message", [
    ({"size": "xl"}, r"one of \['b', 'g', 'h', 'l', 's'\]"),
    ({"embed_dim": None}, "must be given"),
    ({"num_heads": 5}, "does not divide"),
    ({"depth": 0}, "positive"),
    ({"decoder": "fancy"}, "decoder must be one of"),
    ({"remat": "some"}, "remat must be one of"),
    ({"dtype": "float16"}, "dtype must be one of"),
    ({"drop_path": 1.0}, "drop_path"),
    ({"ratio": 3}, "ratio must be 1, 2 or 4"),
    ({"image_size": (8, 8)}, "holds no 16x16 patch"),
    ({"num_keypoints": {"coco": 0}}, "at least one keypoint"),
    ({"part_features": 8}, "has no experts"),
    ({"experts": ("coco",)}, "needs part_features"),
    ({"experts": ("aic",), "part_features": 8}, "have a decoder but no expert"),
    ({"experts": ("coco", "coco"), "part_features": 8}, "named twice"),
])  # fmt: skip
def test_wrong_settings_raise(wrong, message):
    with pytest.raises(ValueError, match=message):
        vitpose.vitpose(**{**TINY, **wrong})


def test_images_of_another_size_raise():
    model = vitpose.vitpose(**TINY)
    with pytest.raises(ValueError, match=r"takes \[B, 64, 48, 3\]"):
        model.apply(variables_of(model), jnp.zeros((1, 48, 64, 3)), train=False)
