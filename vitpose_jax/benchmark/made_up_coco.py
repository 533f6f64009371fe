"""An evaluation set as large as COCO val2017's, made up: annotations, and what a model could have predicted."""

from typing import Any

import numpy as np

from vitpose_jax import keypoints
from vitpose_jax.evaluation.results import Predictions

SIGMAS = keypoints.COCO.sigmas
_PEOPLE_PER_IMAGE = 2.2  # COCO val2017: 11,004 annotated people on 5,000 images
_IMAGE_SIZE = 640.0


def made_up(people: int, boxes: int, rng: np.random.Generator) -> tuple[dict[str, Any], Predictions]:
    """An annotation file's content, and a model's predictions for a detector's boxes on the same images.

    As in COCO, some images hold a crowd, four of ten people have no labelled keypoint, and most boxes are unsure.
    """
    images = max(1, round(people / _PEOPLE_PER_IMAGE))
    crowding = rng.gamma(0.7, size=images)
    image_ids = 1 + rng.choice(images, people, p=crowding / crowding.sum())
    size = np.exp(rng.uniform(np.log(20), np.log(400), people))  # side of a person's box, pixels
    corner = rng.uniform(0, _IMAGE_SIZE - size[:, None], (people, 2))
    points = corner[:, None] + rng.random((people, len(SIGMAS), 2)) * size[:, None, None]
    visibility = rng.choice(3, (people, len(SIGMAS)), p=[0.35, 0.1, 0.55]) * (rng.random((people, 1)) < 0.6)
    outline = corner[:, None] + rng.random((people, 20, 2)) * size[:, None, None]
    annotations = []
    for row in range(people):
        flat = np.concatenate([points[row].round(), visibility[row][:, None]], axis=1).astype(int).ravel().tolist()
        side = round(float(size[row]), 2)
        annotations.append(
            {
                "id": row + 1, "image_id": int(image_ids[row]), "category_id": 1, "iscrowd": 0,
                "bbox": [*corner[row].round(2).tolist(), side, side], "area": round(0.6 * side**2, 2),
                "segmentation": [outline[row].round(2).ravel().tolist()],
                "keypoints": flat, "num_keypoints": int(np.count_nonzero(visibility[row])),
            }
        )  # fmt: skip
    content = {
        "images": [{"id": number, "file_name": f"{number:012d}.jpg"} for number in range(1, images + 1)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": annotations,
    }
    return content, _made_up_predictions(boxes, rng, points=points, corner=corner, size=size, image_ids=image_ids)


def _made_up_predictions(
    boxes: int,
    rng: np.random.Generator,
    *,
    points: np.ndarray,
    corner: np.ndarray,
    size: np.ndarray,
    image_ids: np.ndarray,
) -> Predictions:
    """One good box for every person, then weak ones: half of them once more on a person, half of them wrong."""
    people = len(points)
    person = np.concatenate([np.arange(people), rng.integers(0, people, boxes - people)])
    is_first = np.arange(boxes) < people
    is_wrong = ~is_first & (rng.random(boxes) < 0.5)
    error = np.where(is_wrong, rng.uniform(0.3, 3, boxes), rng.choice([0.005, 0.03, 0.1], boxes)) * size[person]
    predicted = points[person] + error[:, None, None] * rng.standard_normal((boxes, len(SIGMAS), 2))
    side = size[person, None]
    order = rng.permutation(boxes)
    return Predictions(
        keypoints=predicted.astype(np.float32)[order],
        scores=rng.uniform(0, 1, (boxes, len(SIGMAS))).astype(np.float32),
        box_cxcywh=np.concatenate([corner[person] + side / 2, 1.25 * side, 1.25 * side], axis=1)[order],
        bbox_scores=np.where(is_first, rng.beta(4, 1, boxes), rng.beta(0.4, 2, boxes))[order],
        image_ids=image_ids[person][order],
        instance_ids=np.arange(boxes),
        category_ids=np.ones(boxes, np.int64),
    )
