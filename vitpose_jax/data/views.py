"""Crops without labels, for pre-training: of whole images or of people, as MAE's recipe cuts them.

The streams have the properties of those in `pipeline`: the training stream is a pure function of (seed, step).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from vitpose_jax import geometry
from vitpose_jax.data import streams
from vitpose_jax.data.datasets import Split, StoredImages, open_images, open_split
from vitpose_jax.types import PlainCrop, Size

VIEWS = ("images", "people")
_TRIES = 10  # to draw a region that fits, before the largest central one is taken

Region = tuple[int, int, int, int]  # left, top, width, height; whole pixels inside of an image


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomResizedCrop:
    """Settings of the random crops. The defaults are those of MAE's recipe.

    Attributes:
        min_area: smallest share of the region that a crop shows.
        max_area: largest share.
        max_stretch: a crop's content may be made this much wider or narrower than it is; log-uniform.
        flip_prob: probability of a mirrored crop.

    Source: torchvision's RandomResizedCrop, whose stretch is 4/3; there crops are square.
    """

    min_area: float = 0.2
    max_area: float = 1.0
    max_stretch: float = 4 / 3
    flip_prob: float = 0.5

    def __post_init__(self):
        if not 0 < self.min_area <= self.max_area <= 1:
            raise ValueError(
                f"augment.min_area and max_area are {self.min_area} and {self.max_area}; they need to be shares of a "
                "region: above 0, up to 1, in this order"
            )
        if not self.max_stretch >= 1:
            raise ValueError(f"augment.max_stretch is {self.max_stretch}; it needs to be 1 or more")
        if not 0 <= self.flip_prob <= 1:
            raise ValueError(f"augment.flip_prob is {self.flip_prob}; it needs to be a probability in [0, 1]")

    def sample(self, region: Region, *, aspect_ratio: float, rng: np.random.Generator) -> Region:
        """Draws the rectangle that a crop shows.

        Args:
            region: what may be seen.
            aspect_ratio: crop width / crop height.
            rng: source of randomness.
        """
        x, y, width, height = region
        log_stretch = math.log(self.max_stretch)
        for _ in range(_TRIES):
            area = width * height * rng.uniform(self.min_area, self.max_area)
            aspect = aspect_ratio * math.exp(rng.uniform(-log_stretch, log_stretch))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return x + int(rng.integers(width - w + 1)), y + int(rng.integers(height - h + 1)), w, h
        low, high = aspect_ratio / self.max_stretch, aspect_ratio * self.max_stretch
        return central(region, aspect_ratio=min(max(width / height, low), high))


def central(region: Region, *, aspect_ratio: float) -> Region:
    """The largest rectangle of a shape (width / height) in the middle of a region."""
    x, y, width, height = region
    w = max(1, min(width, round(height * aspect_ratio)))
    h = max(1, min(height, round(width / aspect_ratio)))
    return x + (width - w) // 2, y + (height - h) // 2, w, h


class Seen(NamedTuple):
    """An image file and the region of it that may be seen."""

    jpeg: bytes
    box_cxcywh: np.ndarray | None  # None: all of it
    name: str


@dataclasses.dataclass(frozen=True)
class Views:
    """What a built split offers to look at: its images, or the people on them.

    Attributes:
        split: the opened split.
        aspect_ratio: width / height of the region that is made of a person's box, see `Dataset.regions`.
    """

    split: StoredImages | Split
    aspect_ratio: float

    @property
    def dataset_name(self) -> str:
        """A key of `DATASETS`, "custom" or "images"."""
        return self.split.dataset_name if isinstance(self.split, StoredImages) else self.split.dataset.name

    def __repr__(self) -> str:
        return f"Views({self.split!r})"

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Seen:
        if isinstance(self.split, StoredImages):
            jpeg, name = self.split.read(index)
            return Seen(jpeg, None, name)
        instances = self.split.instances
        image = int(instances.image[index])
        box = self.split.dataset.regions(instances.bbox_xywh[index], aspect_ratio=self.aspect_ratio)
        return Seen(self.split.jpeg(image), box, str(self.split.images.file_name[image]))


def open_views(data_dir: str, split: str, views: str, *, crop_size: Size) -> Views:
    """Opens a split of a built data set for pre-training.

    Args:
        data_dir: the built set.
        split: its name.
        views: "images", or "people": the boxes of the annotated instances, enlarged as for pose crops.
        crop_size: (H, W).

    Raises:
        ValueError: for other `views`, or for people of a set without annotations.
        FileNotFoundError: see `open_split`.
    """
    if views not in VIEWS:
        raise ValueError(f"views of a data set must be one of {VIEWS}, not {views!r}")
    opened = open_images(data_dir, split) if views == "images" else open_split(data_dir, split)
    return Views(opened, crop_size[1] / crop_size[0])


def decoded(seen: Seen) -> tuple[np.ndarray, Region]:
    """The pixels of an image and the region that may be seen of them.

    Raises:
        ValueError: the image cannot be decoded.
    """
    try:
        image = geometry.decode_jpeg(seen.jpeg)
    except ValueError as error:
        raise ValueError(f"image {seen.name}: {error}") from error
    height, width = image.shape[:2]
    if seen.box_cxcywh is None:
        return image, (0, 0, width, height)
    center, half = seen.box_cxcywh[:2], seen.box_cxcywh[2:] / 2
    low = np.clip(np.floor(center - half), 0, (width - 1, height - 1)).astype(int)
    high = np.clip(np.ceil(center + half), low + 1, (width, height)).astype(int)
    return image, (int(low[0]), int(low[1]), int(high[0] - low[0]), int(high[1] - low[1]))


@dataclasses.dataclass(frozen=True)
class ViewSource:
    """A data set as a part of a stream; `weight` see `pipeline.TrainSource`."""

    split: Views
    augment: RandomResizedCrop
    weight: float | None = None


def train_stream(
    sources: Sequence[ViewSource],
    *,
    crop_size: Size,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    rows: Sequence[int] | np.ndarray | None = None,
    num_workers: int = 0,
    num_threads: int = 4,
    prefetch: int = 4,
) -> grain.DatasetIterator:
    """The endless stream of this process's training batches, {"image": uint8 [R, H, W, 3]}.

    Args:
        sources: at least one.
        crop_size, batch_size, seed, start_step, rows, num_workers, num_threads, prefetch: see `pipeline.train_stream`.

    Raises:
        ValueError: an argument does not fit the others.
    """
    if seed < 0 or start_step < 0:
        raise ValueError(f"seed and start_step are 0 or more, not {seed} and {start_step}")
    own_rows = streams.checked_rows(rows, batch_size)
    parts = [(source.split, _CutRandomCrop(source.augment, crop_size)) for source in sources]
    stream = streams.interleaved(parts, streams.shares(sources), seed)
    batches = streams.own_batches(stream, own_rows, batch_size, start_step)
    return streams.start(batches, num_workers, num_threads, prefetch)


def eval_stream(
    views: Views,
    chosen: np.ndarray,
    *,
    crop_size: Size,
    batch_size: int,
    rows: Sequence[int] | np.ndarray | None = None,
    num_workers: int = 0,
    num_threads: int = 4,
    prefetch: int = 4,
) -> grain.DatasetIterator:
    """This process's batches of an evaluation: the middle of what may be seen, every row once over all processes.

    Args:
        views: what to look at.
        chosen: int [P], which of them.
        crop_size, batch_size, rows, num_workers, num_threads, prefetch: see `pipeline.eval_stream`.

    Returns:
        Finite iterator of {"image": uint8 [R, H, W, 3], "row": int32 [R]}: which of the views it is; -1 is padding.

    Raises:
        ValueError: an argument does not fit the others.
    """
    own_rows = streams.checked_rows(rows, batch_size)
    padded = np.concatenate([chosen, np.full(-len(chosen) % batch_size, -1)])
    crops = _EvalCrops(views, padded.reshape(batch_size, -1)[own_rows].ravel(), crop_size)
    return streams.start(grain.MapDataset.source(crops).batch(len(own_rows)), num_workers, num_threads, prefetch)


@dataclasses.dataclass(frozen=True)
class _EvalCrops:
    views: Views
    rows: np.ndarray
    crop_size: Size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = np.int32(self.rows[index])
        if row < 0:
            return {"image": np.zeros((*self.crop_size, 3), np.uint8), "row": row}
        image, region = decoded(self.views[int(row)])
        shown = central(region, aspect_ratio=self.crop_size[1] / self.crop_size[0])
        return {"image": geometry.resize_region(image, shown, self.crop_size), "row": row}


@dataclasses.dataclass(frozen=True)
class _CutRandomCrop(grain.transforms.RandomMap):
    augment: RandomResizedCrop
    crop_size: Size

    def random_map(self, seen: Seen, rng: np.random.Generator) -> PlainCrop:
        image, region = decoded(seen)
        height, width = self.crop_size
        chosen = self.augment.sample(region, aspect_ratio=width / height, rng=rng)
        crop = geometry.resize_region(image, chosen, self.crop_size)
        flipped = rng.uniform(0.0, 1.0) < self.augment.flip_prob
        return PlainCrop(image=np.ascontiguousarray(crop[:, ::-1]) if flipped else crop)
