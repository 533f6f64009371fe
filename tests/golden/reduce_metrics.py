"""Reduce the recorded evaluation values to what the default tests need: tests/golden/metrics.npz and metrics.json.

    python tests/golden/reduce_metrics.py        # reads $VITPOSE_GOLDEN, default ../shared/golden

metrics.npz: `<set>/keypoints` [P,K,3] (x, y, score), `<set>/box_cxcywh`, `bbox_scores`, `image_ids`, `instance_ids`,
`sigmas`, the original's kept results `<set>/<variant>/{image_id,score,first_xy}`, and the `nms_*`, `oks_*` and
`soft_oks_*` arrays of the suppression functions alone.
metrics.json: for each set its annotations (no images, no segments), and settings and metrics of each variant.
"""

import json
import os
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
SETS = ("coco_sample", "coco_repeated", "aic_repeated")  # AIC: 14 keypoints, scale from the box
ANNOTATION_FIELDS = ("id", "image_id", "category_id", "keypoints", "num_keypoints", "bbox", "area", "iscrowd")
SUPPRESSION_PREFIXES = ("nms_", "oks_nms_0", "soft_oks_nms_0", "oks_iou_0_rest")


def main():
    golden = pathlib.Path(os.environ.get("VITPOSE_GOLDEN", HERE.parents[2] / "shared" / "golden"))
    recorded = json.loads((golden / "6_eval" / "metrics.json").read_text())
    arrays, described = {}, {}
    for name in SETS:
        content = json.loads((golden / "6_eval" / f"{name}.annotations.json").read_text())
        described[name] = {
            "variants": recorded[name]["variants"],
            "annotations": {
                "images": [{"id": image["id"]} for image in content["images"]],
                "categories": [{"id": category["id"], "name": category["name"]} for category in content["categories"]],
                "annotations": [
                    {field: entry[field] for field in ANNOTATION_FIELDS if field in entry}
                    for entry in content["annotations"]
                ],
            },
        }
        with np.load(golden / "6_eval" / f"{name}.predictions.npz") as file:
            boxes = file["boxes"]  # centre x, y, width and height over 200, area, score
            arrays[f"{name}/keypoints"] = file["preds"]
            arrays[f"{name}/box_cxcywh"] = np.concatenate([boxes[:, :2], 200 * boxes[:, 2:4]], axis=1)
            arrays[f"{name}/bbox_scores"] = boxes[:, 5]
            arrays[f"{name}/image_ids"] = file["image_ids"]
            arrays[f"{name}/instance_ids"] = file["bbox_ids"]
            arrays[f"{name}/sigmas"] = file["sigmas"]
            for variant in recorded[name]["variants"]:
                for field in ("image_id", "score", "first_xy"):
                    arrays[f"{name}/{variant}/{field}"] = file[f"kept_{variant}_{field}"]
    with np.load(golden / "5_decode" / "accuracy_and_nms.npz") as file:
        arrays.update(
            {key: file[key] for key in file.files if key.startswith(SUPPRESSION_PREFIXES) and "vis" not in key}
        )
    np.savez_compressed(HERE / "metrics.npz", **arrays)
    (HERE / "metrics.json").write_text(json.dumps(described, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
