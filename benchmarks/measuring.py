"""What the benchmarks share: the machine, a clock, and the memory of a process while something runs."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import platform
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path


def timed(function: Callable[[], object]) -> float:
    """Milliseconds of one call that waits for its result."""
    start = time.perf_counter()
    function()
    return (time.perf_counter() - start) * 1e3


def machine() -> dict[str, str]:
    """The machine and the versions that were measured."""
    found = {"platform": platform.platform(), "cpu": _cpu(), "python": platform.python_version(), "gpu": "none"}
    found |= {name: version(name) for name in ("mlx", "torch", "ltx-core")}
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        found["gpu"] = subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    return found


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def both_on_gpu() -> bool:
    """Say whether MLX and torch both compute on a GPU here."""
    import mlx.core as mx
    import torch

    return bool(torch.cuda.is_available() and mx.default_device().type == mx.gpu)


def settle() -> None:
    """Give back what is free but kept: MLX's and torch's caches, the C library's heap."""
    import mlx.core as mx
    import torch

    gc.collect()
    mx.clear_cache()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class Resident:
    """The process's memory while something runs: its peak above what it was before, in GB."""

    def __init__(self) -> None:
        self.gb = 0.0

    @staticmethod
    def _now() -> float:
        statm = Path("/proc/self/statm")
        if statm.exists():
            return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e9
        return resident()

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        settle()
        before, done = self._now(), threading.Event()

        def watch() -> None:
            while not done.wait(0.002):
                self.gb = max(self.gb, self._now() - before)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


def resident() -> float:
    """GB of the process at its peak: the memory of both frameworks on a CPU."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
