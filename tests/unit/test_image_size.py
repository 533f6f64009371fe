"""The size of an image is told without decoding it, and an image file that is cut off is noticed."""

import struct

import cv2
import numpy as np
import pytest

from vitpose_jax.data.image_size import image_size


def test_image_size_is_that_of_the_decoded_image():
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)
    jpeg, png = (cv2.imencode(suffix, image)[1].tobytes() for suffix in (".jpg", ".png"))
    progressive = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    for data in (jpeg, png, progressive, jpeg + b"what cameras append"):
        assert image_size(data) == (24, 40)

    def with_exif(data: bytes, orientation: int) -> bytes:
        entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
        body = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
        thumbnail = body + b"\xff\xd8 a whole little image \xff\xd9"
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]

    assert image_size(with_exif(jpeg, 1)) == (24, 40)
    assert image_size(with_exif(jpeg, 6)) == (40, 24)
    for data in (
        jpeg[:-2],
        jpeg[: len(jpeg) // 2],
        jpeg[:30],
        progressive[:-40],
        with_exif(jpeg, 6)[:-9],
        b"",
        b"text",
    ):
        with pytest.raises(ValueError):
            image_size(data)
