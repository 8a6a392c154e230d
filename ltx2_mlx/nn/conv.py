"""Convolutions, channels-last: ``(B, [[T,] H,] W, C)``.

A leaf that owns a weight says in ``from_file`` how the file's axes are ordered here; ``loading.load`` applies it once.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import ClassVar

import mlx.core as mx

from .module import Module
from .slabs import Flow

Sizes = tuple[int, ...]


# On Metal MLX takes Winograd's algorithm for 3×3 kernels where channels and image are large enough, and since #3785
# (0.32.2) also for the depth slices of a 3-D kernel, whose sums it keeps in the dtype of the output. In bfloat16 either
# is 35 to 43 times further from the truth than a plain convolution is. Neither is taken below.


def on_metal() -> bool:
    """Say whether MLX runs on Metal; CPU and CUDA have plain convolutions only."""
    return bool(mx.default_device().type == mx.gpu and mx.metal.is_available())


def _conv2d(x: mx.array, weight: mx.array, stride: tuple[int, int], padding: tuple[int, int]) -> mx.array:
    """``mx.conv2d``; on Metal half precision is computed in float32 and rounded once, as a plain kernel does."""
    if x.dtype == mx.float32 or not on_metal():
        return mx.conv2d(x, weight, stride, padding)
    return mx.conv2d(x.astype(mx.float32), weight.astype(mx.float32), stride, padding).astype(x.dtype)


def _conv3d(x: mx.array, weight: mx.array, stride: tuple[int, int, int], padding: tuple[int, int, int]) -> mx.array:
    """``mx.conv3d``; on Metal never in slices, which are taken only where depth is not padded: a zero frame is added at
    both ends, and what comes of it is left out."""
    if padding[0] or stride[0] > 1 or not on_metal():
        return mx.conv3d(x, weight, stride, padding)
    return mx.conv3d(x, weight, stride, (1, *padding[1:]))[:, 1:-1]


class _Conv(Module):
    dims: ClassVar[int]
    stride: Sizes
    padding: Sizes

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: Sizes = (), padding: Sizes = ()):
        super().__init__()
        self.stride = stride or (1,) * self.dims
        self.padding = padding or (0,) * self.dims
        self.weight = mx.zeros((out_channels, *(kernel_size,) * self.dims, in_channels))
        self.bias = mx.zeros((out_channels,))


class Conv2d(_Conv):
    """A convolution in height and width. Kernels of ``(out, in, h, w)`` in the file."""

    dims = 2
    stride: tuple[int, int]
    padding: tuple[int, int]
    from_file: ClassVar = {"weight": (0, 2, 3, 1)}

    def __call__(self, x: mx.array) -> mx.array:
        """``(N, H, W, C)`` → ``(N, H', W', out)``."""
        return _conv2d(x, self.weight, self.stride, self.padding) + self.bias


class Conv3d(_Conv):
    """A convolution in time, height and width. Kernels of ``(out, in, t, h, w)`` in the file.

    reflect: the padding mirrors the input instead of being zero.
    """

    dims = 3
    stride: tuple[int, int, int]
    padding: tuple[int, int, int]
    from_file: ClassVar = {"weight": (0, 2, 3, 4, 1)}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: Sizes = (),
        padding: Sizes = (),
        reflect: bool = False,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding)
        self.reflect = reflect

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, T, H, W, C)`` → ``(B, T', H', W', out)``."""
        padding = self.padding
        if self.reflect:
            for axis, amount in enumerate(padding, start=1):
                x = reflect_pad(x, axis, amount)
            padding = (0, 0, 0)
        return _conv3d(x, self.weight, self.stride, padding) + self.bias


def reflect_pad(x: mx.array, axis: int, amount: int) -> mx.array:
    """``amount`` mirrored slices, without the edge itself, at both ends of ``axis``, which must be longer than that."""
    if not amount:
        return x
    size = x.shape[axis]
    before = mx.take(x, mx.arange(amount, 0, -1), axis=axis)
    after = mx.take(x, mx.arange(size - 2, size - 2 - amount, -1), axis=axis)
    return mx.concatenate([before, x, after], axis=axis)


