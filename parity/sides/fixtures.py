"""The tiny checkpoints."""

from __future__ import annotations

import runpy

from ltx2_mlx.errors import InputError

from ..declare.inputs import FIXTURES


def ensure_fixtures() -> None:
    """Build the tiny checkpoints that are missing, and check all of them against their pinned hashes."""
    path = FIXTURES.parent / "make.py"
    if not path.exists():
        raise InputError(
            f"{path}: not found; the tiny checkpoints are built in a checkout of the project, not installed"
        )
    runpy.run_path(str(path))["ensure"](FIXTURES)
