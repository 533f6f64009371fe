"""Fixtures shared by all tests: where recorded values and real photographs are, if they are here at all."""

import os
import pathlib

import pytest

# What a test compiles is neither taken from the user's cache nor left there.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

ROOT = pathlib.Path(__file__).resolve().parent.parent


def _folder(variable: str, default: pathlib.Path) -> pathlib.Path:
    folder = pathlib.Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"{variable}: no folder {folder}")
    return folder


@pytest.fixture(scope="session")
def samples_dir() -> pathlib.Path:
    """Real photographs with annotations in the official folder layouts (environment variable VITPOSE_SAMPLES)."""
    return _folder("VITPOSE_SAMPLES", ROOT.parent / "shared" / "samples")


@pytest.fixture(scope="session")
def golden_dir() -> pathlib.Path:
    """Full set of values recorded from the original code (environment variable VITPOSE_GOLDEN)."""
    return _folder("VITPOSE_GOLDEN", ROOT.parent / "shared" / "golden")
