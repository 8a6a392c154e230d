"""Convolutions along time, channels-last: ``(B, T, C)``. Layout of the weights as in ``nn.conv``."""

from __future__ import annotations

from typing import ClassVar

import mlx.core as mx

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
        y = mx.conv1d(x, self.weight, padding=self.padding, dilation=self.dilation)
        return y + self.bias if "bias" in self else y


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
