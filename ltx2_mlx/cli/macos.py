"""macOS during a long run: it must not go to sleep, and what it says of its memory. Elsewhere nothing happens here.

``ltx2_mlx/cli/MACOS.md`` says why. None of this has been run on Apple hardware by the authors.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import mlx.core as mx

from ..vae_memory import memory_size

_PART_OF_MEMORY = 8  # MLX may keep this part of it for reuse; without a limit it keeps about all
_EVERY = 20.0  # seconds between two questions about the memory
_LEVELS = {"2": "is short of memory", "4": "is very short of memory"}


def applies() -> bool:
    return sys.platform == "darwin"


@contextmanager
def undisturbed() -> Iterator[None]:
    """Within, the machine does not sleep for idleness, and MLX keeps a bounded part of the memory for reuse."""
    if not applies():
        yield
        return
    before = mx.set_cache_limit(memory_size() // _PART_OF_MEMORY)
    awake: subprocess.Popen[bytes] | None = None
    with suppress(OSError):  # without it the run goes on
        # It ends with this process (-w), however that ends.
        argv = ["caffeinate", "-i", "-w", str(os.getpid())]
        awake = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        if awake is not None:
            awake.terminate()
            awake.wait()
        mx.set_cache_limit(before)


class Pressure:
    """Says once, by ``say``, when macOS reports that memory is short: a run that swaps takes many times as long."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic):
        self.say, self.clock, self.asked, self.said = say, clock, float("-inf"), False

    def look(self) -> None:
        if self.said or not applies() or self.clock() - self.asked < _EVERY:
            return
        self.asked = self.clock()
        level = ""
        with suppress(OSError, subprocess.SubprocessError):
            argv = ["sysctl", "-n", "kern.memorystatus_vm_pressure_level"]
            level = subprocess.run(argv, capture_output=True, text=True, timeout=5).stdout.strip()
        if level in _LEVELS:
            self.said = True
            self.say(f"note: macOS {_LEVELS[level]}: close other programs, or stop and use --low-memory")
