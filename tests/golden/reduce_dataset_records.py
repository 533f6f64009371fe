"""Makes dataset_records.npz from the full set of recorded values: `python -m tests.golden.reduce_dataset_records`.

For each data set but COCO (see reduce_coco_records): its sample annotation file, and what the original data set class
made of people in it. Of InterHand2.6M nothing was recorded, but its files hold boxes of their own to compare with.
"""

import json
import os
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
FULL = pathlib.Path(os.environ.get("VITPOSE_GOLDEN", HERE.parent.parent.parent / "shared" / "golden"))
SAMPLES = pathlib.Path(os.environ.get("VITPOSE_SAMPLES", HERE.parent.parent.parent / "shared" / "samples"))

ANNOTATIONS = {
    "aic": "aic/annotations/aic_val.json",
    "mpii": "mpii/annotations/mpii_val.json",
    "crowdpose": "crowdpose/annotations/mmpose_crowdpose_test.json",
    "ochuman": "ochuman/annotations/ochuman_coco_format_test_range_0.00_1.00.json",
    "ap10k": "ap10k/annotations/ap10k-test-split1.json",
    "wholebody": "coco_wholebody/annotations/coco_wholebody_val_v1.0.json",
}


def collect(golden: pathlib.Path, samples: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads what the test of the tables compares with."""
    values = {}
    for dataset, file in ANNOTATIONS.items():
        content = json.loads((samples / file).read_text())
        if isinstance(content, dict):
            content = {key: content[key] for key in ("images", "annotations")}
            for annotation in content["annotations"]:
                annotation.pop("segmentation", None)
        values[f"annotations/{dataset}"] = np.array(json.dumps(content))

    for ending in ("data", "camera", "joint_3d"):
        file = samples / f"interhand2.6m/annotations/all/InterHand2.6M_test_{ending}.json"
        values[f"interhand/{ending}"] = np.array(file.read_text())

    index = json.loads((golden / "4_transforms/index.json").read_text())
    for file, cases, prefix, keys in (
        ("samples", index["samples"], "s{:02d}", ("bbox", "center", "scale", "joints", "visible")),
        ("half_body", index["half_body"], "{}", ("joints", "visible")),  # of whole body, nothing else was recorded
    ):
        recorded = np.load(golden / f"4_transforms/{file}.npz")
        for number, case in enumerate(cases):
            if case["dataset"] not in ANNOTATIONS or (file == "half_body" and case["dataset"] != "wholebody"):
                continue
            name = f"instances/{case['dataset']}/{pathlib.Path(case['image']).name}/{case['person']}"
            for key in keys:
                stored = f"{prefix.format(number)}/{key}"
                if stored in recorded.files:
                    values[f"{name}/{key}"] = recorded[stored]
    return values


if __name__ == "__main__":
    np.savez_compressed(HERE / "dataset_records.npz", **collect(FULL, SAMPLES))
