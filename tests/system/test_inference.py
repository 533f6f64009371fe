"""Inference on what a run left behind: the same keypoints as eval.py, files, videos, stopping and going on."""

import json

import numpy as np
import pytest

import eval as eval_script
from configs import common, evaluate
from tests.random_models import random_model
from vitpose_jax.data import build, datasets
from vitpose_jax.inference import PoseEstimator
from vitpose_jax.training import checkpoint

SAME_PX = 0.01


def differences_to_eval(estimator: PoseEstimator, split: datasets.Split, results_file) -> np.ndarray:
    """Largest difference of keypoints for each instance of a split, pixels; eval.py wrote without suppression."""
    results = json.loads(results_file.read_text())
    found = []
    for image in range(len(split.images)):
        rows = split.instances.image == image
        theirs = [each for each in results if each["image_id"] == split.images.image_id[image]]
        poses = estimator(split.pixels(image), split.instances.bbox_xywh[rows])
        for pose, result in zip(poses, theirs, strict=True):
            assert pose.score == pytest.approx(result["score"], abs=1e-4)
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


def test_on_photographs_too(samples_dir, tmp_path):
    """With another convention of crops, in images of many sizes."""
    build.build("crowdpose", samples_dir / "crowdpose", tmp_path / "built", splits=["test"])
    made = random_model({"crowdpose": "crowdpose"}, udp=False)
    checkpoint.save_model(tmp_path / "run", made.variables, made.file)
