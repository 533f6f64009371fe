"""How a built data set is opened: its splits, and a detector's boxes on their images.

A set is built once by ``python -m vitpose_jax.data.build`` and then opened here, split by split. What distinguishes the
data sets is in their rows in `catalog`; that of a set of one's own is made from the keypoint file in its folder.
"""

import dataclasses
import os
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from vitpose_jax import geometry, paths
from vitpose_jax.data.catalog import DATASETS, Dataset
from vitpose_jax.data.coco_format import read_coco_boxes
from vitpose_jax.data.custom import CUSTOM, custom_dataset
from vitpose_jax.data.files import read_json
from vitpose_jax.data.tables import Images, Instances, read_tables
from vitpose_jax.keypoints import KeypointSet, load_keypoint_set

# What the builder leaves in its output folder beside the files that TFDS knows.
BUILD_FILE = "build.json"
BUILD_FORMAT = 2

IMAGES = "images"  # name of every set of images without annotations


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """A split of a built data set: its tables in memory, its images on the disk. Made by `open_split`.

    Pickled, it is only its place: another process opens the files itself.

    Attributes:
        data_dir: the built set.
        name: of the split.
        dataset: the row of `DATASETS`, or that of a set of one's own.
        images: the stored images.
        instances: the annotated instances.
        skipped_image_ids: int64 [S], images of the annotation file that the builder left out as broken.
        annotation_file: for evaluation. The original file; of a set of one's own, and where broken entries were left
            out, one in the same format without them.
        detection_file: the original file of detector boxes, if there is one.
        other_files: those of the row's `SplitFiles.others` that were there.
    """

    data_dir: epath.Path
    name: str
    dataset: Dataset
    images: Images
    instances: Instances
    skipped_image_ids: np.ndarray
    annotation_file: epath.Path
    detection_file: epath.Path | None
    other_files: tuple[epath.Path, ...]
    _records: Any = dataclasses.field(repr=False)

    def __len__(self) -> int:
        """The number of annotated instances."""
        return len(self.instances)

    def __repr__(self) -> str:
        return f"Split({self.dataset.name} {self.name} in {self.data_dir}: {len(self)} instances)"

    def __reduce__(self):
        return open_split, (os.fspath(self.data_dir), self.name)

    @property
    def keypoint_set(self) -> KeypointSet:
        return self.dataset.keypoint_set

    def jpeg(self, image: int) -> bytes:
        """The file of an image, untouched. `image` is a row of `images`."""
        return self._records[int(image)]["image"]

    def pixels(self, image: int) -> np.ndarray:
        """uint8 [H_img, W_img, 3], RGB: an image, decoded. `image` is a row of `images`.

        Raises:
            ValueError: the image cannot be decoded.
        """
        try:
            return geometry.decode_jpeg(self.jpeg(image))
        except ValueError as error:
            raise ValueError(f"image {self.images.file_name[image]} of {self!r}: {error}") from error


def open_split(data_dir: str | os.PathLike, name: str) -> Split:
    """Opens a split of a data set that ``python -m vitpose_jax.data.build`` has built.

    Args:
        data_dir: the folder given to the builder as ``--out``, or a copy of it, in a bucket (gs://…), too.
        name: of the split, e.g. "train".

    Returns:
        The split.

    Raises:
        FileNotFoundError: there is no built set, or files of it are missing.
        ValueError: the set is unfinished, from another version, or has no such split.
    """
    folder = paths.path(data_dir)
    build, records = _open(folder, name)
    if build["dataset"] == IMAGES:
        raise ValueError(f"{folder} holds images without annotations: they serve pre-training, not poses")
    if build["dataset"] == CUSTOM:
        dataset = custom_dataset(load_keypoint_set(folder / build["keypoints"]))
    else:
        dataset = DATASETS[build["dataset"]]
    split = build["splits"][name]
    images, instances = read_tables(folder / split["instances"])
    return Split(
        data_dir=folder,
        name=name,
        dataset=dataset,
        images=images,
        instances=instances,
        skipped_image_ids=np.array(split["skipped_image_ids"], np.int64),
        annotation_file=folder / split["annotations"],
        detection_file=folder / split["detections"] if split["detections"] else None,
        other_files=tuple(folder / file for file in split["others"]),
        _records=records,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class StoredImages:
    """The images of a split of any built set, with or without annotations. Made by `open_images`.

    Nothing but the number of images is in memory. Pickled, it is only its place.

    Attributes:
        data_dir: the built set.
        name: of the split.
        dataset_name: a key of `DATASETS`, "custom" or "images".
    """

    data_dir: epath.Path
    name: str
    dataset_name: str
    _records: Any = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self._records)

    def __reduce__(self):
        return open_images, (os.fspath(self.data_dir), self.name)

    def read(self, image: int) -> tuple[bytes, str]:
        """(the file of an image, untouched, its name)."""
        record = self._records[int(image)]
        name = record["file_name"]
        return record["image"], name.decode() if isinstance(name, bytes) else str(name)


