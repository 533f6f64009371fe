"""Exported files, each run by its own runtime, beside the estimator."""

import json
import sys

import jax
import jax.export
import numpy as np
import onnx
import onnxruntime
import pytest

from tests.random_models import random_model
from tests.tolerances import EXPORTED_KEYPOINT_PX, HEATMAP
from vitpose_jax.inference import PoseEstimator, export, onnx_file
from vitpose_jax.inference.plain import plain
from vitpose_jax.training import checkpoint

WINDOWS = {"attention": "shift_pool", "window_size": (2, 3), "relative_positions": "full", "image_size": (64, 96)}
EXPERTS = {"decoder": "classic", "deconv_filters": 8, "experts": ("coco", "aic"), "part_features": 8}


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
        np.testing.assert_allclose(found[..., :2], wanted[:count, :, :2], atol=EXPORTED_KEYPOINT_PX)
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


@pytest.mark.parametrize("settings", [{"udp": True, **WINDOWS}, EXPERTS], ids=["windows", "experts"])
def test_onnx_takes_any_number_of_crops(settings, tmp_path):
    names = settings.get("experts", ["coco"])
    loaded = random_model({name: name for name in names}, depth=2, **settings)
    made = PoseEstimator(loaded, dataset=names[-1], flip_test=False)
    export.export(made, "onnx", tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [opset.version for opset in model.opset_import] == [onnx_file.OPSET]
    check(onnx_runner(tmp_path / "model.onnx"), made)


@pytest.mark.parametrize("output", ["keypoints", "heatmaps"])
def test_plain_operations_take_a_fixed_number_of_crops_too(estimator, output):
    """As TensorFlow Lite is given them."""
    crops, function = crops_for(estimator, 2), export.program(estimator, output)
    np.testing.assert_allclose(plain(function, approximate_erf=True)(crops), function(crops), atol=EXPORTED_KEYPOINT_PX)


def test_heatmaps_by_choice(estimator, tmp_path, monkeypatch):
    """Here as an ONNX model too large for one file: its weights are in a second one."""
    monkeypatch.setattr(export, "_LARGEST", 2**24 + 1000)
    export.export(estimator, "onnx", tmp_path / "model.onnx", output="heatmaps")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data", "model.onnx.json"]
    crops = crops_for(estimator, 2)
    wanted = jax.jit(estimator.heatmaps)(estimator.variables, crops)
    np.testing.assert_allclose(onnx_runner(tmp_path / "model.onnx")(crops), wanted, atol=HEATMAP)


def test_the_command(estimator, tmp_path):
    made = random_model(depth=1)
    checkpoint.save_model(tmp_path / "run", made.variables, made.file)
    out = tmp_path / "model.stablehlo"
    given = {"--checkpoint": tmp_path / "run", "--out": out, "--format": "stablehlo", "--output": "heatmaps"}
    words = [str(word) for pair in given.items() for word in pair]
    export.main([*words, "--no-flip-test", "--dtype", "bfloat16"])
    assert {path.name for path in tmp_path.iterdir()} == {"run", "model.stablehlo", "model.stablehlo.json"}
    description = json.loads((tmp_path / "model.stablehlo.json").read_text())
    assert description["keypoints"][0] == "nose" and description["image_size"] == [64, 48]
    assert (description["flip_test"], description["dtype"], description["output"]) == (False, "bfloat16", "heatmaps")
    with pytest.raises(SystemExit, match=r"export: .*is a folder already"):
        export.main([*words, "--out", str(tmp_path / "run")])
    rounded = PoseEstimator(made, flip_test=False, dtype="bfloat16")
    crops = crops_for(rounded, 2)
    found = jax.export.deserialize(bytearray(out.read_bytes())).call(crops)
    assert found.shape == (2, 16, 12, 17) and found.dtype == np.float32
    np.testing.assert_allclose(found, jax.jit(rounded.heatmaps)(rounded.variables, crops), atol=1e-3)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"format": "torch"}, "format must be one of stablehlo, onnx"),
        ({"output": "boxes"}, "output must be one of keypoints, heatmaps"),
        ({"format": "onnx", "batch_size": 4}, "batch_size is for tflite only"),
        ({"format": "tflite", "batch_size": 0}, "at least 1"),
        ({"out": ""}, "is a folder already"),
    ],
)
def test_what_cannot_be_exported(estimator, tmp_path, wrong, expected):
    settings = {"format": "stablehlo", "out": "model", **wrong}
    with pytest.raises((ValueError, FileExistsError), match=expected):
        export.export(estimator, settings.pop("format"), tmp_path / settings.pop("out"), **settings)
    assert not list(tmp_path.iterdir())


def test_limits_of_formats_are_told(estimator, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="onnx file computes in float32, not bfloat16"):
        export.export(PoseEstimator(random_model(depth=1), dtype="bfloat16"), "onnx", tmp_path / "model")
    monkeypatch.setattr(export, "_LARGEST", 1000)
    with pytest.raises(ValueError, match="--format onnx takes all"):
        export.export(estimator, "stablehlo", tmp_path / "model")


@pytest.mark.parametrize(("format", "package"), [("onnx", "onnx"), ("saved_model", "tensorflow")])
def test_missing_packages_are_named(estimator, tmp_path, monkeypatch, format, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "vitpose_jax.inference.onnx_file", raising=False)
    with pytest.raises(ImportError, match=f"--format {format} needs .*pip install {package}"):
        export.export(estimator, format, tmp_path / "model")


# TensorFlow is large and not among the requirements.
@pytest.mark.slow
def test_saved_model_takes_any_number_of_crops(tmp_path):
    tf = pytest.importorskip("tensorflow")
    made = PoseEstimator(random_model(depth=2, **WINDOWS))
    export.export(made, "saved_model", tmp_path / "model")
    assert {path.name for path in tmp_path.iterdir()} == {"model", "model.json"}
    predict = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    check(lambda crops: predict(crops=tf.constant(crops))["keypoints"], made)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"udp": True}, WINDOWS, EXPERTS], ids=["plain", "windows", "experts"])
def test_tflite_takes_its_number_of_crops(settings, tmp_path):
    tf = pytest.importorskip("tensorflow")
    names = settings.get("experts", ["coco"])
    made = PoseEstimator(random_model({name: name for name in names}, depth=2, **settings), dataset=names[-1])
    export.export(made, "tflite", tmp_path / "model.tflite", batch_size=2)
    runner = tf.lite.Interpreter(model_path=str(tmp_path / "model.tflite")).get_signature_runner()
    check(lambda crops: runner(crops=crops)["keypoints"], made, counts=[2])
