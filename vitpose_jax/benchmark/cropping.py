"""Where to cut crops: on the host, or on the device from whole images.

Whole calls of `PoseEstimator`, from images and boxes in the host's memory to poses, with random weights and images of
noise. Both ways give equal crops, which a test shows.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vitpose_jax.benchmark.timing import Measured, take_turns
from vitpose_jax.inference import PoseEstimator, device_crops
from vitpose_jax.inference.estimator import CROPPING
from vitpose_jax.keypoints import COCO, reference
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.training import state
from vitpose_jax.training.checkpoint import LoadedModel
from vitpose_jax.training.model_file import ModelFile


def cropping(
    *, size: str, dtype: str, repeats: int, image_size: Sequence[int], people: int, images: int
) -> Iterator[Measured]:
    """Times both ways of cutting.

    Args:
        size: of the model.
        dtype: of the computation.
        repeats: timed calls of each way.
        image_size: (height, width) of the images.
        people: boxes in each image.
        images: given in one call.

    Yields:
        Of each way the bytes that travel to the device for an image, and the crops per second (median).
    """
    settings: dict[str, Any] = {"size": size, "dtype": dtype, "num_keypoints": {"coco": len(COCO)}}
    model = vitpose(**settings)
    variables = jax.jit(lambda key: state.init_variables(model, key))(jax.random.key(0))
    file = ModelFile(
        settings=settings, datasets={"coco": {**reference(COCO), "udp": True}}, codec={"sigma": 2.0, "blur_kernel": 11}
    )
    loaded = LoadedModel(model, file, variables, "random weights", 0, {})
    rng = np.random.default_rng(0)
    height, width = image_size
    pictures = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(images)]
    sides = rng.uniform((0.1, 0.3), (0.3, 0.9), (images, people, 2)) * (width, height)
    corners = rng.uniform(0, 1, (images, people, 2)) * ((width, height) - sides)
    boxes = list(np.concatenate([corners, sides], axis=2))
    variants = {
        where: functools.partial(PoseEstimator(loaded, cropping=where, batch_size=people * images), pictures, boxes)
        for where in CROPPING
    }
    timings = take_turns(variants, repeats=repeats)
    travelling = {
        "host": people * math.prod(model.image_size) * 3, "device": device_crops.flat_pixels(pictures[0]).size,
    }  # fmt: skip
    facts = {
        where: {
            "bytes_per_image": travelling[where],
            "crops_per_s": round(people * images / float(np.median([run.wall_s for run in timings[where].runs])), 1),
        }
        for where in CROPPING
    }
    said: dict[str, Any] = {"size": size, "dtype": dtype, "image_size": tuple(image_size), "people": people}
    yield Measured({**said, "images": images}, timings, facts)
