"""Rules of a set of one's own: what of published labels would be refused; half-body views of small sets."""

import json

import numpy as np

from vitpose_jax.data import custom
from vitpose_jax.data.augment import Augment
from vitpose_jax.keypoints import KEYPOINT_SETS, keypoint_set


def test_mixed_up_coordinates_of_published_labels_are_found(samples_dir, tmp_path):
    """Real people pass, but for one whose box is wrong; the same ones in another order or with other boxes do not."""

    def swap(entry):
        points = np.array(entry["keypoints"]).reshape(-1, 3)[:, [1, 0, 2]]
        return {"keypoints": points.ravel().tolist()}

    def centre(entry):
        x, y, w, h = entry["bbox"]
        return {"bbox": [x + w / 2, y + h / 2, w, h]}

    def corners(entry):
        x, y, w, h = entry["bbox"]
        return {"bbox": [x, y, x + w, y + h]}

    content = json.loads((samples_dir / "coco_eval_only/person_keypoints_val2017.json").read_text())
    content["annotations"] = [entry for entry in content["annotations"] if any(entry["keypoints"])]
    reader = custom.custom_dataset(KEYPOINT_SETS["coco"]).read
    counts = {}
    for name, change in (("right", lambda _: {}), ("swapped", swap), ("centre", centre), ("corners", corners)):
        entries = [{**entry, **change(entry)} for entry in content["annotations"]]
        (tmp_path / f"{name}.json").write_text(json.dumps({**content, "annotations": entries}))
        counts[name] = len(reader(tmp_path / f"{name}.json", KEYPOINT_SETS["coco"]).faults) / len(entries)
    assert counts["right"] < 0.002
    assert min(counts[name] for name in ("swapped", "centre", "corners")) > 0.5, counts


def test_small_sets_have_half_body_views():
    """More than half of the keypoints, as with COCO's 17, and never more than COCO's 8."""
    for count, enough in ((1, 0), (4, 2), (8, 4), (17, 8), (133, 8)):
        names = [f"p{index}" for index in range(count)]
        made = keypoint_set("x", {"names": names, "swap": [], "skeleton": [], "upper_body": names[: count // 2 + 1]})
        augment = Augment(**{**custom.custom_dataset(made).augment_defaults, "half_body_prob": 1.0})
        assert augment.half_body_min_keypoints == enough
        points = np.array([[10.0 * index, 5.0 * index, 1.0] for index in range(count)], np.float32)
        view = augment.sample(
            [50, 50, 300, 300], points, image_width=400, aspect_ratio=1.0, keypoint_set=made,
            rng=np.random.default_rng(0),
        )  # fmt: skip
        unchanged = Augment(half_body_prob=0.0).sample(
            [50, 50, 300, 300], points, image_width=400, aspect_ratio=1.0, keypoint_set=made,
            rng=np.random.default_rng(0),
        )  # fmt: skip
        assert (view.box_cxcywh[:2] == unchanged.box_cxcywh[:2]).all() == (count == 1)
