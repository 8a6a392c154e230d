"""Files of pictures, video and audio that the tests build, and what is seen in them.

A picture's corners have four colours, so that a turned or mirrored one is told apart.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from ltx2_mlx import media
from ltx2_mlx.errors import LTX2Error

RED, GREEN, BLUE, GREY = (220, 30, 40), (30, 200, 60), (30, 40, 210), (190, 190, 190)


def corners(height: int = 64, width: int = 96) -> np.ndarray:
    """``(H, W, 3)``: red and green above blue and grey."""
    image = np.zeros((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    image[:top, :left], image[:top, left:], image[top:, :left], image[top:, left:] = RED, GREEN, BLUE, GREY
    return image


def colours(image: np.ndarray) -> list[tuple[int, ...]]:
    """The four colours, from left to right and from top to bottom."""
    height, width = image.shape[:2]
    seen = [image[height * y // 4, width * x // 4].astype(int) for y in (1, 3) for x in (1, 3)]
    known = np.array([RED, GREEN, BLUE, GREY])
    return [tuple(map(int, known[abs(known - colour).sum(axis=1).argmin()])) for colour in seen]


def refused(call: Callable[[], object], path: Path) -> str:
    """The error of a call: one line, ours, with the file's name."""
    with pytest.raises(LTX2Error) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and path.name in text and len(text) < 500, text
    return text


# ---- pictures -------------------------------------------------------------------------------------------------------


def saved(image: Image.Image, kind: str) -> bytes:
    """A picture as a file of this kind."""
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of_size(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG that states a size, and has next to no data."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + header
        + b"".join(chunks)
        + png_chunk(b"IDAT", zlib.compress(b"\0"))
        + png_chunk(b"IEND", b"")
    )


# ---- video and audio ------------------------------------------------------------------------------------------------


def write_clip(
    path: Path,
    frames: list[np.ndarray] | None = None,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: int = 24,
    times: list[int] | None = None,
    setup: Callable[[av.VideoStream], None] = lambda stream: None,
    picture: str = "rgb24",
    audio: int = 0,
    audio_delay: int = 0,
    video_delay: int = 0,
    more: int = 0,
) -> Path:
    """A clip of 6 frames with the corners; ``audio`` samples of a tone at 24 kHz, later by ``audio_delay``."""
    frames = [corners()] * 6 if frames is None else frames
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=rate) for _ in range(1 + more)]
        for stream in streams:
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pix_fmt
            setup(stream)
        if audio:
            sound = container.add_stream("aac", rate=24000, layout="mono")
            frame = av.AudioFrame.from_ndarray(tone(audio)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 24000, audio_delay, Fraction(1, 24000)
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
        for number, stream in enumerate(streams):
            for i, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.roll(pixels, 48 * number, axis=1), format=picture)
                frame.time_base = Fraction(1, rate)
                frame.pts = (times[i] if times else i) + video_delay
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return path


def tone(samples: int, rate: int = 24000, pitch: float = 440) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(samples) / rate)).astype(np.float32)


def seen(path: Path) -> np.ndarray:
    return np.concatenate(list(media.decode_video_from_file(path)))


def write_audio(path: Path, samples: np.ndarray, rate: int, codec: str, layout: str = "", delay: int = 0) -> Path:
    """``(channels, samples)`` float32."""
    layout = layout or {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[len(samples)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        mixed = np.ascontiguousarray(samples.T).reshape(1, -1)  # PyAV 18 fails with eight planes
        frame = av.AudioFrame.from_ndarray(mixed, format="flt", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, delay, Fraction(1, rate)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def heard(path: Path, *window: float) -> np.ndarray:
    audio = media.decode_audio_from_file(path, *window)
    assert audio is not None
    return np.array(audio.waveform)[0]
