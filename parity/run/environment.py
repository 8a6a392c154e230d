"""The machine, its devices and the versions of what is installed."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def use_device(device: str) -> None:
    """Run MLX there from now on, in this process."""
    import mlx.core as mx

    mx.set_default_device(getattr(mx, device))


def default_device() -> str:
    """Where MLX runs in this process: ``cpu`` or ``gpu``."""
    import mlx.core as mx

    return "gpu" if mx.default_device().type == mx.gpu else "cpu"


def environment(device: str) -> dict[str, str]:
    """Machine and versions, for the report; without those that are not installed."""
    names = ("ltx-core", "ltx-pipelines", "torch", "mlx", "numpy", "transformers")
    cpu, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    versions = {name: found for name in names if (found := _version(name))}
    return {
        "machine": f"{platform.system()} {platform.machine()}, {cpu}, {os.cpu_count()} cores",
        "device": device,
        "python": platform.python_version(),
        **versions,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
