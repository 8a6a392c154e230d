"""Convolutions along time, channels-last: ``(B, T, C)``. Layout of the weights as in ``nn.conv``."""

from __future__ import annotations

import functools
from typing import ClassVar

import mlx.core as mx

from . import fused
from .linear import widened
from .module import Module


class Conv1d(Module):
    """A convolution whose output is as long as its input: an odd kernel, zeros on both sides.

    Kernels of ``(out, in, k)`` in the file.
    """

    from_file: ClassVar = {"weight": (0, 2, 1)}

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1, bias: bool = True):
        super().__init__()
        self.dilation, self.padding = dilation, dilation * (kernel_size - 1) // 2
        self.weight = mx.zeros((out_channels, kernel_size, in_channels))
        if bias:
            self.bias = mx.zeros((out_channels,))

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, T, in)`` → ``(B, T, out)``."""
        if self.dilation > 1 and not fused.pays():
            y = self._summed(x)
        else:
            y = mx.conv1d(x, self.weight, padding=self.padding, dilation=self.dilation)
        return y + self.bias if "bias" in self else y

    def _summed(self, x: mx.array) -> mx.array:
        """The same as a sum of matrix products, one for each place of the kernel.

        On a CPU, MLX 0.32.4 convolves with a dilation number by number: 30 to 60 times as long, and less exactly. Its
        products of half precision are slow there too (see ``nn.linear``).
        """
        T, padded = x.shape[1], widened(mx.pad(x, [(0, 0), (self.padding, self.padding), (0, 0)]))
        weight = widened(self.weight)
        starts = range(0, self.dilation * weight.shape[1], self.dilation)
        parts = [padded[:, start : start + T] @ weight[:, k].T for k, start in enumerate(starts)]
        return functools.reduce(mx.add, parts).astype(x.dtype)


class ConvTranspose1d(Module):
    """A transposed convolution: ``stride`` times as long as its input, one sample more where k − stride is odd.

    Kernels of ``(in, out, k)`` in the file.
    """

    from_file: ClassVar = {"weight": (1, 2, 0)}

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int):
        super().__init__()
        self.stride, self.padding = stride, (kernel_size - stride) // 2
        self.weight = mx.zeros((out_channels, kernel_size, in_channels))
        self.bias = mx.zeros((out_channels,))

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, T, in)`` → ``(B, (T − 1)·stride − 2·padding + k, out)``."""
        return mx.conv_transpose1d(x, self.weight, stride=self.stride, padding=self.padding) + self.bias
