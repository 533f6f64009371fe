"""Partial fine-tuning: what is frozen, and that it costs neither memory nor arithmetic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitpose_jax import trees
from vitpose_jax.models import vitpose
from vitpose_jax.training import checkpoint, freezing, optimizer, sharding, state, tasks, update

SETTINGS = {
    "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 32, "image_size": (64, 48), "decoder": "simple",
    "num_keypoints": {"coco": 3, "hands": 4}, "experts": ("coco", "hands"), "part_features": 4, "drop_path": 0.5,
    "relative_positions": "full",
}  # fmt: skip
PLAIN = {**SETTINGS, "num_keypoints": {"coco": 3}, "experts": (), "part_features": None, "relative_positions": None}
MODEL, SMALL = vitpose.vitpose(**SETTINGS), vitpose.vitpose(**PLAIN)
PARAMS = state.variable_shapes(MODEL)["params"]
ATTENTION = {f"backbone/blocks/{leaf}" for leaf in (
    "norm1/scale", "norm1/bias", "attn/qkv/kernel", "attn/qkv/bias", "attn/proj/kernel", "attn/proj/bias",
    "attn/rel_pos/table",
)}  # fmt: skip
FFN = {f"backbone/{leaf}" for leaf in (
    "pos_embed", "patch_embed/kernel", "patch_embed/bias", "blocks/norm2/scale", "blocks/norm2/bias",
    "blocks/mlp/fc1/kernel", "blocks/mlp/fc1/bias", "blocks/mlp/fc2/kernel", "blocks/mlp/fc2/bias",
    "blocks/mlp/experts/kernel", "blocks/mlp/experts/bias",
)}  # fmt: skip
TOP = {"backbone/last_norm/scale", "backbone/last_norm/bias"} | {
    f"decoders/{name}/final/{leaf}" for name in ("coco", "hands") for leaf in ("kernel", "bias")
}


def test_the_choices_freeze_what_the_original_freezes():
    """Source: `vit.py::ViT._freeze_stages`."""
    assert set(trees.flatten(PARAMS)) == ATTENTION | FFN | TOP
    assert freezing.frozen_paths(PARAMS, ["mhsa"]) == ATTENTION
    assert freezing.frozen_paths(PARAMS, ["ffn"]) == FFN
    assert freezing.frozen_paths(PARAMS, ["encoder"]) == freezing.frozen_paths(PARAMS, ["mhsa", "ffn"])
    assert freezing.frozen_paths(PARAMS, ["encoder"]) == ATTENTION | FFN
    assert freezing.frozen_paths(PARAMS, ["decoders/.*", "mhsa"]) == ATTENTION | {p for p in TOP if "decoders" in p}
    assert freezing.frozen_paths(PARAMS, []) == set()


@pytest.mark.parametrize("wrong, message", [
    ("head", "matches no parameter"), ("backbone", "whole paths"), ("(", "no regular expression"),
    (".*", "leaves nothing to train"),
])  # fmt: skip
def test_what_freezes_nothing_or_all_raises(wrong, message):
    with pytest.raises(ValueError, match=message):
        optimizer.adamw(PARAMS, lambda step: 1e-3, freeze=["mhsa", wrong])


def batch():
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.uniform(5, 40, (4, 3, 2)), np.ones((4, 3, 1))], axis=-1)
    return {
        "image": jnp.asarray(rng.integers(0, 256, (4, 64, 48, 3), dtype=np.uint8)),
        "keypoints": jnp.asarray(points, jnp.float32), "dataset": jnp.zeros(4, jnp.int32),
    }  # fmt: skip


def program_of(freeze, model=SMALL):
    loss = tasks.pose_loss(freezing.model_in_training(model, freeze), udp={"coco": True}, sigma=2.0)
    settings = {"freeze": freeze, "layer_decay": 0.75, "clip_norm": None}
    return update.make_program(
        model, loss, lambda step: 1e-2, optimizer_settings=settings, key=jax.random.key(1), mesh=sharding.make_mesh()
    )


@functools.cache
def step(freeze):
    """(parameters before, state after, metrics) of one update with these frozen."""
    program = program_of(freeze)
    before = state.init_state(SMALL, program.tx, jax.random.key(0), sharding.make_mesh())
    old = trees.flatten(jax.tree.map(np.asarray, before.params))
    return old, *program.step(before, batch())


@pytest.mark.parametrize("freeze", [("mhsa",), ("encoder",), ("decoders/coco/.*", "backbone/.*norm.*")])
def test_frozen_leaves_stay_and_have_no_optimizer_state(freeze):
    old, after, _ = step(freeze)
    trained = set(old) - freezing.frozen_paths(after.params, freeze)
    assert {
        path for path, leaf in trees.flatten(after.params).items() if not np.array_equal(leaf, old[path])
    } == trained
    for moment in ("mu", "nu"):
        paths = [path.split(f"/{moment}/") for path in trees.flatten(after.opt_state) if f"/{moment}/" in path]
        assert {path for _, path in paths} == trained


def test_updates_of_what_is_trained_are_those_of_full_training():
    """Without clipping, an update of Adam depends on a parameter's own gradient only."""
    (old, full, full_metrics), (_, part, metrics) = step(()), step(("mhsa",))
    assert full_metrics["loss"] == metrics["loss"]  # the same paths dropped
    assert metrics["gradient_norm"] < full_metrics["gradient_norm"]
    ours, theirs = trees.flatten(part.params), trees.flatten(full.params)
    for path in set(old) - freezing.frozen_paths(full.params, ("mhsa",)):
        np.testing.assert_allclose(ours[path], theirs[path], atol=1e-5, err_msg=path)


