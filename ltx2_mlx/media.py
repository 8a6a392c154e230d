"""Pictures, clips and sound, from files to NumPy arrays and back: PyAV (FFmpeg) and Pillow.

Reading follows ``ltx_pipelines.utils.media_io`` value by value. Writing makes the same streams, H.264 in yuv420p and
AAC, from the same encoder settings, and adds care: the file appears only when it is whole and holds what was given.
"""

from __future__ import annotations

import math
import os
import re
import wave
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av
import mlx.core as mx
import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import InputError, MediaError
from .types import Audio

DEFAULT_IMAGE_CRF = 33

Progress = Callable[[str, int, int | None], None]
"""Called as ``progress(name, done, total)`` after each unit of work; total is None where it is not known."""


# --- pictures ---------------------------------------------------------------------------------------------------------


def decode_image(image_path: str | Path) -> np.ndarray:
    """``(H, W, 3)`` uint8. Transparency is dropped and EXIF orientation is not applied, as in the reference.

    Grey and palette pictures become RGB (the reference takes them for other shapes); 16-bit ones are refused.
    """
    try:
        with Image.open(image_path) as image:
            if image.mode[0] in "IF":
                raise InputError(f"{image_path}: a picture of mode {image.mode}, expected 8 bits a channel; convert it")
            return np.array(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise MediaError(f"{image_path}: not a picture that Pillow reads") from error
    except OSError as error:
        raise MediaError(f"{image_path}: {error.strerror or error}") from error


def preprocess(image: np.ndarray, crf: float = DEFAULT_IMAGE_CRF) -> np.ndarray:
    """``(H, W, 3)`` uint8 through one H.264 frame and back, cropped to even sides. crf 0 gives it back untouched."""
    if crf == 0:
        return image
    if not 0 < crf <= 51:
        raise InputError(f"CRF {crf}, expected 0 to 51")
    height, width = (side // 2 * 2 for side in image.shape[:2])
    if not (height and width):
        raise InputError(f"a picture of {image.shape[1]} × {image.shape[0]} pixels, H.264 takes 2 × 2 and more")
    with BytesIO() as file:
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=1, options={"crf": str(crf), "preset": "veryfast"})
            stream.width, stream.height = width, height
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
            container.mux(stream.encode())
        file.seek(0)
        with av.open(file) as container:
            return next(container.decode(video=0)).to_ndarray(format="rgb24")


def resize_aspect_ratio_preserving(image: np.ndarray, long_side: int) -> np.ndarray:
    """``(H, W, C)`` or ``(F, H, W, C)``, scaled so that the longer side is ``long_side`` and the other truncated."""
    height, width = image.shape[-3:-1]
    scale = long_side / float(max(height, width))
    resized = resize_and_center_crop(image, int(height * scale), int(width * scale))
    frames = resized[0].transpose(1, 2, 3, 0)
    return frames[0] if len(frames) == 1 else frames


def resize_and_center_crop(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """``(H, W, C)`` or ``(F, H, W, C)`` → ``(1, C, F, height, width)``: scaled to fill, the overhang cropped evenly.

    Bilinear with half-pixel centres and without antialiasing, in float32 as torch computes it. uint8 comes back as
    uint8, rounded (torch has another arithmetic for it, up to one step away); anything else as float32.
    """
    if image.ndim not in (3, 4):
        raise InputError(f"expected (H, W, C) or (F, H, W, C), got {image.shape}")
    frames = image if image.ndim == 4 else image[None]
    source_height, source_width = frames.shape[1:3]
    if min(height, width, source_height, source_width) < 1:
        raise InputError(f"{source_height} × {source_width} pixels cannot be resized to {height} × {width}")
    scale = max(height / source_height, width / source_width)
    top, bottom, weight_y = _bilinear(source_height, math.ceil(source_height * scale), height)
    left, right, weight_x = _bilinear(source_width, math.ceil(source_width * scale), width)
    weight_y, weight_x = weight_y[:, None, None], weight_x[:, None]
    rows = [frames[:, y].astype(np.float32) for y in (top, bottom)]
    upper, lower = (row[:, :, left] * (1 - weight_x) + row[:, :, right] * weight_x for row in rows)
    result = upper * (1 - weight_y) + lower * weight_y
    if image.dtype == np.uint8:
        result = np.rint(result).astype(np.uint8)
    return result.transpose(3, 0, 1, 2)[None]


def _bilinear(source: int, target: int, kept: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For the middle ``kept`` of ``target`` output pixels on one axis: both source pixels, and the second's weight.

    Positions are float32. The scale is rounded to it, and the product and difference together once: a fused
    multiply-add, as compilers make it of torch's source. It matters: at pixel 4000 one rounding more moves it by 2e-4.
    """
    first = (target - kept) // 2
    scale = np.float32(source) / np.float32(target)
    centres = np.arange(first, first + kept) + 0.5
    position = np.maximum((np.float64(scale) * centres - 0.5).astype(np.float32), 0)
    before = np.minimum(position.astype(np.int64), source - 1)
    weight = np.clip(position - before.astype(np.float32), 0, 1)
    return before, np.minimum(before + 1, source - 1), weight


def normalize(pixels: np.ndarray) -> np.ndarray:
    """[0, 255] → [−1, 1]. ``normalize_latent`` of the reference."""
    return pixels / np.float32(127.5) - np.float32(1.0)


def load_image_conditioning(
    image_path: str | Path, height: int, width: int, crf: float = DEFAULT_IMAGE_CRF
) -> np.ndarray:
    """``(1, 3, 1, height, width)`` float32 in [−1, 1]. The reference casts this last value to the model's dtype, after
    all arithmetic; here the caller does."""
    image = preprocess(decode_image(image_path), crf)
    return normalize(resize_and_center_crop(image.astype(np.float32), height, width))


# --- reading clips ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MediaInfo:
    """What a file was found to hold, its frames and samples counted by decoding them. None: there is no such stream.

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
    found: dict[str, object] = {}
    with _reading(path) as container:
        if container.streams.video:
            stream = container.streams.video[0]
            found |= {"width": stream.codec_context.width, "height": stream.codec_context.height}
            found |= {"fps": stream.average_rate, "frames": sum(1 for _ in container.decode(stream))}
    with _reading(path) as container:
        if container.streams.audio:
            stream = container.streams.audio[0]
            samples = sum(frame.samples for frame in container.decode(stream))
            if stream.duration is not None:
                samples = min(samples, round(stream.duration * stream.time_base * stream.rate))
            found |= {"sample_rate": stream.rate, "channels": stream.codec_context.channels, "samples": samples}
    return MediaInfo(**found)


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

    None where there is no sound, or none in that window. Read to its end, an AAC track brings up to 1,023 samples of
    padding. Unlike the reference, this reads files that state no duration, and centres 8-bit sound on 0.
    """
    if start_time < 0 or (max_duration is not None and max_duration <= 0):
        raise InputError(f"sound from {start_time} s for {max_duration} s, expected a start ≥ 0 and a duration > 0")
    with _reading(path) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        pieces, first_time = _audio_pieces(container, stream, start_time, max_duration)
    if not pieces:
        return None
    waveform = np.concatenate(pieces, axis=1)
    # the codec's frames begin before the window and end after it
    waveform = waveform[:, max(round((start_time - first_time) * stream.rate), 0) :]
    if max_duration is not None:
        waveform = waveform[:, : round(max_duration * stream.rate)]
    return Audio(mx.array(waveform[None]), stream.rate)


def _audio_pieces(
    container: av.container.InputContainer, stream: av.AudioStream, start_time: float, max_duration: float | None
) -> tuple[list[np.ndarray], float]:
    """The codec's frames that touch the window, each ``(channels, samples)``, and when the first begins, in seconds."""
    if max_duration is not None:
        end_time = start_time + max_duration
    elif stream.duration is not None:
        end_time = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    else:
        end_time = math.inf
    container.seek(int(start_time / stream.time_base), stream=stream)
    pieces, first_time = [], start_time
    for frame in container.decode(stream):
        if frame.pts is None:
            continue
        time = float(frame.pts * stream.time_base)
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


# --- writing ----------------------------------------------------------------------------------------------------------


def encode_video(
    video: Iterable[np.ndarray],
    fps: float | Fraction,
    audio: Audio | None,
    output_path: str | Path,
    video_chunks_number: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Write an MP4 of ``video``, chunks of ``(F, H, W, 3)`` uint8 with even sides, and of ``audio``.

    The rate may be fractional (see :func:`frame_rate`; the reference truncates it). What was written is decoded and
    counted; a frame, a sample or a rate that is not as given is a MediaError. Under ``output_path`` there is either the
    whole file or what was there before, whatever interrupts this. ``video_chunks_number`` is the total that
    ``progress`` is told.
    """
    path, rate = Path(output_path), frame_rate(fps)
    if path.suffix.lower() != ".mp4":
        raise InputError(f"{path}: what is written is an MP4; give a name that ends in .mp4")
    pcm = None if audio is None else _pcm(audio)
    if pcm and pcm.rate not in (rates := av.Codec("aac", "w").audio_rates):
        raise InputError(f"sound at {pcm.rate} Hz; AAC takes {', '.join(map(str, sorted(rates)))}")
    chunks = _checked(video)
    first = next(chunks)
    height, width = first.shape[1:3]
    if height % 2 or width % 2:
        raise InputError(f"frames of {width} × {height} pixels; yuv420p takes even sides")
    with _whole_file(path) as part, _ffmpeg(path, "written"):
        reported = _reported(chain([first], chunks), video_chunks_number, progress)
        frames = _write_mp4(part, reported, height, width, rate, pcm)
        sound = (pcm.rate, 2, len(pcm.samples)) if pcm else (None, None, None)
        expected = MediaInfo(width, height, frames, rate, *sound)
        if (found := probe(part)) != expected:
            raise MediaError(f"{path}: was to hold {expected}, and holds {found}; it was not kept")


def frame_rate(fps: float | Fraction) -> Fraction:
    """Frames per second as containers state them: 23.976 and its kind are n·1000/1001, 12.5 is 25/2."""
    if not 0.001 <= fps < math.inf:
        raise InputError(f"{fps} frames per second, expected 0.001 or more")
    ntsc = Fraction(round(fps * 1001 / 1000) * 1000, 1001)
    return ntsc if abs(ntsc / Fraction(fps) - 1) < 2e-6 else Fraction(fps).limit_denominator(1001)


def save_png_frames(folder: str | Path, video: Iterable[np.ndarray]) -> int:
    """Write each frame of ``video`` as ``frame_00000.png`` and so on, and return how many.

    Frames of that name which a longer clip left in the folder are removed.
    """
    folder, count = Path(folder), 0
    folder.mkdir(parents=True, exist_ok=True)
    for frame in chain.from_iterable(_checked(video)):
        Image.fromarray(frame).save(folder / f"frame_{count:05d}.png")
        count += 1
    for old in folder.glob("frame_*.png"):
        if (number := re.fullmatch(r"frame_(\d{5,})\.png", old.name)) and int(number[1]) >= count:
            old.unlink()
    return count


def save_wav(path: str | Path, audio: Audio) -> None:
    """Write 16-bit stereo PCM."""
    pcm = _pcm(audio)
    with _whole_file(Path(path)) as part, wave.open(str(part), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(pcm.rate)
        file.writeframes(pcm.samples.astype("<i2").tobytes())


class _Pcm(NamedTuple):
    samples: np.ndarray  # (N, 2) int16
    rate: int


def _pcm(audio: Audio) -> _Pcm:
    """Clipped to [−1, 1], ×32767, truncated, as the reference does. One channel goes to both sides."""
    waveform = np.array(mx.array(audio.waveform).astype(mx.float32))
    if waveform.ndim == 3 and len(waveform) == 1:
        waveform = waveform[0]
    if waveform.ndim != 2 or waveform.shape[0] not in (1, 2) or not waveform.size:
        raise InputError(f"sound of shape {waveform.shape}, expected (channels, samples) with one or two channels")
    if not np.isfinite(waveform).all():
        raise InputError("the sound holds NaN or infinite values")
    values = (np.clip(waveform, -1, 1) * np.float32(32767)).astype(np.int16)
    return _Pcm(np.ascontiguousarray(np.broadcast_to(values, (2, values.shape[1])).T), audio.sampling_rate)


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


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A name beside ``path`` to write to. It becomes ``path`` at the end, or goes if there is an exception."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(f"{path}: its folder cannot be made: {error.strerror}") from error
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write_mp4(
    path: Path, chunks: Iterator[np.ndarray], height: int, width: int, rate: Fraction, pcm: _Pcm | None
) -> int:
    """Encode and multiplex; returns the number of frames."""
    # The movie's clock is in milliseconds by default, and the sound's length would be rounded to it.
    options = {"movie_timescale": str(pcm.rate)} if pcm else {}
    frames = 0
    with av.open(str(path), "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        if pcm:
            _write_audio(container, pcm)
        for pixels in chain.from_iterable(chunks):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts, frame.time_base = frames, 1 / rate
            container.mux(stream.encode(frame))
            frames += 1
        container.mux(stream.encode())
    return frames


def _write_audio(container: av.container.OutputContainer, pcm: _Pcm) -> None:
    """All of the sound, before the pictures: the container sorts packets by time, and these are the smaller ones."""
    stream = container.add_stream("aac", rate=pcm.rate, layout="stereo")
    frame = av.AudioFrame.from_ndarray(pcm.samples.reshape(1, -1), format="s16", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = pcm.rate, 0, Fraction(1, pcm.rate)
    container.mux(stream.encode(frame))
    container.mux(stream.encode())
