"""The data sets: one row each in `DATASETS`, how annotation files are read, and how a built set is opened.

A set is built once by ``python -m vitpose_jax.data.build`` and then opened here, split by split. A new data set is a
new row; its reader is shared with the rows whose annotation files have the same format.
"""

import dataclasses
import json
import pathlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from vitpose_jax import geometry, keypoints
from vitpose_jax.keypoints import KeypointSet

# What the builder leaves in its output folder beside the files that TFDS knows.
BUILD_FILE = "build.json"
BUILD_FORMAT = 1

_PERSON_CATEGORY = 1


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a split, in stored order: M rows.

    Attributes:
        image_id: int64 [M].
        file_name: str [M], relative to the split's image folder.
        size: int32 [M, 2], (height, width) in pixels as the annotation file gives it.
    """

    image_id: np.ndarray
    file_name: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.image_id)


@dataclasses.dataclass(frozen=True)
class Instances:
    """Instances of a split, one per row: P annotated ones, or P boxes of a detector.

    Attributes:
        image: int32 [P], row in the split's `Images`.
        image_id: int64 [P].
        annotation_id: int64 [P], -1 for a detector's box.
        bbox_id: int64 [P], number of the instance within its image, or of the box within the detector's file.
        bbox_xywh: float64 [P, 4], image pixels, without padding.
        bbox_score: float64 [P], the detector's confidence; 1 for annotated boxes.
        area: float64 [P], pixels of the annotated segment; NaN where there is none.
        keypoints: float32 [P, K, 3], x, y in image pixels and weight 0 or 1; all 0 for a detector's box.
    """

    image: np.ndarray
    image_id: np.ndarray
    annotation_id: np.ndarray
    bbox_id: np.ndarray
    bbox_xywh: np.ndarray
    bbox_score: np.ndarray
    area: np.ndarray
    keypoints: np.ndarray

    def __len__(self) -> int:
        return len(self.image)


@dataclasses.dataclass(frozen=True)
class Annotations:
    """An annotation file as read: every image that it lists, every usable instance, and what is wrong with it.

    Attributes:
        images: the listed images, in the file's order.
        instances: ordered by image, within an image in the file's order.
        faults: one sentence for each entry that breaks the format. Such an entry is in neither table.
    """

    images: Images
    instances: Instances
    faults: list[str]


@dataclasses.dataclass(frozen=True)
class SplitFiles:
    """Where a split lies in its source folder.

    Attributes:
        annotations: annotation file.
        images: image folder.
        detections: file with a person detector's boxes, if one is published. It may be absent.
        every_image: store images without a usable instance, too. An evaluation split needs them, because a detector
            finds boxes on them; for training they would be dead weight.
    """

    annotations: str
    images: str
    detections: str | None = None
    every_image: bool = False


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A row of `DATASETS`.

    Attributes:
        name: key in `DATASETS`.
        keypoint_set: what is annotated.
        udp: convention of the crops that models for this set were trained with, see `geometry`.
        padding: factor on both sides of a box, see `geometry.bbox_to_box_cxcywh`.
        read: reads an annotation file; raises ValueError if it cannot be read at all.
        splits: the source folder's layout, by split.
    """

    name: str
    keypoint_set: KeypointSet
    udp: bool
    padding: float
    read: Callable[[pathlib.Path, KeypointSet], Annotations]
    splits: Mapping[str, SplitFiles]


