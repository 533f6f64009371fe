"""What was predicted so far, a line an image, written as it comes: long work can stop anywhere and go on.

    {"settings": {…}}                                                what made this file
    {"file": "a.jpg", "image_id": 1, "size": [480, 640], "poses": [{"bbox": […], "score": …, "keypoints": […]}, …]}
    {"file": "b.jpg", "error": "…"}                                  skipped, and why

All other files are written from this one in the end, line by line, so memory does not depend on how much there is.
"""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vitpose_jax.types import Pose

NAME = "poses.jsonl"


class Journal:
    """Appends to a journal, after those lines of it that an earlier call has finished.

    Args:
        path: the file.
        settings: whatever the poses depend on; an existing journal must have been made with equal ones.
        anew: begin again, in place of the journal that is there, if that has the same "input".

    Attributes:
        done: names of the files that have a line.
        skipped: how many of them could not be read.

    Raises:
        ValueError: the file there was made with other settings, or is no journal.
    """

    def __init__(self, path: pathlib.Path, settings: Mapping[str, Any], *, anew: bool = False):
        self.path = path
        self.done: set[str] = set()
        self.skipped = 0
        self.poses = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            self._take_up(settings, anew)
        self._stream = open(path, "w" if anew else "a", encoding="utf-8")  # noqa: SIM115 (closed by `close`)
        if self._stream.tell() == 0:
            self._append({"settings": dict(settings)})

    def _take_up(self, settings: Mapping[str, Any], anew: bool) -> None:
        _cut_off_broken_end(self.path)
        if not self.path.stat().st_size:
            return
        found = read_settings(self.path)
        compared = ["input"] if anew else {**found, **settings}
        differing = [key for key in compared if found.get(key) != settings.get(key)]
        if differing:
            raise ValueError(
                f"{self.path} was made with "
                + ", ".join(f"{key} {found.get(key)!r} (now {settings.get(key)!r})" for key in sorted(differing))
                + "; give the same settings to go on, or another --out"
            )
        for line in () if anew else read(self.path):
            self._count(line)

    def add(
        self,
        file: str,
        poses: Sequence[Pose] = (),
        *,
        size: tuple[int, int] | None = None,
        image_id: int | None = None,
        error: str | None = None,
        **more: Any,
    ) -> None:
        """Writes an image's line.

        Args:
            file: its name.
            poses: what was found on it.
            size: (height, width) of the image, pixels.
            image_id: as the source of the boxes numbers it; None where it does not.
            error: why there are no poses.
            **more: further fields.
        """
        line: dict[str, Any] = {"file": file} | ({} if image_id is None else {"image_id": image_id})
        if error is not None:
            line["error"] = error
        else:
            line |= {"size": list(size or ()), **more, "poses": [pose_fields(pose) for pose in poses]}
        self._append(line)
        self._count(line)

    def _append(self, line: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._stream.flush()

    def _count(self, line: Mapping[str, Any]) -> None:
        self.done.add(line["file"])
        self.skipped += "error" in line
        self.poses += len(line.get("poses", ()))

    def close(self) -> None:
        self._stream.close()


def pose_fields(pose: Pose) -> dict[str, Any]:
    """A pose as JSON: coordinates to 1/1000 pixel."""
    fields: dict[str, Any] = {
        "bbox": [round(float(value), 3) for value in pose.bbox_xywh],
        "bbox_score": round(pose.bbox_score, 4),
        "score": round(pose.score, 4),
        "category_id": pose.category_id,
        "keypoints": [
            [round(float(x), 3), round(float(y), 3), round(float(score), 4)]
            for (x, y), score in zip(pose.keypoints, pose.scores, strict=True)
        ],
    }
    return fields if pose.track_id is None else {**fields, "track_id": pose.track_id}


def read(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal after the first, in order."""
    with open(path, encoding="utf-8") as stream:
        next(stream)
        for line in stream:
            yield json.loads(line)


def read_settings(path: pathlib.Path) -> dict[str, Any]:
    """What made a journal. Raises ValueError if it is none."""
    with open(path, encoding="utf-8") as stream:
        try:
            return json.loads(stream.readline())["settings"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(f"{path} does not begin as a journal of poses does; give another --out") from None


def _cut_off_broken_end(path: pathlib.Path) -> None:
    """Removes what follows the last line end: a line that was being written when the machine stopped."""
    with open(path, "r+b") as stream:
        size = end = stream.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - (1 << 16))
            stream.seek(start)
            last = stream.read(end - start).rfind(b"\n")
            if last >= 0:
                end = start + last + 1
                break
            end = start
        if end < size:
            stream.truncate(end)
