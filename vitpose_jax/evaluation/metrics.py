"""From predicted keypoints to COCO average precision: rescore, suppress repeated people, write, score, print.

    predictions = Predictions(keypoints=…, scores=…, …)          # what the model said, in image pixels
    results = coco_results(predictions, sigmas=COCO.sigmas)      # the list that the COCO server reads
    metrics = coco_metrics(annotation_file, results, sigmas=COCO.sigmas)
    print_metrics({"coco": metrics}, published={"coco": {"AP": 0.758}})

Object keypoint similarity (OKS) of two instances is the mean over keypoints of exp(-d² / (2 (2σ)² area)): 1 for equal
poses, falling off with the distance d on a scale set by the keypoint's sigma and the instance's area.
"""

import contextlib
import dataclasses
import io
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import rich.box
import rich.console
import rich.table
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

COCO_METRICS = ("AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR", "AR .5", "AR .75", "AR (M)", "AR (L)")
SUPPRESSIONS = ("oks", "soft_oks", "none")
MAX_PEOPLE_PER_IMAGE = 20  # COCO's limit for keypoints: of each image and category the best 20 detections count
NOTHING_TO_MEASURE = -1.0  # what COCO reports where no annotated instance falls in the metric's size range
AREA_OF_BOX = 0.53  # share of its box that an instance covers, where a data set has no segmented area (AIC, CrowdPose)


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What a model predicted for the P boxes of an evaluation set, in any order.

    Attributes:
        keypoints: float [P, K, 2], x and y in image pixels.
        scores: float [P, K], one per keypoint.
        box_cxcywh: float [P, 4], the padded region that the crop showed, image pixels. Its area is the scale of OKS
            between predictions.
        bbox_scores: float [P], the detector's score, or 1 for an annotated box.
        image_ids: int [P].
        instance_ids: int [P], one per box. A repeated id within an image (a sampler's padding) counts once.
        category_ids: int [P], the annotation file's category of each instance.

    Raises:
        ValueError: the shapes disagree, or a value is not finite.
    """

    keypoints: np.ndarray
    scores: np.ndarray
    box_cxcywh: np.ndarray
    bbox_scores: np.ndarray
    image_ids: np.ndarray
    instance_ids: np.ndarray
    category_ids: np.ndarray

    def __post_init__(self):
        people, keypoints = np.shape(self.scores) if np.ndim(self.scores) == 2 else (len(self.scores), "K")
        expected = {
            "keypoints": (people, keypoints, 2),
            "scores": (people, keypoints),
            "box_cxcywh": (people, 4),
            **dict.fromkeys(("bbox_scores", "image_ids", "instance_ids", "category_ids"), (people,)),
        }
        for field, shape in expected.items():
            if np.shape(getattr(self, field)) != shape:
                raise ValueError(f"predictions: {field} has shape {np.shape(getattr(self, field))}, expected {shape}")
        for field in ("keypoints", "scores", "box_cxcywh", "bbox_scores"):
            bad = int(np.count_nonzero(~np.isfinite(getattr(self, field))))
            if bad:
                raise ValueError(
                    f"predictions: {bad} values of {field} are not finite; the model's weights or input are broken"
                )

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def areas(self) -> np.ndarray:
        """float64 [P]: width times height of `box_cxcywh`, square image pixels."""
        return np.prod(np.asarray(self.box_cxcywh, np.float64)[:, 2:], axis=1)

    def rows_by_image(self) -> list[np.ndarray]:
        """Rows of each image's instances: images as they first appear, instances by id, the first row of an id only."""
        _, first_row, image = np.unique(self.image_ids, return_index=True, return_inverse=True)
        appearance = first_row[image]
        rows = np.lexsort((self.instance_ids, appearance))
        image_and_id = np.stack([appearance[rows], np.asarray(self.instance_ids)[rows]])
        rows = rows[
            np.any(np.diff(image_and_id, prepend=-1) != 0, axis=0)
        ]  # appearance is never -1: the first row stays
        return np.split(rows, np.flatnonzero(np.diff(appearance[rows])) + 1)


def rescore(scores: np.ndarray, bbox_scores: np.ndarray, *, min_keypoint_score: float = 0.2) -> np.ndarray:
    """Score of each instance, to rank it among all others: how sure its keypoints are, times how sure its box is.

    Args:
        scores: float [P, K], keypoint scores.
        bbox_scores: float [P].
        min_keypoint_score: only keypoints above this score enter the mean.

    Returns:
        float64 [P], 0 where no keypoint is above `min_keypoint_score`.

    Source: topdown_coco_dataset.py::evaluate.
    """
    scores = np.asarray(scores, np.float64)
    counted = scores > min_keypoint_score
    mean = np.sum(scores * counted, axis=1) / np.maximum(np.count_nonzero(counted, axis=1), 1)
    return mean * np.asarray(bbox_scores, np.float64)


def oks_matrix(keypoints: np.ndarray, areas: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
    """OKS between every two predicted instances, over all keypoints, at the mean of the two areas.

    Args:
        keypoints: float [P, K, 2], x and y in image pixels.
        areas: float [P], square image pixels.
        sigmas: K constants of the keypoint set.

    Returns:
        float64 [P, P], symmetric, 1 on the diagonal.

    Source: mmpose/core/post_processing/nms.py::oks_iou.
    """
    unit = np.sqrt(2.0) * 2.0 * np.asarray(sigmas, np.float64)  # in it, OKS is exp(-d² / area)
    x, y = np.moveaxis(np.asarray(keypoints, np.float64), 2, 0) / unit  # [P, K] each
    areas = np.asarray(areas, np.float64)
    pair_areas = (areas[:, None] + areas) / 2 + np.spacing(1.0)  # [P, P]
    squared_distances = np.square(x[:, None] - x)  # [P, P, K]
    squared_distances += np.square(y[:, None] - y)
    return np.exp(squared_distances / -pair_areas[:, :, None]).mean(axis=2)


def oks_nms(
    keypoints: np.ndarray, scores: np.ndarray, areas: np.ndarray, sigmas: Sequence[float], *, threshold: float = 0.9
) -> np.ndarray:
    """Drop every instance of an image whose pose nearly equals that of a better one.

    Args:
        keypoints: float [P, K, 2], the instances of one image, image pixels.
        scores: float [P], instance scores.
        areas: float [P], square image pixels.
        sigmas: K constants of the keypoint set.
        threshold: an instance goes if its OKS with a kept one is above this.

    Returns:
        int [kept], rows in order of falling score.

    Source: mmpose/core/post_processing/nms.py::oks_nms.
    """
    order = np.argsort(scores)[::-1]
    if len(order) < 2:
        return order
    too_close = oks_matrix(keypoints[order], areas[order], sigmas) > threshold
    dropped = np.zeros(len(order), bool)
    for better in range(len(order)):
        if not dropped[better]:
            dropped[better + 1 :] |= too_close[better, better + 1 :]
    return order[~dropped]


def soft_oks_nms(
    keypoints: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    sigmas: Sequence[float],
    *,
    threshold: float = 0.9,
    max_kept: int = MAX_PEOPLE_PER_IMAGE,
) -> np.ndarray:
    """Rank the instances of an image so that near-copies of a better one come later, and keep the first ones.

    Each time an instance is taken, the scores that order the rest are multiplied by exp(-OKS² / threshold). The lowered
    scores order only: who uses the result keeps the original ones.

    Args:
        keypoints: float [P, K, 2], the instances of one image, image pixels.
        scores: float [P], instance scores.
        areas: float [P], square image pixels.
        sigmas: K constants of the keypoint set.
        threshold: the larger, the milder.
        max_kept: how many are kept at most.

    Returns:
        int [kept], rows in the order in which they were taken.

    Source: mmpose/core/post_processing/nms.py::soft_oks_nms.
    """
    oks = oks_matrix(keypoints, areas, sigmas)
    order = np.argsort(scores)[::-1]
    lowered = np.asarray(scores, np.float64)[order]
    taken: list[int] = []
    while len(order) and len(taken) < max_kept:
        best, order = order[0], order[1:]
        taken.append(best)
        lowered = lowered[1:] * np.exp(-np.square(oks[best, order]) / threshold)
        falling = np.argsort(lowered)[::-1]
        order, lowered = order[falling], lowered[falling]
    return np.array(taken, np.intp)


def coco_results(
    predictions: Predictions,
    *,
    sigmas: Sequence[float],
    suppression: str = "oks",
    oks_threshold: float = 0.9,
    min_keypoint_score: float = 0.2,
) -> list[dict[str, Any]]:
    """Rescored, suppressed predictions in COCO's results format, ready for `coco_metrics` and `write_results`.

    Entries hold `image_id`, `category_id`, `keypoints` (3K numbers: x, y in image pixels, score) and `score`, but no
    `bbox`: pycocotools takes a results file with boxes for one of a box detector and sizes its people by them.

    Args:
        predictions: the instances of an evaluation run.
        sigmas: K constants of the keypoint set.
        suppression: how repeated people go: "oks" (`oks_nms`), "soft_oks" (`soft_oks_nms`) or "none".
        oks_threshold: threshold of the suppression.
        min_keypoint_score: keypoints above it enter an instance's score, see `rescore`.

    Raises:
        ValueError: `suppression` is unknown, or `sigmas` are not as many as the keypoints.

    Source: topdown_coco_dataset.py::evaluate.
    """
    if suppression not in SUPPRESSIONS:
        raise ValueError(f"suppression {suppression!r}: expected one of {', '.join(SUPPRESSIONS)}")
    num_keypoints = np.shape(predictions.scores)[1]
    if num_keypoints != len(sigmas):
        raise ValueError(f"predictions have {num_keypoints} keypoints, but {len(sigmas)} sigmas are given")
    scores = rescore(predictions.scores, predictions.bbox_scores, min_keypoint_score=min_keypoint_score)
    areas = predictions.areas
    kept = []
    for rows in predictions.rows_by_image():
        image = (predictions.keypoints[rows], scores[rows], areas[rows], sigmas)
        if suppression == "oks":
            rows = rows[oks_nms(*image, threshold=oks_threshold)]
        elif suppression == "soft_oks":
            rows = rows[soft_oks_nms(*image, threshold=oks_threshold)]
        kept.append(rows)
    rows = np.concatenate(kept)
    keypoints = np.concatenate([predictions.keypoints[rows], predictions.scores[rows][:, :, None]], axis=2)
    columns = (
        predictions.image_ids[rows].tolist(),
        predictions.category_ids[rows].tolist(),
        keypoints.reshape(len(rows), 3 * num_keypoints).tolist(),
        scores[rows].tolist(),
    )
    return [
        {"image_id": image_id, "category_id": category_id, "keypoints": flat, "score": score}
        for image_id, category_id, flat, score in zip(*columns, strict=True)
    ]


def write_results(path: str | os.PathLike, results: Sequence[Mapping[str, Any]]) -> None:
    """Write results as JSON, the file that the COCO evaluation server takes; an interrupted write leaves no file."""
    path = pathlib.Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(results))
    partial.replace(path)


def coco_metrics(
    annotation_file: str | os.PathLike,
    results: Sequence[Mapping[str, Any]],
    *,
    sigmas: Sequence[float],
    use_area: bool = True,
) -> dict[str, float]:
    """COCO's average precision and recall of keypoints.

    The numbers come from pycocotools' own COCOeval. Around it, two differences of xtcocotools, which the original used,
    are kept: a detection without any keypoint score above 0 does not count, and annotation ids may start from 0.

    Args:
        annotation_file: COCO keypoint annotations; all of its images count, also those without results.
        results: entries as `coco_results` makes them. May be empty.
        sigmas: K constants of the keypoint set.
        use_area: take an instance's scale from its segmented area; False takes 0.53 of its box.

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


def print_metrics(
    results: Mapping[str, Mapping[str, float]],
    published: Mapping[str, Mapping[str, float]] | None = None,
    *,
    console: rich.console.Console | None = None,
) -> None:
    """Print a table of metrics, beside the published values where there are any.

    Args:
        results: {data set: {metric: value}}.
        published: the same of a paper or a model's README, in the same units; may lack data sets and metrics.
        console: where to print; standard output by default.
    """
    published = published or {}
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    table.add_column("data set", style="bold")
    table.add_column("metric")
    table.add_column("value", justify="right", style="bold")
    if published:
        table.add_column("published", justify="right")
        table.add_column("difference", justify="right")
    for dataset, metrics in results.items():
        references = published.get(dataset, {})
        for row, (metric, value) in enumerate(metrics.items()):
            cells = [dataset if row == 0 else "", metric, "–" if value == NOTHING_TO_MEASURE else f"{value:.3f}"]
            if metric in references:
                difference = value - references[metric]
                color = "green" if difference >= 0 else "red"
                cells += [f"{references[metric]:.3f}", f"[{color}]{difference:+.3f}[/]"]
            table.add_row(*cells, end_section=row == len(metrics) - 1)
    (console or rich.console.Console()).print(table)
