"""Writes a model with its weights into a file that runs without this project.

    python -m vitpose_jax.inference.export --checkpoint DIR --format stablehlo|onnx|saved_model|tflite --out PATH

Input `crops`: uint8 [B, H, W, 3], RGB. Output `keypoints`: float32 [B, K, 3] (x and y in crop pixels, score); or with
`--output heatmaps`: float32 [B, h, w, K]. Beside PATH, PATH.json says what a program needs to know to use it: names of
the keypoints, size of the crops, and how they are cut. See docs/export.md.
"""

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from etils import epath

from vitpose_jax import paths, trees
from vitpose_jax.inference.estimator import PoseEstimator, dataset_row
from vitpose_jax.inference.plain import plain
from vitpose_jax.models import inference_weights
from vitpose_jax.models.settings import DTYPES

FORMATS = ("stablehlo", "onnx", "saved_model", "tflite")
OUTPUTS = ("keypoints", "heatmaps")
_LARGEST = 2**31  # bytes of weights: these formats keep them in one buffer that counts in 32 bits

Function = Callable[[jax.Array], jax.Array]


def export(
    estimator: PoseEstimator,
    format: str,
    out: str | os.PathLike,
    *,
    output: str = "keypoints",
    batch_size: int | None = None,
) -> None:
    """Writes a model in one of `FORMATS`, and beside it what it is.

    Args:
        estimator: the model; its decoder, flip test and type are those of the file.
        format: one of `FORMATS`.
        out: the file; a folder for "saved_model".
        output: one of `OUTPUTS`.
        batch_size: crops in a batch of a "tflite" file, 1 by default. The others take any number of crops.

    Raises:
        ValueError: for a setting outside these, or a model that the format cannot hold.
        ImportError: a package that the format needs is missing.
        FileExistsError: there is a folder at `out` already.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    if output not in OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(OUTPUTS)}, not {output!r}")
    if batch_size is not None and (format != "tflite" or batch_size < 1):
        raise ValueError(f"batch_size is for tflite only and at least 1, not {batch_size} for {format}")
    if estimator.model.dtype != jnp.float32 and format != "stablehlo":
        raise ValueError(f"a {format} file computes in float32, not {jnp.dtype(estimator.model.dtype).name}")
    size = sum(leaf.nbytes for leaf in trees.flatten(estimator.variables).values())
    if size >= _LARGEST and format != "onnx":
        raise ValueError(
            f"the weights are {size / 1e9:.1f} GB, and a {format} file holds 2.1 GB; --format onnx takes all"
        )
    if paths.path(out).is_dir():
        raise FileExistsError(f"{out} is a folder already; remove it or choose another place")
    writers: dict[str, Callable[..., None]] = {
        "stablehlo": _write_stablehlo, "onnx": _write_onnx, "saved_model": _write_saved_model, "tflite": _write_tflite,
    }  # fmt: skip
    shape = (*estimator.model.image_size, 3)
    writers[format](program(estimator, output), shape, output, out, *([batch_size or 1] if format == "tflite" else []))
    description = {"format": format, "output": output, **describe(estimator)}
    paths.write(f"{os.fspath(out)}.json", json.dumps(description, indent=1))


def program(estimator: PoseEstimator, output: str) -> Function:
    """The function that is exported, with the weights inside.

    Args:
        estimator: the model.
        output: one of `OUTPUTS`.

    Returns:
        From uint8 [B, H, W, 3] to float32 keypoints [B, K, 3] (x, y, score), crop pixels, or heatmaps [B, h, w, K].
    """
    variables = jax.device_get(inference_weights.stacked(estimator.variables))

    def heatmaps(crops: jax.Array) -> jax.Array:
        return estimator.heatmaps(variables, crops)

    def keypoints(crops: jax.Array) -> jax.Array:
        as_they_are = jnp.broadcast_to(jnp.eye(2, 3), (crops.shape[0], 2, 3))
        points, scores = estimator.predict(variables, crops, as_they_are)
        return jnp.concatenate([points, scores[..., None]], axis=-1)

    return heatmaps if output == "heatmaps" else keypoints


def describe(estimator: PoseEstimator) -> dict[str, Any]:
    """What the file's user needs to know of a model."""
    points = estimator.keypoint_set
    return {
        "dataset": estimator.dataset,
        "keypoints": list(points.names),
        "skeleton": [list(pair) for pair in points.skeleton],
        "image_size": list(estimator.model.image_size),
        "heatmap_size": list(estimator.model.heatmap_size),
        "udp": estimator.udp,
        "padding": dataset_row(estimator.dataset, points).padding,
        "flip_test": estimator.flip_test,
        "dtype": jnp.dtype(estimator.model.dtype).name,
    }


