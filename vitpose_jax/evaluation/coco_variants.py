"""Average precision as CrowdPose and COCO-WholeBody count it: by how crowded an image is, and by parts of the body."""

import dataclasses
import os
from collections.abc import Collection, Sequence

import numpy as np

from vitpose_jax.evaluation.coco import GroundTruth, keypoint_extents, oks_metrics, read_ground_truth
from vitpose_jax.evaluation.results import Detections

CROWDPOSE_METRICS = ("AP", "AP .5", "AP .75", "AR", "AR .5", "AR .75", "AP (E)", "AP (M)", "AP (H)")
# An image counts as easy, medium or hard by its crowd index: the share of other people's keypoints in people's boxes.
CROWD_INDEX_RANGES = {"AP (E)": (-np.inf, 0.2), "AP (M)": (0.2, 0.8), "AP (H)": (0.8, np.inf)}
CROWD_DECIMALS = 4  # to which the original rounds average precision of easy, medium and hard images

# Part of the body to its field in annotations and results, and its place among the 133 keypoints.
WHOLEBODY_PARTS = {
    "body": ("keypoints", slice(0, 17)),
    "foot": ("foot_kpts", slice(17, 23)),
    "face": ("face_kpts", slice(23, 91)),
    "left hand": ("lefthand_kpts", slice(91, 112)),
    "right hand": ("righthand_kpts", slice(112, 133)),
}
WHOLEBODY_FIELDS = dict(WHOLEBODY_PARTS.values())
_WHOLE = "whole"


def crowdpose_metrics(
    annotation_file: str | os.PathLike,
    detections: Detections,
    *,
    sigmas: Sequence[float],
    left_out_image_ids: Collection[int] = (),
) -> dict[str, float]:
    """CrowdPose's average precision and recall: in all images, and in easy, medium and hard ones.

    Other than COCO's, an instance's scale is 0.53 of its box, and an instance is ignored by what the file calls its
    `num_keypoints` (the visible ones), not by its labelled keypoints. The last three values are rounded to 4 decimals.

    Args:
        annotation_file: CrowdPose annotations, with `crowdIndex` in each image.
        detections: from `results.detect`.
        sigmas: 14 constants of the keypoint set.
        left_out_image_ids: images of the file that do not count, because predicting on them was impossible.

    Returns:
        {name: value} for `CROWDPOSE_METRICS`, values in 0…1, or -1 where nothing was there to measure.

    Raises:
        ValueError: see `coco.coco_metrics`; or an image has no crowdIndex, an annotation no num_keypoints.

    Source: xtcocotools cocoeval.py, iouType "keypoints_crowd"; topdown_crowdpose_dataset.py.
    """
    truth = read_ground_truth(annotation_file, num_keypoints=len(sigmas), use_area=False)
    for field, values in (("num_keypoints", truth.num_keypoints), ("crowdIndex", truth.crowd_index)):
        absent = np.count_nonzero(np.isnan(values))
        if absent:
            raise ValueError(
                f"{truth.path}: {absent} entries have no {field}; expected CrowdPose's own annotation file, such as "
                "mmpose_crowdpose_test.json"
            )
    truth = dataclasses.replace(truth, is_ignored=truth.is_crowd | (truth.num_keypoints == 0))
    truth = truth.without_images(left_out_image_ids)
    metrics = oks_metrics(truth, detections, sigmas=sigmas)
    for name, (low, high) in CROWD_INDEX_RANGES.items():
        other = truth.known_image_ids[(truth.crowd_index < low) | (truth.crowd_index >= high)]
        some = oks_metrics(truth.without_images(other), detections, sigmas=sigmas)
        metrics[name] = round(some["AP"], CROWD_DECIMALS)
    return {name: metrics[name] for name in CROWDPOSE_METRICS}


def wholebody_metrics(
    annotation_file: str | os.PathLike,
    detections: Detections,
    *,
    sigmas: Sequence[float],
    left_out_image_ids: Collection[int] = (),
) -> dict[str, float]:
    """COCO-WholeBody's average precision and recall: of all 133 keypoints, and of each part of the body.

    Returns:
        {name: value}: `coco.COCO_METRICS` of the whole body, then "AP body", "AR body" and so on for the parts.

    The rest as for `wholebody_part_metrics`.
    """
    parts = wholebody_part_metrics(annotation_file, detections, sigmas=sigmas, left_out_image_ids=left_out_image_ids)
    return parts[_WHOLE] | {f"{name} {part}": parts[part][name] for part in WHOLEBODY_PARTS for name in ("AP", "AR")}


def wholebody_part_metrics(
    annotation_file: str | os.PathLike,
    detections: Detections,
    *,
    sigmas: Sequence[float],
    left_out_image_ids: Collection[int] = (),
) -> dict[str, dict[str, float]]:
    """All of COCO's metrics for the whole body and for each part of it.

    A part is scored with its own keypoints and sigmas, but with the instance's score and area. An instance without a
    labelled keypoint in the part is ignored there. What makes an unmatched detection medium or large is the extent of
    its 17 body keypoints, for every part and for the whole.

    Args:
        annotation_file: COCO-WholeBody annotations.
        detections: from `results.detect`, 133 keypoints.
        sigmas: 133 constants of the keypoint set.
        left_out_image_ids: images of the file that do not count, because predicting on them was impossible.

    Returns:
        {part: {name: value}} for "whole" and `WHOLEBODY_PARTS`, and for `coco.COCO_METRICS`.

    Raises:
        ValueError: see `coco.coco_metrics`.

    Source: topdown_coco_wholebody_dataset.py::_do_python_keypoint_eval; xtcocotools cocoeval.py.
    """
    truth = read_ground_truth(annotation_file, num_keypoints=len(sigmas), keypoint_fields=tuple(WHOLEBODY_FIELDS))
    truth = truth.without_images(left_out_image_ids)
    extents = keypoint_extents(detections.keypoints[:, WHOLEBODY_FIELDS["keypoints"]])
    places: dict[str, slice] = {_WHOLE: slice(None)}
    places |= {part: place for part, (_, place) in WHOLEBODY_PARTS.items()}
    return {
        part: oks_metrics(
            _part_of_truth(truth, place),
            dataclasses.replace(detections, keypoints=detections.keypoints[:, place]),
            sigmas=sigmas[place],
            extents=extents,
        )
        for part, place in places.items()
    }


def _part_of_truth(truth: GroundTruth, place: slice) -> GroundTruth:
    keypoints = truth.keypoints[:, place]
    is_ignored = truth.is_crowd | ~(keypoints[:, :, 2] > 0).any(axis=1)
    return dataclasses.replace(truth, keypoints=keypoints, is_ignored=is_ignored)
