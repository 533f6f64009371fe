"""Where Hugging Face's image processor differs from the original, and that it differs in nothing else.

Recorded from transformers 5.23 (`VitPoseImageProcessorPil`): the crop of a photograph, and decoded synthetic heatmaps.
The differences are described in docs/parity.md.
"""

import numpy as np
import pytest

from tests import tolerances
from vitpose_jax import codec, geometry
from vitpose_jax.models.vitpose import IMAGE_MEAN, IMAGE_STD

CROP, HEATMAP = (256, 192), (64, 48)


@pytest.fixture(scope="module")
def recorded(golden_dir) -> dict[str, np.ndarray]:
    return dict(np.load(golden_dir / "8_hf/image_processor.npz"))


def matrices(recorded) -> list[np.ndarray]:
    boxes = geometry.bbox_to_box_cxcywh(recorded["boxes_xywh"], aspect_ratio=CROP[1] / CROP[0])
    return [geometry.crop_matrix(box, CROP, udp=True) for box in boxes]


def decode(recorded) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points in image pixels, scores, and which points lie farther from the border than the blur reaches."""
    points_hm, scores = codec.decode(np.moveaxis(recorded["heatmaps"], 1, -1), method="dark_udp", blur_kernel=11)
    points_crop = codec.points_to_crop(points_hm, crop_size=CROP, heatmap_size=HEATMAP, udp=True)
    crop_to_image = np.array([geometry.invert(matrix) for matrix in matrices(recorded)], np.float32)
    reach = np.abs(points_hm - (np.array(HEATMAP[::-1]) - 1) / 2) < (np.array(HEATMAP[::-1]) - 1) / 2 - 6
    return np.asarray(codec.points_to_image(points_crop, crop_to_image)), np.asarray(scores), reach.all(-1)


def test_its_keypoints_differ_by_the_width_and_the_border_of_the_blur_alone(recorded, monkeypatch):
    points, scores, inside = decode(recorded)
    np.testing.assert_array_equal(scores, recorded["scores"])
    distances = np.linalg.norm(points - recorded["keypoints"], axis=-1)
    assert distances.max() > 1
    assert inside.sum() > 20
    # Around an ideal peak any blur leaves the logarithm a parabola: the step is the same.
    limit = tolerances.KEYPOINT_FROM_HEATMAP_PX
    np.testing.assert_allclose(points[inside], recorded["keypoints"][inside], rtol=0, atol=limit)

    narrow = np.exp(-0.5 * (np.arange(-5, 6) / 0.8) ** 2)
    monkeypatch.setitem(codec._SMALL_KERNELS, 11, narrow / narrow.sum())
    codec._blur_table.cache_clear()
    try:
        points, _, _ = decode(recorded)
    finally:
        codec._blur_table.cache_clear()
    distances = np.linalg.norm(points - recorded["keypoints"], axis=-1)
    assert (distances > limit).sum() <= 2
    assert distances.max() < 0.005  # a map mirrored with its edge, not without it, near the border


def test_its_crop_shows_the_same_region(golden_dir, recorded):
    """Other sampling: a fraction of the pixels differs by more than one level, most of all at the image's border."""
    image = geometry.decode_jpeg((golden_dir / "images/coco/000000000785.jpg").read_bytes())
    ours = geometry.cut_crop(image, matrices(recorded)[0], CROP).astype(np.float64)
    theirs = (recorded["pixel_values0"].transpose(1, 2, 0) * IMAGE_STD + IMAGE_MEAN) * 255
    difference = np.abs(ours - theirs.round())
    assert 0.1 < difference.mean() < 0.5
    assert 0.01 < np.mean(difference > 1) < 0.02
