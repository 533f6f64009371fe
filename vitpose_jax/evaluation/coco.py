"""COCO's average precision and recall of keypoints, by pycocotools."""

import contextlib
import dataclasses
import io
import json
import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from etils import epath
from pycocotools.cocoeval import COCOeval

from vitpose_jax import paths
from vitpose_jax.evaluation.results import Detections
from vitpose_jax.evaluation.suppression import MAX_PEOPLE_PER_IMAGE

COCO_METRICS = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")
NOTHING_TO_MEASURE = -1.0  # what COCO reports where no annotated instance falls in the metric's size range
AREA_OF_BOX = 0.53  # share of its box that an instance covers, where a data set has no segmented area (AIC, CrowdPose)


def coco_metrics(
    annotation_file: str | os.PathLike,
    detections: Detections,
    *,
    sigmas: Sequence[float],
    use_area: bool = True,
    left_out_image_ids: Collection[int] = (),
) -> dict[str, float]:
    """COCO's average precision and recall of keypoints, averaged over the categories that are annotated.

    Args:
        annotation_file: COCO keypoint annotations; all of its images count, also those without detections.
        detections: from `results.detect`. May be empty.
        sigmas: K constants of the keypoint set.
        use_area: take an instance's scale from its segmented area; False takes 0.53 of its box.
        left_out_image_ids: images of the file that do not count, because predicting on them was impossible.

    Returns:
        {name: value} for `COCO_METRICS`, values in 0…1, or -1 where nothing was there to measure.

    Raises:
        ValueError: the detections speak of images, categories or keypoints that the annotation file does not have, or
            the annotation file lacks a field.

    Source: cocodataset.org/#keypoints-eval; topdown_coco_dataset.py::_do_python_keypoint_eval, and
    animal_ap10k_dataset.py for averaging over species.
    """
    truth = read_ground_truth(annotation_file, num_keypoints=len(sigmas), use_area=use_area)
    return oks_metrics(truth.without_images(left_out_image_ids), detections, sigmas=sigmas)


@dataclasses.dataclass(frozen=True)
class GroundTruth:
    """What an annotation file says of G instances.

    Attributes:
        path: the file.
        known_image_ids: int64, all images of the file.
        image_ids: int64 [M], the images that count.
        category_ids: int64 [C].
        instance_image_ids: int64 [G].
        instance_category_ids: int64 [G].
        keypoints: float64 [G, K, 3]: x, y in image pixels, visibility.
        bbox_xywh: float64 [G, 4], image pixels.
        areas: float64 [G], square image pixels.
        is_crowd: bool [G].
        is_ignored: bool [G], neither found nor missed: crowds, and instances without a labelled keypoint.
        num_keypoints: float64 [G], what the file calls so; NaN where it says nothing. Only CrowdPose needs it.
        crowd_index: float64, of each of `known_image_ids`, in 0…1; NaN where the file has none. Only CrowdPose has it.
    """

    path: epath.Path
    known_image_ids: np.ndarray
    image_ids: np.ndarray
    category_ids: np.ndarray
    instance_image_ids: np.ndarray
    instance_category_ids: np.ndarray
    keypoints: np.ndarray
    bbox_xywh: np.ndarray
    areas: np.ndarray
    is_crowd: np.ndarray
    is_ignored: np.ndarray
    num_keypoints: np.ndarray
    crowd_index: np.ndarray

    def without_images(self, image_ids: Collection[int]) -> "GroundTruth":
        """The same, with these images no longer counting."""
        return dataclasses.replace(self, image_ids=np.setdiff1d(self.image_ids, np.array(list(image_ids), np.int64)))


