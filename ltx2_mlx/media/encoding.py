"""Codecs of the videos that are written, and the colours that they get: BT.709 in limited range, and marked so.

A player that is told nothing takes HD for BT.709 and the rest for BT.601, so colours are converted and said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias, cast

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from ..errors import InputError
from .images import MAX_H264_SIDE
from .outputs import MOVIES

BT709, LIMITED_RANGE = 1, 1  # FFmpeg's numbers: of the matrix, the primaries and the transfer; and of the range
_SPEEDS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow")
# Without accurate rounding libswscale is up to two steps off, and in the mean too dark.
_EXACT = int(Interpolation.BILINEAR) | 0x40000  # SWS_ACCURATE_RND, which PyAV names since version 17


@dataclass(frozen=True)
class Codec:
    """How FFmpeg writes one codec.

    containers: the endings of files that players expect it in. fixed: options under which the same frames always give
    the same file. presets: what ``preset_option`` may say, with FFmpeg's word for it. max_crf: None where there is no
    such thing. tag: the name of the codec in the container, where FFmpeg's own is not the one that players look for.
    delay: frames by which decoding is ahead of showing, where the encoder's own times of decoding cannot be used.
    """

    encoder: str
    pix_fmt: str
    containers: tuple[str, ...]
    fixed: Mapping[str, str]
    presets: Mapping[str, str]
    preset_option: str = "preset"
    max_crf: float | None = 51
    tag: str = ""
    max_side: int = MAX_H264_SIDE
    delay: int | None = None


CODECS: Mapping[str, Codec] = {
    # mbtree=0: the macroblock tree of x264 165 does not repeat itself. 80 encodings of one clip gave 7 files on a CPU
    # with AVX-512; one thread, weightp=0, b-adapt=0 and aq-mode=0 did not cure it. Without the tree there was one file,
    # the same with AVX-512 and with AVX2. The padding of the frames has no part in it: random bytes there change
    # nothing. This costs 20 to 30 % more bytes at the same CRF, and no quality (+0.06 and +0.4 dB).
    # threads=4: x264 takes 1.5 threads a core by default, and their number changes the file.
    "h264": Codec(
        "libx264", "yuv420p", MOVIES, {"x264-params": "mbtree=0:threads=4"}, dict(zip(_SPEEDS, _SPEEDS, strict=True))
    ),
    # frame-threads, pools: by default x265 takes them from the number of cores.
    "hevc": Codec(
        "libx265",
        "yuv420p",
        MOVIES,
        {"x265-params": "frame-threads=2:pools=4:log-level=error"},
        dict(zip(_SPEEDS, _SPEEDS, strict=True)),
        tag="hvc1",  # QuickTime shows nothing for FFmpeg's own hev1
        delay=2,  # x265 leaves the times of clips of one or two frames unset
    ),
    "prores": Codec(
        "prores_ks",
        "yuv422p10le",
        (".mov",),
        {},
        {"proxy": "0", "lt": "1", "standard": "2", "hq": "3"},
        preset_option="profile",
        max_crf=None,
    ),
}


@dataclass(frozen=True)
class Encoding:
    """How a video is compressed.

    codec: a name of ``CODECS``. crf: how strongly, 0 (without loss) to 51; None for the codec's own, 23 of h264 and 28
    of hevc. preset: ``ultrafast`` to ``veryslow``, which makes smaller files and takes longer (None: ``medium``); of
    prores its profile, ``proxy``, ``lt``, ``standard`` (None) or ``hq``.
    """

    codec: str = "h264"
    crf: float | None = None
    preset: str | None = None

    def options(self) -> dict[str, str]:
        """The encoder's options."""
        codec = CODECS[self.codec]
        result = dict(codec.fixed)
        if self.crf is not None:
            result["crf"] = f"{self.crf:g}"
        if self.preset is not None:
            result[codec.preset_option] = codec.presets[self.preset]
        return result

    def check(self, suffix: str) -> None:
        """Raises InputError where no file with this ending can be written so, whatever its size."""
        if self.codec not in CODECS:
            raise InputError(f"the codec {self.codec}, expected {', '.join(CODECS)}")
        codec = CODECS[self.codec]
        if suffix not in codec.containers:
            raise InputError(
                f"{self.codec} goes into a file that ends in {' or '.join(codec.containers)}, not {suffix}"
            )
        if self.crf is not None and codec.max_crf is None:
            raise InputError(f"{self.codec} has no CRF; choose with the preset: {', '.join(codec.presets)}")
        if self.crf is not None and codec.max_crf is not None and not 0 <= self.crf <= codec.max_crf:
            raise InputError(f"CRF {self.crf:g}, expected 0 to {codec.max_crf:g}")
        if self.preset is not None and self.preset not in codec.presets:
            raise InputError(f"the preset {self.preset} of {self.codec}, expected {', '.join(codec.presets)}")
        if missing := {codec.encoder, "aac"} - av.codecs_available:
            raise InputError(
                f"PyAV's FFmpeg has no {' and no '.join(sorted(missing))}: pip install --force-reinstall av"
            )


def check_encoding(height: int, width: int, encoding: Encoding = Encoding(), suffix: str = ".mp4") -> None:
    """Raises InputError where frames of this size cannot be written so, or FFmpeg has not the codecs for it."""
    encoding.check(suffix)
    if height % 2 or width % 2:
        raise InputError(f"frames of {width} × {height} pixels; {CODECS[encoding.codec].pix_fmt} takes even sides")
    if max(height, width) > (most := CODECS[encoding.codec].max_side):
        raise InputError(f"frames of {width} × {height} pixels; {encoding.codec} takes {most} a side: use PNG frames")


def add_video(
    container: av.container.OutputContainer, encoding: Encoding, height: int, width: int, rate: Fraction
) -> av.VideoStream:
    """A stream of the container that is marked as what ``Converter`` makes."""
    codec = CODECS[encoding.codec]
    stream = cast(av.VideoStream, container.add_stream(codec.encoder, rate=rate, options=encoding.options()))
    stream.height, stream.width, stream.pix_fmt = height, width, codec.pix_fmt
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED_RANGE
    if codec.tag:
        context.codec_tag = codec.tag
    return stream


VideoPacket: TypeAlias = "av.Packet[av.VideoStream]"


def timed(packets: Iterable[VideoPacket], encoding: Encoding, rate: Fraction) -> Iterator[VideoPacket]:
    """All packets of a video stream, with the times of decoding that a container needs."""
    delay = CODECS[encoding.codec].delay
    for number, packet in enumerate(packets):
        if delay is not None:
            packet.dts = round((number - delay) / (rate * packet.time_base))
        yield packet


class Converter:
    """Turns pictures into frames for the encoder: from RGB by the matrix of BT.709 into its limited range."""

    def __init__(self, encoding: Encoding):
        self.pix_fmt, self.reformatter = CODECS[encoding.codec].pix_fmt, VideoReformatter()

    def __call__(self, pixels: np.ndarray) -> av.VideoFrame:
        """The frame of ``(H, W, 3)`` uint8."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        return self.reformatter.reformat(
            frame,
            format=self.pix_fmt,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=_EXACT,
        )
