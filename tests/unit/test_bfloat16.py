"""How far a computation in another type moves keypoints."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.coco_folder import write_coco
from vitpose_jax import geometry
from vitpose_jax.data import build, datasets
from vitpose_jax.evaluation import bfloat16
from vitpose_jax.evaluation.predict import make_predict
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.training import checkpoint, state


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bfloat16")
    write_coco(folder / "source", val=3, people=2)
    build.build("coco", folder / "source", folder / "built")
    return folder / "built"


@pytest.fixture(scope="module")
def split(built):
    return datasets.open_split(built, "val")


SETTINGS = {
    "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_dim": 64, "image_size": (64, 48), "decoder": "simple",
    "num_keypoints": {"coco": 17},
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return vitpose(**SETTINGS)


@pytest.fixture(scope="module")
def variables(model):
    """Random weights with heatmaps far from flat."""
    found = state.init_variables(model, jax.random.key(0))
    final = found["params"]["decoders"]["coco"]["final"]
    final["kernel"] = jax.random.normal(jax.random.key(1), final["kernel"].shape) / 10
    return found


def shift(model, variables, split, **changes):
    return bfloat16.keypoint_shift(model, variables, split, batch_size=3, progress=False, **changes)


def test_no_rounding_is_no_shift_whatever_the_models_own_type(model, variables, split):
    found = shift(model.clone(dtype=jnp.bfloat16), variables, split, dtype=jnp.float32)
    assert found == {space: dict.fromkeys(("p50", "p99", "max"), 0.0) for space in ("image_px", "crop_px")}


def test_distances_are_those_of_the_labelled_keypoints(model, variables, split):
    """Worked out crop by crop in the other order: crops scale by one factor along each axis."""
    found = shift(model, variables, split)
    predict = [
        jax.jit(
            make_predict(
                vitpose(**SETTINGS, dtype=dtype), dataset="coco", flip_index=split.keypoint_set.flip_index, udp=True,
                flip_test=True, blur_kernel=11,
            )
        )
        for dtype in ("float32", "bfloat16")
    ]  # fmt: skip
    image_px, crop_px = [], []
    for row in range(len(split)):
        box = geometry.bbox_to_box_cxcywh(split.instances.bbox_xywh[row], aspect_ratio=0.75)
        matrix = geometry.crop_matrix(box, (64, 48), udp=True)
        crop = geometry.cut_crop(split.pixels(split.instances.image[row]), matrix, (64, 48))
        crop_to_image = geometry.invert(matrix).astype(np.float32)
        predictions = [function(variables, crop[None], crop_to_image[None]) for function in predict]
        points, scores = [points[0] for points, _ in predictions], predictions[0][1][0]
        counted = (split.instances.keypoints[row, :, 2] > 0) & (np.asarray(scores) > 0)
        difference = np.asarray(points[0] - points[1])[counted]
        image_px.append(np.hypot(*difference.T))
        crop_px.append(np.hypot(*(difference * [47, 63] / box[2:]).T))
    for space, distances in (("image_px", image_px), ("crop_px", crop_px)):
        distances = np.concatenate(distances)
        expected = {"p50": np.median(distances), "p99": np.percentile(distances, 99), "max": distances.max()}
        assert found[space] == pytest.approx(expected, rel=1e-3, abs=1e-3)
        assert found[space]["max"] > 0.01


def test_what_cannot_be_compared_is_refused(model, variables, split):
    with pytest.raises(ValueError, match="data set 'mpii' annotates 17 keypoints"):
        shift(model, variables, split, dataset="mpii")
    broken = jax.tree.map(lambda leaf: leaf * np.nan, variables)
    with pytest.raises(ValueError, match="predictions are not finite"):
        shift(model, broken, split, flip_test=False)
    flat = jax.tree.map(jnp.zeros_like, variables)
    with pytest.raises(ValueError, match="nothing to compare"):
        shift(model, flat, split, flip_test=False)


def test_the_command_prints_one_line(built, model, variables, tmp_path, monkeypatch, capsys):
    def measured(given_model, given_variables, split, **settings):
        assert given_model is model
        assert given_variables is variables
        assert (split.name, settings) == ("val", {"dataset": "coco", "blur_kernel": 17, "batch_size": 2})
        return {"image_px": {"p50": 0.25}}

    file = checkpoint.ModelFile(settings=SETTINGS, datasets={}, codec={"sigma": 3.0, "blur_kernel": 17})
    loaded = checkpoint.LoadedModel(model, file, variables, "folder/1", 1, {})
    monkeypatch.setattr(checkpoint, "load_model", lambda path: loaded)
    monkeypatch.setattr(bfloat16, "keypoint_shift", measured)
    command = ["bfloat16", "--checkpoint", "folder", "--batch_size", "2", "--data"]
    monkeypatch.setattr(sys, "argv", [*command, str(built)])
    bfloat16.main()
    found = json.loads(capsys.readouterr().out)
    assert found == {"checkpoint": "folder/1", "data": str(built), "split": "val", "image_px": {"p50": 0.25}}
    monkeypatch.setattr(sys, "argv", [*command, str(tmp_path)])
    with pytest.raises(SystemExit, match="there is no built data set"):
        bfloat16.main()
