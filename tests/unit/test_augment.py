import dataclasses
import math

import numpy as np
import pytest

from vitpose_jax import geometry, keypoints
from vitpose_jax.data import augment

BOX = np.array([100.0, 80.0, 150.0, 200.0], np.float32)
WIDTH = 320
DRAWS = 6_000


def person() -> np.ndarray:
    """All 17 COCO keypoints labelled, the upper body above the lower."""
    rng = np.random.default_rng(0)
    points = rng.uniform([40, 20], [160, 80], (17, 2))
    points[11:, 1] += 80
    return np.concatenate([points, np.ones((17, 1))], axis=1).astype(np.float32)


def sample(settings: augment.Augment, rng, instance: np.ndarray | None = None) -> augment.View:
    return settings.sample(
        BOX,
        person() if instance is None else instance,
        image_width=WIDTH,
        aspect_ratio=0.75,
        keypoint_set=keypoints.COCO,
        rng=rng,
    )


class Counting:
    """A generator that counts what is drawn from it."""

    def __init__(self, rng):
        self.rng, self.drawn = rng, []

    def random(self, size=None):
        self.drawn.append("uniform")
        return self.rng.random(size)

    def standard_normal(self):
        self.drawn.append("normal")
        return self.rng.standard_normal()


STILL = augment.Augment(flip_prob=0.0, half_body_prob=0.0, scale_factor=0.0, rotation_prob=0.0, center_jitter_prob=0.0)


# Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flip_prob", 1.1),
        ("flip_prob", -0.1),
        ("half_body_prob", "0.3"),
        ("rotation_prob", float("nan")),
        ("center_jitter_prob", True),
        ("half_body_min_keypoints", 8.5),
        ("half_body_min_keypoints", -1),
        ("scale_factor", 1.0),
        ("rotation_factor_deg", -40),
        ("center_jitter", -0.4),
        ("jitter_each_epoch", "no"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"augment\.{name} is"):
        augment.Augment(**{name: value})


def test_unknown_settings_are_refused():
    with pytest.raises(TypeError, match="flip_probability"):
        augment.Augment(flip_probability=0.5)


def test_settings_may_be_whole_numbers():
    augment.Augment(flip_prob=1, rotation_factor_deg=90, scale_factor=0)


# Views


def test_nothing_random_is_the_plain_view():
    view = sample(STILL, np.random.default_rng(0))
    np.testing.assert_array_equal(view.box_cxcywh, BOX)
    assert (view.rotation_deg, view.flipped) == (0.0, False)


