"""Crops from JPEG files, beside a loop that decodes the whole picture for each crop. All in one thread."""

import collections
import contextlib
import functools
import json
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import cv2
import numpy as np

from vitpose_jax import geometry
from vitpose_jax.benchmark.timing import Measured, take_turns
from vitpose_jax.data import pipeline
from vitpose_jax.data.augment import Augment, train_transform
from vitpose_jax.data.build import build
from vitpose_jax.data.datasets import Split, detection_boxes, open_split

# Of COCO: 640x480 pixels, 160 KB a file; 149,813 people on 56,599 pictures; 104,125 boxes on 5,000.
JPEG_QUALITY = 93
PEOPLE_PER_PICTURE = (3, 3, 2)  # of the first, the second, the third, and so on
BOXES_PER_PICTURE = 21
DISTINCT = 24  # pictures; the others are copies


def crops(
    *,
    crop_size: Sequence[int] = (256, 192),
    picture_size: Sequence[int] = (480, 640),
    pictures: int = 384,
    batch_size: int = 32,
    batches: int = 4,
    repeats: int,
) -> Iterator[Measured]:
    """Three lines: crops for training, with random views; the same image by image; crops for evaluation.

    The last are of all boxes of a detector. There are a thousand people to train on: Grain's shuffle takes 0.4 ms for
    an element of 48, and 2 us for one of COCO's.

    Args:
        crop_size: (H, W).
        picture_size: (height, width) of the pictures, which are made up.
        pictures: how many files there are.
        batch_size: crops a batch.
        batches: that make one run.
        repeats: timed runs of each.

    Raises:
        RuntimeError: evaluation's crops differ from the loop's.
    """
    size = (crop_size[0], crop_size[1])
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        kilobytes = write_pictures(folder / "source", pictures, (picture_size[0], picture_size[1]))
        build("coco", folder / "source", folder / "built")
        split = open_split(folder / "built", "val")
        said: dict[str, Any] = {
            "crop_size": list(size), "picture_size": list(picture_size), "kilobytes": kilobytes,
            "crops": batch_size * batches,
        }  # fmt: skip
        by_image = functools.partial(_train, by_image=True)
        for task, make in (("train", _train), ("train by_image", by_image), ("evaluate", _evaluate)):
            variants, facts = make(split, size, batch_size, batches, stack)
            yield Measured({"task": task, **said}, take_turns(variants, repeats=repeats), facts)


Made = tuple[dict[str, Callable[[], Any]], dict[str, dict[str, Any]]]


def _train(
    split: Split, crop_size: tuple[int, int], batch_size: int, batches: int, stack: contextlib.ExitStack,
    by_image: bool = False,
) -> Made:  # fmt: skip
    augment = Augment(**split.dataset.augment_defaults)
    stream = pipeline.train_stream(
        [pipeline.TrainSource(split, augment)], crop_size=crop_size, batch_size=batch_size, seed=0,
        by_image=by_image, num_threads=1, prefetch=1,
    )  # fmt: skip
    stack.callback(stream.close)

    def ours() -> None:  # the stream is endless: it always has one more batch in the making
        for _ in range(batches):
            next(stream)

    def loop() -> None:
        rng = np.random.default_rng(0)
        for _ in range(batches):
            rows = rng.integers(len(split), size=batch_size)
            np.stack([_random_crop(split, row, augment, crop_size, rng) for row in rows])

    return {"vitpose_jax": ours, "loop": loop}, {}


