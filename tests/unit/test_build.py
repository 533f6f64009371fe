"""The builder keeps image files as they are, names what is broken, and survives being stopped."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from pycocotools.coco import COCO as CocoFile

from tests.coco_folder import DETECTIONS_JSON, TRAIN_JSON, VAL_JSON, detections_of, edit, write_coco
from vitpose_jax import keypoints
from vitpose_jax.data import build as builder
from vitpose_jax.data import datasets, shards
from vitpose_jax.data import source as downloaded
from vitpose_jax.evaluation.coco import coco_metrics


@pytest.fixture
def source(tmp_path):
    write_coco(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run(source, out, *arguments) -> int:
    return builder.main(["coco", "--source", str(source), "--out", str(out), *arguments])


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_stored_images_are_the_untouched_files(source, out):
    assert run(source, out) == 0
    for split, stored in (("train", 3), ("val", 3)):  # the image without people is kept for evaluation only
        opened = datasets.open_split(out, split)
        assert len(opened.images) == stored
        records = tfds.builder_from_directory(out).as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        assert len(records) == stored
        for row, record in enumerate(records):
            file = source / f"{split}2017" / str(opened.images.file_name[row])
            assert record["image"] == opened.jpeg(row) == file.read_bytes()
            assert record["image_id"] == opened.images.image_id[row]
            assert opened.pixels(row).shape == (*opened.images.size[row], 3)
    assert opened.annotation_file.read_bytes() == (source / VAL_JSON).read_bytes()
    assert opened.detection_file.read_bytes() == (source / DETECTIONS_JSON).read_bytes()
    assert opened.keypoint_set is keypoints.COCO


def test_instances_are_those_of_the_annotation_file(source, out):
    assert run(source, out) == 0
    split = datasets.open_split(out, "train")
    annotations = {entry["id"]: entry for entry in json.loads((source / TRAIN_JSON).read_text())["annotations"]}
    assert split.instances.annotation_id.tolist() == list(annotations)
    assert split.instances.bbox_id.tolist() == [0, 1] * 3
    for row, annotation in enumerate(annotations.values()):
        points = np.array(annotation["keypoints"], np.float32).reshape(17, 3)
        np.testing.assert_array_equal(split.instances.keypoints[row, :, :2], points[:, :2])
        np.testing.assert_array_equal(split.instances.keypoints[row, :, 2], points[:, 2] > 0)
        assert (
            split.images.image_id[split.instances.image[row]] == annotation["image_id"] == split.instances.image_id[row]
        )
        assert split.instances.area[row] == 300.5


def _drop(key):
    return lambda content: content["annotations"][1].pop(key)


def _set(key, value):
    return lambda content: content["annotations"][1].update({key: value})


FAULTY_ANNOTATIONS = {
    "50 keypoint numbers": (_set("keypoints", [1, 1, 2] * 16 + [1, 1]), "50 numbers instead of 51"),
    "no image_id": (_drop("image_id"), "it has no image_id"),
    "no id": (_drop("id"), "it has no id"),
    "image_id of no image": (_set("image_id", 77), "image_id 77"),
    "id as text": (_set("id", "x"), "not a whole number"),
    "NaN keypoint": (_set("keypoints", [float("nan"), 1, 2] * 17), "keypoints holds NaN"),
    "NaN box": (_set("bbox", [float("nan"), 1, 2, 3]), "bbox holds NaN"),
    "box of three": (_set("bbox", [1, 2, 3]), "3 numbers instead of 4"),
    "box of words": (_set("bbox", "left"), "not a list of numbers"),
    "null area": (_set("area", None), "its area is None, not a list of numbers"),
    "visibility 3": (_set("keypoints", [1, 1, 3] * 17), "visibilities"),
    "twice the same id": (lambda content: content["annotations"].append(content["annotations"][0]), "the same id"),
    "no object": (lambda content: content["annotations"].append(7), "an object is needed"),
}


@pytest.mark.parametrize("case", FAULTY_ANNOTATIONS)
def test_a_faulty_annotation_is_named_and_skipped_only_on_request(source, out, capsys, case):
    change, words = FAULTY_ANNOTATIONS[case]
    edit(source / TRAIN_JSON, change)
    assert run(source, out) == 2
    report = capsys.readouterr().err
    assert words in report
    assert "train: annotation" in report
    assert list(contents(out)) == [builder.FAULTS_FILE]

    assert run(source, out, "--skip-broken") == 0
    assert words in capsys.readouterr().out
    assert len(datasets.open_split(out, "train")) >= 5
    assert len(datasets.open_split(out, "val")) == 4


@pytest.mark.parametrize("case", FAULTY_ANNOTATIONS)
def test_pycocotools_reads_what_is_left(source, out, case):
    edit(source / VAL_JSON, FAULTY_ANNOTATIONS[case][0])
    edit(source / VAL_JSON, lambda content: content["images"].append({"file_name": "no id"}))
    assert run(source, out, "--skip-broken") == 0
    split = datasets.open_split(out, "val")
    listed = CocoFile(split.annotation_file)
    assert sorted(listed.anns) == sorted(split.instances.annotation_id) and len(listed.imgs) == 3
    nobody = detections_of(split.instances.take(slice(0)))
    assert coco_metrics(split.annotation_file, nobody, sigmas=split.keypoint_set.sigmas)["AP"] == 0


def test_every_broken_image_is_named_and_skipped_only_on_request(source, out, capsys):
    folder = source / "val2017"
    files = sorted(folder.iterdir())
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-200])
    edit(source / TRAIN_JSON, lambda content: content["images"][0].update(width=65))
    (source / "train2017/000000000001.jpg").write_bytes(b"no image")
    edit(source / TRAIN_JSON, lambda content: content["images"][2].pop("file_name"))
    edit(source / TRAIN_JSON, lambda content: content["images"].append(content["images"][3]))
    assert run(source, out) == 2
    report = capsys.readouterr().err
    for words in (
        "val: image 1001 (000000000000.jpg): cannot read",
        "val: image 1002 (000000000001.jpg): JPEG file",
        "train: image 1 (000000000000.jpg): the file is 64 x 48, the annotations say 65 x 48",
        "train: image 2 (000000000001.jpg)",
        "train: image 3: it needs a file_name",
        "train: image 4 (file_name '000000000003.jpg'): another image has the same id",
    ):
        assert words in report
    assert list(contents(out)) == [builder.FAULTS_FILE]

    # All training images with people are broken now, which nothing can skip.
    assert run(source, out, "--skip-broken") == 1
    assert "no usable instance" in capsys.readouterr().err
    assert run(source, out, "--skip-broken", "--splits", "val") == 1

    files[1].write_bytes((source / "train2017/000000000003.jpg").read_bytes())
    edit(source / VAL_JSON, lambda content: content["images"][1].update(height=72))
    assert run(source, out, "--skip-broken", "--splits", "val") == 0
    split = datasets.open_split(out, "val")
    assert split.images.image_id.tolist() == [1002, 1003]
    assert split.instances.image.tolist() == [0, 0]
    assert split.skipped_image_ids.tolist() == [1001]
    # A detector's boxes on the image that was left out are no error.
    assert set(datasets.detection_boxes(split).image_id.tolist()) == {1002, 1003}
    assert "1001" in (out / builder.FAULTS_FILE).read_text()


def test_images_whose_entries_are_broken_are_left_out_everywhere(source, out):
    """Of the annotation file's images these are left out by their entries, not by their files."""
    edit(source / VAL_JSON, lambda content: content["images"][1].pop("file_name"))
    edit(source / VAL_JSON, lambda content: content["images"].append({**content["images"][0], "width": 1}))  # same id
    edit(source / VAL_JSON, lambda content: content["images"].append("no object"))
    assert run(source, out, "--skip-broken") == 0
    split = datasets.open_split(out, "val")
    assert split.images.image_id.tolist() == [1001, 1003]
    assert split.skipped_image_ids.tolist() == [1002]
    assert set(datasets.detection_boxes(split).image_id.tolist()) == {1001, 1003}


