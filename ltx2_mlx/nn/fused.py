"""Elementwise chains as one kernel, where that pays."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import mlx.core as mx


def fused(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """Compile ``function`` with ``mx.compile`` on a GPU, and leave it as it is on a CPU.

    There MLX calls a C++ compiler at run time, which takes about a second for each kernel and shape class, and saves
    nothing beside the matrix products.
    """
    compiled = mx.compile(function)

    @wraps(function)
    def call(*args: mx.array) -> mx.array:
        return (compiled if pays() else function)(*args)

    return call


def pays() -> bool:
    """Say whether compiled functions are used: on a GPU."""
    return bool(mx.default_device().type == mx.gpu)


def on_cuda() -> bool:
    """Say whether arrays are on an NVIDIA GPU, where a kernel of ours can run."""
    return pays() and bool(mx.cuda.is_available())
