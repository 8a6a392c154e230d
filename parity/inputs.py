"""Seeded NumPy inputs, the same for both sides. Content depends on position, sizes are odd and unequal."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

# Where the tiny checkpoints are built.
FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "checkpoints"
GEMMA = FIXTURES / "tiny-gemma"  # a Hugging Face folder

# The distilled model's schedule (ltx_pipelines.utils.constants); its values round badly in bfloat16, 0.7 would not.
DISTILLED_SIGMAS = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875)


def normal(name: str, *shape: int, scale: float = 1.0) -> np.ndarray:
    """Standard normal float32 values that depend on ``name`` alone."""
    return (scale * _generator(name).standard_normal(shape)).astype(np.float32)


def uniform(name: str, *shape: int) -> np.ndarray:
    """Float32 values in [0, 1)."""
    return _generator(name).random(shape).astype(np.float32)


def _generator(name: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
