"""Seeded NumPy inputs, the same for both sides. Content depends on position, sizes are odd and unequal."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

import numpy as np

_CHECKOUT = Path(__file__).resolve().parents[2] / "fixtures"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_IN_CHECKOUT = (_CHECKOUT / "SHA256SUMS").exists()
# The recipes of the tiny checkpoints: a folder of the checkout, or a copy of it in the installed package.
RECIPES = _CHECKOUT if _IN_CHECKOUT else Path(__file__).resolve().parents[1] / "fixtures"
# The folder in which they are built.
FIXTURES = RECIPES / "checkpoints" if _IN_CHECKOUT else _CACHE / "ltx2-parity" / "checkpoints"
GEMMA = FIXTURES / "tiny-gemma"  # a Hugging Face folder
# Configs of a component in two files: 2.5's text connectors beside the transformer, their projection beside Gemma 4.
SPLIT = {"tiny-2.5-text": ("tiny-2.5-transformer", "tiny-gemma4")}
GEMMA4 = FIXTURES / "tiny-gemma4.safetensors"  # the text encoder of 2.5

# The distilled model's schedule (ltx_pipelines.utils.constants); its values round badly in bfloat16, 0.7 would not.
DISTILLED_SIGMAS = (1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875)


def normal(name: str, *shape: int, scale: float = 1.0) -> np.ndarray:
    """Standard normal float32 values that depend on ``name`` and the seed alone."""
    return (scale * _generator(name).standard_normal(shape)).astype(np.float32)


def uniform(name: str, *shape: int) -> np.ndarray:
    """Float32 values in [0, 1)."""
    return _generator(name).random(shape).astype(np.float32)


_seed: ContextVar[int] = ContextVar("seed", default=0)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Cases made while it lasts have other numbers in them, of the same kind; 0 gives the usual ones."""
    token = _seed.set(seed)
    try:
        yield
    finally:
        _seed.reset(token)


def seed() -> int:
    """The seed of the inputs that are made now."""
    return _seed.get()


def words(name: str, count: int) -> str:
    """A prompt of random words."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    rng = _generator(name)
    return " ".join("".join(letters[i] for i in rng.integers(0, 26, n)) for n in rng.integers(1, 9, count))


def _generator(name: str) -> np.random.Generator:
    key = f"{_seed.get()}:{name}" if _seed.get() else name
    return np.random.default_rng(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little"))
