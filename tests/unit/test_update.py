"""Ways to compute the same update with less memory or less precision."""

import functools

import jax
import numpy as np
import pytest

from tests import tolerances
from tests.system import test_eight_devices
from tests.system.test_eight_devices import assert_same
from vitpose_jax import trees
from vitpose_jax.training import sharding


@functools.cache
def updated(kind, accumulate=1, **changes):
    """One update on one device, of a model with experts ("plus") or with batch norm ("classic")."""
    changes = {"drop_path": 0.0, **changes}
    model = test_eight_devices.model_of("plus", **changes) if kind == "plus" else test_eight_devices.model_of(
        "dense", decoder="classic", **changes
    )  # fmt: skip
    return test_eight_devices.updated(model, sharding.make_mesh(), accumulate)


def test_a_batch_in_parts_gives_the_update_of_the_whole():
    whole, parts = updated("plus"), updated("plus", accumulate=4)
    assert_same(parts, whole)
    assert parts[1].keys() == whole[1].keys()
    for name, value in whole[1].items():
        if "loss" in name:
            assert float(parts[1][name]) == pytest.approx(float(value), rel=tolerances.SAME_UPDATE_LOSS_RELATIVE)


def test_batch_norm_of_a_batch_in_parts():
    """Each part is normalised by its own statistics; the running means of the first layer are those of the whole."""
    found = [updated("classic", accumulate=parts)[0].batch_stats["decoders"]["coco"]["bn0"] for parts in (1, 4)]
    np.testing.assert_allclose(*(stats["mean"] for stats in found), rtol=1e-4)
    variances = [stats["var"] for stats in found]
    assert not np.allclose(*variances, rtol=1e-4)  # what differs between parts is in the whole's variance only
    np.testing.assert_allclose(*variances, rtol=0.2)


@pytest.mark.parametrize("remat", ["dots", pytest.param("full", marks=pytest.mark.slow)])
def test_computing_again_gives_the_same_update(remat):
    assert_same(updated("plus", remat=remat), updated("plus"))


@pytest.mark.parametrize("kind", ["classic", pytest.param("plus", marks=pytest.mark.slow)])
def test_bfloat16_gives_nearly_the_same_update(kind):
    exact, rounded = (updated(kind, **change) for change in ({}, {"dtype": "bfloat16"}))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(rounded[0].opt_state))
    loss = float(exact[1]["loss"])
    assert float(rounded[1]["loss"]) == pytest.approx(loss, rel=tolerances.BFLOAT16_LOSS_RELATIVE)
    gradients = trees.flatten(rounded[0].opt_state)
    for path, leaf in trees.flatten(exact[0].opt_state).items():
        off = np.linalg.norm(gradients[path] - leaf) / np.linalg.norm(leaf)
        assert off <= tolerances.BFLOAT16_GRADIENT_RELATIVE, path
