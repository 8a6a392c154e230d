"""The audio autoencoder: log-mel spectrograms of 100 frames a second ↔ latents of 25 frames a second.

Parameter and module paths are those of the checkpoint below ``audio_vae.encoder.`` and ``audio_vae.decoder.``; both
also hold ``audio_vae.per_channel_statistics.``. Arrays are ``(B, time, frequency, channels)`` inside, and
``(B, channels, time, frequency)`` at the two public calls. Source: ``ltx_core.model.audio_vae``.
"""

from __future__ import annotations

from itertools import pairwise

import mlx.core as mx
import mlx.nn as nn

from .audio_processor import AudioProcessor
from .config import AudioVAEConfig, CausalityAxis, NormType
from .diffusion.patchifiers import AudioPatchifier
from .errors import InputError
from .nn.activation import SiLU
from .nn.conv import Conv2d
from .nn.module import Module
from .nn.norm import PixelNorm
from .types import Audio, AudioLatentShape
from .vocoder import Vocoder, VocoderWithBWE

LATENT_DOWNSAMPLE_FACTOR = 4


def build_normalization_layer(in_channels: int, normtype: NormType) -> nn.Module:
    """The file's norm, eps 1e-6 in both kinds (the video VAE's pixel norm has 1e-8)."""
    if normtype is NormType.GROUP:
        return nn.GroupNorm(32, in_channels, eps=1e-6, pytorch_compatible=True)
    return PixelNorm(eps=1e-6)


class CausalConv2d(Module):
    """A convolution that sees nothing later along the causal axis: all padding is in front there, zeros."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, causality_axis: CausalityAxis):
        super().__init__()
        pad = kernel_size - 1
        both, front = (pad // 2, pad - pad // 2), (pad, 0)
        along_time = causality_axis is CausalityAxis.HEIGHT
        along_frequency = causality_axis in (CausalityAxis.WIDTH, CausalityAxis.WIDTH_COMPATIBILITY)
        self.padding = (front if along_time else both, front if along_frequency else both)
        self.conv = Conv2d(in_channels, out_channels, kernel_size)

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, T, F, C_in)`` → ``(B, T, F, C_out)``."""
        return self.conv(mx.pad(x, [(0, 0), *self.padding, (0, 0)]))


class ResnetBlock(Module):
    """Norm, SiLU, 3×3 convolution, twice, and the input added; a 1×1 convolution where the width changes."""

    def __init__(self, in_channels: int, out_channels: int, config: AudioVAEConfig):
        super().__init__()
        norm, axis = config.norm_type, config.causality_axis
        self.norm1 = build_normalization_layer(in_channels, norm)
        self.non_linearity = SiLU()
        self.conv1 = CausalConv2d(in_channels, out_channels, 3, axis)
        self.norm2 = build_normalization_layer(out_channels, norm)
        self.dropout = nn.Identity()  # a name in the reference's tree; inference drops nothing
        self.conv2 = CausalConv2d(out_channels, out_channels, 3, axis)
        self.nin_shortcut = CausalConv2d(in_channels, out_channels, 1, axis) if in_channels != out_channels else None

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, T, F, C_in)`` → ``(B, T, F, C_out)``."""
        h = self.conv1(self.non_linearity(self.norm1(x)))
        h = self.conv2(self.dropout(self.non_linearity(self.norm2(h))))
        return (x if self.nin_shortcut is None else self.nin_shortcut(x)) + h


class AttnBlock(Module):
    """Self-attention with one head over all positions of the spectrogram, added to the input."""

    def __init__(self, in_channels: int, config: AudioVAEConfig):
        super().__init__()
        self.norm = build_normalization_layer(in_channels, config.norm_type)
        self.q = Conv2d(in_channels, in_channels, 1)
        self.k = Conv2d(in_channels, in_channels, 1)
        self.v = Conv2d(in_channels, in_channels, 1)
        self.proj_out = Conv2d(in_channels, in_channels, 1)

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, T, F, C)`` → the same shape."""
        B, T, F, C = x.shape
        h = self.norm(x)
        q, k, v = (layer(h).reshape(B, 1, T * F, C) for layer in (self.q, self.k, self.v))
        attended = mx.fast.scaled_dot_product_attention(q, k, v, scale=C**-0.5)
        return x + self.proj_out(attended.reshape(B, T, F, C))


