"""What worker processes do in tests of those that hang, take memory, die or are left behind. This module imports
nothing of the harness, so that they begin at once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any, NoReturn


def serve(pipe: Any, seed: int) -> None:
    """The worker of ``fuzz.pool``: it hangs or takes memory when it is asked to."""
    while True:
        name, _ = pipe.recv()
        if name == "hang":
            time.sleep(60)
        if name == "memory":
            held = bytearray(b"x") * (200 << 20)
            time.sleep(60 + len(held))
        pipe.send(("ok", ""))


def doze(folder: Path) -> None:
    """Leave a file named by this process, and stay for a minute."""
    (folder / str(os.getpid())).touch()
    time.sleep(60)


def die(task: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it is dead")
