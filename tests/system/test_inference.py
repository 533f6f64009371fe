"""Inference on what a run left behind: the same keypoints as eval.py, files, videos, stopping and going on."""

import fractions
import json
import os
import signal

import cv2
import numpy as np
import pytest

import eval as eval_script
from configs import evaluate
from tests.random_models import random_model
from vitpose_jax.data import build, datasets
from vitpose_jax.data.catalog import DATASETS
from vitpose_jax.data.video import VideoFile, video_writer
from vitpose_jax.inference import PoseEstimator
from vitpose_jax.inference.__main__ import main
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


def whole_picture(image):
    """A source of boxes that the command line names as `module:function`."""
    return [[0, 0, image.shape[1], image.shape[0]]]


def command(*arguments) -> int:
    """The exit code of the command, run in this process."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    if isinstance(stopped.value.code, str):
        raise ValueError(stopped.value.code)
    return stopped.value.code


def test_the_command_on_images(finished_run, drawn, tmp_path, capsys):
    """Boxes of the annotation file, all files written, nothing done twice; the poses are the estimator's."""
    images = drawn.parent / "source/val2017"
    annotations = drawn.parent / "source/annotations/person_keypoints_val2017.json"
    arguments = [
        images, "--checkpoint", finished_run, "--bboxes", annotations, "--out", tmp_path / "out", "--batch-size", 8,
        "--write", "drawn,json,csv,labels", "--threshold", -1, "--score-threshold", -1,
    ]  # fmt: skip
    assert command(*arguments) == 0
    split = datasets.open_split(drawn, "val")
    results = json.loads((tmp_path / "out/keypoints.json").read_text())
    assert len(results) == len(split)
    assert {each["image_id"] for each in results} <= set(split.images.image_id.tolist())
    estimator = PoseEstimator.load(finished_run, batch_size=8)
    close = []
    for image in range(len(split.images)):
        rows = split.instances.image == image
        poses = estimator(split.pixels(image), split.instances.bbox_xywh[rows])
        theirs = [each for each in results if each["image_id"] == split.images.image_id[image]]
        for pose, result in zip(poses, theirs, strict=True):
            difference = np.reshape(result["keypoints"], (-1, 3))[:, :2] - pose.keypoints
            close.append((np.abs(difference) < SAME_PX).mean())
    # Almost untrained, the model has maps with equal maxima, between which the size of the batch decides.
    assert np.mean(close) > 0.95
    labels = json.loads((tmp_path / "out/annotations.json").read_text())
    assert len(labels["images"]) == len(split.images) and len(labels["annotations"]) == len(split)
    assert len(list((tmp_path / "out/drawn").iterdir())) == len(split.images)
    assert len((tmp_path / "out/keypoints.csv").read_text().splitlines()) == len(split) + 1
    before = (tmp_path / "out/poses.jsonl").read_text()
    assert command(*arguments) == 0
    assert f"{len(split.images)} images are done already" in capsys.readouterr().out
    assert (tmp_path / "out/poses.jsonl").read_text() == before
    with pytest.raises(ValueError, match="no_flip_test False"):
        command(*arguments, "--no-flip-test")


def test_the_command_on_a_video(finished_run, drawn, tmp_path):
    pictures = sorted((drawn.parent / "source/val2017").iterdir())
    with video_writer(tmp_path / "in.mp4", rate=fractions.Fraction(25), time_base=fractions.Fraction(1, 25)) as write:
        for number in range(6):
            write(cv2.resize(cv2.imread(str(pictures[number // 3])), (160, 120)), number)
    arguments = [tmp_path / "in.mp4", "--checkpoint", finished_run, "--bboxes", f"{__name__}:whole_picture", "--smooth"]
    for _ in range(2):  # a video starts anew
        assert command(*arguments, "--out", tmp_path / "out") == 0
    assert VideoFile(tmp_path / "out/in.mp4").rate == 25
    results = json.loads((tmp_path / "out/keypoints.json").read_text())
    assert [(each["frame"], each["time_s"]) for each in results] == [(n, n / 25) for n in range(6)]
    assert len({each["track_id"] for each in results[1:]}) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["nowhere", "--checkpoint", "RUN", "--bboxes", "whole"], "no image, folder or video nowhere"),
        (["IMAGES", "--checkpoint", "nowhere", "--bboxes", "whole"], "nowhere does not exist"),
        (["IMAGES", "--checkpoint", "RUN", "--bboxes", "all"], "--bboxes is 'all'"),
        (["IMAGES", "--checkpoint", "RUN", "--bboxes", "whole", "--write", "xml"], "--write is 'xml'"),
        (["IMAGES", "--checkpoint", "RUN", "--bboxes", "whole", "--smooth", "--no-track"], "does not go with"),
        (["IMAGES", "--checkpoint", "RUN", "--bboxes", "whole", "--dataset", "mpii"], "only for synthetic"),
    ],
)
def test_the_command_refuses_what_it_does_not_know(finished_run, drawn, tmp_path, arguments, expected):
    places = {"RUN": finished_run, "IMAGES": drawn.parent / "source/val2017"}
    with pytest.raises(ValueError, match=f"inference: .*{expected}"):
        command(*[places.get(argument, argument) for argument in arguments], "--out", tmp_path / "out")


def test_ctrl_c_saves_what_is_done(finished_run, drawn, tmp_path, monkeypatch):
    images = drawn.parent / "source/val2017"
    monkeypatch.setattr(f"{__name__}.whole_picture", interrupted_at_the_third(whole_picture))
    arguments = [images, "--checkpoint", finished_run, "--bboxes", f"{__name__}:whole_picture", "--batch-size", 2]
    assert command(*arguments, "--out", tmp_path / "out") == 130
    done = json.loads((tmp_path / "out/keypoints.json").read_text())
    assert 3 <= len(done) < 6
    assert command(*arguments, "--out", tmp_path / "out") == 0
    names = [each["file_name"] for each in json.loads((tmp_path / "out/keypoints.json").read_text())]
    assert names == sorted(path.name for path in images.iterdir())


def interrupted_at_the_third(function):
    """The function, which sends Ctrl-C when it is called for the third time."""
    calls = []

    def call(image):
        calls.append(image)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return function(image)

    return call
