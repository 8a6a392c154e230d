"""Videos from files, and what a file holds."""

from __future__ import annotations

import functools
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import SideData

from ..errors import InputError, MediaError
from .audio import decode_audio_from_file, read_frames, tick
from .files import MAX_PIXELS, chosen, reading
from .images import normalize, on_white, resize_and_center_crop

__all__ = [
    "MediaInfo",
    "VideoStreamMetadata",
    "decode_audio_from_file",
    "decode_video_from_file",
    "get_videostream_metadata",
    "load_video_conditioning",
    "probe",
    "read_coding",
    "read_comment",
]

# The demuxers of formats that state a length; FFmpeg guesses that of others by their size.
_STATING = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "wav", "w64", "aiff", "flac", "nut", "asf")
MAX_FRAMES = 2**14
"""The longest video whose frames are all counted and read: 11 minutes at 24 frames a second."""


@dataclass(frozen=True)
class MediaInfo:
    """The contents of a file as found, its frames and samples counted by decoding them. None: there is no such stream.

    width, height: as a player shows them. samples: of each channel. Padding that the codec leaves behind the track's
    stated end is not counted. notes: what is in it that a user may not expect, and what becomes of it.
    """

    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: Fraction | None = None
    sample_rate: int | None = None
    channels: int | None = None
    samples: int | None = None
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)


class Coding(NamedTuple):
    """How a file's streams are coded. colours: matrix, primaries, transfer and range as the file states them, in
    FFmpeg's numbers, of which 2 is "not stated" (0 for the range)."""

    video: str | None = None
    pix_fmt: str | None = None
    colours: tuple[int, ...] | None = None
    audio: str | None = None


def read_coding(path: str | Path) -> Coding:
    """The codecs of a file, from its headers alone."""
    with reading(path) as container:
        video, audio = chosen(container.streams.video), chosen(container.streams.audio)
        heard = None if audio is None else audio.codec_context.name
        if video is None:
            return Coding(audio=heard)
        context = video.codec_context
        kinds = context.colorspace, context.color_primaries, context.color_trc
        return Coding(context.name, context.pix_fmt, (*map(int, kinds), int(context.color_range)), heard)


def read_comment(path: str | Path) -> str | None:
    """The comment in a file's metadata; None where there is none."""
    with reading(path) as container:
        return container.metadata.get("comment")


class VideoStreamMetadata(NamedTuple):
    fps: float
    num_frames: int
    width: int
    height: int


def probe(path: str | Path, *, video: bool = True, audio: bool = True, frame_cap: int | None = None) -> MediaInfo:
    """Decode a file's video, ``frame_cap`` frames of it at most, and its audio, and tell what they are.

    Raises MediaError where they cannot be read to their end, or hold NaN.
    """
    info, notes = MediaInfo(), list[str]()
    with reading(path) as container:
        if video and (stream := chosen(container.streams.video)) is not None:
            info = _video_info(container, stream, path, frame_cap, notes)
    with reading(path) as container:
        if audio and (heard := chosen(container.streams.audio)) is not None:
            unit, samples, channels, rate = tick(heard, path), 0, heard.codec_context.channels, heard.rate
            peak = 0.0
            for frame, values in read_frames(container, heard, path):
                samples += values.shape[1]
                channels, rate = frame.layout.nb_channels, frame.sample_rate
                peak = max(peak, float(abs(values).max(initial=0)))
            notes += _cut_short(heard, samples / rate if rate else 0)
            if heard.duration is not None:
                samples = min(samples, round(heard.duration * unit * rate))
            if samples and not peak:
                notes.append("has audio that is silent: each sample is 0")
            if channels > 2:
                notes.append(f"has {channels} channels of audio, which are mixed down to stereo")
            if len(container.streams.audio) > 1:
                notes.append(f"has {len(container.streams.audio)} tracks of audio; one is read")
            info = replace(info, sample_rate=rate, channels=channels, samples=samples)
    return replace(info, notes=tuple(notes))


def _video_info(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    path: str | Path,
    frame_cap: int | None,
    notes: list[str],
) -> MediaInfo:
    """The size, rate and length of a video stream by decoding it."""
    count, damaged, times, first = 0, 0, list[int](), None
    for frame in _frames(container, stream, path, frame_cap):
        count += 1
        damaged += frame.is_corrupt
        if frame.pts is not None:
            times.append(frame.pts)
        first = first or frame
    if first is not None:
        notes += _notes(stream, first)
    if damaged:
        notes.append(f"has {damaged} damaged frames")
    steps = np.diff(sorted(times))
    if len(steps) > 1 and (steps.max() > 1.5 * np.median(steps) or steps.min() < 0.5 * np.median(steps)):
        notes.append("has frames at unequal times, which are taken as if they were equally far apart")
    if frame_cap is None and (rate := _rate(stream)):
        notes += _cut_short(stream, float(count / rate))
    if (late := _late(stream)) > 0.02:
        notes.append(f"has a picture that begins {late:.2f} s after its audio")
    size = stream.codec_context
    height, width = (size.height, size.width) if first is None else _displayed(stream, first)
    return MediaInfo(width=width, height=height, fps=_rate(stream), frames=count)


