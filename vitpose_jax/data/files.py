"""Files that are whole or not there: each is written beside its place and renamed when it is finished."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def written_beside(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path to write to, which becomes `path` when all went well and is deleted otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_written_beside(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields an empty folder to write in, which becomes `folder` when all went well and is deleted otherwise.

    `folder` must not exist, or be empty.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        partial.chmod(0o777 & ~_umask())
        yield partial
        if folder.is_dir():
            folder.rmdir()  # empty, or this raises
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    with written_beside(target) as partial:
        shutil.copyfile(source, partial)


def write_text(path: pathlib.Path, text: str) -> None:
    with written_beside(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: pathlib.Path) -> Any:
    """The content of a JSON file. Raises ValueError, naming the place, if it is none."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:  # also a broken encoding
        raise ValueError(f"{path} is not valid JSON ({error}); fetch the file again") from None
