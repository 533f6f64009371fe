"""`PoseEstimator`: what it accepts, how it batches, and which regions it cuts."""

import json

import jax
import numpy as np
import pytest

from tests.random_models import random_model
from vitpose_jax import geometry
from vitpose_jax.benchmark import __main__ as benchmark
from vitpose_jax.data.catalog import DATASETS
from vitpose_jax.inference import PoseEstimator, device_crops, export
from vitpose_jax.inference.estimator import dataset_row
from vitpose_jax.keypoints import KEYPOINT_SETS, KeypointSet
from vitpose_jax.models import inference_weights
from vitpose_jax.training import checkpoint


@pytest.fixture(scope="module")
def estimator():
    return PoseEstimator(random_model(), batch_size=8)


def picture(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.ascontiguousarray(coarse.repeat(8, axis=0).repeat(8, axis=1))


def some_boxes(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.uniform(-10, 90, (count, 2)), rng.uniform(20, 90, (count, 2))], axis=1)


def points_of(poses) -> np.ndarray:
    return np.stack([pose.keypoints for pose in poses])


def test_poses_hold_what_was_asked(estimator):
    boxes = some_boxes(0, 3)
    poses = estimator(picture(0), boxes, bbox_scores=[1.0, 0.5, 0.25])
    assert [pose.bbox_score for pose in poses] == [1.0, 0.5, 0.25]
    for pose, box in zip(poses, boxes, strict=True):
        assert pose.keypoints.shape == (17, 2) and pose.keypoints.dtype == np.float32
        assert pose.scores.shape == (17,) and pose.scores.dtype == np.float32
        np.testing.assert_allclose(pose.bbox_xywh, box, rtol=1e-6)
        sure = pose.scores[pose.scores > 0.2]
        assert pose.score == pytest.approx(sure.mean() * pose.bbox_score, rel=1e-5)
        assert pose.keypoint_set.names[0] == "nose" and pose.track_id is None
    assert estimator(picture(0), []) == [] and estimator([], []) == []


def test_every_count_gives_the_same_poses_from_few_programs(estimator):
    """1 to 19 boxes over several images; programs are compiled for the sizes of batches, not for counts."""
    assert estimator.batch_sizes == (1, 4, 8)
    image, boxes = picture(1), some_boxes(1, 19)
    one_by_one = np.concatenate([points_of(estimator(image, box[None])) for box in boxes])
    for count in (1, 2, 3, 5, 8, 9, 19):
        np.testing.assert_allclose(points_of(estimator(image, boxes[:count])), one_by_one[:count], atol=0.01)
    assert estimator._compiled._cache_size() <= 3

    images = [picture(1), picture(2, 200, 90), picture(3)]
    counts = (4, 0, 7)
    all_boxes = [some_boxes(10 + i, count) for i, count in enumerate(counts)]
    all_boxes[1] = np.zeros((0, 4))
    together = estimator(images, all_boxes)
    assert [len(poses) for poses in together] == list(counts)
    for image, image_boxes, poses in zip(images, all_boxes, together, strict=True):
        if len(image_boxes):
            np.testing.assert_allclose(points_of(poses), points_of(estimator(image, image_boxes)), atol=0.01)
    assert estimator._compiled._cache_size() <= 3


def test_layers_that_stand_apart_give_the_same_poses_and_files(monkeypatch):
    """As those of large models do on one CPU; 11 crops go through in chunks."""
    image, boxes = picture(4), some_boxes(4, 11)
    together = PoseEstimator(random_model(), batch_size=11)
    monkeypatch.setattr(inference_weights, "_SMALLEST_APART", 0)
    apart = PoseEstimator(random_model(), batch_size=11)
    layers, stack = (each.variables["params"]["backbone"]["blocks"] for each in (apart, together))
    assert (type(layers), len(layers), type(stack)) == (tuple, 2, dict)
    np.testing.assert_allclose(points_of(apart(image, boxes)), points_of(together(image, boxes)), atol=0.01)

    crops = jax.ShapeDtypeStruct((2, 64, 48, 3), np.uint8)
    written = [str(jax.make_jaxpr(export.program(each, "heatmaps"))(crops)) for each in (apart, together)]
    assert written[0] == written[1] and "scan[" in written[0]


def test_the_flip_test_and_bfloat16_are_choices(estimator):
    image, boxes = picture(4), some_boxes(4, 4)
    reference = points_of(estimator(image, boxes))
    without = PoseEstimator(random_model(), batch_size=4, flip_test=False)
    assert np.abs(points_of(without(image, boxes)) - reference).max() > 1
    rounded = PoseEstimator(random_model(), batch_size=4, dtype="bfloat16")
    scores = np.stack([pose.scores for pose in rounded(image, boxes)])
    difference = np.abs(scores - np.stack([pose.scores for pose in estimator(image, boxes)])).max()
    assert 0 < difference < 0.05


def test_crops_cut_on_the_device_are_opencvs():
    rng = np.random.default_rng(0)
    for number in range(20):
        height, width = rng.integers(40, 400, 2)
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        box = np.array([*rng.uniform(-50, 450, 2), *rng.uniform(5, 700, 2)], np.float32)
        udp = number % 2 == 0
        wanted = device_crops.region_batch(box[None], (64, 48), udp=udp)
        cut = device_crops.cut_regions(
            device_crops.flat_pixels(image), np.array([height, width], np.int32), wanted["rows"], wanted["columns"]
        )
        crop, crop_to_image = geometry.cut_region(image, box, (64, 48), udp=udp)
        np.testing.assert_array_equal(cut[0], crop)
        np.testing.assert_array_equal(wanted["crop_to_image"][0], crop_to_image)


