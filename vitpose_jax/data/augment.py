"""Random views of an instance for training: mirror, zoom to half a body, scale, turn; and the box jitter.

Nothing here touches pixels. `Augment.sample` draws a view; `train_transform` turns it into one affine map from the
stored image to the crop and moves the keypoints along. That map may mirror: no image is ever copied for it.

Every function takes its randomness as an argument ``rng`` that offers ``random`` and ``standard_normal`` like
`numpy.random.Generator`, and draws in the order of the original code, so that its recorded draws can be replayed.

Source: mmpose top_down_transform.py (TopDownRandomFlip, TopDownHalfBodyTransform, TopDownGetRandomScaleRotation) and
kpt_2d_sview_rgb_img_top_down_dataset.py::_xywh2cs.
"""

import dataclasses
import math
from typing import Any, NamedTuple, Protocol

import numpy as np

from vitpose_jax import geometry
from vitpose_jax.data.truncate import PARTS, Truncated, truncate
from vitpose_jax.keypoints import KeypointSet

# Half-body views.
_UPPER_BODY_THRESHOLD = 0.5  # the upper body is wanted if a *normal* draw is below: 69 % of the views, not half of them
_PART_ENOUGH = 2  # a part of the body has enough keypoints if it has more than this many
_PART_PADDING = 1.5

_LEAST_SHARE, _LARGEST_SHARE = 0.3, 0.8  # of a truncated instance's box that is kept


class Rng(Protocol):
    """The part of `numpy.random.Generator` that augmentation uses."""

    def random(self, size: Any = None) -> Any: ...
    def standard_normal(self) -> Any: ...


