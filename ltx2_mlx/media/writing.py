"""Videos, frames and audio to files, whole or not at all."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av
import mlx.core as mx
import numpy as np
from PIL import Image

from ..errors import InputError, MediaError
from ..types import Audio
from .audio import resampled
from .encoding import Converter, Encoding, VideoPacket, add_video, check_encoding, timed
from .files import ffmpeg_errors
from .outputs import AUDIO, MOVIES, SETTINGS, whole_file, whole_folder
from .reading import MediaInfo, probe

Progress = Callable[[str, int, int | None], None]
"""Called as ``progress(name, done, total)`` after each unit of work; total is None where it is not known."""


def encode_video(
    video: Iterable[np.ndarray],
    fps: float | Fraction,
    audio: Audio | None,
    output_path: str | Path,
    video_chunks_number: int | None = None,
    progress: Progress | None = None,
    encoding: Encoding = Encoding(),  # noqa: B008  it is frozen
    comment: str | None = None,
) -> None:
    """Write an MP4 or MOV of ``video``, chunks of ``(F, H, W, 3)`` uint8 with even sides, and of ``audio``. Its colours
    are those of BT.709, and marked so; ``comment`` is a text that players and ``read_comment`` show.

    The rate may be fractional (see :func:`frame_rate`; the reference truncates it). Audio at a rate that AAC does not
    take is resampled to the next one that it does. What was written is decoded and counted; a frame, a sample or a rate
    that is not as given is a MediaError. Under ``output_path`` there is either the whole file or what was there before,
    whatever interrupts this. ``video_chunks_number`` is the total that ``progress`` is told.
    """
    path, rate = Path(output_path), frame_rate(fps)
    if path.suffix.lower() not in MOVIES:
        raise InputError(f"{path}: what is written is an MP4 or MOV; give a name that ends in .mp4 or .mov")
    pcm = None if audio is None else _pcm(audio, for_aac=True)
    chunks = _checked(video)
    first = next(chunks)
    height, width = first.shape[1:3]
    check_encoding(height, width, encoding, path.suffix.lower())
    with whole_file(path) as part, ffmpeg_errors(path, "written"):
        reported = _reported(chain([first], chunks), video_chunks_number, progress)
        frames = _write_movie(part, reported, height, width, rate, pcm, encoding, comment)
        of_audio = (pcm.rate, 2, len(pcm.samples)) if pcm else (None, None, None)
        expected = MediaInfo(width, height, frames, rate, *of_audio)
        if (found := probe(part)) != expected:
            raise MediaError(f"{path}: was to hold {expected}, and holds {found}; it was not kept")


def frame_rate(fps: float | Fraction) -> Fraction:
    """Frames per second as containers state them: 23.976 and its kind are n·1000/1001, 12.5 is 25/2."""
    if not 0.001 <= fps <= 1000:
        raise InputError(f"{fps} frames per second, expected 0.001 to 1000: films have 24")
    ntsc = Fraction(round(fps * 1001 / 1000) * 1000, 1001)
    return ntsc if abs(ntsc / Fraction(fps) - 1) < 2e-6 else Fraction(fps).limit_denominator(1001)


def save_png_frames(
    folder: str | Path, video: Iterable[np.ndarray], audio: Audio | None = None, settings: str | None = None
) -> int:
    """Write each frame of ``video`` as ``frame_00000.png`` and so on, ``audio`` as ``audio.wav``, ``settings`` as
    ``settings.json``, and return how many frames there are.

    The folder appears when it is whole. One that an earlier call made is replaced; one that holds anything else is
    refused.
    """
    pcm, count = None if audio is None else _pcm(audio), 0
    with whole_folder(Path(folder)) as part:
        for frame in chain.from_iterable(_checked(video)):
            Image.fromarray(frame).save(part / f"frame_{count:05d}.png")
            count += 1
        if pcm:
            _write_wav(part / AUDIO, pcm)
        if settings is not None:
            (part / SETTINGS).write_text(settings)
    return count


def save_wav(path: str | Path, audio: Audio, comment: str | None = None) -> None:
    """Write 16-bit stereo PCM. ``comment`` is a text that players and ``read_comment`` show."""
    pcm = _pcm(audio)
    with whole_file(Path(path)) as part:
        _write_wav(part, pcm)
        if comment is not None:
            _add_comment(part, comment)


def _add_comment(path: Path, comment: str) -> None:
    """Add RIFF's chunk of information to a WAV file, behind the samples, where no reader stumbles over it."""
    text = comment.encode() + b"\0"
    entry = b"INFOICMT" + struct.pack("<I", len(text)) + text + b"\0" * (len(text) % 2)
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b"LIST" + struct.pack("<I", len(entry)) + entry)
        size = file.tell() - 8
        file.seek(4)
        file.write(struct.pack("<I", size))


