"""Turns a downloaded data set into what training and evaluation read: ``python -m vitpose_jax.data.build --help``.

The built folder is a TFDS data set of ArrayRecord shards, written and read without TensorFlow:

    coco-train.array_record-00000-of-00080 …  one record per image: the image file untouched, its id, its name
    dataset_info.json  features.json          for tfds.builder_from_directory(folder).as_data_source(split)
    instances-train.npz …                     the tables `datasets.Images` and `datasets.Instances`
    annotations/…  person_detection_results/… the original files untouched, for evaluation
    build.json                                what was built from what; "complete" once everything is there
    faults.txt                                with --skip-broken, every entry that was left out

Of a training split the images with at least one usable instance are stored, of an evaluation split all that its
annotation file lists, because detectors find boxes on the others, too.

Everything is checked before anything is written: each entry of the annotation files, and of each image file that it is
there, has an end and the size that the annotations claim. This reads the files without decoding their pixels, so damage
in the midst of an image file stays unnoticed, as it does in OpenCV.

Shards are written beside and renamed, so a build that was stopped finds its finished shards again.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from vitpose_jax import geometry
from vitpose_jax.data.datasets import (
    BUILD_FILE,
    BUILD_FORMAT,
    DATASETS,
    Annotations,
    Dataset,
    Images,
    open_split,
    read_json,
)
from vitpose_jax.progress import progress_bar

SHARD_BYTES = 128 * 2**20
FAULTS_FILE = "faults.txt"
FAULTS_SHOWN = 20

_EXIT_ERROR, _EXIT_FAULTS, _EXIT_STOPPED = 1, 2, 130

# One record per chunk, so that each is read alone, and no second compression on top of JPEG's.
_WRITER_OPTIONS = "group_size:1,uncompressed"

_FEATURES = tfds.features.FeaturesDict(
    {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "image_id": np.int64,
        "file_name": tfds.features.Text(),
    }
)
_SERIALIZER = ExampleSerializer(_FEATURES.get_serialized_info())


class FaultsError(Exception):
    """The source has broken entries. `faults` has a sentence for each."""

    def __init__(self, faults: list[str]):
        super().__init__(f"{len(faults)} faults")
        self.faults = faults


class Result(NamedTuple):
    """What `build` did.

    Attributes:
        built: False if the set was there already and nothing was done.
        splits: those of the built set.
        left_out: a sentence for each broken entry that was left out.
    """

    built: bool
    splits: list[str]
    left_out: list[str]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What will be written of a split.

    Attributes:
        annotations: what is stored: images, and instances on them.
        folder: where the image files lie.
        shards: (first, end) rows of images, by shard.
        digest: changes if an image file is exchanged for one of another size.
        skipped_image_ids: broken images, left out.
    """

    annotations: Annotations
    folder: pathlib.Path
    shards: list[tuple[int, int]]
    digest: str
    skipped_image_ids: list[int]


def build(
    name: str,
    source: str | pathlib.Path,
    out: str | pathlib.Path,
    *,
    splits: Sequence[str] | None = None,
    skip_broken: bool = False,
) -> Result:
    """Builds a data set, or continues a build that was stopped.

    Args:
        name: a key of `DATASETS`.
        source: the downloaded data set in its official layout.
        out: folder to build in; new, empty, or left by a build with the same arguments that was stopped.
        splits: which ones; by default those that are there.
        skip_broken: leave broken entries out instead of refusing to build.

    Returns:
        What was done.

    Raises:
        FaultsError: entries are broken, and `skip_broken` is off. Nothing is left in `out`.
        FileNotFoundError: the source lacks what it should have.
        ValueError: an annotation file cannot be read, or `out` holds something else.
        KeyboardInterrupt: it was stopped; what is finished is kept.
    """
    if name not in DATASETS:
        raise ValueError(f"there is no data set {name!r}; there are {sorted(DATASETS)}")
    dataset, source, out = DATASETS[name], pathlib.Path(source), pathlib.Path(out)
    found = _find_splits(dataset, source, splits)
    request = {
        "format": BUILD_FORMAT,
        "dataset": name,
        "skip_broken": skip_broken,
        "sources": {split: _hashes(dataset, source, split) for split in found},
    }
    state = _read_state(out, request)
    if state.get("complete"):
        return Result(False, found, [])

    faults: list[str] = []
    plans = {split: _plan(dataset, source, split, faults) for split in found}
    if faults and not skip_broken:
        if state:
            _remove(out, dataset)
        raise FaultsError(faults)
    for split, plan in plans.items():
        if not len(plan.annotations.instances):
            raise ValueError(f"{source} has no usable instance in its split {split!r}")
    digests = {split: plan.digest for split, plan in plans.items()}
    if state.get("digests", digests) != digests:
        raise ValueError(
            f"image files in {source} have changed since the build in {out} was begun; delete {out} and build anew"
        )

    out.mkdir(parents=True, exist_ok=True)
    _write_text(out / BUILD_FILE, _to_json({**request, "complete": False, "digests": digests}))
    if faults:
        _write_text(out / FAULTS_FILE, _lines(faults))
    else:
        (out / FAULTS_FILE).unlink(missing_ok=True)
    shards = {split: _write_shards(name, split, plan, out) for split, plan in plans.items()}
    for split, plan in plans.items():
        _write_instances(out / _instances_file(split), plan.annotations)
        for file in _originals(dataset, source, split):
            _copy(source / file, out / file)
    _write_tfds_metadata(name, plans, out)
    built = {}
    for split, plan in plans.items():
        files = dataset.splits[split]
        built[split] = {
            "annotations": files.annotations,
            "detections": files.detections if files.detections in _originals(dataset, source, split) else None,
            "instances": _instances_file(split),
            "shards": shards[split],
            "skipped_image_ids": plan.skipped_image_ids,
        }
    _write_text(out / BUILD_FILE, _to_json({**request, "complete": True, "digests": digests, "splits": built}))
    return Result(True, found, faults)