def _random_crop(
    split: Split, row: int, augment: Augment, crop_size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Decode, draw a view, warp."""
    image = decoded(split.jpeg(split.instances.image[row]))
    box = split.dataset.regions(split.instances.bbox_xywh[row], aspect_ratio=crop_size[1] / crop_size[0])
    keypoints, names = split.instances.keypoints[row], split.keypoint_set
    width, aspect_ratio = image.shape[1], crop_size[1] / crop_size[0]
    view = augment.sample(box, keypoints, image_width=width, aspect_ratio=aspect_ratio, keypoint_set=names, rng=rng)
    matrix, _ = train_transform(
        view, keypoints, image_width=width, crop_size=crop_size, flip_index=names.flip_index, udp=True
    )
    return cv2.warpAffine(image, matrix, crop_size[::-1], flags=cv2.INTER_LINEAR)


def _evaluate(
    split: Split, crop_size: tuple[int, int], batch_size: int, batches: int, stack: contextlib.ExitStack
) -> Made:
    del stack
    boxes = detection_boxes(split)
    few = boxes.take(np.argsort(boxes.image, kind="stable")[: batch_size * batches])
    regions = split.dataset.regions(few.bbox_xywh, aspect_ratio=crop_size[1] / crop_size[0])

    def ours() -> Iterator[Any]:
        stream = pipeline.eval_stream(
            few, split, crop_size=crop_size, udp=True, batch_size=batch_size, num_threads=1, prefetch=1
        )
        yield from stream
        stream.close()

    def loop() -> Iterator[np.ndarray]:
        for start in range(0, len(few), batch_size):
            yield np.stack([crop(row) for row in range(start, min(start + batch_size, len(few)))])

    def crop(row: int) -> np.ndarray:
        matrix = geometry.crop_matrix(regions[row], crop_size, udp=True)
        image = decoded(split.jpeg(few.image[row]))
        return cv2.warpAffine(image, matrix, crop_size[::-1], flags=cv2.INTER_LINEAR)

    theirs = np.concatenate(list(loop()))
    for batch in ours():
        if not np.array_equal(batch["image"], theirs[batch["instance"]]):
            raise RuntimeError("crops for evaluation differ from those of a plain loop")
    # Batch by batch, as an evaluation takes them: none is kept.
    variants = {"vitpose_jax": lambda: _drain(ours()), "loop": lambda: _drain(loop())}
    return variants, {"vitpose_jax": {"pixels": "identical"}}


def _drain(batches: Iterator[Any]) -> None:
    collections.deque(batches, maxlen=0)


def decoded(jpeg: bytes) -> np.ndarray:
    """The plain way to an RGB picture."""
    image: Any = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def write_pictures(folder: pathlib.Path, count: int, size: tuple[int, int]) -> int:
    """Writes a COCO folder of coloured noise that fills files about as photographs do.

    Returns:
        Kilobytes of a file, the mean.
    """
    rng = np.random.default_rng(0)
    height, width = size
    (folder / "annotations").mkdir(parents=True)
    (folder / "person_detection_results").mkdir()
    total, person_id = 0, 0
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    files = [cv2.imencode(".jpg", picture(rng, size), quality)[1].tobytes() for _ in range(min(count, DISTINCT))]
    boxes: list[dict[str, Any]] = []
    for split, number in (("train", 1), ("val", count)):
        (folder / f"{split}2017").mkdir()
        content: dict[str, list] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}]}
        for image_id in range(1, number + 1):
            name = f"{image_id:012d}.jpg"
            encoded = files[(image_id - 1) % len(files)]
            (folder / f"{split}2017" / name).write_bytes(encoded)
            total += len(encoded) if split == "val" else 0
            content["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
            for _ in range(PEOPLE_PER_PICTURE[(image_id - 1) % len(PEOPLE_PER_PICTURE)]):
                person_id += 1
                box = _box(rng, size)
                points = rng.uniform(box[:2], np.add(box[:2], box[2:]), (17, 2)).round()
                points = np.column_stack([points, np.full(17, 2)])
                content["annotations"].append(
                    {
                        "id": person_id, "image_id": image_id, "category_id": 1,
                        "iscrowd": 0, "area": box[2] * box[3] / 2, "num_keypoints": 17, "bbox": box,
                        "keypoints": points.astype(int).ravel().tolist(),
                    }
                )  # fmt: skip
            if split == "val":
                boxes += [
                    {"image_id": image_id, "category_id": 1, "bbox": _box(rng, size), "score": 0.5}
                    for _ in range(BOXES_PER_PICTURE)
                ]
        (folder / f"annotations/person_keypoints_{split}2017.json").write_text(json.dumps(content))
    detections = "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"
    (folder / detections).write_text(json.dumps(boxes))
    return round(total / count / 1000)


def picture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """uint8 [height, width, 3]: noise of all scales, the finer the fainter."""
    image = np.zeros((*size, 3), np.float32)
    for octave in range(8):
        coarse = rng.standard_normal((2**octave * 3, 2**octave * 4, 3), np.float32) * 0.8**octave
        image += cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(127 + 55 * image, 0, 255).astype(np.uint8)


def _box(rng: np.random.Generator, size: tuple[int, int]) -> list[float]:
    """left, top, width, height of a person: between an eighth and all of the picture's height."""
    height, width = size
    tall = float(np.exp(rng.uniform(np.log(height / 8), np.log(height - 2))))
    wide = min(width - 2.0, tall * float(rng.uniform(0.35, 0.8)))
    return [round(float(rng.uniform(0, width - wide)), 2), round(float(rng.uniform(0, height - tall)), 2),
            round(wide, 2), round(tall, 2)]  # fmt: skip
