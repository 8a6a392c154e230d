"""Activations, computed in float32 and rounded once, as torch's kernels do in half precision."""

from __future__ import annotations

import math

import mlx.core as mx

from .fused import fused
from .module import Module


@fused
def gelu_tanh(x: mx.array) -> mx.array:
    """½x(1 + tanh(√(2/π)(x + 0.044715x³))): the approximation is the definition here (tap: ff.net.0)."""
    y = x.astype(mx.float32)
    y = 0.5 * y * (1 + mx.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y * y * y)))
    return y.astype(x.dtype)


@fused
def silu(x: mx.array) -> mx.array:
    """x · sigmoid(x)."""
    y = x.astype(mx.float32)
    return (y * mx.sigmoid(y)).astype(x.dtype)


class GELUTanh(Module):
    """``gelu_tanh`` as a layer."""

    def __call__(self, x: mx.array) -> mx.array:
        return gelu_tanh(x)


class SiLU(Module):
    """``silu`` as a layer."""

    def __call__(self, x: mx.array) -> mx.array:
        return silu(x)
