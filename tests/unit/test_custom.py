"""A set of one's own: what is read of it, which faults are named, and that the built folder stands alone."""

import json
import pathlib
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest

from tests.coco_folder import detections_of, edit
from vitpose_jax.data import build as builder
from vitpose_jax.data import custom, datasets
from vitpose_jax.data.report import REPORT_PICTURE, REPORT_TEXT
from vitpose_jax.evaluation.coco import coco_metrics
from vitpose_jax.keypoints import KEYPOINT_SETS, keypoint_set, load_keypoint_set, reference

FISH = {
    "names": ["mouth", "left_fin", "right_fin", "tail"],
    "swap": [["left_fin", "right_fin"]],
    "skeleton": [["mouth", "tail"]],
}
TRAIN, VAL = "annotations/train.json", "annotations/val.json"


@pytest.fixture
def source(tmp_path):
    """Five images of 80 x 60 with two fish each to train on, two to evaluate on."""
    folder = tmp_path / "source"
    (folder / "annotations").mkdir(parents=True)
    (folder / "images").mkdir()
    for split, count in (("train", 5), ("val", 2)):
        content: dict[str, list] = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "fish"}]}
        for number in range(count):
            name = f"{split}{number}.{'png' if number == 1 else 'jpg'}"
            cv2.imwrite(str(folder / "images" / name), np.full((60, 80, 3), 40 * number, np.uint8))
            content["images"].append({"id": number + 1, "file_name": name, "height": 60, "width": 80})
            for fish in range(2):
                content["annotations"].append({
                    "id": 10 * (number + 1) + fish, "image_id": number + 1, "category_id": 3, "bbox": [10, 12, 40, 30],
                    "keypoints": [12, 20, 2, 20, 14, 1, 20, 40, 2, 0, 0, 0],
                })  # fmt: skip
        (folder / f"annotations/{split}.json").write_text(json.dumps(content))
    (tmp_path / "fish.json").write_text(json.dumps(FISH))
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run(source, out, *arguments, keypoints=None) -> int:
    keypoints = keypoints or source.parent / "fish.json"
    return builder.main(
        ["custom", "--source", str(source), "--out", str(out), "--keypoints", str(keypoints), *arguments]
    )


def first(content):
    return content["annotations"][0]


