"""Which checkpoints stay, and what a folder of them means."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitpose_jax.models import vitpose
from vitpose_jax.training import checkpoint, optimizer, sharding, state

SETTINGS = {
    "embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 16, "image_size": [32, 32], "decoder": "simple",
    "num_keypoints": {"coco": 3},
}  # fmt: skip
FILE = checkpoint.ModelFile(
    settings=SETTINGS,
    datasets={"coco": {"keypoint_set": "coco", "udp": True}},
    codec={"sigma": 2.0, "blur_kernel": 11},
    trained_on=["coco"],
)


@pytest.fixture(scope="module")
def start():
    model = vitpose.vitpose(**SETTINGS)
    tx = optimizer.adamw(state.variable_shapes(model)["params"], lambda step: 1e-3)
    mesh = sharding.make_mesh()
    return state.init_state(model, tx, jax.random.key(0), mesh), state.abstract_state(model, tx, mesh)


def at(current, step):
    return current._replace(step=jnp.int32(step), params=jax.tree.map(lambda x: x * 0 + step, current.params))


def write(folder, current, scores, keep_last=1):
    checkpoints = checkpoint.Checkpoints(folder, FILE, keep_last=keep_last, best_metric="coco/AP")
    for step, score in scores.items():
        checkpoints.save(at(current, step), None if score is None else {"coco/AP": score, "coco/AR": 0.5})
    checkpoints.close()


def steps(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())


def test_the_best_stays_besides_the_last(start, tmp_path):
    write(tmp_path, start[0], {1: 0.1, 2: 0.9, 3: None, 4: 0.3, 5: None, 6: None}, keep_last=2)
    assert steps(tmp_path) == [2, 5, 6]
    loaded = checkpoint.load_model(tmp_path)
    assert (loaded.step, loaded.metrics) == (2, {"coco/AP": 0.9, "coco/AR": 0.5})
    assert float(loaded.variables["params"]["backbone"]["pos_embed"].max()) == 2
    assert loaded.file == FILE
    assert checkpoint.run_folder(loaded.path) == tmp_path


def test_provenance_comes_back_and_older_files_have_none(start, tmp_path):
    provenance = {"source": "vitpose-b.pth", "sha256": "ab12", "datasets": ["coco"], "recognized_as": None}
    file = dataclasses.replace(FILE, provenance=provenance)
    checkpoints = checkpoint.Checkpoints(tmp_path, file, keep_last=1, best_metric=None)
    checkpoints.save(at(start[0], 1))
    checkpoints.close()
    assert checkpoint.load_model(tmp_path).file == file
    path = tmp_path / "checkpoints" / "1" / "model" / "metadata"
    content = json.loads(path.read_text())
    del content["provenance"]
    path.write_text(json.dumps(content))
    assert checkpoint.load_model(tmp_path).file == FILE


def test_a_step_s_folder_is_taken_as_it_is(start, tmp_path):
    write(tmp_path, start[0], {1: 0.9, 2: 0.1})
    for path in (tmp_path / "checkpoints" / "2", str(tmp_path / "checkpoints" / "2")):
        assert checkpoint.load_model(path).step == 2
    assert checkpoint.load_model(tmp_path / "checkpoints").step == 1


def test_without_an_evaluation_the_newest_is_taken(start, tmp_path):
    write(tmp_path, start[0], {1: None, 2: None})
    assert checkpoint.load_model(tmp_path).step == 2


def test_restored_is_what_was_saved(start, tmp_path):
    current, target = start
    write(tmp_path, current, {7: None})
    checkpoints = checkpoint.Checkpoints(tmp_path, FILE, keep_last=1, best_metric="coco/AP")
    restored = checkpoints.restore(target)
    jax.tree.map(np.testing.assert_array_equal, restored, at(current, 7))
    checkpoints.close()


def test_an_interrupted_save_is_not_taken_for_a_checkpoint(start, tmp_path):
    write(tmp_path, start[0], {1: None})
    partial = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp" / "model"
    partial.mkdir(parents=True)
    assert checkpoint.load_model(tmp_path).step == 1


@pytest.mark.parametrize("place, message", [("", "no checkpoint in"), ("nowhere", "does not exist")])
def test_where_there_is_none(tmp_path, place, message):
    with pytest.raises(ValueError, match=message):
        checkpoint.load_model(tmp_path / place)
