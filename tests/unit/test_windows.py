"""Attention within windows: against a plain slow reference, by properties, and by what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitpose_jax.models import cost, vit, vitpose, windows
from vitpose_jax.training import state

TINY = {"embed_dim": 16, "depth": 6, "num_heads": 2, "mlp_dim": 16, "image_size": (128, 96), "num_keypoints": {}}
GRID, SIZE = (6, 4), (3, 2)
IMAGES = np.random.default_rng(1).normal(size=(2, 128, 96, 3)).astype("f4")


def attention_layer(layer, width=8, heads=2):
    """An attention of one block with random weights, relative positions included, and an input: (apply, params, x)."""
    module = vit.Attention(heads, jnp.float32, layer)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, layer.grid[0] * layer.grid[1], width)).astype("f4")
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f4"), shapes)
    return jax.jit(lambda x: module.apply({"params": params}, x)), params, x


def visible(layer, query, key):
    """Whether the token at (row, column) `query` sees the one at `key`: in its window, and not across the border."""
    moved = [[(t - s) % side for t, s, side in zip(at, layer.shift, layer.grid, strict=True)] for at in (query, key)]
    same_window = all(a // size == b // size for a, b, size in zip(*moved, layer.size, strict=True))
    wrapped = [[t < s for t, s in zip(at, layer.shift, strict=True)] for at in (query, key)]
    return same_window and wrapped[0] == wrapped[1]


def slow_attention(params, x, layer):
    """One query and one key at a time, in float64."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    qkv = np.einsum("bld,dtne->btlne", np.asarray(x, np.float64), params["qkv"]["kernel"])
    q, k, v = (qkv + params["qkv"]["bias"][:, None]).swapaxes(0, 1)  # [B, L, N, d] each
    places = [(row, col) for row in range(layer.grid[0]) for col in range(layer.grid[1])]
    summaries = []
    if layer.pool:
        of_window = np.array([[row // layer.size[0], col // layer.size[1]] for row, col in places])
        members = [(of_window == window).all(axis=1) for window in np.unique(of_window, axis=0)]
        summaries = [(k[:, inside].mean(axis=1), v[:, inside].mean(axis=1)) for inside in members]
    out = np.zeros_like(q)
    for i, query in enumerate(places):
        scores, values = [], []
        for j, key in enumerate(places):
            if visible(layer, query, key):
                score = np.einsum("bnd,bnd->bn", q[:, i], k[:, j]) / q.shape[-1] ** 0.5
                dy, dx = (a - b + reach - 1 for a, b, reach in zip(query, key, layer.reach, strict=True))
                if layer.relative_positions == "full":
                    score = score + params["rel_pos"]["table"][dy, dx]
                elif layer.relative_positions == "decomposed":
                    score = score + q[:, i] @ params["rel_pos"]["rows"][dy] + q[:, i] @ params["rel_pos"]["cols"][dx]
                scores.append(score)
                values.append(v[:, j])
        for summary_k, summary_v in summaries:
            scores.append(np.einsum("bnd,bnd->bn", q[:, i], summary_k) / q.shape[-1] ** 0.5)
            values.append(summary_v)
        weights = np.exp(scores) / np.exp(scores).sum(axis=0)
        out[:, i] = np.einsum("kbn,kbnd->bnd", weights, values)
    return np.einsum("blne,neD->blD", out, params["proj"]["kernel"]) + params["proj"]["bias"]


@pytest.mark.parametrize("relative", [None, "full", "decomposed"])
@pytest.mark.parametrize("attention", windows.ATTENTIONS)
def test_every_variant_is_the_slow_reference(attention, relative):
    size = None if attention == "full" else SIZE
    for layer in windows.pattern(GRID, attention=attention, window_size=size, relative_positions=relative):
        apply, params, x = attention_layer(layer)
        np.testing.assert_allclose(apply(x), slow_attention(params, x, layer), rtol=1e-4, atol=1e-4)


def test_small_windows_use_the_middle_of_the_grids_tables():
    for relative in windows.RELATIVE_POSITIONS:
        period = windows.pattern(GRID, attention="shift", window_size=SIZE, full_every=3, relative_positions=relative)
        for layer in period:
            assert layer.reach == GRID
            apply, params, x = attention_layer(layer)
            np.testing.assert_allclose(apply(x), slow_attention(params, x, layer), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window_size", [(3, 2), (2, 4), (6, 2), (3, 1)])
def test_a_shift_never_mixes_across_its_mask(window_size):
    """A token that changes reaches those that see it, bit for bit no other."""
    plain, shifted = windows.pattern(GRID, attention="shift", window_size=window_size)
    assert not any(plain.shift)
    places = [(row, col) for row in range(GRID[0]) for col in range(GRID[1])]
    for layer in (plain, shifted):
        apply, _, x = attention_layer(layer)
        before = np.asarray(apply(x))
        for i, key in enumerate(places):
            touched = x.copy()
            touched[:, i] += 1.0
            changed = (np.asarray(apply(touched)) != before).any(axis=(0, 2))
            np.testing.assert_array_equal(changed, [visible(layer, query, key) for query in places])


def test_pooling_reaches_everywhere():
    apply, _, x = attention_layer(windows.pattern(GRID, attention="pool", window_size=SIZE)[0])
    touched = x.copy()
    touched[:, 5] += 1.0
    assert np.asarray(apply(x) != apply(touched)).any(axis=(0, 2)).all()


def features(settings, seeds=(None,)):
    """Features from an encoder with random weights; in training, once for each key of stochastic depth, if given."""
    model = vitpose.vitpose(**{**TINY, **settings})
    encoder, variables = vit.ViT(**model.backbone, dtype=model.dtype), random_variables(model)["params"]["backbone"]

    @jax.jit
    def apply(variables, key):
        rngs = {} if key is None else {"drop_path": key}
        return encoder.apply({"params": variables}, IMAGES, train=key is not None, rngs=rngs).astype(jnp.float32)

    return [np.asarray(apply(variables, None if seed is None else jax.random.key(seed))) for seed in seeds]


def random_variables(model):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0.0, 0.2, leaf.shape).astype("f4"), state.variable_shapes(model))


@pytest.mark.parametrize("relative", [None, "full", "decomposed"])
def test_a_window_that_is_the_grid_is_full_attention(relative):
    settings = {"relative_positions": relative, "depth": 2}
    [full] = features(settings)
    [whole] = features({**settings, "attention": "window", "window_size": (8, 6)})
    np.testing.assert_array_equal(full, whole)


def test_windows_are_not_full_attention():
    [full], [halves] = features({}), features({"attention": "window", "window_size": (8, 3)})
    assert np.abs(full - halves).max() > 1e-3


def test_relative_positions_start_at_zero_in_every_block():
    for relative in windows.RELATIVE_POSITIONS:
        model = vitpose.vitpose(**TINY, relative_positions=relative)
        attention = jax.jit(
            lambda key, model=model: state.init_variables(model, key)["params"]["backbone"]["blocks"]["attn"]
        )
        found = jax.tree.leaves(attention(jax.random.key(0))["rel_pos"])
        assert found and all(not leaf.any() and len(leaf) == TINY["depth"] for leaf in found)


# W: windows, S: shifted windows, F: all tokens.
@pytest.mark.parametrize("settings, blocks", [
    ({"attention": "window"}, "WWWWWWWWWWWW"), ({"attention": "shift_pool"}, "WSWSWSWSWSWS"),
    ({"attention": "window", "full_every": 3}, "WWFWWFWWFWWF"),
    ({"attention": "shift", "full_every": 3}, "WSFWSFWSFWSF"),
    ({"attention": "shift", "full_every": 2}, "WFSFWFSFWFSF"), ({"attention": "pool", "full_every": 6}, "WWWWWFWWWWWF"),
    ({"attention": "shift", "full_every": 6}, "WSWSWFSWSWSF"),
])  # fmt: skip
def test_what_each_block_does(settings, blocks):
    period = windows.pattern((16, 12), window_size=(8, 6), **settings)
    names = ["F" if layer.size == (16, 12) else "S" if any(layer.shift) else "W" for layer in period]
    assert "".join(names * (12 // len(names))) == blocks
    assert all(layer.pool == ("pool" in settings["attention"]) for layer in period if layer.size != (16, 12))
    assert {layer.shift for layer in period} <= {(0, 0), (4, 3)}


@pytest.mark.parametrize("settings", [
    {"attention": "shift_pool"}, {"attention": "shift", "full_every": 3, "relative_positions": "full"},
])  # fmt: skip
def test_the_scan_runs_each_block_with_its_own_windows(settings):
    model = vitpose.vitpose(**TINY, window_size=(4, 3), **settings)
    params = random_variables(model)["params"]["backbone"]
    encoder = vit.ViT(**model.backbone)
    period = windows.pattern((8, 6), window_size=(4, 3), **settings)
    x = vit.PatchEmbed(16, 1, jnp.float32).apply({"params": params["patch_embed"]}, IMAGES).reshape(2, 48, 16)
    x = x + params["pos_embed"][:, 1:] + params["pos_embed"][:, :1]
    blocks = [
        vit.Block(2, 16, 0, 0, 1e-6, jnp.float32, train=False, stochastic=False, windows=layer) for layer in period
    ]
    applied = [jax.jit(lambda x, own, block=block: block.apply({"params": own}, x, 0.0, None)[0]) for block in blocks]
    for i in range(TINY["depth"]):
        x = applied[i % len(period)](x, jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"]))
    # last_norm normalises rounding too
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    expected = (x - mean) / jnp.sqrt(var + 1e-6) * params["last_norm"]["scale"] + params["last_norm"]["bias"]
    ours = jax.jit(lambda params: encoder.apply({"params": params}, IMAGES, train=False))(params)
    np.testing.assert_allclose(ours.reshape(2, 48, 16), expected, rtol=1e-4, atol=1e-4)


def test_remat_and_unroll_change_nothing():
    settings = {
        **TINY, "depth": 4, "attention": "shift_pool", "window_size": (4, 3), "relative_positions": "decomposed",
        "drop_path": 0.3,
    }  # fmt: skip
    results = []
    for change in ({}, {"remat": "full", "scan_unroll": 4}):
        model = vitpose.vitpose(**settings, **change)

        def loss(params, model=model):
            x = vit.ViT(**model.backbone).apply(
                {"params": params}, IMAGES, train=True, rngs={"drop_path": jax.random.key(4)}
            )
            return jnp.square(x).mean()

        results.append(jax.jit(jax.value_and_grad(loss))(random_variables(model)["params"]["backbone"]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), *results)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(results[0][1]["blocks"]["attn"]))


def test_stochastic_depth_depends_on_its_key_alone():
    settings = {"attention": "shift", "window_size": (4, 3), "drop_path": 0.9}
    a, again, b = features(settings, seeds=(0, 0, 1))
    np.testing.assert_array_equal(a, again)
    assert not np.array_equal(a, b)


def test_bfloat16_is_close():
    settings = {"attention": "shift_pool", "window_size": (4, 3), "relative_positions": "full"}
    [exact], [rough] = (features({**settings, "dtype": dtype}) for dtype in ("float32", "bfloat16"))
    assert 0 < np.abs(exact - rough).max() < 0.1 * np.abs(exact).max()


# Source: ViTPose Table 5, size B, 256x192, features of 1/8: GMAC.
PAPER = [
    ({}, 76.59),
    ({"attention": "shift_pool", "window_size": (16, 12)}, 68.46),
    ({"attention": "window", "window_size": (8, 8), "full_every": 3}, 69.94),
    ({"attention": "window", "window_size": (8, 8)}, 66.31),
    ({"attention": "shift", "window_size": (8, 8)}, 66.31),
    ({"attention": "pool", "window_size": (8, 8)}, 66.39),
    ({"attention": "shift_pool", "window_size": (8, 8)}, 66.39),
]


@pytest.mark.parametrize("settings, published", PAPER)
def test_arithmetic_is_the_papers(settings, published):
    model = vitpose.vitpose(size="b", ratio=2, num_keypoints={}, **settings)
    tolerance = 0.006 if settings.get("window_size") == (8, 8) and not settings.get("full_every") else 0.0006
    assert cost.encoder_multiply_accumulates(model) / 1e9 == pytest.approx(published, rel=tolerance)


@pytest.mark.parametrize("settings", [
    {}, {"token_dim": 1024}, {"attention": "shift_pool", "window_size": (16, 12)},
    {"attention": "shift", "window_size": (8, 8), "full_every": 3, "relative_positions": "decomposed"},
])  # fmt: skip
def test_arithmetic_is_what_the_program_does(settings):
    """The formula counts exactly the program's matrix products; XLA counts 1 % more, everything between them."""
    model = vitpose.vitpose(size="b", ratio=2, num_keypoints={}, scan_unroll=12, **settings)
    params = state.variable_shapes(model)["params"]
    images = jax.ShapeDtypeStruct((1, 256, 192, 3), jnp.float32)
    encoder = vit.ViT(**model.backbone)

    def forward(params, images):
        return encoder.apply({"params": params["backbone"]}, images, train=False)

    expected = cost.encoder_multiply_accumulates(model)
    assert cost.multiply_accumulates(forward, params, images) == expected
    operations = jax.jit(forward).lower(params, images).cost_analysis()["flops"]
    assert 2 * expected < operations < 1.01 * 2 * expected


@pytest.mark.parametrize("wrong, message", [
    ({"attention": "swin"}, "must be one of"),
    ({"relative_positions": "some"}, "relative_positions must be one of"),
    ({"window_size": (4, 3)}, "full attention has no windows"),
    ({"full_every": 3}, "full attention has no windows"),
    ({"attention": "window"}, "need model window_size"),
    ({"attention": "window", "window_size": (4,)}, "need model window_size"),
    ({"attention": "window", "window_size": (5, 5)}, r"are \(4, 6\); of all, rows are \[1, 2, 4, 8\], columns \[1, "),
    ({"attention": "window", "window_size": (0, 48)}, r"nearest that do are \(1, 6\)"),
    ({"attention": "pool", "window_size": (8, 6)}, "do nothing"),
    ({"attention": "shift", "window_size": (1, 6)}, "do nothing"),
    ({"attention": "window", "window_size": (8, 6), "full_every": 2}, "do nothing"),
    ({"attention": "window", "window_size": (4, 3), "full_every": 1}, "at least 2"),
    ({"attention": "window", "window_size": (4, 3), "full_every": 4}, "does not divide the depth of 6"),
])  # fmt: skip
def test_wrong_settings_raise(wrong, message):
    with pytest.raises(ValueError, match=message):
        vitpose.vitpose(**{**TINY, **wrong})