def test_a_long_report_is_capped_and_written_in_full(source, out, capsys):
    edit(source / TRAIN_JSON, lambda content: content["annotations"].extend([{"id": n} for n in range(30)]))
    assert run(source, out) == 2
    report = capsys.readouterr().err
    assert "30 entries are broken" in report
    assert "10 more" in report
    assert str(out / builder.FAULTS_FILE) in report
    assert len((out / builder.FAULTS_FILE).read_text().splitlines()) == 30


@pytest.mark.parametrize(
    ("text", "words"), [('{"images": [', "not valid JSON"), ("[]", "COCO's format"), ('{"images": 3}', "COCO's format")]
)
def test_an_unreadable_annotation_file_is_one_sentence(source, out, capsys, text, words):
    (source / VAL_JSON).write_text(text)
    assert run(source, out) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert words in message
    assert VAL_JSON in message
    assert not out.exists()


def test_a_stopped_build_continues_and_ends_like_one_in_one_go(source, out, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)  # one image per shard
    assert run(source, tmp_path / "in one go") == 0

    read, calls = downloaded.read_image, []

    def read_and_stop(*arguments):
        calls.append(arguments)
        if len(calls) == 6 + 3:  # 6 images are checked, then the third one is being written
            os.kill(os.getpid(), signal.SIGTERM)
        return read(*arguments)

    monkeypatch.setattr(downloaded, "read_image", read_and_stop)
    assert run(source, out) == 130
    assert "same command again" in capsys.readouterr().err
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("*.array_record*")}
    assert sorted(finished) == [f"coco-train.array_record-{number:05d}-of-00003" for number in range(2)]
    with pytest.raises(ValueError, match=r"unfinished.*vitpose_jax\.data\.build"):
        datasets.open_split(out, "train")

    assert run(source, out) == 0
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == finished
    assert contents(out) == contents(tmp_path / "in one go")


