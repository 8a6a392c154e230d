"""Products of matrices, and the linear layer of every network here."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

HALF = (mx.bfloat16, mx.float16)


class Linear(nn.Linear):
    """``mlx.nn.Linear``, as ``product`` computes it."""

    def __call__(self, x: mx.array) -> mx.array:
        """``(…, input_dims)`` → ``(…, output_dims)``: x·Wᵀ + bias."""
        return product(x, self.weight, self.bias if "bias" in self else None)


def widened(x: mx.array) -> mx.array:
    """Half precision in float32; anything else as it is."""
    return x.astype(mx.float32) if x.dtype in HALF else x


def product(x: mx.array, weight: mx.array, bias: mx.array | None = None) -> mx.array:
    """x·Wᵀ + bias; on a CPU half precision is computed in float32 and rounded once, as GPU kernels do.

    MLX 0.32.4 has no BLAS for half precision there: its own product takes 4 to 13 times longer.
    """
    if x.dtype in HALF and weight.dtype == x.dtype and mx.default_device() == mx.Device(mx.cpu):
        return product(widened(x), widened(weight), None if bias is None else widened(bias)).astype(x.dtype)
    return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)
