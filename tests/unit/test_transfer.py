"""Starting from another model: experts belong to data sets, not to places."""

import jax
import numpy as np
import pytest

from vitpose_jax import trees
from vitpose_jax.keypoints import KEYPOINT_SETS, keypoint_set
from vitpose_jax.models import pos_embed, vitpose
from vitpose_jax.training import checkpoint, state, transfer

SETTINGS = {
    "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 16, "image_size": [32, 32], "decoder": "simple",
    "num_keypoints": {"coco": 3, "mpii": 4}, "experts": ["coco", "mpii"], "part_features": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "plus"
    variables = jax.tree.map(np.asarray, state.init_variables(vitpose.vitpose(**SETTINGS), jax.random.key(0)))
    datasets = {name: {"keypoint_set": name, "udp": True} for name in ("coco", "mpii")}
    file = checkpoint.ModelFile(settings=SETTINGS, datasets=datasets, codec={"sigma": 2.0, "blur_kernel": 11})
    checkpoint.save_model(folder, variables, file)
    return folder, variables


def start(folder, fresh=(), **changes):
    model = vitpose.vitpose(**{**SETTINGS, **changes})
    return transfer.init_from(str(folder), model, key=jax.random.key(1), fresh=fresh)


def test_experts_are_taken_by_their_names(saved):
    folder, variables = saved
    turned, report = start(folder, experts=["mpii", "coco"])
    theirs = variables["params"]["backbone"]["blocks"]["mlp"]["experts"]["kernel"]
    ours = turned["params"]["backbone"]["blocks"]["mlp"]["experts"]["kernel"]
    np.testing.assert_array_equal(ours, theirs[:, ::-1])
    assert not report["unused"]


def test_experts_of_other_data_sets_must_start_fresh(saved):
    folder, _ = saved
    changes = {"experts": ["mpii", "fish"], "num_keypoints": {"mpii": 4, "fish": 5}}
    with pytest.raises(ValueError, match=r"checkpoint has the experts \('coco', 'mpii'\), this run \('mpii', 'fish'\)"):
        start(folder, fresh=("decoders/.*",), **changes)
    _, report = start(folder, fresh=("decoders/.*", "backbone/blocks/mlp/experts/.*"), **changes)
    assert "params/backbone/blocks/mlp/experts/kernel" in report["fresh"]


def test_a_plain_model_needs_the_part_of_one_data_set(saved):
    with pytest.raises(ValueError, match="split it first"):
        start(saved[0], experts=[], part_features=None)


@pytest.mark.parametrize("image_size, ratio", [
    ([224, 224], 1), ([256, 256], 1), ([256, 192], 1), ([384, 288], 1), ([576, 432], 1), ([256, 192], 2),
])  # fmt: skip
def test_another_resolution_is_one_setting(saved, image_size, ratio):
    """The position embedding of the checkpoint's 2x2 patches is resized; everything else is taken as it is."""
    folder, variables = saved
    model = vitpose.vitpose(**{**SETTINGS, "image_size": image_size, "ratio": ratio})
    ours, report = transfer.init_from(str(folder), model, key=jax.random.key(1))
    assert report["resized"] == ["params/backbone/pos_embed"]
    assert not report["fresh"] and not report["unused"]
    rows, cols = model.patch_grid
    theirs = variables["params"]["backbone"]["pos_embed"]
    expected = pos_embed.resize(theirs, (2, 2), (rows, cols))
    np.testing.assert_array_equal(ours["params"]["backbone"]["pos_embed"], expected)
    expected_size = tuple(side * 4 * ratio // 16 for side in image_size)
    assert model.heatmap_size == expected_size and expected.shape[1] == 1 + rows * cols
    assert jax.tree.map(np.shape, ours["params"]) == jax.tree.map(
        lambda leaf: leaf.shape, state.variable_shapes(model)["params"]
    )


PLAIN = {
    "embed_dim": 16, "depth": 2, "num_heads": 2, "mlp_dim": 16, "image_size": [64, 64], "num_keypoints": {},
    "attention": "window", "window_size": [2, 2],
}  # fmt: skip


@pytest.mark.parametrize("relative", ["full", "decomposed"])
def test_relative_positions_start_fresh_or_resized(tmp_path, relative):
    def leaves(variables):
        return trees.flatten(variables["params"]["backbone"]["blocks"]["attn"].get("rel_pos", {}))

    def save(folder, settings):
        shapes = state.variable_shapes(vitpose.vitpose(**settings))
        rng = np.random.default_rng(0)
        variables = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype("f4"), shapes)
        checkpoint.save_model(folder, variables, checkpoint.ModelFile(settings, {}, {}))
        return variables

    with_them = {**PLAIN, "relative_positions": relative}
    save(tmp_path / "without", PLAIN)
    ours, report = transfer.init_from(str(tmp_path / "without"), vitpose.vitpose(**with_them), key=jax.random.key(1))
    assert {path.split("/rel_pos/")[1] for path in report["fresh"]} == set(leaves(ours))
    assert leaves(ours) and all(not np.any(leaf) for leaf in leaves(ours).values())

    theirs = save(tmp_path / "with", with_them)
    larger = vitpose.vitpose(**{**with_them, "window_size": [4, 2]})
    ours, report = transfer.init_from(str(tmp_path / "with"), larger, key=jax.random.key(1))
    name = "table" if relative == "full" else "rows"
    assert report["resized"] == [f"params/backbone/blocks/attn/rel_pos/{name}"]
    old, new = leaves(theirs)[name], leaves(ours)[name]
    assert (old.shape[1], new.shape[1]) == (3, 7)
    # torch.nn.functional.interpolate(mode="linear", align_corners=False): centres of 7 cells among those of 3
    np.testing.assert_allclose(new[:, [0, 3, 6]], old[:, [0, 1, 2]], atol=1e-6)
    np.testing.assert_allclose(new[:, 2], old[:, 0] * 3 / 7 + old[:, 1] * 4 / 7, atol=1e-6)

    deeper = vitpose.vitpose(**{**with_them, "num_heads": 4})
    with pytest.raises(ValueError, match="rel_pos"):
        transfer.init_from(str(tmp_path / "with"), deeper, key=jax.random.key(1))


@pytest.mark.parametrize("sigmas", [[0.0, 0.1], [-0.1, 0.1], [float("nan"), 0.1]])
def test_oks_constants_are_above_zero(sigmas):
    fields = {"names": ["a", "b"], "swap": [], "skeleton": [], "sigmas": sigmas}
    with pytest.raises(ValueError, match="above 0"):
        keypoint_set("two", fields)
    assert all(min(points.sigmas, default=1) > 0 for points in KEYPOINT_SETS.values())
