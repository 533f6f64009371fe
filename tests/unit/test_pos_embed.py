"""Resizing a position embedding equals torch's bicubic interpolation, which the original uses."""

import numpy as np
import pytest
import torch

from tests import tolerances
from vitpose_jax.models import pos_embed


@pytest.mark.parametrize("old, new", [((14, 14), (16, 12)), ((16, 12), (24, 18)), ((16, 12), (5, 7))])
def test_equal_to_torch(old, new):
    embedding = np.random.default_rng(0).standard_normal((1, 1 + old[0] * old[1], 8)).astype(np.float32)
    grid = torch.from_numpy(embedding[:, 1:]).reshape(1, *old, 8).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(grid, size=new, mode="bicubic", align_corners=False)
    expected = resized.permute(0, 2, 3, 1).reshape(1, -1, 8).numpy()
    ours = pos_embed.resize(embedding, old, new)
    np.testing.assert_allclose(ours[:, 1:], expected, atol=tolerances.POSITION_EMBEDDING)
    np.testing.assert_array_equal(ours[:, 0], embedding[:, 0])


def test_equal_grids_give_the_input_back():
    embedding = np.random.default_rng(0).standard_normal((1, 13, 8)).astype(np.float32)
    np.testing.assert_array_equal(pos_embed.resize(embedding, (4, 3), (4, 3)), embedding)


def test_a_wrong_grid_raises():
    with pytest.raises(ValueError, match="13 rows is not one of a 3x3"):
        pos_embed.resize(np.zeros((1, 13, 8), np.float32), (3, 3), (4, 3))
