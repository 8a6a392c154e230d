"""Normalisation."""

from __future__ import annotations

import mlx.core as mx

from .fused import fused
from .module import Module
from .slabs import Flow


def rms_norm(x: mx.array, weight: mx.array | None = None, eps: float = 1e-6) -> mx.array:
    """x / √(mean(x²) + eps) over the last axis, accumulated in float32, in the dtype of ``x``."""
    if wrong_on_cuda(x):
        normalised = _normalised(x, mx.array(eps, mx.float32))
        return normalised if weight is None else normalised * weight
    return mx.fast.rms_norm(x, weight, eps)


def wrong_on_cuda(x: mx.array) -> bool:
    """Say whether ``mx.fast.rms_norm`` is wrong for ``x``: on CUDA, in MLX 0.31.1, by a third (measured on an H100).

    There a row takes 33 to 64 threads, of 16 bytes each: 257 to 512 channels in half precision, 129 to 256 in float32.
    """
    threads = -(-x.shape[-1] * x.dtype.size // 16)
    return 32 < threads <= 64 and on_cuda()


def on_cuda() -> bool:
    """Say whether MLX runs on an NVIDIA GPU."""
    return bool(mx.default_device().type == mx.gpu and mx.cuda.is_available())


@fused
def _normalised(x: mx.array, eps: mx.array) -> mx.array:
    y = x.astype(mx.float32)
    return (y * mx.rsqrt((y * y).mean(axis=-1, keepdims=True) + eps)).astype(x.dtype)


class RMSNorm(Module):
    """``rms_norm`` with a trained weight, ``(…, C)`` → the same shape."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = mx.ones((channels,))

    def __call__(self, x: mx.array) -> mx.array:
        return rms_norm(x, self.weight, self.eps)


class PixelNorm(Module):
    """Divide each position by its root mean square over the channels, ``(…, C)`` → the same shape."""

    def __init__(self, eps: float = 1e-8):
        super().__init__()
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return rms_norm(x, eps=self.eps)


class GroupNorm(Module):
    """``(B, …, C)`` over all positions and the channels of a group together, as torch's GroupNorm, in float32.

    Sums run over one axis after the other: a single float32 sum over a latent's million values, as MLX's own group
    norm takes it, is off by 4e-6 already at three thousand (tap: norm3).
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5):
        super().__init__()
        self.num_groups, self.eps = num_groups, eps
        self.weight = mx.ones((num_channels,))
        self.bias = mx.zeros((num_channels,))

    def __call__(self, x: mx.array, flow: Flow | None = None) -> mx.array:
        y = x.astype(mx.float32).reshape(*x.shape[:-1], self.num_groups, -1)
        y = y - self._mean(y, flow)
        y = y * mx.rsqrt(self._mean(y * y, flow) + self.eps)
        return (y.reshape(x.shape) * self.weight + self.bias).astype(x.dtype)

    @staticmethod
    def _mean(y: mx.array, flow: Flow | None = None) -> mx.array:
        """The mean of ``(B, …, groups, C)`` over all axes except batch and groups."""
        for axis in (y.ndim - 1, *range(y.ndim - 3, 0, -1)):
            if axis == 1 and flow is not None:
                y = flow.joined(y)
            y = y.mean(axis=axis, keepdims=True)
        return y


class PerChannelStatistics(Module):
    """Mean and standard deviation of every latent channel over the training data, for ``(B, C, …)`` latents."""

    # Other statistics that released files carry beside the two.
    unused_in_file = ("channel", "mean-of-stds", "mean-of-stds_over_std-of-means")

    def __init__(self, latent_channels: int):
        super().__init__()
        self["std-of-means"] = mx.ones((latent_channels,))
        self["mean-of-means"] = mx.zeros((latent_channels,))

    def un_normalize(self, x: mx.array) -> mx.array:
        """Undo ``normalize``."""
        std, mean = self._like(x)
        return x * std + mean

    def normalize(self, x: mx.array) -> mx.array:
        """Scale latents to mean 0 and variance 1 over the training data."""
        std, mean = self._like(x)
        return (x - mean) / std

    def _like(self, x: mx.array) -> tuple[mx.array, mx.array]:
        shape = (-1, *(1,) * (x.ndim - 2))
        return tuple(self[name].astype(x.dtype).reshape(shape) for name in ("std-of-means", "mean-of-means"))
