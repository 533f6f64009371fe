"""Reduced recorded values that are part of the repository."""

import pathlib

import numpy as np
import pytest

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden"


@pytest.fixture(scope="session")
def forward_golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "forward.npz"))