def _cut_short(stream: av.VideoStream | av.AudioStream, seconds: float) -> Iterator[str]:
    """A note where a stream ends before the length that its file states. seconds: what there is of it."""
    container = stream.container
    assert isinstance(container, av.container.InputContainer)
    stated = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    if not stated and len(container.streams) == 1:
        stated = (container.duration or 0) / av.time_base
    if container.format.name in _STATING and stated - seconds > max(0.5, 0.1 * stated):
        yield f"states {stated:.2f} s of {stream.type} and ends after {seconds:.2f} s: it may be cut short"


def _rate(stream: av.VideoStream) -> Fraction | None:
    """Frames per second: on average, unless that is only the unit of the times, as it is of DV."""
    average, guessed = stream.average_rate, stream.guessed_rate
    return guessed if not average or (guessed and average > 100 * guessed) else average


def _late(stream: av.VideoStream) -> float:
    """Seconds from the beginning of the audio to that of the video."""
    audio = chosen(stream.container.streams.audio)
    if audio is None or None in (audio.start_time, stream.start_time, audio.time_base, stream.time_base):
        return 0.0
    return float(stream.start_time * stream.time_base - audio.start_time * audio.time_base)  # type: ignore[operator]


def _notes(stream: av.VideoStream, frame: av.VideoFrame) -> Iterator[str]:
    """What a video stream says of its picture that a user may not expect."""
    matrix = _matrix(frame)
    if matrix is not None and matrix[:2] + matrix[3:5] != (1 << 16, 0, 0, 1 << 16):
        yield "is turned or mirrored as it states, as players do"
        if min(map(abs, matrix[:2])) > 1 << 10:
            yield "states an angle that is no quarter of a turn, which is not followed"
    if (ratio := _pixel_ratio(stream)) != 1:
        height, width = _displayed(stream, frame)
        yield f"has pixels of {ratio.numerator}:{ratio.denominator}; it is stretched to {height}x{width}, as players do"
    if stream.codec_context.color_trc in (16, 18):  # SMPTE 2084 (PQ) and ARIB STD-B67 (HLG)
        yield "is HDR, and its colours are read without tone mapping: they come out pale; convert it to SDR first"
    if frame.interlaced_frame:
        yield "is interlaced, and both fields are read as one picture; deinterlace it first"
    if _has_alpha(frame) and frame.to_ndarray(format="rgba")[..., 3].min() < 255:
        yield "is transparent in places, and shown on white"
    if stream.metadata.get("alpha_mode") == "1" and not _has_alpha(frame):  # of VP8 and VP9 it is a second picture
        yield "states that it is transparent in places, which is not read: what lies beneath is shown"
    others = [s for s in stream.container.streams.video if s is not stream]
    if len(others) and chosen(others) is not None:
        yield f"has {len(others) + 1} video streams; one is read"


def read_reference(path: str | Path, num_frames: int, fps: float) -> MediaInfo:
    """What a video of ``num_frames`` frames at ``fps`` takes of a reference video. Raises MediaError for none."""
    info = probe(path, audio=False, frame_cap=max(num_frames, 1))
    if not info.frames:
        raise MediaError(f"{path}: holds no {'video' if info.frames is None else 'frame'}")
    notes = list(info.notes)
    if info.frames > 1 and info.fps and fps > 0 and abs(float(info.fps) / fps - 1) > 0.01:
        slow = "slower" if info.fps > fps else "faster"
        notes.append(f"has {float(info.fps):g} frames a second, and is followed frame by frame at {fps:g}: {slow}")
    if info.frames < num_frames:
        notes.append(f"has {info.frames} frames, and the rest of the {num_frames} follows nothing")
    return replace(info, notes=tuple(notes))


def read_source(path: str | Path, memory: int) -> MediaInfo:
    """What a video holds that is read whole. Raises MediaError where its pixels take more than ``memory`` bytes."""
    shape = get_videostream_metadata(path)
    if (needed := 2 * 12 * shape.num_frames * shape.height * shape.width) > memory:
        raise MediaError(
            f"{path}: its frames take {needed / 1e9:.1f} GB of {memory / 1e9:.1f} GB of memory; cut it first"
        )
    return probe(path)


# ---- frames -------------------------------------------------------------------------------------------------------


def _video_stream(container: av.container.InputContainer, path: str | Path) -> av.VideoStream:
    stream = chosen(container.streams.video)
    if stream is None:
        raise MediaError(f"{path}: holds no video")
    return stream