def test_the_built_folder_stands_alone(source, out, tmp_path):
    assert run(source, out) == 0
    (tmp_path / "fish.json").unlink()
    split = datasets.open_split(out, "train")
    assert split.dataset.name == "custom" and split.dataset.metric == "coco" and split.dataset.udp
    assert split.keypoint_set.name == "fish" and split.keypoint_set.names == tuple(FISH["names"])
    assert split.keypoint_set.sigmas == (custom.FALLBACK_SIGMA,) * 4
    assert len(split) == 10 and len(split.images) == 5
    assert split.instances.category_id.tolist() == [1] * 10
    np.testing.assert_allclose(split.instances.area, 0.53 * 40 * 30)
    assert split.instances.keypoints[0, :, 2].tolist() == [1, 1, 1, 0]
    assert split.pixels(1).shape == (60, 80, 3)  # a PNG file
    assert pickle.loads(pickle.dumps(split)).keypoint_set == split.keypoint_set
    command = f"from vitpose_jax.data import datasets; print(len(datasets.open_split({str(out)!r}, 'val')))"
    root = pathlib.Path(builder.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "4"


def test_the_annotation_file_for_evaluation_is_complete(source, out):
    """Without area, iscrowd and num_keypoints, as labelling tools may leave it."""
    assert run(source, out) == 0
    split = datasets.open_split(out, "val")
    everybody = detections_of(split.instances)
    assert coco_metrics(split.annotation_file, everybody, sigmas=split.keypoint_set.sigmas)["AP"] == pytest.approx(1)


def test_own_sigmas_and_areas_are_kept(source, out, tmp_path):
    (tmp_path / "fish.json").write_text(json.dumps(FISH | {"sigmas": [0.1, 0.2, 0.2, 0.3]}))
    edit(source / TRAIN, lambda content: first(content).update(area=77.5))
    assert run(source, out) == 0
    split = datasets.open_split(out, "train")
    assert split.keypoint_set.sigmas == (0.1, 0.2, 0.2, 0.3)
    assert split.instances.area[0] == 77.5
    assert "OKS sigma" not in (out / REPORT_TEXT).read_text()


FAULTS = {
    "keypoint count": (lambda c: first(c).update(keypoints=[1, 1, 2] * 3), "9 numbers instead of 12"),
    "all invisible": (lambda c: first(c).update(keypoints=[0] * 12), "all of its keypoints are invisible"),
    "no keypoints": (lambda c: first(c).pop("keypoints"), "no keypoints"),
    "no box": (lambda c: first(c).pop("bbox"), "no bbox"),
    "box beside the image": (lambda c: first(c).update(bbox=[90, 10, 20, 20]), "outside of the image"),
    "corners for a box": (lambda c: first(c).update(bbox=[50, 42, 60, 52]), "x, y, width, height"),
    "box left of the image": (lambda c: first(c).update(bbox=[-9, 12, 40, 30]), "outside of the image"),
    "empty box": (lambda c: first(c).update(bbox=[10, 12, 0, 30]), "no extent"),
    "no area": (lambda c: first(c).update(area=-5), "its area is -5"),
    "numbers in quotes": (lambda c: first(c).update(bbox=["10", "12", "40", "30"]), "not a list of numbers"),
    "keypoint beyond the image": (
        lambda c: first(c)["keypoints"].__setitem__(slice(0, 2), [12, 69]),
        "its keypoint 'mouth' at (12, 69) is 9 pixels outside of the image of 80 x 60",
    ),
    "keypoint left of the image": (lambda c: first(c)["keypoints"].__setitem__(0, -9), "9 pixels outside of the image"),
    "keypoint at the origin": (
        lambda c: (first(c).update(bbox=[50, 40, 20, 10]), first(c).update(keypoints=[51, 41, 2, 0, 0, 1] + [0] * 6)),
        "its keypoint 'left_fin' at (0, 0) is 50 pixels outside of its bbox [50, 40, 20, 10]; keypoints are x, y, vis",
    ),
    "centre for a corner": (
        lambda c: first(c).update(bbox=[40, 27, 40, 30], keypoints=[21, 15, 2, 25, 14, 1, 20, 40, 2, 0, 0, 0]),
        "3 of its 3 labelled keypoints are far outside of its bbox [40, 27, 40, 30]",
    ),
    "a list for each keypoint": (
        lambda c: first(c).update(keypoints=[[12, 20, 2], [20, 14, 1], [20, 40, 2], [0, 0, 0]]),
        "its keypoints is a list of lists",
    ),
    "crowd in quotes": (lambda c: first(c).update(iscrowd="0"), "its iscrowd is '0'; it needs to be 0 or 1"),
    "crowd of two": (lambda c: first(c).update(iscrowd=2), "its iscrowd is 2; it needs to be 0 or 1"),
    "crowd unknown": (lambda c: first(c).update(iscrowd=None), "its iscrowd is None"),
    "words for keypoints": (lambda c: first(c).update(keypoints="mouth"), "not a list of numbers"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_name_the_annotation(source, out, capsys, case):
    change, words = FAULTS[case]
    edit(source / TRAIN, change)
    assert run(source, out) == 2
    report = capsys.readouterr().err
    assert "train: annotation 10 (" in report and words in report
    assert run(source, out, "--skip-broken") == 0
    assert len(datasets.open_split(out, "train")) == 9
    left = json.loads(datasets.open_split(out, "train").annotation_file.read_text())
    assert [entry["id"] for entry in left["annotations"]] == [11, 20, 21, 30, 31, 40, 41, 50, 51]


def test_crowds_are_no_fault_and_no_instance(source, out):
    def crowd(content):
        content["annotations"][0] = {"id": 10, "image_id": 1, "category_id": 3, "iscrowd": 1}

    edit(source / VAL, crowd)
    assert run(source, out) == 0
    split = datasets.open_split(out, "val")
    assert split.instances.annotation_id.tolist() == [11, 20, 21]
    nobody = detections_of(split.instances.take(slice(0)))
    assert coco_metrics(split.annotation_file, nobody, sigmas=split.keypoint_set.sigmas)["AR"] == 0


SOUND = {
    "a little outside of box and image": {
        "bbox": [0, 12, 40, 30],
        "keypoints": [-7, 20, 2, 20, 65, 1, 20, 40, 2, 0, 0, 0],
    },
    "a limb outside of the box": {"bbox": [10, 12, 20, 10], "keypoints": [12, 13, 2, 49, 14, 1, 20, 15, 2, 0, 0, 0]},
    "not labelled, but with coordinates": {"keypoints": [12, 20, 2, 20, 14, 1, -500, 900, 0, 999, 999, 0]},
    "not one of two far": {"bbox": [10, 12, 20, 10], "keypoints": [12, 13, 2, 39, 14, 1, 0, 0, 0, 0, 0, 0]},
    "no crowd": {"iscrowd": False},
}


@pytest.mark.parametrize("case", SOUND)
def test_what_labelling_tools_and_people_do_is_no_fault(source, out, case):
    edit(source / TRAIN, lambda content: first(content).update(SOUND[case]))
    assert run(source, out, "--splits", "train") == 0
    assert datasets.open_split(out, "train").instances.annotation_id[0] == 10


@pytest.mark.parametrize("path", ["/nowhere/train0.jpg", r"D:\labels\train0.jpg"])
def test_absolute_paths_that_are_not_there(source, out, capsys, path):
    edit(source / TRAIN, lambda content: content["images"][0].update(file_name=path))
    assert run(source, out) == 2
    report = capsys.readouterr().err
    assert "train: image 1" in report and "is an absolute path, make it relative to the image folder" in report


def test_absolute_paths_that_are_there(source, out):
    path = str(source / "images/train0.jpg")
    edit(source / TRAIN, lambda content: content["images"][0].update(file_name=path))
    assert run(source, out) == 0


def test_names_in_the_annotation_file_must_agree(source, out, capsys):
    edit(source / TRAIN, lambda content: content["categories"][0].update(keypoints=FISH["names"][::-1]))
    assert run(source, out) == 1
    assert "the same in the same order" in capsys.readouterr().err
    edit(source / TRAIN, lambda content: content["categories"][0].update(keypoints=FISH["names"]))
    assert run(source, out) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"swap": []}, "'left_fin' and 'right_fin' lie on opposite sides"),
        ({"swap": [["left_fin", "tail"]]}, "'left_fin' and 'right_fin' lie on opposite sides"),
        ({"names": ["mouth", "left_fin", "right_eye", "tail"], "swap": []}, "'left_fin' has no partner"),
        ({"names": ["mouth", "L_fin", "R_fin", "tail"], "swap": []}, "'L_fin' and 'R_fin'"),
        ({"names": ["mouth", "finLeft", "finRight", "tail"], "swap": []}, "'finLeft' and 'finRight'"),
        ({"swap": [["left_fin", "right_fin"], ["left_fin", "tail"]]}, "two swap pairs"),
        ({"swap": [["left_fin", "right_gill"]]}, "right_gill"),
        ({"names": ["a", "b"]}, "not keypoints of it"),
    ],
)
def test_a_keypoint_file_that_contradicts_itself(source, out, tmp_path, capsys, changes, words):
    (tmp_path / "fish.json").write_text(json.dumps(FISH | changes))
    assert run(source, out) == 1
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_published_sets_have_paired_sides():
    for keypoints in KEYPOINT_SETS.values():
        custom.check_sides(keypoints)
    custom.check_sides(keypoint_set("x", {"names": ["bright_spot", "cleft", "l2"], "swap": [], "skeleton": []}))


