"""The BLAS that MLX's CPU backend multiplies with: how fast it is, and what to do where it is the slow one."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import mlx.core as mx

SLOW = 10.0  # billion operations a second and process: Netlib's reference BLAS has 1 to 4, any other 30 or more


def gigaflops_a_second() -> float:
    """The speed of a float32 matrix product on the CPU, in billion operations a second."""
    side = 768
    a = mx.ones((side, side), stream=mx.cpu)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        mx.eval(mx.matmul(a, a, stream=mx.cpu))
        best = min(best, time.perf_counter() - start)
    return 2e-9 * side**3 / best


def libraries() -> list[str]:
    """The names of the BLAS libraries that this process has loaded, where the system says so."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return ["Accelerate"] if sys.platform == "darwin" else []
    files = {Path(line.split()[-1]).resolve().name for line in maps.read_text().splitlines() if "blas" in line.lower()}
    return sorted(file for file in files if ".so" in file and "scipy" not in file)  # NumPy has one of its own


def notes(speed: float) -> tuple[str, ...]:
    """What to say of the speed of the CPU; nothing where it is as it should be."""
    found = ", ".join(libraries()) or "unknown"
    said = f"BLAS of the CPU: {speed:.0f} billion operations a second ({found})"
    if speed >= SLOW:
        return (said,)
    advice = "all on the CPU takes 10 times as long. apt install libopenblas0-pthread, then run with"
    preload = "LD_PRELOAD=/usr/lib/*/openblas-pthread/libblas.so.3 (make does so by itself)"
    return (f"{said}: the slow reference BLAS of MLX's Linux wheel? {advice} {preload}",)
