"""Scoring COCO val2017 at full size, apart from the model, beside pycocotools alone."""

import contextlib
import copy
import io
import json
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vitpose_jax.benchmark.made_up_coco import SIGMAS, made_up
from vitpose_jax.benchmark.timing import Measured, take_turns
from vitpose_jax.evaluation.coco import COCO_METRICS, coco_metrics
from vitpose_jax.evaluation.results import Predictions, coco_results, detect


def evaluate(*, people: int = 11_004, boxes: int = 104_125, seed: int = 0, repeats: int) -> Iterator[Measured]:
    """One line: our scoring, and pycocotools'.

    Ours starts from a model's keypoints in every box and an annotation file, and does everything up to metrics and the
    list of results: rescoring, OKS suppression, reading the annotations, matching. pycocotools starts from the finished
    results, in memory: `COCO(file)`, `loadRes`, `evaluate`, `accumulate`, `summarize`.

    Args:
        people: annotated people.
        boxes: predicted boxes, at least as many as people.
        seed: of the made-up input.
        repeats: timed runs of each.

    Raises:
        ValueError: there are fewer boxes than people.
        RuntimeError: the two sides disagree in a metric.
    """
    if boxes < people or people < 1:
        raise ValueError(f"{people} people and {boxes} boxes: expected at least one person, and a box for each")
    truth, predictions = made_up(people, boxes, np.random.default_rng(seed))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "annotations.json"
        path.write_text(json.dumps(truth))
        metrics, results = _ours(path, predictions)
        reference = dict(zip(COCO_METRICS, _pycocotools(path, copy.deepcopy(results)), strict=True))
        if metrics != reference:
            raise RuntimeError(f"metrics differ: {metrics} here, {reference} by pycocotools")
        copies = [copy.deepcopy(results) for _ in range(repeats + 1)]  # loadRes writes into them
        timings = take_turns(
            {
                "vitpose_jax": lambda: _ours(path, predictions)[0],
                "pycocotools": lambda: _pycocotools(path, copies.pop()),
            },
            repeats=repeats, again=False,
        )  # fmt: skip
    facts = {"vitpose_jax": {"kept": len(results), "AP": round(metrics["AP"], 4)}}
    yield Measured({"people": people, "boxes": boxes}, timings, facts)


def _ours(path: pathlib.Path, predictions: Predictions) -> tuple[dict[str, float], list[dict[str, Any]]]:
    detections = detect(predictions, sigmas=SIGMAS)
    return coco_metrics(path, detections, sigmas=SIGMAS), coco_results(detections)


def _pycocotools(path: pathlib.Path, results: list[dict[str, Any]]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(path))
        evaluation = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()
