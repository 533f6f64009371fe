"""The shards of a built split: ArrayRecord files of images, and the files by which TFDS knows them."""

import contextlib
import itertools
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tqdm import tqdm

from vitpose_jax.data import source
from vitpose_jax.data.files import written_beside
from vitpose_jax.data.source import Plan
from vitpose_jax.progress import progress_bar

SHARD_BYTES = 128 * 2**20

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


def write_shards(name: str, split: str, plan: Plan, out: pathlib.Path) -> list[str]:
    """Writes the shards of a split that are not there yet.

    Args:
        name: of the data set.
        split: of the data set.
        plan: what to write.
        out: folder of the built set.

    Returns:
        The file names of all shards.

    Raises:
        OSError: a shard could not be written.
        ValueError: an image file has changed since the plan was made.
    """
    shards = ranges(plan.lengths.tolist())
    names = shard_names(name, split, len(shards))
    with progress_bar(total=len(plan.images), desc=f"writing {split}", unit=" images") as progress:
        for shard, (first, end) in zip(names, shards, strict=True):
            if (out / shard).exists():
                progress.update(end - first)
                continue
            write_shard(out / shard, (_record_of(plan, row, progress) for row in range(first, end)))
    return names


def write_shard(path: pathlib.Path, records: Iterable[bytes]) -> None:
    """Writes one shard, whole or not at all.

    Args:
        path: of the shard.
        records: from `record`.

    Raises:
        OSError: it could not be written.
    """
    try:
        with (
            written_beside(path) as partial,
            contextlib.closing(ArrayRecordWriter(str(partial), _WRITER_OPTIONS)) as writer,
        ):
            for data in records:
                writer.write(data)
    except RuntimeError as error:  # what the writer raises, e.g. for a full disk
        raise OSError(f"{path} could not be written: {error}") from error


def shard_names(name: str, split: str, count: int) -> list[str]:
    """The files of a split's shards."""
    return [f"{name}-{split}.array_record-{number:05d}-of-{count:05d}" for number in range(count)]


def write_metadata(name: str, lengths: Mapping[str, Sequence[int]], out: pathlib.Path) -> None:
    """Writes what `tfds.builder_from_directory` needs to read shards.

    Args:
        name: of the data set.
        lengths: split to the number of images in each of its shards.
        out: folder of the built set.
    """
    template = tfds.core.ShardedFileTemplate(data_dir=out, dataset_name=name, filetype_suffix="array_record")
    tfds.folder_dataset.write_metadata(
        data_dir=out,
        features=_FEATURES,
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=list(shard_lengths),
                num_bytes=sum(path.stat().st_size for path in out.glob(f"{name}-{split}.array_record-*")),
                filename_template=template,
            )
            for split, shard_lengths in lengths.items()
        ],
        check_data=False,  # the check would import TensorFlow
    )


def ranges(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """(first, end) rows of shards that hold about SHARD_BYTES of images each, at least one; from the images' bytes."""
    starts, filled = [0], 0
    for row, length in enumerate(lengths):
        if filled and filled + length > SHARD_BYTES:
            starts.append(row)
            filled = 0
        filled += length
    return list(itertools.pairwise([*starts, len(lengths)]))


def record(data: bytes, image_id: int, file_name: str) -> bytes:
    """A record as TFDS writes it, but for equal bytes in every run: a map's entries have no order of their own."""
    fields = {"image": data, "image_id": image_id, "file_name": file_name}
    return _SERIALIZER.get_tf_example(_FEATURES.encode_example(fields)).SerializeToString(deterministic=True)


def _record_of(plan: Plan, row: int, progress: tqdm) -> bytes:
    data, _ = source.read_image(plan.folder, plan.images, row)
    progress.update()
    return record(data, plan.images.image_id[row], plan.images.file_name[row])
