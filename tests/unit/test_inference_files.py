"""Folders of images to files: what is written, going on after a stop, broken files."""

import csv
import json
import pathlib
import tracemalloc

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from tests.fake_estimator import FakeEstimator
from vitpose_jax import draw
from vitpose_jax.inference import outputs
from vitpose_jax.inference.boxes import make_boxes
from vitpose_jax.inference.images import find_input, predict_images
from vitpose_jax.inference.journal import Journal, read
from vitpose_jax.interrupt import Guard

SETTINGS = {"checkpoint": "runs/a", "bboxes": "whole"}


def write_images(folder: pathlib.Path, names, size=(40, 60)) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        draw.save_image(folder / name, np.full((*size, 3), 20 * number % 255, np.uint8))


def two_boxes(picture):
    height, width = picture.pixels.shape[:2]
    return make_boxes([[0, 0, width, height], [5, 5, 20, 30]], [1.0, 0.4], [1, 7])


def predict(folder, out, boxes=two_boxes, estimator=None, stop=None, drawn=True, **settings) -> Journal:
    journal = Journal(out / "poses.jsonl", {**SETTINGS, **settings})
    predict_images(
        find_input(str(folder), out=out), estimator or FakeEstimator(), boxes, journal, stop or Guard(),
        drawn=out / "drawn" if drawn else None, threshold=0.3, progress=False,
    )  # fmt: skip
    journal.close()
    return journal


def test_inputs_are_images_folders_patterns_and_videos(tmp_path):
    write_images(tmp_path, ["b.jpg", "a/c.png", "a/d.JPG".lower()])
    (tmp_path / "a/notes.txt").write_text("no image")
    (tmp_path / "clip.MP4").write_bytes(b"")
    out = tmp_path / "out"
    assert find_input(str(tmp_path), out=out).names == ("a/c.png", "a/d.jpg", "b.jpg")
    assert find_input(str(tmp_path), out=tmp_path / "a").names == ("b.jpg",)  # what is written is not read
    pattern = find_input(str(tmp_path / "*" / "*.png"), out=out)
    assert (pattern.root, pattern.names) == (tmp_path, ("a/c.png",))
    single = find_input(str(tmp_path / "b.jpg"), out=out)
    assert (single.root, single.names, single.is_video) == (tmp_path, ("b.jpg",), False)
    assert find_input(str(tmp_path / "clip.MP4"), out=out).is_video
    assert find_input(str(tmp_path / "a"), out=tmp_path).names == ("c.png", "d.jpg")  # written beside
    with pytest.raises(ValueError, match="is the folder of the images"):
        find_input(str(tmp_path), out=tmp_path)
    for wrong in ("nowhere", "a/notes.txt", "*.gif"):
        with pytest.raises(ValueError, match=r"no image"):
            find_input(str(tmp_path / wrong), out=out)


