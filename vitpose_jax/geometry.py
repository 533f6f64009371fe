"""Where a crop lies in its image: boxes, the affine maps between image and crop pixels, and cutting the crop.

A crop shows the region ``box_cxcywh`` of an image, turned by an angle. Two conventions say which points of the region
and of the crop belong together, and both are needed, because published weights were trained with either:

* *UDP* (unbiased data processing) measures sizes between pixel centres: the region's w x h falls on (W-1) x (H-1) crop
  pixels, each axis with its own factor.
* The older convention measures sizes in pixels and has a single factor, W / w: the region's height plays no part.

numpy and OpenCV only: data-loading workers import this module and must never import jax.
"""

import math
import re
from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

# Data loading runs one worker per core. A pool of OpenCV threads in every worker would only make them compete, and does
# not survive a fork. Set here because this module is what every worker that touches pixels imports.
cv2.setNumThreads(0)

_JPEG_START = b"\xff\xd8"
_JPEG_END = 0xD9
_JPEG_SCAN = 0xDA
# A marker, skipping what looks like one: stuffed zeros, fill bytes, restart markers (D0-D7) and TEM (01), which all
# stand without a length.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")


def bbox_to_box_cxcywh(bbox_xywh: npt.ArrayLike, *, aspect_ratio: float, padding: float = 1.25) -> np.ndarray:
    """Grows boxes to the shape of the crop and by a margin: the region of the image that the crop will show.

    The side that is too short for the crop's shape is enlarged around the centre, then both sides are multiplied by
    `padding`. Nothing is clipped at the image's border.

    Args:
        bbox_xywh: [..., 4] left, top, width, height in image pixels.
        aspect_ratio: crop width / crop height.
        padding: factor on both sides.

    Returns:
        float32 [..., 4]: centre x, centre y, width, height in image pixels.

    Source: mmpose base/kpt_2d_sview_rgb_img_top_down_dataset.py::_xywh2cs.
    """
    x, y, width, height = np.moveaxis(np.asarray(bbox_xywh, np.float64), -1, 0)
    box_width = np.maximum(width, height * aspect_ratio)
    box_height = np.maximum(height, width / aspect_ratio)
    return np.stack(
        [x + width / 2, y + height / 2, box_width * padding, box_height * padding], axis=-1, dtype=np.float32
    )


def crop_matrix(
    box_cxcywh: npt.ArrayLike, crop_size: tuple[int, int], *, rotation_deg: float = 0.0, udp: bool
) -> np.ndarray:
    """The map from image pixels to crop pixels for a region of the image.

    The two conventions turn in opposite senses: seen on the screen (y downwards), a positive angle turns the content of
    a UDP crop clockwise, that of the other counter-clockwise.

    Args:
        box_cxcywh: [4] region in image pixels.
        crop_size: (H, W).
        rotation_deg: angle by which the crop's content is turned about the region's centre.
        udp: which of the two conventions (see the module's docstring).

    Returns:
        float64 [2, 3] image_to_crop.

    Raises:
        ValueError: the region is empty or not finite.

    Source: mmpose post_transforms.py::get_warp_matrix (UDP) and ::get_affine_transform.
    """
    center_x, center_y, width, height = (float(value) for value in np.asarray(box_cxcywh, np.float64))
    if not (math.isfinite(center_x) and math.isfinite(center_y) and 0 < width < math.inf and 0 < height < math.inf):
        raise ValueError(f"box_cxcywh needs a finite centre and sides above 0, not {np.asarray(box_cxcywh).tolist()}")
    crop_height, crop_width = crop_size
    if udp:
        factor_x, factor_y = (crop_width - 1) / width, (crop_height - 1) / height
        target_x, target_y = (crop_width - 1) / 2, (crop_height - 1) / 2
        angle = math.radians(rotation_deg)
    else:
        factor_x = factor_y = crop_width / width
        target_x, target_y = crop_width / 2, crop_height / 2
        angle = -math.radians(rotation_deg)
    cos, sin = math.cos(angle), math.sin(angle)
    linear = np.array([[factor_x * cos, -factor_x * sin], [factor_y * sin, factor_y * cos]])
    offset = np.array([target_x, target_y]) - linear @ np.array([center_x, center_y])
    return np.concatenate([linear, offset[:, None]], axis=1)


def flip_matrix(image_width: int) -> np.ndarray:
    """float64 [2, 3]: the map from an image's pixels to those of its mirror image (left and right exchanged)."""
    return np.array([[-1.0, 0.0, image_width - 1.0], [0.0, 1.0, 0.0]])


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """float64 [2, 3]: the map that applies `inner` [2, 3] first and `outer` [2, 3] second."""
    outer, inner = np.asarray(outer, np.float64), np.asarray(inner, np.float64)
    return np.concatenate([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2:] + outer[:, 2:]], axis=1)


def invert(matrix: np.ndarray) -> np.ndarray:
    """float64 [2, 3]: the map back, e.g. crop_to_image from image_to_crop."""
    matrix = np.asarray(matrix, np.float64)
    linear = np.linalg.inv(matrix[:, :2])
    return np.concatenate([linear, -linear @ matrix[:, 2:]], axis=1)


