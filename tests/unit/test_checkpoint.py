"""Which checkpoints stay, and what a folder of them means."""

import dataclasses
import json
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import ROOT
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
        checkpoints.save(at(current, step))
        if score is not None:
            checkpoints.add_metrics(step, {"coco/AP": score, "coco/AR": 0.5})
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


def test_a_step_without_its_state_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoints/3/model").mkdir(parents=True)
    assert not checkpoint.is_checkpoint(tmp_path)
    for path in (tmp_path, tmp_path / "checkpoints/3"):
        with pytest.raises(ValueError, match="no checkpoint in"):
            checkpoint.load_model(path)


@pytest.mark.parametrize("place, message", [("", "no checkpoint in"), ("nowhere", "does not exist")])
def test_where_there_is_none(tmp_path, place, message):
    with pytest.raises(ValueError, match=message):
        checkpoint.load_model(tmp_path / place)


# Saves step 1, begins to save step 2, and is killed as soon as files of it are there.
KILLED = """
import os, pathlib, signal, sys, threading, time
import jax.numpy as jnp
from vitpose_jax.training import checkpoint, state
from tests.unit.test_checkpoint import FILE

folder = pathlib.Path(sys.argv[1])
checkpoints = checkpoint.Checkpoints(folder, FILE, keep_last=1, best_metric=None)
current = state.TrainState(jnp.int32(1), {"w": jnp.ones((8, 1 << 20))}, {}, ())
checkpoints.save(current)
checkpoints._manager.wait_until_finished()

def kill():
    while not list(folder.glob("checkpoints/2.*/state")):
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=kill).start()
checkpoints.save(current._replace(step=jnp.int32(2)))
checkpoints.close()
"""


def test_killed_in_the_middle_of_a_save(tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert steps(tmp_path) == [1]
    assert list(tmp_path.glob("checkpoints/2.*"))  # it was in the middle of it
    target = state.TrainState(jnp.int32(0), {"w": jnp.zeros((8, 1 << 20))}, {}, ())
    with checkpoint.Checkpoints(tmp_path, FILE, keep_last=1, best_metric=None) as checkpoints:
        restored = checkpoints.restore(target)
        assert (int(restored.step), float(restored.params["w"].min())) == (1, 1.0)
        checkpoints.save(restored._replace(step=jnp.int32(2)))
    assert steps(tmp_path) == [2]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]  # what was cut off is gone, too


def test_hosts_that_see_different_folders_are_told_so(tmp_path, monkeypatch):
    others = np.array([[True, 3], [False, -1]])
    monkeypatch.setattr(checkpoint.multihost_utils, "process_allgather", lambda own: others)
    with pytest.raises(ValueError, match="see different folders"):
        checkpoint.Checkpoints(tmp_path, FILE, keep_last=1, best_metric=None)


def test_a_better_step_leaves_no_older_best(start, tmp_path):
    write(tmp_path, start[0], {1: 0.1, 2: 0.9, 3: 0.3, 4: 0.95})
    assert steps(tmp_path) == [4]


@pytest.mark.parametrize("changes, sentence", [
    ({"settings": SETTINGS | {"layer_norm_eps": 1e-5}}, "config.model.layer_norm_eps: 1e-06 in the checkpoint, 1e-05"),
    ({"settings": SETTINGS | {"experts": ["b", "a"]}}, r"config.model.experts: \[\] in the checkpoint, \['b', 'a'\]"),
    ({"datasets": {"coco": {"keypoint_set": "coco", "udp": False}}}, "data set.coco.udp: True in the checkpoint"),
    ({"datasets": {"coco": {"keypoint_set": "ap10k", "udp": True}}}, "data set.coco.keypoint_set: 'coco' in the"),
    ({"codec": {"sigma": 3.0, "blur_kernel": 11}}, "config.codec.sigma: 2.0 in the checkpoint, 3.0 in this run"),
])  # fmt: skip
def test_a_checkpoint_that_means_something_else_is_refused(start, tmp_path, changes, sentence):
    write(tmp_path, start[0], {1: None})
    other = dataclasses.replace(FILE, **changes)
    checkpoints = checkpoint.Checkpoints(tmp_path, other, keep_last=1, best_metric=None)
    with checkpoints, pytest.raises(ValueError, match=f"use another --workdir, or init_from(.|\\n)*{sentence}"):
        checkpoints.restore(start[1])


def test_how_a_model_is_computed_may_change_on_the_way():
    free = {"drop_path": 0.5, "remat": "full", "scan_unroll": 2, "dtype": "bfloat16"}
    changed = dataclasses.replace(FILE, settings=SETTINGS | free, trained_on=("coco",), provenance={"source": "x.pth"})
    assert changed.differences(FILE) == []
