"""The BLAS that MLX's CPU backend multiplies with: MLX's Linux wheel carries the slow one."""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx

REMEDY = (
    "all on the CPU takes up to 10 times as long. apt install libopenblas0-pthread, then run with "
    "LD_PRELOAD=/usr/lib/*/openblas-pthread/libblas.so.3"
)
_FAST = ("openblas", "mkl", "blis", "atlas", "armpl")


def libraries() -> list[str]:
    """The BLAS libraries that this process has loaded, where the system says so."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return ["Accelerate"] if sys.platform == "darwin" else []
    return of_maps(maps.read_text())


def of_maps(maps: str) -> list[str]:
    """Those of the lines of ``/proc/self/maps``: paths, without NumPy's and SciPy's own."""
    files = {line.split()[-1] for line in maps.splitlines() if "blas" in line.lower() or "mkl" in line.lower()}
    return sorted(file for file in files if ".so" in file and "scipy" not in file and "numpy" not in file)


def slow(found: list[str]) -> bool:
    """Say whether there is a BLAS and none of them is a fast one."""
    return bool(found) and not any(name in file.lower() for file in found for name in _FAST)


def note() -> str | None:
    """A sentence with the remedy, where MLX computes on the CPU of a Linux machine with the slow BLAS."""
    if sys.platform != "linux" or mx.default_device().type != mx.cpu or not slow(libraries()):
        return None
    return f"MLX's Linux wheel multiplies with the slow reference BLAS: {REMEDY}"
