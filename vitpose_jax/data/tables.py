"""The tables of a split, its images and its instances: columns in memory, one file on the disk."""

import dataclasses
import io
import pathlib

import numpy as np
from etils import epath

from vitpose_jax.data.files import written_beside


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a split, in stored order: M rows.

    Attributes:
        image_id: int64 [M].
        file_name: str [M], relative to the split's image folder.
        size: int32 [M, 2], (height, width) in pixels: as the annotation file gives it, or if it does not, as the image
            file has it.
    """

    image_id: np.ndarray
    file_name: np.ndarray
    size: np.ndarray

    def __len__(self) -> int:
        return len(self.image_id)

    def take(self, rows: np.ndarray | slice) -> "Images":
        """Some of the images: `rows` are numbers, a mask or a slice."""
        return Images(**{name: column[rows] for name, column in vars(self).items()})


@dataclasses.dataclass(frozen=True)
class Instances:
    """Instances of a split, one per row: P annotated ones, or P boxes of a detector.

    Attributes:
        image: int32 [P], row in the split's `Images`.
        image_id: int64 [P].
        annotation_id: int64 [P], -1 for a detector's box.
        category_id: int64 [P], as the annotation file numbers categories: the species of AP-10K; else 1.
        bbox_id: int64 [P], number of the instance within its image (MPII and InterHand2.6M: within the split), or of
            the box within the detector's file.
        bbox_xywh: float64 [P, 4], image pixels, without padding.
        bbox_score: float64 [P], the detector's confidence; 1 for annotated boxes.
        area: float64 [P], pixels of the annotated segment; NaN where there is none.
        keypoints: float32 [P, K, 3], x, y in image pixels and weight 0 or 1; all 0 for a detector's box.
    """

    image: np.ndarray
    image_id: np.ndarray
    annotation_id: np.ndarray
    category_id: np.ndarray
    bbox_id: np.ndarray
    bbox_xywh: np.ndarray
    bbox_score: np.ndarray
    area: np.ndarray
    keypoints: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def take(self, rows: np.ndarray | slice) -> "Instances":
        """Some of the instances: `rows` are numbers, a mask or a slice."""
        return Instances(**{name: column[rows] for name, column in vars(self).items()})


def write_tables(path: pathlib.Path, images: Images, instances: Instances) -> None:
    """Writes a split's tables to an .npz file, one entry per column."""
    tables = {"images": images, "instances": instances}
    columns = {f"{table}/{name}": column for table, rows in tables.items() for name, column in vars(rows).items()}
    with written_beside(path) as partial, open(partial, "wb") as stream:
        np.savez(stream, **columns)


def read_tables(path: epath.Path) -> tuple[Images, Instances]:
    """Reads what `write_tables` has written."""
    with np.load(io.BytesIO(path.read_bytes())) as columns:
        images = Images(**{field.name: columns[f"images/{field.name}"] for field in dataclasses.fields(Images)})
        instances = Instances(
            **{field.name: columns[f"instances/{field.name}"] for field in dataclasses.fields(Instances)}
        )
    return images, instances
