"""What reading an annotation file gives, and how its entries are checked, whatever the format.

An entry that breaks a format is described by one sentence that names it; of files with many such entries a person wants
to see them all at once.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vitpose_jax.data.tables import Images, Instances


@dataclasses.dataclass(frozen=True)
class Annotations:
    """An annotation file as read: every image that it lists, every usable instance, and what is wrong with it.

    Attributes:
        images: the listed images, in the file's order. Where the file does not say their sizes, these are 0.
        instances: ordered by image, within an image in the file's order.
        faults: one sentence for each entry that breaks the format. Such an entry is in neither table.
        faulty_image_ids: ids of the listed images that are not in `images`, because their entries break the format.
        for_evaluation: content of the annotation file that evaluation shall read, in COCO's format, where the original
            file will not do; None where it will.
    """

    images: Images
    instances: Instances
    faults: list[str]
    faulty_image_ids: list[int] = dataclasses.field(default_factory=list)
    for_evaluation: dict[str, Any] | None = None


def make_images(rows: Mapping[int, tuple[str, tuple[int, int]]]) -> Images:
    """The table of images from (file name, (height, width)) by image id."""
    return Images(
        image_id=np.array(list(rows), np.int64),
        file_name=np.array([name for name, _ in rows.values()], str),
        size=np.array([size for _, size in rows.values()], np.int32).reshape(-1, 2),
    )


@dataclasses.dataclass(frozen=True)
class InstanceRow:
    """One annotated instance; the fields are those of `tables.Instances`."""

    image: int
    image_id: int
    annotation_id: int
    category_id: int
    bbox_id: int
    bbox_xywh: Sequence[float]
    area: float
    keypoints: np.ndarray


def make_instances(rows: Sequence[InstanceRow], num_keypoints: int) -> Instances:
    """The table of annotated instances from its rows."""

    def column(name: str, dtype: type) -> np.ndarray:
        return np.array([getattr(row, name) for row in rows], dtype)

    return Instances(
        image=column("image", np.int32),
        image_id=column("image_id", np.int64),
        annotation_id=column("annotation_id", np.int64),
        category_id=column("category_id", np.int64),
        bbox_id=column("bbox_id", np.int64),
        bbox_xywh=column("bbox_xywh", np.float64).reshape(-1, 4),
        bbox_score=np.ones(len(rows)),
        area=column("area", np.float64),
        keypoints=column("keypoints", np.float32).reshape(-1, num_keypoints, 3),
    )


def check_object(entry: Any) -> None:
    """Raises ValueError unless an entry is an object."""
    if not isinstance(entry, dict):
        raise ValueError(f"an object is needed here, not {entry!r:.80}")


def field_of(entry: Any, key: str) -> Any:
    """A field that an entry must have."""
    check_object(entry)
    if key not in entry:
        raise ValueError(f"it has no {key}")
    return entry[key]


def integer(entry: Any, key: str) -> int:
    """A whole number of an entry."""
    value = field_of(entry, key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"its {key} is {value!r:.80}, not a whole number")
    return value


def text(entry: Any, key: str) -> str:
    """A text of an entry that is not empty."""
    check_object(entry)
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"it needs a {key}, not {value!r:.80}")
    return value


def numbers(entry: Any, key: str, count: int) -> np.ndarray:
    """float64 [count]: finite numbers of an entry."""
    value = field_of(entry, key)
    try:
        found = np.array(value)
    except ValueError:
        found = np.array(None)
    if found.dtype.kind not in "iuf":
        raise ValueError(f"its {key} is {value!r:.80}, not a list of numbers")
    found = found.astype(np.float64).reshape(-1)
    if len(found) != count:
        raise ValueError(f"its {key} has {len(found)} numbers instead of {count}")
    if not np.isfinite(found).all():
        raise ValueError(f"its {key} holds NaN or infinity")
    return found


def label(kind: str, entry: Any, number: int) -> str:
    """Names an entry for a person who must find it."""
    entry = entry if isinstance(entry, dict) else {}
    name = f"{kind} {entry['id']!r:.40}" if "id" in entry else f"{kind} without id, number {number} in its list"
    extra = [f"{key} {entry[key]!r:.80}" for key in ("file_name", "image_id", "image") if key in entry]
    return f"{name} ({', '.join(extra)})" if extra else name
