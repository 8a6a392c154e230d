"""Vocoders: log-mel spectrograms to stereo waveforms. HiFi-GAN in 2.0; BigVGAN with bandwidth extension in 2.3.

Parameter and module paths are those of the checkpoint below ``vocoder.``. Always float32, whatever the dtype of the
file or of the model: bfloat16 is audible (lane B). Filters, Fourier and mel bases are the checkpoint's own, rounded as
in training. Arrays are ``(B, samples, channels)`` inside. Sources: ``ltx_core.model.audio_vae.vocoder``;
HiFi-GAN (arXiv:2010.05646), BigVGAN (arXiv:2206.04658).
"""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np

from .config import VocoderConfig, VocoderWithBWEConfig
from .errors import InputError
from .nn.conv1d import Conv1d, ConvTranspose1d
from .nn.fused import fused
from .nn.module import Module

LRELU_SLOPE = 0.1
KERNEL_SIZE = 12  # of the filters around an activation, which doubles the rate and halves it again
STEREO, MEL_BINS = 2, 64


def _leaky(x: mx.array, slope: float) -> mx.array:
    return mx.maximum(x, slope * x)


def _replicate(x: mx.array, left: int, right: int) -> mx.array:
    """``(B, T, C)`` with its first and last sample repeated."""
    return mx.pad(x, [(0, 0), (left, right), (0, 0)], mode="edge")


def _filtered(x: mx.array, taps: mx.array, stride: int = 1) -> mx.array:
    """``(B, T, C)``, every channel with the same ``(k,)`` taps → ``(B, 1 + (T − k) // stride, C)``."""
    B, T, C = x.shape
    k = taps.shape[0]
    rows = x.swapaxes(1, 2).reshape(B * C, T, 1)
    out = mx.conv1d(rows, taps.reshape(1, k, 1), stride=stride)
    return out.reshape(B, C, -1).swapaxes(1, 2)


class LeakyReLU(Module):
    """Slope 0.01 before the last convolution, where the stages have 0.1."""

    def __call__(self, x: mx.array) -> mx.array:
        return _leaky(x, 0.01)


class ResBlock1(Module):
    """HiFi-GAN's residual block: three pairs of a dilated and a plain convolution."""

    def __init__(self, channels: int, kernel_size: int, dilation: tuple[int, ...]):
        super().__init__()
        self.convs1 = [Conv1d(channels, channels, kernel_size, d) for d in dilation]
        self.convs2 = [Conv1d(channels, channels, kernel_size) for _ in dilation]

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, T, C)`` → the same shape."""
        for conv1, conv2 in zip(self.convs1, self.convs2, strict=True):
            x = x + conv2(_leaky(conv1(_leaky(x, LRELU_SLOPE)), LRELU_SLOPE))
        return x


class UpSample1d(Module):
    """``ratio`` times the rate: zeros between samples, then the file's low-pass filter."""

    def __init__(self, ratio: int, kernel_size: int = KERNEL_SIZE):
        super().__init__()
        self.ratio, self.kernel_size = ratio, kernel_size
        self.pad = kernel_size // ratio - 1
        spare = kernel_size - ratio
        self.pad_left, self.pad_right = self.pad * ratio + spare // 2, self.pad * ratio + (spare + 1) // 2
        self.filter = mx.zeros((1, 1, kernel_size))

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, T, C)`` → ``(B, ratio·T, C)``."""
        return self._upsample(x, self.filter)

    def _upsample(self, x: mx.array, taps: mx.array) -> mx.array:
        """A transposed convolution as one short filter for each phase, without a product with an inserted zero."""
        x = _replicate(x, self.pad, self.pad)
        B, T, C = x.shape
        per_phase = -(-self.kernel_size // self.ratio)
        taps = mx.pad(taps.reshape(-1), (0, per_phase * self.ratio - self.kernel_size)).reshape(per_phase, self.ratio)
        x = mx.pad(x, [(0, 0), (per_phase - 1, per_phase - 1), (0, 0)])
        phases = [self.ratio * _filtered(x, taps[::-1, phase]) for phase in range(self.ratio)]
        x = mx.stack(phases, axis=2).reshape(B, -1, C)
        length = (T - 1) * self.ratio + self.kernel_size
        return x[:, self.pad_left : length - self.pad_right]


class SincUpSample1d(UpSample1d):
    """The waveform beside the bandwidth extension: a Hann-windowed sinc, which no file holds."""

    def __init__(self, ratio: int):
        zero_crossings, rolloff = 6, 0.99
        width = math.ceil(zero_crossings / rolloff)
        super().__init__(ratio, 2 * width * ratio + 1)
        self.pad, self.pad_left, self.pad_right = width, 2 * width * ratio, self.kernel_size - ratio
        time = (np.arange(self.kernel_size) / ratio - width) * rolloff
        window = np.cos(np.clip(time / zero_crossings, -1, 1) * np.pi / 2) ** 2
        self._taps = mx.array((np.sinc(time) * window * rolloff / ratio).astype(np.float32))
        del self.filter

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, T, C)`` → ``(B, ratio·T, C)``."""
        return self._upsample(x, self._taps)


