"""The tiny checkpoints."""

from __future__ import annotations

import hashlib
import runpy
from functools import cache
from pathlib import Path

from ..declare.inputs import FIXTURES, RECIPES


def ensure_fixtures() -> None:
    """Build the tiny checkpoints that are missing, and check all of them against their pinned hashes.

    Only building imports torch, which takes three seconds.
    """
    if _as_pinned():
        runpy.run_path(str(RECIPES / "media.py"))["ensure"](FIXTURES)
    else:
        runpy.run_path(str(RECIPES / "make.py"))["ensure"](FIXTURES)


def _as_pinned() -> bool:
    """True if every file that ``SHA256SUMS`` lists is there, with the bytes that it says."""
    for line in (RECIPES / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        path = FIXTURES / name
        if not path.exists() or _digest(path, path.stat().st_mtime_ns, path.stat().st_size) != digest:
            return False
    return True


@cache
def _digest(path: Path, changed: int, size: int) -> str:
    """The file's hash, read once a process until its time or its size is another."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
