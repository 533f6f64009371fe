"""Reduce the recorded evaluation values to what the default tests need: tests/golden/metrics.npz and metrics.json.

    python tests/golden/reduce_metrics.py        # reads $VITPOSE_GOLDEN, default ../shared/golden

metrics.npz: `<set>/keypoints` [P,K,3] (x, y, score), `<set>/box_cxcywh`, `bbox_scores`, `image_ids`, `instance_ids`,
`category_ids`, `sigmas`, the original's kept results `<set>/<variant>/{image_id,score,first_xy}`; `mpii/*` as recorded;
and, of the functions alone, the `nms_*`, `oks_*` and `soft_oks_*` arrays of suppression and the `pck/*` ones of
distances.
metrics.json: for each set its annotations (no images, no segments), and settings and metrics of each variant; for
"mpii" its metrics.
"""

import json
import os
import pathlib
from typing import Any

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
SETS = (
    "coco_sample", "coco_repeated", "ochuman_sample", "ochuman_repeated", "aic_sample", "aic_repeated",
    "crowdpose_sample", "crowdpose_repeated", "wholebody_sample", "wholebody_repeated", "ap10k_sample",
    "ap10k_repeated",
)  # fmt: skip
ANNOTATION_FIELDS = (
    "id", "image_id", "category_id", "keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts",
    "num_keypoints", "bbox", "area", "iscrowd",
)  # fmt: skip
IMAGE_FIELDS = ("id", "crowdIndex")
SUPPRESSION_PREFIXES = ("nms_", "oks_nms_0", "soft_oks_nms_0", "oks_iou_0_rest")
DISTANCE_KEYS = ("pred_argmax", "target_argmax", "mask", "pck_norm", "pck_thr", "pck_avg", "auc", "epe")


def main():
    golden = pathlib.Path(os.environ.get("VITPOSE_GOLDEN", HERE.parents[2] / "shared" / "golden"))
    recorded = json.loads((golden / "6_eval" / "metrics.json").read_text())
    arrays: dict[str, np.ndarray] = {}
    described: dict[str, Any] = {"mpii": recorded["mpii"]}
    for name in SETS:
        content = json.loads((golden / "6_eval" / f"{name}.annotations.json").read_text())
        described[name] = {
            "variants": recorded[name]["variants"],
            "annotations": {
                "images": [_only(IMAGE_FIELDS, image) for image in content["images"]],
                "categories": [_only(("id", "name"), category) for category in content["categories"]],
                "annotations": [_only(ANNOTATION_FIELDS, entry) for entry in content["annotations"]],
            },
        }
        with np.load(golden / "6_eval" / f"{name}.predictions.npz") as file:
            boxes = file["boxes"]  # centre x, y, width and height over 200, area, score
            arrays[f"{name}/keypoints"] = file["preds"]
            arrays[f"{name}/box_cxcywh"] = np.concatenate([boxes[:, :2], 200 * boxes[:, 2:4]], axis=1)
            arrays[f"{name}/bbox_scores"] = boxes[:, 5]
            arrays[f"{name}/image_ids"] = file["image_ids"]
            arrays[f"{name}/instance_ids"] = file["bbox_ids"]
            arrays[f"{name}/category_ids"] = _categories(content, file["image_ids"], file["bbox_ids"])
            arrays[f"{name}/sigmas"] = file["sigmas"]
            for variant in recorded[name]["variants"]:
                for field in ("image_id", "score", "first_xy"):
                    arrays[f"{name}/{variant}/{field}"] = file[f"kept_{variant}_{field}"]
    with np.load(golden / "6_eval" / "mpii.predictions.npz") as file:
        arrays.update({f"mpii/{key}": file[key] for key in file.files})
    with np.load(golden / "5_decode" / "accuracy_and_nms.npz") as file:
        arrays.update(
            {key: file[key] for key in file.files if key.startswith(SUPPRESSION_PREFIXES) and "vis" not in key}
        )
        arrays.update({f"pck/{key}": file[key] for key in DISTANCE_KEYS})
    np.savez_compressed(HERE / "metrics.npz", **arrays)
    (HERE / "metrics.json").write_text(json.dumps(described, separators=(",", ":")) + "\n")


def _only(fields: tuple[str, ...], entry: dict[str, Any]) -> dict[str, Any]:
    return {field: entry[field] for field in fields if field in entry}


def _categories(content: dict[str, Any], image_ids: np.ndarray, instance_ids: np.ndarray) -> np.ndarray:
    """The only category of a set; for AP-10K the species of the one animal in each image."""
    if len(content["categories"]) == 1:
        return np.full(len(image_ids), content["categories"][0]["id"])
    animals = {entry["image_id"]: entry["category_id"] for entry in content["annotations"]}
    assert len(animals) == len(content["annotations"]) and not instance_ids.any(), "several animals in an image"
    return np.array([animals[image_id] for image_id in image_ids.tolist()])


if __name__ == "__main__":
    main()
