"""The data sets: one row each in `DATASETS`. A new data set is a new row; rows with one file format share a reader."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vitpose_jax import geometry
from vitpose_jax.data.coco_format import Annotations, read_coco, read_wholebody
from vitpose_jax.data.interhand_format import read_interhand
from vitpose_jax.data.mpii_format import read_mpii
from vitpose_jax.keypoints import KEYPOINT_SETS, KeypointSet

Reader = Callable[[Path, KeypointSet], Annotations]


@dataclasses.dataclass(frozen=True)
class SplitFiles:
    """Where a split lies in its source folder. All paths are relative to that folder.

    Attributes:
        annotations: annotation file.
        images: image folder.
        detections: file with a person detector's boxes, if one is published. It may be absent.
        inputs: further files without which the annotation file cannot be read.
        others: further files that evaluation asks for. They are copied along if they are there.
        read: reads this split's annotation file, if not the data set's reader does.
        every_image: store images without a usable instance, too. An evaluation split needs them, because a detector
            finds boxes on them; for training they would be dead weight.
    """

    annotations: str
    images: str
    detections: str | None = None
    inputs: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    read: Reader | None = None
    every_image: bool = False


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A row of `DATASETS`.

    Attributes:
        name: key in `DATASETS`; "custom" for a set of one's own.
        keypoint_set: what is annotated.
        udp: convention of the crops that models for this set were trained with, see `geometry`.
        read: reads an annotation file; raises ValueError if it cannot be read at all.
        splits: the source folder's layout, by split.
        metric: how predictions are scored: "coco" (OKS at the scale of the segmented area), "coco_box_area" (of 0.53
            of the box), "crowdpose", "wholebody", "ap10k", "mpii" or "interhand".
        padding: factor on both sides of a box, see `regions`.
        square_boxes: boxes are squares that stay squares, whatever the crop's shape is: such a crop is stretched.
        augment_defaults: settings of `augment.Augment` in which the published training of this set leaves COCO's; for a
            set of one's own, see `custom.custom_dataset`.
    """

    name: str
    keypoint_set: KeypointSet
    udp: bool
    read: Reader
    splits: Mapping[str, SplitFiles]
    metric: str = "coco"
    padding: float = 1.25
    square_boxes: bool = False
    augment_defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def regions(self, bbox_xywh: npt.ArrayLike, *, aspect_ratio: float) -> np.ndarray:
        """The regions of the image that crops of these boxes show.

        Args:
            bbox_xywh: [..., 4] boxes of this set's instances, image pixels.
            aspect_ratio: crop width / crop height.

        Returns:
            float32 [..., 4]: centre x, centre y, width, height in image pixels.
        """
        return geometry.bbox_to_box_cxcywh(
            bbox_xywh, aspect_ratio=1.0 if self.square_boxes else aspect_ratio, padding=self.padding
        )


_COCO_DETECTIONS = "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"


def _interhand_files(folder: str, split: str) -> SplitFiles:
    stem = f"annotations/{folder}/InterHand2.6M_{split}"
    return SplitFiles(
        annotations=f"{stem}_data.json",
        images=f"images/{split}",
        inputs=(f"{stem}_camera.json", f"{stem}_joint_3d.json"),
    )


