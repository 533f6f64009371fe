"""Poses for any number of image files: bounded memory, going on after a stop, broken files skipped and told."""

import dataclasses
import glob
import pathlib
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from vitpose_jax import draw, geometry
from vitpose_jax.inference.boxes import Boxes, BoxSource, Picture
from vitpose_jax.inference.estimator import PoseEstimator, check_bboxes
from vitpose_jax.inference.journal import Journal
from vitpose_jax.interrupt import Guard
from vitpose_jax.progress import progress_bar
from vitpose_jax.types import Pose

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_ENDINGS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_READ_AHEAD = 8  # images being read and decoded
_TOGETHER_PIXELS = 64_000_000  # images that wait for a batch hold no more than about this many pixels
_DRAWN_ENDINGS = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class Input:
    """What is to be done: images under a folder, or one video.

    Attributes:
        root: folder that names are relative to.
        names: paths with slashes, sorted.
        is_video: whether the one name is a video.
    """

    root: pathlib.Path
    names: tuple[str, ...]
    is_video: bool = False


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """An image file that cannot be read, and why."""

    name: str
    reason: str


def find_input(given: str, *, out: pathlib.Path) -> Input:
    """An image, a folder (with the folders in it), a glob pattern or a video.

    Args:
        given: as on the command line.
        out: folder to write to; what is inside is not read.

    Raises:
        ValueError: nothing is there, it is neither image nor video, or `out` is the folder of the images itself.
    """
    path = pathlib.Path(given)
    root, found = path.parent, [path]
    if path.is_dir():
        root, found = path, [each for each in path.rglob("*") if each.is_file()]
    elif path.is_file() and path.suffix.lower() in VIDEO_ENDINGS:
        return Input(root, (path.name,), is_video=True)
    elif glob.has_magic(given):
        root, found = _fixed_part(path), [pathlib.Path(each) for each in glob.iglob(given, recursive=True)]
    elif not path.is_file():
        raise ValueError(f"there is no image, folder or video {given}")
    written, here = out.resolve(), root.resolve()
    if written == here:
        raise ValueError(f"{out} is the folder of the images; give another --out, such as {out / 'poses'}")
    left_out = f"{written.relative_to(here).as_posix()}/" if written.is_relative_to(here) else None
    names = sorted(each.relative_to(root).as_posix() for each in found if each.suffix.lower() in IMAGE_ENDINGS)
    names = [name for name in names if left_out is None or not name.startswith(left_out)]
    if not names:
        raise ValueError(
            f"{given}: no image there; images end in {' '.join(IMAGE_ENDINGS)}, videos in {' '.join(VIDEO_ENDINGS)}"
        )
    return Input(root, tuple(names))


def _fixed_part(pattern: pathlib.Path) -> pathlib.Path:
    """The folders of a pattern before its first wildcard."""
    fixed = pathlib.Path(pattern.anchor)
    for part in pattern.relative_to(pattern.anchor).parts[:-1]:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def predict_images(
    given: Input,
    estimator: PoseEstimator,
    boxes: BoxSource,
    journal: Journal,
    stop: Guard,
    *,
    drawn: pathlib.Path | None,
    threshold: float,
    progress: bool = True,
) -> None:
    """Writes a line of the journal for every image that has none, and a picture with its poses.

    Args:
        given: the images.
        estimator: predicts.
        boxes: says where.
        journal: takes the poses.
        stop: when it says so, what is under way is finished and this returns.
        drawn: folder for pictures; None for none.
        threshold: keypoints with a score above it are drawn.
        progress: show a bar with images/s and time left.
    """
    waiting = [name for name in given.names if name not in journal.done]
    bar = progress_bar(
        desc="poses", unit=" images", total=len(given.names), initial=len(given.names) - len(waiting), show=progress
    )
    pictures = _read_ahead(given.root, waiting)
    with bar:
        for group in _groups(pictures, boxes, journal, bar, most_boxes=estimator.batch_sizes[-1]):
            poses = predict_group(estimator, group)
            for (picture, found), some in zip(group, poses, strict=True):
                if drawn is not None:
                    _save(drawn / picture.name, draw_poses(picture.pixels, some, threshold=threshold))
                journal.add(picture.name, some, size=picture.pixels.shape[:2], image_id=found.image_id)
            bar.update(len(group))
            if stop.requested:
                return


