"""COCO's average precision and recall of keypoints, by pycocotools."""

import contextlib
import io
import json
import os
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vitpose_jax.evaluation.suppression import MAX_PEOPLE_PER_IMAGE

COCO_METRICS = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")
NOTHING_TO_MEASURE = -1.0  # what COCO reports where no annotated instance falls in the metric's size range
AREA_OF_BOX = 0.53  # share of its box that an instance covers, where a data set has no segmented area (AIC, CrowdPose)


def coco_metrics(
    annotation_file: str | os.PathLike,
    results: Sequence[Mapping[str, Any]],
    *,
    sigmas: Sequence[float],
    use_area: bool = True,
    left_out_image_ids: Collection[int] = (),
) -> dict[str, float]:
    """COCO's average precision and recall of keypoints.

    The numbers come from pycocotools' own COCOeval. Around it, two differences of xtcocotools, which the original used,
    are kept: a detection without any keypoint score above 0 does not count, and annotation ids may start from 0.

    Args:
        annotation_file: COCO keypoint annotations; all of its images count, also those without results.
        results: entries as `coco_results` makes them. May be empty.
        sigmas: K constants of the keypoint set.
        use_area: take an instance's scale from its segmented area; False takes 0.53 of its box.
        left_out_image_ids: images of the file that do not count, because predicting on them was impossible.

    Returns:
        {name: value} for `COCO_METRICS`, values in 0…1, or -1 where nothing was there to measure.

    Raises:
        ValueError: the results speak of images, categories or keypoints that the annotation file does not have, or the
            annotation file lacks a field.

    Source: cocodataset.org/#keypoints-eval; topdown_coco_dataset.py::_do_python_keypoint_eval.
    """
    truth = _read_annotations(pathlib.Path(annotation_file), num_keypoints=len(sigmas), use_area=use_area)
    truth["results"] = _detections(results, truth, num_keypoints=len(sigmas))
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        evaluation = COCOeval(_index(truth, "annotations"), _index(truth, "results"), iouType="keypoints")
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, np.float64)
        evaluation.params.imgIds = sorted(set(evaluation.params.imgIds).difference(left_out_image_ids))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(COCO_METRICS, map(float, evaluation.stats), strict=True))


def _read_annotations(path: pathlib.Path, *, num_keypoints: int, use_area: bool) -> dict[str, Any]:
    """The part of an annotation file that COCOeval needs, checked."""
    content = json.loads(path.read_text())
    missing = {"images", "annotations", "categories"} - set(content)
    if missing:
        raise ValueError(f"{path}: no {', '.join(sorted(missing))} in it; expected COCO keypoint annotations")
    needed = {"image_id", "category_id", "keypoints", "bbox"} | ({"area"} if use_area else set())
    annotations = []
    # Ids are given anew from 1: COCOeval marks a match by the annotation's id and takes 0 for "no match".
    for new_id, annotation in enumerate(content["annotations"], start=1):
        missing = needed - set(annotation)
        if missing:
            raise ValueError(
                f"{path}: annotation {annotation.get('id')} has no {', '.join(sorted(missing))}; "
                "expected keypoint annotations, such as person_keypoints_val2017.json"
            )
        keypoints = np.array(annotation["keypoints"], np.float64)
        if len(keypoints) != 3 * num_keypoints:
            raise ValueError(
                f"{path}: annotation {annotation.get('id')} has {len(keypoints) / 3:g} keypoints, "
                f"expected {num_keypoints}; use the keypoint set of this data set"
            )
        _left, _top, width, height = annotation["bbox"]
        annotations.append(
            {
                "id": new_id,
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"],
                "keypoints": keypoints,
                "num_keypoints": annotation.get("num_keypoints", np.count_nonzero(keypoints[2::3] > 0)),
                "bbox": annotation["bbox"],
                "area": annotation["area"] if use_area else AREA_OF_BOX * width * height,
                "iscrowd": annotation.get("iscrowd", 0),
            }
        )
    return {
        "path": path,
        "images": [{"id": image["id"]} for image in content["images"]],
        "categories": [{"id": category["id"], "name": category.get("name")} for category in content["categories"]],
        "annotations": annotations,
    }


def _detections(
    results: Sequence[Mapping[str, Any]], truth: dict[str, Any], *, num_keypoints: int
) -> list[dict[str, Any]]:
    """Results as COCOeval takes them: checked, sized, and only those that can count."""
    path = truth["path"]
    for field, known in (("image_id", truth["images"]), ("category_id", truth["categories"])):
        unknown = {result[field] for result in results} - {entry["id"] for entry in known}
        if unknown:
            raise ValueError(
                f"results name {len(unknown)} {field}s that {path} does not have, such as {sorted(unknown)[:5]}; "
                "give the annotation file of the split that the predictions were made on"
            )
    wrong = {len(result["keypoints"]) for result in results} - {3 * num_keypoints}
    if wrong:
        raise ValueError(f"results have {min(wrong)} numbers per instance, expected 3 × {num_keypoints}: x, y, score")
    if not results:
        return []
    keypoints = np.array([result["keypoints"] for result in results], np.float64)  # [P, 3K]
    scores = np.array([result["score"] for result in results], np.float64)
    image_and_category = np.array([(result["image_id"], result["category_id"]) for result in results])
    extent = np.ptp(keypoints.reshape(len(results), -1, 3)[:, :, :2], axis=1)  # [P, 2]
    areas = np.prod(extent, axis=1)

    counts = keypoints[:, 2::3].max(axis=1) > 0
    # COCOeval looks at the best 20 of an image and category only; leaving the others out here saves its time.
    _, group = np.unique(image_and_category, axis=0, return_inverse=True)
    rows = np.flatnonzero(counts)
    rows = rows[np.lexsort((-scores[rows], group[rows]))]
    place = np.arange(len(rows))
    group_start = np.maximum.accumulate(np.where(np.diff(group[rows], prepend=-1) != 0, place, 0))
    counts[rows[place - group_start >= MAX_PEOPLE_PER_IMAGE]] = False
    return [
        {
            "id": new_id,
            "image_id": results[row]["image_id"],
            "category_id": results[row]["category_id"],
            "keypoints": keypoints[row],
            "score": scores[row],
            "area": areas[row],
        }
        for new_id, row in enumerate(np.flatnonzero(counts).tolist(), start=1)
    ]


def _index(truth: dict[str, Any], annotations: str) -> COCO:
    """A pycocotools data set of in-memory entries, without the round trip through a file."""
    dataset = COCO()
    dataset.dataset = {"images": truth["images"], "categories": truth["categories"], "annotations": truth[annotations]}
    dataset.createIndex()
    return dataset