class LowPassFilter1d(Module):
    """A low-pass filter that keeps one sample in ``stride``."""

    def __init__(self, stride: int, kernel_size: int = KERNEL_SIZE):
        super().__init__()
        self.stride = stride
        self.pad_left, self.pad_right = (kernel_size - 1) // 2, kernel_size // 2
        self.filter = mx.zeros((1, 1, kernel_size))

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, T, C)`` → ``(B, ⌈T / stride⌉, C)``."""
        return _filtered(_replicate(x, self.pad_left, self.pad_right), self.filter.reshape(-1), self.stride)


class DownSample1d(Module):
    """A low-pass filter and one sample in ``ratio``."""

    def __init__(self, ratio: int):
        super().__init__()
        self.lowpass = LowPassFilter1d(ratio)

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, T, C)`` → ``(B, T / ratio, C)``."""
        return self.lowpass(x)


@fused
def snake_beta(x: mx.array, alpha: mx.array, beta: mx.array) -> mx.array:
    """x + sin²(x·e^alpha) / e^beta: both parameters are logarithms."""
    wave = mx.sin(x * mx.exp(alpha))
    return x + wave * wave / (mx.exp(beta) + 1e-9)


class SnakeBeta(Module):
    """BigVGAN's periodic activation, with two trained parameters for each channel."""

    def __init__(self, in_features: int):
        super().__init__()
        self.alpha, self.beta = mx.zeros((in_features,)), mx.zeros((in_features,))

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, T, C)`` → the same shape."""
        return snake_beta(x, self.alpha, self.beta)


class Activation1d(Module):
    """An activation at twice the rate, so that the harmonics it makes are filtered off, not folded back."""

    def __init__(self, channels: int):
        super().__init__()
        self.act = SnakeBeta(channels)
        self.upsample = UpSample1d(2)
        self.downsample = DownSample1d(2)

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, T, C)`` → the same shape."""
        return self.downsample(self.act(self.upsample(x)))


class AMPBlock1(Module):
    """BigVGAN's residual block: as HiFi-GAN's, with an anti-aliased activation before each convolution."""

    def __init__(self, channels: int, kernel_size: int, dilation: tuple[int, ...]):
        super().__init__()
        self.convs1 = [Conv1d(channels, channels, kernel_size, d) for d in dilation]
        self.convs2 = [Conv1d(channels, channels, kernel_size) for _ in dilation]
        self.acts1 = [Activation1d(channels) for _ in dilation]
        self.acts2 = [Activation1d(channels) for _ in dilation]

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, T, C)`` → the same shape."""
        for c1, c2, a1, a2 in zip(self.convs1, self.convs2, self.acts1, self.acts2, strict=True):
            x = x + c2(a2(c1(a1(x))))
        return x


class Vocoder(Module):
    """Spectrogram to waveform: stages of a transposed convolution and the mean of parallel residual blocks."""

    channels_last = True  # all inside; the call itself has the reference's layout
    reference_layout = True
    float32 = True
    repeated = ("ups", "resblocks")

    def __init__(self, config: VocoderConfig):
        super().__init__()
        self.config, self.output_sampling_rate = config, config.output_sampling_rate
        amp, width = config.resblock == "AMP1", config.upsample_initial_channel
        self.conv_pre = Conv1d(STEREO * MEL_BINS, width, 7)
        self.ups, self.resblocks = [], []
        for rate, kernel_size in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            self.ups.append(ConvTranspose1d(width, width // 2, kernel_size, rate))
            width //= 2
            for k, dilation in zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True):
                self.resblocks.append((AMPBlock1 if amp else ResBlock1)(width, k, dilation))
        self.act_post = Activation1d(width) if amp else LeakyReLU()
        self.conv_post = Conv1d(width, STEREO, 7, bias=config.use_bias_at_final)

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, 2, T, 64)`` log-mel spectrogram → ``(B, 2, T·rates)`` float32 waveform in [−1, 1]."""
        if x.ndim != 4 or (x.shape[1], x.shape[3]) != (STEREO, MEL_BINS):
            raise InputError(f"vocoder: the spectrogram is {tuple(x.shape)}, expected (batch, 2, frames, {MEL_BINS})")
        config = self.config
        x = x.astype(mx.float32).transpose(0, 2, 1, 3)
        x = self.conv_pre(x.reshape(*x.shape[:2], -1))  # left's bins, then right's
        parallel = len(config.resblock_kernel_sizes)
        for i, up in enumerate(self.ups):
            x = up(x if config.resblock == "AMP1" else _leaky(x, LRELU_SLOPE))
            blocks = self.resblocks[i * parallel : (i + 1) * parallel]
            x = sum((block(x) for block in blocks), start=mx.zeros(())) / parallel
        x = self.conv_post(self.act_post(x)).swapaxes(1, 2)
        if not config.apply_final_activation:
            return x
        return mx.tanh(x) if config.use_tanh_at_final else mx.clip(x, -1, 1)