def _write_stablehlo(function: Function, shape: Sequence[int], output: str, out: str | os.PathLike) -> None:
    (batch,) = jax.export.symbolic_shape("batch")
    exported = jax.export.export(jax.jit(function), platforms=("cpu", "cuda", "tpu"))(
        jax.ShapeDtypeStruct((batch, *shape), np.uint8)
    )
    paths.write(out, bytes(exported.serialize()))


def _write_onnx(function: Function, shape: Sequence[int], output: str, out: str | os.PathLike) -> None:
    try:
        import onnx

        from vitpose_jax.inference.onnx_file import onnx_model
    except ImportError as error:
        raise ImportError(f"--format onnx needs the package onnx (pip install onnx): {error}") from None
    model = onnx_model(function, shape, input_name="crops", output_name=output)
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) < _LARGEST - 2**24:  # the graph itself is small
        paths.write(out, model.SerializeToString())
        return
    # Larger ones have their weights in a second file, which the first one names.
    target = _local(out, "an ONNX model of more than 2.1 GB")
    data = target.with_name(target.name + ".data")
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        onnx.save_model(model, f"{folder}/{target.name}", save_as_external_data=True, location=data.name)
        os.replace(f"{folder}/{data.name}", data)
        os.replace(f"{folder}/{target.name}", target)


def _local(out: str | os.PathLike, what: str) -> epath.Path:
    """A place on this machine, in a folder that is there."""
    target = paths.path(out)
    if paths.in_bucket(target):
        raise ValueError(f"{what} is written on this machine only, not to {out}; copy it there afterwards")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _tensorflow(format: str) -> Any:
    try:
        import tensorflow
    except ImportError:
        raise ImportError(f"--format {format} needs TensorFlow; pip install tensorflow-cpu") from None
    return tensorflow


def _save_model(
    tf: Any, function: Function, shape: Sequence[int | None], output: str, folder: str, **options: Any
) -> None:
    """Writes TensorFlow's format. In plain operations, because TensorFlow reads fewer than this JAX writes.

    Args:
        tf: TensorFlow.
        function: what to save.
        shape: of its input, with None for any number of crops.
        output: name of the result.
        folder: where to.
        **options: of `jax2tf.convert`.
    """
    from jax.experimental import jax2tf

    inside = jax2tf.convert(plain(function, approximate_erf=True), with_gradient=False, **options)
    module = tf.Module()
    module.predict = tf.function(
        lambda crops: {output: inside(crops)}, input_signature=[tf.TensorSpec(shape, tf.uint8, name="crops")],
        autograph=False,
    )  # fmt: skip
    tf.saved_model.save(module, folder, signatures=module.predict)


def _write_saved_model(function: Function, shape: Sequence[int], output: str, out: str | os.PathLike) -> None:
    tf = _tensorflow("saved_model")
    target = _local(out, "a SavedModel")
    partial = target.with_name(target.name + ".partial")
    if partial.exists():  # of an attempt that was cut off
        partial.rmtree()
    _save_model(
        tf, function, [None, *shape], output, os.fspath(partial), polymorphic_shapes=["(batch, ...)"],
        native_serialization_platforms=("cpu", "cuda", "tpu"),
    )  # fmt: skip
    partial.rename(target)


def _write_tflite(
    function: Function, shape: Sequence[int], output: str, out: str | os.PathLike, batch_size: int
) -> None:
    tf = _tensorflow("tflite")
    with tempfile.TemporaryDirectory() as folder:
        _save_model(tf, function, [batch_size, *shape], output, folder, native_serialization_platforms=("cpu",))
        paths.write(out, tf.lite.TFLiteConverter.from_saved_model(folder).convert())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="python -m vitpose_jax.inference.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = arguments.add_argument
    add("--checkpoint", required=True, help="a run's folder (its best step is taken) or one step's folder")
    add("--format", required=True, choices=FORMATS)
    add("--out", required=True, metavar="PATH", help="the file to write; a folder for saved_model")
    add("--output", choices=OUTPUTS, default="keypoints", help="what the file returns (default: keypoints)")
    add("--dataset", help="whose keypoints, of a model with several decoders")
    add("--no-flip-test", action="store_true", help="half the work, a little less accurate")
    add("--dtype", choices=DTYPES, default="float32", help="of the computation; bfloat16 for stablehlo only "
        "(default: float32)")  # fmt: skip
    add("--batch-size", type=int, help="tflite only: crops in a batch (default: 1); other formats take any number")
    return arguments


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells how it opens a folder
    settings = parser().parse_args(arguments)
    try:
        estimator = PoseEstimator.load(
            settings.checkpoint, dataset=settings.dataset, flip_test=not settings.no_flip_test, dtype=settings.dtype
        )
        export(estimator, settings.format, settings.out, output=settings.output, batch_size=settings.batch_size)
    except (ValueError, OSError, ImportError) as error:
        raise SystemExit(f"export: {error}") from error
    print(f"written to {settings.out}; what it is stands in {settings.out}.json")


if __name__ == "__main__":
    main()
