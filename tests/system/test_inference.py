"""Inference on what a run left behind: the same keypoints as eval.py, files, videos, stopping and going on."""

import json

import numpy as np
import pytest

import eval as eval_script
from configs import evaluate
from tests.random_models import random_model
from vitpose_jax.data import build, datasets
from vitpose_jax.data.catalog import DATASETS
from vitpose_jax.inference import PoseEstimator
from vitpose_jax.training import checkpoint

SAME_PX = 0.01


def differences_to_eval(estimator: PoseEstimator, split: datasets.Split, results_file) -> np.ndarray:
    """Largest difference of keypoints for each instance of a split, pixels; eval.py wrote without suppression."""
    results = json.loads(results_file.read_text())
    rows = [np.flatnonzero(split.instances.image == image) for image in range(len(split.images))]
    images = [split.pixels(image) for image in range(len(split.images))]
    found = []
    for image_id, poses in zip(
        split.images.image_id,
        estimator(images, [split.instances.bbox_xywh[some] for some in rows]),
        strict=True,
    ):
        theirs = [each for each in results if each["image_id"] == image_id]
        for pose, result in zip(poses, theirs, strict=True):
            assert pose.score == pytest.approx(result.get("score", pose.score), abs=1e-4)
            keypoints = np.reshape(result["keypoints"], (-1, 3))
            found.append(np.abs(keypoints[:, :2] - pose.keypoints).max())
    assert len(found) == len(split)
    return np.array(found)


def test_the_estimator_predicts_what_eval_predicts(shrunk_config, finished_run, drawn, tmp_path):
    config = shrunk_config({"eval.suppression": "none"})
    eval_script.evaluate(config, finished_run, tmp_path)
    estimator = PoseEstimator.load(finished_run, batch_size=8)
    split = datasets.open_split(drawn, "val")
    assert differences_to_eval(estimator, split, tmp_path / "results_synthetic.json").max() < SAME_PX


@pytest.mark.parametrize(("name", "folder", "split"), [("coco", "coco", "val"), ("interhand", "interhand2.6m", "test")])
def test_on_photographs_too(samples_dir, tmp_path, name, folder, split):
    """COCO's crops, and InterHand2.6M's, which have more margin and the older convention.

    Random weights give flat maps, on which decoding enlarges rounding, so both run one crop at a time.
    """
    build.build(name, samples_dir / folder, tmp_path / "built", splits=[split])
    row = DATASETS[name]
    made = random_model({name: row.keypoint_set.name}, udp=row.udp)
    checkpoint.save_model(tmp_path / "run", made.variables, made.file)
    config = evaluate.get_config(name)
    config.datasets[name].dir = str(tmp_path / "built")
    config.eval.update(batch_size=1, boxes="annotations", suppression="none")
    eval_script.evaluate(config, tmp_path / "run")
    estimator = PoseEstimator.load(tmp_path / "run", batch_size=1)
    opened = datasets.open_split(tmp_path / "built", split)
    assert differences_to_eval(estimator, opened, tmp_path / f"run/results_{name}.json").max() < SAME_PX
