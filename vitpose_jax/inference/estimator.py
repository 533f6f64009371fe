"""`PoseEstimator`: images and boxes in, poses in image pixels out.

    estimator = PoseEstimator.load("checkpoints/vitpose_b")
    poses = estimator(image, [[left, top, width, height]])        # one image: list[Pose]
    poses = estimator([image, other], [bboxes, other_bboxes])     # several: list[list[Pose]]

Crops are cut as evaluation cuts them. Batches come in a few fixed sizes, each compiled when it is first needed.
"""

import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, overload

import jax
import numpy as np
import numpy.typing as npt

from vitpose_jax import geometry
from vitpose_jax.data.catalog import DATASETS, Dataset
from vitpose_jax.data.custom import custom_dataset
from vitpose_jax.evaluation.predict import make_heatmaps, make_predict
from vitpose_jax.evaluation.results import rescore
from vitpose_jax.inference import device_crops
from vitpose_jax.keypoints import KeypointSet
from vitpose_jax.models import inference_weights
from vitpose_jax.models.placement import in_chunks
from vitpose_jax.models.settings import DTYPES
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.training import sharding
from vitpose_jax.training.checkpoint import LoadedModel, load_model
from vitpose_jax.types import Pose

CROPPING = ("host", "device")
_GROWTH = 4  # from one size of a batch to the next


