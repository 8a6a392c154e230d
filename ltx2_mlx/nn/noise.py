"""Random numbers are drawn on the host, so that a seed gives the same ones on every device."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from ..errors import InputError


class Generator:
    """A stream of standard normal numbers from one seed, drawn by NumPy.

    Any object with the same two methods can take its place, for example to replay recorded numbers.
    """

    def __init__(self, seed: int):
        if seed < 0:
            raise InputError(f"the seed is {seed}, expected 0 or more")
        self.stream = np.random.default_rng(seed)

    def randn(self, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
        """Numbers drawn in float32 and rounded, so that a seed's noise differs between dtypes only by the rounding."""
        return mx.array(self.stream.standard_normal(tuple(shape), dtype=np.float32)).astype(dtype)

    def randn64(self, shape: Sequence[int]) -> np.ndarray:
        """Numbers in float64, for samplers that compute in it."""
        return self.stream.standard_normal(tuple(shape))


def randn(shape: Sequence[int], dtype: mx.Dtype, generator: Generator | None = None) -> mx.array:
    """Standard normal numbers from ``generator``, or from MLX's global state."""
    return mx.random.normal(shape, dtype) if generator is None else generator.randn(shape, dtype)
