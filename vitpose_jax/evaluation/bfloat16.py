"""How far bfloat16 moves keypoints: the same crops through the same weights in float32 and in bfloat16.

    python -m vitpose_jax.evaluation.bfloat16 --checkpoint CHECKPOINT --data data/coco [--split val] [--dataset coco]

Prints one line of JSON. Only labelled keypoints that the float32 model finds count: where nothing is to be seen a
heatmap has no clear maximum, and any rounding makes it jump.
"""

import argparse
import json
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from vitpose_jax import geometry
from vitpose_jax.data import datasets, pipeline
from vitpose_jax.evaluation.predict import check_decoder, make_predict
from vitpose_jax.models.vitpose import ViTPose
from vitpose_jax.progress import progress_bar
from vitpose_jax.training import checkpoint

PERCENTILES = {"p50": 50, "p99": 99, "max": 100}


def keypoint_shift(
    model: ViTPose,
    variables: Mapping,
    split: datasets.Split,
    *,
    dataset: str = "coco",
    dtype: jnp.dtype = jnp.bfloat16,
    flip_test: bool = True,
    blur_kernel: int = 11,
    batch_size: int = 16,
    progress: bool = True,
) -> dict[str, dict[str, float]]:
    """Distances between the keypoints that a model predicts in float32, at the highest precision, and in another type.

    Args:
        model: has a decoder for `dataset`; its own type does not matter.
        variables: {"params", "batch_stats"} in float32.
        split: whose annotated instances to predict.
        dataset: name of the decoder.
        dtype: of the other computation.
        flip_test: average with the mirrored crop.
        blur_kernel: cells, see `codec.decode`.
        batch_size: crops per step.
        progress: show a progress bar.

    Returns:
        {"image_px" | "crop_px": {"p50" | "p99" | "max": distance}}, in image pixels and in pixels of the crop, over the
        labelled keypoints whose float32 heatmap has a value above 0.

    Raises:
        ValueError: the model has no fitting decoder, no keypoint counts, or a prediction is not finite.
    """
    check_decoder(model, split, dataset)

    def predict_in(computation: jnp.dtype):
        predict = make_predict(
            model.clone(dtype=computation), dataset=dataset, flip_index=split.keypoint_set.flip_index,
            udp=split.dataset.udp, flip_test=flip_test, blur_kernel=blur_kernel,
        )  # fmt: skip
        return jax.jit(predict)

    exact, rounded = predict_in(jnp.float32), predict_in(dtype)
    stream = pipeline.eval_stream(
        split.instances, split, crop_size=model.image_size, udp=split.dataset.udp, batch_size=batch_size
    )
    distances: dict[str, list[np.ndarray]] = {"image_px": [], "crop_px": []}
    with progress_bar(
        desc=f"{jnp.dtype(dtype).name} on {split.name}", unit=" crops", total=len(split), show=progress
    ) as bar:
        for batch in stream:
            with jax.default_matmul_precision("highest"):
                points, scores = exact(variables, batch["image"], batch["crop_to_image"])
            other_points, other_scores = rounded(variables, batch["image"], batch["crop_to_image"])
            if not (jnp.isfinite(scores).all() and jnp.isfinite(other_scores).all()):
                raise ValueError("some predictions are not finite; the model's weights are broken")
            pairs, found = np.stack([points, other_points], axis=1), np.asarray(scores) > 0
            for row in np.flatnonzero(batch["valid"]):
                labelled = split.instances.keypoints[batch["instance"][row], :, 2] > 0
                pair = pairs[row][:, labelled & found[row]]
                in_crop = geometry.transform(geometry.invert(batch["crop_to_image"][row]), pair)
                distances["image_px"].append(np.linalg.norm(pair[0] - pair[1], axis=-1))
                distances["crop_px"].append(np.linalg.norm(in_crop[0] - in_crop[1], axis=-1))
            bar.update(int(batch["valid"].sum()))
    return {space: _percentiles(np.concatenate(values), split) for space, values in distances.items()}


def _percentiles(distances: np.ndarray, split: datasets.Split) -> dict[str, float]:
    if not distances.size:
        raise ValueError(f"no labelled keypoint of {split!r} is found by the model: there is nothing to compare")
    return {name: float(np.percentile(distances, percent)) for name, percent in PERCENTILES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m vitpose_jax.evaluation.bfloat16", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--checkpoint", required=True, help="a run's or converted model's folder")
    parser.add_argument("--data", required=True, help="a built data set")
    parser.add_argument("--split", default="val")
    parser.add_argument("--dataset", default="coco", help="name of the decoder")
    parser.add_argument("--batch_size", type=int, default=16)
    given = parser.parse_args()
    logging.set_verbosity(logging.ERROR)  # Orbax tells how it opens a folder
    try:
        loaded = checkpoint.load_model(given.checkpoint)
        found = keypoint_shift(
            loaded.model, loaded.variables, datasets.open_split(given.data, given.split), dataset=given.dataset,
            blur_kernel=loaded.file.codec["blur_kernel"], batch_size=given.batch_size,
        )  # fmt: skip
    except (ValueError, OSError) as error:
        raise SystemExit(f"{parser.prog}: {error}") from error
    print(json.dumps({"checkpoint": loaded.path, "data": given.data, "split": given.split} | found))


if __name__ == "__main__":
    main()