def test_results_table_and_pictures(tmp_path):
    write_images(tmp_path / "in", ["a.jpg", "sub/b.png", "c.bmp".replace("bmp", "jpeg")])
    out = tmp_path / "out"
    journal = predict(tmp_path / "in", out)
    points = FakeEstimator().keypoint_set
    outputs.write_results(out / "keypoints.json", journal.path, points)
    results = json.loads((out / "keypoints.json").read_text())
    assert [(each["file_name"], each["image_id"], each["category_id"]) for each in results] == [
        (name, number, category)
        for number, name in enumerate(("a.jpg", "c.jpeg", "sub/b.png"), start=1)
        for category in (1, 7)
    ]
    expected = FakeEstimator().pose([5, 5, 20, 30], 0.4)
    found = np.reshape(results[1]["keypoints"], (17, 3))
    np.testing.assert_allclose(found[:, :2], expected.keypoints, atol=1e-3)
    np.testing.assert_allclose(found[:, 2], expected.scores, atol=1e-4)
    assert results[1]["bbox"] == [5, 5, 20, 30]

    outputs.write_csv(out / "keypoints.csv", journal.path, points)
    with open(out / "keypoints.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6 and rows[1]["file"] == "a.jpg"
    assert [float(rows[1][f"left_ankle_{axis}"]) for axis in ("x", "y", "score")] == pytest.approx(found[15].tolist())

    for name in ("a.jpg", "sub/b.png", "c.jpeg"):
        before, after = cv2.imread(str(tmp_path / "in" / name)), cv2.imread(str(out / "drawn" / name))
        assert after.shape == before.shape and np.abs(after.astype(int) - before).max() > 50


def test_images_without_an_id_get_those_that_follow(tmp_path):
    """Whatever the order: the source numbers some images only."""
    write_images(tmp_path / "in", ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    ids = {"b.jpg": 2, "c.jpg": 7}
    journal = predict(
        tmp_path / "in", tmp_path / "out", lambda picture: make_boxes([[0, 0, 9, 9]], image_id=ids.get(picture.name))
    )
    outputs.write_results(tmp_path / "k.json", journal.path, FakeEstimator().keypoint_set)
    results = json.loads((tmp_path / "k.json").read_text())
    assert [(each["file_name"], each["image_id"]) for each in results] == [
        ("a.jpg", 8), ("b.jpg", 2), ("c.jpg", 7), ("d.jpg", 9)
    ]  # fmt: skip


def test_whole_bodies_are_written_in_coco_wholebodys_parts(tmp_path):
    write_images(tmp_path / "in", ["a.jpg"])
    estimator = FakeEstimator("wholebody")
    journal = predict(tmp_path / "in", tmp_path / "out", estimator=estimator)
    outputs.write_results(tmp_path / "k.json", journal.path, estimator.keypoint_set)
    first = json.loads((tmp_path / "k.json").read_text())[0]
    parts = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
    assert [len(first[part]) // 3 for part in parts] == [17, 6, 68, 21, 21]
    expected = estimator.pose([0, 0, 60, 40], 1.0).keypoints[112]
    np.testing.assert_allclose(first["righthand_kpts"][:2], expected, atol=1e-3)


def test_batches_are_filled_from_several_images(tmp_path):
    write_images(tmp_path / "in", [f"{number}.jpg" for number in range(10)])
    estimator = FakeEstimator(batch_size=8)
    predict(tmp_path / "in", tmp_path / "out", estimator=estimator)
    assert estimator.calls == [[2] * 4, [2] * 4, [2] * 2]


def test_a_stopped_run_goes_on_without_doing_anything_twice(tmp_path):
    write_images(tmp_path / "in", [f"{number:02}.jpg" for number in range(12)])
    predict(tmp_path / "in", tmp_path / "whole")
    seen, stop = [], Guard()

    def boxes(picture):
        seen.append(picture.name)
        stop.requested = len(seen) == 6
        return two_boxes(picture)

    out = tmp_path / "out"
    journal = predict(tmp_path / "in", out, boxes, FakeEstimator(batch_size=4), stop)
    assert 0 < len(journal.done) < 12
    with open(out / "poses.jsonl", "a") as stream:
        stream.write('{"file": "06.jpg", "ima')  # the machine stopped in the middle of a line
    predict(tmp_path / "in", out, boxes, FakeEstimator(batch_size=4))
    assert sorted(seen) == [f"{number:02}.jpg" for number in range(12)]
    assert (out / "poses.jsonl").read_text() == (tmp_path / "whole/poses.jsonl").read_text()
    with pytest.raises(ValueError, match=r"was made with checkpoint 'runs/a' \(now 'runs/b'\)"):
        predict(tmp_path / "in", out, checkpoint="runs/b")
    Journal(out / "poses.jsonl", {**SETTINGS, "checkpoint": "runs/b"}, anew=True).close()
    assert list(read(out / "poses.jsonl")) == []
    with pytest.raises(ValueError, match="input None"):  # that of something else is not overwritten
        Journal(out / "poses.jsonl", {**SETTINGS, "input": "b.mp4"}, anew=True)
    (tmp_path / "other.jsonl").write_text("[]\n")
    with pytest.raises(ValueError, match="does not begin as a journal"):
        Journal(tmp_path / "other.jsonl", SETTINGS)


def test_broken_files_and_boxes_are_told_and_the_rest_is_saved(tmp_path, capsys):
    write_images(tmp_path / "in", ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"])
    (tmp_path / "in/b.jpg").write_bytes((tmp_path / "in/b.jpg").read_bytes()[:-20])
    (tmp_path / "in/c.jpg").write_bytes(b"")

    def boxes(picture):
        return make_boxes([[100, 0, 10, 10]]) if picture.name == "d.jpg" else two_boxes(picture)

    journal = predict(tmp_path / "in", tmp_path / "out", boxes)
    outputs.write_skipped(tmp_path / "skipped.csv", journal.path)
    assert (journal.skipped, journal.poses) == (3, 4)
    with open(tmp_path / "skipped.csv", newline="") as stream:
        rows = {row["file"]: row["reason"] for row in csv.DictReader(stream)}
    assert "cut off" in rows["b.jpg"] and "decode" in rows["c.jpg"] and "outside the image" in rows["d.jpg"]
    assert "skipped b.jpg" in capsys.readouterr().err
    assert [line["file"] for line in read(journal.path) if "poses" in line] == ["a.jpg", "e.jpg"]


def test_annotations_for_labelling_tools(tmp_path):
    """Read back by pycocotools; thresholds, visibility, boxes inside the image, and whom to look at first."""
    write_images(tmp_path / "in", ["a.jpg", "b.jpg", "c.jpg"])

    def boxes(picture):
        scores = {"a.jpg": [1.0, 0.8], "b.jpg": [0.9, 0.1], "c.jpg": []}[picture.name]
        return make_boxes([[-10, 0, 60, 50], [5, 5, 20, 30]][: len(scores)], scores, image_id=ord(picture.name[0]))

    journal = predict(tmp_path / "in", tmp_path / "out", boxes, drawn=False)
    points = FakeEstimator().keypoint_set
    count = outputs.write_annotations(
        tmp_path / "annotations.json", journal.path, points, threshold=0.3, score_threshold=0.3,
        review_path=tmp_path / "review.csv", review_count=2,
    )  # fmt: skip
    coco = COCO(str(tmp_path / "annotations.json"))
    assert count == 3 and sorted(coco.getImgIds()) == [97, 98, 99]
    assert coco.loadImgs(99)[0] == {"id": 99, "file_name": "c.jpg", "width": 60, "height": 40}
    assert [len(coco.getAnnIds(imgIds=[each])) for each in (97, 98, 99)] == [2, 1, 0]
    first = coco.loadAnns(coco.getAnnIds(imgIds=[97]))[0]
    assert first["bbox"] == [0, 0, 50, 40] and first["area"] == 2000
    labels = np.reshape(first["keypoints"], (17, 3))
    pose = FakeEstimator().pose([-10, 0, 60, 50], 1.0)
    visible = (pose.scores >= 0.3) & (pose.keypoints >= 0).all(axis=1) & (pose.keypoints <= (59, 39)).all(axis=1)
    assert 0 < visible.sum() < (pose.scores >= 0.3).sum()  # some lie outside
    np.testing.assert_array_equal(labels[:, 2], np.where(visible, 2, 0))
    assert first["num_keypoints"] == visible.sum() and not labels[~visible].any()
    np.testing.assert_allclose(labels[visible, :2], pose.keypoints[visible], atol=1e-3)
    category = coco.loadCats(1)[0]
    assert category["name"] == "person" and category["keypoints"] == list(points.names)
    assert min(map(min, category["skeleton"])) >= 1 and len(category["skeleton"]) == len(points.skeleton)

    with open(tmp_path / "review.csv", newline="") as stream:
        review = list(csv.DictReader(stream))
    assert [(row["file"], float(row["score"])) for row in review] == [("a.jpg", 0.4), ("b.jpg", 0.45)]
    assert "left_ankle" in review[0]["not labelled"]


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """What stays of 200 more images is their names."""

    def peak(count: int) -> int:
        path = tmp_path / f"{count}.jsonl"
        journal = Journal(path, SETTINGS)
        pose = FakeEstimator().pose([0, 0, 10, 10], 1.0)
        for number in range(count):
            journal.add(f"{number}.jpg", [pose], size=(10, 10))
        journal.close()
        tracemalloc.start()
        Journal(path, SETTINGS).close()
        outputs.write_results(tmp_path / "k.json", path, pose.keypoint_set)
        outputs.write_annotations(
            tmp_path / "a.json", path, pose.keypoint_set, threshold=0.3, score_threshold=0.1,
            review_path=tmp_path / "r.csv", review_count=5,
        )  # fmt: skip
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few, many = peak(20), peak(220)
    assert (many - few) / 200 < 300, "bytes an image"
