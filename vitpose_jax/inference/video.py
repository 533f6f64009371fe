"""Poses for a video: frames in, annotated frames out at their own times, people with an identity over frames.

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
from tqdm import tqdm

from vitpose_jax.data.files import written_beside
from vitpose_jax.inference.boxes import Boxes, BoxSource, Picture, make_boxes
from vitpose_jax.inference.estimator import PoseEstimator, check_bboxes
from vitpose_jax.inference.images import draw_poses, predict_group, skip
from vitpose_jax.inference.journal import Journal
from vitpose_jax.inference.tracking import Smoother, Tracker
from vitpose_jax.interrupt import Guard
from vitpose_jax.progress import progress_bar

_TOGETHER_FRAMES = 16
_TOGETHER_PIXELS = 32_000_000
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


def predict_video(
    path: pathlib.Path,
    estimator: PoseEstimator,
    boxes: BoxSource,
    journal: Journal,
    stop: Guard,
    *,
    drawn: pathlib.Path | None,
    threshold: float,
    track: bool,
    smooth: bool,
    progress: bool = True,
) -> None:
    """Writes a line of the journal for every frame, and the video with its poses.

    Args:
        path: of the video.
        estimator: predicts.
        boxes: says where, in each frame.
        journal: takes the poses.
        stop: when it says so, what is under way is finished and this returns.
        drawn: the video to write; None for none.
        threshold: keypoints with a score above it are drawn.
        track: give individuals a number that they keep.
        smooth: steady their keypoints over time; asks for `track`.
        progress: show a bar with frames/s.

    Raises:
        ValueError: the file is no video, or smooth without track.
        ImportError: the tracker's package is missing.
    """
    if smooth and not track:
        raise ValueError("keypoints are smoothed person by person: --smooth does not go with --no-track")
    video = VideoFile(path)
    tracker = Tracker(float(video.rate or 30)) if track else None
    smoother = Smoother() if smooth else None
    bar = progress_bar(desc="poses", unit=" frames", total=video.length, show=progress)
    with contextlib.ExitStack() as opened:
        opened.callback(video.close)
        opened.enter_context(bar)
        write = drawn and opened.enter_context(video_writer(drawn, rate=video.rate, time_base=video.time_base))
        for group in _groups(video, path.name, boxes, journal, bar, most_boxes=estimator.batch_sizes[-1]):
            poses = predict_group(estimator, [(each.picture, each.boxes) for each in group])
            for each, some in zip(group, poses, strict=True):
                some = tracker(some) if tracker else some
                some = smoother(some, each.frame.time_s) if smoother else some
                if write:
                    write(draw_poses(each.picture.pixels, some, threshold=threshold), each.frame.pts)
                if each.fault:
                    skip(journal, bar, each.picture.name, each.fault)
                    continue
                journal.add(
                    each.picture.name, some, size=each.picture.pixels.shape[:2], image_id=each.frame.number,
                    frame=each.frame.number, time_s=round(each.frame.time_s, 6),
                )  # fmt: skip
                bar.update(1)
            if stop.requested:
                break


@dataclasses.dataclass(frozen=True)
class _Waiting:
    """A frame that waits for its batch; with a `fault`, its boxes cannot be used and it goes without."""

    frame: Frame
    picture: Picture
    boxes: Boxes
    fault: str = ""


def _groups(
    video: VideoFile, name: str, boxes: BoxSource, journal: Journal, bar: tqdm, *, most_boxes: int
) -> Iterator[list[_Waiting]]:
    """Frames with their boxes, as many together as fill a batch. Those that cannot be decoded go to the journal."""
    group: list[_Waiting] = []
    for frame in video.frames():
        if frame.pixels is None:
            skip(journal, bar, f"{name}#{frame.number}", frame.error)
            continue
        picture = Picture(f"{name}#{frame.number}", frame.pixels, frame.number)
        try:
            found = boxes(picture)
            check_bboxes(found.bboxes_xywh, picture.pixels.shape[:2])
            group.append(_Waiting(frame, picture, found))
        except ValueError as error:
            group.append(_Waiting(frame, picture, make_boxes([]), str(error)))
        many = sum(len(each.boxes.bboxes_xywh) for each in group) >= most_boxes or len(group) >= _TOGETHER_FRAMES
        if many or len(group) * frame.pixels[..., 0].size >= _TOGETHER_PIXELS:
            yield group
            group = []
    if group:
        yield group
