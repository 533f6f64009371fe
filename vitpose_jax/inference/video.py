"""Poses for a video: frames in, annotated frames out at their own times, people with an identity over frames."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator

from tqdm import tqdm

from vitpose_jax.data.video import Frame, VideoFile, video_writer
from vitpose_jax.inference.boxes import Boxes, BoxSource, Picture, make_boxes
from vitpose_jax.inference.estimator import PoseEstimator, check_bboxes
from vitpose_jax.inference.images import draw_poses, predict_group, skip
from vitpose_jax.inference.journal import Journal
from vitpose_jax.inference.tracking import Smoother, Tracker
from vitpose_jax.interrupt import Guard
from vitpose_jax.progress import progress_bar

_TOGETHER_FRAMES = 16
_TOGETHER_PIXELS = 32_000_000


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
        smooth: steady the keypoints of tracked individuals over time.
        progress: show a bar with frames/s.

    Raises:
        ValueError: the file is no video.
        ImportError: the tracker's package is missing.
    """
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
