"""Elementwise chains as one kernel, where that pays."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import mlx.core as mx

# Of a CUDA kernel: ``sum`` of each thread becomes that of its group, by way of ``__shared__ float sums[32]``.
SUM_OF_GROUP = """    for (int apart = 16; apart > 0; apart /= 2) sum += __shfl_xor_sync(0xffffffff, sum, apart);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0;
    for (unsigned i = 0; i < blockDim.x / 32; i++) sum += sums[i];
"""


def fused(function: Callable[..., mx.array], kernel: Callable[..., mx.array] | None = None) -> Callable[..., mx.array]:
    """Compile ``function`` with ``mx.compile`` on a GPU, and leave it as it is on a CPU.

    kernel: computes the same on an NVIDIA GPU, better than what ``mx.compile`` makes of it.

    There MLX calls a C++ compiler at run time, which takes about a second for each kernel and shape class, and saves
    nothing beside the matrix products.
    """
    compiled = mx.compile(function)
    if kernel is not None and mx.cuda.is_available():
        compiled = kernel

    @wraps(function)
    def call(*args: mx.array) -> mx.array:
        return (compiled if pays() else function)(*args)

    return call


def pays() -> bool:
    """Say whether compiled functions are used: on a GPU."""
    return bool(mx.default_device().type == mx.gpu)
