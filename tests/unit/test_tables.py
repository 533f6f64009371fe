"""Every parameter of every model has exactly one row in every table; conversion is its own inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitpose_jax import trees
from vitpose_jax.convert import export, hugging_face, rules
from vitpose_jax.models import inference_weights, mae, vitpose
from vitpose_jax.training import freezing, optimizer, sharding, state
from vitpose_jax.training.model_file import ModelFile

MODELS = [
    vitpose.vitpose(
        embed_dim=32, depth=3, num_heads=4, mlp_dim=64, image_size=(64, 48), decoder=decoder, deconv_filters=16,
        num_keypoints={"coco": 5, "hands": 7}, **experts,
    )
    for decoder, experts in (
        ("classic", {}), ("simple", {}), ("classic", {"experts": ("coco", "hands"), "part_features": 8}),
    )
]  # fmt: skip
MODELS.append(
    mae.mae(
        embed_dim=32, depth=3, num_heads=4, mlp_dim=64, image_size=(64, 48), decoder_embed_dim=16, decoder_depth=2,
        decoder_num_heads=2,
    )
)  # fmt: skip
IDS = ["classic", "simple", "plus", "masked autoencoder"]
PREFIXES = {"coco": "keypoint_head", "hands": "associate_keypoint_heads.0"}


RELATIVE = [
    vitpose.vitpose(
        embed_dim=32, depth=3, num_heads=4, mlp_dim=64, image_size=(64, 48), num_keypoints={},
        relative_positions=relative,
    )
    for relative in ("full", "decomposed")
]  # fmt: skip


TOKEN = vitpose.vitpose(
    embed_dim=32, depth=3, num_heads=4, mlp_dim=64, image_size=(64, 48), num_keypoints={}, token_dim=16
)


@pytest.mark.parametrize("model", [*MODELS, *RELATIVE, TOKEN], ids=[*IDS, "full", "decomposed", "token"])
def test_every_path_has_one_row_in_every_table(model):
    variables = state.variable_shapes(model)
    params = trees.flatten(variables["params"])
    trees.match(optimizer.LAYER_TABLE, params, name="layer")
    decays = trees.match(optimizer.WEIGHT_DECAY_TABLE, params, name="decay")
    assert not any(decays[path] for path in params if "pos" in path)
    trees.match(freezing.FREEZE_TABLE, params, name="freezing")
    if not isinstance(model, mae.MAE):
        trees.match(inference_weights.CAST_FIRST, trees.flatten(variables), name="rounding")
    for path, spec in sharding.param_specs(variables["params"]).items():
        assert len(spec) == params[path].ndim, path
    sharding.param_specs(variables["batch_stats"])
    for path in trees.flatten(variables):
        if "/rel_pos/" in path or "/knowledge/" in path:
            with pytest.raises(ValueError, match="the original model has no such parameter"):
                rules.slices(path, (3, 6, 8, 8, 8), PREFIXES)
        else:
            assert rules.slices(path, (3, 6, 8, 8, 8), PREFIXES)


@pytest.mark.parametrize("changes, what", [
    ({"relative_positions": "full"}, "has windows or relative positions"),
    ({"attention": "window", "window_size": (2, 3)}, "has windows or relative positions"),
    ({"token_dim": 8}, "a knowledge token, which no PyTorch implementation of ViTPose has"),
])  # fmt: skip
def test_a_model_that_pytorch_does_not_know_is_not_converted(changes, what):
    settings = {
        "embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_dim": 64, "image_size": (64, 48),
        "num_keypoints": {"coco": 17}, **changes,
    }  # fmt: skip
    file = ModelFile(settings=settings, datasets={"coco": {"keypoint_set": "coco", "udp": True}}, codec={})
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape), state.variable_shapes(vitpose.vitpose(**settings)))
    with pytest.raises(ValueError, match=what):
        export.official_tensors(variables, file)
    with pytest.raises(ValueError, match=what):
        hugging_face.check(file, None)


@pytest.mark.parametrize("model", MODELS, ids=IDS)
def test_conversion_round_trip_is_exact(model):
    key = iter(jax.random.split(jax.random.key(0), 100))
    variables = jax.tree.map(lambda leaf: jax.random.normal(next(key), leaf.shape), state.variable_shapes(model))
    torch_state = rules.to_torch(variables, decoder_prefixes=PREFIXES)
    assert {name: array.shape for name, array in torch_state.items()} == rules.torch_shapes(
        variables, decoder_prefixes=PREFIXES
    )
    assert torch_state["backbone.blocks.2.attn.qkv.weight"].shape == (96, 32)
    back = rules.from_torch(torch_state, variables, decoder_prefixes=PREFIXES)
    assert not torch_state  # every tensor was taken
    jax.tree.map(np.testing.assert_array_equal, back, jax.tree.map(np.asarray, variables))


def test_missing_and_misshapen_tensors_are_all_named():
    model = MODELS[1]
    with pytest.raises(ValueError) as error:
        rules.from_torch(
            {"backbone.pos_embed": np.zeros((1, 3, 32))}, state.variable_shapes(model), decoder_prefixes=PREFIXES
        )
    assert "backbone.pos_embed: shape (1, 3, 32), expected (1, 13, 32)" in str(error.value)
    assert "backbone.blocks.2.mlp.fc2.bias: missing" in str(error.value)


def test_a_table_without_or_with_two_rows_raises():
    with pytest.raises(ValueError, match="b: no row"):
        trees.match([("a", 1)], ["a", "b"], name="test")
    with pytest.raises(ValueError, match=r"a: rows a, a\|b"):
        trees.match([("a", 1), ("a|b", 2)], ["a", "b"], name="test")


def test_trees_flatten_and_back():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert trees.flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert trees.unflatten(trees.flatten(tree)) == tree


def test_the_whole_state_is_sharded_like_its_parameters():
    model = MODELS[0]
    shapes = state.variable_shapes(model)
    tx = optimizer.adamw(shapes["params"], lambda step: 1e-3)
    abstract = state.abstract_state(model, tx, sharding.make_mesh())
    flat = {path: leaf.sharding.spec for path, leaf in trees.flatten(abstract).items()}
    moments = [path for path in flat if "/mu/" in path and path.endswith("qkv/kernel")]
    assert len(moments) == 1
    assert flat[moments[0]] == flat["params/backbone/blocks/attn/qkv/kernel"]
    assert "fsdp" in flat[moments[0]] and "tensor" in flat[moments[0]]


def test_a_mesh_that_does_not_fit_names_the_numbers():
    with pytest.raises(ValueError, match=r"does not fit 1 device"):
        sharding.make_mesh(data=2, fsdp=1, tensor=1)
    with pytest.raises(ValueError, match="one of them may be -1"):
        sharding.make_mesh(data=1, fsdp=-1, tensor=-1)


def test_a_state_leaf_that_belongs_to_nothing_raises():
    model = MODELS[1]
    variables = state.variable_shapes(model)
    odd = state.TrainState(jnp.int32(0), variables["params"], {}, {"stray": jnp.zeros(3)})
    with pytest.raises(ValueError, match="opt_state/stray"):
        sharding.state_shardings(odd, sharding.make_mesh())


@pytest.mark.parametrize("wrong", [{"layer_decay": 1.5}, {"b1": -0.1}, {"clip_norm": 0.0}, {"weight_decay": -1.0}])
def test_optimizer_settings_out_of_range_raise(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        optimizer.adamw(state.variable_shapes(MODELS[1])["params"], lambda step: 1e-3, **wrong)


def test_schedules():
    cosine = optimizer.make_schedule(
        kind="cosine", learning_rate=2.0, steps_per_epoch=10, total_steps=110, warmup_steps=10, warmup_ratio=0.1
    )
    np.testing.assert_allclose([cosine(s) for s in (0, 5, 10, 60, 110)], [0.2, 1.1, 2.0, 1.0, 0.0], atol=1e-6)
    with pytest.raises(ValueError, match="'step' or 'cosine'"):
        optimizer.make_schedule(kind="linear", learning_rate=1.0, steps_per_epoch=1, total_steps=1)
    with pytest.raises(ValueError, match="ascend"):
        optimizer.make_schedule(learning_rate=1.0, steps_per_epoch=1, total_steps=1, drop_epochs=(5, 2))
