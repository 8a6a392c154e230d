"""Media files that say more of themselves than pixels and samples, such as how they are to be turned.

The stage ``files`` has both sides read them, and compares what each then has in words: the colours of a picture's
corners, when audio begins. Nothing here is the product's or the reference's.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageCms

from .media import scratch

_COLOURS = {
    "red": (220, 30, 40),
    "green": (30, 200, 60),
    "blue": (30, 40, 210),
    "grey": (190, 190, 190),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
}
_CORNERS = ("red", "green", "blue", "grey")  # in the order of reading
_RATE = 24000
_FRAMES = 8
_ONE = 1 << 16  # in the fixed point of QuickTime


@contextlib.contextmanager
def odd_file(kind: str) -> Iterator[Path]:
    """A file of one of the kinds below."""
    suffix, write = _KINDS[kind]
    with scratch(f"odd.{suffix}") as path:
        write(path)
        yield path


def attempted(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``read`` finds, or the kind of error in its place."""
    try:
        return read()
    except Exception as error:  # of either side; which it is, the table of differences says
        return {"error": type(error).__name__}


# ---- words --------------------------------------------------------------------------------------------------------


def seen(pixels: np.ndarray) -> str:
    """Width, height and the nearest colours of the corners; or the shape of what is not a picture."""
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        return f"no picture: {' x '.join(map(str, pixels.shape))} numbers"
    height, width = pixels.shape[:2]
    names, known = [*_COLOURS], np.array([*_COLOURS.values()])
    found = [pixels[height * y // 4, width * x // 4].astype(int) for y in (1, 3) for x in (1, 3)]
    near = [names[abs(known - colour).sum(axis=1).argmin()] for colour in found]
    return f"{width}x{height}: {near[0]} {near[1]} over {near[2]} {near[3]}"


def heard(waveform: np.ndarray, rate: int) -> dict[str, Any]:
    """Of ``(1, channels, samples)``: how many channels, the mean, and the time and pitch of what is first heard."""
    left = waveform[0, 0].astype(np.float64)
    first = int(np.argmax(abs(left - left.mean()) > 0.1))
    piece = left[first : first + rate // 10] - left.mean()
    pitch = np.fft.rfft(piece * np.hanning(len(piece)), 8 * len(piece))
    hertz = abs(pitch).argmax() * rate / (8 * len(piece))
    return {
        "channels": waveform.shape[1],
        "mean": f"{left.mean() + 0.0:.1f}".replace("-0.0", "0.0"),
        "begins": f"{first / rate:.1f} s",
        "pitch": f"{round(hertz / 20) * 20} Hz",
    }


# ---- pictures -----------------------------------------------------------------------------------------------------


def _corners(height: int = 64, width: int = 96) -> np.ndarray:
    image = np.empty((height, width, 3), np.uint8)
    for index, name in enumerate(_CORNERS):
        rows = slice(height // 2, None) if index > 1 else slice(height // 2)
        columns = slice(width // 2, None) if index % 2 else slice(width // 2)
        image[rows, columns] = _COLOURS[name]
    return image


def _half_transparent() -> np.ndarray:
    """The upper half is not seen at all."""
    return np.dstack([_corners(), np.repeat(np.uint8([[0], [255]]), 32, 0).repeat(96, 1)])


def _plain(path: Path) -> None:
    Image.fromarray(_corners()).save(path)


def _turned(orientation: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(_corners()).save(path, exif=exif)

    return write


def _transparent(path: Path) -> None:
    Image.fromarray(_half_transparent()).save(path)


def _of_mode(mode: str) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(_corners()).convert(mode).save(path)


def _deep(path: Path) -> None:
    grey = np.zeros((64, 96), np.uint16)
    grey[32:, :] = 190 * 257
    Image.fromarray(grey).save(path)


def _with_profile(path: Path) -> None:
    """A profile of which red and green are exchanged, under a name of its own."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    count = struct.unpack(">I", data[128:132])[0]
    table = [data[132 + 12 * i : 144 + 12 * i] for i in range(count)]
    other = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}
    data = data[:132] + b"".join(other.get(e[:4], e[:4]) + e[4:] for e in table) + data[132 + 12 * count :]
    named = data.replace("sRGB".encode("utf-16-be"), "odd!".encode("utf-16-be")).replace(b"sRGB", b"odd!")
    Image.fromarray(_corners()).save(path, icc_profile=named)


# ---- clips --------------------------------------------------------------------------------------------------------


def _clip(
    path: Path,
    pixels: np.ndarray | None = None,
    codec: str = "libx264",
    formats: tuple[str, str] = ("yuv420p", "rgb24"),
    ratio: Fraction = Fraction(1),
    later: int = -1,
) -> None:
    """Eight frames, each darker than the one before; with a second of audio from sample ``later`` on."""
    pixels = _corners() if pixels is None else pixels
    options = {"x264-params": "bframes=0:keyint=1"} if codec == "libx264" else {}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=24, options=options)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[:2], formats[0]
        stream.codec_context.sample_aspect_ratio = ratio
        if later >= 0:
            _add_audio(container, "aac", _tone(_RATE)[None], _RATE, later)
        for index in range(_FRAMES):
            frame = av.VideoFrame.from_ndarray(pixels, format=formats[1])
            frame.pts, frame.time_base = index, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _changed(path: Path, box: bytes, offset: int, data: bytes) -> None:
    """Bytes of a box of an MP4 replaced."""
    content = bytearray(path.read_bytes())
    at = content.index(box) + offset
    content[at : at + len(data)] = data
    path.write_bytes(content)


def _turned_clip(path: Path) -> None:
    _clip(path)
    _changed(path, b"tkhd", 44, struct.pack(">9i", 0, _ONE, 0, -_ONE, 0, 0, 0, 0, 1 << 30))


def _cut_clip(path: Path) -> None:
    """An edit list that shows five of eight frames."""
    _clip(path)
    with av.open(str(path)) as container:
        unit = container.streams.video[0].time_base
    assert unit is not None
    content = path.read_bytes()
    at = content.index(b"elst") + 12
    length, start, _ = struct.unpack(">IiI", content[at : at + 12])
    _changed(path, b"elst", 12, struct.pack(">IiI", length * 5 // 8, start + round(Fraction(3, 24) / unit), _ONE))


def _song(path: Path) -> None:
    """Audio with a cover."""
    with av.open(str(path), "w") as container:
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 96, 64, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        _add_audio(container, "aac", _tone(_RATE)[None], _RATE)
        container.mux(cover.encode(av.VideoFrame.from_ndarray(_corners(), format="rgb24")))
        container.mux(cover.encode())


# ---- audio --------------------------------------------------------------------------------------------------------


def _tone(samples: int, rate: int = _RATE, hertz: float = 440) -> np.ndarray:
    return np.asarray(0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate), np.float32)


def _rising(rate: int) -> np.ndarray:
    """Each moment of two seconds has another pitch."""
    t = np.arange(2 * rate) / rate
    return np.asarray(0.5 * np.sin(2 * np.pi * (300 + 2000 * t) * t), np.float32)


def _add_audio(
    container: av.container.OutputContainer, codec: str, samples: np.ndarray, rate: int, later: int = 0
) -> None:
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(samples)]
    stream = container.add_stream(codec, rate=rate, layout=layout)
    packed = np.ascontiguousarray(samples.T).reshape(1, -1)
    frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
    frame.sample_rate, frame.pts, frame.time_base = rate, later, Fraction(1, rate)
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _audio(codec: str, samples: np.ndarray, rate: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with av.open(str(path), "w") as container:
            _add_audio(container, codec, samples, rate)

    return write


_SIX = np.stack([_tone(_RATE, hertz=400 + 200 * i) / 2 for i in range(6)])
_KINDS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "upright": ("jpg", _turned(1)),
    "turned by 90°": ("jpg", _turned(6)),
    "mirrored": ("png", _turned(2)),
    "transparent": ("png", _transparent),
    "grey": ("png", _of_mode("L")),
    "palette": ("png", _of_mode("P")),
    "CMYK": ("tif", _of_mode("CMYK")),
    "16 bits": ("png", _deep),
    "profile": ("png", _with_profile),
    "plain clip": ("mp4", _clip),
    "turned clip": ("mov", _turned_clip),
    "wide pixels": ("mp4", lambda path: _clip(path, ratio=Fraction(4, 3))),
    "transparent clip": ("mov", lambda path: _clip(path, _half_transparent(), "qtrle", ("argb", "rgba"))),
    "edit list": ("mp4", _cut_clip),
    "cover": ("mp4", _song),
    "stereo": ("wav", _audio("pcm_s16le", _SIX[:2], _RATE)),
    "six channels": ("wav", _audio("pcm_s16le", _SIX, _RATE)),
    "8 bits": ("wav", _audio("pcm_u8", _SIX[:1], _RATE)),
    "no duration": ("mka", _audio("aac", _SIX[:1], _RATE)),
    "late": ("mp4", lambda path: _clip(path, later=_RATE // 2)),
    "codec's delay": ("mp3", _audio("libmp3lame", np.stack([_rising(44100)] * 2), 44100)),
}
