import subprocess
import sys

import cv2
import numpy as np
import pytest

from vitpose_jax import geometry

CROP_SIZE = (256, 192)
BOX = np.array([100.0, 80.0, 150.0, 200.0])


def picture(height: int = 120, width: int = 160) -> np.ndarray:
    """A smooth picture without symmetries."""
    y, x = np.mgrid[:height, :width]
    channels = [120 + 100 * np.sin(x / 9 + y / 23), 120 + 100 * np.cos(y / 7 - x / 31), (x * 2 + y) % 200]
    return np.stack(channels, axis=-1).astype(np.uint8)


def jpeg(image: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], list(options))[1].tobytes()


def with_segment(data: bytes, marker: int, content: bytes) -> bytes:
    """A JPEG file with one more segment behind its first marker."""
    return data[:2] + bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content + data[2:]


# Boxes


def test_box_has_the_shape_of_the_crop_and_holds_the_bbox():
    rng = np.random.default_rng(0)
    bbox = rng.uniform(1, 300, (50, 4))
    box = geometry.bbox_to_box_cxcywh(bbox, aspect_ratio=0.75, padding=1.25)
    assert box.dtype == np.float32
    np.testing.assert_allclose(box[:, 2] / box[:, 3], 0.75, rtol=1e-6)
    np.testing.assert_allclose(box[:, :2], bbox[:, :2] + bbox[:, 2:] / 2, rtol=1e-6)
    margin = box[:, 2:] / bbox[:, 2:]
    assert np.all(margin >= 1.2499)
    np.testing.assert_allclose(margin.min(axis=1), 1.25, rtol=1e-6)  # one side grows by the padding alone


# Maps


def test_udp_maps_the_region_onto_the_span_between_pixel_centres():
    matrix = geometry.crop_matrix(BOX, CROP_SIZE, udp=True)
    corners = np.array([[25.0, -20.0], [175.0, 180.0], [100.0, 80.0]])
    np.testing.assert_allclose(geometry.transform(matrix, corners), [[0, 0], [191, 255], [95.5, 127.5]], atol=1e-9)


def test_the_older_convention_maps_the_region_onto_whole_pixels_by_its_width():
    matrix = geometry.crop_matrix([100, 80, 150, 1000], CROP_SIZE, udp=False)  # the height plays no part
    corners = np.array([[25.0, -20.0], [175.0, 180.0], [100.0, 80.0]])
    np.testing.assert_allclose(geometry.transform(matrix, corners), [[0, 0], [192, 256], [96, 128]], atol=1e-9)


@pytest.mark.parametrize("rotation_deg", [0.0, 33.0, -120.0])
def test_the_older_convention_equals_its_construction_from_three_points(rotation_deg):
    angle, (height, width) = np.deg2rad(rotation_deg), CROP_SIZE
    up = BOX[2] / 2 * np.array([np.sin(angle), -np.cos(angle)])  # from the centre, half a width along the turned axis
    source = np.stack([BOX[:2], BOX[:2] + up, BOX[:2] + up + [up[1], -up[0]]])
    center, target_up = np.array([width / 2, height / 2]), np.array([0, -width / 2])
    target = np.stack([center, center + target_up, center + target_up + [target_up[1], -target_up[0]]])
    expected = cv2.getAffineTransform(source.astype(np.float32), target.astype(np.float32))
    ours = geometry.crop_matrix(BOX, CROP_SIZE, rotation_deg=rotation_deg, udp=False)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_the_conventions_turn_in_opposite_senses():
    right_of_center = BOX[:2] + np.array([10, 0])
    udp, plain = (
        geometry.transform(geometry.crop_matrix(BOX, CROP_SIZE, rotation_deg=30, udp=udp), right_of_center)
        - geometry.transform(geometry.crop_matrix(BOX, CROP_SIZE, rotation_deg=30, udp=udp), BOX[:2])
        for udp in (True, False)
    )
    assert udp[1] > 1 and plain[1] < -1  # y points down


@pytest.mark.parametrize("box", [[1, 2, 0, 5], [1, 2, 5, -1], [np.nan, 2, 5, 5], [1, 2, np.inf, 5]])
def test_an_empty_region_is_refused(box):
    with pytest.raises(ValueError, match="box_cxcywh"):
        geometry.crop_matrix(box, CROP_SIZE, udp=True)


def test_maps_compose_and_invert():
    rng = np.random.default_rng(1)
    outer, inner = rng.normal(size=(2, 2, 3))
    points = rng.normal(size=(4, 5, 2))
    expected = geometry.transform(outer, geometry.transform(inner, points))
    np.testing.assert_allclose(geometry.transform(geometry.compose(outer, inner), points), expected)
    np.testing.assert_allclose(geometry.transform(geometry.invert(inner), geometry.transform(inner, points)), points)
    np.testing.assert_allclose(geometry.compose(*[geometry.flip_matrix(7)] * 2), np.eye(3)[:2])


@pytest.mark.parametrize(
    ("dtype", "expected"), [(np.float32, np.float32), (np.float64, np.float64), (np.int32, np.float64)]
)
def test_transform_keeps_floating_types(dtype, expected):
    assert geometry.transform(geometry.flip_matrix(7), np.ones((3, 2), dtype)).dtype == expected


