"""What drawing must hold for: the right pixels change, in the right colours, and unfit input is refused."""

import cv2
import numpy as np
import pytest

from vitpose_jax.draw import OUTLINE, PAPER, Comparison, draw_comparison, draw_pose, save_image
from vitpose_jax.keypoints import COCO

K = len(COCO)
LEFT_KNEE, LEFT_ANKLE, RIGHT_WRIST = (COCO.names.index(name) for name in ("left_knee", "left_ankle", "right_wrist"))


def _leg() -> tuple[np.ndarray, np.ndarray]:
    """A knee at (30, 20) over an ankle at (30, 80), and a wrist at (70, 50) whose score is low."""
    points, scores = np.full((K, 2), np.nan), np.zeros(K)
    points[[LEFT_KNEE, LEFT_ANKLE, RIGHT_WRIST]] = (30, 20), (30, 80), (70, 50)
    scores[[LEFT_KNEE, LEFT_ANKLE, RIGHT_WRIST]] = 0.9, 0.8, 0.1
    return points, scores


@pytest.mark.parametrize("background", [0, 128, 255])
def test_keypoints_and_lines_have_their_colours_with_a_dark_rim(background):
    image = np.full((100, 100, 3), background, np.uint8)
    drawn = draw_pose(image, *_leg(), COCO, threshold=0.3, thickness=8)
    assert (image == background).all()  # the picture handed in stays as it is
    for x, y in ((30, 20), (30, 80), (30, 50)):  # both ends and the middle of the line
        np.testing.assert_array_equal(drawn[y, x], COCO.colors[LEFT_KNEE])
    np.testing.assert_array_equal(drawn[50, 70], image[50, 70])  # below the threshold
    across = drawn[50, 20:41]
    assert (across[:10] == OUTLINE).all(axis=1).any()  # the rim, on either side of the line
    assert (across[11:] == OUTLINE).all(axis=1).any()
    changed = np.argwhere((drawn != image).any(axis=2))
    assert (changed.min(axis=0) >= (8, 18)).all()
    assert (changed.max(axis=0) <= (92, 42)).all()


def test_several_people_in_one_call_equal_one_after_the_other():
    image = np.zeros((100, 160, 3), np.uint8)
    points, scores = _leg()
    people = np.stack([points, points + np.array([60, 0])])
    together = draw_pose(image, people, np.stack([scores, scores]), COCO)
    one_by_one = draw_pose(draw_pose(image, people[0], scores, COCO), people[1], scores, COCO)
    np.testing.assert_array_equal(together, one_by_one)
    assert (draw_pose(image, np.zeros((0, K, 2)), np.zeros((0, K)), COCO) == image).all()


def test_larger_people_get_thicker_lines():
    scores = np.ones(K)
    small = np.random.default_rng(0).uniform(10, 40, (K, 2))

    def coverage(points):
        return np.count_nonzero(draw_pose(np.full((400, 400, 3), 255, np.uint8), points, scores, COCO).min(axis=2) < 60)

    assert coverage(8 * small) > 8 * coverage(small)  # lines 8 times as long cover more than 8 times as much


def test_points_far_outside_and_broken_ones_do_no_harm():
    image = np.zeros((50, 50, 3), np.uint8)
    points = np.full((K, 2), 1e12)
    points[0] = np.nan, 3
    points[1] = np.inf, 3
    assert (draw_pose(image, points, np.ones(K), COCO) == 0).all()


def test_unfit_input_is_refused():
    with pytest.raises(ValueError, match=r"float64 \[10, 10, 3\]; expected uint8"):
        draw_pose(np.zeros((10, 10, 3)), np.zeros((K, 2)), np.ones(K), COCO)
    with pytest.raises(ValueError, match=r"\[5, 2\] and scores \[5\] do not fit keypoint set 'coco'"):
        draw_pose(np.zeros((10, 10, 3), np.uint8), np.zeros((5, 2)), np.ones(5), COCO)
    with pytest.raises(ValueError, match="no samples"):
        draw_comparison([], COCO)


def test_comparison_puts_the_truth_left_and_the_prediction_right():
    points, scores = _leg()
    image = np.full((100, 80, 3), 200, np.uint8)
    missed = Comparison(image, points, (scores > 0.5) * 1.0, points, np.zeros(K), "missed")
    picture = draw_comparison([missed], COCO, tile_height=300)
    green = np.argwhere((picture == COCO.colors[LEFT_KNEE]).all(axis=2))
    assert len(green)
    assert green[:, 1].max() < picture.shape[1] / 2  # nothing on the right: the model was not sure of anything
    center = green.mean(axis=0) - (20 + 42, 20)  # margins and headings
    np.testing.assert_allclose(center, (50.5 * 3, 30.5 * 3), atol=2)  # drawn where it is, at three times the size


def test_comparison_grid_grows_by_rows():
    points, scores = _leg()
    sample = Comparison(
        np.zeros((96, 72, 3), np.uint8), points, scores, points, scores, "a title much wider than its pair " * 3
    )
    one, four, five = (draw_comparison([sample] * count, COCO, columns=4) for count in (1, 4, 5))
    assert one.shape[0] == four.shape[0] < five.shape[0]
    assert one.shape[1] < four.shape[1] == five.shape[1]
    assert (five[-100:, -100:] == PAPER).all()  # the empty places of the last row


@pytest.mark.parametrize("name", ["picture.png", "picture.JPG", "picture.jpeg"])
def test_saved_pictures_are_rgb_and_leave_nothing_beside(tmp_path, name):
    image = np.zeros((16, 24, 3), np.uint8)
    image[:, :, 0] = 250
    save_image(tmp_path / name, image)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    stored = cv2.cvtColor(cv2.imread(str(tmp_path / name)), cv2.COLOR_BGR2RGB)
    assert np.abs(stored.astype(int) - image).max() < 8


def test_unknown_picture_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ending is '\.gif'; use one of \.png, \.jpg, \.jpeg"):
        save_image(tmp_path / "picture.gif", np.zeros((4, 4, 3), np.uint8))
    assert not list(tmp_path.iterdir())