def test_the_same_seed_gives_the_same_view():
    first, second, other = (sample(augment.Augment(), np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.box_cxcywh, second.box_cxcywh)
    assert first[1:] == second[1:]
    assert not np.array_equal(first.box_cxcywh, other.box_cxcywh)


def test_arguments_are_left_alone():
    box, instance = BOX.copy(), person()
    view = augment.Augment(flip_prob=1.0).sample(
        box, instance, image_width=WIDTH, aspect_ratio=0.75, keypoint_set=keypoints.COCO, rng=np.random.default_rng(0)
    )
    augment.train_transform(
        view, instance, image_width=WIDTH, crop_size=(256, 192), flip_index=keypoints.COCO.flip_index, udp=True
    )
    augment.Augment(center_jitter_prob=1.0).jitter_center(box, BOX, np.random.default_rng(0))
    np.testing.assert_array_equal(box, BOX)
    np.testing.assert_array_equal(instance, person())


@pytest.mark.parametrize("labelled", [9, 8])
def test_half_body_needs_more_keypoints_than_the_threshold(labelled):
    instance = person()
    instance[labelled:, 2] = 0
    rng = Counting(np.random.default_rng(0))
    view = sample(augment.Augment(flip_prob=0.0, half_body_prob=1.0, scale_factor=0.0), rng, instance)
    tried = labelled > 8
    assert (view.box_cxcywh[0] != BOX[0]) == tried
    assert rng.drawn == ["uniform", *["uniform", "normal"] * tried, "normal", "normal", "uniform"]


def test_half_body_looks_at_the_mirrored_person():
    """Only keypoints 0 to 4 of the set are upper body; mirrored, other points of the person carry these names."""
    lopsided = keypoints.KeypointSet(
        name="lopsided",
        names=tuple("abcdefghij"),
        swap=(("a", "f"), ("b", "g"), ("c", "h"), ("d", "i"), ("e", "j")),
        skeleton=(),
        upper_body=tuple("abcde"),
        sigmas=(0.1,) * 10,
        colors=((0, 0, 0),) * 10,
        skeleton_colors=(),
    )
    instance = np.ones((10, 3), np.float32)
    instance[:, 0], instance[:, 1] = np.arange(10) % 5, np.arange(10) * 10

    class AlwaysUpper(Counting):
        def standard_normal(self):
            return -1.0

    views = [
        augment.Augment(flip_prob=flip, half_body_prob=1.0, scale_factor=0.0, rotation_prob=0.0).sample(
            BOX,
            instance,
            image_width=WIDTH,
            aspect_ratio=0.75,
            keypoint_set=lopsided,
            rng=AlwaysUpper(np.random.default_rng(0)),
        )
        for flip in (0.0, 1.0)
    ]
    assert [view.box_cxcywh[1] for view in views] == [20.0, 70.0]


def test_no_half_body_without_an_upper_body():
    headless = dataclasses.replace(keypoints.COCO, upper_body=())
    settings = dataclasses.replace(STILL, half_body_prob=1.0)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        view = settings.sample(BOX, person(), image_width=WIDTH, aspect_ratio=0.75, keypoint_set=headless, rng=rng)
        np.testing.assert_array_equal(view.box_cxcywh, BOX)
    assert not np.array_equal(sample(settings, np.random.default_rng(0)).box_cxcywh, BOX)


def test_half_body_of_coinciding_keypoints_changes_nothing():
    instance = np.ones((17, 3), np.float32)
    view = sample(
        augment.Augment(flip_prob=0.0, half_body_prob=1.0, scale_factor=0.0), np.random.default_rng(0), instance
    )
    np.testing.assert_array_equal(view.box_cxcywh, BOX)


def test_half_body_box_holds_its_keypoints():
    instance, upper = person(), keypoints.COCO.upper_body_mask
    for seed in range(10):
        box = augment.half_body_box(instance, upper, aspect_ratio=0.75, rng=np.random.default_rng(seed))
        part = instance[upper if box[1] < 90 else ~upper, :2]
        np.testing.assert_allclose(box[:2], part.mean(axis=0), rtol=1e-6)
        assert box[2] / box[3] == pytest.approx(0.75)
        extent = np.ptp(part, axis=0)
        assert np.all(box[2:] >= 1.499 * extent) and np.isclose(box[2:], 1.5 * extent, rtol=1e-5).any()


# The transform


@pytest.mark.parametrize("udp", [False, True])
def test_mirroring_twice_is_no_mirroring(udp):
    box, instance = augment.mirror(BOX, person(), image_width=WIDTH, flip_index=keypoints.COCO.flip_index)
    assert box[0] == WIDTH - 1 - BOX[0]
    box, instance = augment.mirror(box, instance, image_width=WIDTH, flip_index=keypoints.COCO.flip_index)
    np.testing.assert_allclose(box, BOX)
    np.testing.assert_allclose(instance, person(), rtol=1e-6)


@pytest.mark.parametrize("udp", [False, True])
@pytest.mark.parametrize("rotation_deg", [0.0, 25.0])
def test_a_mirrored_view_is_the_view_of_the_mirrored_image(udp, rotation_deg):
    flip_index = keypoints.COCO.flip_index
    box, mirrored = augment.mirror(BOX, person(), image_width=WIDTH, flip_index=flip_index)
    settings = {"image_width": WIDTH, "crop_size": (256, 192), "flip_index": flip_index, "udp": udp}
    matrix, folded = augment.train_transform(augment.View(box, rotation_deg, True), person(), **settings)
    _, copied = augment.train_transform(augment.View(box, rotation_deg, False), mirrored, **settings)
    np.testing.assert_allclose(folded, copied, atol=1e-4)
    # The matrix is from the image as it is stored, and turns the crop's sense of orientation around.
    np.testing.assert_allclose(geometry.transform(matrix, person()[flip_index, :2]), folded[:, :2], atol=1e-4)
    assert np.linalg.det(matrix[:, :2]) < 0


@pytest.mark.parametrize("udp", [False, True])
def test_mirroring_an_upright_view_mirrors_the_crop(udp):
    flip_index, (height, width) = keypoints.COCO.flip_index, (256, 192)
    settings = {"image_width": WIDTH, "crop_size": (height, width), "flip_index": flip_index, "udp": udp}
    box, _ = augment.mirror(BOX, person(), image_width=WIDTH, flip_index=flip_index)
    _, plain = augment.train_transform(augment.View(BOX, 0.0, False), person(), **settings)
    _, flipped = augment.train_transform(augment.View(box, 0.0, True), person(), **settings)
    expected = plain[flip_index]
    expected[:, 0] = (width - 1 if udp else width) - expected[:, 0]  # the axis of symmetry tells the conventions apart
    np.testing.assert_allclose(flipped, expected, atol=1e-4)


# Distributions


def share(values) -> float:
    return float(np.mean(values))


def close_to(probability: float):
    """Within five standard deviations of a share of DRAWS trials."""
    return pytest.approx(probability, abs=5 * math.sqrt(probability * (1 - probability) / DRAWS))


def test_scale_and_rotation_are_distributed_as_in_the_original():
    rng, settings = np.random.default_rng(0), augment.Augment()
    drawn = [settings.scale_and_rotate(BOX, rng) for _ in range(DRAWS)]
    factors = np.array([box[2] / BOX[2] for box, _ in drawn])
    assert all(np.array_equal(box[:2], BOX[:2]) for box, _ in drawn)
    assert factors.min() == 0.5 and factors.max() == 1.5
    assert share(factors == 0.5) == close_to(0.1587)
    assert share(factors == 1.5) == close_to(0.1587)
    angles = np.array([angle for _, angle in drawn])
    assert share(angles != 0) == close_to(0.6)
    assert (angles.min(), angles.max()) == (-80, 80)
    assert share(np.abs(angles) == 80) == close_to(0.6 * 0.0455)


def test_views_are_mirrored_half_of_the_time():
    rng = np.random.default_rng(0)
    settings = augment.Augment(half_body_prob=0.0)
    assert share([sample(settings, rng).flipped for _ in range(DRAWS)]) == close_to(0.5)


def test_half_bodies_are_upper_ones_more_often():
    rng, upper = np.random.default_rng(0), keypoints.COCO.upper_body_mask
    instance = person()
    boxes = [augment.half_body_box(instance, upper, aspect_ratio=0.75, rng=rng) for _ in range(DRAWS)]
    assert share([box[1] < 90 for box in boxes]) == close_to(0.6915)


def test_half_body_views_come_with_their_probability():
    rng, settings = np.random.default_rng(0), augment.Augment(flip_prob=0.0)
    assert share([sample(settings, rng).box_cxcywh[1] != BOX[1] for _ in range(DRAWS)]) == close_to(0.3)


def test_center_jitter_shifts_some_boxes_by_a_fraction_of_the_bbox():
    rng, settings = np.random.default_rng(0), augment.Augment()
    bbox = np.array([40.0, 0.0, 120.0, 100.0])
    boxes = np.array([settings.jitter_center(BOX, bbox, rng) for _ in range(DRAWS)])
    np.testing.assert_array_equal(boxes[:, 2:], np.broadcast_to(BOX[2:], (DRAWS, 2)))
    shift = boxes[:, :2] - BOX[:2]
    moved = shift[np.any(shift != 0, axis=1)]
    assert len(moved) / DRAWS == close_to(0.3)
    assert np.all(np.abs(moved) <= 0.2 * bbox[2:] + 1e-4)
    np.testing.assert_allclose(np.abs(moved).max(axis=0), 0.2 * bbox[2:], rtol=0.01)
    np.testing.assert_allclose(moved.std(axis=0), 0.4 * bbox[2:] / math.sqrt(12), rtol=0.05)
