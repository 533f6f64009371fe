"""A training step with a part of the model frozen beside one of all of it."""

from collections.abc import Iterator, Sequence
from typing import Any

from vitpose_jax.benchmark.programs import measure, prepare_step
from vitpose_jax.benchmark.timing import Measured
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.training import freezing


def freeze(
    *, size: str, decoder: str, batch_size: int, dtype: str, repeats: int, image_size: Sequence[int], ratio: int,
    remat: str,
) -> Iterator[Measured]:  # fmt: skip
    """A training step with all parameters trained, and with each of `freezing.CHOICES`."""
    said: dict[str, Any] = {
        "size": size, "decoder": decoder, "dtype": dtype, "image_size": tuple(image_size), "ratio": ratio,
        "remat": remat,
    }  # fmt: skip
    model = vitpose(num_keypoints={"coco": 17}, **said)
    choices: tuple[tuple[str, ...], ...] = ((), *((choice,) for choice in freezing.CHOICES))
    prepared = {"".join(each) or "none": prepare_step(model, batch_size, each) for each in choices}
    yield Measured({**said, "batch_size": batch_size}, *measure(prepared, repeats))