class CausalConv3d(Module):
    """A 3-D convolution that repeats edge frames in time and pads space with zeros or mirrored.

    Source: ``ltx_core.model.video_vae.convolution.CausalConv3d``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: Sizes = (1, 1, 1),
        reflect: bool = False,
    ):
        super().__init__()
        self.time_kernel_size = kernel_size
        side = kernel_size // 2
        self.conv = Conv3d(in_channels, out_channels, kernel_size, stride, (0, side, side), reflect)

    def __call__(self, x: mx.array, causal: bool = True, flow: Flow | None = None) -> mx.array:
        """``(B, T, H, W, C)`` → ``(B, T', H', W', out)``; causal: all of the padding is the first frame, before it.

        flow: ``x`` is the next slab of a clip, whose frames before it are kept there.
        """
        before = self.time_kernel_size - 1 if causal else (self.time_kernel_size - 1) // 2
        after = 0 if causal else before
        if flow is not None:
            return flow.convolved(self, x, before, after)
        parts = [x[:, :1]] * before + [x] + [x[:, -1:]] * after
        return self.conv(mx.concatenate(parts, axis=1))


# MLX 0.31.1 on CUDA cannot launch a copy of more than 65535 · 1024 elements whose last axis is short.
LARGEST_COPY = 2**25


def in_pieces(move: Callable[[mx.array], mx.array], x: mx.array, rows: int = 1) -> mx.array:
    """``move(x)``, band by band of axis 2 where ``x`` is too large for one copy.

    move: a rearrangement that works on each ``rows`` slices of axis 2 separately and in the same way.
    """
    bands = min(x.shape[2] // rows, -(-x.size // LARGEST_COPY))
    if bands < 2:
        return move(x)
    cuts = [rows * (x.shape[2] // rows * i // bands) for i in range(1, bands)]
    return mx.concatenate([move(band) for band in mx.split(x, cuts, axis=2)], axis=2)


def space_to_depth(x: mx.array, factors: Sizes) -> mx.array:
    """``(B, d·p, …, C)`` → ``(B, d, …, C·p…)``: blocks of ``factors`` cells into channels, channel-major."""
    return in_pieces(lambda band: _space_to_depth(band, factors), x, factors[1])


def _space_to_depth(x: mx.array, factors: Sizes) -> mx.array:
    B, *sizes, C = x.shape
    n = len(factors)
    split = [k for size, p in zip(sizes, factors, strict=True) for k in (size // p, p)]
    outer, inner = range(1, 2 * n, 2), range(2, 2 * n + 1, 2)
    x = x.reshape(B, *split, C).transpose(0, *outer, 2 * n + 1, *inner)
    return x.reshape(B, *split[::2], C * prod(factors))


def depth_to_space(x: mx.array, factors: Sizes) -> mx.array:
    """``(B, d, …, C·p…)`` → ``(B, d·p, …, C)``: the inverse of :func:`space_to_depth`."""
    return in_pieces(lambda band: _depth_to_space(band, factors), x)


def _depth_to_space(x: mx.array, factors: Sizes) -> mx.array:
    B, *sizes, C = x.shape
    n = len(factors)
    order = [0, *(axis for i in range(n) for axis in (1 + i, n + 2 + i)), n + 1]
    x = x.reshape(B, *sizes, C // prod(factors), *factors).transpose(order)
    return x.reshape(B, *(size * p for size, p in zip(sizes, factors, strict=True)), -1)


class PixelShuffleND(Module):
    """Channels into space: ``dims`` 1 along time, 2 along height and width, 3 along all of them."""

    def __init__(self, dims: int, upscale_factors: Sizes = (2, 2, 2)):
        super().__init__()
        factors = tuple(upscale_factors[:dims])
        self.factors = (*factors, 1, 1) if dims == 1 else factors

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, d, …, C·p…)`` → ``(B, d·p, …, C)``."""
        return depth_to_space(x, self.factors)


class BlurDownsample(Module):
    """A 5 × 5 binomial blur, the kernel read from the file, at every ``stride``-th pixel; zeros around the image."""

    def __init__(self, stride: int, kernel_size: int = 5):
        super().__init__()
        self.stride, self.kernel_size = stride, kernel_size
        self.kernel = mx.zeros((1, 1, kernel_size, kernel_size))

    def __call__(self, x: mx.array) -> mx.array:
        """``(N, H, W, C)`` → ``(N, ⌈H/stride⌉, ⌈W/stride⌉, C)``."""
        if self.stride == 1:
            return x
        C = x.shape[-1]
        weight = mx.broadcast_to(self.kernel.reshape(1, self.kernel_size, self.kernel_size, 1), (C, *self._shape))
        return mx.conv2d(x, weight, self.stride, self.kernel_size // 2, groups=C)

    @property
    def _shape(self) -> Sizes:
        return (self.kernel_size, self.kernel_size, 1)
