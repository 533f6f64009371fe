"""The rows of the data sets, and the readers of their formats on small made-up files."""

import json

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs.common import dataset, get_config
from configs.tasks import pose_sources
from tests.coco_folder import TRAIN_JSON, VAL_JSON, edit, write_coco
from vitpose_jax.data import build as builder
from vitpose_jax.data import datasets
from vitpose_jax.data.augment import Augment
from vitpose_jax.data.catalog import DATASETS
from vitpose_jax.data.coco_format import read_wholebody
from vitpose_jax.data.interhand_format import read_interhand
from vitpose_jax.data.mpii_format import read_mpii
from vitpose_jax.data.pipeline import TrainSource, eval_stream, train_stream
from vitpose_jax.keypoints import KEYPOINT_SETS
from vitpose_jax.models.vitpose import vitpose

WHOLEBODY_PARTS = {"foot_kpts": 6, "face_kpts": 68, "lefthand_kpts": 21, "righthand_kpts": 21}


def write_image(path, size=(60, 80)):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def run(name, source, out, *arguments) -> int:
    return builder.main([name, "--source", str(source), "--out", str(out), *arguments])


def test_conventions_of_the_published_training():
    assert {name for name, row in DATASETS.items() if row.udp} == {"coco", "mpii"}
    assert {name: row.padding for name, row in DATASETS.items() if row.padding != 1.25} == {"interhand": 1.5}
    assert [name for name, row in DATASETS.items() if row.square_boxes] == ["mpii"]
    assert {name: row.metric for name, row in DATASETS.items()} == {
        "coco": "coco", "ochuman": "coco", "aic": "coco_box_area", "crowdpose": "crowdpose", "wholebody": "wholebody",
        "ap10k": "ap10k", "apt36k": "ap10k", "mpii": "mpii", "interhand": "interhand",
    }  # fmt: skip
    assert [len(DATASETS[name].keypoint_set) for name in ("wholebody", "aic", "mpii", "interhand")] == [133, 14, 16, 21]
    augments = {name: Augment(**row.augment_defaults) for name, row in DATASETS.items()}
    assert augments["coco"] == augments["ap10k"] == Augment()
    assert augments["crowdpose"].half_body_min_keypoints == 6
    assert (augments["mpii"].half_body_prob, augments["mpii"].center_jitter_prob) == (0, 0)
    hands = augments["interhand"]
    assert (hands.half_body_prob, hands.rotation_factor_deg, hands.scale_factor) == (0, 90, 0.3)


def test_regions_keep_the_shape_of_mpiis_squares_only():
    bbox = [[10.0, 20.0, 40.0, 40.0]]
    np.testing.assert_allclose(DATASETS["mpii"].regions(bbox, aspect_ratio=0.75), [[30, 40, 50, 50]])
    np.testing.assert_allclose(DATASETS["coco"].regions(bbox, aspect_ratio=0.75), [[30, 40, 50, 40 / 0.75 * 1.25]])


def person(image="a.jpg", **changes):
    return {"image": image, "center": [101.0, 51.0], "scale": 0.5, "joints": [[11.0, 21.0]] * 16,
            "joints_vis": [1] * 15 + [0]} | changes  # fmt: skip


def test_mpii_counts_from_one_and_moves_the_centre_down(tmp_path):
    write_json(
        tmp_path / "mpii.json",
        [person("a.jpg"), person("b.jpg", center=[-1.0, -1.0]), person("a.jpg", scale=0), person("a.jpg")],
    )
    read = read_mpii(tmp_path / "mpii.json", KEYPOINT_SETS["mpii"])
    assert len(read.faults) == 1 and "scale" in read.faults[0] and "number 2" in read.faults[0]
    assert read.images.file_name.tolist() == ["a.jpg", "b.jpg"]
    assert read.instances.image.tolist() == [0, 0, 1]
    assert read.instances.annotation_id.tolist() == read.instances.bbox_id.tolist() == [0, 3, 1]
    # The centre is (101 - 1, 51 + 15 * 0.5 - 1), the side 200 * 0.5.
    np.testing.assert_allclose(read.instances.bbox_xywh[0], [50, 7.5, 100, 100])
    np.testing.assert_allclose(read.instances.bbox_xywh[2], [-42, -42, 80, 80])  # without a centre: 1.25 times is 100
    assert read.instances.keypoints[0].tolist() == [[10, 20, 1]] * 15 + [[10, 20, 0]]


