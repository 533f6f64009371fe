"""What each data set's metric must hold for, told by small made-up people, and how it refuses what it cannot score."""

import json
import types

import numpy as np
import pytest
import scipy.io

from vitpose_jax.data.catalog import DATASETS
from vitpose_jax.data.tables import Instances
from vitpose_jax.evaluation import baseline, pck
from vitpose_jax.evaluation.coco_variants import WHOLEBODY_FIELDS
from vitpose_jax.evaluation.results import Predictions
from vitpose_jax.evaluation.scoring import HEADLINE, METRICS, MPII_FILE, check_boxes, check_files
from vitpose_jax.keypoints import KEYPOINT_SETS

SETTINGS = {"suppression": "oks", "oks_threshold": 0.9, "min_keypoint_score": 0.2}
KEYPOINTS_OF = {"coco_box_area": "aic"}  # where a metric's keypoint set is not called like it
BEST = {kind: 1.0 for kind in METRICS} | {"mpii": 100.0, "interhand": 0.95}  # no distance is below the curve's first, 0
PEOPLE = 4


class _Split(types.SimpleNamespace):
    """The part of a split that scoring looks at."""

    def __repr__(self):
        return "Split(made up)"


def _split(tmp_path, kind, people=PEOPLE, seed=0):
    """A split of `people` instances, two on each image, all keypoints labelled; animals are of a species each."""
    keypoint_set = KEYPOINT_SETS[KEYPOINTS_OF.get(kind, kind)]
    rng, rows = np.random.default_rng(seed), np.arange(people)
    boxes = np.concatenate([rng.uniform(0, 500, (people, 2)), rng.uniform(100, 200, (people, 2))], axis=1)
    fractions = rng.random((len(keypoint_set), 2))  # everybody holds the same pose in their box
    points = boxes[:, None, :2] + fractions * boxes[:, None, 2:]
    instances = Instances(
        image=(rows // 2).astype(np.int32),
        image_id=rows // 2 + 1,
        annotation_id=rows,
        category_id=1 + rows if kind == "ap10k" else np.ones(people, np.int64),
        bbox_id=rows,
        bbox_xywh=boxes,
        bbox_score=np.ones(people),
        area=boxes[:, 2] * boxes[:, 3] / 2,
        keypoints=np.concatenate([points, np.ones((*points.shape[:2], 1))], axis=2).astype(np.float32),
    )
    split = _Split(
        keypoint_set=keypoint_set,
        annotation_file=tmp_path / "annotations.json",
        other_files=(tmp_path / MPII_FILE,),
        skipped_image_ids=np.zeros(0, np.int64),
        instances=instances,
    )
    split.annotation_file.write_text(json.dumps(_annotations(split, points)))
    if kind == "mpii":
        _write_mpii(tmp_path / MPII_FILE, points)
    return split


def _annotations(split, points):
    """The split's annotation file, with every field that any of the formats has."""
    fields = WHOLEBODY_FIELDS if len(split.keypoint_set) == 133 else {"keypoints": slice(None)}
    weighted = np.concatenate([points, np.full((*points.shape[:2], 1), 2)], axis=2)
    image_ids, categories = split.instances.image_id.tolist(), split.instances.category_id.tolist()
    return {
        "images": [{"id": image_id, "crowdIndex": 0.1} for image_id in sorted(set(image_ids))],
        "categories": [{"id": category} for category in sorted(set(categories))],
        "annotations": [
            {
                "id": row,
                "image_id": image_ids[row],
                "category_id": categories[row],
                "bbox": split.instances.bbox_xywh[row].tolist(),
                "area": float(split.instances.area[row]),
                "num_keypoints": len(split.keypoint_set),
                **{field: person[place].ravel().tolist() for field, place in fields.items()},
            }
            for row, person in enumerate(weighted)
        ],
    }


def _edit(split, change):
    """Changes the split's annotation file."""
    content = json.loads(split.annotation_file.read_text())
    change(content)
    split.annotation_file.write_text(json.dumps(content))


def _write_mpii(path, points, names=pck.MPII_NAMES, missing=()):
    """MPII's evaluation file for people whose heads are 60 px: 0.6 of a head box with a diagonal of 100 px."""
    people = len(points)
    joints = np.empty((1, len(names)), object)
    joints[0] = [np.array([name]) for name in names]
    is_missing = np.zeros((16, people), np.uint8)
    is_missing[[pck.MPII_NAMES.index(name) for name in missing]] = 1
    head_boxes = np.zeros((2, 2, people))
    head_boxes[1] = [[60.0], [80.0]]
    tables = {"pos_gt_src": points.transpose(1, 2, 0) + 1, "jnt_missing": is_missing, "headboxes_src": head_boxes}
    scipy.io.savemat(path, {"dataset_joints": joints, **tables})


def _predictions(split, points=None, **fields):
    """The annotated keypoints themselves, or others."""
    instances = split.instances
    people, keypoints = instances.keypoints.shape[:2]
    defaults = {
        "keypoints": instances.keypoints[:, :, :2] if points is None else points,
        "scores": np.ones((people, keypoints), np.float32),
        "box_cxcywh": np.concatenate(
            [instances.bbox_xywh[:, :2] + instances.bbox_xywh[:, 2:] / 2, instances.bbox_xywh[:, 2:]], axis=1
        ),
        "bbox_scores": np.ones(people),
        "image_ids": instances.image_id,
        "instance_ids": instances.bbox_id,
        "category_ids": split.instances.category_id,
    }
    return Predictions(**(defaults | fields))


def test_every_metric_has_a_headline():
    assert HEADLINE.keys() == METRICS.keys()


@pytest.mark.parametrize("kind", METRICS)
def test_exact_keypoints_score_best_and_the_headline_comes_first(tmp_path, kind):
    split = _split(tmp_path, kind)
    evaluation = METRICS[kind](_predictions(split), split, **SETTINGS)
    assert next(iter(evaluation.metrics)) == HEADLINE[kind]
    assert evaluation.metrics[HEADLINE[kind]] == pytest.approx(BEST[kind])
    assert len(evaluation.results) == PEOPLE
    assert json.loads(json.dumps(evaluation.results)) == evaluation.results


@pytest.mark.parametrize("kind", METRICS)
def test_worse_keypoints_score_lower(tmp_path, kind):
    split = _split(tmp_path, kind)
    off = split.instances.keypoints[:, :, :2] + 25
    assert METRICS[kind](_predictions(split, off), split, **SETTINGS).metrics[HEADLINE[kind]] < 0.9 * BEST[kind]


@pytest.mark.parametrize("kind", METRICS)
def test_the_mean_pose_can_be_scored(tmp_path, kind):
    """Here it is everybody's pose, so it is right everywhere."""
    split = _split(tmp_path, kind)
    pose = baseline.mean_pose(split.instances.keypoints, split.instances.bbox_xywh)
    identity = {key: value for key, value in vars(_predictions(split)).items() if key not in ("keypoints", "scores")}
    predictions = baseline.predict_mean_pose(pose, split.instances.bbox_xywh, **identity)
    assert METRICS[kind](predictions, split, **SETTINGS).metrics[HEADLINE[kind]] == pytest.approx(BEST[kind])


@pytest.mark.parametrize("kind", ["mpii", "interhand"])
def test_paired_metrics_go_by_the_instances_ids_not_by_order(tmp_path, kind):
    split = _split(tmp_path, kind)
    order = np.array([2, 0, 3, 1, 0])  # with a repeated one, whose second keypoints are wrong
    points = split.instances.keypoints[order, :, :2].copy()
    points[-1] += 1000
    columns = {key: value[order] for key, value in vars(_predictions(split)).items()}
    evaluation = METRICS[kind](Predictions(**(columns | {"keypoints": points})), split, **SETTINGS)
    assert evaluation.metrics[HEADLINE[kind]] == pytest.approx(BEST[kind])
    assert [result["instance_id"] for result in evaluation.results] == [0, 1, 2, 3]
    np.testing.assert_array_equal(evaluation.results[1]["keypoints"][:2], split.instances.keypoints[1, 0, :2])
    missing_one = Predictions(**{key: value[:3] for key, value in columns.items()})
    with pytest.raises(ValueError, match="predictions for 3 instances"):
        METRICS[kind](missing_one, split, **SETTINGS)


def test_species_weigh_the_same_whatever_their_number(tmp_path):
    split = _split(tmp_path, "ap10k")
    species = np.array([1, 1, 1, 2])  # the animal of species 2 is missed

    def regroup(content):
        for annotation, category in zip(content["annotations"], species.tolist(), strict=True):
            annotation["category_id"] = category

    _edit(split, regroup)
    points = split.instances.keypoints[:, :, :2].copy()
    points[3] += 1000
    metrics = METRICS["ap10k"](_predictions(split, points, category_ids=species), split, **SETTINGS).metrics
    assert metrics["AR"] == pytest.approx(0.5)


def test_scale_comes_from_the_area_or_from_the_box(tmp_path):
    """An area as small as here forgives nothing; the box's does."""
    split = _split(tmp_path, "coco_box_area")

    def shrink(content):
        for annotation in content["annotations"]:
            annotation["area"] = 1.0

    _edit(split, shrink)
    predictions = _predictions(split, split.instances.keypoints[:, :, :2] + 1)
    assert METRICS["coco_box_area"](predictions, split, **SETTINGS).metrics["AR"] > 0.5
    assert METRICS["coco"](predictions, split, **SETTINGS).metrics["AR"] == 0


@pytest.mark.parametrize(
    ("index", "name"),
    [(0.0, "AP (E)"), (0.19, "AP (E)"), (0.2, "AP (M)"), (0.79, "AP (M)"), (0.8, "AP (H)"), (1.0, "AP (H)")],
)
def test_crowded_images_are_scored_apart(tmp_path, index, name):
    split = _split(tmp_path, "crowdpose")
    _edit(split, lambda content: content["images"][1].update(crowdIndex=index))
    points = split.instances.keypoints[:, :, :2].copy()
    points[2:] += 1000  # everybody on the second image is missed
    metrics = METRICS["crowdpose"](_predictions(split, points), split, **SETTINGS).metrics
    easy = 0.5 if name == "AP (E)" else 1
    expected = {"AP (E)": easy, "AP (M)": -1, "AP (H)": -1} | ({} if name == "AP (E)" else {name: 0})
    assert {key: metrics[key] for key in expected} == pytest.approx(expected, abs=0.01)


def test_crowdpose_ignores_people_by_the_files_own_count(tmp_path):
    """The second image's people have labelled keypoints, but the file says that none is visible."""
    split = _split(tmp_path, "crowdpose")
    points = split.instances.keypoints[:, :, :2].copy()
    points[2:] += 1000
    predictions = _predictions(split, points)

    def hide(content):
        for annotation in content["annotations"][2:]:
            annotation["num_keypoints"] = 0

    assert METRICS["crowdpose"](predictions, split, **SETTINGS).metrics["AR"] == pytest.approx(0.5)
    _edit(split, hide)
    assert METRICS["crowdpose"](predictions, split, **SETTINGS).metrics["AR"] == 1


@pytest.mark.parametrize("table,field", [("images", "crowdIndex"), ("annotations", "num_keypoints")])
def test_crowdpose_without_its_own_fields_is_refused(tmp_path, table, field):
    split = _split(tmp_path, "crowdpose")
    _edit(split, lambda content: content[table][0].pop(field))
    with pytest.raises(ValueError, match=f"1 entries have no {field}; expected CrowdPose's own"):
        METRICS["crowdpose"](_predictions(split), split, **SETTINGS)


def test_parts_of_the_body_are_scored_apart(tmp_path):
    """Left hands are wrong; right hands are not labelled, so nothing can be said of them."""
    split = _split(tmp_path, "wholebody")

    def unlabel(content):
        for annotation in content["annotations"]:
            annotation["righthand_kpts"][2::3] = [0] * 21

    _edit(split, unlabel)
    points = split.instances.keypoints[:, :, :2].copy()
    points[:, WHOLEBODY_FIELDS["lefthand_kpts"]] += 300
    evaluation = METRICS["wholebody"](_predictions(split, points), split, **SETTINGS)
    found = {part: evaluation.metrics[f"AR {part}"] for part in ("body", "foot", "face", "left hand", "right hand")}
    assert found == {"body": 1, "foot": 1, "face": 1, "left hand": 0, "right hand": -1}
    assert 0 < evaluation.metrics["AR"] < 1
    result = evaluation.results[0]
    assert {field: len(result[field]) // 3 for field in WHOLEBODY_FIELDS} == {
        "keypoints": 17, "foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["mpii", "interhand", "ap10k"])
def test_metrics_that_pair_refuse_detected_boxes(kind):
    check_boxes(kind, "annotations")
    check_boxes("coco", "detections")
    with pytest.raises(ValueError, match=r"config\.eval\.boxes=annotations"):
        check_boxes(kind, "detections")


def test_a_missing_mpii_file_is_noticed_before_anything_is_predicted(tmp_path):
    split = _split(tmp_path, "mpii")
    split.dataset = DATASETS["mpii"]
    check_files(split)
    split.other_files = ()
    with pytest.raises(ValueError, match=f"was built without {MPII_FILE}"):
        check_files(split)


def test_pckh_counts_from_pixel_one_and_includes_the_threshold(tmp_path):
    points = np.random.default_rng(1).integers(0, 99, (3, 16, 2)).astype(float)
    _write_mpii(tmp_path / MPII_FILE, points)
    truth = pck.read_mpii_ground_truth(tmp_path / MPII_FILE)
    np.testing.assert_allclose(truth.head_sizes, 60)
    assert pck.pckh_metrics(points + np.array([6, 0]), truth)["PCKh@0.1"] == 100
    assert pck.pckh_metrics(points + np.array([6.01, 0]), truth)["PCKh@0.1"] == 0
    assert pck.pckh_metrics(points + np.array([0, 30]), truth)["PCKh"] == 100
    assert pck.pckh_metrics(points + np.array([0, 30.01]), truth)["PCKh"] == 0


def test_pckh_leaves_pelvis_and_thorax_out_of_the_mean_only(tmp_path):
    points = np.zeros((2, 16, 2))
    wrong = points.copy()
    wrong[:, [pck.MPII_NAMES.index(name) for name in ("pelv", "thor")]] = 500
    _write_mpii(tmp_path / MPII_FILE, points, missing=("head", "lank"))
    truth = pck.read_mpii_ground_truth(tmp_path / MPII_FILE)
    metrics = pck.pckh_metrics(wrong, truth)
    assert metrics["PCKh"] == pytest.approx(100)
    assert metrics["Head"] == -1  # labelled in nobody
    wrong[:, pck.MPII_NAMES.index("rank")] = 500  # the left one is labelled in nobody
    metrics = pck.pckh_metrics(wrong, truth)
    assert metrics["Ankle"] == 0
    assert metrics["PCKh"] == pytest.approx(100 * 11 / 12)


def test_mpii_people_that_the_builder_left_out_do_not_count(tmp_path):
    split = _split(tmp_path, "mpii")
    split.instances = split.instances.take(np.array([1, 3]))
    assert METRICS["mpii"](_predictions(split), split, **SETTINGS).metrics["PCKh"] == pytest.approx(100)


def test_unfit_mpii_files_are_refused(tmp_path):
    split = _split(tmp_path, "mpii")
    points = split.instances.keypoints[:, :, :2].astype(float)
    _write_mpii(tmp_path / MPII_FILE, points[:2])
    with pytest.raises(ValueError, match=r"has 2 people, .* more; it belongs to mpii_val.json"):
        METRICS["mpii"](_predictions(split), split, **SETTINGS)
    _write_mpii(tmp_path / MPII_FILE, points, names=pck.MPII_NAMES[::-1])
    with pytest.raises(ValueError, match="has the keypoints"):
        METRICS["mpii"](_predictions(split), split, **SETTINGS)
    scipy.io.savemat(tmp_path / MPII_FILE, {"pos_gt_src": points})
    with pytest.raises(ValueError, match="has no table 'dataset_joints'"):
        METRICS["mpii"](_predictions(split), split, **SETTINGS)
    (tmp_path / MPII_FILE).write_bytes(b"<html>not found</html>" * 20)
    with pytest.raises(ValueError, match="cannot be read as a MATLAB file"):
        METRICS["mpii"](_predictions(split), split, **SETTINGS)
    (tmp_path / MPII_FILE).unlink()
    with pytest.raises(ValueError, match=r"there is no .*mpii_gt_val\.mat"):
        METRICS["mpii"](_predictions(split), split, **SETTINGS)
    split.other_files = ()
    with pytest.raises(ValueError, match=r"built without mpii_gt_val\.mat"):
        METRICS["mpii"](_predictions(split), split, **SETTINGS)


def test_hands_are_measured_by_the_larger_side_of_the_box_and_in_pixels():
    truth = np.zeros((2, 21, 3))
    truth[:, :, 2] = 1
    truth[1, 5:, 2] = 0
    boxes = np.array([[0, 0, 50.0, 20.0]] * 2)
    points = np.zeros((2, 21, 2))
    points[0, :, 0] = 9.9
    points[1] = 1e5  # wrong where labelled: 5 of 21 keypoints
    metrics = pck.hand_metrics(points, truth, boxes)
    assert metrics["PCK@0.2"] == pytest.approx((5 * 0.5 + 16) / 21)
    points[0, :, 0] = 10.1
    assert pck.hand_metrics(points, truth, boxes)["PCK@0.2"] == 0
    truth[1, :, 2] = 0
    assert pck.hand_metrics(points, truth, boxes)["EPE"] == pytest.approx(10.1)
    assert pck.hand_metrics(points, truth, boxes)["AUC"] == pytest.approx(13 / 20)  # 10.5 px is the first step above
    truth[0, :, 2] = 0
    assert set(pck.hand_metrics(points, truth, boxes).values()) == {-1}