def image_size(data: bytes) -> tuple[int, int]:
    """(height, width) that an image file has when decoded, read from its headers where they suffice.

    Args:
        data: the bytes of the file.

    Returns:
        Pixels, upright as the EXIF orientation says.

    Raises:
        ValueError: the bytes are no image, or a JPEG file that ends too early.
    """
    size = _plain_jpeg_size(data)
    return geometry.decode_jpeg(data).shape[:2] if size is None else size


_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_JPEG_SEGMENT = re.compile(rb"\xff+([^\x00\xff])(..)", re.DOTALL)  # marker, length
_JPEG_EXIF, _JPEG_SCAN = 0xE1, 0xDA
# Start of a frame, which tells the size: C0 to CF, but not C4 (Huffman tables), C8 (reserved), CC (arithmetic coding).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG file; None where only decoding tells: EXIF may turn it, it is cut off, it is none."""
    if not data.startswith(_JPEG_START):
        return None
    size, position = None, len(_JPEG_START)
    while segment := _JPEG_SEGMENT.match(data, position):
        code, body = segment[1][0], segment.end()
        position = segment.start(2) + int.from_bytes(segment[2], "big")
        if code == _JPEG_EXIF and data.startswith(b"Exif", body):
            return None
        if code in _JPEG_FRAMES:  # body: bits per sample, height, width
            size = int.from_bytes(data[body + 1 : body + 3], "big"), int.from_bytes(data[body + 3 : body + 5], "big")
        if code == _JPEG_SCAN:
            # Compressed data never hold FF D9, so if one comes later, it is the end.
            return size if data.rfind(_JPEG_END, position) >= 0 else None
    return None


def _find_splits(dataset: Dataset, source: pathlib.Path, wanted: Sequence[str] | None) -> list[str]:
    """The splits to build, in the order of the data set's row."""
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
        absent = [
            path for path, there in ((annotations, annotations.is_file()), (images, images.is_dir())) if not there
        ]
        if absent:
            missing[split] = absent
    return missing


def _originals(dataset: Dataset, source: pathlib.Path, split: str) -> list[str]:
    """Files of a split that are copied as they are, relative to the source folder."""
    files = dataset.splits[split]
    has_detections = files.detections is not None and (source / files.detections).is_file()
    return [files.annotations, files.detections] if has_detections else [files.annotations]  # type: ignore[list-item]


def _hashes(dataset: Dataset, source: pathlib.Path, split: str) -> dict[str, str]:
    """SHA-256 of a split's original files: what makes two sources the same."""
    hashes = {}
    for file in _originals(dataset, source, split):
        with open(source / file, "rb") as stream:
            hashes[file] = hashlib.file_digest(stream, "sha256").hexdigest()
    return hashes