class Downsample(Module):
    """Half the frames and half the bins: a 3×3 convolution of stride 2 over one-sided zero padding."""

    def __init__(self, in_channels: int, causality_axis: CausalityAxis):
        super().__init__()
        # (top, bottom) of time, (left, right) of frequency (tap: down.0.downsample.conv, its input)
        self.padding = {
            CausalityAxis.NONE: ((0, 1), (0, 1)),
            CausalityAxis.HEIGHT: ((2, 0), (0, 1)),
            CausalityAxis.WIDTH: ((0, 1), (2, 0)),
            CausalityAxis.WIDTH_COMPATIBILITY: ((0, 1), (1, 0)),
        }[causality_axis]
        self.conv = Conv2d(in_channels, in_channels, 3, stride=(2, 2))

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, T, F, C)`` → ``(B, T', F', C)``; causal along time, T' = T // 2 + T % 2."""
        return self.conv(mx.pad(x, [(0, 0), *self.padding, (0, 0)]))


class Upsample(Module):
    """Twice the frames and bins, each repeated, then a convolution; along a causal axis without the first row.

    That row depends only on the front padding, as the first frame of the encoder's input does.
    """

    def __init__(self, in_channels: int, causality_axis: CausalityAxis):
        super().__init__()
        self.first = (int(causality_axis is CausalityAxis.HEIGHT), int(causality_axis is CausalityAxis.WIDTH))
        self.conv = CausalConv2d(in_channels, in_channels, 3, causality_axis)

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, T, F, C)`` → ``(B, 2T − 1, 2F, C)`` where time is causal."""
        x = self.conv(mx.repeat(mx.repeat(x, 2, axis=1), 2, axis=2))
        return x[:, self.first[0] :, self.first[1] :]


class Level(Module):
    """The blocks of one resolution, with attention after each where the file has it, and the layer to the next one."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, attention: bool, config: AudioVAEConfig):
        super().__init__()
        widths = [in_channels] + [out_channels] * blocks
        self.block = [ResnetBlock(a, b, config) for a, b in pairwise(widths)]
        self.attn = [AttnBlock(out_channels, config) for _ in range(blocks if attention else 0)]
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def run(self, x: mx.array) -> mx.array:
        """``(B, T, F, C_in)`` → ``(B, T', F', C_out)``."""
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        if self.downsample is not None:
            return self.downsample(x)
        return x if self.upsample is None else self.upsample(x)


class MidBlock(Module):
    """Two blocks at the lowest resolution with attention between them, where the file has it."""

    def __init__(self, channels: int, config: AudioVAEConfig):
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, config)
        self.attn_1 = AttnBlock(channels, config) if config.mid_block_add_attention else nn.Identity()
        self.block_2 = ResnetBlock(channels, channels, config)

    def run(self, features: mx.array) -> mx.array:
        """``(B, T, F, C)`` → the same shape."""
        return self.block_2(self.attn_1(self.block_1(features)))


class PerChannelStatistics(Module):
    """Mean and deviation of each latent channel at each bin, 128 numbers, from the checkpoint."""

    def __init__(self, latent_channels: int):
        super().__init__()
        self["std-of-means"] = mx.zeros((latent_channels,))
        self["mean-of-means"] = mx.zeros((latent_channels,))

    def un_normalize(self, x: mx.array) -> mx.array:
        """``(B, T, C·F)`` latents as the transformer has them → as the decoder wants them."""
        std, mean = self._like(x)
        return x * std + mean

    def normalize(self, x: mx.array) -> mx.array:
        """The inverse, ``(B, T, C·F)`` → the same shape."""
        std, mean = self._like(x)
        return (x - mean) / std

    def _like(self, x: mx.array) -> tuple[mx.array, mx.array]:
        return self["std-of-means"].astype(x.dtype), self["mean-of-means"].astype(x.dtype)