def read_coco(path: pathlib.Path, keypoint_set: KeypointSet) -> Annotations:
    """Reads an annotation file in COCO's keypoint format.

    An instance is usable if it is no crowd, has a box with an extent inside the image, an area above 0 (if it has one)
    and a labelled keypoint. Occluded (1) and visible (2) keypoints both weigh 1.

    Args:
        path: annotation file.
        keypoint_set: sets the number of keypoints.

    Returns:
        Its tables and faults.

    Raises:
        ValueError: the file is no JSON, or not COCO's format.

    Source: mmpose topdown_coco_dataset.py::_load_coco_keypoint_annotation_kernel.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise ValueError(
            f'{path} is not in COCO\'s format: it needs an object with the lists "images" and "annotations"'
        )
    faults = []
    image_rows: dict[int, int] = {}
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    for number, image in enumerate(content["images"]):
        try:
            image_id, name, size = _coco_image(image)
            if image_id in image_rows:
                raise ValueError("another image has the same id")
        except ValueError as error:
            faults.append(f"{_label('image', image, number)}: {error}")
            continue
        image_rows[image_id] = len(names)
        names.append(name)
        sizes.append(size)

    by_image: dict[int, list[tuple[int, dict]]] = defaultdict(list)
    seen_ids = set()
    for number, annotation in enumerate(content["annotations"]):
        try:
            annotation_id = _integer(annotation, "id")
            if annotation_id in seen_ids:
                raise ValueError("another annotation has the same id")
            seen_ids.add(annotation_id)
            image_id = _integer(annotation, "image_id")
            if image_id not in image_rows:
                raise ValueError(f"its image_id {image_id} is not among the (faultless) images of the file")
        except ValueError as error:
            faults.append(f"{_label('annotation', annotation, number)}: {error}")
            continue
        by_image[image_id].append((number, annotation))

    rows: list[tuple] = []
    for image_id, image_row in image_rows.items():
        bbox_id = 0
        for number, annotation in by_image[image_id]:
            try:
                instance = _coco_instance(annotation, sizes[image_row], len(keypoint_set))
            except ValueError as error:
                faults.append(f"{_label('annotation', annotation, number)} of image {names[image_row]}: {error}")
                continue
            if instance is not None:
                rows.append((image_row, image_id, annotation["id"], bbox_id, *instance))
                bbox_id += 1

    columns = list(zip(*rows, strict=True)) or [()] * 7
    instances = Instances(
        image=np.array(columns[0], np.int32),
        image_id=np.array(columns[1], np.int64),
        annotation_id=np.array(columns[2], np.int64),
        bbox_id=np.array(columns[3], np.int64),
        bbox_xywh=np.array(columns[4], np.float64).reshape(-1, 4),
        bbox_score=np.ones(len(rows)),
        area=np.array(columns[5], np.float64),
        keypoints=np.array(columns[6], np.float32).reshape(-1, len(keypoint_set), 3),
    )
    images = Images(
        image_id=np.array(list(image_rows), np.int64),
        file_name=np.array(names, str),
        size=np.array(sizes, np.int32).reshape(-1, 2),
    )
    return Annotations(images, instances, faults)


def _coco_image(image: Any) -> tuple[int, str, tuple[int, int]]:
    """(id, file name, (height, width)) of an entry of "images"."""
    image_id = _integer(image, "id")
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        raise ValueError(f"it needs a file_name, not {name!r}")
    size = _integer(image, "height"), _integer(image, "width")
    if min(size) < 1:
        raise ValueError(f"its height and width are {size[0]} and {size[1]}")
    return image_id, name, size


def _coco_instance(
    annotation: dict, image_size: tuple[int, int], num_keypoints: int
) -> tuple[list[float], float, np.ndarray] | None:
    """(bbox_xywh, area, [K, 3] keypoints) of an entry of "annotations"; None if it is sound but of no use."""
    if annotation.get("iscrowd"):
        return None
    area = _numbers(annotation, "area", 1)[0] if "area" in annotation else np.nan
    bbox = _numbers(annotation, "bbox", 4) if "bbox" in annotation else None
    flat = _numbers(annotation, "keypoints", 3 * num_keypoints) if "keypoints" in annotation else None
    if flat is not None and not np.isin(flat[2::3], (0, 1, 2)).all():
        raise ValueError(f"visibilities are 0, 1 or 2, not {sorted(set(flat[2::3].tolist()) - {0, 1, 2})}")

    if bbox is None or flat is None or area <= 0 or flat.max() == 0 or annotation.get("num_keypoints") == 0:
        return None
    # Ends are the last pixel that belongs to the box, hence the 1s. A box that begins outside the image is moved in.
    height, width = image_size
    left, top = max(0.0, bbox[0]), max(0.0, bbox[1])
    right = min(width - 1, left + max(0.0, bbox[2] - 1))
    bottom = min(height - 1, top + max(0.0, bbox[3] - 1))
    if right <= left or bottom <= top:
        return None
    points = flat.reshape(-1, 3).astype(np.float32)
    points[:, 2] = np.minimum(points[:, 2], 1)
    return [left, top, right - left, bottom - top], area, points


def _integer(entry: Any, key: str) -> int:
    """A whole number of an entry in a COCO file."""
    if not isinstance(entry, dict):
        raise ValueError(f"an object is needed here, not {entry!r:.80}")
    if key not in entry:
        raise ValueError(f"it has no {key}")
    value = entry[key]
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"its {key} is {value!r:.80}, not a whole number")
    return value


def _numbers(entry: dict, key: str, count: int) -> np.ndarray:
    """float64 [count]: finite numbers of an entry in a COCO file."""
    value = entry[key]
    try:
        numbers = np.array(value, np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise ValueError(f"its {key} is {value!r:.80}, not a list of numbers") from None
    if len(numbers) != count:
        raise ValueError(f"its {key} has {len(numbers)} numbers instead of {count}")
    if not np.isfinite(numbers).all():
        raise ValueError(f"its {key} holds NaN or infinity")
    return numbers


def _label(kind: str, entry: Any, number: int) -> str:
    """Names an entry of a COCO file for a person who must find it."""
    entry = entry if isinstance(entry, dict) else {}
    label = f"{kind} {entry['id']!r:.40}" if "id" in entry else f"{kind} without id, number {number} in its list"
    extra = [f"{key} {entry[key]!r:.80}" for key in ("file_name", "image_id") if key in entry]
    return f"{label} ({', '.join(extra)})" if extra else label


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file. Raises ValueError, naming the place, if it is none."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:  # also a broken encoding
        raise ValueError(f"{path} is not valid JSON ({error}); fetch the file again") from None


DATASETS: dict[str, Dataset] = {
    "coco": Dataset(
        name="coco",
        keypoint_set=keypoints.COCO,
        udp=True,
        padding=1.25,
        read=read_coco,
        splits={
            "train": SplitFiles(annotations="annotations/person_keypoints_train2017.json", images="train2017"),
            "val": SplitFiles(
                annotations="annotations/person_keypoints_val2017.json",
                images="val2017",
                detections="person_detection_results/COCO_val2017_detections_AP_H_56_person.json",
                every_image=True,
            ),
        },
    ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """A split of a built data set: its tables in memory, its images on the disk. Made by `open_split`.

    Pickled, it is only its place: another process opens the files itself.

    Attributes:
        data_dir: the built set.
        name: of the split.
        dataset: the row of `DATASETS`.
        images: the stored images.
        instances: the annotated instances.
        skipped_image_ids: int64 [S], images that the builder left out as broken.
        annotation_file: the original annotation file, for pycocotools.
        detection_file: the original file of detector boxes, if there is one.
    """

    data_dir: pathlib.Path
    name: str
    dataset: Dataset
    images: Images
    instances: Instances
    skipped_image_ids: np.ndarray
    annotation_file: pathlib.Path
    detection_file: pathlib.Path | None
    _records: Any = dataclasses.field(repr=False)

    def __len__(self) -> int:
        """The number of annotated instances."""
        return len(self.instances)

    def __repr__(self) -> str:
        return f"Split({self.dataset.name} {self.name} in {self.data_dir}: {len(self)} instances)"

    def __reduce__(self):
        return open_split, (self.data_dir, self.name)

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
        return self.decode(self.jpeg(image), image)

    def decode(self, jpeg: bytes, image: int) -> np.ndarray:
        """Like `pixels`, for the bytes that `jpeg` returned."""
        try:
            return geometry.decode_jpeg(jpeg)
        except ValueError as error:
            raise ValueError(f"image {self.images.file_name[image]} of {self!r}: {error}") from error


def open_split(data_dir: str | pathlib.Path, name: str) -> Split:
    """Opens a split of a data set that ``python -m vitpose_jax.data.build`` has built.

    Args:
        data_dir: the folder given to the builder as ``--out``.
        name: of the split, e.g. "train".

    Returns:
        The split.

    Raises:
        FileNotFoundError: there is no built set, or files of it are missing.
        ValueError: the set is unfinished, from another version, or has no such split.
    """
    data_dir = pathlib.Path(data_dir)
    command = f"python -m vitpose_jax.data.build {'|'.join(DATASETS)} --source DIR --out {data_dir}"
    if not (data_dir / BUILD_FILE).is_file():
        raise FileNotFoundError(f"there is no built data set in {data_dir}; build one with: {command}")
    build = read_json(data_dir / BUILD_FILE)
    if build["format"] != BUILD_FORMAT:
        raise ValueError(
            f"{data_dir} has format {build['format']}, this version reads {BUILD_FORMAT}; build it anew: {command}"
        )
    if not build["complete"]:
        raise ValueError(f"the data set in {data_dir} is unfinished; run its build again, it continues: {command}")
    if name not in build["splits"]:
        raise ValueError(f"{data_dir} has the splits {sorted(build['splits'])}, not {name!r}")
    dataset, split = DATASETS[build["dataset"]], build["splits"][name]

    needed = [split["annotations"], split["detections"], split["instances"], *split["shards"]]
    missing = [file for file in needed if file is not None and not (data_dir / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{data_dir} lacks {', '.join(missing)}; delete the folder and build it anew: {command}"
        )
    with np.load(data_dir / split["instances"]) as tables:
        images = Images(**{field.name: tables[f"images/{field.name}"] for field in dataclasses.fields(Images)})
        instances = Instances(
            **{field.name: tables[f"instances/{field.name}"] for field in dataclasses.fields(Instances)}
        )
    records = tfds.builder_from_directory(data_dir).as_data_source(name, decoders={"image": tfds.decode.SkipDecoding()})
    return Split(
        data_dir=data_dir,
        name=name,
        dataset=dataset,
        images=images,
        instances=instances,
        skipped_image_ids=np.array(split["skipped_image_ids"], np.int64),
        annotation_file=data_dir / split["annotations"],
        detection_file=data_dir / split["detections"] if split["detections"] else None,
        _records=records,
    )


def detection_boxes(split: Split, path: str | pathlib.Path | None = None, *, score_threshold: float = 0.0) -> Instances:
    """A detector's boxes as instances to evaluate on. They are taken as they are: not clipped, not shrunk.

    Args:
        split: the split whose images the boxes lie on.
        path: JSON list of {image_id, category_id, bbox (x, y, width, height), score}; by default the file that was
            published with the data set.
        score_threshold: boxes below this confidence are left out.

    Returns:
        Boxes of persons (category 1), in the file's order. Boxes on images that the builder left out as broken are
        left out, too.

    Raises:
        ValueError: there is no such file, it is malformed, or it names images that the split does not have.

    Source: mmpose topdown_coco_dataset.py::_load_coco_person_detection_results.
    """
    if path is None and split.detection_file is None:
        raise ValueError(
            f"{split!r} was built without detector boxes; name a file with them, or use the annotated boxes"
        )
    path = pathlib.Path(path or split.detection_file)  # type: ignore[arg-type]
    if not path.is_file():
        raise ValueError(f"there is no file of detector boxes {path}")
    entries = read_json(path)
    if not isinstance(entries, list):
        raise ValueError(f"{path} needs to be a JSON list of boxes, not a {type(entries).__name__}")
    kept = []
    for number, entry in enumerate(entries):
        try:
            image_id, category = _integer(entry, "image_id"), _integer(entry, "category_id")
            bbox, score = _numbers(entry, "bbox", 4), _numbers(entry, "score", 1)[0]
            if min(bbox[2:]) <= 0:
                raise ValueError(f"its width and height are {bbox[2]} and {bbox[3]}")
        except KeyError as error:
            raise ValueError(f"{path}: box number {number} has no {error.args[0]}") from None
        except ValueError as error:
            raise ValueError(f"{path}: box number {number}: {error}") from None
        if category == _PERSON_CATEGORY and score >= score_threshold:
            kept.append((image_id, bbox, score))

    skipped = set(split.skipped_image_ids.tolist())
    kept = [entry for entry in kept if entry[0] not in skipped]
    row_of = {image_id: row for row, image_id in enumerate(split.images.image_id.tolist())}
    unknown = sorted({image_id for image_id, _, _ in kept} - row_of.keys())
    if unknown:
        raise ValueError(
            f"{path} has boxes on {len(unknown)} images that {split!r} does not have, e.g. image_id {unknown[:3]}; "
            "the boxes must come from this split's images"
        )
    if not kept:
        raise ValueError(f"{path} has no box of a person with a score of at least {score_threshold}")
    image_ids, bboxes, scores = zip(*kept, strict=True)
    return Instances(
        image=np.array([row_of[image_id] for image_id in image_ids], np.int32),
        image_id=np.array(image_ids, np.int64),
        annotation_id=np.full(len(kept), -1, np.int64),
        bbox_id=np.arange(len(kept), dtype=np.int64),
        bbox_xywh=np.array(bboxes, np.float64),
        bbox_score=np.array(scores, np.float64),
        area=np.full(len(kept), np.nan),
        keypoints=np.zeros((len(kept), len(split.keypoint_set), 3), np.float32),
    )