def _read_state(out: pathlib.Path, request: dict[str, Any]) -> dict[str, Any]:
    """What an earlier build left in `out`, {} if nothing. Raises ValueError if it is not the build requested now."""
    if not (out / BUILD_FILE).is_file():
        if out.exists() and (not out.is_dir() or any(path.name != FAULTS_FILE for path in out.iterdir())):
            raise ValueError(f"{out} is not empty and holds no build; choose another --out")
        return {}
    state = read_json(out / BUILD_FILE)
    different = [key for key, value in request.items() if state.get(key) != value]
    if different:
        explained = ", ".join(_difference(key, state.get(key), request[key]) for key in different)
        raise ValueError(f"{out} holds another build ({explained}); choose another --out, or delete it first")
    return state


def _difference(key: str, there: Any, now: Any) -> str:
    if key != "sources":
        return f"{key} was {there!r}, now {now!r}"
    if there.keys() != now.keys():
        return f"its splits are {list(there)}, now they would be {list(now)}"
    files = [
        file
        for split in now
        for file in there[split].keys() | now[split].keys()
        if there[split].get(file) != now[split].get(file)
    ]
    return f"other files: {sorted(files)}"


def _plan(dataset: Dataset, source: pathlib.Path, split: str, faults: list[str]) -> _Plan:
    """Reads and checks a split. Appends what is broken to `faults` and leaves it out of the plan."""
    files = dataset.splits[split]
    annotations = dataset.read(source / files.annotations, dataset.keypoint_set)
    faults += [f"{split}: {fault}" for fault in annotations.faults]
    images, instances, folder = annotations.images, annotations.instances, source / files.images

    stored = np.full(len(images), files.every_image)
    stored[instances.image] = True
    lengths = np.zeros(len(images), np.int64)
    broken = []
    for row in progress_bar(np.flatnonzero(stored), desc=f"checking {split}", unit=" images"):
        try:
            lengths[row] = len(_read_image(folder, images, row))
        except ValueError as error:
            faults.append(f"{split}: {error}")
            broken.append(row)
    stored[broken] = False

    rows = np.flatnonzero(stored)
    usable = stored[instances.image]
    images_kept = Images(**{key: column[rows] for key, column in vars(images).items()})
    columns = {key: column[usable] for key, column in vars(instances).items()}
    columns["image"] = np.searchsorted(rows, columns["image"]).astype(np.int32)
    kept = Annotations(images_kept, dataclasses.replace(instances, **columns), [])
    listing = list(zip(images_kept.file_name.tolist(), lengths[rows].tolist(), strict=True))
    return _Plan(
        annotations=kept,
        folder=folder,
        shards=_shards(lengths[rows]),
        digest=hashlib.sha256(json.dumps(listing).encode()).hexdigest(),
        skipped_image_ids=images.image_id[broken].tolist(),
    )


def _shards(lengths: Iterable[int]) -> list[tuple[int, int]]:
    """(first, end) rows of shards that hold about SHARD_BYTES of images each, at least one."""
    starts, filled = [0], 0
    row = -1
    for row, length in enumerate(lengths):
        if filled and filled + length > SHARD_BYTES:
            starts.append(row)
            filled = 0
        filled += length
    return list(itertools.pairwise([*starts, row + 1]))


def _read_image(folder: pathlib.Path, images: Images, row: int) -> bytes:
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


def _write_shards(name: str, split: str, plan: _Plan, out: pathlib.Path) -> list[str]:
    """Writes the shards that are not there yet; returns the names of all."""
    names = [
        f"{name}-{split}.array_record-{number:05d}-of-{len(plan.shards):05d}" for number in range(len(plan.shards))
    ]
    images = plan.annotations.images
    with progress_bar(total=len(images), desc=f"writing {split}", unit=" images") as progress:
        for shard, (first, end) in zip(names, plan.shards, strict=True):
            if (out / shard).exists():
                progress.update(end - first)
                continue
            try:
                with (
                    _written_beside(out / shard) as partial,
                    contextlib.closing(ArrayRecordWriter(str(partial), _WRITER_OPTIONS)) as writer,
                ):
                    for row in range(first, end):
                        writer.write(_record(_read_image(plan.folder, images, row), images, row))
                        progress.update()
            except RuntimeError as error:  # what the writer raises, e.g. for a full disk
                raise OSError(f"{out / shard} could not be written: {error}") from error
    return names


def _record(data: bytes, images: Images, row: int) -> bytes:
    """A record as TFDS writes it, but for equal bytes in every run: a map's entries have no order of their own."""
    record = {"image": data, "image_id": images.image_id[row], "file_name": images.file_name[row]}
    return _SERIALIZER.get_tf_example(_FEATURES.encode_example(record)).SerializeToString(deterministic=True)


def _instances_file(split: str) -> str:
    return f"instances-{split}.npz"


