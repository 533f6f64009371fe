"""The public numbers at hand: the nose of a small person in image 139 of COCO val2017, for six published checkpoints.

With the weights and the photograph at hand, the whole way is tested: PyTorch file, conversion, checkpoint folder, crop,
flip test, decoding. They are named by the environment variables VITPOSE_ANCHOR_WEIGHTS (a file of `ANCHORS` under its
published name) and VITPOSE_ANCHOR_IMAGE (000000000139.jpg). What needs neither is tested always.

Source of the numbers: the conversion script of Hugging Face's VitPose, which asserts them within 0.05.
"""

import os
import pathlib

import jax
import numpy as np
import pytest

from tests import tolerances
from vitpose_jax import codec, geometry
from vitpose_jax.convert.released import RELEASED, recognize
from vitpose_jax.evaluation.predict import make_predict
from vitpose_jax.keypoints import COCO
from vitpose_jax.training import checkpoint

CROP, HEATMAP = (256, 192), (64, 48)
BBOX_XYWH = (384.43, 172.21, 15.12, 35.74)  # the second of the two people
NOSE = COCO.names.index("nose")
# The checkpoint's x and y in image pixels, and its score.
ANCHORS = {
    "vitpose-b": (398.07913, 181.82812, 0.88235235),
    "vitpose-b-simple": (398.18051, 181.80838, 0.86664259),
    "vitpose_base_coco_aic_mpii": (398.30554, 181.74159, 0.86996675),
    "vitpose+_small": (398.1597, 181.6902, 0.9051),
    "vitpose+_base": (398.20129, 181.72830, 0.87504697),
    "vitpose+_large": (398.1409, 181.7412, 0.8746),
}


def from_environment(variable: str) -> pathlib.Path:
    if variable not in os.environ:
        pytest.skip(f"set VITPOSE_ANCHOR_WEIGHTS and VITPOSE_ANCHOR_IMAGE to run this: {variable} is not set")
    path = pathlib.Path(os.environ[variable])
    assert path.exists(), f"{variable} names {path}, which does not exist"
    return path


def image_to_crop() -> np.ndarray:
    box = geometry.bbox_to_box_cxcywh(BBOX_XYWH, aspect_ratio=CROP[1] / CROP[0])
    return geometry.crop_matrix(box, CROP, udp=True)


def test_the_published_keypoint_of_the_published_weights(tmp_path):
    weights, photograph = from_environment("VITPOSE_ANCHOR_WEIGHTS"), from_environment("VITPOSE_ANCHOR_IMAGE")
    name = recognize(weights.name)
    assert name in ANCHORS, f"{weights.name} is none of the files with a public number: {', '.join(ANCHORS)}"
    from vitpose_jax.convert import importer

    importer.convert(weights, tmp_path / "converted")
    loaded = checkpoint.load_model(tmp_path / "converted")
    assert loaded.file.provenance["recognized_as"] == name
    image = geometry.decode_jpeg(photograph.read_bytes())
    assert image.shape == (426, 640, 3), f"{photograph} is not image 139 of COCO val2017"
    crop = geometry.cut_crop(image, image_to_crop(), CROP)
    predict = make_predict(
        loaded.model, dataset="coco", flip_index=COCO.flip_index, udp=True, flip_test=True,
        blur_kernel=loaded.file.codec["blur_kernel"],
    )  # fmt: skip
    crop_to_image = geometry.invert(image_to_crop()).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        points, scores = jax.jit(predict)(loaded.variables, crop[None], crop_to_image[None])
    x, y, score = ANCHORS[name]
    np.testing.assert_allclose(points[0, NOSE], (x, y), rtol=0, atol=tolerances.PUBLIC_ANCHOR_PX)
    np.testing.assert_allclose(scores[0, NOSE], score, rtol=0, atol=tolerances.PUBLIC_ANCHOR_SCORE)


def test_the_crop_of_the_box():
    """Worked out by hand: centre of the box, its height times 3/4 as width, 1.25 of both, between pixel centres."""
    width, height = 35.74 * 0.75 * 1.25, 35.74 * 1.25
    left, top = 384.43 + 15.12 / 2 - width / 2, 172.21 + 35.74 / 2 - height / 2
    expected = [[191 / width, 0, -left * 191 / width], [0, 255 / height, -top * 255 / height]]
    np.testing.assert_allclose(image_to_crop(), expected, rtol=1e-6, atol=tolerances.WARP_MATRIX)


def test_a_crop_of_an_image_of_that_size():
    """Bilinear sampling keeps a slope of brightness: the crop shows at each pixel the position it came from."""
    x, y = np.meshgrid(np.arange(640), np.arange(426))
    image = np.stack([(x - 370) * 5, (y - 160) * 4, 0 * x], axis=-1).clip(0, 255).astype(np.uint8)
    crop = geometry.cut_crop(image, image_to_crop(), CROP)
    corners = np.array([[0, 0], [191, 0], [0, 255], [191, 255]])
    positions = geometry.transform(geometry.invert(image_to_crop()), corners)
    for (column, row), (x_img, y_img) in zip(corners, positions, strict=True):
        expected = (x_img - 370) * 5, (y_img - 160) * 4
        np.testing.assert_allclose(crop[row, column, :2], expected, atol=1)  # 1/32 pixel and rounding


@pytest.mark.parametrize("name", ANCHORS)
def test_the_keypoint_survives_heatmaps(name):
    """Drawn as a target, put through the flip test, decoded and mapped back: the same place."""
    assert RELEASED[name].metrics["coco"]
    x, y, _ = ANCHORS[name]
    in_crop = geometry.transform(image_to_crop(), np.array([[x, y]]))
    assert ((in_crop > 0) & (in_crop < [191, 255])).all()
    flip_index = np.array([0])

    def heatmap(points):
        keypoints = np.concatenate([points, [[1.0]]], axis=1)[None].astype(np.float32)
        return codec.encode(keypoints, crop_size=CROP, heatmap_size=HEATMAP, udp=True)[0]

    mirrored = heatmap(in_crop * [-1, 1] + [191, 0])
    merged = codec.merge_flip(heatmap(in_crop), mirrored, flip_index, shift=False)
    points_hm, scores = codec.decode(merged, method="dark_udp")
    points_crop = codec.points_to_crop(points_hm, crop_size=CROP, heatmap_size=HEATMAP, udp=True)
    found = codec.points_to_image(points_crop, geometry.invert(image_to_crop())[None].astype(np.float32))
    assert float(scores[0, 0]) > 0.9
    cell_px = 35.74 * 1.25 / 63
    np.testing.assert_allclose(found[0, 0], (x, y), atol=0.025 * cell_px)  # what encoding and decoding may cost