def transform(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Applies an affine map to points.

    Args:
        matrix: [2, 3].
        points: [..., 2] (x, y).

    Returns:
        [..., 2], of the points' dtype if that is a floating one, else float64. Computed in float64 either way.
    """
    points, matrix = np.asarray(points), np.asarray(matrix, np.float64)
    dtype = points.dtype if np.issubdtype(points.dtype, np.floating) else np.float64
    return (points.astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]).astype(dtype)


def cut_crop(
    image: np.ndarray, image_to_crop: np.ndarray, crop_size: tuple[int, int], picture_ltrb: np.ndarray | None = None
) -> np.ndarray:
    """Samples a crop from an image: bilinear, rounded to whole grey levels, black outside the image.

    Args:
        image: uint8 [H_img, W_img, 3].
        image_to_crop: [2, 3], may mirror.
        crop_size: (H, W).
        picture_ltrb: int [4], the image ends at these columns and rows, see `data.truncate`; at least one pixel of it
            is left. None: nothing is taken away.

    Returns:
        uint8 [H, W, 3].

    Source: mmpose top_down_transform.py::TopDownAffine. OpenCV 4 is pinned: version 5 samples a little differently.
    """
    if picture_ltrb is not None:
        left, top = np.clip(picture_ltrb[:2], 0, [image.shape[1] - 1, image.shape[0] - 1])
        right, bottom = np.maximum(picture_ltrb[2:], [left + 1, top + 1])
        image = image[top:bottom, left:right]
        image_to_crop = compose(image_to_crop, np.array([[1.0, 0.0, left], [0.0, 1.0, top]]))
    height, width = crop_size
    return cv2.warpAffine(image, np.asarray(image_to_crop, np.float64), (width, height), flags=cv2.INTER_LINEAR)


def cut_region(
    image: np.ndarray,
    box_cxcywh: npt.ArrayLike,
    crop_size: tuple[int, int],
    *,
    udp: bool,
    picture_ltrb: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The crop that shows a region as it is: how evaluation and inference cut.

    Args:
        image: uint8 [H_img, W_img, 3].
        box_cxcywh: [4] region in image pixels.
        crop_size: (H, W).
        udp: see `crop_matrix`.
        picture_ltrb: see `cut_crop`.

    Returns:
        (uint8 [H, W, 3], float32 [2, 3] crop_to_image).
    """
    image_to_crop = crop_matrix(box_cxcywh, crop_size, udp=udp)
    return cut_crop(image, image_to_crop, crop_size, picture_ltrb), invert(image_to_crop).astype(np.float32)


def resize_region(image: np.ndarray, region_xywh: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """A rectangle of an image, brought to a size: bicubic, anti-aliased when it shrinks, rounded to whole grey levels.

    Args:
        image: uint8 [H_img, W_img, 3].
        region_xywh: left, top, width, height in whole pixels, inside of the image; nothing beyond it is looked at.
        size: (height, width) wanted.

    Returns:
        uint8 [height, width, 3].

    Source: torchvision's RandomResizedCrop on Pillow images, which MAE is trained with.
    """
    x, y, width, height = region_xywh
    region = Image.fromarray(np.ascontiguousarray(image[y : y + height, x : x + width]))
    return np.asarray(region.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def decode_jpeg(data: bytes) -> np.ndarray:
    """Decodes an image file, upright as its EXIF orientation says.

    OpenCV decodes the beginning of a cut-off JPEG file and fills the rest with grey without a word, so the file's end
    is looked for here. It counts as complete if walking its segments (each says how long it is, so that a thumbnail's
    end marker is stepped over) leads to an end-of-image marker; what follows that marker does not matter. Damage in the
    middle of a file goes unseen. Other formats that OpenCV reads (PNG, …) are left to OpenCV, which refuses cut-off
    ones.

    Args:
        data: the bytes of the file.

    Returns:
        uint8 [H_img, W_img, 3], RGB.

    Raises:
        ValueError: the bytes are no image that can be decoded, or a JPEG file that ends too early.
    """
    if data[:2] == _JPEG_START and not _jpeg_ends(data):
        raise ValueError(f"JPEG file of {len(data)} bytes has no end-of-image marker: it was cut off; fetch it again")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:  # empty input, or more pixels than OpenCV allows
        raise ValueError(f"OpenCV refuses to decode {len(data)} bytes as an image: {error}") from error
    if image is None:
        raise ValueError(f"{len(data)} bytes beginning {bytes(data[:8])!r} are not an image that OpenCV can decode")
    return image


def _jpeg_ends(data: bytes) -> bool:
    """True if the segments of a JPEG file lead to its end-of-image marker."""
    position = len(_JPEG_START)
    while marker := _JPEG_MARKER.search(data, position):
        code = data[marker.start() + 1]
        if code == _JPEG_END:
            return True
        # Every other marker is followed by two bytes of length, which count themselves. After the segment that starts a
        # scan comes compressed data, where the search stops at the next marker that is neither stuffing nor restart.
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return False