def _write_wav(path: Path, pcm: _Pcm) -> None:
    """Not by ``wave``: closing a file of its that a signal has stopped at its beginning is an error of its own."""
    data = pcm.samples.astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 2, pcm.rate, 4 * pcm.rate, 4, 16)
    head = struct.pack("<4sI4s", b"RIFF", 36 + len(data), b"WAVE") + form + struct.pack("<4sI", b"data", len(data))
    path.write_bytes(head + data)


class _Pcm(NamedTuple):
    samples: np.ndarray  # (N, 2) int16
    rate: int


def aac_rate(rate: int) -> int:
    """The rate at which audio of ``rate`` Hz is written as AAC: the next one that AAC takes."""
    rates = av.Codec("aac", "w").audio_rates or ()
    return rate if rate in rates else min((r for r in rates if r > rate), default=max(rates, default=rate))


def _pcm(audio: Audio, for_aac: bool = False) -> _Pcm:
    """Clipped to [−1, 1], ×32767, truncated, as the reference does; int16 stays. One channel goes to both sides."""
    rate = audio.sampling_rate
    if not isinstance(rate, int) or not 0 < rate <= 2**31 - 1:
        raise InputError(f"audio at {rate!r} Hz, expected a whole number of samples a second, more than 0")
    given = mx.array(audio.waveform)
    kept = given.dtype in (mx.int16, mx.float64)  # no GPU casts float64
    waveform = np.array(given if kept else given.astype(mx.float32))
    waveform = waveform if waveform.dtype == np.int16 else waveform.astype(np.float32)
    if waveform.ndim == 3 and len(waveform) == 1:
        waveform = waveform[0]
    if waveform.ndim != 2 or waveform.shape[0] not in (1, 2) or not waveform.size:
        raise InputError(f"audio of shape {waveform.shape}, expected (channels, samples) with one or two channels")
    if not np.isfinite(waveform).all():
        raise InputError("the audio holds NaN or infinite values")
    if for_aac and (new := aac_rate(rate)) != rate:
        waveform = waveform / np.float32(32767) if waveform.dtype == np.int16 else waveform
        waveform, rate = resampled(waveform, rate, new), new
    values = waveform
    if waveform.dtype != np.int16:
        values = (np.clip(waveform, -1, 1) * np.float32(32767)).astype(np.int16)
    return _Pcm(np.ascontiguousarray(np.broadcast_to(values, (2, values.shape[1])).T), rate)


def _checked(video: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Chunks as NumPy arrays, each a ``(F, H, W, 3)`` uint8 of the first one's size, and at least one frame."""
    shape = None
    for chunk in map(np.asarray, video):
        shape = shape or chunk.shape
        if chunk.ndim != 4 or chunk.shape[3] != 3 or chunk.dtype != np.uint8 or not chunk.size:
            raise InputError(f"a chunk of {chunk.dtype} {chunk.shape}, expected uint8 (F, H, W, 3)")
        if chunk.shape[1:] != shape[1:]:
            raise InputError(f"a chunk of {chunk.shape} after one of {shape}: all must have one height and width")
        yield chunk
    if shape is None:
        raise InputError("the video has no frames")


def _reported(chunks: Iterator[np.ndarray], total: int | None, progress: Progress | None) -> Iterator[np.ndarray]:
    """``chunks``, and a report when each has been used."""
    for done, chunk in enumerate(chunks, start=1):
        yield chunk
        if progress is not None:
            progress("encoding video", done, total)


def _write_movie(
    path: Path,
    chunks: Iterator[np.ndarray],
    height: int,
    width: int,
    rate: Fraction,
    pcm: _Pcm | None,
    encoding: Encoding,
    comment: str | None,
) -> int:
    """Encode and multiplex; returns the number of frames."""
    kind = path.suffix.removeprefix(".")
    # faststart: the index comes first, so that a browser plays while it loads. QuickTime's own tags have 64 KB at most.
    options = {"movflags": "+faststart" + ("+use_metadata_tags" if kind == "mov" else "")}
    if pcm:  # the movie's clock is in milliseconds by default, and the audio's length would be rounded to it
        options["movie_timescale"] = str(pcm.rate)
    frames, converted = 0, Converter(encoding)
    with av.open(str(path), "w", format=kind, options=options) as container:
        if comment is not None:
            container.metadata["comment"] = comment
        stream = add_video(container, encoding, height, width, rate)
        if pcm:
            _write_audio(container, pcm)

        def packets() -> Iterator[VideoPacket]:
            nonlocal frames
            for pixels in chain.from_iterable(chunks):
                frame = converted(pixels)
                frame.pts, frame.time_base = frames, 1 / rate
                yield from stream.encode(frame)
                frames += 1
            yield from stream.encode()

        for packet in timed(packets(), encoding, rate):
            container.mux(packet)
    return frames


def _write_audio(container: av.container.OutputContainer, pcm: _Pcm) -> None:
    """All of the audio, before the pictures: the container sorts packets by time, and these are the smaller ones."""
    stream = container.add_stream("aac", rate=pcm.rate, layout="stereo")
    frame = av.AudioFrame.from_ndarray(pcm.samples.reshape(1, -1), format="s16", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = pcm.rate, 0, Fraction(1, pcm.rate)
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
