"""Truncated people: what is left of a picture and of its labels, in training and in evaluation."""

import dataclasses
import json

import numpy as np
import pytest

from tests.coco_folder import write_coco
from vitpose_jax import geometry
from vitpose_jax.data import build, datasets, pipeline
from vitpose_jax.data.augment import Augment
from vitpose_jax.data.truncate import PARTS, is_shown, truncate
from vitpose_jax.evaluation.predict import Evaluator
from vitpose_jax.evaluation.results import Predictions
from vitpose_jax.evaluation.scoring import METRICS
from vitpose_jax.evaluation.truncation import truncated_split
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.training import sharding

PLAIN = {"half_body_prob": 0.0, "scale_factor": 0.0, "rotation_prob": 0.0, "center_jitter_prob": 0.0, "flip_prob": 0.0}
SCORING = {"suppression": "none", "oks_threshold": 0.9, "min_keypoint_score": 0.2}
UNCUT = 2**31


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    folder = tmp_path_factory.mktemp("truncate")
    write_coco(folder / "source", val=4, people=2)
    build.build("coco", folder / "source", folder / "built")
    return datasets.open_split(folder / "built", "val")


@pytest.mark.parametrize(
    ("part", "bbox", "picture"),
    [
        ("upper", [10, 20, 40, 30], [-UNCUT, -UNCUT, UNCUT, 50]),
        ("lower", [10, 50, 40, 30], [-UNCUT, 50, UNCUT, UNCUT]),
        ("left", [10, 20, 20, 60], [-UNCUT, -UNCUT, 30, UNCUT]),
        ("right", [30, 20, 20, 60], [30, -UNCUT, UNCUT, UNCUT]),
        ("random", [10 + 0.5 * 40 * (1 - 0.5**0.5), 20, 40 * 0.5**0.5, 60 * 0.5**0.5], [16, -UNCUT, 44, 62]),
    ],
)
def test_the_picture_ends_where_the_box_is_cut(part, bbox, picture):
    found = truncate(np.array([10, 20, 40, 60]), part, share=0.5, place=(0.5, 0.0))
    np.testing.assert_allclose(found.bbox_xywh, bbox)
    assert found.picture_ltrb.tolist() == picture


def test_the_picture_goes_on_beyond_edges_of_the_box():
    """Whatever the numbers: a part that ends with its box is never cut there by a rounding error."""
    rng = np.random.default_rng(0)
    for box, share in zip(rng.uniform(0, 500, (200, 4)), rng.uniform(0.3, 0.8, 200), strict=True):
        uncut = [truncate(box, part, share=share).picture_ltrb for part in ("lower", "right")]
        assert np.all(np.array(uncut)[:, 2:] == UNCUT)
    assert np.all(np.abs(truncate(box, "random", share=1.0, place=(0.3, 0.6)).picture_ltrb) == UNCUT)


def test_what_no_part_is():
    with pytest.raises(ValueError, match="'middle'"):
        truncate(np.array([0, 0, 9, 9]), "middle", share=0.5)
    with pytest.raises(ValueError, match=r"not 1\.5"):
        truncate(np.array([0, 0, 9, 9]), "upper", share=1.5)


def test_a_crop_is_black_beyond_the_end_of_the_picture():
    """The same as of an image that is black there, turned and mirrored too."""
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (60, 80, 3), dtype=np.uint8)
    for left, top, right, bottom in ((20, -UNCUT, UNCUT, 40), (-UNCUT, 31, 50, UNCUT), (-5, -5, 200, 200)):
        kept = np.zeros_like(image)
        where = np.s_[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
        kept[where] = image[where]
        for matrix in (
            geometry.crop_matrix([35, 30, 60, 80], (64, 48), udp=True, rotation_deg=30.0),
            geometry.compose(geometry.crop_matrix([35, 30, 60, 80], (64, 48), udp=True), geometry.flip_matrix(80)),
        ):
            cut = geometry.cut_crop(image, matrix, (64, 48), np.array([left, top, right, bottom]))
            np.testing.assert_array_equal(cut, geometry.cut_crop(kept, matrix, (64, 48)))
    beside = geometry.cut_crop(image, np.eye(2, 3), (64, 48), np.array([-UNCUT, 500, UNCUT, UNCUT]))
    assert np.all(beside[60:] == 0)  # the picture ends outside the image: one row of it is left


def test_training_cuts_some_crops_and_their_labels(split):
    settings = {"crop_size": (64, 48), "batch_size": 6, "seed": 0, "num_threads": 1}

    def crops(probability: float) -> dict[str, np.ndarray]:
        sources = [pipeline.TrainSource(split, Augment(**PLAIN, truncate=probability))]
        with_batches = pipeline.train_stream(sources, **settings)
        batches = [next(with_batches) for _ in range(4)]
        with_batches.close()
        return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}

    whole, some, all_cut = (crops(probability) for probability in (0.0, 0.5, 1.0))
    labelled = [np.count_nonzero(found["keypoints"][..., 2]) for found in (whole, some, all_cut)]
    assert labelled[0] > labelled[1] > labelled[2] > 0
    changed = [np.any(found["image"] != whole["image"], axis=(1, 2, 3)).mean() for found in (some, all_cut)]
    assert 0.2 < changed[0] < 0.8 and changed[1] == 1
    black = [np.all(found["image"] == 0, axis=-1).mean() for found in (whole, all_cut)]
    assert black[0] < 0.1 and black[1] > 0.2
    # Labels that are left lie on the picture: their pixel, or one beside it, is not black. The images have no black.
    for image, points in zip(all_cut["image"], all_cut["keypoints"], strict=True):
        for x, y, weight in points:
            if weight and 1 <= x < 46 and 1 <= y < 62:
                assert image[int(y) : int(y) + 2, int(x) : int(x) + 2].any()


