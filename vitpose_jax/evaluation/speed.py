"""How long scoring takes beside pycocotools alone, on made-up input of COCO val2017's size.

    python -m vitpose_jax.evaluation.speed [--people 11000] [--boxes 104000] [--rounds 3] [--seed 0]

prints one JSON line. Both sides are timed in turns within one process, and the ratio is taken round by round, so that a
busy machine slows both.
"""

import argparse
import contextlib
import copy
import io
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vitpose_jax import keypoints
from vitpose_jax.evaluation.coco import COCO_METRICS, coco_metrics
from vitpose_jax.evaluation.results import Predictions, coco_results, detect

_SIGMAS = keypoints.COCO.sigmas
_PEOPLE_PER_IMAGE = 2.2  # COCO val2017: 11,004 annotated people on 5,000 images
_IMAGE_SIZE = 640.0


def measure(people: int = 11_000, boxes: int = 104_000, seed: int = 0, *, rounds: int = 3) -> dict[str, Any]:
    """Times scoring against pycocotools alone.

    Ours starts from a model's keypoints in every box and an annotation file, and does everything up to metrics and the
    list of results: rescoring, OKS suppression, reading the annotations, matching. pycocotools starts from the finished
    results, in memory: `COCO(file)`, `loadRes`, `evaluate`, `accumulate`, `summarize`.

    Args:
        people: annotated people.
        boxes: predicted boxes, at least as many as people.
        seed: of the made-up input.
        rounds: how often each side is timed, in turns.

    Returns:
        `ratio` of our time to pycocotools', the median of the rounds, with `ratio_min` and `ratio_max`; `ours_s` and
        `pycocotools_s`, the seconds of every round; `people`, `boxes`, `kept` (boxes after suppression), `AP`. Compare
        ratios, not seconds: another load in the middle of a run shifts both sides of the later rounds.

    Raises:
        ValueError: there are fewer boxes than people.
        RuntimeError: the two sides disagree in a metric.
    """
    if boxes < people or people < 1:
        raise ValueError(f"{people} people and {boxes} boxes: expected at least one person, and a box for each")
    truth, predictions = _made_up(people, boxes, np.random.default_rng(seed))
    ours_s: list[float] = []
    theirs_s: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "annotations.json"
        path.write_text(json.dumps(truth))
        for _ in range(rounds):
            seconds, (metrics, results) = _timed(_ours, path, predictions)
            ours_s.append(seconds)
            entries = copy.deepcopy(results)  # loadRes writes into them
            seconds, stats = _timed(_pycocotools, path, entries)
            theirs_s.append(seconds)
            reference = dict(zip(COCO_METRICS, stats, strict=True))
            if metrics != reference:
                raise RuntimeError(f"metrics differ: {metrics} here, {reference} by pycocotools")
    ratios = [ours / theirs for ours, theirs in zip(ours_s, theirs_s, strict=True)]
    return {
        "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios), "ours_s": ours_s,
        "pycocotools_s": theirs_s, "people": people, "boxes": boxes, "kept": len(results), "AP": metrics["AP"],
    }  # fmt: skip


def _ours(path: pathlib.Path, predictions: Predictions) -> tuple[dict[str, float], list[dict[str, Any]]]:
    detections = detect(predictions, sigmas=_SIGMAS)
    return coco_metrics(path, detections, sigmas=_SIGMAS), coco_results(detections)


def _pycocotools(path: pathlib.Path, results: list[dict[str, Any]]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def _made_up(people: int, boxes: int, rng: np.random.Generator) -> tuple[dict[str, Any], Predictions]:
    """An annotation file's content, and a model's predictions for a detector's boxes on the same images.

    As in COCO, some images hold a crowd, four of ten people have no labelled keypoint, and most boxes are unsure.
    """
    images = max(1, round(people / _PEOPLE_PER_IMAGE))
    crowding = rng.gamma(0.7, size=images)
    image_ids = 1 + rng.choice(images, people, p=crowding / crowding.sum())
    size = np.exp(rng.uniform(np.log(20), np.log(400), people))  # side of a person's box, pixels
    corner = rng.uniform(0, _IMAGE_SIZE - size[:, None], (people, 2))
    points = corner[:, None] + rng.random((people, len(_SIGMAS), 2)) * size[:, None, None]
    visibility = rng.choice(3, (people, len(_SIGMAS)), p=[0.35, 0.1, 0.55]) * (rng.random((people, 1)) < 0.6)
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
    predicted = points[person] + error[:, None, None] * rng.standard_normal((boxes, len(_SIGMAS), 2))
    side = size[person, None]
    order = rng.permutation(boxes)
    return Predictions(
        keypoints=predicted.astype(np.float32)[order],
        scores=rng.uniform(0, 1, (boxes, len(_SIGMAS))).astype(np.float32),
        box_cxcywh=np.concatenate([corner[person] + side / 2, 1.25 * side, 1.25 * side], axis=1)[order],
        bbox_scores=np.where(is_first, rng.beta(4, 1, boxes), rng.beta(0.4, 2, boxes))[order],
        image_ids=image_ids[person][order],
        instance_ids=np.arange(boxes),
        category_ids=np.ones(boxes, np.int64),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("people", 11_000), ("boxes", 104_000), ("rounds", 3), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.people, arguments.boxes, arguments.seed, rounds=arguments.rounds)))


if __name__ == "__main__":
    main()
