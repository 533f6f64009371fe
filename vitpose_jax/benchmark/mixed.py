"""Training on several data sets beside training on one."""

from collections.abc import Iterator, Sequence
from typing import Any

from vitpose_jax.benchmark.programs import measure, prepare_step
from vitpose_jax.benchmark.timing import Measured
from vitpose_jax.keypoints import KEYPOINT_SETS
from vitpose_jax.models.vitpose import vitpose

# The data sets of the papers, by name of their keypoint set.
MULTI = {"coco": "coco", "aic": "aic", "mpii": "mpii"}
PLUS = MULTI | {"ap10k": "ap10k", "apt36k": "ap10k", "wholebody": "wholebody"}


def mixed(
    *, size: str, batch_size: int, dtype: str, decoder: str, repeats: int, image_size: Sequence[int] = (256, 192)
) -> Iterator[Measured]:
    """A training step: on one data set, on three with a decoder each, on six with an expert and a decoder each.

    Crops of a mixed batch come from its data sets in turn.
    """
    said: dict[str, Any] = {"size": size, "dtype": dtype, "decoder": decoder, "image_size": tuple(image_size)}
    part_features = vitpose(num_keypoints={}, **said).backbone["embed_dim"] // 4
    variants: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
        "single": ({"coco": "coco"}, {}),
        "multi": (MULTI, {}),
        "plus": (PLUS, {"experts": tuple(PLUS), "part_features": part_features}),
    }
    prepared = {
        name: prepare_step(
            vitpose(num_keypoints={each: len(KEYPOINT_SETS[kind]) for each, kind in sets.items()}, **said, **extra),
            batch_size,
        )
        for name, (sets, extra) in variants.items()
    }
    yield Measured({**said, "batch_size": batch_size}, *measure(prepared, repeats))