def test_other_places(source, out):
    (source / TRAIN).rename(source / "result.json")
    (source / "images").rename(source / "files")
    edit(source / "result.json", lambda content: [e.update(file_name=f"files/{e['file_name']}") for e in
                                                  content["images"]])  # fmt: skip
    assert run(source, out, "--train", "result.json", "--images", ".", "--splits", "train") == 0
    assert len(datasets.open_split(out, "train")) == 10


def test_a_part_of_the_images_is_held_out(source, out, tmp_path):
    assert run(source, out, "--val-fraction", "0.4") == 0
    train, val = (datasets.open_split(out, split) for split in ("train", "val"))
    assert (len(train.images), len(val.images), len(train), len(val)) == (3, 2, 6, 4)
    assert sorted([*train.images.image_id, *val.images.image_id]) == [1, 2, 3, 4, 5]
    for split in (train, val):
        listed = json.loads(split.annotation_file.read_text())
        assert sorted(entry["id"] for entry in listed["images"]) == sorted(split.images.image_id)
        assert {entry["image_id"] for entry in listed["annotations"]} == set(split.images.image_id.tolist())
    assert "is 2 of 5 images with annotations of annotations/train.json: --val-fraction 0.4" in one_line(out)
    assert "drawn at random with seed 0" in one_line(out)
    assert run(source, out, "--val-fraction", "0.5") == 1  # another set
    edit(source / TRAIN, lambda content: content["images"].reverse())
    assert run(source, tmp_path / "again", "--val-fraction", "0.4") == 0
    assert set(datasets.open_split(tmp_path / "again", "val").images.image_id) == set(val.images.image_id)


