"""Instances and detector boxes of COCO against the tables that the original data set class made of the same files."""

import json
import pathlib

import numpy as np
import pytest

from tests import tolerances
from vitpose_jax import geometry, keypoints
from vitpose_jax.data import datasets
from vitpose_jax.data.coco_format import read_coco
from vitpose_jax.data.tables import Images, Instances

GOLDEN = dict(np.load(pathlib.Path(__file__).resolve().parent.parent / "golden" / "coco_records.npz"))
INSTANCES = sorted({tuple(key.split("/")[1:3]) for key in GOLDEN if key.startswith("instances/")})


def assert_boxes_equal(bbox_xywh: np.ndarray, center: np.ndarray, scale: np.ndarray) -> None:
    """`scale` is in units of 200 pixels."""
    boxes = geometry.bbox_to_box_cxcywh(bbox_xywh, aspect_ratio=192 / 256)
    np.testing.assert_array_equal(boxes[..., :2], center)
    np.testing.assert_allclose(boxes[..., 2:], scale * 200, rtol=0, atol=tolerances.WARP_MATRIX)


@pytest.mark.parametrize(("file_name", "person"), INSTANCES)
def test_annotated_instances(tmp_path, file_name, person):
    (tmp_path / "annotations.json").write_text(str(GOLDEN["annotations"]))
    read = read_coco(tmp_path / "annotations.json", keypoints.COCO)
    assert not read.faults
    image = read.images.file_name.tolist().index(file_name)
    (row,) = np.flatnonzero((read.instances.image == image) & (read.instances.bbox_id == int(person)))
    recorded = {key: GOLDEN[f"instances/{file_name}/{person}/{key}"] for key in ("bbox", "center", "scale")}
    np.testing.assert_array_equal(read.instances.bbox_xywh[row], recorded["bbox"])
    assert_boxes_equal(read.instances.bbox_xywh[row], recorded["center"], recorded["scale"])
    joints, visible = (GOLDEN[f"instances/{file_name}/{person}/{key}"] for key in ("joints", "visible"))
    np.testing.assert_array_equal(read.instances.keypoints[row], np.c_[joints[:, :2], visible[:, 0]])


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_detector_boxes(tmp_path, threshold):
    path = tmp_path / "detections.json"
    path.write_text(str(GOLDEN["detections"]))
    image_ids = np.unique([entry["image_id"] for entry in json.loads(path.read_text())])
    split = datasets.Split(
        data_dir=tmp_path,
        name="val",
        dataset=datasets.DATASETS["coco"],
        images=Images(
            image_id=image_ids,
            file_name=np.array([f"{image_id:012d}.jpg" for image_id in image_ids]),
            size=np.full((len(image_ids), 2), 640),
        ),
        instances=Instances(*[np.zeros(0)] * 9),
        skipped_image_ids=np.zeros(0, np.int64),
        annotation_file=path,
        detection_file=path,
        other_files=(),
        _records=None,
    )
    boxes = datasets.detection_boxes(split, score_threshold=threshold)
    recorded = {
        key: GOLDEN[f"detections/{key}_thr{threshold}"] for key in ("center", "scale", "score", "bbox_id", "file")
    }
    assert_boxes_equal(boxes.bbox_xywh, recorded["center"], recorded["scale"])
    np.testing.assert_array_equal(boxes.bbox_score, recorded["score"])
    np.testing.assert_array_equal(boxes.bbox_id, recorded["bbox_id"])
    np.testing.assert_array_equal(split.images.file_name[boxes.image], recorded["file"])
