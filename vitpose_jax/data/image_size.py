"""The size of an image, read from its file without decoding the pixels where that is possible."""

import re

from vitpose_jax import geometry

_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_JPEG_SEGMENT = re.compile(rb"\xff+([^\x00\xff])(..)", re.DOTALL)  # marker, length
_JPEG_EXIF, _JPEG_SCAN = 0xE1, 0xDA
# Start of a frame, which tells the size: C0 to CF, but not C4 (Huffman tables), C8 (reserved), CC (arithmetic coding).
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def image_size(data: bytes) -> tuple[int, int]:
    """(height, width) that an image file has when decoded, read from its headers where they suffice.

    Args:
        data: the bytes of the file.

    Returns:
        Pixels, upright as the EXIF orientation says.

    Raises:
        ValueError: the bytes are no image, or a JPEG file that ends too early.
    """
    size = _plain_jpeg_size(data)
    return geometry.decode_jpeg(data).shape[:2] if size is None else size


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG file; None where only decoding tells: EXIF may turn it, it is cut off, it is none."""
    if not data.startswith(_JPEG_START):
        return None
    size, position = None, len(_JPEG_START)
    while segment := _JPEG_SEGMENT.match(data, position):
        code, body = segment[1][0], segment.end()
        position = segment.start(2) + int.from_bytes(segment[2], "big")
        if code == _JPEG_EXIF and data.startswith(b"Exif", body):
            return None
        if code in _JPEG_FRAMES:  # body: bits per sample, height, width
            size = int.from_bytes(data[body + 1 : body + 3], "big"), int.from_bytes(data[body + 3 : body + 5], "big")
        if code == _JPEG_SCAN:
            # Compressed data never hold FF D9, so if one comes later, it is the end.
            return size if data.rfind(_JPEG_END, position) >= 0 else None
    return None
