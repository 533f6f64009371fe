"""Writes drawn animals as labelling tools export them: images, annotations in COCO's format, a keypoint file."""

import os
import pathlib

from vitpose_jax.data.synthetic.animal import KEYPOINTS, draw_animals
from vitpose_jax.data.synthetic.folder import made_beside, write_jpeg, write_json
from vitpose_jax.data.synthetic.scene import SPLITS, image_id
from vitpose_jax.progress import progress_bar

KEYPOINT_FILE = "lizard.json"
_DRAWING_VERSION = 1  # raise it whenever a picture changes


def write_animals(
    out_dir: str | os.PathLike,
    *,
    num_train: int = 1000,
    num_val: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> None:
    """Writes a drawn data set of lizards; does nothing if the same one is already there.

    Contents: ``images/`` (JPEG), ``annotations/{train,val}.json``, the keypoint file ``lizard.json``, and
    ``synthetic.json`` with the arguments. `out_dir` is complete whenever it exists.

    Args:
        out_dir: folder to make.
        num_train: pictures of the training split.
        num_val: pictures of the evaluation split.
        seed: of the whole set, at least 0.
        progress: show a progress bar.

    Raises:
        ValueError: a number is out of range.
        FileExistsError: `out_dir` holds something else.
    """
    if min(num_train, num_val, seed) < 0:
        raise ValueError(f"num_train, num_val and seed are at least 0, not {num_train}, {num_val} and {seed}")
    counts = dict(zip(SPLITS, (num_train, num_val), strict=True))
    recipe = {"animal": "lizard", "drawing_version": _DRAWING_VERSION, "seed": seed, **counts}
    with made_beside(pathlib.Path(out_dir), recipe, ("images", "annotations")) as folder:
        if folder is None:
            return
        bar = progress_bar(desc="drawing animals", unit=" images", total=num_train + num_val, show=progress)
        with bar:
            for split, count in counts.items():
                images, annotations = [], []
                for index in range(count):
                    image, labels = draw_animals(seed, split, index)
                    name = f"{split}_{index:05d}.jpg"
                    write_jpeg(folder / "images" / name, image)
                    height, width = image.shape[:2]
                    entry = {"id": image_id(split, index), "file_name": name, "width": width, "height": height}
                    images.append(entry)
                    annotations += labels
                    bar.update()
                category = {"id": 1, "name": "lizard", "keypoints": KEYPOINTS["names"]}
                content = {"images": images, "annotations": annotations, "categories": [category]}
                write_json(folder / "annotations" / f"{split}.json", content)
        write_json(folder / KEYPOINT_FILE, KEYPOINTS)