def predict_group(estimator: PoseEstimator, group: Sequence[tuple[Picture, Boxes]]) -> list[list[Pose]]:
    """The poses of several pictures at once, with the categories of their boxes."""
    poses = estimator(
        [picture.pixels for picture, _ in group],
        [found.bboxes_xywh for _, found in group],
        [found.scores for _, found in group],
    )
    return [
        [
            dataclasses.replace(pose, category_id=int(category))
            for pose, category in zip(some, found.category_ids, strict=True)
        ]
        for some, (_, found) in zip(poses, group, strict=True)
    ]


def draw_poses(image: np.ndarray, poses: Sequence[Pose], *, threshold: float) -> np.ndarray:
    """The image with all poses on it, nearer (larger) people in front; those with a track carry its number."""
    if not poses:
        return image
    order = sorted(range(len(poses)), key=lambda row: float(np.prod(poses[row].bbox_xywh[2:])))
    ordered = [poses[row] for row in order]
    picture = draw.draw_pose(
        image,
        np.stack([pose.keypoints for pose in ordered]),
        np.stack([pose.scores for pose in ordered]),
        ordered[0].keypoint_set,
        threshold=threshold,
    )
    tracked = [pose for pose in ordered if pose.track_id is not None]
    return draw.draw_numbers(
        picture, [pose.bbox_xywh for pose in tracked], [int(pose.track_id or 0) for pose in tracked]
    )


def _save(path: pathlib.Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draw.save_image(path if path.suffix.lower() in _DRAWN_ENDINGS else path.with_name(path.name + ".jpg"), picture)


def _read_ahead(root: pathlib.Path, names: Sequence[str]) -> Iterator[Picture | Unreadable]:
    """Pictures in order, read by threads."""

    def read(name: str) -> Picture | Unreadable:
        try:
            return Picture(name, geometry.decode_jpeg((root / name).read_bytes()))
        except (OSError, ValueError) as error:
            return Unreadable(name, str(error))

    with ThreadPoolExecutor(max_workers=4) as pool:
        reading: deque[Future] = deque()
        try:
            for name in names:
                reading.append(pool.submit(read, name))
                if len(reading) >= _READ_AHEAD:
                    yield reading.popleft().result()
            while reading:
                yield reading.popleft().result()
        finally:
            for future in reading:
                future.cancel()


def _groups(
    pictures: Iterator[Picture | Unreadable], boxes: BoxSource, journal: Journal, bar: tqdm, *, most_boxes: int
) -> Iterator[list[tuple[Picture, Boxes]]]:
    """Pictures with their boxes, as many together as fill a batch. Those that are at fault go to the journal."""
    group: list[tuple[Picture, Boxes]] = []
    for picture in pictures:
        try:
            if isinstance(picture, Unreadable):
                raise ValueError(picture.reason)
            found = boxes(picture)
            check_bboxes(found.bboxes_xywh, picture.pixels.shape[:2])
        except ValueError as error:
            skip(journal, bar, picture.name, str(error))
            continue
        group.append((picture, found))
        full = sum(len(each.bboxes_xywh) for _, each in group) >= most_boxes
        if full or sum(each.pixels[..., 0].size for each, _ in group) >= _TOGETHER_PIXELS:
            yield group
            group = []
    if group:
        yield group


def skip(journal: Journal, bar: tqdm, name: str, reason: str) -> None:
    """Tells that something cannot be used, and why, and notes it in the journal."""
    bar.write(f"skipped {name}: {reason}", file=sys.stderr)
    journal.add(name, error=reason)
    bar.update(1)
