"""Latents to tokens and back, and where each token lies in time and space.

Mirrors ``ltx_core.components.patchifiers``. Everything here is integer or layout work, equal to the reference's to
the last bit; the grids are NumPy inside so that no backend's arithmetic enters.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import mlx.core as mx
import numpy as np

from ..errors import InputError
from ..types import AudioLatentShape, SpatioTemporalScaleFactors, VideoLatentShape

Shape = TypeVar("Shape", VideoLatentShape, AudioLatentShape)
_Shape = TypeVar("_Shape", VideoLatentShape, AudioLatentShape, contravariant=True)


class Patchifier(Protocol[_Shape]):
    """Latents ``(B, C, …)`` ↔ tokens ``(B, T, D)``."""

    def get_token_count(self, tgt_shape: _Shape) -> int: ...

    def patchify(self, latents: mx.array, /) -> mx.array: ...

    def unpatchify(self, latents: mx.array, /, output_shape: _Shape) -> mx.array: ...

    def get_patch_grid_bounds(self, output_shape: _Shape) -> mx.array: ...


class VideoLatentPatchifier:
    """``(B, C, F, H, W)`` ↔ ``(B, F·H/p·W/p, C·p·p)``; the released models use patch size 1."""

    def __init__(self, patch_size: int):
        self.patch_size = (1, patch_size, patch_size)

    def get_token_count(self, tgt_shape: VideoLatentShape) -> int:
        return tgt_shape.token_count() // (self.patch_size[1] * self.patch_size[2])

    def patchify(self, latents: mx.array) -> mx.array:
        B, C, F, H, W = latents.shape
        _, p, q = self.patch_size
        x = latents.reshape(B, C, F, H // p, p, W // q, q).transpose(0, 2, 3, 5, 1, 4, 6)
        return x.reshape(B, F * (H // p) * (W // q), C * p * q)

    def unpatchify(self, latents: mx.array, output_shape: VideoLatentShape) -> mx.array:
        B, C, F, H, W = output_shape
        _, p, q = self.patch_size
        x = latents.reshape(B, F, H // p, W // q, C, p, q).transpose(0, 4, 1, 2, 5, 3, 6)
        return x.reshape(B, C, F, H, W)

    def get_patch_grid_bounds(self, output_shape: VideoLatentShape) -> mx.array:
        """``(B, 3, T, 2)`` int64: [start, end) of each token in latent cells along time, height and width."""
        B, _, F, H, W = output_shape
        if min(B, F, H, W) <= 0:
            raise InputError(f"a latent needs a positive batch, frames, height and width, got {tuple(output_shape)}")
        steps = self.patch_size
        axes = [np.arange(0, size, step) for size, step in zip((F, H, W), steps, strict=True)]
        start = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
        bounds = np.stack([start, start + np.array(steps)[:, None]], axis=-1)
        return mx.array(np.broadcast_to(bounds, (B, *bounds.shape)))


def get_pixel_coords(
    latent_coords: mx.array, scale_factors: SpatioTemporalScaleFactors, causal_fix: bool = False
) -> mx.array:
    """Token bounds ``(B, 3, T, 2)`` from latent cells to frames and pixels.

    ``causal_fix`` accounts for the first latent frame standing for one frame, not eight: [0, 1), [1, 9), [9, 17) …
    The scale factors are used in the tuple's order, as the reference does.
    """
    coords = np.array(latent_coords) * np.array(scale_factors).reshape(1, 3, 1, 1)
    if causal_fix:
        coords[:, 0] = np.maximum(coords[:, 0] + 1 - scale_factors[0], 0)
    return mx.array(coords)


class AudioPatchifier:
    """``(B, C, T, F)`` ↔ ``(B, T, C·F)`` and the seconds that each latent frame covers."""

    def __init__(
        self,
        patch_size: int,
        sample_rate: int = 16000,
        hop_length: int = 160,
        audio_latent_downsample_factor: int = 4,
        is_causal: bool = True,
        shift: int = 0,
    ):
        self.patch_size = (1, patch_size, patch_size)
        self.sample_rate = sample_rate
        self.hop_length = hop_length
        self.audio_latent_downsample_factor = audio_latent_downsample_factor
        self.is_causal = is_causal
        self.shift = shift

    def get_token_count(self, tgt_shape: AudioLatentShape) -> int:
        return tgt_shape.frames

    def patchify(self, audio_latents: mx.array) -> mx.array:
        B, C, T, F = audio_latents.shape
        return audio_latents.transpose(0, 2, 1, 3).reshape(B, T, C * F)

    def unpatchify(self, audio_latents: mx.array, output_shape: AudioLatentShape) -> mx.array:
        B, T, _ = audio_latents.shape
        return audio_latents.reshape(B, T, output_shape.channels, output_shape.mel_bins).transpose(0, 2, 1, 3)

    def get_patch_grid_bounds(self, output_shape: AudioLatentShape) -> mx.array:
        """``(B, 1, T, 2)`` float32: [start, end) of each latent frame in seconds."""
        first = np.arange(self.shift, self.shift + output_shape.frames + 1, dtype=np.float32)
        mel = first * np.float32(self.audio_latent_downsample_factor)
        if self.is_causal:  # a latent frame is complete at its first mel frame: 4i + 1 - 4, not 4(i + 1 - 4)
            mel = np.maximum(mel + np.float32(1) - np.float32(self.audio_latent_downsample_factor), np.float32(0))
        seconds = mel * np.float32(self.hop_length) / np.float32(self.sample_rate)
        bounds = np.stack([seconds[:-1], seconds[1:]], axis=-1)
        return mx.array(np.broadcast_to(bounds, (output_shape.batch, 1, *bounds.shape)))
