"""Makes coco_records.npz from the full set of recorded values: `python -m tests.golden.reduce_coco_records`.

An annotation file and a file of detector boxes, and what the original data set class made of them.
"""

import json
import os
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
FULL = pathlib.Path(os.environ.get("VITPOSE_GOLDEN", HERE.parent.parent.parent / "shared" / "golden"))


def collect(golden: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads what the test of the COCO tables compares with."""
    values = {
        "annotations": np.array((golden / "6_eval/coco_sample.annotations.json").read_text()),
        "detections": np.array((golden / "6_eval/coco_detections.json").read_text()),
    }
    boxes = np.load(golden / "6_eval/coco_detection_db.npz")
    values |= {f"detections/{key}": boxes[key] for key in boxes.files}

    samples = np.load(golden / "4_transforms/samples.npz")
    index = json.loads((golden / "4_transforms/index.json").read_text())["samples"]
    for number, sample in enumerate(index):
        if sample["dataset"] == "coco" and sample["image_size"] == [192, 256]:
            name = f"instances/{pathlib.Path(sample['image']).name}/{sample['person']}"
            for key in ("bbox", "center", "scale", "joints", "visible"):
                values[f"{name}/{key}"] = samples[f"s{number:02d}/{key}"]
    return values


if __name__ == "__main__":
    np.savez_compressed(HERE / "coco_records.npz", **collect(FULL))