# Crops


def test_a_crop_of_the_whole_image_is_the_image():
    image = picture()
    matrix = geometry.crop_matrix([79.5, 59.5, 159, 119], image.shape[:2], udp=True)
    np.testing.assert_array_equal(geometry.cut_crop(image, matrix, image.shape[:2]), image)


def test_outside_the_image_is_black():
    crop = geometry.cut_crop(np.full((20, 20, 3), 200, np.uint8), np.array([[1.0, 0, 10], [0, 1, 5]]), (30, 40))
    expected = np.zeros((30, 40, 3), np.uint8)
    expected[5:25, 10:30] = 200
    np.testing.assert_array_equal(crop, expected)


@pytest.mark.parametrize("udp", [False, True])
def test_a_mirroring_map_equals_mirroring_the_image(udp):
    image = picture()
    matrix = geometry.crop_matrix([70, 60, 90, 120], CROP_SIZE, rotation_deg=20, udp=udp)
    copied = geometry.cut_crop(np.ascontiguousarray(image[:, ::-1]), matrix, CROP_SIZE)
    folded = geometry.cut_crop(image, geometry.compose(matrix, geometry.flip_matrix(image.shape[1])), CROP_SIZE)
    difference = np.abs(copied.astype(int) - folded)
    # OpenCV rounds source positions to 1/32 pixel, and not the same way in a mirrored image.
    assert difference.max() <= 8 and difference.mean() < 0.2


def test_one_thread_for_each_worker():
    assert cv2.getNumThreads() == 1


def test_geometry_does_not_import_jax():
    code = "import sys, vitpose_jax.geometry, vitpose_jax.data.augment; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Files


def test_decoding_gives_rgb():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:] = (250, 120, 10)
    decoded = geometry.decode_jpeg(jpeg(image))
    assert decoded.shape == image.shape and decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - image).max() < 8


def test_grey_files_get_three_channels():
    assert geometry.decode_jpeg(jpeg(picture()[..., :1])).shape == (120, 160, 3)


def test_exif_orientation_is_honoured():
    big_endian, one_entry = b"MM\x00\x2a\x00\x00\x00\x08", b"\x00\x01"
    turn_right = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"
    exif = b"Exif\x00\x00" + big_endian + one_entry + turn_right + b"\x00\x00\x00\x00"
    plain = jpeg(picture())
    decoded = geometry.decode_jpeg(with_segment(plain, 0xE1, exif))
    np.testing.assert_array_equal(decoded, np.rot90(geometry.decode_jpeg(plain), -1))


KINDS = {
    "baseline": [],
    "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    "restart markers": [cv2.IMWRITE_JPEG_RST_INTERVAL, 3],
    "best quality": [cv2.IMWRITE_JPEG_QUALITY, 100],
}


@pytest.mark.parametrize("kind", KINDS)
def test_cut_off_jpeg_files_are_refused_wherever_they_end(kind):
    data = jpeg(picture(), *KINDS[kind])
    geometry.decode_jpeg(data)
    for end in range(len(data) - 1, 1, -37):
        with pytest.raises(ValueError, match="cut off"):
            geometry.decode_jpeg(data[:end])
    with pytest.raises(ValueError, match="cut off"):
        geometry.decode_jpeg(data[: len(data) // 2] + bytes(len(data) // 2))  # a download that reserved its space


def test_a_thumbnail_does_not_hide_a_cut():
    thumbnail = jpeg(picture(20, 30))
    data = with_segment(jpeg(picture()), 0xE1, thumbnail)
    geometry.decode_jpeg(data)
    with pytest.raises(ValueError, match="cut off"):
        geometry.decode_jpeg(data[: len(data) * 2 // 3])


@pytest.mark.parametrize("tail", [b"\x00" * 100, b"\xff\xd9", b"\xff\xd8\xff\xe0 another", b"<html>"])
def test_what_follows_the_end_of_a_jpeg_file_does_not_matter(tail):
    data = jpeg(picture())
    np.testing.assert_array_equal(geometry.decode_jpeg(data + tail), geometry.decode_jpeg(data))


def test_fill_bytes_before_markers_are_no_cut():
    data = jpeg(picture())
    np.testing.assert_array_equal(geometry.decode_jpeg(data[:2] + b"\xff\xff" + data[2:]), geometry.decode_jpeg(data))


def test_other_formats_pass():
    image = picture()
    png = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(geometry.decode_jpeg(png), image)
    with pytest.raises(ValueError, match="not an image"):
        geometry.decode_jpeg(png[: len(png) // 2])


@pytest.mark.parametrize("data", [b"", b"not an image", b"\xff\xd8\xff\xd9"])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(ValueError):
        geometry.decode_jpeg(data)


def test_photographs(samples_dir):
    files = sorted(samples_dir.rglob("*.jpg"))[::4]
    assert files
    for file in files:
        data = file.read_bytes()
        geometry.decode_jpeg(data + b"\x00trailing")
        for end in (len(data) // 3, len(data) // 2, len(data) - 1000, len(data) - 1):
            with pytest.raises(ValueError, match="cut off"):
                geometry.decode_jpeg(data[:end])
