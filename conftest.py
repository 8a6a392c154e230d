"""What all tests share: the tiny checkpoints, built once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("MLX_ENABLE_TF32", "0")  # before MLX is imported: see parity/__init__.py


@pytest.fixture(scope="session")
def checkpoints() -> Path:
    """The folder of the tiny checkpoints, checked against their pinned hashes."""
    from parity.runner import FIXTURES, ensure_fixtures

    ensure_fixtures()
    return FIXTURES
