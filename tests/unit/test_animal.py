"""The drawn animals: that they repeat, and that their labels say what is drawn."""

import json

import numpy as np
import pytest

from vitpose_jax.data.custom import check_sides
from vitpose_jax.data.synthetic.__main__ import main
from vitpose_jax.data.synthetic.animal import KEYPOINTS, draw_animals
from vitpose_jax.keypoints import keypoint_set, load_keypoint_set

NAMES = KEYPOINTS["names"]


@pytest.fixture(scope="module")
def pictures():
    return [draw_animals(3, "train", index) for index in range(60)]


def points_of(annotation):
    return np.reshape(annotation["keypoints"], (len(NAMES), 3))


def test_same_arguments_same_picture():
    image, annotations = draw_animals(5, "val", 11)
    again, annotations_again = draw_animals(5, "val", 11)
    np.testing.assert_array_equal(image, again)
    assert annotations == annotations_again and image.dtype == np.uint8
    for other in ((6, "val", 11), (5, "train", 11), (5, "val", 12)):
        assert draw_animals(*other)[0].tobytes() != image.tobytes()


def test_labels_lie_in_the_picture_and_seen_ones_in_the_box(pictures):
    flags = []
    for image, annotations in pictures:
        height, width = image.shape[:2]
        for annotation in annotations:
            points, (x, y, w, h) = points_of(annotation), annotation["bbox"]
            seen = points[points[:, 2] == 2]
            assert ((seen[:, :2] >= np.array([x, y]) - 2) & (seen[:, :2] <= np.array([x + w, y + h]) + 1)).all()
            assert (points[points[:, 2] == 0] == 0).all()
            assert ((points[:, :2] >= 0) & (points[:, :2] <= [width - 1, height - 1])).all()
            assert 0 < annotation["area"] <= w * h
            assert annotation["num_keypoints"] == np.count_nonzero(points[:, 2])
            flags += points[:, 2].tolist()
    counts = np.bincount(np.array(flags, int), minlength=3) / len(flags)
    assert counts[2] > 0.85 and counts[1] > 0.003 and counts[0] > 0.003


def test_left_is_left_of_the_animal_seen_from_above(pictures):
    checked = 0
    for _, annotations in pictures:
        for annotation in annotations:
            point = dict(zip(NAMES, points_of(annotation), strict=True))
            if all(point[name][2] for name in ("left_eye", "right_eye", "neck", "snout")):
                forwards = point["snout"][:2] - point["neck"][:2]
                to_left = point["left_eye"][:2] - point["right_eye"][:2]
                # y points down: turning from forwards to the left is counter-clockwise on the screen.
                assert forwards[0] * to_left[1] - forwards[1] * to_left[0] < 0
                checked += 1
    assert checked > 50


def test_the_keypoint_file_is_sound():
    check_sides(keypoint_set("lizard", KEYPOINTS))


def test_the_command_writes_a_folder_once(tmp_path, capsys):
    arguments = ["--animal", "--out", str(tmp_path / "set"), "--num-train", "4", "--num-val", "2"]
    main(arguments)
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")}
    assert load_keypoint_set(tmp_path / "set/lizard.json").names == tuple(NAMES)
    for split, count in (("train", 4), ("val", 2)):
        content = json.loads((tmp_path / f"set/annotations/{split}.json").read_text())
        assert len(content["images"]) == count
        assert all((tmp_path / "set/images" / image["file_name"]).is_file() for image in content["images"])
    main(arguments)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "set").rglob("*")} == files
    with pytest.raises(FileExistsError, match="choose another folder"):
        main([*arguments, "--seed", "1"])
    main(["--out", str(tmp_path / "people"), "--num-train", "1", "--num-val", "1", "--num-workers", "0"])
    assert (tmp_path / "people/train2017").is_dir()
