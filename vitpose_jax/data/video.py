"""Video files: frames with their exact times in, frames at given times out.

PyAV reads and writes: it tells each frame's exact time and has H.264, which OpenCV's packages have not.
"""

import contextlib
import dataclasses
import fractions
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import av
import numpy as np

from vitpose_jax.data.files import written_beside

_CODECS = ("libx264", "libopenh264")  # the first that is there


@dataclasses.dataclass(frozen=True)
class Frame:
    """A decoded frame; or, with `error`, the place of one that cannot be decoded.

    Attributes:
        number: from 0.
        pixels: uint8 [H, W, 3], RGB, upright.
        pts: its time, in units of the stream's time base.
        time_s: the same in seconds.
        error: why it could not be decoded.
    """

    number: int
    pixels: np.ndarray | None
    pts: int
    time_s: float
    error: str = ""


class VideoFile:
    """Reads a video's frames.

    Args:
        path: of the file.

    Attributes:
        rate: average frames per second; None where the file does not say.
        time_base: seconds in a unit of `Frame.pts`.
        length: number of frames; None where the file does not say.

    Raises:
        ValueError: it is no video that can be opened.
    """

    def __init__(self, path: pathlib.Path):
        try:
            self._container = av.open(str(path))
        except (av.error.FFmpegError, OSError) as error:
            raise ValueError(f"{path} cannot be read as a video: {error}") from None
        if not self._container.streams.video:
            self._container.close()
            raise ValueError(f"{path} has no video in it")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self.rate: fractions.Fraction | None = self._stream.average_rate or self._stream.guessed_rate
        self.time_base = self._stream.time_base or 1 / fractions.Fraction(self.rate or 30)
        self.length: int | None = self._stream.frames or None

    def frames(self) -> Iterator[Frame]:
        """All frames in order. What cannot be decoded is a `Frame` with `error`; reading goes on after it."""
        number = 0
        step = int(1 / (self.time_base * (self.rate or 30)))
        for packet in self._container.demux(self._stream):
            try:
                decoded = packet.decode()
            except av.error.FFmpegError as error:
                yield Frame(number, None, number * step, number * step * float(self.time_base), str(error))
                number += 1
                continue
            for frame in decoded:
                pts = number * step if frame.pts is None else frame.pts
                place: dict[str, Any] = {"number": number, "pts": pts, "time_s": float(pts * self.time_base)}
                if frame.is_corrupt:
                    yield Frame(pixels=None, error="its data are damaged", **place)
                else:
                    yield Frame(pixels=upright(frame.to_ndarray(format="rgb24"), frame.rotation), **place)
                number += 1

    def close(self) -> None:
        self._container.close()


def upright(pixels: np.ndarray, rotation_deg: float) -> np.ndarray:
    """The frame as a player shows it; `rotation_deg` is counter-clockwise, as phones note how they were held."""
    return np.ascontiguousarray(np.rot90(pixels, round(rotation_deg / 90)))


@contextlib.contextmanager
def video_writer(
    path: pathlib.Path, *, rate: fractions.Fraction | None, time_base: fractions.Fraction
) -> Iterator[Callable[[np.ndarray, int], None]]:
    """Yields a function that writes a frame: uint8 [H, W, 3], RGB, and its `Frame.pts`. H.264 in an MP4 file.

    An odd size is made even by repeating the last row or column. The file is whole or not there.

    Args:
        path: to write.
        rate: frames per second; None for 30.
        time_base: seconds in a unit of pts.

    Raises:
        ValueError: PyAV was built without H.264, or no frame was written.
    """
    codec = next((name for name in _CODECS if name in av.codecs_available), None)
    if codec is None:
        raise ValueError(f"PyAV has none of the encoders {', '.join(_CODECS)}; the wheels of `pip install av` have")
    stream: Any = None
    first_pts = 0

    with written_beside(path) as partial, av.open(str(partial), "w", format="mp4") as container:

        def write(pixels: np.ndarray, pts: int) -> None:
            nonlocal stream, first_pts
            height, width = pixels.shape[:2]
            pixels = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if stream is None:
                stream, first_pts = container.add_stream(codec, rate=rate or 30), pts
                stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], "yuv420p"
                stream.codec_context.time_base = time_base
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = pts - first_pts, time_base
            container.mux(stream.encode(frame))

        yield write
        if stream is None:
            raise ValueError(f"no frame could be decoded, so there is nothing to write to {path}")
        container.mux(stream.encode())