def _frames(
    container: av.container.InputContainer, stream: av.VideoStream, path: str | Path, cap: int | None
) -> Iterator[av.VideoFrame]:
    """The frames of a stream, ``cap`` of them at most. Their size is bounded before they are decoded."""
    size = stream.codec_context
    if size.width * size.height * max(Fraction(1), _pixel_ratio(stream)) > MAX_PIXELS:
        raise MediaError(f"{path}: frames of {size.width} × {size.height} pixels, expected {MAX_PIXELS:,} at most")
    size.options = {"max_pixels": str(MAX_PIXELS)}  # for a size that changes on the way
    for index, frame in enumerate(container.decode(stream), start=1):
        yield frame
        if index == cap:
            return
        if cap is None and index == MAX_FRAMES:
            raise MediaError(f"{path}: more than {MAX_FRAMES:,} frames; cut it first")


def get_videostream_metadata(path: str | Path) -> VideoStreamMetadata:
    """Rate, length and size of the video, as a player shows it. Frames are counted by decoding them: a container's own
    number includes those that its edit list hides."""
    try:
        state = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise MediaError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return _metadata(path, state.st_ino, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=8)  # a run asks several times
def _metadata(path: str | Path, *state: int) -> VideoStreamMetadata:
    """The metadata of a file in this state."""
    with reading(path) as container:
        stream = _video_stream(container, path)
        info = _video_info(container, stream, path, None, [])
        if not info.frames or info.width is None or info.height is None:
            raise MediaError(f"{path}: holds no frame")
        if not info.fps:
            raise MediaError(f"{path}: states no frame rate")
        return VideoStreamMetadata(float(info.fps), info.frames, info.width, info.height)


def decode_video_from_file(path: str | Path, frame_cap: int | None = None) -> Iterator[np.ndarray]:
    """Frames in order, each ``(1, H, W, 3)`` uint8, ``frame_cap`` of them at most, as a player shows them: turned and
    stretched as the file says, on white where they are transparent. The reference takes them as they are stored."""
    if frame_cap is not None and frame_cap < 1:
        raise InputError(f"frame_cap {frame_cap}, expected 1 or more, or None for all frames")
    with reading(path) as container:
        stream = _video_stream(container, path)
        for frame in _frames(container, stream, path, frame_cap):
            yield _shown(stream, frame)[None]


def load_video_conditioning(video_path: str | Path, height: int, width: int, frame_cap: int | None) -> np.ndarray:
    """``(1, 3, F, height, width)`` float32 in [−1, 1], cast by the caller; F is what the file has, up to the cap."""
    frames = [
        normalize(resize_and_center_crop(frame.astype(np.float32), height, width))
        for frame in decode_video_from_file(video_path, frame_cap)
    ]
    if not frames:
        raise MediaError(f"{video_path}: holds no frame")
    return np.concatenate(frames, axis=2)


def _shown(stream: av.VideoStream, frame: av.VideoFrame) -> np.ndarray:
    """``(H, W, 3)`` uint8 as a player shows it."""
    width = _stretched(stream, frame)
    kind = "rgba" if _has_alpha(frame) else "rgb24"
    pixels = frame.to_ndarray(format=kind) if width == frame.width else frame.reformat(width, None, kind).to_ndarray()
    if kind == "rgba":
        pixels = on_white(pixels[..., :3], pixels[..., 3])
    a, b, _, c, d = (_matrix(frame) or (1, 0, 0, 0, 1))[:5]
    if abs(a) < abs(b):  # a quarter of a turn: x becomes y
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _displayed(stream: av.VideoStream, frame: av.VideoFrame) -> tuple[int, int]:
    """Height and width as a player shows them."""
    size = frame.height, _stretched(stream, frame)
    matrix = _matrix(frame)
    return size[::-1] if matrix and abs(matrix[0]) < abs(matrix[1]) else size


def _stretched(stream: av.VideoStream, frame: av.VideoFrame) -> int:
    """The width of a frame in square pixels."""
    return max(1, round(frame.width * _pixel_ratio(stream)))


def _pixel_ratio(stream: av.VideoStream) -> Fraction:
    """Width by height of a pixel; 1 where the file says nothing, or nothing that can be."""
    ratio = stream.sample_aspect_ratio
    return ratio if ratio and Fraction(1, 8) <= ratio <= 8 else Fraction(1)


_QUARTERS = {1: (0, -1), 2: (-1, 0), 3: (0, 1)}  # of a turn to the left → the first row of the matrix


def _matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """The display matrix (a b u c d v x y w): a point (x, y) is shown at (a·x + c·y, b·x + d·y)."""
    try:
        entry = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know each kind of data that FFmpeg puts beside a frame, EXIF for one
        a, b = _QUARTERS.get(round(frame.rotation / 90) % 4, (1, 0))
        return (a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30) if b or a < 0 else None
    data = bytes(entry) if isinstance(entry, SideData) else b""
    return struct.unpack("=9i", data) if len(data) == 36 else None


def _has_alpha(frame: av.VideoFrame) -> bool:
    return any(component.is_alpha for component in frame.format.components)
