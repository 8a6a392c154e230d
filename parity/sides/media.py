"""Media files as the stage ``files`` takes them: made for both sides alike, and measured once they are written.

Nothing here is the product's or the reference's.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from ..declare.inputs import FIXTURES
from ..declare.stages.files import BLOCK, LEVELS, PIECES

MEDIA = FIXTURES / "media"


@contextlib.contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A path in a folder that goes away."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / name


@contextlib.contextmanager
def image_file(pixels: np.ndarray, suffix: str) -> Iterator[Path]:
    """A picture of three or four channels in a file."""
    with scratch(f"picture.{suffix}") as path:
        Image.fromarray(pixels).save(path)
        yield path


@contextlib.contextmanager
def uncounted_file(pixels: np.ndarray, rate: str) -> Iterator[Path]:
    """A video without losses, in a container that states no number of frames."""
    with scratch("uncounted.mkv") as path:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=Fraction(rate))
            stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], "yuv420p"
            for frame in pixels:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        yield path


def measured(path: Path) -> dict[str, Any]:
    """What is in a video file, by decoding it."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        found: dict[str, Any] = {
            "streams": len(container.streams),
            "video.codec": stream.codec_context.name,
            "video.format": stream.codec_context.pix_fmt,
            "video.frames": len(frames),
            "video.size": f"{frames[0].width}x{frames[0].height}",
            "video.rate": str(stream.average_rate),
            "video.range": int(frames[0].color_range),
            "video.matrix": int(frames[0].colorspace),
            "video.primaries": int(stream.codec_context.color_primaries),
            "video.transfer": int(stream.codec_context.color_trc),
            "video.start": _seconds(stream.start_time, stream.time_base),
            "video.length": round(_seconds(stream.duration, stream.time_base), 3),  # as a movie's own clock counts
            "video.times": np.array([_seconds(frame.pts, frame.time_base) for frame in frames]),
            "video.blocks": np.stack([_levels(frame.to_ndarray(format="rgb24")) for frame in frames]),
        }
    with av.open(str(path)) as container:
        if container.streams.audio:
            found |= _measured_audio(container)
    return found


def exact_colours(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Y, Cb and Cr of flat blocks of ``(F, H, W, 3)`` bytes, in float64: BT.709 (Kr 0.2126, Kb 0.0722) in the limited
    range of 8 bits, 16 to 235 and 16 to 240."""
    red, green, blue = np.moveaxis(_middles(pixels).astype(np.float64) / 255, -1, 0)
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    cb, cr = (blue - luma) / (2 * (1 - 0.0722)), (red - luma) / (2 * (1 - 0.2126))
    return {"Y": 16 + 219 * luma, "Cb": 128 + 224 * cb, "Cr": 128 + 224 * cr}


def stored_colours(path: Path) -> dict[str, np.ndarray]:
    """Y, Cb and Cr of flat blocks as a file stores them, in steps of 8 bits."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    found: dict[str, np.ndarray] = {}
    for plane, name in enumerate(("Y", "Cb", "Cr")):
        values = np.stack([_plane(frame, plane) for frame in frames])
        rows, columns = (side // size for side, size in zip(values.shape[1:], _counts(frames[0]), strict=True))
        found[name] = values[:, rows // 2 :: rows, columns // 2 :: columns]
    return found


def snapped(stored: dict[str, np.ndarray], exact: dict[str, np.ndarray], most: float) -> dict[str, np.ndarray]:
    """``exact`` wherever ``stored`` is at most ``most`` steps away from it, so that what differs shows its numbers."""
    return {name: np.where(abs(stored[name] - exact[name]) <= most, exact[name], stored[name]) for name in exact}


def _counts(frame: av.VideoFrame) -> tuple[int, int]:
    """Rows and columns of blocks."""
    return frame.height // BLOCK, frame.width // BLOCK


def _plane(frame: av.VideoFrame, index: int) -> np.ndarray:
    """One plane of a frame, in steps of 8 bits."""
    plane, bits = frame.planes[index], frame.format.components[index].bits
    whole: np.ndarray = np.frombuffer(bytes(plane), np.dtype("<u2" if bits > 8 else "u1")).reshape(plane.height, -1)
    return np.asarray(whole[:, : plane.width] / 2.0 ** (bits - 8), np.float64)


def _middles(pixels: np.ndarray) -> np.ndarray:
    """The middle pixel of each block."""
    return pixels[:, BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK]


def _measured_audio(container: av.container.InputContainer) -> dict[str, Any]:
    stream = container.streams.audio[0]
    rate, layout = int(stream.rate), stream.codec_context.layout
    samples = np.concatenate([frame.to_ndarray() for frame in container.decode(stream)], axis=1)
    length = _seconds(stream.duration, stream.time_base)
    found = {
        "audio.codec": stream.codec_context.name,
        "audio.rate": rate,
        "audio.layout": layout.name,
        "audio.channels": layout.nb_channels,
        "audio.start": _seconds(stream.start_time, stream.time_base),
        "audio.length": length,
        "audio.samples": samples.shape[1],
    }
    return found | _tones(samples[:, : round(length * rate)], rate)


def _seconds(ticks: int | None, unit: Fraction | None) -> float:
    return float((ticks or 0) * (unit or Fraction(0)))


def _levels(pixels: np.ndarray) -> np.ndarray:
    """The level of each whole block's mean, without its edges: ``(rows, columns, 3)``."""
    height, width = (side // BLOCK for side in pixels.shape[:2])
    whole = pixels[: height * BLOCK, : width * BLOCK].reshape(height, BLOCK, width, BLOCK, 3)
    means = whole[:, 3:-3, :, 3:-3].mean(axis=(1, 3))
    return np.asarray(means * (LEVELS / 256), np.uint8)


def _tones(samples: np.ndarray, rate: int) -> dict[str, np.ndarray]:
    """The strongest frequency in Hz, to 20 Hz, and its level in steps of 3 dB, by channel and piece."""
    thirds = np.array_split(samples.astype(np.float64), PIECES, axis=1)
    middles = [third[:, third.shape[1] // 6 : -(third.shape[1] // 6)] for third in thirds]
    spectra = [abs(np.fft.rfft(x * np.hanning(x.shape[1]), axis=1)) / (x.shape[1] / 4) for x in middles]
    peaks = np.stack([s.argmax(axis=1) * (rate / x.shape[1]) for s, x in zip(spectra, middles, strict=True)], axis=1)
    levels = 20 * np.log10(np.stack([s.max(axis=1) for s in spectra], axis=1) + 1e-6)
    return {"audio.tones": np.rint(peaks / 20) * 20, "audio.levels": np.rint(levels / 3) * 3}