def test_every_run_writes_the_same_bytes(source, out, tmp_path):
    assert run(source, out) == 0
    command = ["coco", "--source", str(source), "--out", str(tmp_path / "other process")]
    command = [sys.executable, "-m", "vitpose_jax.data.build", *command]
    subprocess.run(command, check=True, capture_output=True, cwd=pathlib.Path(builder.__file__).parents[2])
    assert contents(out) == contents(tmp_path / "other process")


def test_a_full_disk_is_one_sentence(source, out, monkeypatch, capsys):
    class FullDisk:
        def __init__(self, path, options):
            pathlib.Path(path).touch()

        def write(self, record):
            pass

        def close(self):
            raise RuntimeError("No space left on device")

    monkeypatch.setattr(shards, "ArrayRecordWriter", FullDisk)
    assert run(source, out) == 1
    assert "could not be written: No space left on device" in capsys.readouterr().err.splitlines()[-1]
    assert list(contents(out)) == [datasets.BUILD_FILE]
    monkeypatch.undo()
    assert run(source, out) == 0


def test_a_stopped_build_does_not_continue_from_changed_images(source, out, monkeypatch, capsys):
    monkeypatch.setattr(shards, "write_metadata", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert run(source, out) == 130
    monkeypatch.undo()
    file = source / "val2017/000000000000.jpg"
    original = file.read_bytes()
    file.write_bytes(original + b"more")
    assert run(source, out) == 1
    assert "have changed" in capsys.readouterr().err
    file.write_bytes(original[:-100])  # broken by now: nothing half-built may stay
    assert run(source, out) == 2
    assert list(contents(out)) == [builder.FAULTS_FILE]


def test_a_second_run_does_nothing_and_says_so(source, out, capsys):
    assert run(source, out) == 0
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    assert run(source, out) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_folder_with_something_else_is_refused(source, out, tmp_path, capsys):
    assert run(source, out) == 0
    assert run(source, out, "--skip-broken") == 1
    assert "skip_broken was False, now True" in capsys.readouterr().err
    assert run(source, out, "--splits", "val") == 1
    assert "splits" in capsys.readouterr().err
    edit(source / VAL_JSON, lambda content: content["annotations"].pop())
    assert run(source, out) == 1
    assert VAL_JSON in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    assert run(source, tmp_path / "mine") == 1
    assert "holds no build" in capsys.readouterr().err


def test_absent_splits(source, out, tmp_path, capsys):
    shutil.rmtree(source / "train2017")
    assert run(source, out, "--splits", "train", "val") == 1
    assert "train2017" in capsys.readouterr().err
    assert run(source, out) == 0
    assert "without the split 'train'" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"splits \['val'\], not 'train'"):
        datasets.open_split(out, "train")
    assert run(tmp_path / "nothing", tmp_path / "out2") == 1
    message = capsys.readouterr().err
    for file in (TRAIN_JSON, VAL_JSON, "train2017", "val2017"):
        assert str(tmp_path / "nothing" / file) in message
    assert run(source, tmp_path / "out2", "--splits", "test") == 1
    assert "['train', 'val']" in capsys.readouterr().err


