"""Instances of the other data sets against the records that the original data set classes made of the same files."""

import json
import pathlib

import numpy as np
import pytest

from tests import tolerances
from vitpose_jax.data.catalog import DATASETS

GOLDEN = dict(np.load(pathlib.Path(__file__).resolve().parent.parent / "golden" / "dataset_records.npz"))
INSTANCES = sorted({tuple(key.split("/")[1:4]) for key in GOLDEN if key.startswith("instances/")})


def test_every_recorded_data_set_is_compared():
    assert {dataset for dataset, _, _ in INSTANCES} == {"aic", "ap10k", "crowdpose", "mpii", "ochuman", "wholebody"}


@pytest.mark.parametrize(("dataset", "file_name", "person"), INSTANCES)
def test_annotated_instances(tmp_path, dataset, file_name, person):
    row = DATASETS[dataset]
    (tmp_path / "annotations.json").write_text(str(GOLDEN[f"annotations/{dataset}"]))
    read = row.read(tmp_path / "annotations.json", row.keypoint_set)
    assert not read.faults
    recorded = {
        key.rpartition("/")[2]: value
        for key, value in GOLDEN.items()
        if key.startswith(f"instances/{dataset}/{file_name}/{person}/")
    }
    image = read.images.file_name.tolist().index(file_name)
    instance = np.flatnonzero(read.instances.image == image)[int(person)]

    weights = recorded["visible"][:, 0]
    np.testing.assert_array_equal(
        read.instances.keypoints[instance], np.c_[recorded["joints"][:, :2], weights].astype(np.float32)
    )
    bbox = read.instances.bbox_xywh[instance]
    if "bbox" in recorded:
        np.testing.assert_array_equal(bbox, recorded["bbox"])
    if "center" in recorded:
        region = row.regions(bbox, aspect_ratio=192 / 256)
        np.testing.assert_array_equal(region[:2], recorded["center"])
        np.testing.assert_allclose(region[2:], recorded["scale"] * 200, rtol=0, atol=tolerances.WARP_MATRIX)


@pytest.mark.parametrize("variant", ["sample", "repeated"])
@pytest.mark.parametrize("dataset", ["coco", "wholebody", "aic", "crowdpose", "ochuman", "ap10k"])
def test_as_many_instances_as_in_the_original_data_base(golden_dir, dataset, variant):
    expected = json.loads((golden_dir / "6_eval/metrics.json").read_text())[f"{dataset}_{variant}"]["persons_in_db"]
    row = DATASETS[dataset]
    read = row.read(golden_dir / f"6_eval/{dataset}_{variant}.annotations.json", row.keypoint_set)
    assert len(read.instances) == expected
    assert not read.faults


def test_projected_hands_fill_the_boxes_of_interhand(tmp_path):
    """InterHand2.6M's own boxes are 1.2 times the tight one around the valid keypoints of both hands."""
    for ending in ("data", "camera", "joint_3d"):
        (tmp_path / f"InterHand2.6M_test_{ending}.json").write_text(str(GOLDEN[f"interhand/{ending}"]))
    row = DATASETS["interhand"]
    read = row.read(tmp_path / "InterHand2.6M_test_data.json", row.keypoint_set)
    assert not read.faults
    assert read.instances.image.tolist() == [0, 0, 1, 1, 2, 3]
    assert read.instances.bbox_id.tolist() == list(range(6))
    for annotation in json.loads(str(GOLDEN["interhand/data"]))["annotations"]:
        hands = read.instances.image_id == annotation["image_id"]
        low = read.instances.bbox_xywh[hands, :2].min(axis=0)
        high = (read.instances.bbox_xywh[hands, :2] + read.instances.bbox_xywh[hands, 2:]).max(axis=0)
        bbox = np.array(annotation["bbox"])
        np.testing.assert_allclose((high - low) * 1.2, bbox[2:], rtol=0, atol=1e-3)
        np.testing.assert_allclose((high + low) / 2, bbox[:2] + bbox[2:] / 2, rtol=0, atol=1e-3)
