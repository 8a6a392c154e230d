"""Normalisation without trained weights."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


def rms_norm(x: mx.array, weight: mx.array | None = None, eps: float = 1e-6) -> mx.array:
    """x / √(mean(x²) + eps) over the last axis, accumulated in float32, in the dtype of ``x``."""
    return mx.fast.rms_norm(x, weight, eps)


class PixelNorm(nn.Module):
    """Each position by its root mean square over the channels, ``(…, C)`` → the same shape."""

    def __init__(self, eps: float = 1e-8):
        super().__init__()
        self.eps = eps

    def __call__(self, x: mx.array) -> mx.array:
        return rms_norm(x, eps=self.eps)


class PerChannelStatistics(nn.Module):
    """Mean and standard deviation of every latent channel over the training data, for ``(B, C, …)`` latents."""

    # Other statistics that released files carry beside the two.
    unused_in_file = ("channel", "mean-of-stds", "mean-of-stds_over_std-of-means")

    def __init__(self, latent_channels: int):
        super().__init__()
        self["std-of-means"] = mx.ones((latent_channels,))
        self["mean-of-means"] = mx.zeros((latent_channels,))

    def un_normalize(self, x: mx.array) -> mx.array:
        """Latents as the encoder made them, from unit variance."""
        std, mean = self._like(x)
        return x * std + mean

    def normalize(self, x: mx.array) -> mx.array:
        """Latents of unit variance."""
        std, mean = self._like(x)
        return (x - mean) / std

    def _like(self, x: mx.array) -> tuple[mx.array, mx.array]:
        shape = (-1, *(1,) * (x.ndim - 2))
        return tuple(self[name].astype(x.dtype).reshape(shape) for name in ("std-of-means", "mean-of-means"))
