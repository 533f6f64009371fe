"""The drawn data set: its files, that it repeats, and that its labels say what is drawn."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask
from pycocotools.coco import COCO as CocoFile

from vitpose_jax.data import synthetic
from vitpose_jax.data.synthetic.film import IMAGE_SIZE, film_frames, write_film
from vitpose_jax.data.video import VideoFile
from vitpose_jax.keypoints import COCO

NUM_SCENES = 60


@pytest.fixture(scope="module")
def scenes():
    return [synthetic.draw_scene(3, "train", index) for index in range(NUM_SCENES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("drawn") / "set"
    synthetic.write_synthetic(out, num_train=6, num_val=5, seed=7, num_workers=0, progress=False)
    return out


def people(scenes):
    """(scene, number in its part map, annotation, keypoints [17, 3]) of everybody."""
    for scene in scenes:
        for number, annotation in zip(scene.people, scene.annotations, strict=True):
            yield scene, number, annotation, np.reshape(annotation["keypoints"], (17, 3))


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_same_arguments_same_picture():
    image, annotations = synthetic.draw_image(5, "val", 11)
    again, annotations_again = synthetic.draw_image(5, "val", 11)
    assert image.dtype == np.uint8 and image.ndim == 3
    np.testing.assert_array_equal(image, again)
    assert annotations == annotations_again


@pytest.mark.parametrize("other", [(6, "val", 11), (5, "train", 11), (5, "val", 12)])
def test_seed_split_and_index_each_change_the_picture(other):
    assert synthetic.draw_image(5, "val", 11)[0].tobytes() != synthetic.draw_image(*other)[0].tobytes()


def test_workers_do_not_change_the_files(folder, tmp_path):
    synthetic.write_synthetic(tmp_path / "set", num_train=6, num_val=5, seed=7, num_workers=2, progress=False)
    assert contents(tmp_path / "set") == contents(folder)


def test_official_tools_read_the_layout(folder):
    for split, count in (("train", 6), ("val", 5)):
        coco = CocoFile(folder / "annotations" / f"person_keypoints_{split}2017.json")
        assert len(coco.imgs) == count
        for entry in coco.imgs.values():
            assert entry["file_name"] == f"{entry['id']:012d}.jpg"
            image = cv2.imread(str(folder / f"{split}2017" / entry["file_name"]))
            assert image.shape == (entry["height"], entry["width"], 3)
        assert {annotation["image_id"] for annotation in coco.anns.values()} <= set(coco.imgs)
        for annotation in coco.anns.values():
            assert annotation["category_id"] == 1 and annotation["iscrowd"] == 0
            # Polygons go through pixel centres, so they lose about half a pixel all around.
            assert 0.7 * annotation["area"] < mask.area(coco.annToRLE(annotation)) < 1.2 * annotation["area"]
        category = coco.loadCats(1)[0]
        assert category["keypoints"] == list(COCO.names)
        assert np.min(category["skeleton"]) == 1 and np.max(category["skeleton"]) == 17


def test_detections_are_boxes_in_the_images(folder):
    coco = CocoFile(folder / "annotations" / "person_keypoints_val2017.json")
    detections = json.loads((folder / synthetic.DETECTIONS_FILE).read_text())
    assert len(detections) >= len(coco.anns)
    for detection in detections:
        entry = coco.imgs[detection["image_id"]]
        x, y, width, height = detection["bbox"]
        assert detection["category_id"] == 1 and 0 < detection["score"] < 1
        assert x >= 0 and y >= 0 and width > 0 and height > 0
        assert x + width <= entry["width"] + 0.01 and y + height <= entry["height"] + 0.01


def test_visibility_is_true_to_the_part_map(scenes):
    flags = []
    for scene, number, _, keypoints in people(scenes):
        for name, (x, y, flag) in zip(COCO.names, keypoints, strict=True):
            if flag == 0:
                continue
            column, row = round(x), round(y)
            around = scene.part_map[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            carrying = [synthetic.part_id(number, part) for part in synthetic.carriers(name)]
            shown = np.isin(around, carrying)
            if flag == 2:
                assert shown.any(), name
            elif name.endswith(("shoulder", "hip")):  # the trunk of a profile does not show its far side
                assert not np.isin(around, carrying[:1]).any(), name
            else:
                assert not shown.any(), name
            flags.append(flag)
    assert 0.7 < np.mean(np.array(flags) == 2) < 0.97


def test_boxes_and_areas_are_those_of_the_visible_silhouette(scenes):
    for scene, number, annotation, _ in people(scenes):
        parts = [synthetic.part_id(number, part) for part in synthetic.PARTS]
        rows, columns = np.nonzero(np.isin(scene.part_map, parts))
        left, top = columns.min(), rows.min()
        assert annotation["bbox"] == [left, top, columns.max() - left + 1, rows.max() - top + 1]
        assert annotation["area"] == len(rows)
        assert left + annotation["bbox"][2] <= scene.image.shape[1]


def test_labelled_keypoints_lie_inside_and_others_are_zero(scenes):
    for scene, _, annotation, keypoints in people(scenes):
        height, width = scene.image.shape[:2]
        labelled = keypoints[:, 2] > 0
        assert annotation["num_keypoints"] == labelled.sum()
        assert (keypoints[~labelled] == 0).all()
        assert (keypoints[labelled, :2] >= 0).all()
        assert (keypoints[labelled, :2] <= (width - 1, height - 1)).all()


def test_left_is_the_persons_left(scenes):
    """Whoever shows both eyes and stands upright has the left eye, ear and shoulder further right in the image."""
    index = COCO.names.index
    checked = 0
    for _, _, _, keypoints in people(scenes):
        needed = [index(name) for name in ("left_eye", "right_eye", "left_shoulder", "right_shoulder", "left_hip")]
        if (keypoints[needed, 2] < 2).any():
            continue
        if keypoints[index("left_hip"), 1] - keypoints[index("left_shoulder"), 1] < 20:
            continue  # lying, bent or upside down
        eyes = keypoints[index("left_eye"), 0] - keypoints[index("right_eye"), 0]
        shoulders = keypoints[index("left_shoulder"), 0] - keypoints[index("right_shoulder"), 0]
        assert eyes > 0
        if abs(shoulders) > 8:  # a head may turn further than the trunk
            assert shoulders > 0
            checked += 1
    assert checked >= 10


def test_a_face_seen_from_behind_is_not_labelled(scenes):
    """Backs of heads occur, and they carry no nose."""
    behind = 0
    for _, _, _, keypoints in people(scenes):
        left, right = keypoints[COCO.names.index("left_ear")], keypoints[COCO.names.index("right_ear")]
        hip_y = keypoints[COCO.names.index("left_hip"), 1]
        if left[2] == 2 and right[2] == 2 and left[1] < hip_y - 30 and left[0] < right[0] - 6:
            assert (keypoints[:3, 2] == 0).all()
            behind += 1
    assert behind >= 1


def test_poses_differ_between_people(scenes):
    """No single pose within the box describes everybody: keypoints spread widely about their mean place."""
    places = []
    for _, _, annotation, keypoints in people(scenes):
        x, y, width, height = annotation["bbox"]
        place = (keypoints[:, :2] - (x, y)) / (width, height)
        place[keypoints[:, 2] == 0] = np.nan
        places.append(place)
    spread = np.nanstd(places, axis=0)
    assert spread[5:].mean() > 0.135  # 0.115 if all stood still with hanging arms, 0.06 if all faced the viewer too


def test_finished_set_is_left_alone(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    synthetic.write_synthetic(folder, num_train=6, num_val=5, seed=7, num_workers=0, progress=False)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_another_set_is_not_overwritten(folder):
    before = contents(folder)
    with pytest.raises(FileExistsError, match="remove"):
        synthetic.write_synthetic(folder, num_train=6, num_val=5, seed=8, num_workers=0, progress=False)
    assert contents(folder) == before


def test_a_foreign_folder_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="something else"):
        synthetic.write_synthetic(tmp_path, num_train=1, num_val=1, num_workers=0, progress=False)
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_interrupted_writing_leaves_no_set_and_can_be_repeated(folder, tmp_path, monkeypatch):
    out = tmp_path / "set"
    arguments = {"num_train": 6, "num_val": 5, "seed": 7, "num_workers": 0, "progress": False}

    def interrupt(seed, split, index, image_size):
        if split == "val":
            raise KeyboardInterrupt
        return draw_image(seed, split, index, image_size)

    draw_image = synthetic.draw_image
    monkeypatch.setattr(synthetic.folder, "draw_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        synthetic.write_synthetic(out, **arguments)
    assert not out.exists()
    monkeypatch.undo()
    synthetic.write_synthetic(out, **arguments)
    assert contents(out) == contents(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((0, "test", 0), "choose"), ((-1, "train", 0), "seed=-1"), ((0, "train", -1), "index=-1")],
)
def test_unknown_pictures_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        synthetic.draw_image(*arguments)


def test_out_of_range_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="at least"):
        synthetic.write_synthetic(tmp_path / "set", num_train=-1, progress=False)


def test_a_film_moves_and_its_labels_follow(tmp_path):
    labels = write_film(tmp_path / "film.mp4", seed=2, seconds=0.4, progress=False)
    frames = [frame.pixels for frame in VideoFile(tmp_path / "film.mp4").frames()]
    assert len(frames) == 10 and frames[0].shape == (*IMAGE_SIZE, 3)
    drawn = list(film_frames(2, 10))
    assert np.abs(frames[7].astype(int) - drawn[7][0]).mean() < 4  # as far as H.264 can
    assert np.median(np.abs(drawn[0][0].astype(int) - drawn[9][0])) == 0  # surroundings stay
    film = CocoFile(labels)
    assert sorted(film.imgs) == list(range(10))
    for number, (_, people) in enumerate(drawn):
        found = film.loadAnns(film.getAnnIds(imgIds=[number]))
        assert [each["keypoints"] for each in found] == [person["keypoints"] for person in people]
    wrists = np.array([np.reshape(people[0]["keypoints"], (17, 3))[9, :2] for _, people in drawn])  # who waves
    assert np.abs(np.diff(wrists, axis=0)).max() > 1
    for name, wrong in (("film.avi", {}), ("no.mp4", {"seconds": 0.0}), ("no.mp4", {"seed": -1})):
        with pytest.raises(ValueError, match="a film"):
            write_film(tmp_path / name, **wrong)
