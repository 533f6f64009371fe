"""Starting from another model: experts belong to data sets, not to places."""

import jax
import numpy as np
import pytest

from vitpose_jax.keypoints import KEYPOINT_SETS, keypoint_set
from vitpose_jax.models import vitpose
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


@pytest.mark.parametrize("sigmas", [[0.0, 0.1], [-0.1, 0.1], [float("nan"), 0.1]])
def test_oks_constants_are_above_zero(sigmas):
    fields = {"names": ["a", "b"], "swap": [], "skeleton": [], "sigmas": sigmas}
    with pytest.raises(ValueError, match="above 0"):
        keypoint_set("two", fields)
    assert all(min(points.sigmas, default=1) > 0 for points in KEYPOINT_SETS.values())
