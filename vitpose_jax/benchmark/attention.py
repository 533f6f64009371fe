"""Shift + pool in windows beside full attention: a forward pass and a training step."""

from collections.abc import Iterator, Sequence
from typing import Any

from vitpose_jax.benchmark.programs import measure, prepare_forward, prepare_step
from vitpose_jax.benchmark.timing import Measured
from vitpose_jax.models.vitpose import vitpose


def attention(
    *, size: str, decoder: str, batch_size: int, dtype: str, repeats: int, image_size: Sequence[int], ratio: int,
    window_size: Sequence[int], remat: str,
) -> Iterator[Measured]:  # fmt: skip
    """Forward pass and training step with full attention, and with shift + pool windows."""
    said: dict[str, Any] = {
        "size": size, "decoder": decoder, "dtype": dtype, "image_size": tuple(image_size), "ratio": ratio,
        "remat": remat,
    }  # fmt: skip
    windowed: dict[str, Any] = {"attention": "shift_pool", "window_size": tuple(window_size)}
    variants: dict[str, dict[str, Any]] = {"full": {}, "shift_pool": windowed}
    prepared = {}
    for name, windows in variants.items():
        model = vitpose(num_keypoints={"coco": 17}, **said, **windows)
        prepared[f"forward {name}"] = prepare_forward(model, batch_size)
        prepared[f"step {name}"] = prepare_step(model, batch_size)
    yield Measured(
        {**said, "window_size": list(window_size), "batch_size": batch_size}, *measure(prepared, repeats)
    )  # fmt: skip
