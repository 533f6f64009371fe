"""Files for others, written from a journal: COCO results, a table, annotations to go on labelling with.

Each is written line by line beside its place and renamed.
"""

import csv
import heapq
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TextIO

import numpy as np

from vitpose_jax.data.files import written_beside
from vitpose_jax.evaluation.coco_variants import WHOLEBODY_FIELDS
from vitpose_jax.inference import journal
from vitpose_jax.keypoints import KEYPOINT_SETS, KeypointSet

_CATEGORIES = dict.fromkeys(KEYPOINT_SETS, "person") | {"ap10k": "animal", "interhand": "hand"}  # what instances are
_FRAME_FIELDS = ("frame", "time_s")  # of the journal's lines of a video


def image_lines(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal's images, in order, without the skipped ones. Images without an id get those that follow.

    `image_id` is then there in each, and no two share one.
    """
    largest = max((line["image_id"] for line in journal.read(path) if "image_id" in line), default=0)
    for line in journal.read(path):
        if "error" not in line:
            if "image_id" not in line:
                largest += 1
                line["image_id"] = largest
            yield line


def instances(path: pathlib.Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """All poses of a journal as (line of the image, pose), in order."""
    for line in image_lines(path):
        for pose in line["poses"]:
            yield line, pose


def write_results(path: pathlib.Path, source: pathlib.Path, keypoint_set: KeypointSet) -> None:
    """COCO's list of results: image_id, category_id, keypoints (x, y, score for each), score.

    With them go file_name and bbox, and of videos frame, time_s and track_id. Whole bodies are written in the parts of
    COCO-WholeBody: keypoints (17), foot_kpts, face_kpts, lefthand_kpts, righthand_kpts.

    Args:
        path: to write.
        source: the journal.
        keypoint_set: of its poses.
    """
    fields = WHOLEBODY_FIELDS if keypoint_set.name == "wholebody" else {"keypoints": slice(None)}

    def results() -> Iterator[dict[str, Any]]:
        for line, pose in instances(source):
            yield {
                "image_id": line["image_id"],
                "category_id": pose["category_id"],
                **{field: _flat(pose["keypoints"][part]) for field, part in fields.items()},
                "score": pose["score"],
                "bbox": pose["bbox"],
                "file_name": line["file"],
                **{key: line[key] for key in _FRAME_FIELDS if key in line},
                **{key: pose[key] for key in ("track_id",) if key in pose},
            }

    with written_beside(path) as partial, open(partial, "w", encoding="utf-8") as stream:
        _write_list(stream, results())


def _flat(points: list[list[float]]) -> list[float]:
    return list(itertools.chain.from_iterable(points))


def write_csv(path: pathlib.Path, source: pathlib.Path, keypoint_set: KeypointSet) -> None:
    """A table with one row for each instance: file, frame, track, score, box, and x, y, score of each keypoint."""
    header = ["file", "frame", "time_s", "track_id", "score", "bbox_x", "bbox_y", "bbox_width", "bbox_height"]
    header += [f"{name}_{what}" for name in keypoint_set.names for what in ("x", "y", "score")]
    with written_beside(path) as partial, open(partial, "w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(header)
        for line, pose in instances(source):
            table.writerow(
                [
                    line["file"], line.get("frame", ""), line.get("time_s", ""), pose.get("track_id", ""),
                    pose["score"], *pose["bbox"], *_flat(pose["keypoints"]),
                ]
            )  # fmt: skip


def write_skipped(path: pathlib.Path, source: pathlib.Path) -> None:
    """A table of the files that were skipped, and why."""
    with written_beside(path) as partial, open(partial, "w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file", "reason"])
        table.writerows([line["file"], line["error"]] for line in journal.read(source) if "error" in line)


def write_annotations(
    path: pathlib.Path,
    source: pathlib.Path,
    keypoint_set: KeypointSet,
    *,
    threshold: float,
    score_threshold: float,
    review_path: pathlib.Path,
    review_count: int,
) -> int:
    """COCO annotations, as labelling tools import them, and a list of those to look at first.

    A keypoint is labelled (visibility 2) where its score is at least `threshold` and it lies in the image; others have
    visibility 0. Instances without a labelled keypoint, or less sure than `score_threshold`, are left out. Images
    without instances are listed, too.

    Args:
        path: to write.
        source: the journal.
        keypoint_set: of its poses.
        threshold: least score of a keypoint.
        score_threshold: least score of an instance.
        review_path: table of the least certain instances that were kept, the least certain first.
        review_count: how many these are at most.

    Returns:
        The number of annotations.
    """
    categories: set[int] = set()
    count = 0
    kept = _annotations(source, threshold, score_threshold)
    worst = heapq.nsmallest(review_count, kept, key=lambda pair: (pair[0]["score"], pair[0]["id"]))
    with written_beside(path) as partial, open(partial, "w", encoding="utf-8") as stream:
        stream.write('{"images": ')
        _write_list(stream, _images(source))
        stream.write(', "annotations": ')

        def counted() -> Iterator[dict[str, Any]]:
            nonlocal count
            for annotation, _ in _annotations(source, threshold, score_threshold):
                count += 1
                categories.add(annotation["category_id"])
                yield annotation

        _write_list(stream, counted())
        stream.write(', "categories": ')
        json.dump([_category(number, keypoint_set) for number in sorted(categories or {1})], stream)
        stream.write("}\n")
    _write_review(review_path, worst, keypoint_set)
    return count


def _images(source: pathlib.Path) -> Iterator[dict[str, Any]]:
    for line in image_lines(source):
        height, width = line["size"]
        yield {"id": line["image_id"], "file_name": line["file"], "width": width, "height": height}


def _annotations(
    source: pathlib.Path, threshold: float, score_threshold: float
) -> Iterator[tuple[dict[str, Any], str]]:
    """(annotation, name of its image) of the instances that are sure enough."""
    for number, (line, pose) in enumerate(instances(source), start=1):
        height, width = line["size"]
        points = np.array(pose["keypoints"])
        inside = ((points[:, :2] >= 0) & (points[:, :2] <= (width - 1, height - 1))).all(axis=1)
        labelled = inside & (points[:, 2] >= threshold)
        if pose["score"] < score_threshold or not labelled.any():
            continue
        flat = np.where(labelled[:, None], np.c_[points[:, :2], np.full(len(points), 2)], 0.0)
        left, top = np.clip(pose["bbox"][:2], 0, (width, height))
        right, bottom = np.clip(np.add(pose["bbox"][:2], pose["bbox"][2:]), 0, (width, height))
        bbox = [round(float(value), 3) for value in (left, top, right - left, bottom - top)]
        yield (
            {
                "id": number,
                "image_id": line["image_id"],
                "category_id": pose["category_id"],
                "bbox": bbox,
                "area": round(bbox[2] * bbox[3], 3),
                "iscrowd": 0,
                "segmentation": [],
                "num_keypoints": int(labelled.sum()),
                "keypoints": [value if i % 3 < 2 else int(value) for i, value in enumerate(flat.ravel().tolist())],
                "score": pose["score"],
            },
            line["file"],
        )


def _write_review(
    path: pathlib.Path, worst: Iterable[tuple[Mapping[str, Any], str]], keypoint_set: KeypointSet
) -> None:
    header = ["file", "image_id", "annotation_id", "score", "labelled", "of", "not labelled"]
    with written_beside(path) as partial, open(partial, "w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(header)
        for annotation, file in worst:
            hidden = [
                name for name, flag in zip(keypoint_set.names, annotation["keypoints"][2::3], strict=True) if not flag
            ]
            table.writerow(
                [
                    file, annotation["image_id"], annotation["id"], annotation["score"], annotation["num_keypoints"],
                    len(keypoint_set), " ".join(hidden),
                ]
            )  # fmt: skip


def _category(number: int, keypoint_set: KeypointSet) -> dict[str, Any]:
    name = _CATEGORIES.get(keypoint_set.name, keypoint_set.name)
    return {
        "id": number,
        "name": name if number == 1 else f"{name} {number}",
        "supercategory": name,
        "keypoints": list(keypoint_set.names),
        "skeleton": (keypoint_set.skeleton_index + 1).tolist(),  # counted from 1, as in COCO's files
    }


def _write_list(stream: TextIO, items: Iterable[Mapping[str, Any]]) -> None:
    """A JSON list with one item a line, without ever holding it."""
    separator = "["
    for item in items:
        stream.write(f"{separator}\n{json.dumps(item, ensure_ascii=False)}")
        separator = ","
    stream.write("[]" if separator == "[" else "\n]")
