"""Properties of the evaluation: what rescoring, suppression and COCO metrics must hold for, and how they refuse."""

import io
import json

import numpy as np
import pytest
import rich.console

from vitpose_jax import keypoints
from vitpose_jax.evaluation.baseline import mean_pose, predict_mean_pose
from vitpose_jax.evaluation.coco import COCO_METRICS, NOTHING_TO_MEASURE, coco_metrics
from vitpose_jax.evaluation.results import (
    SUPPRESSIONS,
    Detections,
    Predictions,
    coco_results,
    detect,
    rescore,
    write_results,
)
from vitpose_jax.evaluation.suppression import oks_matrix, oks_nms, soft_oks_nms
from vitpose_jax.evaluation.table import print_metrics

SIGMAS = keypoints.COCO.sigmas
K = len(SIGMAS)


def _predictions(points, **fields) -> Predictions:
    """Predictions in which only the given fields differ from one image of confident people in 100 px boxes."""
    people = len(points)
    defaults = {
        "scores": np.ones((people, K)),
        "box_cxcywh": np.tile([50.0, 50.0, 100.0, 100.0], (people, 1)),
        "bbox_scores": np.ones(people),
        "image_ids": np.ones(people, np.int64),
        "instance_ids": np.arange(people),
        "category_ids": np.ones(people, np.int64),
    }
    return Predictions(keypoints=np.asarray(points), **(defaults | fields))


def _nobody(num_keypoints: int = K) -> Detections:
    nothing = np.zeros(0, np.int64)
    return Detections(np.zeros((0, num_keypoints, 3)), np.zeros(0), nothing, nothing)


def _person(rng, people: int = 1) -> np.ndarray:
    return rng.uniform(0, 100, (people, K, 2))


def _annotations(points, *, image_ids=None, first_id: int = 1, **fields) -> dict:
    """An annotation file without `info` and `licenses` that labels every keypoint of `points` [P, K, 2]."""
    image_ids = [1] * len(points) if image_ids is None else list(map(int, image_ids))
    return {
        "images": [{"id": image_id} for image_id in sorted({1, *image_ids})],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {
                "id": first_id + row,
                "image_id": image_ids[row],
                "category_id": 1,
                "keypoints": np.concatenate([person, np.full((K, 1), 2)], axis=1).ravel().tolist(),
                "num_keypoints": K,
                "bbox": [0, 0, 100, 100],
                "area": 5000.0,
                "iscrowd": 0,
            }
            | fields
            for row, person in enumerate(points)
        ],
    }


@pytest.fixture
def annotation_file(tmp_path):
    def write(content):
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps(content))
        return path

    return write


def test_rescore_averages_keypoints_above_the_threshold_only():
    scores = np.array([[0.2, 0.4, 0.8], [0.1, 0.2, 0.0], [0.5, 0.5, 0.5]])
    rescored = rescore(scores, np.array([0.5, 1.0, 1.0]), min_keypoint_score=0.2)
    np.testing.assert_allclose(rescored, [0.5 * 0.6, 0.0, 0.5])


def test_oks_is_one_for_itself_symmetric_and_falls_with_distance():
    rng = np.random.default_rng(0)
    person = _person(rng)[0]
    people = np.stack([person, person + 2, person + 4])
    oks = oks_matrix(people, np.full(3, 5000.0), SIGMAS)
    np.testing.assert_allclose(np.diag(oks), 1)
    np.testing.assert_allclose(oks, oks.T)
    assert oks[0, 1] > oks[0, 2] > 0


def test_oks_of_a_known_distance():
    person = np.zeros((1, K, 2))
    moved = person + np.array([3.0, 4.0])  # every keypoint by 5 px
    oks = oks_matrix(np.concatenate([person, moved]), np.array([400.0, 600.0]), SIGMAS)
    expected = np.mean([np.exp(-(5**2) / (2 * (2 * sigma) ** 2 * 500)) for sigma in SIGMAS])
    assert oks[0, 1] == pytest.approx(expected, rel=1e-12)


def test_nms_keeps_the_better_of_two_equal_people_and_all_distinct_ones():
    rng = np.random.default_rng(1)
    first, second = _person(rng, 2)
    people = np.stack([first, second, first + 0.1])
    kept = oks_nms(people, np.array([0.5, 0.6, 0.9]), np.full(3, 1e4), SIGMAS)
    np.testing.assert_array_equal(kept, [2, 1])
    soft = soft_oks_nms(people, np.array([0.8, 0.6, 0.9]), np.full(3, 1e4), SIGMAS)
    np.testing.assert_array_equal(soft, [2, 1, 0])  # the near-copy moves to the end


