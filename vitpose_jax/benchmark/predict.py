"""From uint8 crops to keypoints beside the forward pass alone: what normalising, decoding and the flip test cost.

"decoding" is what of this comes after the heatmaps: merging those of a flip test and reading keypoints.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from vitpose_jax.benchmark import programs
from vitpose_jax.benchmark.decode import made_up_heatmaps, read_merged
from vitpose_jax.benchmark.timing import Measured
from vitpose_jax.evaluation.predict import make_predict
from vitpose_jax.keypoints import KEYPOINT_SETS
from vitpose_jax.models import inference_weights
from vitpose_jax.models.placement import in_chunks
from vitpose_jax.models.vitpose import normalize, vitpose


def predict(
    *, name: str, model: Mapping[str, Any], batch_sizes: Sequence[int], dtypes: Sequence[str], repeats: int
) -> Iterator[Measured]:
    """One line for each precision and batch: the forward pass, crops to keypoints, the same with flip test."""
    for dtype in dtypes:
        network = vitpose(**{**model, "dtype": dtype})
        (dataset,) = network.num_keypoints
        variables = inference_weights.prepared(network, programs.random_variables(network))
        points = next(each for each in KEYPOINT_SETS.values() if len(each) == network.num_keypoints[dataset])
        for batch_size in batch_sizes:
            crops = programs.random_batch(network, batch_size)["image"]
            matrices = jnp.tile(jnp.eye(2, 3), (batch_size, 1, 1))

            def forward(variables, images, network=network):
                return network.apply(variables, images, train=False)

            prepared = {"forward": programs.prepare(in_chunks(forward), (variables, normalize(crops)), batch_size)}
            for label, flip_test in (("keypoints", False), ("flip test", True)):
                function = make_predict(
                    network, dataset=dataset, flip_index=points.flip_index, udp=True, flip_test=flip_test,
                    blur_kernel=11,
                )  # fmt: skip
                prepared[label] = programs.prepare(in_chunks(function), (variables, crops, matrices), batch_size)
            maps = jnp.asarray(made_up_heatmaps(batch_size, len(points), network.heatmap_size))
            prepared["decoding"] = programs.prepare(
                in_chunks(read_merged), (jnp.asarray(points.flip_index), maps, maps), batch_size
            )
            said = {"config": name, "decoder": network.decoder, "batch_size": batch_size, "dtype": dtype}
            yield Measured(said, *programs.measure(prepared, repeats))
