"""Shapes and states that all parts of the model share. Names and fields follow ``ltx_core.types``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx


class VideoPixelShape(NamedTuple):
    """Size of a clip in pixel space: frames, height and width in pixels, ``fps`` in frames per second."""

    batch: int
    frames: int
    height: int
    width: int
    fps: float


class SpatioTemporalScaleFactors(NamedTuple):
    """Pixels per latent cell along time, width and height."""

    time: int
    width: int
    height: int

    @classmethod
    def default(cls) -> SpatioTemporalScaleFactors:
        return cls(time=8, width=32, height=32)


VIDEO_SCALE_FACTORS = SpatioTemporalScaleFactors.default()


class VideoLatentShape(NamedTuple):
    """Shape of a video latent, ``(B, C, F, H, W)``."""

    batch: int
    channels: int
    frames: int
    height: int
    width: int

    def token_count(self) -> int:
        """Tokens after patchifying with patch size 1."""
        return self.frames * self.height * self.width

    def mask_shape(self) -> VideoLatentShape:
        return self._replace(channels=1)

    @staticmethod
    def from_pixel_shape(
        shape: VideoPixelShape,
        latent_channels: int = 128,
        scale_factors: SpatioTemporalScaleFactors = VIDEO_SCALE_FACTORS,
    ) -> VideoLatentShape:
        """Latent shape of a clip of 8k+1 frames whose sides are multiples of 32.

        The scale factors are used in the tuple's order, as the reference does (tap: latent_shape.scaled).
        """
        time, height, width = scale_factors
        return VideoLatentShape(
            batch=shape.batch,
            channels=latent_channels,
            frames=(shape.frames - 1) // time + 1,
            height=shape.height // height,
            width=shape.width // width,
        )

    def upscale(self, scale_factors: SpatioTemporalScaleFactors = VIDEO_SCALE_FACTORS) -> VideoLatentShape:
        """The pixel-space shape ``(B, 3, 8(F-1)+1, 32H, 32W)`` that this latent decodes to."""
        return self._replace(
            channels=3,
            frames=(self.frames - 1) * scale_factors.time + 1,
            height=self.height * scale_factors.height,
            width=self.width * scale_factors.width,
        )


class AudioLatentShape(NamedTuple):
    """Shape of an audio latent, ``(B, C, T, F)``: 25 latent frames a second for the released models."""

    batch: int
    channels: int
    frames: int
    mel_bins: int

    def token_count(self) -> int:
        return self.frames

    def mask_shape(self) -> AudioLatentShape:
        return self._replace(channels=1, mel_bins=1)

    @staticmethod
    def from_duration(
        batch: int,
        duration: float,
        channels: int = 8,
        mel_bins: int = 16,
        sample_rate: int = 16000,
        hop_length: int = 160,
        audio_latent_downsample_factor: int = 4,
    ) -> AudioLatentShape:
        """Latent shape of ``duration`` seconds; the frame count rounds half to even, as the reference's does."""
        per_second = float(sample_rate) / float(hop_length) / float(audio_latent_downsample_factor)
        return AudioLatentShape(batch, channels, round(duration * per_second), mel_bins)

    @staticmethod
    def from_video_pixel_shape(shape: VideoPixelShape, channels: int = 8, mel_bins: int = 16) -> AudioLatentShape:
        """Latent shape of the audio that lasts as long as ``shape``."""
        return AudioLatentShape.from_duration(shape.batch, float(shape.frames) / float(shape.fps), channels, mel_bins)


@dataclass(frozen=True)
class Modality:
    """One stream, video or audio, as the transformer takes it.

    Mirrors ``ltx_core.model.transformer.modality.Modality``.

    latent: ``(B, T, D)`` patchified tokens, noisy ones first, conditioning tokens appended.
    sigma: ``(B,)`` noise level of the step, in [0, 1], float32.
    timesteps: ``(B, T, 1)`` noise level of each token, or ``(B, 1, 1)`` when all tokens share it, float32.
    positions: ``(B, 3, T, 2)`` [start, end) of each token in (seconds, pixels, pixels), or ``(B, 1, T, 2)``
        seconds for audio.
    context: ``(B, S, C)`` text embeddings.
    enabled: False leaves the stream's own layers out; the other stream can still attend to it.
    context_mask: ``(B, S)`` integers, 1 for a token to attend to; floats are taken as additive biases.
    attention_mask: ``(B, T, T)`` strengths in [0, 1] of self-attention from row to column.
    keyframes_mask: ``(B, T, 1)``, above 0 for tokens of a latent frame that holds a single picture (2.5).
    """

    latent: mx.array
    sigma: mx.array
    timesteps: mx.array
    positions: mx.array
    context: mx.array
    enabled: bool = True
    context_mask: mx.array | None = None
    attention_mask: mx.array | None = None
    keyframes_mask: mx.array | None = None


@dataclass(frozen=True)
class LatentState:
    """Latents of one stream during denoising, patchified. Mirrors ``ltx_core.types.LatentState``.

    latent: ``(B, T, C)`` noisy tokens. denoise_mask: ``(B, T, 1)`` float32, 1 where the token is denoised fully, 0
    where it is kept. positions: as in :class:`Modality`. clean_latent: ``(B, T, C)`` what kept tokens stay at.
    attention_mask: ``(B, T, T)`` strengths in [0, 1], None for full attention. keyframes_mask: as in
    :class:`Modality`, None where nothing is marked. sigma: its noise level at every step, None for that of the step.
    """

    latent: mx.array
    denoise_mask: mx.array
    positions: mx.array
    clean_latent: mx.array
    attention_mask: mx.array | None = None
    keyframes_mask: mx.array | None = None
    sigma: float | None = None


@dataclass(frozen=True)
class Audio:
    """A waveform, ``(B, channels, samples)`` or ``(channels, samples)`` in [−1, 1], and its sampling rate in Hz."""

    waveform: mx.array
    sampling_rate: int


class ImageConditioningInput(NamedTuple):
    """An image that the video shows.

    frame_idx: the frame that shows it. strength: 1 shows the image as it is, 0 ignores it. crf: the H.264 quality that
    the image is compressed with first, because training videos were compressed; 0 leaves it as it is, and None takes
    the default of the checkpoint's version (33, and 18 from 2.4 on).
    """

    path: str
    frame_idx: int
    strength: float
    crf: int | None = None