def test_mpii_is_built_with_the_sizes_of_its_files_and_the_file_for_its_metric(tmp_path, capsys):
    source = tmp_path / "source"
    for name, size in (("a.jpg", (60, 80)), ("b.jpg", (90, 70))):
        write_image(source / "images" / name, size)
    write_json(source / "annotations/mpii_val.json", [person("a.jpg"), person("b.jpg"), person("a.jpg")])
    assert run("mpii", source, tmp_path / "without") == 0
    assert "cannot be evaluated" in capsys.readouterr().out
    (source / "annotations/mpii_gt_val.mat").write_bytes(b"matlab")
    assert run("mpii", source, tmp_path / "with") == 0
    assert "cannot be evaluated" not in capsys.readouterr().out
    split = datasets.open_split(tmp_path / "with", "val")
    assert split.images.size.tolist() == [[60, 80], [90, 70]]
    assert [file.read_bytes() for file in split.other_files] == [b"matlab"]
    assert datasets.open_split(tmp_path / "without", "val").other_files == ()
    assert split.annotation_file.read_bytes() == (source / "annotations/mpii_val.json").read_bytes()

    batch = next(eval_stream(split.instances, split, crop_size=(64, 48), udp=True, batch_size=4))
    scale = batch["crop_to_image"][0][[0, 1], [0, 1]] * [47, 63]
    np.testing.assert_allclose(scale, [125, 125], rtol=1e-5)  # a square, stretched to the crop
    stream = train_stream([TrainSource(split, Augment())], crop_size=(64, 48), batch_size=2, seed=0)
    assert next(stream)["keypoints"].shape == (2, 16, 3)
    stream.close()


def test_training_follows_the_row_where_the_config_says_nothing(tmp_path):
    source = tmp_path / "source"
    write_image(source / "images/a.jpg")
    write_json(source / "annotations/mpii_train.json", [person("a.jpg")])
    assert run("mpii", source, tmp_path / "out") == 0
    config = get_config()
    with config.unlocked():
        config.datasets = ConfigDict({"mpii": dataset(str(tmp_path / "out"))})
        config.model.num_keypoints = ConfigDict({"mpii": 16})
    config.augment.update(rotation_factor_deg=15)
    config.model.size = "s"
    expected = Augment(half_body_prob=0, center_jitter_prob=0, rotation_factor_deg=15)
    assert pose_sources(config, vitpose(**config.model.to_dict()))["mpii"].augment == expected
    config.augment.half_body_prob = 0.2
    assert pose_sources(config, vitpose(**config.model.to_dict()))["mpii"].augment.half_body_prob == 0.2


def test_wholebody_joins_its_parts(tmp_path):
    def extend(content):
        for number, annotation in enumerate(content["annotations"]):
            for part, count in WHOLEBODY_PARTS.items():
                annotation[part] = [float(number), 2.0, 0.5] * count
        content["annotations"][0].update(num_keypoints=0)  # is not looked at
        content["annotations"][1].update(keypoints=[0] * 51)  # nothing of the body
        content["annotations"][2].pop("lefthand_kpts")
        content["annotations"][3].update(foot_kpts=[1, 1, -1] * 6)
        content["annotations"][4].update(face_kpts=[1, 1, 0] * 68)

    write_coco(tmp_path)
    edit(tmp_path / TRAIN_JSON, extend)
    read = read_wholebody(tmp_path / TRAIN_JSON, KEYPOINT_SETS["wholebody"])
    assert [fault.partition(":")[2].split()[:3] for fault in read.faults] == [
        ["it", "has", "no"], ["visibilities", "in", "its"],
    ]  # fmt: skip
    assert "lefthand_kpts" in read.faults[0] and "foot_kpts" in read.faults[1]
    assert read.instances.annotation_id.tolist() == [100, 300, 301]
    assert read.instances.keypoints.shape == (3, 133, 3)
    assert read.instances.keypoints[0, 17:].tolist() == [[0, 2, 1]] * 116  # a fraction of visibility is enough
    assert read.instances.keypoints[1, 23:91, 2].tolist() == [0] * 68
    assert read.for_evaluation is not None and len(read.for_evaluation["annotations"]) == 4


@pytest.mark.parametrize("name", ["ap10k", "apt36k"])
def test_animals_keep_their_species(tmp_path, name):
    source = tmp_path / "source"
    write_coco(source)
    edit(source / VAL_JSON, lambda content: content["annotations"][1].update(category_id=26))
    edit(source / VAL_JSON, lambda content: [e.update(file_name=f"clip/{e['file_name']}") for e in content["images"]])
    files = DATASETS[name].splits["val"]
    (source / VAL_JSON).rename(source / files.annotations)
    (source / files.images).mkdir(exist_ok=True)
    (source / "val2017").rename(source / files.images / "clip")
    assert run(name, source, tmp_path / "out") == 0
    split = datasets.open_split(tmp_path / "out", "val")
    assert split.instances.category_id.tolist() == [1, 26, 1, 1]
    assert len(split.images) == 3  # also the one without animals
    assert split.dataset.name == name and split.keypoint_set is KEYPOINT_SETS["ap10k"]


