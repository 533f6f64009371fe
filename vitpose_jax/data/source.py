"""The downloaded data set that a build starts from: which splits are there, and what of them is sound."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence

import numpy as np

from vitpose_jax.data.datasets import Dataset
from vitpose_jax.data.image_size import image_size
from vitpose_jax.data.tables import Images, Instances
from vitpose_jax.progress import progress_bar


def find_splits(dataset: Dataset, source: pathlib.Path, wanted: Sequence[str] | None) -> list[str]:
    """The splits to build, in the order of the data set's row.

    Args:
        dataset: row of `DATASETS`.
        source: the downloaded data set in its official layout.
        wanted: which splits; None for those that are there.

    Raises:
        ValueError: the data set has no such split.
        FileNotFoundError: a wanted split is not there, or none is.
    """
    unknown = sorted(set(wanted or ()) - dataset.splits.keys())
    if unknown:
        raise ValueError(f"{dataset.name} has the splits {list(dataset.splits)}, not {unknown}")
    missing = missing_paths(dataset, source)
    found = [split for split in dataset.splits if split not in missing]
    absent = [split for split in wanted or () if split in missing]
    if absent or not found:
        paths = [path for split in absent or dataset.splits for path in missing[split]]
        raise FileNotFoundError(
            f"{source} lacks what {dataset.name} needs (official layout, unpacked):\n"
            + "\n".join(f"  {path}" for path in paths)
        )
    return [split for split in found if wanted is None or split in wanted]


def missing_paths(dataset: Dataset, source: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """What a source folder lacks, by split; complete splits do not occur."""
    missing = {}
    for split, files in dataset.splits.items():
        annotations, images = source / files.annotations, source / files.images
        there = {annotations: annotations.is_file(), images: images.is_dir()}
        absent = [path for path, is_there in there.items() if not is_there]
        if absent:
            missing[split] = absent
    return missing


def originals(dataset: Dataset, source: pathlib.Path, split: str) -> list[str]:
    """Files of a split that are copied as they are, relative to the source folder."""
    files = dataset.splits[split]
    if files.detections is None or not (source / files.detections).is_file():
        return [files.annotations]
    return [files.annotations, files.detections]


def hashes(dataset: Dataset, source: pathlib.Path, split: str) -> dict[str, str]:
    """SHA-256 of a split's original files: what makes two sources the same."""
    found = {}
    for file in originals(dataset, source, split):
        with open(source / file, "rb") as stream:
            found[file] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


@dataclasses.dataclass(frozen=True)
class Plan:
    """What will be written of a split.

    Attributes:
        images: those to store.
        instances: those on them.
        folder: where the image files lie.
        lengths: int64 [M], bytes of each image file.
        faults: a sentence for each broken entry, which is left out of the rest.
        skipped_image_ids: images of the annotation file that are left out as broken.
    """

    images: Images
    instances: Instances
    folder: pathlib.Path
    lengths: np.ndarray
    faults: list[str]
    skipped_image_ids: list[int]

    @property
    def digest(self) -> str:
        """Changes if an image file is exchanged for one of another size."""
        listing = list(zip(self.images.file_name.tolist(), self.lengths.tolist(), strict=True))
        return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def plan_split(dataset: Dataset, source: pathlib.Path, split: str) -> Plan:
    """Reads a split's annotations and checks every image that is to be stored.

    Raises:
        ValueError: the annotation file cannot be read at all.
    """
    files = dataset.splits[split]
    annotations = dataset.read(source / files.annotations, dataset.keypoint_set)
    images, instances, folder = annotations.images, annotations.instances, source / files.images
    faults = list(annotations.faults)

    stored = np.full(len(images), files.every_image)
    stored[instances.image] = True
    lengths = np.zeros(len(images), np.int64)
    broken = []
    for row in progress_bar(np.flatnonzero(stored), desc=f"checking {split}", unit=" images"):
        try:
            lengths[row] = len(read_image(folder, images, row))
        except ValueError as error:
            faults.append(str(error))
            broken.append(row)
    stored[broken] = False

    rows = np.flatnonzero(stored)
    kept = instances.take(stored[instances.image])
    return Plan(
        images=images.take(rows),
        instances=dataclasses.replace(kept, image=np.searchsorted(rows, kept.image).astype(np.int32)),
        folder=folder,
        lengths=lengths[rows],
        faults=[f"{split}: {fault}" for fault in faults],
        skipped_image_ids=annotations.faulty_image_ids + images.image_id[broken].tolist(),
    )


def read_image(folder: pathlib.Path, images: Images, row: int) -> bytes:
    """The bytes of an image file. Raises ValueError, naming the image, if the file is not what it should be."""
    path = folder / images.file_name[row]
    label = f"image {images.image_id[row]} ({path.name})"
    try:
        data = path.read_bytes()
        size = image_size(data)
    except OSError as error:
        raise ValueError(f"{label}: cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    expected = tuple(images.size[row].tolist())
    if size != expected:
        raise ValueError(
            f"{label}: the file is {size[1]} x {size[0]}, the annotations say {expected[1]} x {expected[0]}"
        )
    return data
