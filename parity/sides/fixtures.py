"""The tiny checkpoints."""

from __future__ import annotations

import runpy

from ..declare.inputs import FIXTURES, RECIPES


def ensure_fixtures() -> None:
    """Build the tiny checkpoints that are missing, and check all of them against their pinned hashes."""
    runpy.run_path(str(RECIPES / "make.py"))["ensure"](FIXTURES)