def _write_instances(path: pathlib.Path, annotations: Annotations) -> None:
    tables = {"images": annotations.images, "instances": annotations.instances}
    columns = {f"{table}/{key}": column for table, rows in tables.items() for key, column in vars(rows).items()}
    with _written_beside(path) as partial, open(partial, "wb") as stream:
        np.savez(stream, **columns)


def _write_tfds_metadata(name: str, plans: dict[str, _Plan], out: pathlib.Path) -> None:
    template = tfds.core.ShardedFileTemplate(data_dir=out, dataset_name=name, filetype_suffix="array_record")
    tfds.folder_dataset.write_metadata(
        data_dir=out,
        features=_FEATURES,
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[end - first for first, end in plan.shards],
                num_bytes=sum(path.stat().st_size for path in out.glob(f"{name}-{split}.array_record-*")),
                filename_template=template,
            )
            for split, plan in plans.items()
        ],
        check_data=False,  # the check would import TensorFlow
    )


@contextlib.contextmanager
def _written_beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path to write to, which becomes `path` when all went well and is deleted otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    with _written_beside(target) as partial:
        shutil.copyfile(source, partial)


def _write_text(path: pathlib.Path, text: str) -> None:
    with _written_beside(path) as partial:
        partial.write_text(text)


def _remove(out: pathlib.Path, dataset: Dataset) -> None:
    """Deletes what a build has written to `out`, and nothing else."""
    for pattern in (f"{dataset.name}-*.array_record-*", "instances-*.npz", "dataset_info.json", "features.json"):
        for path in out.glob(pattern):
            path.unlink()
    for files in dataset.splits.values():
        for file in (files.annotations, files.detections):
            if file is not None and (out / file).is_file():
                (out / file).unlink()
                with contextlib.suppress(OSError):  # not empty
                    (out / file).parent.rmdir()
    (out / BUILD_FILE).unlink()


def _to_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Makes a termination signal stop the build as Ctrl-C does."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _lines(faults: list[str]) -> str:
    return "".join(f"{fault}\n" for fault in faults)


def _report(faults: list[str], out: pathlib.Path) -> str:
    """The faults for a person to read, the first ones of many."""
    lines = [f"  {fault}" for fault in faults[:FAULTS_SHOWN]]
    if len(faults) > FAULTS_SHOWN:
        lines.append(f"  … and {len(faults) - FAULTS_SHOWN} more")
    return "\n".join([*lines, f"All {len(faults)} are listed in {out / FAULTS_FILE}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0 done, 1 error, 2 the source is broken, 130 stopped."""
    parser = argparse.ArgumentParser(prog="python -m vitpose_jax.data.build", description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", choices=sorted(DATASETS), help="which data set --source holds")
    parser.add_argument("--source", required=True, type=pathlib.Path, help="the downloaded, unpacked data set")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder to build in")
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="which splits (default: those that are there)")
    parser.add_argument(
        "--skip-broken", action="store_true", help="leave broken images and annotations out, and say so"
    )
    options = parser.parse_args(arguments)
    out, dataset = options.out, DATASETS[options.dataset]
    try:
        with _sigterm_interrupts():
            result = build(options.dataset, options.source, out, splits=options.splits, skip_broken=options.skip_broken)
    except KeyboardInterrupt:
        print(f"\nStopped. Run the same command again to continue: finished shards are kept in {out}.", file=sys.stderr)
        return _EXIT_STOPPED
    except FaultsError as error:
        out.mkdir(parents=True, exist_ok=True)
        _write_text(out / FAULTS_FILE, _lines(error.faults))
        print(f"Nothing was built, {len(error.faults)} entries are broken:", file=sys.stderr)
        print(_report(error.faults, out), file=sys.stderr)
        print("Repair them, or leave them out with --skip-broken.", file=sys.stderr)
        return _EXIT_FAULTS
    except (ValueError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return _EXIT_ERROR

    if not result.built:
        print(f"{out} is finished already, nothing to do.")
        return 0
    if result.left_out:
        print(f"Left out {len(result.left_out)} broken entries:")
        print(_report(result.left_out, out))
    if options.splits is None:
        for name, paths in missing_paths(dataset, options.source).items():
            print(f"Built without the split {name!r}: {options.source} has no {' and no '.join(map(str, paths))}.")
    for split in (open_split(out, name) for name in result.splits):
        detections = "" if split.detection_file is None else ", with detector boxes"
        print(f"{split.name}: {len(split)} instances in {len(split.images)} images{detections}")
    print(f"Built {dataset.name} in {out}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