def read_ground_truth(
    path: str | os.PathLike,
    *,
    num_keypoints: int,
    use_area: bool = True,
    keypoint_fields: Sequence[str] = ("keypoints",),
) -> GroundTruth:
    """Reads the part of an annotation file in COCO's format that scoring needs.

    Args:
        path: annotation file.
        num_keypoints: K, for checking.
        use_area: take areas from the file; False takes 0.53 of the box.
        keypoint_fields: the fields of an annotation that together hold its K keypoints.

    Raises:
        ValueError: the file lacks a field, or has another number of keypoints.
    """
    file = paths.path(path)
    content = json.loads(file.read_bytes())
    missing = {"images", "annotations", "categories"} - set(content)
    if missing:
        raise ValueError(f"{path}: no {', '.join(sorted(missing))} in it; expected COCO keypoint annotations")
    needed = {"image_id", "category_id", "bbox", *keypoint_fields} | ({"area"} if use_area else set())
    flat = []
    for annotation in content["annotations"]:
        if not needed <= annotation.keys():
            raise ValueError(
                f"{path}: annotation {annotation.get('id')} has no {', '.join(sorted(needed - annotation.keys()))}; "
                "expected keypoint annotations, such as person_keypoints_val2017.json"
            )
        numbers = [number for field in keypoint_fields for number in annotation[field]]
        if len(numbers) != 3 * num_keypoints:
            raise ValueError(
                f"{path}: annotation {annotation.get('id')} has {len(numbers) / 3:g} keypoints, "
                f"expected {num_keypoints}; use the keypoint set of this data set"
            )
        flat.append(numbers)

    def column(field: str, dtype: type, default: Any = None) -> np.ndarray:
        return np.array([annotation.get(field, default) for annotation in content["annotations"]], dtype)

    keypoints = np.array(flat, np.float64).reshape(-1, num_keypoints, 3)
    bbox_xywh = column("bbox", np.float64).reshape(-1, 4)
    is_crowd = column("iscrowd", bool, default=False)
    image_ids = np.array([image["id"] for image in content["images"]], np.int64)
    return GroundTruth(
        path=file,
        known_image_ids=image_ids,
        image_ids=np.unique(image_ids),
        category_ids=np.unique([category["id"] for category in content["categories"]]).astype(np.int64),
        instance_image_ids=column("image_id", np.int64),
        instance_category_ids=column("category_id", np.int64),
        keypoints=keypoints,
        bbox_xywh=bbox_xywh,
        areas=column("area", np.float64) if use_area else bbox_xywh[:, 3] * bbox_xywh[:, 2] * AREA_OF_BOX,
        is_crowd=is_crowd,
        is_ignored=is_crowd | ~(keypoints[:, :, 2] > 0).any(axis=1),
        num_keypoints=column("num_keypoints", np.float64, default=np.nan),
        crowd_index=np.array([image.get("crowdIndex", np.nan) for image in content["images"]], np.float64),
    )


def oks_metrics(
    truth: GroundTruth, detections: Detections, *, sigmas: Sequence[float], extents: np.ndarray | None = None
) -> dict[str, float]:
    """Average precision and recall by object keypoint similarity.

    Matching and averaging are pycocotools' own. Around them, two differences of xtcocotools, which the original used,
    are kept: a detection without any keypoint score above 0 does not count, and annotation ids do not matter.

    Args:
        truth: the annotations.
        detections: may be empty. Their keypoints are those of `truth`, in the same order.
        sigmas: K constants.
        extents: float64 [P], square image pixels, in place of the extent of a detection's keypoints. By it a detection
            that matches nothing counts as medium or large.

    Returns:
        {name: value} for `COCO_METRICS`.

    Raises:
        ValueError: the detections speak of images, categories or keypoints that `truth` does not have.
    """
    _check(truth, detections)
    if extents is None:
        extents = keypoint_extents(detections.keypoints)
    evaluation = _ArrayEvaluation(truth, detections, sigmas=np.asarray(sigmas, np.float64), extents=extents)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(COCO_METRICS, map(float, evaluation.stats), strict=True))


def keypoint_extents(keypoints: np.ndarray) -> np.ndarray:
    """float64 [P]: area of the box around all keypoints of each instance. `keypoints` is float [P, K, 2 or more]."""
    return np.prod(np.ptp(keypoints[:, :, :2], axis=1), axis=1)


def _check(truth: GroundTruth, detections: Detections) -> None:
    for field, found, known in (
        ("image_id", detections.image_ids, truth.known_image_ids),
        ("category_id", detections.category_ids, truth.category_ids),
    ):
        unknown = np.setdiff1d(found, known)
        if len(unknown):
            raise ValueError(
                f"predictions name {len(unknown)} {field}s that {truth.path} does not have, such as "
                f"{unknown[:5].tolist()}; give the annotation file of the split that the predictions were made on"
            )
    num_keypoints, expected = detections.keypoints.shape[1], truth.keypoints.shape[1]
    if num_keypoints != expected:
        raise ValueError(f"predictions have {num_keypoints} keypoints, {truth.path} has {expected}")