class TestInterHand:
    """A camera at (0, 0, -100) that looks along z; a keypoint at depth 0 and (x, y) appears at (x + 40, 2 y + 30)."""

    def folder(self, tmp_path, world, valid, **changes):
        stem = tmp_path / "annotations/all/InterHand2.6M_test"
        camera = {"campos": {"c": [0, 0, -100]}, "camrot": {"c": np.eye(3).tolist()}, "focal": {"c": [100, 200]},
                  "princpt": {"c": [40, 30]}}  # fmt: skip
        image = {"id": 7, "file_name": "a.jpg", "height": 60, "width": 80, "capture": 0, "camera": "c", "frame_idx": 5}
        content = {
            "images": [image | changes],
            "annotations": [{"id": 70 + n, "image_id": 7, "joint_valid": v.reshape(-1, 1).tolist()} for n, v in
                            enumerate((valid, np.ones(42)))],
        }  # fmt: skip
        joints = {"0": {"5": {"world_coord": np.c_[world, np.zeros(42)].tolist()}}}
        for ending, part in (("data", content), ("camera", {"0": camera}), ("joint_3d", joints)):
            write_json(stem.with_name(f"{stem.name}_{ending}.json"), part)
        write_image(tmp_path / "images/test/a.jpg")
        return stem.with_name(f"{stem.name}_data.json")

    def read(self, *args, **changes):
        return read_interhand(self.folder(*args, **changes), KEYPOINT_SETS["interhand"])

    def world(self):
        return np.random.default_rng(0).uniform(-10, 10, (42, 2)).astype(np.float32)

    def test_valid_hands_are_projected(self, tmp_path):
        world, valid = self.world(), np.ones(42)
        valid[21:30] = 0  # 12 of the left hand stay: enough
        read = self.read(tmp_path, world, valid)
        assert not read.faults
        assert read.instances.annotation_id.tolist() == [70, 70]  # the image's first annotation counts
        expected = world * [1, 2] + [40, 30]
        np.testing.assert_allclose(read.instances.keypoints[..., :2].reshape(42, 2), expected, atol=1e-4)
        np.testing.assert_array_equal(read.instances.keypoints[..., 2].ravel(), valid)
        low, high = expected[30:].min(axis=0), expected[30:].max(axis=0)  # of the valid ones
        np.testing.assert_allclose(read.instances.bbox_xywh[1], [*low, *(high - low)], atol=1e-4)

    def test_which_hands_count(self, tmp_path):
        valid = np.ones(42)
        valid[:10] = 0  # 11 of the right hand: too few
        valid[41] = 0  # the left wrist
        assert len(self.read(tmp_path, self.world(), valid).instances) == 0

    def test_boxes_begin_and_end_at_the_border_of_the_image(self, tmp_path):
        world = self.world()
        world[:21, 0] -= 100  # right hand: all left of the image, so its box ends where the image begins
        read = self.read(tmp_path, world, np.ones(42))
        x, _, width, _ = read.instances.bbox_xywh[0]
        assert x + width == pytest.approx(0, abs=1e-4)

    def test_the_file_is_built_and_images_without_hands_are_left_out(self, tmp_path):
        path = self.folder(tmp_path, self.world(), np.ones(42))
        edit(path, lambda content: content["images"].append({**content["images"][0], "id": 8}))
        edit(path, lambda c: c["annotations"].append({"id": 9, "image_id": 8, "joint_valid": [[0]] * 42}))
        assert run("interhand", tmp_path, tmp_path / "out", "--splits", "test") == 0
        split = datasets.open_split(tmp_path / "out", "test")
        assert (len(split.images), len(split)) == (1, 2)
        path.with_name("InterHand2.6M_test_camera.json").unlink()
        assert (
            run("interhand", tmp_path, tmp_path / "out2", "--splits", "test") == 1
        )  # said by name, not by a traceback

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"camera": "d"}, "no sound camera d of capture 0"),
            ({"frame_idx": 6}, "no frame 6 of capture 0"),
            ({"id": 8}, "it has no annotation"),
            ({"file_name": ""}, "file_name"),
        ],
    )
    def test_faulty_images_are_named(self, tmp_path, changes, words):
        read = self.read(tmp_path, self.world(), np.ones(42), **changes)
        assert len(read.faults) == 1 and words in read.faults[0] and f"image {changes.get('id', 7)}" in read.faults[0]
        assert len(read.instances) == len(read.images) == 0
        assert read.faulty_image_ids == [changes.get("id", 7)]


@pytest.mark.parametrize(
    ("name", "folder", "split", "images", "instances", "boxes"),
    [
        ("wholebody", "coco_wholebody", "val", 4, 12, 118), ("aic", "aic", "val", 3, 9, 0),
        ("mpii", "mpii", "val", 5, 5, 0), ("crowdpose", "crowdpose", "test", 2, 4, 6),
        ("ochuman", "ochuman", "test", 3, 5, 0), ("ap10k", "ap10k", "test", 2, 2, 0),
        ("interhand", "interhand2.6m", "test", 4, 6, 0),
    ],
)  # fmt: skip
def test_photographs(samples_dir, tmp_path, name, folder, split, images, instances, boxes):
    assert run(name, samples_dir / folder, tmp_path / "out") == 0
    opened = datasets.open_split(tmp_path / "out", split)
    assert (len(opened.images), len(opened)) == (images, instances)
    for row in range(images):
        assert opened.pixels(row).shape == (*opened.images.size[row], 3)
    if boxes:
        assert len(datasets.detection_boxes(opened)) == boxes
    inside = opened.instances.keypoints[opened.instances.keypoints[..., 2] > 0][:, :2]
    assert (inside >= -2).all()
    stream = eval_stream(opened.instances, opened, crop_size=(64, 48), udp=opened.dataset.udp, batch_size=instances)
    assert next(stream)["valid"].all()