class View(NamedTuple):
    """A region of an image as a crop shows it.

    Attributes:
        box_cxcywh: float32 [4], in pixels of the image, or of the mirrored image if `flipped`.
        rotation_deg: angle as in `geometry.crop_matrix`.
        flipped: whether left and right of the image are exchanged first.
    """

    box_cxcywh: np.ndarray
    rotation_deg: float
    flipped: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Settings of the random views, one data set's worth of them. The defaults are those for COCO.

    Attributes:
        flip_prob: probability of a mirrored view.
        half_body_prob: probability of a half-body view for an instance with enough keypoints; 0 turns it off. Keypoint
            sets that name no upper body have no such views.
        half_body_min_keypoints: enough keypoints means more than this many labelled ones.
        scale_factor: the region grows or shrinks by 1 + scale_factor * normal draw, clipped to 1 ± scale_factor. With
            0.5, about 16 % of the views lie on either end.
        rotation_factor_deg: standard deviation of the rotation, which is clipped to twice that.
        rotation_prob: probability that a view is turned at all.
        center_jitter_prob: probability that an instance's region is shifted (`jitter_center`).
        center_jitter: width of the uniform shift as a fraction of the bbox: 0.4 means up to 20 % either way.
        jitter_each_epoch: draw the shift for every view. Off, as in the original, the data pipeline gives
            `jitter_center` an rng that depends on the instance alone, and each keeps its shift for the whole run.
        truncate: probability that the picture ends within the body (`truncated`); 0, as in the original, draws nothing.
    """

    flip_prob: float = 0.5
    half_body_prob: float = 0.3
    half_body_min_keypoints: int = 8
    scale_factor: float = 0.5
    rotation_factor_deg: float = 40.0
    rotation_prob: float = 0.6
    center_jitter_prob: float = 0.3
    center_jitter: float = 0.4
    jitter_each_epoch: bool = False
    truncate: float = 0.0

    def __post_init__(self):
        for name in ("flip_prob", "half_body_prob", "rotation_prob", "center_jitter_prob", "truncate"):
            self._check(name, 0, 1, "a probability in [0, 1]")
        self._check("half_body_min_keypoints", 0, math.inf, "a whole number of keypoints, 0 or more", whole=True)
        self._check("scale_factor", 0, math.nextafter(1, 0), "in [0, 1): at 1 the region could shrink to nothing")
        self._check("rotation_factor_deg", 0, 180, "degrees in [0, 180]")
        self._check("center_jitter", 0, 2, "a fraction of the bbox in [0, 2]")
        if not isinstance(self.jitter_each_epoch, bool):
            raise ValueError(f"augment.jitter_each_epoch is {self.jitter_each_epoch!r}; it needs to be True or False")

    def _check(self, name: str, low: float, high: float, expected: str, *, whole: bool = False) -> None:
        value = getattr(self, name)
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
            raise ValueError(f"augment.{name} is {value!r}; it needs to be {expected}")

    def jitter_center(self, box_cxcywh: np.ndarray, bbox_xywh: np.ndarray, rng: Rng) -> np.ndarray:
        """Shifts a region at random, now and then, by up to a fraction of the bbox it was made from.

        Args:
            box_cxcywh: [4] region in image pixels.
            bbox_xywh: [4] the box itself, without padding: the shift is measured in its width and height.
            rng: draws one uniform number, and two more if there is a shift.

        Returns:
            float32 [4] region in image pixels.
        """
        box = np.array(box_cxcywh, np.float32)
        if rng.random() < self.center_jitter_prob:
            box[:2] += self.center_jitter * (rng.random(2) - 0.5) * np.asarray(bbox_xywh, np.float64)[2:]
        return box

    def truncated(self, bbox_xywh: np.ndarray, rng: Rng) -> Truncated | None:
        """Now and then a part of an instance: one of `truncate.PARTS`, 30 to 80 % of its box.

        Args:
            bbox_xywh: [4] the whole box, image pixels.
            rng: draws one uniform number, and four more for a part; none where nothing is ever truncated.

        Returns:
            The part, None for the whole instance.
        """
        if self.truncate == 0 or rng.random() >= self.truncate:
            return None
        part = PARTS[int(rng.random() * len(PARTS))]
        share = _LEAST_SHARE + (_LARGEST_SHARE - _LEAST_SHARE) * rng.random()
        return truncate(bbox_xywh, part, share=share, place=tuple(rng.random(2)))

    def sample(
        self,
        box_cxcywh: np.ndarray,
        keypoints_img: np.ndarray,
        *,
        image_width: int,
        aspect_ratio: float,
        keypoint_set: KeypointSet,
        rng: Rng,
    ) -> View:
        """Draws a view of an instance.

        Args:
            box_cxcywh: [4] region of the plain view, image pixels.
            keypoints_img: [K, 3] (x, y, weight), image pixels. Weight 0 means not labelled.
            image_width: of the image, in pixels.
            aspect_ratio: crop width / crop height.
            keypoint_set: tells mirror partners and the upper body.
            rng: source of randomness.

        Returns:
            The view, for `train_transform`.
        """
        box, keypoints = np.asarray(box_cxcywh, np.float32), np.asarray(keypoints_img, np.float32)
        flipped = bool(rng.random() < self.flip_prob)
        if flipped:
            box, keypoints = mirror(box, keypoints, image_width=image_width, flip_index=keypoint_set.flip_index)
        if (
            self.half_body_prob > 0
            and keypoint_set.upper_body  # else there is nothing to tell the halves apart
            and np.count_nonzero(keypoints[:, 2]) > self.half_body_min_keypoints
            and rng.random() < self.half_body_prob
        ):
            part = half_body_box(keypoints, keypoint_set.upper_body_mask, aspect_ratio=aspect_ratio, rng=rng)
            box = box if part is None else part
        box, rotation_deg = self.scale_and_rotate(box, rng)
        return View(box, rotation_deg, flipped)

    def scale_and_rotate(self, box_cxcywh: np.ndarray, rng: Rng) -> tuple[np.ndarray, float]:
        """Grows or shrinks a region at random and draws an angle for it.

        Args:
            box_cxcywh: [4] region.
            rng: draws two normal numbers and a uniform one, always.

        Returns:
            (float32 [4] region with the same centre, angle in degrees as in `geometry.crop_matrix`).
        """
        factor = np.clip(1 + self.scale_factor * rng.standard_normal(), 1 - self.scale_factor, 1 + self.scale_factor)
        limit = 2 * self.rotation_factor_deg
        rotation_deg = float(np.clip(self.rotation_factor_deg * rng.standard_normal(), -limit, limit))
        if rng.random() >= self.rotation_prob:
            rotation_deg = 0.0
        box = np.array(box_cxcywh, np.float32)
        box[2:] *= factor
        return box, rotation_deg


def mirror(
    box_cxcywh: np.ndarray, keypoints_img: np.ndarray, *, image_width: int, flip_index: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where an instance lies in the mirror image: x becomes image_width - 1 - x, left and right keypoints change names.

    Args:
        box_cxcywh: [4] region in image pixels.
        keypoints_img: [K, 3] (x, y, weight), image pixels.
        image_width: in pixels.
        flip_index: int [K], as `KeypointSet.flip_index`.

    Returns:
        (float32 [4], float32 [K, 3]) in pixels of the mirrored image.
    """
    box, keypoints = np.array(box_cxcywh, np.float32), np.asarray(keypoints_img, np.float32)[flip_index]
    box[0] = image_width - 1 - box[0]
    keypoints[:, 0] = image_width - 1 - keypoints[:, 0]
    return box, keypoints