def test_the_norm_that_is_clipped_is_of_what_is_trained():
    params = {"backbone": {"last_norm": {"scale": np.float32([3.0]), "bias": np.float32([4.0])}}}
    tx = optimizer.adamw(params, lambda step: 1.0, freeze=["backbone/last_norm/bias"], clip_norm=1.0)
    opt_state = tx.init(params)
    gradients = {"backbone": {"last_norm": {"scale": np.float32([3.0])}}}
    _, opt_state = tx.update(gradients, opt_state, freezing.trainable(params, ["backbone/last_norm/bias"]))
    [first_moment] = [leaf for path, leaf in trees.flatten(opt_state).items() if "/mu/" in path]
    np.testing.assert_allclose(first_moment, 0.1 * 1.0, rtol=1e-6)  # not 0.1 * 3 / 5


def test_blocks_that_are_all_frozen_drop_no_paths():
    assert freezing.model_in_training(MODEL, ["encoder"]).backbone["drop_path"] == 0.0
    for freeze in ([], ["mhsa"], ["ffn"], ["backbone/pos_embed"]):
        assert freezing.model_in_training(MODEL, freeze).backbone["drop_path"] == 0.5


def test_no_gradient_of_frozen_weights_is_computed():
    """Of a weight's three products, the output, its input's gradient and its own, the compiled step lacks the last."""
    crops, tokens, width, mlp = 16, 48, 128, 512
    model = vitpose.vitpose(**{**PLAIN, "embed_dim": width, "depth": 1, "mlp_dim": mlp, "image_size": (128, 96)})
    shapes = {
        "image": ((crops, 128, 96, 3), "uint8"),
        "keypoints": ((crops, 3, 3), "float32"),
        "dataset": ((crops,), "int32"),
    }
    inputs = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in shapes.items()}

    def flops(*freeze):
        program = program_of(freeze, model)
        return program.step.lower(program.target, inputs).compile().cost_analysis()["flops"]

    unit = 2 * crops * tokens * width
    attention, feed, patches = unit * 4 * width, unit * 2 * mlp, unit * 768
    full = flops()
    np.testing.assert_allclose(full - flops("mhsa"), attention, rtol=0.05)
    np.testing.assert_allclose(full - flops("ffn"), feed + patches, rtol=0.05)
    inside = 4 * unit * tokens * 2  # gradients of scores and values
    np.testing.assert_allclose(full - flops("encoder"), 2 * (attention + feed) + inside + patches, rtol=0.05)


def test_a_frozen_run_resumes(tmp_path):
    _, after, _ = step(("encoder",))
    file = checkpoint.ModelFile(settings={}, datasets={}, codec={})
    saved = checkpoint.Checkpoints(tmp_path, file, keep_last=1, best_metric=None)
    saved.save(after)
    saved.close()
    again = checkpoint.Checkpoints(tmp_path, file, keep_last=1, best_metric=None)
    restored = again.restore(program_of(("encoder",)).target)
    jax.tree.map(np.testing.assert_array_equal, restored, after)
    for other in ((), ("ffn",)):
        with pytest.raises(ValueError, match=r"another model or optimizer \(config.model, or config.optimizer.freeze"):
            again.restore(program_of(other).target)
    again.close()
