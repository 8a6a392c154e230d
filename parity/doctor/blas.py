"""The BLAS that MLX's CPU backend multiplies with: how fast it is, and what to do where it is the slow one."""

from __future__ import annotations

import time
from pathlib import Path

import mlx.core as mx

from ltx2_mlx.cli.blas import REMEDY, libraries

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


def notes(speed: float) -> tuple[str, ...]:
    """What to say of the speed of the CPU; nothing where it is as it should be."""
    found = ", ".join(Path(file).name for file in libraries()) or "unknown"
    said = f"BLAS of the CPU: {speed:.0f} billion operations a second ({found})"
    if speed >= SLOW:
        return (said,)
    return (f"{said}: the slow reference BLAS of MLX's Linux wheel? {REMEDY} (make does so by itself)",)
