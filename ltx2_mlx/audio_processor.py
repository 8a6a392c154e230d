"""Waveforms to log-mel spectrograms, on the host: the reference does this with torchaudio, whose float32 filter bank
is reproduced to the last bit or nearly so, while sums and transforms run in float64 and are rounded once.

Sources: ``ltx_core.model.audio_vae.ops.AudioProcessor``; ``torchaudio.functional`` (``resample``, ``melscale_fbanks``).
"""

from __future__ import annotations

import functools
import math

import mlx.core as mx
import numpy as np

from .errors import InputError
from .types import Audio

LOWPASS_FILTER_WIDTH, ROLLOFF = 6, 0.99  # zero crossings on each side; cutoff as a share of the lower Nyquist rate
SMALLEST = 1e-5  # of a mel bin, before the logarithm


@functools.lru_cache(maxsize=8)
def _resampling_kernel(orig: int, new: int) -> tuple[np.ndarray, int]:
    """Hann-windowed sinc, ``(new, 2·width + 1)`` float64: one row for each phase that an output sample can have
    between two input samples. ``orig`` and ``new`` have no common divisor."""
    cutoff = min(orig, new) * ROLLOFF
    width = math.ceil(LOWPASS_FILTER_WIDTH * orig / cutoff)
    phase = (np.arange(new) * orig % new) / new
    t = (np.arange(-width, width + 1) - phase[:, None]) * (cutoff / orig)
    window = np.cos(np.clip(t / LOWPASS_FILTER_WIDTH, -1, 1) * np.pi / 2) ** 2
    return np.sinc(t) * window * (cutoff / orig), width


def resample(waveform: np.ndarray, orig_freq: int, new_freq: int) -> np.ndarray:
    """``(..., N)`` at ``orig_freq`` Hz → ``(..., ⌈N·new/orig⌉)`` float64 at ``new_freq`` Hz, silence around it."""
    divisor = math.gcd(orig_freq, new_freq)
    orig, new = orig_freq // divisor, new_freq // divisor
    kernel, width = _resampling_kernel(orig, new)
    length = waveform.shape[-1]
    sides = [(0, 0)] * (waveform.ndim - 1)
    padded = np.pad(waveform.astype(np.float64), [*sides, (width, width + 1)])
    m = np.arange(-(-new * length // orig))
    base, phase = m * orig // new, m % new
    result = np.zeros((*waveform.shape[:-1], m.size))
    for tap in range(kernel.shape[1]):
        result += padded[..., base + tap] * kernel[phase, tap]
    return result


def _linspace(start: float, end: float, n: int) -> np.ndarray:
    """``torch.linspace`` in float32, which fills from both ends towards the middle."""
    step = (np.float32(end) - np.float32(start)) / np.float32(n - 1)
    i = np.arange(n)
    up = np.float32(start) + step * i.astype(np.float32)
    return np.where(i < n // 2, up, np.float32(end) - step * (n - 1 - i).astype(np.float32))


def _hz_to_mel(hz: float) -> float:
    """Slaney's scale: linear up to 1 kHz, logarithmic above."""
    return hz * 3 / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)


@functools.lru_cache(maxsize=4)
def melscale_fbanks(n_freqs: int, f_max: float, n_mels: int, sample_rate: int) -> np.ndarray:
    """``(n_freqs, n_mels)`` float32 triangles from 0 Hz to ``f_max``, each of the same area (Slaney's norm).

    In float32 throughout: the slopes are small differences of large frequencies, and the reference's rounding of them
    is part of what the model was trained on.
    """
    f32 = np.float32
    all_freqs = _linspace(0, sample_rate // 2, n_freqs)
    mels = _linspace(0.0, _hz_to_mel(f_max), n_mels + 2)
    above = np.exp((f32(math.log(6.4) / 27) * (mels - f32(15))).astype(np.float64)).astype(f32)
    points = np.where(mels >= f32(15), f32(1000) * above, f32(200 / 3) * mels)
    width = points[1:] - points[:-1]
    slopes = points[None] - all_freqs[:, None]
    triangles = np.maximum(f32(0), np.minimum(-slopes[:, :-2] / width[:-1], slopes[:, 2:] / width[1:]))
    filters: np.ndarray = triangles * (f32(2) / (points[2:] - points[:-2]))
    return filters


class AudioProcessor:
    """Log-mel spectrograms as the audio encoder was trained on. Channels stay apart. Host arithmetic, no weights."""

    def __init__(self, target_sample_rate: int, mel_bins: int, mel_hop_length: int, n_fft: int):
        self.target_sample_rate, self.mel_hop_length, self.n_fft = target_sample_rate, mel_hop_length, n_fft
        self.filters = melscale_fbanks(n_fft // 2 + 1, target_sample_rate / 2, mel_bins, target_sample_rate)
        # periodic Hann: of n_fft + 1 points, without the last
        self.window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)).astype(np.float32)

    def resample_audio(self, audio: Audio) -> Audio:
        """The waveform ``(B, C, N)`` at the target rate, float32."""
        if audio.sampling_rate == self.target_sample_rate:
            return audio
        if not isinstance(audio.sampling_rate, int) or audio.sampling_rate <= 0:
            raise InputError(f"audio: the sampling rate is {audio.sampling_rate!r}, expected a whole number of Hz")
        samples = resample(_float32(audio.waveform), audio.sampling_rate, self.target_sample_rate)
        return Audio(mx.array(samples.astype(np.float32)), self.target_sample_rate)

    def waveform_to_mel(self, audio: Audio) -> mx.array:
        """``(B, C, N)`` at any rate → ``(B, C, 1 + N' // hop, mel bins)`` float32, N' samples at the target rate.

        A frame is centred on each ``hop``-th sample and mirrored at the ends; where there are fewer samples than that
        takes, silence follows them.
        """
        samples = _float32(self.resample_audio(audio).waveform).astype(np.float64)
        half = self.n_fft // 2
        sides = [(0, 0)] * (samples.ndim - 1)
        samples = np.pad(samples, [*sides, (0, max(half + 1 - samples.shape[-1], 0))])
        samples = np.pad(samples, [*sides, (half, half)], mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(samples, self.n_fft, axis=-1)[..., :: self.mel_hop_length, :]
        magnitude = np.abs(np.fft.rfft(frames * self.window))
        mel = np.log(np.maximum(magnitude @ self.filters.astype(np.float64), SMALLEST))
        return mx.array(mel.astype(np.float32))


def _float32(waveform: mx.array) -> np.ndarray:
    return np.array(waveform.astype(mx.float32))