def test_no_truncation_draws_no_random_numbers():
    class NoRandomness:
        def random(self, size=None):
            raise AssertionError("drew a number")

    assert Augment(truncate=0.0).truncated(np.array([0, 0, 10, 10]), NoRandomness()) is None
    with pytest.raises(ValueError, match=r"augment\.truncate is 1\.5"):
        Augment(truncate=1.5)


def test_training_keeps_30_to_80_percent_of_a_box():
    augment, box = Augment(truncate=0.5), np.array([3.0, 4.0, 50.0, 80.0])
    rng = np.random.default_rng(0)
    parts = [augment.truncated(box, rng) for _ in range(400)]
    shares = np.array([np.prod(part.bbox_xywh[2:]) / 4000 for part in parts if part])
    assert 0.4 < len(shares) / 400 < 0.6
    assert 0.3 <= shares.min() < 0.35 and 0.75 < shares.max() <= 0.8


@pytest.mark.parametrize("part", PARTS)
def test_only_what_is_left_is_scored(split, part):
    """Perfect predictions of the keypoints that are left are perfect, wherever those that are cut off are put."""
    with truncated_split(split, part) as (truncated, pictures):
        given, left = split.instances.keypoints, truncated.instances.keypoints
        shown = is_shown(given[..., :2], pictures)
        assert 0 < np.count_nonzero(left[..., 2]) < np.count_nonzero(given[..., 2])
        np.testing.assert_array_equal(left[..., 2] > 0, (given[..., 2] > 0) & shown)
        written = {one["id"]: one for one in json.loads(truncated.annotation_file.read_text())["annotations"]}
        for row, number in enumerate(truncated.instances.annotation_id.tolist()):
            labels = np.array(written[number]["keypoints"]).reshape(17, 3)
            np.testing.assert_array_equal(labels[:, 2] > 0, left[row, :, 2] > 0)
            assert written[number]["num_keypoints"] <= np.count_nonzero(labels[:, 2])

        def ap(points: np.ndarray) -> float:
            instances = truncated.instances
            predictions = Predictions(
                keypoints=points, scores=np.ones(points.shape[:2], np.float32), bbox_scores=np.ones(len(instances)),
                box_cxcywh=truncated.dataset.regions(instances.bbox_xywh, aspect_ratio=0.75),
                image_ids=instances.image_id, instance_ids=instances.bbox_id, category_ids=instances.category_id,
            )  # fmt: skip
            return METRICS["coco"](predictions, truncated, **SCORING).metrics["AP"]

        points = given[..., :2].astype(np.float32)
        assert ap(np.where(shown[..., None], points, -500)) == 1
        assert ap(np.where(shown[..., None], points + 500, points)) == 0
        place = truncated.annotation_file
    assert not place.exists()


def test_crops_of_an_evaluation_are_cut(split):
    with truncated_split(split, "upper") as (truncated, pictures):
        settings = {"crop_size": (64, 48), "udp": True, "batch_size": 6}
        cut, uncut = (
            next(pipeline.eval_stream(truncated.instances, split, **settings, pictures_ltrb=some))
            for some in (pictures, None)
        )
    for row, instance in enumerate(cut["instance"]):
        pixels = np.stack(np.meshgrid(np.arange(48), np.arange(64)), -1)
        beyond = geometry.transform(cut["crop_to_image"][row], pixels)[..., 1] >= pictures[instance, 3]
        assert beyond.any() and not cut["image"][row][beyond].any()
        assert uncut["image"][row][beyond].any()


def test_parts_are_of_annotated_boxes_and_scored_by_ap(split):
    model = vitpose(num_keypoints={"coco": 17}, embed_dim=32, depth=1, num_heads=2, mlp_dim=32, image_size=(64, 48))
    detected = Evaluator(model, split, dataset="coco", mesh=sharding.make_mesh(), boxes="detections")
    with pytest.raises(ValueError, match=r"config\.eval\.boxes=annotations"):
        detected.truncated({}, "upper")
    hands = dataclasses.replace(split, dataset=dataclasses.replace(split.dataset, metric="interhand"))
    annotated = Evaluator(model, hands, dataset="coco", mesh=sharding.make_mesh(), boxes="annotations")
    with pytest.raises(ValueError, match="scored by AUC"):
        annotated.truncated({}, "upper")
