"""Latent upsamplers: twice (or 1½ times) the size, or twice the frames, without leaving the latent space.

Each is a file of its own with a flat config. Latents are ``(B, C, F, H, W)`` at the public call and channels-last
inside. Source: ``ltx_core.model.upsampler``.
"""

from __future__ import annotations

import mlx.core as mx

from .config import LatentUpsamplerConfig
from .errors import InputError
from .nn.activation import SiLU
from .nn.conv import BlurDownsample, Conv2d, Conv3d, PixelShuffleND
from .nn.module import Module
from .nn.norm import GroupNorm
from .video_vae import VideoEncoder


def _conv(channels: int, out: int) -> Conv3d:
    return Conv3d(channels, out, 3, padding=(1, 1, 1))


class ResBlock(Module):
    """Two convolutions with group norms; nothing is normalised after the addition."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = _conv(channels, channels)
        self.norm1 = GroupNorm(32, channels)
        self.conv2 = _conv(channels, channels)
        self.norm2 = GroupNorm(32, channels)
        self.activation = SiLU()

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, F, H, W, C)`` → the same shape."""
        y = self.activation(self.norm1(self.conv1(x)))
        return self.activation(self.norm2(self.conv2(y)) + x)


class SpatialRationalResampler(Module):
    """Up by ``num`` with a pixel shuffle, then down by ``den`` with a blur, frame by frame."""

    def __init__(self, mid_channels: int, num: int, den: int):
        super().__init__()
        self.conv = Conv2d(mid_channels, num**2 * mid_channels, 3, padding=(1, 1))
        self.pixel_shuffle = PixelShuffleND(2, (num, num))
        self.blur_down = BlurDownsample(den)

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, F, H, W, C)`` → ``(B, F, H·num/den, W·num/den, C)``."""
        y = self.blur_down(self.pixel_shuffle(self.conv(x.flatten(0, 1))))
        return y.reshape(*x.shape[:2], *y.shape[1:])


class LatentUpsampler(Module):
    """Residual blocks, a convolution that upsamples, residual blocks. Source: ``LatentUpsampler``."""

    channels_last = True

    def __init__(self, config: LatentUpsamplerConfig):
        super().__init__()
        self.config = config
        mid, blocks = config.mid_channels, range(config.num_blocks_per_stage)
        self.initial_conv = _conv(config.in_channels, mid)
        self.initial_norm = GroupNorm(32, mid)
        self.initial_activation = SiLU()
        self.res_blocks = [ResBlock(mid) for _ in blocks]
        self.upsampler: list[Module] | SpatialRationalResampler
        if config.temporal_upsample and config.spatial_upsample:
            self.upsampler = [_conv(mid, 8 * mid), PixelShuffleND(3)]
        elif config.temporal_upsample:
            self.upsampler = [_conv(mid, 2 * mid), PixelShuffleND(1)]
        elif config.resamples:
            self.upsampler = SpatialRationalResampler(mid, *config.resamples)
        else:
            self.upsampler = [Conv2d(mid, 4 * mid, 3, padding=(1, 1)), PixelShuffleND(2)]
        self.post_upsample_res_blocks = [ResBlock(mid) for _ in blocks]
        self.final_conv = _conv(mid, config.in_channels)

    def __call__(self, latent: mx.array) -> mx.array:
        """``(B, C, F, H, W)`` → ``(B, C, F', H', W')``: sides × scale, frames 2F − 1 where time is upsampled."""
        if latent.ndim != 5 or latent.shape[1] != self.config.in_channels:
            expected = f"(batch, {self.config.in_channels}, frames, height, width)"
            raise InputError(f"the latent is {latent.shape}, expected {expected}")
        x = self.initial_conv(latent.transpose(0, 2, 3, 4, 1))
        x = self.initial_activation(self.initial_norm(x))
        for block in self.res_blocks:
            x = block(x)
        x = self._upsample(x)
        for block in self.post_upsample_res_blocks:
            x = block(x)
        return self.final_conv(x).transpose(0, 4, 1, 2, 3)

    def _upsample(self, x: mx.array) -> mx.array:
        if isinstance(self.upsampler, SpatialRationalResampler):
            return self.upsampler(x)
        conv, shuffle = self.upsampler
        y: mx.array
        if self.config.temporal_upsample:
            y = shuffle(conv(x))
            return y[:, 1:]  # the first latent frame stands for one pixel frame, and stays one
        y = shuffle(conv(x.flatten(0, 1)))
        return y.reshape(*x.shape[:2], *y.shape[1:])


def upsample_video(latent: mx.array, video_encoder: VideoEncoder, upsampler: LatentUpsampler) -> mx.array:
    """Normalised latents upsampled: the upsampler works on latents as the encoder made them."""
    latent = video_encoder.per_channel_statistics.un_normalize(latent)
    latent = upsampler(latent)
    return video_encoder.per_channel_statistics.normalize(latent)