class _ArrayEvaluation(COCOeval):
    """COCOeval on arrays: no detour through dictionaries of lists, and OKS of all detections of an image at once."""

    def __init__(self, truth: GroundTruth, detections: Detections, *, sigmas: np.ndarray, extents: np.ndarray):
        super().__init__(iouType="keypoints")
        self.params.imgIds, self.params.catIds = truth.image_ids.tolist(), truth.category_ids.tolist()
        self._truth, self._variances, self._extents = truth, (sigmas * 2) ** 2, extents
        self._detections = detections
        self._truth_rows = _group(truth.instance_image_ids, truth.instance_category_ids)
        self._detection_rows = _best_of_each_image(detections)

    def _prepare(self) -> None:
        """Entries that COCOeval looks at. Ids count from 1, because it marks a match by an id and takes 0 for none."""
        truth = self._truth
        ignored, crowd, areas = truth.is_ignored.tolist(), truth.is_crowd.tolist(), truth.areas.tolist()
        scores, extents = self._detections.scores.tolist(), self._extents.tolist()
        self._gts = defaultdict(list)
        self._dts = defaultdict(list)
        for key, rows in self._truth_rows.items():
            self._gts[key] = [
                {"id": row + 1, "ignore": ignored[row], "iscrowd": crowd[row], "area": areas[row]}
                for row in rows.tolist()
            ]
        for key, rows in self._detection_rows.items():
            self._dts[key] = [{"id": row + 1, "score": scores[row], "area": extents[row]} for row in rows.tolist()]

    def computeOks(self, imgId: int, catId: int) -> np.ndarray | list:
        """float64 [D, G]: OKS of detections and annotations of an image and category, as COCOeval computes it."""
        truth_rows, rows = self._truth_rows.get((imgId, catId)), self._detection_rows.get((imgId, catId))
        if truth_rows is None or rows is None:
            return []
        truth, points = self._truth, self._detections.keypoints[rows]  # [D, K, 3]
        oks = np.empty((len(rows), len(truth_rows)))
        for column, row in enumerate(truth_rows.tolist()):
            person = truth.keypoints[row]
            labelled = np.flatnonzero(person[:, 2] > 0)
            if len(labelled):
                offset = points[:, labelled, :2] - person[labelled, :2]
            else:  # how far keypoints lie outside the box of twice the size
                labelled = np.arange(len(person))
                corner, size = truth.bbox_xywh[row, :2], truth.bbox_xywh[row, 2:]
                left_top, right_bottom = corner - size, corner + size * 2
                offset = np.maximum(0, left_top - points[:, :, :2]) + np.maximum(0, points[:, :, :2] - right_bottom)
            squared = offset[:, :, 0] ** 2 + offset[:, :, 1] ** 2
            exponent = squared / self._variances[labelled] / (truth.areas[row] + np.spacing(1)) / 2
            oks[:, column] = np.exp(-np.ascontiguousarray(exponent)).sum(axis=1) / len(labelled)
        return oks


def _best_of_each_image(detections: Detections) -> dict[tuple[int, int], np.ndarray]:
    """Rows of the 20 best detections of each image and category, best first; none without a positive keypoint score."""
    rows = np.flatnonzero((detections.keypoints[:, :, 2] > 0).any(axis=1))
    rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
    groups = _group(detections.image_ids[rows], detections.category_ids[rows])
    return {key: rows[places[:MAX_PEOPLE_PER_IMAGE]] for key, places in groups.items()}


def _group(image_ids: np.ndarray, category_ids: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """Rows of each (image, category), in their order."""
    order = np.lexsort((category_ids, image_ids))  # stable
    keys = np.stack([image_ids[order], category_ids[order]], axis=1)
    starts = np.flatnonzero((keys[1:] != keys[:-1]).any(axis=1)) + 1
    groups = np.split(order, starts) if len(order) else []
    return {(int(image_ids[rows[0]]), int(category_ids[rows[0]])): rows for rows in groups}
