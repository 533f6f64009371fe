"""Exported files, each run by its own runtime, beside the estimator."""

import importlib.util
import json

import jax
import jax.export
import numpy as np
import onnx
import onnxruntime
import pytest

from tests.random_models import random_model
from vitpose_jax.inference import PoseEstimator, export, onnx_file
from vitpose_jax.training import checkpoint

KEYPOINT_PX = 0.05
WINDOWS = {"attention": "shift_pool", "window_size": (2, 3), "relative_positions": "full", "image_size": (64, 96)}
EXPERTS = {"experts": ("coco", "aic"), "part_features": 8}


def crops_for(estimator: PoseEstimator, count: int) -> np.ndarray:
    height, width = estimator.model.image_size
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def expected(estimator: PoseEstimator, crops: np.ndarray) -> np.ndarray:
    """[B, K, 3] of the estimator itself."""
    as_they_are = np.tile(np.eye(2, 3, dtype=np.float32), (len(crops), 1, 1))
    points, scores = jax.jit(estimator.predict)(estimator.variables, crops, as_they_are)
    return np.concatenate([points, np.asarray(scores)[..., None]], axis=-1)


def check(run, estimator: PoseEstimator, counts=(3, 1)) -> None:
    """The exported function gives the estimator's keypoints for batches of several sizes."""
    crops = crops_for(estimator, max(counts))
    wanted = expected(estimator, crops)
    assert np.ptp(wanted[..., 0]) > 10  # keypoints all over the crop
    for count in counts:
        found = np.asarray(run(crops[:count]))
        np.testing.assert_allclose(found[..., :2], wanted[:count, :, :2], atol=KEYPOINT_PX)
        np.testing.assert_allclose(found[..., 2], wanted[:count, :, 2], atol=1e-4)


def onnx_runner(path):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["crops"]
    (output,) = session.get_outputs()
    return lambda crops: session.run([output.name], {"crops": crops})[0]


@pytest.fixture(scope="module")
def estimator():
    return PoseEstimator(random_model(depth=1))


def test_stablehlo_for_three_platforms_takes_any_number_of_crops(estimator, tmp_path):
    export.export(estimator, "stablehlo", tmp_path / "model.stablehlo")
    exported = jax.export.deserialize(bytearray((tmp_path / "model.stablehlo").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    check(exported.call, estimator)


def test_onnx_takes_any_number_of_crops(estimator, tmp_path):
    export.export(estimator, "onnx", tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import] == [onnx_file.OPSET]
    check(onnx_runner(tmp_path / "model.onnx"), estimator)


@pytest.mark.parametrize("settings", [{"udp": True, "decoder": "classic", "deconv_filters": 8}, WINDOWS, EXPERTS])
def test_onnx_of_other_models(settings, tmp_path):
    datasets = {name: name for name in settings.get("experts", ["coco"])}
    made = PoseEstimator(random_model(datasets, depth=2, **settings), dataset=list(datasets)[-1], flip_test=False)
    export.export(made, "onnx", tmp_path / "model.onnx")
    check(onnx_runner(tmp_path / "model.onnx"), made)


@pytest.mark.slow
def test_saved_model_takes_any_number_of_crops(estimator, tmp_path):
    tf = pytest.importorskip("tensorflow")  # large, so not among the requirements
    export.export(estimator, "saved_model", tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    predict = loaded.signatures["serving_default"]
    check(lambda crops: predict(crops=tf.constant(crops))["keypoints"], estimator)


@pytest.mark.slow
def test_tflite_takes_its_number_of_crops(estimator, tmp_path):
    tf = pytest.importorskip("tensorflow")
    export.export(estimator, "tflite", tmp_path / "model.tflite", batch_size=2)
    interpreter = tf.lite.Interpreter(model_path=str(tmp_path / "model.tflite"))
    runner = interpreter.get_signature_runner()
    check(lambda crops: runner(crops=crops)["keypoints"], estimator, counts=[2])
