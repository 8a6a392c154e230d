"""Where a network draws random numbers itself, it draws them here."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx


class Generator:
    """A stream of standard normal numbers from one seed. Give an object with another ``randn`` to inject noise."""

    def __init__(self, seed: int):
        self.key = mx.random.key(seed)

    def randn(self, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
        self.key, key = mx.random.split(self.key)
        return mx.random.normal(shape, dtype, key=key)


def randn(shape: Sequence[int], dtype: mx.Dtype, generator: Generator | None = None) -> mx.array:
    """Standard normal numbers from ``generator``, or from MLX's global state."""
    return mx.random.normal(shape, dtype) if generator is None else generator.randn(shape, dtype)
