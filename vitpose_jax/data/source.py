"""The downloaded data set that a build starts from: which splits are there, and what of them is sound."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from vitpose_jax.data.catalog import Dataset
from vitpose_jax.data.image_size import image_size
from vitpose_jax.data.tables import Images, Instances
from vitpose_jax.progress import progress_bar


def find_splits(dataset: Dataset, source: pathlib.Path, wanted: Sequence[str] | None) -> list[str]:
    """The splits to build, in the order of the data set's row.

    Args:
        dataset: row of `DATASETS`, or that of a set of one's own.
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
            f"{source} lacks what {dataset.name} needs (unpacked, laid out as in docs/datasets.md):\n"
            + "\n".join(f"  {path}" for path in dict.fromkeys(paths))
        )
    return [split for split in found if wanted is None or split in wanted]


def missing_paths(dataset: Dataset, source: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """What a source folder lacks, by split; complete splits do not occur."""
    missing = {}
    for split, files in dataset.splits.items():
        there = {source / file: (source / file).is_file() for file in (files.annotations, *files.inputs)}
        there[source / files.images] = (source / files.images).is_dir()
        absent = [path for path, is_there in there.items() if not is_there]
        if absent:
            missing[split] = absent
    return missing


def absences(dataset: Dataset, source: pathlib.Path, wanted: Sequence[str] | None) -> list[str]:
    """A sentence for each thing that a complete source folder would have had: splits, boxes, files for evaluation.

    Args:
        dataset, source, wanted: as for `find_splits`, which they pass.
    """
    missing = missing_paths(dataset, source) if wanted is None else {}
    said = [
        f"Built without the split {name!r}: {source} has no {' and no '.join(map(str, paths))}."
        for name, paths in missing.items()
    ]
    for split in find_splits(dataset, source, wanted):
        files = dataset.splits[split]
        if files.detections is not None and detection_file(dataset, source, split) is None:
            said.append(f"{split}: without detector boxes, {source} has no {files.detections}.")
        if len(other_files(dataset, source, split)) < len(files.others):
            said.append(f"{split}: cannot be evaluated, {source} lacks some of {', '.join(files.others)}.")
    return said


def detection_file(dataset: Dataset, source: pathlib.Path, split: str) -> str | None:
    """The file of a split's detector boxes, relative to the source folder; None if there is none."""
    file = dataset.splits[split].detections
    return file if file is not None and (source / file).is_file() else None


def other_files(dataset: Dataset, source: pathlib.Path, split: str) -> list[str]:
    """Those of a split's other files that are there, relative to the source folder."""
    return [file for file in dataset.splits[split].others if (source / file).is_file()]


def hashes(dataset: Dataset, source: pathlib.Path, split: str) -> dict[str, str]:
    """SHA-256 of a split's original files: what makes two sources the same."""
    files, detections = dataset.splits[split], detection_file(dataset, source, split)
    names = [files.annotations, *files.inputs, *([detections] if detections else [])]
    return {file: file_hash(source / file) for file in [*names, *other_files(dataset, source, split)]}


def file_hash(path: pathlib.Path) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
        for_evaluation: see `annotations.Annotations`.
    """

    images: Images
    instances: Instances
    folder: pathlib.Path
    lengths: np.ndarray
    faults: list[str]
    skipped_image_ids: list[int]
    for_evaluation: dict[str, Any] | None

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
    annotations = (files.read or dataset.read)(source / files.annotations, dataset.keypoint_set)
    images, instances, folder = annotations.images, annotations.instances, source / files.images
    faults = list(annotations.faults)

    stored = np.full(len(images), files.every_image)
    stored[instances.image] = True
    lengths, sizes = np.zeros(len(images), np.int64), images.size.copy()
    broken = []
    for row in progress_bar(np.flatnonzero(stored), desc=f"checking {split}", unit=" images"):
        try:
            data, sizes[row] = read_image(folder, images, row)
            lengths[row] = len(data)
        except ValueError as error:
            faults.append(str(error))
            broken.append(row)
    stored[broken] = False

    images = dataclasses.replace(images, size=sizes)
    rows = np.flatnonzero(stored)
    kept = instances.take(stored[instances.image])
    return Plan(
        images=images.take(rows),
        instances=dataclasses.replace(kept, image=np.searchsorted(rows, kept.image).astype(np.int32)),
        folder=folder,
        lengths=lengths[rows],
        faults=[f"{split}: {fault}" for fault in faults],
        skipped_image_ids=annotations.faulty_image_ids + images.image_id[broken].tolist(),
        for_evaluation=annotations.for_evaluation,
    )


def read_image(folder: pathlib.Path, images: Images, row: int) -> tuple[bytes, tuple[int, int]]:
    """The bytes of an image file and its (height, width).

    Raises:
        ValueError: the file is not what it should be; the message names the image.
    """
    name = str(images.file_name[row])
    path = folder / name
    label = f"image {images.image_id[row]} ({path.name})"
    try:
        data = path.read_bytes()
        size = image_size(data)
    except OSError as error:
        reason = f"{label}: cannot read {path}: {error.strerror}"
        if pathlib.PurePosixPath(name).is_absolute() or pathlib.PureWindowsPath(name).is_absolute():
            reason += f"; its file_name {name!r} is an absolute path, make it relative to the image folder {folder}"
        raise ValueError(reason) from None
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    expected = tuple(images.size[row].tolist())
    if expected != (0, 0) and size != expected:
        raise ValueError(
            f"{label}: the file is {size[1]} x {size[0]}, the annotations say {expected[1]} x {expected[0]}"
        )
    return data, size
