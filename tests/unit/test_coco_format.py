"""Which entries of an annotation file become instances. What is said of faulty entries: see test_build.py."""

import pytest

from tests.coco_folder import TRAIN_JSON, edit, write_coco
from vitpose_jax import keypoints
from vitpose_jax.data.coco_format import read_coco


@pytest.mark.parametrize(
    ("change", "bbox"),
    [
        ({"bbox": [10, 12, 21, 31]}, [10, 12, 20, 30]),  # both ends belong to the box
        ({"bbox": [-5, -3, 21, 31]}, [0, 0, 20, 30]),  # moved in, not cut
        ({"bbox": [50, 40, 100, 100]}, [50, 40, 13, 7]),  # the image is 64 x 48
        ({"bbox": [10, 12, 1, 31]}, None),
        ({"bbox": [64, 12, 20, 20]}, None),
        ({"area": 0}, None),
        ({"iscrowd": 1}, None),
        ({"num_keypoints": 0}, None),
        ({"keypoints": [0] * 51}, None),
        ({"bbox": ...}, None),  # ...: without
        ({"keypoints": ...}, None),
        ({"area": ..., "num_keypoints": ..., "bbox": [10, 12, 21, 31]}, [10, 12, 20, 30]),
    ],
)
def test_which_instances_are_usable_and_their_boxes(tmp_path, change, bbox):
    def apply(content):
        entry = content["annotations"][0] | change
        content["annotations"][0] = {key: value for key, value in entry.items() if value is not ...}

    write_coco(tmp_path)
    edit(tmp_path / TRAIN_JSON, apply)
    read = read_coco(tmp_path / TRAIN_JSON, keypoints.COCO)
    assert not read.faults
    if bbox is None:
        assert len(read.instances) == 5
        assert read.instances.bbox_id[0] == 0  # counted after unusable ones have gone
    else:
        assert read.instances.bbox_xywh[0].tolist() == bbox
