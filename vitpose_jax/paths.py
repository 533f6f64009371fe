"""Folders and files as users name them: on this machine, or in a bucket (gs://…, which needs `pip install gcsfs`)."""

import importlib.util
import os
import pathlib
import urllib.parse

from etils import epath


def path(name: str | os.PathLike) -> epath.Path:
    """The folder or file of a name: a plain path, file:///…, or gs://bucket/….

    Raises:
        ValueError: it is none of these, or what reads buckets is not installed.
    """
    text = os.fspath(name)
    if text.startswith("file://"):
        text = urllib.parse.unquote(urllib.parse.urlsplit(text).path)
    if text.startswith("gs://") and not any(map(importlib.util.find_spec, ("gcsfs", "tensorflow"))):
        raise ValueError(f"{text}: reading and writing buckets needs gcsfs; pip install gcsfs")
    if "://" in text and not text.startswith("gs://"):
        raise ValueError(f"{text}: expected a path, file:///… or gs://bucket/…")
    return epath.Path(text)


def in_bucket(place: epath.Path) -> bool:
    """Whether a place is in a bucket, where files are written whole and never appended to."""
    return "://" in os.fspath(place)


def write(place: str | os.PathLike, content: bytes | str) -> None:
    """Writes a file beside its place and renames it: it is whole, or as it was. Its folder is made if need be."""
    file = path(place)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + ".partial")
    partial.write_bytes(content if isinstance(content, bytes) else content.encode())
    partial.replace(file)


def copy_folder(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """Copies all files of a folder on this machine into another one, which may be in a bucket."""
    for file in pathlib.Path(source).rglob("*"):
        if file.is_file():
            write(path(target) / file.relative_to(source), file.read_bytes())
