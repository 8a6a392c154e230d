"""Products of matrices, and the linear layer of every network here."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

HALF = (mx.bfloat16, mx.float16)
FEW = 8  # rows of x, for which MLX's own product is as fast
ROWS = 64  # of x at one time, at the least: the weight is widened for each such part
PIECE = 1 << 18  # numbers that are widened at one time


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

    MLX 0.32.4 has no BLAS for half precision there: its own product rounds once as well, and is several times slower
    for more than a few rows. Both factors are widened piece by piece; MLX makes about ten pieces ahead.
    """
    few, dtypes = x.size < FEW * x.shape[-1], {x.dtype, weight.dtype, x.dtype if bias is None else bias.dtype}
    if few or x.dtype not in HALF or len(dtypes) > 1 or mx.default_device() != mx.Device(mx.cpu):
        return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)
    rows = x.reshape(-1, x.shape[-1])
    step = max(ROWS, PIECE // sum(weight.shape))
    parts = [_widened_product(rows[first : first + step], weight, bias) for first in range(0, len(rows), step)]
    return _joined(parts, axis=0).reshape(*x.shape[:-1], -1)


def _widened_product(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    wide, step = widened(x), max(1, PIECE // weight.shape[1])
    parts = []
    for first in range(0, weight.shape[0], step):
        own = slice(first, first + step)
        added = None if bias is None else widened(bias[own])
        parts.append(product(wide, widened(weight[own]), added).astype(x.dtype))
    return _joined(parts, axis=-1)


def _joined(parts: list[mx.array], axis: int) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=axis)
