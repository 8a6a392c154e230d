"""The tiny checkpoints."""

from __future__ import annotations

import importlib.util

from ..declare.inputs import FIXTURES, RECIPES


def ensure_fixtures() -> None:
    """Build the tiny checkpoints that are missing, and check all of them against their pinned hashes."""
    spec = importlib.util.spec_from_file_location("fixtures_make", RECIPES / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    make.ensure(FIXTURES)