def test_opening_what_is_not_there(source, out):
    with pytest.raises(FileNotFoundError, match=r"vitpose_jax\.data\.build"):
        datasets.open_split(out, "train")
    assert run(source, out) == 0
    next(out.glob("coco-val.array_record*")).unlink()
    with pytest.raises(FileNotFoundError, match="coco-val"):
        datasets.open_split(out, "val")


def test_detector_boxes_are_taken_as_they_are(source, out, tmp_path):
    assert run(source, out) == 0
    split = datasets.open_split(out, "val")
    boxes = datasets.detection_boxes(split)
    assert len(boxes) == 6  # neither the one of another category nor fewer
    assert boxes.bbox_xywh.tolist() == [[-3.5, 2.0, 30.0, 41.5]] * 6
    assert boxes.bbox_score.tolist() == [0.9, 0.2] * 3
    assert boxes.image.tolist() == [0, 0, 1, 1, 2, 2]
    assert datasets.detection_boxes(split, score_threshold=0.2).bbox_id.tolist() == list(range(6))
    assert datasets.detection_boxes(split, score_threshold=0.5).bbox_id.tolist() == list(range(3))

    other = tmp_path / "boxes.json"
    box = {"image_id": 1001, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}
    for content, words in (
        ([box, {**box, "image_id": 5}, {**box, "image_id": 6}], "2 images"),
        ([box, {**box, "bbox": [1, 2, 0, 4]}], "number 1"),
        ([{"image_id": 1001, "category_id": 1, "bbox": [1, 2, 3, 4]}], "no score"),
        ({"boxes": []}, "JSON list"),
        ([{**box, "category_id": 3}], "no box of a person"),
    ):
        other.write_text(json.dumps(content))
        with pytest.raises(ValueError, match=words):
            datasets.detection_boxes(split, other)
    with pytest.raises(ValueError, match="without detector boxes"):
        datasets.detection_boxes(datasets.open_split(out, "train"))


def test_photographs(samples_dir, out):
    assert run(samples_dir / "coco", out) == 0
    for split, images, instances in (("train", 28, 86), ("val", 20, 48)):
        opened = datasets.open_split(out, split)
        assert (len(opened.images), len(opened)) == (images, instances)
        for row in range(images):
            file = samples_dir / "coco" / f"{split}2017" / str(opened.images.file_name[row])
            assert opened.jpeg(row) == file.read_bytes()
            assert opened.pixels(row).shape == (*opened.images.size[row], 3)
    assert len(datasets.detection_boxes(opened)) == 255