class PoseEstimator:
    """Predicts the keypoints of the instances in boxes. Runs on all devices of this process.

    Args:
        loaded: a model with its weights, from `training.checkpoint.load_model`; or use `load`.
        dataset: name of the decoder; a model with a single one needs none.
        flip_test: average the heatmaps with those of the mirrored crop: twice the work, a little more accurate.
        dtype: "float32" or "bfloat16", of the computation; None as the checkpoint says.
        batch_size: most crops that the devices get at once.
        cropping: "host" cuts crops with OpenCV; "device" sends whole images and cuts on the accelerator. Equal crops.

    Attributes:
        model: the network.
        variables: {"params", "batch_stats"}, on the devices, as `models.inference_weights` prepares them.
        dataset: name of the decoder in use.
        keypoint_set: what it predicts.
        udp: convention of its crops, see `geometry`.
        flip_test: as given.
        heatmaps: from (variables, uint8 crops [B, H, W, 3]) to float32 [B, h, w, K]; a function for `jax.jit`.
        predict: from (variables, uint8 crops [B, H, W, 3], crop_to_image [B, 2, 3]) to keypoints in image pixels
            [B, K, 2] and scores [B, K]; a function for `jax.jit`.
        batch_sizes: the sizes of batches that the devices see.

    Raises:
        ValueError: for a setting outside these, or a data set that the model has no decoder for.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        dataset: str | None = None,
        flip_test: bool = True,
        dtype: str | None = None,
        batch_size: int = 64,
        cropping: str = "host",
    ):
        if dtype not in (None, *DTYPES):
            raise ValueError(f"dtype must be one of {sorted(DTYPES)}, or None for the checkpoint's, not {dtype!r}")
        if cropping not in CROPPING:
            raise ValueError(f"cropping must be one of {CROPPING}, not {cropping!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.dataset = _decoder(loaded, dataset)
        self.keypoint_set = loaded.file.keypoint_set(self.dataset)
        self.model = vitpose(**{**loaded.file.settings, **({"dtype": dtype} if dtype else {})})
        self.path = loaded.path
        self.udp = bool(loaded.file.datasets[self.dataset]["udp"])
        self._row = dataset_row(self.dataset, self.keypoint_set)
        self._cropping = cropping
        self._mesh = sharding.make_mesh()
        self._threads = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
        placed = {part: sharding.place(tree, self._mesh) for part, tree in loaded.variables.items()}
        self.variables = inference_weights.prepared(self.model, placed)
        self.batch_sizes = _batch_sizes(batch_size, jax.device_count())
        self.flip_test = flip_test
        of_this: dict[str, Any] = {
            "dataset": self.dataset, "flip_index": self.keypoint_set.flip_index, "udp": self.udp,
            "flip_test": flip_test,
        }  # fmt: skip
        self.heatmaps = make_heatmaps(self.model, **of_this)
        self.predict = make_predict(self.model, **of_this, blur_kernel=loaded.file.codec["blur_kernel"])
        predict = sharding.on_mesh(in_chunks(self.predict), self._mesh)
        self._compiled = jax.jit(predict)
        self._compiled_with_cutting = jax.jit(functools.partial(device_crops.predict_regions, predict))

    @classmethod
    def load(cls, path: str | os.PathLike, **settings: Any) -> "PoseEstimator":
        """An estimator from a checkpoint: a run's folder (its best step is taken) or one step's folder.

        Args:
            path: see `training.checkpoint.load_model`.
            **settings: keyword arguments of `PoseEstimator`.

        Raises:
            ValueError: there is no checkpoint, or a setting does not fit.
        """
        return cls(load_model(path), **settings)

    @overload
    def __call__(
        self, images: np.ndarray, bboxes_xywh: npt.ArrayLike, bbox_scores: npt.ArrayLike | None = None
    ) -> list[Pose]: ...

    @overload
    def __call__(
        self,
        images: Sequence[np.ndarray],
        bboxes_xywh: Sequence[npt.ArrayLike],
        bbox_scores: Sequence[npt.ArrayLike] | None = None,
    ) -> list[list[Pose]]: ...

    def __call__(self, images: Any, bboxes_xywh: Any, bbox_scores: Any = None) -> Any:
        """The poses in boxes, in the order of the boxes.

        Args:
            images: uint8 [H_img, W_img, 3], RGB, of any size; or a list of such.
            bboxes_xywh: [P, 4] left, top, width, height in pixels of the image, P may be 0; for several images, a list
                of such, one for each.
            bbox_scores: [P] a detector's confidences, which enter `Pose.score`; 1 if not given.

        Returns:
            A list of P poses; for several images, a list of such.

        Raises:
            ValueError: for an image that is not RGB bytes, or boxes that are no boxes on it.
        """
        single = not isinstance(images, list | tuple) and np.ndim(images) != 4
        if single:
            images, bboxes_xywh, bbox_scores = [images], [bboxes_xywh], [bbox_scores]
        if bbox_scores is None:
            bbox_scores = [None] * len(images)
        if not len(images) == len(bboxes_xywh) == len(bbox_scores):
            raise ValueError(
                f"{len(images)} images came with {len(bboxes_xywh)} arrays of boxes and {len(bbox_scores)} of scores; "
                "there needs to be one for each image"
            )
        boxes = []
        for number, (image, bboxes) in enumerate(zip(images, bboxes_xywh, strict=True)):
            where = "" if single else f" number {number}"
            check_image(image, where)
            boxes.append(check_bboxes(bboxes, image.shape[:2], where))
        box_scores = [_scores(scores, len(bboxes)) for scores, bboxes in zip(bbox_scores, boxes, strict=True)]
        points, scores = self._run(images, boxes)
        poses = self._poses(points, scores, boxes, box_scores)
        return poses[0] if single else poses

    def _run(self, images: Sequence[np.ndarray], boxes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints [P, K, 2] and scores [P, K] of all boxes of all images, in order."""
        num_keypoints = len(self.keypoint_set)
        points, scores = [np.zeros((0, num_keypoints, 2), np.float32)], [np.zeros((0, num_keypoints), np.float32)]
        in_flight: list[tuple[Any, int]] = []

        def collect(done: Any, count: int) -> None:
            some_points, some_scores = jax.device_get(done)
            points.append(some_points[:count])
            scores.append(some_scores[:count])

        height, width = self.model.image_size
        regions = [self._row.regions(bboxes, aspect_ratio=width / height) for bboxes in boxes]
        submit = self._cut_on_host if self._cropping == "host" else self._cut_on_device
        for done, count in submit(images, regions):
            in_flight.append((done, count))
            if len(in_flight) > 1:  # the device works on one batch while the host cuts the next
                collect(*in_flight.pop(0))
        for done, count in in_flight:
            collect(done, count)
        all_points, all_scores = np.concatenate(points), np.concatenate(scores)
        if not (np.isfinite(all_points).all() and np.isfinite(all_scores).all()):
            raise ValueError(f"the model predicts values that are not finite; the weights in {self.path} are broken")
        return all_points, all_scores

    def _cut_on_host(self, images: Sequence[np.ndarray], regions: Sequence[np.ndarray]) -> Iterator[tuple[Any, int]]:
        """Starts batches of crops of all images: (what the device will return, number of rows that count)."""

        def cut(job: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
            image, box = job
            return geometry.cut_region(image, box, self.model.image_size, udp=self.udp)

        jobs = [(image, box) for image, boxes in zip(images, regions, strict=True) for box in boxes]
        for start, count, rows in _batches(len(jobs), self.batch_sizes):
            crops, matrices = zip(*self._threads.map(cut, jobs[start : start + count]), strict=True)
            batch = _padded({"image": np.stack(crops), "crop_to_image": np.stack(matrices)}, rows)
            batch = sharding.global_batch(batch, self._mesh)
            yield self._compiled(self.variables, batch["image"], batch["crop_to_image"]), count

    def _cut_on_device(self, images: Sequence[np.ndarray], regions: Sequence[np.ndarray]) -> Iterator[tuple[Any, int]]:
        """Like `_cut_on_host`, image by image."""
        everywhere = jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec())
        for image, boxes in zip(images, regions, strict=True):
            if not len(boxes):
                continue
            image_size = np.array(image.shape[:2], np.int32)
            pixels, image_size = jax.device_put((device_crops.flat_pixels(image), image_size), everywhere)
            wanted = device_crops.region_batch(boxes, self.model.image_size, udp=self.udp)
            for start, count, rows in _batches(len(boxes), self.batch_sizes):
                some = {name: array[start : start + count] for name, array in wanted.items()}
                batch = sharding.global_batch(_padded(some, rows), self._mesh)
                yield self._compiled_with_cutting(self.variables, pixels, image_size, batch), count

    def _poses(
        self, points: np.ndarray, scores: np.ndarray, boxes: Sequence[np.ndarray], box_scores: Sequence[np.ndarray]
    ) -> list[list[Pose]]:
        instance_scores = rescore(scores, np.concatenate([np.zeros(0), *box_scores]))
        poses: list[list[Pose]] = []
        row = 0
        for bboxes, confidences in zip(boxes, box_scores, strict=True):
            poses.append([])
            for bbox, confidence in zip(bboxes, confidences, strict=True):
                poses[-1].append(
                    Pose(
                        keypoints=points[row], scores=scores[row], bbox_xywh=bbox.astype(np.float32),
                        bbox_score=float(confidence), score=float(instance_scores[row]),
                        keypoint_set=self.keypoint_set,
                    )
                )  # fmt: skip
                row += 1
        return poses


