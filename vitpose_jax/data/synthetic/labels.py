"""Labels read from a part map, in COCO's form, and boxes such as a person detector might find.

How keypoints are labelled, following the habits of COCO's annotators:

* ``v=2``: a body part that carries the keypoint is the topmost thing at its place. A trunk seen in profile does not
  count for its far shoulder and hip.
* ``v=1``: inside the image, but behind the person's own body, another person or clutter.
* ``v=0`` (and x = y = 0): outside the image, or an eye, ear or nose that the head itself hides for good (its surface
  points away from the viewer: the face of a person seen from behind, the far ear in profile).
"""

import cv2
import numpy as np

from vitpose_jax.data.synthetic.body import FACE, Body
from vitpose_jax.data.synthetic.parts import PARTS, carriers
from vitpose_jax.data.synthetic.person import Person
from vitpose_jax.keypoints import COCO

CATEGORY = {
    "supercategory": "person", "id": 1, "name": "person", "keypoints": COCO.names,
    "skeleton": (COCO.skeleton_index + 1).tolist(),  # counted from 1
}  # fmt: skip


def annotate(part_map: np.ndarray, person: Person) -> dict | None:
    """One person's COCO annotation, without ids, as the part map [height, width] shows it; None if nothing is seen."""
    first = person.part_id(PARTS[0])
    silhouette = cv2.inRange(part_map, first, first + len(PARTS) - 1)
    left, top, wide, tall = cv2.boundingRect(silhouette)
    if wide == 0:
        return None
    keypoints = _label_keypoints(part_map, person)
    contours, _ = cv2.findContours(silhouette, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    outlines = [cv2.approxPolyDP(contour, 1.0, True).ravel().tolist() for contour in contours]
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": [float(left), float(top), float(wide), float(tall)],
        "area": float(cv2.countNonZero(silhouette)),
        "num_keypoints": sum(flag > 0 for flag in keypoints[2::3]),
        "keypoints": keypoints,
        "segmentation": [outline for outline in outlines if len(outline) >= 6],
    }


def _label_keypoints(part_map: np.ndarray, person: Person) -> list[float]:
    """(x, y, v) of all keypoints in a row, 51 numbers."""
    height, width = part_map.shape
    body, sight = person.body, person.body.sight()
    points = person.view.points_img(np.array([body.points[name] for name in COCO.names])).round(2)
    labels: list[float] = []
    for name, (x, y) in zip(COCO.names, points.tolist(), strict=True):
        column, row = round(x), round(y)
        if not (0 <= column < width and 0 <= row < height):
            labels += [0, 0, 0]
            continue
        around = part_map[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        showing = {person.part_id(part) for part in _showing_parts(name, body)}
        seen = not showing.isdisjoint(around.ravel().tolist())
        if not seen and name in FACE and float(FACE[name] @ sight) < -0.2:
            labels += [0, 0, 0]
        else:
            labels += [min(max(x, 0), width - 1), min(max(y, 0), height - 1), 2 if seen else 1]
    return labels


def _showing_parts(keypoint: str, body: Body) -> tuple[str, ...]:
    """The parts that show a keypoint where they are seen: its carriers, without the far side of a trunk in profile."""
    parts = carriers(keypoint)
    if keypoint.endswith(("shoulder", "hip")):
        axes = body.pelvis if keypoint.endswith("hip") else body.chest
        towards_viewer = float(axes[2, 0]) * (1 if keypoint.startswith("left") else -1)
        if towards_viewer < -0.75:
            return parts[:1]  # the limb alone
    return parts


def detect(rng: np.random.Generator, image_id: int, size: tuple[int, int], annotations: list[dict]) -> list[dict]:
    """What a good person detector might say: shaken boxes, few misses, some doubles and false alarms.

    Args:
        rng: source of the errors.
        image_id: COCO's id of the picture.
        size: its (height, width) in pixels.
        annotations: its people.

    Returns:
        Entries of a COCO file of detections; all boxes lie within the picture.
    """
    height, width = size
    boxes: list[tuple[np.ndarray, float]] = []
    for annotation in annotations:
        x, y, w, h = annotation["bbox"]
        for score_range, share, spread in (((0.6, 0.999), 0.97, 0.025), ((0.05, 0.4), 0.12, 0.12)):
            if rng.random() < share:
                shake = rng.normal(0, spread, 4) * (w, h, w, h)
                boxes.append((np.array([x, y, x + w, y + h]) + shake, rng.uniform(*score_range)))
    for _ in range(rng.poisson(0.4)):
        corner = rng.uniform((0, 0), (0.7 * width, 0.6 * height))
        opposite = corner + rng.uniform((20, 40), (0.3 * width, 0.5 * height))
        boxes.append((np.concatenate([corner, opposite]), rng.uniform(0.02, 0.5)))
    detections = []
    for box, score in boxes:
        x0, y0, x1, y1 = np.clip(box, 0, (width, height, width, height)).tolist()
        if x1 - x0 > 4 and y1 - y0 > 4:
            bbox = [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)]
            detections.append({"image_id": image_id, "category_id": 1, "bbox": bbox, "score": round(score, 4)})
    return detections
