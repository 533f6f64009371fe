"""Writes a drawn data set in COCO's folder layout."""

import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from vitpose_jax.data.synthetic.labels import CATEGORY, detect
from vitpose_jax.data.synthetic.scene import draw_image, generator, image_id
from vitpose_jax.progress import progress_bar

RECIPE_FILE = "synthetic.json"
DETECTIONS_FILE = "person_detection_results/COCO_val2017_detections_AP_H_56_person.json"
DRAWING_VERSION = 1  # raise it whenever a picture changes, so that an old folder is not taken for a new one


def write_synthetic(
    out_dir: str | os.PathLike,
    *,
    num_train: int = 4000,
    num_val: int = 200,
    seed: int = 0,
    image_size: tuple[int, int] = (192, 192),
    num_workers: int = 2,
    progress: bool = True,
) -> None:
    """Writes a drawn data set in COCO's folder layout; does nothing if the same one is already there.

    The set is made in ``<out_dir>.partial`` and renamed at the end, so `out_dir` is complete whenever it exists.
    Contents: ``train2017/`` and ``val2017/`` (JPEG), ``annotations/person_keypoints_{train,val}2017.json``, a file of
    detected boxes under ``person_detection_results/``, and ``synthetic.json`` with the arguments. The files do not
    depend on `num_workers`.

    Args:
        out_dir: folder to make.
        num_train: pictures of the training split.
        num_val: pictures of the validation split.
        seed: seed of the whole set, at least 0.
        image_size: typical (height, width) of a picture in pixels.
        num_workers: worker processes; 0 draws in this process.
        progress: show a progress bar.

    Raises:
        ValueError: if a number is out of range.
        FileExistsError: if `out_dir` holds something else.
    """
    if min(num_train, num_val, seed, num_workers) < 0 or min(image_size) < 64:
        raise ValueError(
            "num_train, num_val, seed and num_workers must be at least 0 and both sides of image_size at least 64, but "
            f"{num_train}, {num_val}, {seed}, {num_workers} and {tuple(image_size)} were given"
        )
    out = pathlib.Path(out_dir)
    recipe = {
        "drawing_version": DRAWING_VERSION,
        "num_train": num_train,
        "num_val": num_val,
        "seed": seed,
        "image_size": list(image_size),
    }
    with made_beside(out, recipe, ("train2017", "val2017", "annotations", "person_detection_results")) as partial:
        if partial is None:
            return
        pictures = [("train", index) for index in range(num_train)] + [("val", index) for index in range(num_val)]
        write = functools.partial(_write_image, folder=partial, seed=seed, image_size=image_size)
        bar = functools.partial(progress_bar, total=len(pictures), desc="drawing people", unit=" images", show=progress)
        if num_workers == 0:
            results = list(bar(map(write, pictures)))
        else:
            with multiprocessing.get_context("spawn").Pool(num_workers, cv2.setNumThreads, (1,)) as pool:
                results = list(bar(pool.imap(write, pictures, chunksize=16)))

        by_split = {"train": results[:num_train], "val": results[num_train:]}
        for split, rows in by_split.items():
            write_json(partial / "annotations" / f"person_keypoints_{split}2017.json", _coco_file(rows))
        write_json(partial / DETECTIONS_FILE, [found for row in by_split["val"] for found in row.detections])


@contextlib.contextmanager
def made_beside(out: pathlib.Path, recipe: dict, folders: Sequence[str]) -> Iterator[pathlib.Path | None]:
    """Yields an empty folder with the given sub-folders, which becomes `out` when all went well.

    Args:
        out: the folder to make.
        recipe: what it is made by; written into it.
        folders: to make in it.

    Yields:
        The folder; None if `out` holds what the recipe makes already.

    Raises:
        FileExistsError: `out` holds something else.
    """
    if _holds(out, recipe):
        yield None
        return
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)  # what an interrupted run left
    for folder in folders:
        (partial / folder).mkdir(parents=True)
    yield partial
    write_json(partial / RECIPE_FILE, recipe)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir():
        out.rmdir()  # it is empty
    partial.rename(out)


def _holds(out: pathlib.Path, recipe: dict) -> bool:
    """True if `out` is the finished set of `recipe`, False if it is absent or empty."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    found = json.loads((out / RECIPE_FILE).read_text()) if (out / RECIPE_FILE).is_file() else "something else"
    if found != recipe:
        raise FileExistsError(
            f"{out} exists and holds {found}, but the synthetic set {recipe} was asked for: choose another folder, or "
            "remove this one"
        )
    return True


@dataclasses.dataclass(frozen=True)
class _Written:
    image: dict  # COCO's entry
    annotations: list[dict]
    detections: list[dict]


def _write_image(picture: tuple[str, int], *, folder: pathlib.Path, seed: int, image_size: tuple[int, int]) -> _Written:
    """Draws and stores picture (split, index)."""
    split, index = picture
    image, annotations = draw_image(seed, split, index, image_size)
    this_image = image_id(split, index)
    file_name = f"{this_image:012d}.jpg"
    write_jpeg(folder / f"{split}2017" / file_name, image)
    height, width = image.shape[:2]
    detections = []
    if split == "val":
        detections = detect(generator(seed, split, index, 1), this_image, (height, width), annotations)
    entry = {"id": this_image, "file_name": file_name, "width": width, "height": height}
    return _Written(entry, annotations, detections)


def _coco_file(rows: list[_Written]) -> dict:
    return {
        "info": {"description": "People drawn by vitpose_jax.data.synthetic", "version": str(DRAWING_VERSION)},
        "licenses": [],
        "images": [row.image for row in rows],
        "annotations": [annotation for row in rows for annotation in row.annotations],
        "categories": [CATEGORY],
    }


def write_jpeg(path: pathlib.Path, image: np.ndarray) -> None:
    """Stores a picture, uint8 [height, width, 3], RGB."""
    ok, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 90])
    if not ok:
        raise RuntimeError(f"OpenCV could not encode {path.name}")
    path.write_bytes(jpeg.tobytes())


def write_json(path: pathlib.Path, content: object) -> None:
    path.write_text(json.dumps(content))
