"""A worker of ``pool`` that hangs, or takes memory, when it is asked to. It imports nothing, and so begins at once."""

from __future__ import annotations

import time
from typing import Any


def serve(pipe: Any, seed: int) -> None:
    while True:
        name, _ = pipe.recv()
        if name == "hang":
            time.sleep(60)
        if name == "memory":
            time.sleep(len(bytearray(b"x") * (200 << 20)))
        pipe.send(("ok", ""))
