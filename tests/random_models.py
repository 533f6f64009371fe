"""Small models with random weights, as `load_model` returns them, whose heatmaps have clear peaks."""

import numpy as np

from vitpose_jax import keypoints, trees
from vitpose_jax.models.vitpose import vitpose
from vitpose_jax.training.checkpoint import LoadedModel, ModelFile
from vitpose_jax.training.state import variable_shapes

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 4, "mlp_dim": 64, "image_size": (64, 48), "decoder": "simple"}


def random_model(datasets: dict[str, str] | None = None, *, udp: bool = False, **settings) -> LoadedModel:
    """A model with a decoder for each of `datasets`, {name: keypoint set}.

    Without UDP, because the Newton step on a random map enlarges rounding.
    """
    datasets = datasets or {"coco": "coco"}
    sets = {name: keypoints.KEYPOINT_SETS[kind] for name, kind in datasets.items()}
    settings = {**TINY, "dtype": "float32", "num_keypoints": {k: len(v) for k, v in sets.items()}, **settings}
    model = vitpose(**settings)
    rng = np.random.default_rng(0)

    def draw(path: str, leaf) -> np.ndarray:
        if path.endswith(("scale", "var")):
            return np.ones(leaf.shape, np.float32)
        return rng.normal(0, 0.1, leaf.shape).astype(np.float32)

    variables = trees.map_with_path(draw, dict(variable_shapes(model)))
    file = ModelFile(
        settings=settings,
        datasets={name: {**keypoints.reference(points), "udp": udp} for name, points in sets.items()},
        codec={"sigma": 2.0, "blur_kernel": 11},
    )
    return LoadedModel(model, file, variables, "random weights", 0, {})
