"""Compiled programs are kept, so that a command that is given again starts at once."""

import os
import pathlib
import platform
import re
import zlib
from typing import Any

import jax

# JAX's own default is 1 s, which leaves out most programs of small models.
LEAST_COMPILE_S = 0.2


def use() -> str | None:
    """Lets JAX keep what it compiles: in `folder()`, or where JAX's own settings say.

    JAX_COMPILATION_CACHE_DIR=DIR moves the programs, JAX_ENABLE_COMPILATION_CACHE=false keeps none; both are JAX's. For
    commands: a library leaves this to its user. Whoever calls it does so before anything is compiled.

    Returns:
        Where programs are kept; None if they are not.
    """
    config: Any = jax.config
    if not config.jax_enable_compilation_cache:
        return None
    if config.jax_compilation_cache_dir is None:
        config.update("jax_compilation_cache_dir", str(folder()))
        config.update("jax_persistent_cache_min_compile_time_secs", LEAST_COMPILE_S)
    return config.jax_compilation_cache_dir


def folder() -> pathlib.Path:
    """`$XDG_CACHE_HOME/vitpose_jax` (~/.cache/vitpose_jax), a folder in it for each kind of processor.

    A program for a CPU may use every instruction of the one that it was compiled on, and JAX's key does not tell
    processors apart; a home may be shared by machines.
    """
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(home) / "vitpose_jax" / f"programs-{platform.machine()}-{_instructions():08x}"


def _instructions() -> int:
    """A number for what this machine's processor can do."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else platform.processor()
    found = re.search(r"^(flags|Features)\s*:.*$", text, re.MULTILINE)
    return zlib.crc32((found[0] if found else text).encode())