class _Autoencoder(Module):
    """The parts that encoder and decoder share: statistics, and the order of a latent's 128 numbers (channel-major)."""

    channels_last = True

    def __init__(self, config: AudioVAEConfig):
        super().__init__()
        self.config = config
        self.sample_rate, self.mel_hop_length = config.sampling_rate, config.hop_length
        self.mel_bins, self.n_fft = config.mel_bins, config.filter_length
        self.per_channel_statistics = PerChannelStatistics(config.ch)
        self.patchifier = AudioPatchifier(
            patch_size=1,
            sample_rate=config.sampling_rate,
            hop_length=config.hop_length,
            audio_latent_downsample_factor=LATENT_DOWNSAMPLE_FACTOR,
            is_causal=config.causal,
        )
        self.non_linearity = SiLU()


class AudioEncoder(_Autoencoder):
    """Spectrogram → normalised latent."""

    def __init__(self, config: AudioVAEConfig):
        super().__init__(config)
        axis, ch = config.causality_axis, config.ch
        self.conv_in = CausalConv2d(config.in_channels, ch, 3, axis)
        widths = [ch, *(ch * m for m in config.ch_mult)]
        self.down, resolution = [], config.resolution
        for level, (a, b) in enumerate(pairwise(widths)):
            stage = Level(a, b, config.num_res_blocks, resolution in config.attn_resolutions, config)
            if level < len(config.ch_mult) - 1:
                stage.downsample = Downsample(b, axis)
                resolution //= 2
            self.down.append(stage)
        self.mid = MidBlock(widths[-1], config)
        self.norm_out = build_normalization_layer(widths[-1], config.norm_type)
        self.conv_out = CausalConv2d(widths[-1], 2 * config.z_channels, 3, axis)  # means, log-variances

    def __call__(self, spectrogram: mx.array) -> mx.array:
        """``(B, 2, T, mel bins)`` log-mel spectrogram → ``(B, 8, ⌈T / 4⌉, mel bins / 4)`` normalised latent."""
        wanted = (self.config.in_channels, self.mel_bins)
        if spectrogram.ndim != 4 or (spectrogram.shape[1], spectrogram.shape[3]) != wanted:
            raise InputError(
                f"audio encoder: the spectrogram is {tuple(spectrogram.shape)}, expected (batch, {wanted[0]}, frames, "
                f"{wanted[1]})"
            )
        h = self.conv_in(spectrogram.transpose(0, 2, 3, 1))
        for stage in self.down:
            h = stage.run(h)
        h = self.conv_out(self.non_linearity(self.norm_out(self.mid.run(h))))
        return self._normalize_latents(h.transpose(0, 3, 1, 2))

    def _normalize_latents(self, latent_output: mx.array) -> mx.array:
        """``(B, 2C, T, F)`` means and log-variances → ``(B, C, T, F)`` normalised means."""
        means = latent_output[:, : self.config.z_channels]
        normalized = self.per_channel_statistics.normalize(self.patchifier.patchify(means))
        return self.patchifier.unpatchify(normalized, AudioLatentShape(*means.shape))


