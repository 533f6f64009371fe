"""Streams of crops for training and evaluation, made by Grain on the host.

The training stream is a pure function of (seed, step):

    records -> shuffle, by epoch -> repeat -> random view, cut -> mix of data sets -> own rows -> batch -> prefetch

With `by_image` the shuffle keeps the people of an image together, see `order.py`.

The stream is one endless sequence of crops, and row r of batch n is its element nB + r. A process makes the rows that
its devices hold, whichever these are. So neither the number of processes or of workers, nor the mesh, nor the step at
which a run is resumed changes a global batch or the order of its rows.

Nothing may be filtered in the stream: positions would then depend on the data.

Worker processes are started afresh (not forked) and unpickle the stream, so the main script needs its
``if __name__ == "__main__"``. This package does not import jax; Grain itself imports jax's profiler where jax is
installed, which touches no device.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from vitpose_jax import geometry
from vitpose_jax.data import streams
from vitpose_jax.data.augment import Augment, train_transform
from vitpose_jax.data.datasets import Split
from vitpose_jax.data.tables import Instances
from vitpose_jax.data.truncate import is_shown
from vitpose_jax.types import EvalCrop, Record, TrainCrop

# Decoded images that a stream keeps for each of its threads where boxes come ordered by image.
_DECODED_IMAGES = 2


@dataclasses.dataclass(frozen=True)
class TrainSource:
    """A data set as a part of a training stream.

    Attributes:
        split: the data.
        augment: its random views.
        weight: its share of the stream, relative to the other sources' weights. By default its number of instances.
    """

    split: Split
    augment: Augment
    weight: float | None = None


def train_stream(
    sources: Sequence[TrainSource],
    *,
    crop_size: tuple[int, int],
    batch_size: int,
    seed: int,
    start_step: int = 0,
    rows: Sequence[int] | np.ndarray | None = None,
    by_image: bool = False,
    num_workers: int = 0,
    num_threads: int = 4,
    prefetch: int = 4,
) -> grain.DatasetIterator:
    """The endless stream of this process's training batches.

    Every source is shuffled anew each time it has been gone through. Sources are interleaved evenly by weight (kept to
    1 % of the smallest).

    Args:
        sources: at least one. `TrainBatch.dataset` is the place in this list.
        crop_size: (H, W).
        batch_size: B, of all processes together.
        seed: of order and augmentation, 0 or more.
        start_step: number of the first batch.
        rows: which rows of every batch this process makes, in this order, see `sharding.process_rows`; None for all.
        by_image: the people of an image follow one another, and it is decoded once for those in one batch of a process.
            Most of their crops then are in one batch. Otherwise all people are shuffled, as in the original.
        num_workers: worker processes that make batches, each in one thread. With 0, threads of this process make them.
        num_threads: how many, if there are no workers.
        prefetch: batches ready or in the making, in this process or in each worker.

    Returns:
        Iterator of `TrainBatch` of these rows; keypoints are padded with weight 0 to the largest K among the sources.
        Its `close()` stops the workers.

    Raises:
        ValueError: an argument does not fit the others.
    """
    if seed < 0 or start_step < 0:
        raise ValueError(f"seed and start_step are 0 or more, not {seed} and {start_step}")
    own_rows = streams.checked_rows(rows, batch_size)
    share = streams.shares(sources)
    num_keypoints = max(len(source.split.keypoint_set) for source in sources)
    kept = _kept_images(num_workers, num_threads) if by_image else 0
    parts: list[tuple[Any, grain.transforms.RandomMap]] = [
        (
            _TrainRecords(source.split, source.augment, crop_size[1] / crop_size[0], seed, index),
            _CutTrainCrop(source.split, source.augment, crop_size, num_keypoints, index, kept),
        )
        for index, source in enumerate(sources)
    ]
    images = [source.split.instances.image for source in sources] if by_image else None
    stream = streams.own_batches(streams.interleaved(parts, share, seed, images), own_rows, batch_size, start_step)
    return streams.start(stream, num_workers, num_threads, prefetch)


def eval_stream(
    instances: Instances,
    split: Split,
    *,
    crop_size: tuple[int, int],
    udp: bool,
    batch_size: int,
    rows: Sequence[int] | np.ndarray | None = None,
    pictures_ltrb: np.ndarray | None = None,
    num_workers: int = 0,
    num_threads: int = 4,
    prefetch: int = 4,
) -> grain.DatasetIterator:
    """This process's batches of an evaluation: every instance once, as it is, over all processes together.

    Instances come ordered by image, so that an image is decoded once for all of its boxes: each row of the batches goes
    through a consecutive part of them, and so does a process with consecutive rows. All processes get the same number
    of batches.

    Args:
        instances: annotated ones (``split.instances``) or a detector's boxes (`datasets.detection_boxes`).
        split: where their images are.
        crop_size: (H, W).
        udp: convention of the crops, see `geometry`.
        batch_size: B, of all processes together.
        rows: see `train_stream`.
        pictures_ltrb: int64 [P, 4], what is left of each instance's picture, see `truncate.Truncated`; None: all.
        num_workers: see `train_stream`.
        num_threads: see `train_stream`.
        prefetch: see `train_stream`.

    Returns:
        Finite iterator of `EvalBatch` of this process's rows. Padding rows have ``valid`` False, instance 0, a black
        image and the identity as ``crop_to_image``. Its `close()` stops the workers.

    Raises:
        ValueError: an argument does not fit the others.
    """
    own_rows = streams.checked_rows(rows, batch_size)
    if not len(instances):
        raise ValueError(f"there is no instance of {split!r} to evaluate on")
    order = np.argsort(instances.image, kind="stable")
    padding = -len(order) % batch_size
    order = np.concatenate([order, np.full(padding, -1)])
    own = order.reshape(batch_size, -1)[own_rows].ravel()
    boxes = split.dataset.regions(instances.bbox_xywh, aspect_ratio=crop_size[1] / crop_size[0])
    pictures = None if pictures_ltrb is None else pictures_ltrb[own]
    kept = _kept_images(num_workers, num_threads)
    crops = _EvalCrops(split, own, instances.image[own], boxes[own], crop_size, udp, pictures, kept)
    return streams.start(grain.MapDataset.source(crops).batch(len(own_rows)), num_workers, num_threads, prefetch)


@dataclasses.dataclass(frozen=True)
class _TrainRecords:
    """The records of a training source, at random access."""

    split: Split
    augment: Augment
    aspect_ratio: float
    seed: int
    index: int

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, instance: int) -> Record:
        table = self.split.instances
        bbox = table.bbox_xywh[instance]
        box = self.split.dataset.regions(bbox, aspect_ratio=self.aspect_ratio)
        if not self.augment.jitter_each_epoch:
            box = self.augment.jitter_center(box, bbox, np.random.default_rng([self.seed, self.index, instance]))
        return Record(
            instance=int(instance),
            box_cxcywh=box,
            bbox_xywh=bbox.astype(np.float32),
            keypoints=table.keypoints[instance],
        )


@dataclasses.dataclass(frozen=True)
class _CutTrainCrop(grain.transforms.RandomMap):
    """Draws a view of a record and cuts its crop."""

    split: Split
    augment: Augment
    crop_size: tuple[int, int]
    num_keypoints: int
    index: int
    kept_images: int

    def random_map(self, record: Record, rng: np.random.Generator) -> TrainCrop:
        image = self._pixels(int(self.split.instances.image[record["instance"]]))
        image_width, keypoint_set = image.shape[1], self.split.keypoint_set
        aspect_ratio = self.crop_size[1] / self.crop_size[0]
        box, keypoints_img = record["box_cxcywh"], record["keypoints"]
        if self.augment.jitter_each_epoch:
            box = self.augment.jitter_center(box, record["bbox_xywh"], rng)
        truncated = self.augment.truncated(record["bbox_xywh"], rng)
        if truncated:
            box = self.split.dataset.regions(truncated.bbox_xywh, aspect_ratio=aspect_ratio)
            keypoints_img = keypoints_img * is_shown(keypoints_img[:, :2], truncated.picture_ltrb)[:, None]
        view = self.augment.sample(
            box,
            keypoints_img,
            image_width=image_width,
            aspect_ratio=aspect_ratio,
            keypoint_set=keypoint_set,
            rng=rng,
        )
        image_to_crop, keypoints = train_transform(
            view,
            keypoints_img,
            image_width=image_width,
            crop_size=self.crop_size,
            flip_index=keypoint_set.flip_index,
            udp=self.split.dataset.udp,
        )
        padded = np.zeros((self.num_keypoints, 3), np.float32)
        padded[: len(keypoints)] = keypoints
        return TrainCrop(
            image=geometry.cut_crop(image, image_to_crop, self.crop_size, truncated and truncated.picture_ltrb),
            keypoints=padded,
            dataset=np.int32(self.index),
        )

    @functools.cached_property
    def _pixels(self) -> Any:
        return functools.lru_cache(self.kept_images)(self.split.pixels)

    def __getstate__(self) -> dict[str, Any]:
        return _without_cache(self)


@dataclasses.dataclass(frozen=True)
class _EvalCrops:
    """The crops of one process's part of an evaluation, at random access. Row -1 of `rows` is padding."""

    split: Split
    rows: np.ndarray
    images: np.ndarray
    boxes: np.ndarray
    crop_size: tuple[int, int]
    udp: bool
    pictures: np.ndarray | None
    kept_images: int

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> EvalCrop:
        if self.rows[index] < 0:
            return EvalCrop(
                image=np.zeros((*self.crop_size, 3), np.uint8),
                crop_to_image=np.eye(2, 3, dtype=np.float32),
                instance=np.int32(0),
                valid=np.bool_(False),
            )
        image, box = self._pixels(int(self.images[index])), self.boxes[index]
        picture_ltrb = None if self.pictures is None else self.pictures[index]
        crop, crop_to_image = geometry.cut_region(image, box, self.crop_size, udp=self.udp, picture_ltrb=picture_ltrb)
        return EvalCrop(
            image=crop,
            crop_to_image=crop_to_image,
            instance=np.int32(self.rows[index]),
            valid=np.bool_(True),
        )

    @functools.cached_property
    def _pixels(self) -> Any:
        return functools.lru_cache(self.kept_images)(self.split.pixels)

    def __getstate__(self) -> dict[str, Any]:
        return _without_cache(self)


def _kept_images(num_workers: int, num_threads: int) -> int:
    return _DECODED_IMAGES * (1 if num_workers else num_threads)


def _without_cache(crops: Any) -> dict[str, Any]:
    """What of crops goes to a worker process: decoded images stay where they are."""
    return {name: value for name, value in vars(crops).items() if name != "_pixels"}
