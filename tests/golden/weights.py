"""The rule by which recorded runs of the original code made their weights, so that none need be stored.

A tensor's values depend on its official name, its shape and one seed only.
"""

import zlib
from collections.abc import Mapping

import numpy as np

SEED = 20220426
MAE_SEED = 20211111  # of the masked autoencoder's


def normal(name: str, shape, seed: int = SEED) -> np.ndarray:
    """float32 standard-normal draw that belongs to a name."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) ^ seed))
    return np.asarray(generator.standard_normal(tuple(shape), dtype=np.float32), np.float32)


def weight(name: str, shape, seed: int = SEED) -> np.ndarray:
    """The tensor of an official `state_dict` key."""
    last = name.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return np.zeros(tuple(shape), np.int64)
    draw = normal(name, shape, seed)
    if last == "running_mean" or last == "bias":
        return np.float32(0.1) * draw
    if last == "running_var":
        return np.float32(1) + np.float32(0.1) * np.abs(draw)
    if last in ("pos_embed", "cls_token", "mask_token", "position_embeddings"):
        return np.float32(0.2) * draw
    if len(shape) == 1:  # the scale of a norm
        return np.float32(1) + np.float32(0.1) * draw
    return np.float32(1 / np.prod(shape[1:], dtype=np.float64) ** 0.5) * draw


def state_dict(shapes: Mapping[str, tuple], seed: int = SEED) -> dict[str, np.ndarray]:
    """Tensors for {official key: shape}."""
    return {name: weight(name, shape, seed) for name, shape in shapes.items()}