def test_a_suppressed_person_suppresses_nobody():
    person = np.zeros((K, 2))
    step = np.array([10.0, 0.0])  # neighbours are too close to each other, the outer two are not
    people = np.stack([person, person + step, person + 2 * step])
    areas = np.full(3, 5e4)
    oks = oks_matrix(people, areas, SIGMAS)
    threshold = (oks[0, 1] + oks[0, 2]) / 2
    kept = oks_nms(people, np.array([0.9, 0.8, 0.7]), areas, SIGMAS, threshold=threshold)
    np.testing.assert_array_equal(kept, [0, 2])


def test_a_repeated_instance_counts_once_and_the_first_row_wins():
    rng = np.random.default_rng(2)
    people = _person(rng, 4)
    predictions = _predictions(people, image_ids=np.array([7, 3, 7, 7]), instance_ids=np.array([5, 5, 1, 5]))
    results = coco_results(detect(predictions, sigmas=SIGMAS, suppression="none"))
    assert [result["image_id"] for result in results] == [7, 7, 3]  # images as they first appear
    firsts = [result["keypoints"][:2] for result in results]
    np.testing.assert_array_equal(firsts, people[[2, 0, 1], 0])  # by id within an image; row 3 repeats row 0


@pytest.mark.parametrize("suppression", SUPPRESSIONS)
def test_no_predictions_give_no_results(suppression):
    nobody = detect(_predictions(np.zeros((0, K, 2))), sigmas=SIGMAS, suppression=suppression)
    assert coco_results(nobody) == []
    assert nobody.keypoints.shape == (0, K, 3)


def test_no_results_score_zero(annotation_file):
    path = annotation_file(_annotations(_person(np.random.default_rng(3))))
    values = coco_metrics(path, _nobody(), sigmas=SIGMAS)
    assert values["AP"] == values["AR"] == 0
    assert values["AP (L)"] == NOTHING_TO_MEASURE  # the one person is of medium size


def test_people_on_images_that_were_left_out_are_no_misses(annotation_file):
    people = _person(np.random.default_rng(13), 3)
    path = annotation_file(_annotations(people, image_ids=[1, 1, 2]))
    found = detect(_predictions(people[:2]), sigmas=SIGMAS)  # both of image 1, nobody of image 2
    assert coco_metrics(path, found, sigmas=SIGMAS)["AR"] == pytest.approx(2 / 3)
    assert coco_metrics(path, found, sigmas=SIGMAS, left_out_image_ids=[2])["AR"] == 1
    assert coco_metrics(path, found, sigmas=SIGMAS, left_out_image_ids=[1])["AR"] == 0
    assert coco_metrics(path, found, sigmas=SIGMAS, left_out_image_ids=[1, 2])["AR"] == NOTHING_TO_MEASURE


@pytest.mark.parametrize("first_id", [0, 1])
def test_exact_keypoints_score_one(annotation_file, capsys, first_id):
    """Also where annotation ids start from 0, and without printing anything."""
    people = _person(np.random.default_rng(4), 3)
    image_ids = np.array([1, 2, 2])
    path = annotation_file(_annotations(people, image_ids=image_ids, first_id=first_id))
    results = detect(_predictions(people, image_ids=image_ids), sigmas=SIGMAS)
    values = coco_metrics(path, results, sigmas=SIGMAS)
    assert list(values) == list(COCO_METRICS)
    assert values["AP"] == pytest.approx(1)
    assert values["AR"] == 1
    assert capsys.readouterr().out == ""


def test_detections_without_a_positive_keypoint_score_do_not_count(annotation_file):
    people = _person(np.random.default_rng(6))
    results = detect(_predictions(people, scores=np.zeros((1, K))), sigmas=SIGMAS)
    assert len(results) == 1
    assert coco_metrics(annotation_file(_annotations(people)), results, sigmas=SIGMAS)["AR"] == 0


def test_only_the_best_twenty_of_an_image_count(annotation_file):
    rng = np.random.default_rng(7)
    people = _person(rng, 21)
    path = annotation_file(_annotations(people[:1]))
    score = np.linspace(0.5, 0.9, 21)
    last = detect(_predictions(people, bbox_scores=score), sigmas=SIGMAS, suppression="none")
    first = detect(_predictions(people, bbox_scores=score[::-1]), sigmas=SIGMAS, suppression="none")
    assert coco_metrics(path, last, sigmas=SIGMAS)["AR"] == 0
    assert coco_metrics(path, first, sigmas=SIGMAS)["AR"] == 1


