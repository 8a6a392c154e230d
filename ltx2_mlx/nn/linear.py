"""Products of matrices, and the linear layer of every network here."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

HALF = (mx.bfloat16, mx.float16)
FEW = 8  # rows of x, for which the product takes no longer than widening the weight
PIECE = 1 << 18  # elements of a weight that are widened at one time


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

    MLX 0.32.4 has no BLAS for half precision there: its own product rounds once as well, and takes 4 to 15 times longer
    for more than a few rows. The weight is widened piece by piece: about ten pieces are in memory at one time.
    """
    few = x.size < FEW * x.shape[-1]
    if few or x.dtype not in HALF or weight.dtype != x.dtype or mx.default_device() != mx.Device(mx.cpu):
        return x @ weight.T if bias is None else mx.addmm(bias, x, weight.T)
    wide, rows = widened(x), max(1, PIECE // weight.shape[1])
    pieces = []
    for first in range(0, weight.shape[0], rows):
        own = slice(first, first + rows)
        pieces.append(product(wide, widened(weight[own]), None if bias is None else widened(bias[own])).astype(x.dtype))
    return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=-1)