# Sources: the original's configs/_base_/datasets and the data sections of its configs. The base configs of AP-10K and
# APT-36K have each other's data sections; here each has its own.
_ROWS = (
    Dataset(
        name="coco",
        keypoint_set=KEYPOINT_SETS["coco"],
        udp=True,
        read=read_coco,
        splits={
            "train": SplitFiles(annotations="annotations/person_keypoints_train2017.json", images="train2017"),
            "val": SplitFiles(
                annotations="annotations/person_keypoints_val2017.json",
                images="val2017",
                detections=_COCO_DETECTIONS,
                every_image=True,
            ),
        },
    ),
    Dataset(
        name="wholebody",
        keypoint_set=KEYPOINT_SETS["wholebody"],
        udp=False,
        read=read_wholebody,
        splits={
            "train": SplitFiles(annotations="annotations/coco_wholebody_train_v1.0.json", images="train2017"),
            "val": SplitFiles(
                annotations="annotations/coco_wholebody_val_v1.0.json",
                images="val2017",
                detections=_COCO_DETECTIONS,
                every_image=True,
            ),
        },
        metric="wholebody",
    ),
    Dataset(
        name="aic",
        keypoint_set=KEYPOINT_SETS["aic"],
        udp=False,
        read=read_coco,
        splits={
            "train": SplitFiles(
                annotations="annotations/aic_train.json",
                images="ai_challenger_keypoint_train_20170902/keypoint_train_images_20170902",
            ),
            "val": SplitFiles(
                annotations="annotations/aic_val.json",
                images="ai_challenger_keypoint_validation_20170911/keypoint_validation_images_20170911",
                every_image=True,
            ),
        },
        metric="coco_box_area",
    ),
    Dataset(
        name="mpii",
        keypoint_set=KEYPOINT_SETS["mpii"],
        udp=True,
        read=read_mpii,
        splits={
            "train": SplitFiles(annotations="annotations/mpii_train.json", images="images"),
            "val": SplitFiles(
                annotations="annotations/mpii_val.json",
                images="images",
                others=("annotations/mpii_gt_val.mat",),
                every_image=True,
            ),
        },
        metric="mpii",
        square_boxes=True,
        augment_defaults={"half_body_prob": 0.0, "center_jitter_prob": 0.0},
    ),
    Dataset(
        name="crowdpose",
        keypoint_set=KEYPOINT_SETS["crowdpose"],
        udp=False,
        read=read_coco,
        splits={
            "train": SplitFiles(annotations="annotations/mmpose_crowdpose_trainval.json", images="images"),
            "test": SplitFiles(
                annotations="annotations/mmpose_crowdpose_test.json",
                images="images",
                detections="annotations/det_for_crowd_test_0.1_0.5.json",
                every_image=True,
            ),
        },
        metric="crowdpose",
        augment_defaults={"half_body_min_keypoints": 6},
    ),
    # Scored with models that were trained on COCO, but on crops of the older convention, as the original does.
    Dataset(
        name="ochuman",
        keypoint_set=KEYPOINT_SETS["coco"],
        udp=False,
        read=read_coco,
        splits={
            split: SplitFiles(
                annotations=f"annotations/ochuman_coco_format_{split}_range_0.00_1.00.json",
                images="images",
                every_image=True,
            )
            for split in ("val", "test")
        },
    ),
    Dataset(
        name="ap10k",
        keypoint_set=KEYPOINT_SETS["ap10k"],
        udp=False,
        read=read_coco,
        splits={
            split: SplitFiles(
                annotations=f"annotations/ap10k-{split}-split1.json", images="data", every_image=split != "train"
            )
            for split in ("train", "val", "test")
        },
        metric="ap10k",
    ),
    Dataset(
        name="apt36k",
        keypoint_set=KEYPOINT_SETS["ap10k"],
        udp=False,
        read=read_coco,
        splits={
            split: SplitFiles(
                annotations=f"annotations/{split}_annotations_1.json", images=".", every_image=split != "train"
            )
            for split in ("train", "val")
        },
        metric="ap10k",
    ),
    Dataset(
        name="interhand",
        keypoint_set=KEYPOINT_SETS["interhand"],
        udp=False,
        read=read_interhand,
        splits={
            "train": _interhand_files("all", "train"),
            "val": _interhand_files("machine_annot", "val"),
            "test": _interhand_files("all", "test"),
        },
        metric="interhand",
        padding=1.5,
        augment_defaults={"half_body_prob": 0.0, "rotation_factor_deg": 90.0, "scale_factor": 0.3},
    ),
)
DATASETS: dict[str, Dataset] = {row.name: row for row in _ROWS}