def test_scale_can_come_from_the_box(annotation_file):
    people = _person(np.random.default_rng(8))
    off = detect(_predictions(people + 3), sigmas=SIGMAS)
    tiny_area = annotation_file(_annotations(people, area=100.0))
    by_area, by_box = (coco_metrics(tiny_area, off, sigmas=SIGMAS, use_area=use_area) for use_area in (True, False))
    assert by_area["AR"] < by_box["AR"]


def test_unknown_images_and_categories_are_named(annotation_file):
    people = _person(np.random.default_rng(9))
    path = annotation_file(_annotations(people))
    elsewhere = detect(_predictions(people, image_ids=np.array([424242])), sigmas=SIGMAS)
    with pytest.raises(ValueError, match=r"image_ids .* \[424242\].*split"):
        coco_metrics(path, elsewhere, sigmas=SIGMAS)
    zebra = detect(_predictions(people, category_ids=np.array([17])), sigmas=SIGMAS)
    with pytest.raises(ValueError, match=r"category_ids .* \[17\]"):
        coco_metrics(path, zebra, sigmas=SIGMAS)


def test_unfit_annotation_files_are_refused(annotation_file):
    content = _annotations(_person(np.random.default_rng(10)))
    with pytest.raises(ValueError, match="17 keypoints, expected 14"):
        coco_metrics(annotation_file(content), _nobody(14), sigmas=SIGMAS[:14])
    del content["annotations"][0]["keypoints"]
    with pytest.raises(ValueError, match="no keypoints; expected keypoint annotations"):
        coco_metrics(annotation_file(content), _nobody(), sigmas=SIGMAS)
    del content["categories"]
    with pytest.raises(ValueError, match="no categories in it"):
        coco_metrics(annotation_file(content), _nobody(), sigmas=SIGMAS)


def test_broken_predictions_are_refused():
    with pytest.raises(ValueError, match="1 values of keypoints are not finite"):
        points = np.zeros((2, K, 2))
        points[1, 3, 0] = np.nan
        _predictions(points)
    with pytest.raises(ValueError, match=r"bbox_scores has shape \(3,\), expected \(2,\)"):
        _predictions(np.zeros((2, K, 2)), bbox_scores=np.ones(3))
    with pytest.raises(ValueError, match="suppression 'hard': expected one of oks, soft_oks, none"):
        detect(_predictions(np.zeros((1, K, 2))), sigmas=SIGMAS, suppression="hard")
    with pytest.raises(ValueError, match="17 keypoints, but 3 sigmas"):
        detect(_predictions(np.zeros((1, K, 2))), sigmas=SIGMAS[:3])


def test_results_file_round_trip(tmp_path):
    people = _person(np.random.default_rng(11), 2).astype(np.float32)
    results = coco_results(detect(_predictions(people), sigmas=SIGMAS))
    write_results(tmp_path / "results.json", results)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_mean_pose_ignores_unlabelled_keypoints_and_fits_any_box():
    fractions = np.random.default_rng(12).random((K, 2))
    boxes = np.array([[10.0, 20.0, 100.0, 200.0], [-5.0, 3.0, 40.0, 30.0]])
    people = np.zeros((2, K, 3))
    people[:, :, :2] = boxes[:, None, :2] + fractions * boxes[:, None, 2:]
    people[:, :, 2] = 1
    people[0, 4] = (1e6, 1e6, 0)
    people[:, 5] = (1e6, 1e6, 0)
    pose = mean_pose(people, boxes)
    fractions[5] = 0.5  # labelled in no instance
    np.testing.assert_allclose(pose, fractions)
    rest = {"box_cxcywh": boxes, "bbox_scores": np.ones(2), "image_ids": np.ones(2), "category_ids": np.ones(2)}
    predictions = predict_mean_pose(pose, boxes, instance_ids=np.arange(2), **rest)
    placed = np.concatenate([predictions.keypoints, predictions.scores[:, :, None]], axis=2)
    np.testing.assert_allclose(mean_pose(placed, boxes), pose, atol=1e-6)


def test_printed_table_shows_values_beside_published_ones():
    out = io.StringIO()
    measured = {"coco": {"AP": 0.7579, "AP (M)": -1.0}, "mpii": {"PCKh": 93.1}}
    footnote = "coco: how [these] were measured, in a sentence that is longer than the table is wide, and yet one line"
    console = rich.console.Console(file=out, width=80)
    print_metrics(measured, {"coco": {"AP": 0.758}}, footnotes=[footnote], console=console)
    assert footnote in out.getvalue().splitlines()
    words = [line.split() for line in out.getvalue().splitlines()]
    assert ["coco", "AP", "0.758", "0.758", "-0.000"] in words
    assert ["AP", "(M)", "–"] in words
    assert ["mpii", "PCKh", "93.100"] in words
