"""Fixtures shared by all tests: where recorded values and real photographs are, if they are here at all."""

import os
import pathlib

import pytest

# Tests run on the CPU, wherever they run. Besides, where libtpu is installed, jax would look for a TPU.
os.environ["JAX_PLATFORMS"] = "cpu"

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Arithmetic stays as it is; code comes sooner and runs slower, which tests on few tokens hardly notice.
LITTLE_OPTIMISATION = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def pytest_configure(config: pytest.Config) -> None:
    """Saves compiling, which is most of what the default tests do: in this process, in workers, in what tests start.

    What was compiled once is kept in pytest's cache (`pytest --cache-clear` empties it). The slow tests run fully
    optimised code.
    """
    compiled = str(config.cache.mkdir("compiled"))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", compiled)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    flags = os.environ.get("XLA_FLAGS", "")
    if config.option.markexpr == "not slow" and LITTLE_OPTIMISATION not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {LITTLE_OPTIMISATION}"


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
