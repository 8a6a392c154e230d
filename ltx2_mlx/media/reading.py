"""Videos and audio from files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import mlx.core as mx
import numpy as np

from ..errors import InputError, MediaError
from ..types import Audio
from .images import normalize, resize_and_center_crop


@dataclass(frozen=True)
class MediaInfo:
    """The contents of a file as found, its frames and samples counted by decoding them. None: there is no such stream.

    samples: of each channel. Padding that the codec leaves behind the track's stated end is not counted.
    """

    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: Fraction | None = None
    sample_rate: int | None = None
    channels: int | None = None
    samples: int | None = None


class VideoStreamMetadata(NamedTuple):
    fps: float
    num_frames: int
    width: int
    height: int


@contextmanager
def _ffmpeg(path: str | Path, task: str) -> Iterator[None]:
    try:
        yield
    except av.error.FFmpegError as error:
        raise MediaError(f"{path}: cannot be {task}: {error.strerror}") from error


@contextmanager
def _reading(path: str | Path) -> Iterator[av.container.InputContainer]:
    with _ffmpeg(path, "read"), av.open(str(path)) as container:
        yield container


def _video_stream(container: av.container.InputContainer, path: str | Path) -> av.VideoStream:
    if not container.streams.video:
        raise MediaError(f"{path}: holds no video")
    return container.streams.video[0]


def probe(path: str | Path) -> MediaInfo:
    """Decode the whole of a file's first video and first audio stream, and tell what they are."""
    info = MediaInfo()
    with _reading(path) as container:
        if container.streams.video:
            video = container.streams.video[0]
            size, frames = video.codec_context, sum(1 for _ in container.decode(video))
            info = replace(info, width=size.width, height=size.height, fps=video.average_rate, frames=frames)
    with _reading(path) as container:
        if container.streams.audio:
            audio = container.streams.audio[0]
            samples = sum(frame.samples for frame in container.decode(audio))
            if audio.duration is not None:
                samples = min(samples, round(audio.duration * _tick(audio, path) * audio.rate))
            channels = audio.codec_context.channels
            info = replace(info, sample_rate=audio.rate, channels=channels, samples=samples)
    return info


def _tick(stream: av.AudioStream, path: str | Path) -> Fraction:
    """The unit of a stream's times, in seconds."""
    if stream.time_base is None:
        raise MediaError(f"{path}: states no time base of its audio")
    return stream.time_base


def get_videostream_metadata(path: str | Path) -> VideoStreamMetadata:
    """Rate, length and size of the first video stream; frames are counted where the container does not tell."""
    with _reading(path) as container:
        stream = _video_stream(container, path)
        if not stream.average_rate:
            raise MediaError(f"{path}: states no frame rate")
        frames = stream.frames or sum(1 for _ in container.decode(stream))
        size = stream.codec_context
        return VideoStreamMetadata(float(stream.average_rate), frames, size.width, size.height)


def decode_video_from_file(path: str | Path, frame_cap: int | None = None) -> Iterator[np.ndarray]:
    """Frames in order, each ``(1, H, W, 3)`` uint8, ``frame_cap`` of them at most."""
    if frame_cap is not None and frame_cap < 1:
        raise InputError(f"frame_cap {frame_cap}, expected 1 or more, or None for all frames")
    with _reading(path) as container:
        for index, frame in enumerate(container.decode(_video_stream(container, path)), start=1):
            yield frame.to_ndarray(format="rgb24")[None]
            if index == frame_cap:
                return


def load_video_conditioning(video_path: str | Path, height: int, width: int, frame_cap: int | None) -> np.ndarray:
    """``(1, 3, F, height, width)`` float32 in [−1, 1], cast by the caller; F is what the file has, up to the cap."""
    frames = [
        normalize(resize_and_center_crop(frame.astype(np.float32), height, width))
        for frame in decode_video_from_file(video_path, frame_cap)
    ]
    if not frames:
        raise MediaError(f"{video_path}: holds no frame")
    return np.concatenate(frames, axis=2)


def decode_audio_from_file(
    path: str | Path, start_time: float = 0.0, max_duration: float | None = None
) -> Audio | None:
    """``(1, channels, samples)`` float32 in [−1, 1] of ``max_duration`` seconds at most from ``start_time`` on.

    None where there is no audio, or none in that window. Read to its end, an AAC track brings up to 1,023 samples of
    padding. Unlike the reference, this reads files that state no duration, and centres 8-bit audio on 0.
    """
    if start_time < 0 or (max_duration is not None and max_duration <= 0):
        raise InputError(f"audio from {start_time} s for {max_duration} s, expected a start ≥ 0 and a duration > 0")
    with _reading(path) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        pieces, first_time = _audio_pieces(container, stream, _tick(stream, path), start_time, max_duration)
    if not pieces:
        return None
    waveform = np.concatenate(pieces, axis=1)
    # the codec's frames begin before the window and end after it
    waveform = waveform[:, max(round((start_time - first_time) * stream.rate), 0) :]
    if max_duration is not None:
        waveform = waveform[:, : round(max_duration * stream.rate)]
    return Audio(mx.array(waveform[None]), stream.rate)


def _audio_pieces(
    container: av.container.InputContainer,
    stream: av.AudioStream,
    tick: Fraction,
    start_time: float,
    max_duration: float | None,
) -> tuple[list[np.ndarray], float]:
    """The codec's frames that touch the window, each ``(channels, samples)``, and when the first begins, in seconds."""
    if max_duration is not None:
        end_time = start_time + max_duration
    elif stream.duration is not None:
        end_time = float(((stream.start_time or 0) + stream.duration) * tick)
    else:
        end_time = math.inf
    container.seek(int(start_time / tick), stream=stream)
    pieces: list[np.ndarray] = []
    first_time = start_time
    for frame in container.decode(stream):
        if frame.pts is None:
            continue
        time = float(frame.pts * tick)
        if time + frame.samples / frame.sample_rate < start_time:
            continue
        if time > end_time:
            break
        if not pieces:
            first_time = time
        pieces.append(_as_float(frame))
    return pieces, first_time


def _as_float(frame: av.AudioFrame) -> np.ndarray:
    """``(channels, samples)`` float32 in [−1, 1], from any of FFmpeg's sample formats."""
    values = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, len(frame.layout.channels)).T
    if values.dtype.kind in "iu":
        half = 2.0 ** (8 * values.dtype.itemsize - 1)
        values = values.astype(np.float64) / half - (values.dtype.kind == "u")
    return values.astype(np.float32)
