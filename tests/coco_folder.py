"""A small COCO folder in the official layout, for tests that build data sets."""

import json
import pathlib

import cv2
import numpy as np

from vitpose_jax.data.tables import Instances
from vitpose_jax.evaluation.results import Detections

TRAIN_JSON = "annotations/person_keypoints_train2017.json"
VAL_JSON = "annotations/person_keypoints_val2017.json"
DETECTIONS_JSON = "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"


def write_coco(folder: pathlib.Path, *, train: int = 4, val: int = 3, people: int = 2, seed: int = 0) -> None:
    """Writes a COCO folder of noise images with `people` instances each; the last image of each split has none."""
    rng = np.random.default_rng(seed)
    (folder / "annotations").mkdir(parents=True)
    (folder / "person_detection_results").mkdir()
    for split, count in (("train", train), ("val", val)):
        (folder / f"{split}2017").mkdir()
        content: dict[str, list] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
        for number in range(count):
            height, width = 48 + 8 * number, 64
            image_id, name = 1000 * (split == "val") + number + 1, f"{number:012d}.jpg"
            cv2.imwrite(str(folder / f"{split}2017" / name), rng.integers(0, 256, (height, width, 3), np.uint8))
            content["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
            for person in range(people if number < count - 1 else 0):
                points = rng.integers(0, 48, (17, 3))
                points[:, 2] = rng.integers(0, 3, 17)
                points[0, 2] = 2
                content["annotations"].append(
                    {
                        "id": 100 * image_id + person,
                        "image_id": image_id,
                        "category_id": 1,
                        "iscrowd": 0,
                        "area": 300.5,
                        "num_keypoints": 9,
                        "bbox": [*rng.uniform(0, 20, 2).round(2), *rng.uniform(10, 40, 2).round(2)],
                        "keypoints": points.ravel().tolist(),
                    }
                )
        (folder / f"annotations/person_keypoints_{split}2017.json").write_text(json.dumps(content))
    boxes = [
        {"image_id": image["id"], "category_id": 1, "bbox": [-3.5, 2.0, 30.0, 41.5], "score": score}
        for image in content["images"]
        for score in (0.9, 0.2)
    ]
    boxes.append({**boxes[0], "category_id": 2})
    (folder / DETECTIONS_JSON).write_text(json.dumps(boxes))


def edit(path: pathlib.Path, change) -> None:
    """Changes a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def detections_of(instances: Instances) -> Detections:
    """Annotated instances as if a model had predicted them, every keypoint with a score of 1."""
    keypoints = instances.keypoints.astype(np.float64)
    keypoints[:, :, 2] = 1
    return Detections(keypoints, np.ones(len(instances)), instances.image_id, instances.category_id)
