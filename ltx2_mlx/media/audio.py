"""Audio from files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import mlx.core as mx
import numpy as np

from ..errors import InputError, MediaError
from ..types import Audio
from .files import chosen, ffmpeg_errors, reading

_MAX_SAMPLES = 2**29  # of all channels together; they take 2 GB
_RATES = (1000, 1_000_000)  # samples a second; libswresample takes memory by the rate
_LOUDEST = 100.0  # times full scale: 40 dB, for whole numbers that were written as floating-point ones
_MAX_GAP = 3600  # seconds of silence between two pieces of audio


def decode_audio_from_file(
    path: str | Path, start_time: float = 0.0, max_duration: float | None = None
) -> Audio | None:
    """``(1, channels, samples)`` float32 in [−1, 1] of ``max_duration`` seconds at most from ``start_time`` on.

    None where there is no audio, or none in that window. The window counts from the first sample or picture that a
    player presents, whatever the codec's delay; where the audio begins after the picture, or pauses, there is silence.
    More than two channels are mixed down to stereo. Read to its end, an AAC track brings up to 1,023 samples of
    padding. Unlike the reference, this reads files that state no duration, and centres 8-bit audio on 0.
    """
    if not start_time >= 0 or start_time == math.inf or (max_duration is not None and not max_duration > 0):
        raise InputError(f"audio from {start_time} s for {max_duration} s, expected a start ≥ 0 and a duration > 0")
    begin = _beginning(path)
    if begin is None:
        return None
    start_time += begin
    with reading(path) as container:
        stream = chosen(container.streams.audio)
        assert stream is not None
        pieces, first_time, rate = _pieces(container, stream, path, start_time, max_duration)
    if not pieces:
        return None
    waveform = np.concatenate(pieces, axis=1)
    # The codec's frames begin before the window and end after it.
    skipped = round((start_time - first_time) * rate)
    waveform = np.pad(waveform, [(0, 0), (-skipped, 0)]) if skipped < 0 else waveform[:, skipped:]
    if max_duration is not None:
        waveform = waveform[:, : round(min(max_duration, 2**31) * rate)]
    return Audio(mx.array(waveform[None]), rate)


def tick(stream: av.AudioStream | av.VideoStream, path: str | Path) -> Fraction:
    """The unit of a stream's times, in seconds."""
    if stream.time_base is None:
        raise MediaError(f"{path}: states no time base")
    return stream.time_base


def _beginning(path: str | Path) -> float | None:
    """When a player's clock starts, in the file's own time: at the first sample or picture that it presents. None where
    there is no audio."""
    with reading(path) as container:
        stream, video = chosen(container.streams.audio), chosen(container.streams.video)
        if stream is None:
            return None
        unit = tick(stream, path)
        times = [float(pts * unit) for pts in _first(container, stream)]
        if video is not None and video.start_time is not None:
            times.append(float(video.start_time * tick(video, path)))
        return min(times, default=0.0)


def _first(container: av.container.InputContainer, stream: av.AudioStream) -> list[int]:
    """The time of the first frame that states one; it is that of the first sample behind the codec's delay."""
    return next(([frame.pts] for frame in container.decode(stream) if frame.pts is not None), [])


def _pieces(
    container: av.container.InputContainer,
    stream: av.AudioStream,
    path: str | Path,
    start_time: float,
    max_duration: float | None,
) -> tuple[list[np.ndarray], float, int]:
    """The codec's frames that touch the window, each ``(channels, samples)``; when the first begins, in seconds; and
    their rate."""
    unit = tick(stream, path)
    if max_duration is not None:
        end_time = start_time + max_duration
    elif stream.duration is not None:
        end_time = float(((stream.start_time or 0) + stream.duration) * unit)
    else:
        end_time = math.inf
    with suppress(av.error.FFmpegError, OverflowError):  # where it cannot seek, it reads from the beginning
        container.seek(int(start_time / unit), stream=stream)
    pieces: list[np.ndarray] = []
    first_time, rate, samples = start_time, stream.rate, 0
    for frame, values in read_frames(container, stream, path):
        if frame.pts is None:
            continue
        time = float(frame.pts * unit)
        if time + frame.samples / frame.sample_rate < start_time:
            continue
        if time > end_time:
            break
        if not pieces:
            first_time, rate = time, frame.sample_rate
        elif (gap := time - first_time - samples / rate) > 0.05:
            if gap > _MAX_GAP:
                raise MediaError(f"{path}: its audio pauses for {gap:.0f} s; cut it first")
            pieces.append(np.zeros((len(values), round(gap * rate)), np.float32))
            samples += pieces[-1].shape[1]
        pieces.append(values)
        samples += values.shape[1]
        if samples * len(values) > _MAX_SAMPLES:
            raise MediaError(f"{path}: more than {samples / rate / 3600:.1f} hours of audio; cut it first")
    return pieces, first_time, rate


def read_frames(
    container: av.container.InputContainer, stream: av.AudioStream, path: str | Path
) -> Iterator[tuple[av.AudioFrame, np.ndarray]]:
    """Each frame of a stream with its samples, ``(channels, samples)`` float32 in [−1, 1], in mono or stereo."""
    kind, mixer = None, None
    for frame in container.decode(stream):
        found = (frame.sample_rate, frame.layout.nb_channels)
        kind = kind or found
        if found != kind or not found[0] or not found[1]:
            raise MediaError(f"{path}: its audio changes its rate or channels within the file; convert it first")
        if not _RATES[0] <= kind[0] <= _RATES[1]:
            said = "{:,} to {:,}".format(*_RATES)
            raise MediaError(f"{path}: its audio has {kind[0]:,} samples a second, expected {said}; convert it first")
        values = as_float(frame)
        _check_samples(values, path)
        if kind[1] <= 2:
            yield frame, values
            continue
        mixer = mixer or av.AudioResampler(format="fltp", layout="stereo", rate=kind[0])
        yield frame, np.concatenate([as_float(mixed) for mixed in mixer.resample(frame)], axis=1)


def _check_samples(values: np.ndarray, path: str | Path) -> None:
    """Raises MediaError for what is no sound: NaN, or numbers far beyond full scale."""
    if not np.isfinite(values).all():
        raise MediaError(f"{path}: its audio holds NaN or infinite samples")
    if (peak := abs(values).max(initial=0)) > _LOUDEST:
        raise MediaError(f"{path}: its audio has samples up to {peak:g}, and full scale is 1: make it quieter first")


def as_float(frame: av.AudioFrame) -> np.ndarray:
    """``(channels, samples)`` float32 in [−1, 1], from any of FFmpeg's sample formats."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, frame.layout.nb_channels).T
    if values.dtype.kind in "iu":
        half = 2.0 ** (8 * values.dtype.itemsize - 1)
        values = values.astype(np.float64) / half - (values.dtype.kind == "u")
    return values.astype(np.float32)


def resampled(waveform: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """``(channels, samples)`` float32 at another rate, as players convert it (libswresample)."""
    with ffmpeg_errors("the audio", "resampled"):
        layout = "mono" if len(waveform) == 1 else "stereo"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(waveform, np.float32), format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        converter = av.AudioResampler(format="fltp", layout=layout, rate=new_rate)
        pieces = [as_float(piece) for given in (frame, None) for piece in converter.resample(given)]
    result: np.ndarray = np.concatenate(pieces, axis=1)
    return result
