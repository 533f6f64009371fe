"""Unfair evaluations are named."""

from vitpose_jax.evaluation.leaks import leaks


def test_crowdpose_leaks_into_the_images_of_coco_val():
    assert "CrowdPose" in leaks(["coco", "crowdpose"], "coco", "val")[0]
    assert leaks(["crowdpose"], "wholebody", "val")
    assert not leaks(["coco", "crowdpose"], "coco", "train")
    assert not leaks(["coco", "aic"], "coco", "val")
    assert not leaks(["crowdpose"], "crowdpose", "test")