def test_cropping_on_the_device_gives_the_same_poses(estimator):
    on_device = PoseEstimator(random_model(), batch_size=8, cropping="device")
    images, boxes = [picture(5), picture(6, 96, 240)], [some_boxes(5, 3), some_boxes(6, 2)]
    for ours, theirs in zip(on_device(images, boxes), estimator(images, boxes), strict=True):
        np.testing.assert_allclose(points_of(ours), points_of(theirs), atol=0.01)


def test_a_data_set_is_chosen_by_name():
    several = random_model({"coco": "coco", "aic": "aic"})
    for given in (None, "mpii"):
        with pytest.raises(ValueError, match="aic, coco"):
            PoseEstimator(several, dataset=given)
    assert len(PoseEstimator(several, dataset="aic").keypoint_set) == 14
    assert PoseEstimator(random_model({"mine": "ap10k"})).dataset == "mine"


def test_regions_are_those_of_training():
    """A decoder may have any name; what was cut follows from its keypoints."""
    for row in DATASETS.values():
        for name in (row.name, "another name"):
            found = dataset_row(name, row.keypoint_set)
            assert (found.padding, found.square_boxes) == (row.padding, row.square_boxes), row.name
    assert dataset_row("ochuman", KEYPOINT_SETS["coco"]).name == "ochuman"
    own = KeypointSet("own", ("a", "b"), (), (("a", "b"),), (), (), ((0, 0, 0),) * 2, ((0, 0, 0),))
    assert dataset_row("own", own).padding == 1.25


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.zeros((20, 20), np.uint8), "COLOR_GRAY2RGB"),
        (np.zeros((20, 20, 1), np.uint8), "COLOR_GRAY2RGB"),
        (np.zeros((20, 20, 4), np.uint8), "alpha"),
        (np.zeros((20, 20, 3), np.float32), "multiply an image in 0…1 by 255"),
        (np.zeros((0, 20, 3), np.uint8), "no pixels"),
        ("picture.jpg", "is a str; expected a NumPy array"),
    ],
)
def test_images_that_are_none_are_refused(estimator, image, expected):
    with pytest.raises(ValueError, match=expected):
        estimator(image, [[1, 1, 5, 5]])
    with pytest.raises(ValueError, match=f"(?s)number 1.*{expected}"):
        estimator([picture(0), image], [[[1, 1, 5, 5]]] * 2)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([1, 2, 3, 4], r"a single box is \[\[left"),
        ([[1, 2, 3]], r"expected \[P, 4\]"),
        ([[1, 2, 3, 4], [1, 2, 3]], "no array of numbers"),
        ("boxes", "no array of numbers"),
        ([[1, 1, 5, 5], [1, np.nan, 5, 5]], "box 1 of image.*not finite"),
        ([[1, 1, 5, 0]], "no width or height"),
        ([[160, 1, 5, 5]], "outside the image of 160 x 120"),
        ([[10, -8, 5, 8]], "outside the image"),
    ],
)
def test_boxes_that_are_none_are_refused(estimator, boxes, expected):
    with pytest.raises(ValueError, match=expected):
        estimator(picture(0), boxes)


def test_arguments_that_do_not_fit_are_refused(estimator):
    with pytest.raises(ValueError, match="2 images came with 1 arrays"):
        estimator([picture(0), picture(1)], [[[1, 1, 5, 5]]])
    with pytest.raises(ValueError, match="bbox_scores need to be 1"):
        estimator(picture(0), [[1, 1, 5, 5]], bbox_scores=[0.5, 0.5])
    for wrong in ({"dtype": "float16"}, {"cropping": "gpu"}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            PoseEstimator(random_model(), **wrong)


def test_broken_weights_are_told(estimator):
    broken = random_model()
    broken.variables["params"]["decoders"]["coco"]["final"]["bias"] = np.full(17, np.nan, np.float32)
    with pytest.raises(ValueError, match="not finite; the weights"):
        PoseEstimator(broken, batch_size=1)(picture(0), [[1, 1, 50, 50]])


def test_a_checkpoint_is_loaded_by_its_path(tmp_path, estimator):
    made = random_model()
    checkpoint.save_model(tmp_path / "run", made.variables, made.file)
    loaded = PoseEstimator.load(tmp_path / "run", batch_size=4)
    image, boxes = picture(7), some_boxes(7, 2)
    np.testing.assert_allclose(points_of(loaded(image, boxes)), points_of(estimator(image, boxes)), atol=0.01)


@pytest.mark.slow
def test_both_ways_of_cutting_are_timed(capsys):
    benchmark.main(["cropping", "--size", "s", "--repeats", "1", "--image_size", "60", "80", "--people", "2"])
    line = json.loads(capsys.readouterr().out.splitlines()[0])  # a table follows
    host, device = line["variants"]["host"], line["variants"]["device"]
    assert (host["bytes_per_image"], device["bytes_per_image"]) == (2 * 256 * 192 * 3, 3 * 2**18)
    assert host["crops_per_s"] == pytest.approx(2 * 2 / host["wall"]["median_s"], rel=0.05)