def one_line(out):
    return " ".join((out / REPORT_TEXT).read_text().split())


def test_only_images_with_annotations_are_held_out(source, out):
    def mostly_empty(content):
        content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in (2, 4)]
        content["annotations"].append({"id": 99, "image_id": 5, "category_id": 3, "iscrowd": 1})

    edit(source / TRAIN, mostly_empty)
    assert run(source, out, "--val-fraction", "0.5") == 0
    train, val = (datasets.open_split(out, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (2, 2)
    assert {*train.images.image_id, *val.images.image_id} == {2, 4}


def test_a_share_that_leaves_nothing_to_train_on(source, out, capsys):
    assert run(source, out, "--val-fraction", "0.95") == 1
    assert "--val-fraction 0.95 of 5 images with annotations leaves none to train on" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_named_once(source, out, capsys):
    assert run(source, out, "--images", "nowhere") == 1
    assert capsys.readouterr().err.count("nowhere") == 1


def test_a_changed_keypoint_file_is_another_build(source, out, tmp_path, capsys):
    assert run(source, out) == 0
    (tmp_path / "fish.json").write_text(json.dumps(FISH | {"upper_body": ["mouth"]}))
    assert run(source, out) == 1
    assert "keypoints_hash" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["custom"], "needs --keypoints"),
        (["coco", "--keypoints", "fish.json"], "--keypoints is for a set of your own"),
        (["coco", "--val-fraction", "0.1"], "--val-fraction is for a set of your own"),
        (["custom", "--keypoints", "f.json", "--val", "v.json", "--val-fraction", "0.1"], "give one"),
        (["custom", "--keypoints", "f.json", "--val-fraction", "1.5"], "above 0 and below 1"),
        (["custom", "--keypoints", "f.json", "--train", "/etc/passwd"], "inside of the folder --source"),
        (["custom", "--keypoints", "f.json", "--images", "../images"], "inside of the folder --source"),
    ],
)
def test_options_that_do_not_fit(capsys, arguments, words):
    with pytest.raises(SystemExit):
        builder.main([*arguments, "--source", "source", "--out", "out"])
    assert words in capsys.readouterr().err


def test_without_annotations_to_evaluate_on(source, out, capsys):
    (source / VAL).unlink()
    assert run(source, out) == 0
    said = capsys.readouterr().out
    assert "without the split 'val'" in said
    assert "--val-fraction 0.1" in one_line(out) and '--config.datasets.custom.eval_split=""' in one_line(out)
    assert run(source, out.with_name("all"), "--val", TRAIN) == 0  # any file will do
    assert "There is no split" not in one_line(out.with_name("all"))


def test_a_broken_source_leaves_nothing_behind(source, out, monkeypatch):
    monkeypatch.setattr(builder.shards, "write_metadata", lambda *_: (_ for _ in ()).throw(OSError("disk")))
    assert run(source, out) == 1
    monkeypatch.undo()
    (source / "images/train0.jpg").write_bytes(b"")
    assert run(source, out) == 2
    assert [path.name for path in out.iterdir()] == [builder.FAULTS_FILE]


def test_the_report(source, out, capsys):
    edit(source / TRAIN, lambda content: first(content).update(keypoints=[12, 20, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]))
    assert run(source, out) == 0
    text = (out / REPORT_TEXT).read_text()
    assert text in capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}
    assert rows["mouth"] == ["100.0%", "100.0%"] and rows["tail"] == ["0.0%", "0.0%"]
    assert rows["left_fin"] == ["90.0%", "100.0%"]
    assert "OKS sigma of every keypoint is 0.05" in text
    assert any(line.split() == ["train", "5", "0", "10", "1", "2.8", "0"] for line in text.splitlines())
    assert any(line.split()[:3] == ["train", "width", "39"] for line in text.splitlines())
    picture = cv2.imread(str(out / REPORT_PICTURE))
    assert picture.shape[1] == 20 + 8 * (192 + 20)  # eight crops in a row
    assert picture.shape[0] == 20 + 2 * (256 + 22 + 20)


def test_checkpoints_name_own_keypoints_in_full(tmp_path):
    (tmp_path / "fish.json").write_text(json.dumps(FISH))
    fish = load_keypoint_set(tmp_path / "fish.json")
    assert reference(KEYPOINT_SETS["coco"]) == {"keypoint_set": "coco"}
    stored = json.loads(json.dumps(reference(fish)))
    assert keypoint_set(stored["keypoint_set"], stored["keypoints"]) == fish
