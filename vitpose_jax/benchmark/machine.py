"""What a measurement was made on."""

import importlib.metadata
import os
import pathlib
import platform
import re
from typing import Any

import jax

from vitpose_jax.plan.chips import CHIPS

# Part of JAX's name of a device to its row.
CHIP_OF = {
    "v5 lite": "v5e", "v5p": "v5p", "TPU v5": "v5p", "v6 lite": "v6e", "A100": "A100", "H100": "H100", "H200": "H200",
}  # fmt: skip


def device() -> str:
    """The devices that jax computes on, "1 x cpu"."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def describe() -> dict[str, Any]:
    """The machine and what is installed on it; what of it cannot be found is left out."""
    found: dict[str, Any] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory": _memory(),
        "devices": device(),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "packages": ", ".join(
            f"{name} {version}" for name in ("jax", "jaxlib", "flax", "torch", "transformers")
            if (version := _version(name))
        ),
        "environment": " ".join(
            f"{name}={os.environ[name]}" for name in ("GLIBC_TUNABLES", "XLA_FLAGS") if os.environ.get(name)
        ),
    }  # fmt: skip
    return {name: value for name, value in found.items() if value}


def load_average() -> float | None:
    """Processes that wanted to compute, a mean over the last minute; None where the system does not count them."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def peak_flops() -> float | None:
    """Operations a second of bfloat16 products, as a device's maker says; None where that is not known: of CPUs."""
    kind = jax.devices()[0].device_kind
    names = [name for part, name in CHIP_OF.items() if part in kind]
    return CHIPS[names[0]].peak_flops if names else None


def peak_memory_gib() -> float | None:
    """The most memory that this process has held on its first device; None where the device does not say."""
    statistics = jax.devices()[0].memory_stats() or {}
    peak = statistics.get("peak_bytes_in_use")
    return None if peak is None else round(peak / 2**30, 3)


def processor() -> str:
    """Name of the processor."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    text = cpuinfo.read_text()
    name, family, model = (
        match[1].strip() if (match := re.search(rf"^{field}\s*:(.*)$", text, re.MULTILINE)) else ""
        for field in ("model name", "cpu family", "model")
    )
    return f"{name} (family {family}, model {model})" if name else platform.machine()


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return ""
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