def dataset_row(dataset: str, keypoint_set: KeypointSet) -> Dataset:
    """The row whose boxes a decoder was trained with. Rows with the same keypoints cut the same regions."""
    rows = {name: row for name, row in DATASETS.items() if row.keypoint_set == keypoint_set}
    return rows.get(dataset) or next(iter(rows.values()), None) or custom_dataset(keypoint_set)


def check_image(image: Any, where: str = "") -> None:
    """Raises ValueError unless it is an RGB image of bytes; `where` follows the word image in the message."""
    if not isinstance(image, np.ndarray):
        raise ValueError(f"image{where} is a {type(image).__name__}; expected a NumPy array, uint8 [H, W, 3], RGB")
    advice = ""
    if image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1):
        advice = "; a grey image becomes RGB with cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)"
    elif image.ndim == 3 and image.shape[2] == 4:
        advice = "; leave the alpha channel out with image[..., :3]"
    elif image.dtype != np.uint8:
        advice = (
            "; values are whole numbers in 0…255: multiply an image in 0…1 by 255, round, and use .astype(np.uint8)"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image{where} is {image.dtype} {list(image.shape)}; expected uint8 [H, W, 3], RGB{advice}")
    if 0 in image.shape:
        raise ValueError(f"image{where} has no pixels: its shape is {list(image.shape)}")


def check_bboxes(bboxes_xywh: npt.ArrayLike, image_size: tuple[int, int], where: str = "") -> np.ndarray:
    """float64 [P, 4]: boxes that can be cropped from an image.

    Args:
        bboxes_xywh: [P, 4]; anything without elements counts as no boxes.
        image_size: (height, width) of the image.
        where: follows the word image in messages.

    Raises:
        ValueError: the shape differs, or a box is not finite, has no extent or lies outside the image.
    """
    try:
        bboxes = np.asarray(bboxes_xywh, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the boxes of image{where} are no array of numbers [P, 4]: {error}") from None
    if bboxes.size == 0:
        return np.zeros((0, 4))
    if bboxes.ndim != 2 or bboxes.shape[1] != 4:
        advice = "; a single box is [[left, top, width, height]]" if bboxes.shape == (4,) else ""
        raise ValueError(f"the boxes of image{where} have shape {list(bboxes.shape)}; expected [P, 4]{advice}")
    height, width = image_size
    left, top, box_width, box_height = bboxes.T
    for fault, rows in (
        ("has a value that is not finite", ~np.isfinite(bboxes).all(axis=1)),
        ("has no width or height", (box_width <= 0) | (box_height <= 0)),
        (
            f"lies outside the image of {width} x {height} pixels",
            (left >= width) | (top >= height) | (left + box_width <= 0) | (top + box_height <= 0),
        ),
    ):
        if rows.any():
            row = int(np.argmax(rows))
            raise ValueError(
                f"box {row} of image{where}, {bboxes[row].tolist()}, {fault}; boxes are left, top, width, height in "
                "pixels of the image"
            )
    return bboxes


def _scores(bbox_scores: npt.ArrayLike | None, count: int) -> np.ndarray:
    if bbox_scores is None:
        return np.ones(count)
    scores = np.asarray(bbox_scores, np.float64).reshape(-1)
    if len(scores) != count or not np.isfinite(scores).all():
        raise ValueError(f"bbox_scores need to be {count} finite numbers, one for each box, not {scores.tolist()}")
    return scores


def _decoder(loaded: LoadedModel, dataset: str | None) -> str:
    known = sorted(loaded.file.datasets)
    if dataset is None and len(known) != 1:
        raise ValueError(f"{loaded.path} has decoders for {', '.join(known)}; say which with dataset=NAME")
    if dataset is not None and dataset not in known:
        raise ValueError(f"{loaded.path} has no decoder for {dataset!r}, only for {', '.join(known)}")
    return dataset or known[0]


def _batch_sizes(largest: int, devices: int) -> tuple[int, ...]:
    """1, 4, 16, … crops for each device, up to `largest` on all of them."""
    most = math.ceil(largest / devices)
    sizes = [_GROWTH**power for power in range(most.bit_length()) if _GROWTH**power < most]
    return tuple(size * devices for size in [*sizes, most])


def _batches(count: int, sizes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(first row, number of rows, size of the batch) of the batches for `count` rows."""
    for start in range(0, count, sizes[-1]):
        rows = min(sizes[-1], count - start)
        yield start, rows, next(size for size in sizes if size >= rows)


def _padded(batch: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """The batch, filled up to so many rows by repeating its first."""
    return {
        name: np.concatenate([array, np.broadcast_to(array[:1], (rows - len(array), *array.shape[1:]))])
        for name, array in batch.items()
    }