class AudioDecoder(_Autoencoder):
    """Normalised latent → spectrogram."""

    def __init__(self, config: AudioVAEConfig):
        super().__init__(config)
        axis, ch = config.causality_axis, config.ch
        width = ch * config.ch_mult[-1]
        resolution = config.resolution // 2 ** (len(config.ch_mult) - 1)
        self.conv_in = CausalConv2d(config.z_channels, width, 3, axis)
        self.mid = MidBlock(width, config)
        self.up: list[Level] = []
        for level in reversed(range(len(config.ch_mult))):
            out = ch * config.ch_mult[level]
            stage = Level(width, out, config.num_res_blocks + 1, resolution in config.attn_resolutions, config)
            if level:
                stage.upsample = Upsample(out, axis)
                resolution *= 2
            self.up.insert(0, stage)
            width = out
        self.norm_out = build_normalization_layer(width, config.norm_type)
        self.conv_out = CausalConv2d(width, config.out_ch, 3, axis)

    def __call__(self, sample: mx.array) -> mx.array:
        """``(B, 8, T, mel bins / 4)`` normalised latent → ``(B, 2, 4T − 3, mel bins)`` log-mel spectrogram."""
        bins = self.config.ch // self.config.z_channels
        if sample.ndim != 4 or (sample.shape[1], sample.shape[3]) != (self.config.z_channels, bins):
            raise InputError(
                f"audio decoder: the latent is {tuple(sample.shape)}, expected (batch, {self.config.z_channels}, "
                f"frames, {bins})"
            )
        sample, target_shape = self._denormalize_latents(sample)
        h = self.mid.run(self.conv_in(sample.transpose(0, 2, 3, 1)))
        for stage in reversed(self.up):
            h = stage.run(h)
        h = self.conv_out(self.non_linearity(self.norm_out(h)))
        return self._adjust_output_shape(h.transpose(0, 3, 1, 2), target_shape)

    def _denormalize_latents(self, sample: mx.array) -> tuple[mx.array, AudioLatentShape]:
        """``(B, C, T, F)`` → the same without normalisation, and the shape of the spectrogram to be made."""
        shape = AudioLatentShape(*sample.shape)
        latents = self.per_channel_statistics.un_normalize(self.patchifier.patchify(sample))
        frames = shape.frames * LATENT_DOWNSAMPLE_FACTOR
        if self.config.causality_axis is not CausalityAxis.NONE:
            frames = max(frames - (LATENT_DOWNSAMPLE_FACTOR - 1), 1)
        target = AudioLatentShape(shape.batch, self.config.out_ch, frames, self.mel_bins)
        return self.patchifier.unpatchify(latents, shape), target

    def _adjust_output_shape(self, decoded_output: mx.array, target_shape: AudioLatentShape) -> mx.array:
        """``(B, C, T, F)`` cropped, or filled up with zeros at the end, to the target's frames and bins."""
        _, channels, frames, bins = target_shape
        x = decoded_output[:, :channels, :frames, :bins]
        return mx.pad(x, [(0, 0), (0, 0), (0, frames - x.shape[2]), (0, bins - x.shape[3])])


def encode_audio(audio: Audio, audio_encoder: AudioEncoder, audio_processor: AudioProcessor | None = None) -> mx.array:
    """Waveform ``(B, channels, samples)`` at any rate → ``(B, 8, T, 16)`` latent in the encoder's dtype, 25 frames a
    second. Mono goes to both channels; a clip shorter than half an analysis window is followed by silence."""
    config, waveform = audio_encoder.config, audio.waveform
    if waveform.ndim != 3 or waveform.shape[1] not in (1, config.in_channels) or waveform.size == 0:
        raise InputError(
            f"audio: the waveform is {tuple(waveform.shape)}, expected (batch, 1 or {config.in_channels} channels, "
            "samples) with at least one sample"
        )
    if audio_processor is None:
        audio_processor = AudioProcessor(
            target_sample_rate=audio_encoder.sample_rate,
            mel_bins=audio_encoder.mel_bins,
            mel_hop_length=audio_encoder.mel_hop_length,
            n_fft=audio_encoder.n_fft,
        )
    mel = audio_processor.waveform_to_mel(audio)
    if mel.shape[1] != config.in_channels:
        mel = mx.repeat(mel, config.in_channels, axis=1)
    return audio_encoder(mel.astype(audio_encoder.conv_in.conv.weight.dtype))


def decode_audio(latent: mx.array, audio_decoder: AudioDecoder, vocoder: Vocoder | VocoderWithBWE) -> Audio:
    """``(1, 8, T, 16)`` latent → stereo ``(2, samples)`` float32 in [−1, 1] with its rate; ``(B, 2, samples)`` for a
    batch of more than one."""
    waveform = vocoder(audio_decoder(latent)).astype(mx.float32)
    return Audio(waveform[0] if waveform.shape[0] == 1 else waveform, vocoder.output_sampling_rate)
