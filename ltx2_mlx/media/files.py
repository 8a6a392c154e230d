"""Media files before they are opened: local, regular, and of a kind that is read here.

FFmpeg opens whatever a name or a playlist tells it to: other files, devices, addresses. So only a path to a regular
file reaches it, with every protocol but ``file`` closed and with no format that names further files.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import av
from av.stream import Disposition

from ..errors import LTX2Error, MediaError

MAX_PIXELS = 2**26
"""The largest picture or frame that is decoded: 67 million pixels. An 8K frame has 33, a 50-megapixel photo 50. Read,
compressed and resized, the largest picture takes 1.4 GB."""

# The demuxers that may open a file: containers of video and audio, none of which names other files.
_DEMUXERS = (
    "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "asf", "ogg", "nut", "ivf",
    "mxf", "dv", "h264", "hevc", "obu", "m4v", "yuv4mpegpipe", "gif", "apng", "rm",
    "wav", "w64", "aiff", "caf", "au", "flac", "mp3", "aac", "ac3", "eac3", "dts", "amr", "ape", "wv", "tta",
)  # fmt: skip

OPTIONS: Mapping[str, str] = MappingProxyType(
    {"protocol_whitelist": "file", "format_whitelist": ",".join(_DEMUXERS), "max_pixels": str(MAX_PIXELS)}
)
"""FFmpeg's options for every file that is read."""

# The first bytes of pictures → FFmpeg's demuxer of one such file. Left to itself it would take the name for a pattern.
_PICTURES = {
    b"\x89PNG\r\n\x1a\n": "png_pipe",
    b"\xff\xd8\xff": "jpeg_pipe",
    b"BM": "bmp_pipe",
    b"II*\0": "tiff_pipe",
    b"MM\0*": "tiff_pipe",
}

_PLAYLIST = "a playlist, which names other files; give the video or audio itself"
_RAW = "a raw photo; develop it, and export it as PNG or JPEG"
_TEXTS = {  # how a file begins, in lower case → what it is
    b"#extm3u": _PLAYLIST,
    b"ffconcat": _PLAYLIST,
    b"[playlist]": _PLAYLIST,
    b"v=0": "a description of a stream (SDP); give the video or audio itself",
    b"<!doctype html": "a web page; download the file itself",
    b"<html": "a web page; download the file itself",
    b"version https://git-lfs": "a pointer of Git LFS; fetch the file itself with git lfs pull",
    b"%pdf": "a PDF; export its page as PNG",
    b"%!ps": "a PostScript drawing; export it as PNG",
    b"pk\x03\x04": "an archive; unpack it first",
    b"\x1f\x8b": "an archive; unpack it first",
    b"\x76\x2f\x31\x01": "an OpenEXR picture; tone-map it, and export it as PNG",
    b"#?radiance": "a Radiance HDR picture; tone-map it, and export it as PNG",
    b"#?rgbe": "a Radiance HDR picture; tone-map it, and export it as PNG",
    b"\xff\x0a": "a JPEG XL picture; convert it to PNG first",
    b"\0\0\0\x0cjxl ": "a JPEG XL picture; convert it to PNG first",
    b"fujifilmccd-raw": _RAW,
    b"iiu\0": _RAW,  # Panasonic
    b"iiro": _RAW,  # Olympus
}
_HEIC = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def regular_file(path: str | Path) -> bytes:
    """The first 4,096 bytes of a local file. Raises MediaError for anything else that a path or an address can name."""
    if re.match(r"\w\w+:/", str(path)) and not os.path.lexists(path):
        raise MediaError(f"{path}: an address; download the file and give its path")
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise MediaError(f"{path}: a folder, expected a file")
        if not stat.S_ISREG(mode):
            raise MediaError(f"{path}: a pipe or a device, expected a file; copy its content into one")
        with open(path, "rb") as file:
            head = file.read(4096)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        raise MediaError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not head:
        raise MediaError(f"{path}: the file is empty")
    return head


def foreign(head: bytes) -> str | None:
    """What a file is that begins with ``head``, and what to do, where it is known not to be media that is read here."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in text or (text.startswith(b"<?xml") and b"svg" in text):
        return "a drawing (SVG), which has no pixels; export it as PNG"
    if head[:4] in (b"II*\0", b"MM\0*") and head[8:10] == b"CR":  # Canon
        return _RAW
    if b"<mpd" in text and text.startswith(b"<"):
        return _PLAYLIST
    return next((what for start, what in _TEXTS.items() if text.startswith(start)), None)


def heic(head: bytes) -> bool:
    """True for the first bytes of an HEIC picture, as phones take them."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIC


@contextmanager
def ffmpeg_errors(path: str | Path, task: str) -> Iterator[None]:
    """An error of FFmpeg within becomes a MediaError that names the file and the task: "read", "written"."""
    try:
        yield
    except LTX2Error:
        raise
    except (av.error.FFmpegError, ValueError, MemoryError) as error:
        if isinstance(error, av.error.InvalidDataError):
            raise MediaError(f"{path}: cannot be {task}: {_DAMAGED}") from error
        reason = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
        raise MediaError(f"{path}: cannot be {task}: {reason}") from error


_DAMAGED = "damaged, or cut short as by a download that has not ended"
# Metadata that is not UTF-8 is no reason to refuse a file. PyAV 19 takes it by itself, and has no such option.
_LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


@contextmanager
def reading(path: str | Path) -> Iterator[av.container.InputContainer]:
    """FFmpeg's container of a local file. Raises MediaError for what is none, or cannot be read."""
    head = regular_file(path)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20] & 2:
        raise MediaError(f"{path}: an animated WebP, which FFmpeg does not read; save it as MP4 or GIF")
    if what := foreign(head):
        raise MediaError(f"{path}: {what}")
    demuxer = _picture_demuxer(head)
    options = {**OPTIONS, "format_whitelist": demuxer} if demuxer else dict(OPTIONS)
    with ffmpeg_errors(path, "read"):
        url = f"file:{os.path.abspath(path)}"
        try:
            container = av.open(url, format=demuxer, options=options, **_LENIENT)
        except (av.error.ArgumentError, av.error.InvalidDataError) as error:
            if isinstance(error, av.error.ArgumentError) or _is_text(head):  # ArgumentError: not in the list of formats
                what = "not a video or audio file of a kind that is read here"
            else:
                what = f"not a video or audio file, or {_DAMAGED}"
            raise MediaError(f"{path}: cannot be read: {what}") from None
        with container:
            yield container


def _is_text(head: bytes) -> bool:
    return not any(byte < 9 for byte in head) or head.startswith((b"\xff\xfe", b"\xfe\xff"))


def _picture_demuxer(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp_pipe"
    demuxer = next((name for start, name in _PICTURES.items() if head.startswith(start)), None)
    return "apng" if demuxer == "png_pipe" and b"acTL" in head else demuxer


Stream = TypeVar("Stream", av.VideoStream, av.AudioStream)


def chosen(streams: Sequence[Stream]) -> Stream | None:
    """The stream that a player takes: the first that is marked as the default, otherwise the first. Covers are none."""
    real = [s for s in streams if not s.disposition & Disposition.attached_pic and s.codec_context is not None]
    return next((stream for stream in real if stream.disposition & Disposition.default), real[0] if real else None)
