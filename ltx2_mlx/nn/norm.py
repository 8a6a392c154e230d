"""Normalisation without weights."""

from __future__ import annotations

import mlx.core as mx


def rms_norm(x: mx.array, weight: mx.array | None = None, eps: float = 1e-6) -> mx.array:
    """x / √(mean(x²) + eps) over the last axis, accumulated in float32, in the dtype of ``x``."""
    return mx.fast.rms_norm(x, weight, eps)