def half_body_box(keypoints: np.ndarray, upper_body: np.ndarray, *, aspect_ratio: float, rng: Rng) -> np.ndarray | None:
    """A region around the labelled keypoints of the upper or of the lower body.

    Args:
        keypoints: [K, 3] (x, y, weight), pixels of the image or of its mirror image.
        upper_body: bool [K]; every other keypoint counts as lower body.
        aspect_ratio: crop width / crop height.
        rng: draws one normal number.

    Returns:
        float32 [4] box_cxcywh in the keypoints' pixels: the tight box in crop shape, 1.5 times as large, about the
        keypoints' mean. None if the part has fewer than two keypoints, or only coinciding ones (on which the original
        would divide by zero).
    """
    labelled = keypoints[:, 2] > 0
    upper, lower = keypoints[labelled & upper_body, :2], keypoints[labelled & ~upper_body, :2]
    want_upper = rng.standard_normal() < _UPPER_BODY_THRESHOLD
    take_lower = len(lower) > _PART_ENOUGH and not (want_upper and len(upper) > _PART_ENOUGH)
    part = lower if take_lower else upper
    if len(part) < 2 or np.all(part == part[0]):
        return None
    corner, extent = part.min(axis=0), np.ptp(part, axis=0)
    box = geometry.bbox_to_box_cxcywh([*corner, *extent], aspect_ratio=aspect_ratio, padding=_PART_PADDING)
    box[:2] = part.mean(axis=0)
    return box


def train_transform(
    view: View,
    keypoints_img: np.ndarray,
    *,
    image_width: int,
    crop_size: tuple[int, int],
    flip_index: np.ndarray,
    udp: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """The map that cuts a view's crop, and the keypoints in that crop.

    Args:
        view: as drawn by `Augment.sample`; `View(box_cxcywh, 0.0, False)` is the plain view.
        keypoints_img: [K, 3] (x, y, weight) in pixels of the stored image.
        image_width: of that image, in pixels.
        crop_size: (H, W).
        flip_index: int [K], as `KeypointSet.flip_index`.
        udp: convention of the map, see `geometry`.

    Returns:
        (float64 [2, 3] image_to_crop, from the stored image also if the view is flipped; float32 [K, 3] keypoints in
        crop pixels, under the names they have in the crop, weights unchanged).
    """
    image_to_crop = geometry.crop_matrix(view.box_cxcywh, crop_size, rotation_deg=view.rotation_deg, udp=udp)
    keypoints = np.array(keypoints_img, np.float32)
    if view.flipped:
        image_to_crop = geometry.compose(image_to_crop, geometry.flip_matrix(image_width))
        keypoints = keypoints[flip_index]
    keypoints[:, :2] = geometry.transform(image_to_crop, keypoints[:, :2])
    return image_to_crop, keypoints