class _STFTFn(Module):
    """Short-time Fourier transform with the file's bases (cosines, then sines, windowed), nothing of the future."""

    reference_layout = True

    def __init__(self, filter_length: int, hop_length: int):
        super().__init__()
        self.hop_length, self.left_pad = hop_length, max(filter_length - hop_length, 0)
        rows = 2 * (filter_length // 2 + 1)
        self.forward_basis = mx.zeros((rows, 1, filter_length))
        self.inverse_basis = mx.zeros((rows, 1, filter_length))  # in the file; nothing reads it

    def __call__(self, y: mx.array) -> tuple[mx.array, mx.array]:
        """``(B, N)`` → magnitude and phase, ``(B, bins, N / hop)`` each; the phase is computed when someone asks."""
        y = mx.pad(y, [(0, 0), (self.left_pad, 0)])[..., None]
        rows, _, length = self.forward_basis.shape
        spec = mx.conv1d(y, self.forward_basis.reshape(rows, length, 1), stride=self.hop_length).swapaxes(1, 2)
        real, imag = spec[:, : rows // 2], spec[:, rows // 2 :]
        return mx.sqrt(real * real + imag * imag), mx.arctan2(imag, real)


class MelSTFT(Module):
    """Log-mel spectrogram of the low-rate waveform, with the file's mel basis."""

    def __init__(self, filter_length: int, hop_length: int, n_mel_channels: int):
        super().__init__()
        self.stft_fn = _STFTFn(filter_length, hop_length)
        self.mel_basis = mx.zeros((n_mel_channels, filter_length // 2 + 1))

    def mel_spectrogram(self, y: mx.array) -> tuple[mx.array, mx.array, mx.array, mx.array]:
        """``(B, N)`` → log-mel ``(B, mels, T)``, magnitude and phase ``(B, bins, T)``, energy ``(B, T)``."""
        magnitude, phase = self.stft_fn(y)
        energy = mx.linalg.norm(magnitude, axis=1)
        log_mel = mx.log(mx.maximum(self.mel_basis @ magnitude, 1e-5))
        return log_mel, magnitude, phase, energy


class VocoderWithBWE(Module):
    """A vocoder, and a second one that adds what lies above its band: a correction to the resampled waveform."""

    channels_last = True
    float32 = True

    def __init__(self, config: VocoderWithBWEConfig):
        super().__init__()
        self.config, self.output_sampling_rate = config, config.output_sampling_rate
        self.vocoder = Vocoder(config.vocoder)
        self.bwe_generator = Vocoder(config.bwe)
        self.mel_stft = MelSTFT(config.n_fft, config.hop_length, config.num_mels)
        self.resampler = SincUpSample1d(config.ratio)

    def __call__(self, mel_spec: mx.array) -> mx.array:
        """``(B, 2, T, 64)`` log-mel spectrogram → ``(B, 2, samples)`` float32 waveform in [−1, 1]."""
        x = self.vocoder(mel_spec)
        samples = x.shape[2]
        x = mx.pad(x, [(0, 0), (0, 0), (0, -samples % self.config.hop_length)])  # whole frames
        residual = self.bwe_generator(self._compute_mel(x).swapaxes(2, 3))
        skip = self.resampler(x.swapaxes(1, 2)).swapaxes(1, 2)
        return mx.clip(residual + skip, -1, 1)[..., : samples * self.config.ratio]

    def _compute_mel(self, audio: mx.array) -> mx.array:
        """``(B, C, N)`` → log-mel ``(B, C, mels, T)``, channel by channel."""
        B, C, N = audio.shape
        mel = self.mel_stft.mel_spectrogram(audio.reshape(B * C, N))[0]
        return mel.reshape(B, C, *mel.shape[1:])


def build_vocoder(config: VocoderConfig | VocoderWithBWEConfig) -> Vocoder | VocoderWithBWE:
    """The vocoder that the file holds, of 2.0 or of 2.3."""
    return VocoderWithBWE(config) if isinstance(config, VocoderWithBWEConfig) else Vocoder(config)