def open_images(data_dir: str | os.PathLike, name: str) -> StoredImages:
    """Opens the images of a split of a built data set: what `build images` wrote, or any other one's.

    Args and Raises: see `open_split`.
    """
    folder = paths.path(data_dir)
    build, records = _open(folder, name)
    return StoredImages(folder, name, build["dataset"], records)


def _open(folder: epath.Path, name: str) -> tuple[dict[str, Any], Any]:
    """(build file, records) of a complete set that has the split and its files."""
    names = "|".join([*DATASETS, CUSTOM, IMAGES])
    command = f"python -m vitpose_jax.data.build {names} --source DIR --out {folder}"
    if not (folder / BUILD_FILE).is_file():
        raise FileNotFoundError(f"there is no built data set in {folder}; build one with: {command}")
    build = read_json(folder / BUILD_FILE)
    if build["format"] != BUILD_FORMAT:
        raise ValueError(
            f"{folder} has format {build['format']}, this version reads {BUILD_FORMAT}; build it anew: {command}"
        )
    if not build["complete"]:
        raise ValueError(f"the data set in {folder} is unfinished; run its build again, it continues: {command}")
    if name not in build["splits"]:
        raise ValueError(f"{folder} has the splits {sorted(build['splits'])}, not {name!r}")
    split = build["splits"][name]

    needed = [split.get("annotations"), split.get("detections"), split.get("instances"), *split.get("others", ())]
    needed += [*split["shards"], build.get("keypoints")]
    missing = [file for file in needed if file is not None and not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}; delete the folder and build it anew: {command}")
    decoders = {"image": tfds.decode.SkipDecoding()}
    return build, tfds.builder_from_directory(folder).as_data_source(name, decoders=decoders)


def detection_boxes(split: Split, path: str | os.PathLike | None = None, *, score_threshold: float = 0.0) -> Instances:
    """A detector's boxes as instances to evaluate on. They are taken as they are: not clipped, not shrunk.

    Args:
        split: the split whose images the boxes lie on.
        path: see `coco_format.read_coco_boxes`; by default the file that was published with the data set.
        score_threshold: boxes below this confidence are left out.

    Returns:
        Boxes of persons (category 1), in the file's order. Boxes on images that the builder left out as broken are
        left out, too.

    Raises:
        ValueError: there is no such file, it is malformed, or it names images that the split does not have.
    """
    chosen = path or split.detection_file
    if chosen is None:
        raise ValueError(
            f"{split!r} was built without detector boxes; name a file with them (config.eval.detections_file=FILE) or "
            "use the annotated ones (config.eval.boxes=annotations)"
        )
    file = paths.path(chosen)
    if not file.is_file():
        raise ValueError(f"there is no file of detector boxes {file}")
    skipped = set(split.skipped_image_ids.tolist())
    kept = [box for box in read_coco_boxes(file) if box.score >= score_threshold and box.image_id not in skipped]
    row_of = {image_id: row for row, image_id in enumerate(split.images.image_id.tolist())}
    unknown = sorted({box.image_id for box in kept} - row_of.keys())
    if unknown:
        raise ValueError(
            f"{file} has boxes on {len(unknown)} images that {split!r} does not have, e.g. image_id {unknown[:3]}; "
            "the boxes must come from this split's images"
        )
    if not kept:
        raise ValueError(f"{file} has no box of a person with a score of at least {score_threshold}")
    image_ids, bboxes, scores = zip(*kept, strict=True)
    return Instances(
        image=np.array([row_of[image_id] for image_id in image_ids], np.int32),
        image_id=np.array(image_ids, np.int64),
        annotation_id=np.full(len(kept), -1, np.int64),
        category_id=np.ones(len(kept), np.int64),
        bbox_id=np.arange(len(kept), dtype=np.int64),
        bbox_xywh=np.array(bboxes, np.float64),
        bbox_score=np.array(scores, np.float64),
        area=np.full(len(kept), np.nan),
        keypoints=np.zeros((len(kept), len(split.keypoint_set), 3), np.float32),
    )
