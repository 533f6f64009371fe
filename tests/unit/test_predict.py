"""What an evaluation counts, told by predicting the mean pose, which needs no run of the model."""

import dataclasses

import pytest

from tests.coco_folder import VAL_JSON, edit, write_coco
from vitpose_jax.data import build, datasets
from vitpose_jax.evaluation.predict import Evaluator
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.training import sharding


@pytest.mark.parametrize("boxes", ["annotations", "detections"])
def test_people_on_images_that_the_builder_left_out_are_no_misses(tmp_path, boxes):
    def enlarge(content):
        for annotation in content["annotations"]:
            annotation["area"] = 1e8  # at this scale any pose in the image is a match

    write_coco(tmp_path / "source", val=4, people=1)  # one person each on the images 1001, 1002 and 1003
    edit(tmp_path / "source" / VAL_JSON, enlarge)
    (tmp_path / "source/val2017/000000000000.jpg").unlink()
    edit(tmp_path / "source" / VAL_JSON, lambda content: content["images"][1].pop("file_name"))
    build.build("coco", tmp_path / "source", tmp_path / "built", skip_broken=True)

    split = datasets.open_split(tmp_path / "built", "val")
    assert split.instances.image_id.tolist() == [1003]
    assert _evaluator(split, boxes=boxes).mean_pose(split).metrics["AR"] == 1


def test_the_data_set_says_how_it_is_scored(tmp_path):
    write_coco(tmp_path / "source", val=2, people=1)
    build.build("coco", tmp_path / "source", tmp_path / "built")
    coco = datasets.open_split(tmp_path / "built", "val")
    hands = dataclasses.replace(coco, dataset=dataclasses.replace(coco.dataset, metric="interhand"))
    assert set(_evaluator(hands).mean_pose(hands).metrics) == {"AUC", "PCK@0.2", "EPE"}
    with pytest.raises(ValueError, match="this data set needs annotated boxes"):
        _evaluator(hands, boxes="detections")


def _evaluator(split, **settings) -> Evaluator:
    model = vitpose(num_keypoints={"coco": 17}, embed_dim=32, depth=1, num_heads=2, mlp_dim=32, image_size=(64, 48))
    return Evaluator(model, split, dataset="coco", mesh=sharding.make_mesh(), **settings)
