"""Pictures, clips and audio as people have them: read as a viewer shows them, or refused in one sentence with the name.

Every file is built here. A picture's corners have four colours, so that a turned or mirrored one is told apart.
"""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import wave
import zlib
from collections.abc import Callable
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import av
import mlx.core as mx
import numpy as np
import pytest
from PIL import Image, ImageCms

from ltx2_mlx import media
from ltx2_mlx.errors import LTX2Error, MediaError
from ltx2_mlx.media import files
from ltx2_mlx.media.audio import resampled
from ltx2_mlx.media.images import check_image, read_picture
from ltx2_mlx.media.reading import read_reference, read_source
from ltx2_mlx.media.writing import aac_rate
from ltx2_mlx.types import Audio

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


# ---- pictures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_data_say(tmp_path: Path, kind: str, orientation: int) -> None:
    stored = {1: corners(), 2: corners()[:, ::-1], 3: corners()[::-1, ::-1], 4: corners()[::-1]}
    stored |= {5: corners().transpose(1, 0, 2), 6: np.rot90(corners(), 1)}
    stored |= {7: np.rot90(corners(), 2).transpose(1, 0, 2), 8: np.rot90(corners(), -1)}
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{kind}"
    Image.fromarray(np.ascontiguousarray(stored[orientation])).save(path, exif=exif)
    picture = read_picture(path)
    assert picture.pixels.shape == (64, 96, 3) and colours(picture.pixels) == [RED, GREEN, BLUE, GREY]
    if kind != "tif":  # which Pillow turns by itself
        assert bool(picture.notes) is (orientation > 1)


def test_broken_exif_data_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    for broken in (b"Exif\0\0rubbish", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40, b"Exif\0\0"):
        Image.fromarray(corners()).save(path, exif=broken)
        assert colours(media.decode_image(path)) == [RED, GREEN, BLUE, GREY]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA", "RGB", "L"])
def test_a_transparent_picture_is_shown_on_white(tmp_path: Path, mode: str) -> None:
    alpha = np.full((64, 96), 255, np.uint8)
    alpha[:32] = 0
    image = Image.fromarray(np.dstack([corners(), alpha]))
    path, options = tmp_path / "a.png", {}
    if mode == "P":
        image = Image.fromarray(corners()).quantize(4)
        options = {"transparency": image.getpixel((0, 0))}
    elif mode in ("RGB", "L"):
        image = Image.fromarray(corners()).convert(mode)
        options = {"transparency": image.getpixel((0, 0))}
    elif mode == "PA":
        path = tmp_path / "a.webp"
        options = {"lossless": True}
    else:
        image = image.convert(mode)
    image.save(path, **options)
    picture = read_picture(path)
    assert tuple(picture.pixels[10, 10]) == (255, 255, 255)
    assert tuple(picture.pixels[50, 80]) != (255, 255, 255)
    assert picture.notes == ("is transparent in places, and shown on white",)


def test_an_opaque_picture_with_alpha_is_left_as_it_is(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([corners(), np.full((64, 96), 255, np.uint8)])).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.pixels, corners())
    assert picture.notes == ()


def test_sixteen_bits_are_cut_to_eight(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(values).save(tmp_path / name)
        picture = read_picture(tmp_path / name)
        np.testing.assert_array_equal(picture.pixels, np.repeat((values >> 8)[..., None], 3, axis=2))
        assert "16 bits" in picture.notes[0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode in ("CMYK", "YCbCr") else "a.png")
    Image.fromarray(corners()).convert(mode).save(path)
    pixels = media.decode_image(path)
    assert pixels.shape == (64, 96, 3) and pixels.dtype == np.uint8
    if mode not in ("1", "L"):
        assert colours(pixels) == [RED, GREEN, BLUE, GREY]


def test_a_colour_profile_is_followed_and_a_broken_one_ignored(tmp_path: Path) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    cases = ((srgb, False), (b"rubbish" * 50, False), (_swapped_profile(srgb), True))
    for profile, changed in cases:
        Image.fromarray(corners()).save(tmp_path / "a.png", icc_profile=profile)
        picture = read_picture(tmp_path / "a.png")
        assert bool(abs(picture.pixels.astype(int) - corners()).max() > 20) is changed, profile[:20]
        assert bool(picture.notes) is changed


def _swapped_profile(srgb: bytes) -> bytes:
    """A profile whose red and green primaries have changed places."""
    count = struct.unpack(">I", srgb[128:132])[0]
    table = [srgb[132 + 12 * i : 144 + 12 * i] for i in range(count)]
    names = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}
    swapped = b"".join(names.get(entry[:4], entry[:4]) + entry[4:] for entry in table)
    result = srgb[:132] + swapped + srgb[132 + 12 * count :]
    return result.replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be")).replace(b"sRGB", b"xRGB")


@pytest.mark.parametrize("kind", ["gif", "png", "webp", "tif"])
def test_of_several_frames_the_first_is_used(tmp_path: Path, kind: str) -> None:
    first, *others = (Image.fromarray(np.roll(corners(), 32 * i, axis=0)) for i in range(3))
    options = {"lossless": True} if kind == "webp" else {}
    first.save(tmp_path / f"a.{kind}", save_all=True, append_images=others, **options)
    picture = read_picture(tmp_path / f"a.{kind}")
    assert colours(picture.pixels) == [RED, GREEN, BLUE, GREY]
    assert picture.notes == ("has 3 frames; the first is used",)


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


def whole_png() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "png")
    return file.getvalue()


BAD_PICTURES: dict[str, tuple[Callable[[], bytes], str]] = {
    "text.png": (lambda: b"not a picture", "not a picture that Pillow reads"),
    "empty.png": (lambda: b"", "the file is empty"),
    "page.jpg": (lambda: b"<!DOCTYPE html><html>", "a web page"),
    "pointer.png": (lambda: b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
    "drawing.svg": (lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "doc.pdf": (lambda: b"%PDF-1.7", "a PDF"),
    "script.eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    "phone.heic": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), "sips -s format png phone.heic"),
    "clip.png": (lambda: b"\0\0\0\x18ftypisom\0\0\0\0isom" + bytes(200), "a video"),
    "broken.avif": (lambda: b"\0\0\0\x1cftypavif\0\0\0\0mif1avifmiaf" + bytes(200), "broken.avif"),
    "bomb.png": (lambda: png_of_size(60000, 60000), "67,108,864 at most"),
    "large.png": (lambda: png_of_size(9000, 8000), "9000 × 8000 pixels"),
    "nothing.png": (lambda: png_of_size(0, 10), "nothing.png"),
    "header.png": (lambda: whole_png()[:20], "header.png"),
    "half.png": (lambda: whole_png()[:9000], "truncated"),
    "chunk.png": (lambda: whole_png()[:200] + b"\xff" * 40 + whole_png()[240:], "chunk.png"),
    "profile.png": (
        lambda: png_of_size(8, 8, png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(3_000_000)))),
        "larger than Pillow reads",
    ),
    "text-bomb.png": (
        lambda: png_of_size(8, 8, png_chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(3_000_000)))),
        "text-bomb.png",
    ),
    "deep.tif": (lambda: _saved(Image.fromarray(np.ones((4, 4), np.float32)), "tiff"), "mode F"),
}


def _saved(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_picture_that_cannot_be_read_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    make, reason = BAD_PICTURES[name]
    path = tmp_path / name
    path.write_bytes(make())
    assert reason in refused(lambda: media.decode_image(path), path)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif", "tiff", "avif", "bmp", "ico", "tga", "ppm", "jpeg2000"])
def test_damage_of_any_kind_is_refused_or_read(tmp_path: Path, kind: str) -> None:
    """Bytes changed, cut out and cut off: a picture of the stated size, or one sentence."""
    rng = np.random.default_rng(len(kind))
    whole = np.frombuffer(_saved(Image.fromarray(corners(48, 48)), kind), np.uint8)
    path = tmp_path / f"a.{kind}"
    for i in range(25):
        data = whole.copy()
        for at in rng.integers(0, min(len(data), 400 if i % 2 else len(data)), 3):
            data[at] = rng.integers(256)
        path.write_bytes(data[: rng.integers(8, len(data))].tobytes() if i % 3 == 0 else data.tobytes())
        try:
            assert media.decode_image(path).shape[2] == 3
        except MediaError as error:
            assert "\n" not in str(error) and path.name in str(error)


def test_a_size_that_h264_does_not_take_is_known_before(tmp_path: Path) -> None:
    path = tmp_path / "long.png"
    Image.new("RGB", (20000, 64)).save(path)
    assert "16384 a side" in refused(lambda: check_image(path, 33), path)
    assert check_image(path, 0).pixels.shape == (64, 20000, 3)
    Image.new("RGB", (1, 64)).save(path)
    assert "2 × 2" in refused(lambda: check_image(path, 33), path)
    for crf in (60, -1, float("nan")):
        assert "CRF" in refused(lambda crf=crf: check_image(path, crf), path)


# ---- clips --------------------------------------------------------------------------------------------------------


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


ONE = 1 << 16


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((ONE, 0, 0, ONE), [RED, GREEN, BLUE, GREY]),
        ((0, ONE, -ONE, 0), [BLUE, RED, GREY, GREEN]),  # a phone held upright: a quarter of a turn to the right
        ((-ONE, 0, 0, -ONE), [GREY, BLUE, GREEN, RED]),
        ((0, -ONE, ONE, 0), [GREEN, GREY, RED, BLUE]),
        ((-ONE, 0, 0, ONE), [GREEN, RED, GREY, BLUE]),
        ((ONE, 0, 0, -ONE), [BLUE, GREY, RED, GREEN]),
        ((0, ONE, ONE, 0), [RED, BLUE, GREEN, GREY]),
    ],
)
def test_a_clip_is_turned_as_its_display_matrix_says(
    tmp_path: Path, matrix: tuple[int, ...], shown: list[tuple[int, ...]]
) -> None:
    path = write_clip(tmp_path / "phone.mov")
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = matrix
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    frames, turned = seen(path), a == 0
    assert frames.shape[1:] == ((96, 64, 3) if turned else (64, 96, 3)) and colours(frames[3]) == shown
    metadata, info = media.get_videostream_metadata(path), media.probe(path)
    assert (metadata.height, metadata.width) == (info.height, info.width) == frames.shape[1:3]
    assert bool(info.notes) is (matrix != (ONE, 0, 0, ONE))


@pytest.mark.parametrize(("ratio", "width"), [(Fraction(4, 3), 128), (Fraction(1, 2), 48)])
def test_pixels_that_are_not_square_are_stretched(tmp_path: Path, ratio: Fraction, width: int) -> None:
    path = write_clip(tmp_path / "dv.mp4", setup=lambda stream: setattr(stream, "sample_aspect_ratio", ratio))
    frames, info = seen(path), media.probe(path)
    assert frames.shape == (6, 64, width, 3) and colours(frames[0]) == [RED, GREEN, BLUE, GREY]
    assert (info.height, info.width) == (64, width) and f"stretched to 64x{width}" in info.notes[0]
    assert media.get_videostream_metadata(path).width == width


def _hdr(stream: av.VideoStream) -> None:
    stream.codec_context.color_trc, stream.codec_context.color_primaries = 16, 9


def _interlaced(stream: av.VideoStream) -> None:
    stream.options = {"x264-params": "tff=1"}


@pytest.mark.parametrize(
    ("name", "options", "note"),
    [
        ("plain.mp4", {}, None),
        ("UPPER.MP4", {}, None),
        ("clip.mov", {}, None),
        ("clip.mkv", {}, None),
        ("clip.avi", {"codec": "mpeg4"}, None),
        ("clip.webm", {"codec": "libvpx-vp9"}, None),
        ("clip.ts", {}, None),
        ("deep.mp4", {"pix_fmt": "yuv420p10le"}, None),
        ("chroma.mp4", {"pix_fmt": "yuv444p"}, None),
        ("full.mp4", {"pix_fmt": "yuvj420p"}, None),
        ("hdr.mkv", {"pix_fmt": "yuv420p10le", "setup": _hdr}, "is HDR"),
        ("fields.mp4", {"setup": _interlaced}, "interlaced"),
        ("uneven.mp4", {"times": [0, 1, 2, 9, 10, 17]}, "unequal times"),
        ("pair.mkv", {"more": 1}, "2 video streams"),
        ("late.mp4", {"audio": 24000, "video_delay": 12}, "begins 0.50 s after its audio"),
    ],
)
def test_clips_of_every_kind_are_read_and_what_is_odd_is_said(
    tmp_path: Path, name: str, options: dict, note: str | None
) -> None:
    path = write_clip(tmp_path / name, **options)
    frames, info = seen(path), media.probe(path)
    assert frames.shape == (6, 64, 96, 3) and info.frames == 6
    assert colours(frames[2]) == [RED, GREEN, BLUE, GREY]
    assert any(note in line for line in info.notes) if note else info.notes == ()


def test_an_odd_size_keeps_its_last_row_and_column(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "odd.mkv", [corners(63, 95)] * 2, codec="ffv1", pix_fmt="bgr0")
    assert seen(path).shape == (2, 63, 95, 3)


@pytest.mark.parametrize("kind", ["mov", "gif", "png"])
def test_a_transparent_clip_is_shown_on_white(tmp_path: Path, kind: str) -> None:
    pixels = np.dstack([corners(), np.full((64, 96), 255, np.uint8)])
    pixels[:32, :48, 3] = 0
    path = tmp_path / f"a.{kind}"
    if kind == "mov":
        write_clip(path, [pixels] * 6, codec="qtrle", pix_fmt="argb", picture="rgba")
    else:
        Image.fromarray(pixels).save(path)
    frames = seen(path)
    assert tuple(frames[0, 10, 10]) == (255, 255, 255) and abs(frames[0, 50, 80].astype(int) - GREY).max() < 12
    assert media.probe(path).notes == ("is transparent in places, and shown on white",)


def test_frames_that_an_edit_list_hides_are_not_counted(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "cut.mp4", [corners() // (i + 1) for i in range(8)], setup=_no_reordering)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    length, start, _ = struct.unpack(">IiI", data[at : at + 12])
    with av.open(str(path)) as container:
        tick = container.streams.video[0].time_base
    shift = round(Fraction(3, 24) / tick)
    data[at : at + 12] = struct.pack(">IiI", length * 5 // 8, start + shift, 1 << 16)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 8
    assert len(seen(path)) == media.get_videostream_metadata(path).num_frames == media.probe(path).frames < 8
    assert seen(path)[0, 10, 10, 0] < 100


def _no_reordering(stream: av.VideoStream) -> None:
    stream.options = {"x264-params": "bframes=0:keyint=1"}


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 96, 64, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        sound = container.add_stream("aac", rate=24000, layout="mono")
        frame = av.AudioFrame.from_ndarray(tone(24000)[None], format="fltp", layout="mono")
        frame.sample_rate = 24000
        container.mux(cover.encode(av.VideoFrame.from_ndarray(corners(), format="rgb24")))
        container.mux(cover.encode())
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    assert media.probe(path).frames is None and media.probe(path).samples >= 24000
    assert "holds no video" in refused(lambda: media.get_videostream_metadata(path), path)
    assert "holds no video" in refused(lambda: read_reference(path, 9, 24), path)


def test_sixty_frames_a_second_are_a_word_in_the_plan(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "fast.mp4", rate=60)
    assert "60 frames a second, and is followed frame by frame at 24: slower" in " ".join(
        read_reference(path, 6, 24).notes
    )
    assert read_reference(path, 6, 60).notes == ()
    assert "has 6 frames, and the rest of the 9" in " ".join(read_reference(path, 9, 60).notes)


def test_a_clip_without_frames_or_with_a_broken_tail_is_refused(tmp_path: Path) -> None:
    whole = write_clip(
        tmp_path / "whole.mp4", [np.random.default_rng(i).integers(0, 256, (64, 96, 3), np.uint8) for i in range(9)]
    )
    data = whole.read_bytes()
    for name, content in {"half.mp4": data[: len(data) // 2], "head.mp4": data[:40]}.items():
        (tmp_path / name).write_bytes(content)
        refused(lambda name=name: read_source(tmp_path / name, 10**9), tmp_path / name)
    broken = bytearray(data)
    broken[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    (tmp_path / "holes.mp4").write_bytes(broken)
    try:
        assert any("damaged" in note for note in media.probe(tmp_path / "holes.mp4").notes)
    except MediaError as error:
        assert "holes.mp4" in str(error)
    silent = tmp_path / "zero.mp4"
    with av.open(str(silent), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.start_encoding()
    refused(lambda: media.get_videostream_metadata(silent), silent)
    refused(lambda: read_reference(silent, 9, 24), silent)


def test_a_source_that_does_not_fit_into_memory_is_refused(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "long.mp4")
    assert "cut it first" in refused(lambda: read_source(path, 1000), path)
    assert read_source(path, 10**9).frames == 6


def test_the_size_of_frames_is_bounded_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "large.mp4")
    monkeypatch.setattr("ltx2_mlx.media.reading.MAX_PIXELS", 96 * 64 - 1)
    assert "96 × 64 pixels" in refused(lambda: seen(path), path)
    (tmp_path / "bomb.png").write_bytes(png_of_size(60000, 60000))
    refused(lambda: seen(tmp_path / "bomb.png"), tmp_path / "bomb.png")


@pytest.mark.parametrize("kind", ["mp4", "mkv", "avi", "ts", "gif", "wav", "flac", "mp3", "ogg"])
def test_damage_of_any_kind_of_clip_is_refused_or_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    if kind in ("mp4", "mkv", "avi", "ts"):
        write_clip(path, codec="mpeg4" if kind == "avi" else "libx264", audio=0 if kind == "ts" else 9000)
    elif kind == "gif":
        Image.fromarray(corners()).save(path, save_all=True, append_images=[Image.fromarray(corners()[::-1])])
    else:
        codec = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame", "ogg": "libopus"}[kind]
        write_audio(path, np.stack([tone(9000, 48000)] * 2), 48000, codec)
    whole, rng = np.frombuffer(path.read_bytes(), np.uint8), np.random.default_rng(3)
    for i in range(12):
        data = whole.copy()
        data[rng.integers(0, min(len(data), 3000 if i % 2 else len(data)), 4)] = rng.integers(0, 256, 4)
        path.write_bytes(data[: rng.integers(8, len(data))].tobytes() if i % 3 == 0 else data.tobytes())
        for read in (media.probe, media.get_videostream_metadata, media.decode_audio_from_file):
            try:
                read(path)
            except MediaError as error:
                assert "\n" not in str(error) and path.name in str(error)


# ---- audio --------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_more_than_two_channels_are_mixed_down_to_stereo(tmp_path: Path, channels: int) -> None:
    samples = np.stack([tone(9600, 48000, 300 + 100 * i) / 2 for i in range(channels)])
    path = write_audio(tmp_path / "a.wav", samples, 48000, "pcm_s16le")
    result, info = heard(path), media.probe(path)
    assert result.shape == (min(channels, 2), 9600) and info.channels == channels and info.samples == 9600
    assert abs(result).max() > 0.05 and (channels < 2 or abs(result[0] - result[1]).max() > 0.05)
    assert any(f"{channels} channels" in note for note in info.notes) is (channels > 2)


@pytest.mark.parametrize(
    ("codec", "error"),
    [("pcm_u8", 2**-7), ("pcm_s24le", 2**-22), ("pcm_f32le", 0), ("pcm_f64le", 0), ("pcm_s32le", 2**-22)],
)
def test_every_sample_format_is_centred_on_zero(tmp_path: Path, codec: str, error: float) -> None:
    samples = np.stack([tone(4800, 48000), tone(4800, 48000, 700)])
    result = heard(write_audio(tmp_path / "a.wav", samples, 48000, codec))
    assert abs(result - samples).max() <= error and abs(result.mean()) < 0.01


@pytest.mark.parametrize(
    ("rate", "written"), [(37800, 44100), (192000, 96000), (24000, 24000), (4000, 7350), (48001, 64000)]
)
def test_audio_at_a_rate_that_aac_does_not_take_is_resampled(tmp_path: Path, rate: int, written: int) -> None:
    assert aac_rate(rate) == written
    samples = np.stack([tone(rate // 2, rate), tone(rate // 2, rate, 700)])
    media.encode_video([np.stack([corners()] * 12)], 24, Audio(mx.array(samples), rate), tmp_path / "a.mp4")
    info = media.probe(tmp_path / "a.mp4")
    assert info.sample_rate == written and abs(info.samples - written / 2) <= written / 500
    kept = heard(tmp_path / "a.mp4")[:, : written // 2]
    for channel, pitch in enumerate((440, 700)):
        expected = tone(kept.shape[1], written, pitch)
        assert np.corrcoef(kept[channel][500:-500], expected[500:-500])[0, 1] > 0.99


def test_resampling_keeps_the_place_of_every_sample() -> None:
    for rate, new in ((37800, 44100), (192000, 96000)):
        result = resampled(tone(rate // 4, rate)[None], rate, new)[0]
        assert abs(len(result) - new / 4) <= 40
        expected = tone(len(result), new)
        assert abs(result - expected)[200:-200].max() < 1e-2


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp3", "libmp3lame"),
        ("a.m4a", "aac"),
        ("a.ogg", "libopus"),
        ("a.mka", "aac"),
        ("a.flac", "flac"),
        ("a.aac", "aac"),
    ],
)
def test_a_window_counts_from_the_first_sample_whatever_the_codecs_delay(tmp_path: Path, name: str, codec: str) -> None:
    """A chirp: each moment has a pitch of its own."""
    rate = 48000
    t = np.arange(2 * rate) / rate
    chirp = (0.5 * np.sin(2 * np.pi * (300 + 600 * t) * t)).astype(np.float32)
    path = write_audio(tmp_path / name, np.stack([chirp, chirp]), rate, codec)
    whole = heard(path)[0]
    # An .aac does not state its delay: its first sample is silence. Matroska rounds to milliseconds.
    late, exact = (1024 if name == "a.aac" else 0), (52 if name == "a.mka" else 4)
    for start in (0.0, 0.5, 1.2):
        piece, at = heard(path, start, 0.3)[0], round(start * rate)
        assert len(piece) == round(0.3 * rate)
        reference = whole[at : at + len(piece)]
        if name != "a.mka":
            assert np.corrcoef(piece[4000:], reference[4000:])[0, 1] > 0.99, (start, name)
        lags = [
            np.corrcoef(piece[4000:9000], chirp[at - late + 4000 + lag :][:5000])[0, 1] for lag in range(-60, 61, 4)
        ]
        assert abs(4 * (int(np.argmax(lags)) - 15)) <= exact, (name, start, lags)


@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_audio_that_begins_after_the_picture_is_preceded_by_silence(tmp_path: Path, kind: str) -> None:
    path = write_clip(tmp_path / f"late.{kind}", [corners()] * 24, audio=24000, audio_delay=12000)
    result = heard(path)[0]
    assert abs(result[:11000]).max() < 1e-3 < 0.3 < abs(result[13000:20000]).max()
    assert abs(heard(path, 0.6, 0.2)[0]).max() > 0.3


def test_audio_alone_that_begins_late_is_heard_at_once(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "late.mka", tone(24000)[None], 24000, "pcm_s16le", delay=12000)
    result = heard(path, 0.0, 0.5)[0]
    assert len(result) == 12000 and np.corrcoef(result, tone(12000))[0, 1] > 0.99


def test_a_pause_within_the_audio_is_silence(tmp_path: Path) -> None:
    path = tmp_path / "gap.mka"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=24000, layout="mono")
        for start in (0, 24000):
            frame = av.AudioFrame.from_ndarray(tone(12000)[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 24000, start, Fraction(1, 24000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    result = heard(path)[0]
    assert len(result) == 36000 and abs(result[12100:23900]).max() == 0 and abs(result[24100:]).max() > 0.3


def test_nan_in_a_file_is_refused_before_the_work(tmp_path: Path) -> None:
    for value in (np.nan, np.inf):
        samples = np.stack([tone(4800, 48000)] * 2)
        samples[1, 4000] = value
        path = write_audio(tmp_path / "a.wav", samples, 48000, "pcm_f32le")
        assert "NaN or infinite" in refused(lambda path=path: media.probe(path), path)
        assert "NaN or infinite" in refused(lambda path=path: media.decode_audio_from_file(path), path)


def test_a_wav_of_no_samples_is_no_audio(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(24000)
    assert media.decode_audio_from_file(tmp_path / "a.wav") is None
    for window in ((float("nan"), None), (float("inf"), None), (0, float("nan")), (-1, None)):
        with pytest.raises(LTX2Error, match="expected a start"):
            media.decode_audio_from_file(tmp_path / "a.wav", *window)


# ---- security -----------------------------------------------------------------------------------------------------

READERS = (media.decode_image, media.probe, media.get_videostream_metadata, media.decode_audio_from_file)


@pytest.fixture
def server() -> object:
    """A web server that notes who asks."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *args: object) -> None: ...

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}", asked
    http.shutdown()
    thread.join()


@pytest.mark.parametrize("read", READERS)
def test_nothing_but_a_local_file_is_opened(
    tmp_path: Path, server: tuple[str, list[str]], read: Callable[[Path], object]
) -> None:
    url, asked = server
    clip = write_clip(tmp_path / "clip.ts")
    names = [f"{url}/a.mp4", f"concat:{clip}|{clip}", f"file:{clip}", "pipe:0", f"subfile,,start,0,end,0,,:{clip}"]
    names += [f"async:{clip}", "lavfi:testsrc", "data:image/png;base64,AAAA", f"cache:{clip}", f"crypto:{clip}", "\0"]
    for name in names:
        with pytest.raises(MediaError) as caught:
            read(name)
        assert "\n" not in str(caught.value)
    assert asked == []


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{0}\n#EXT-X-ENDLIST\n",
    "hls after a blank": "\n#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{0}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{0}'\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><BaseURL>{0}</BaseURL></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "pls": "[playlist]\nFile1={0}\n",
    "smil": '<smil><body><video src="{0}"/></body></smil>',
    "asx": '<asx version="3.0"><entry><ref href="{0}"/></entry></asx>',
    "rtsp": "RTSPtextrtsp://127.0.0.1/",
    "imf": '<CompositionPlaylist xmlns="http://www.smpte-ra.org/schemas/2067-3/2016">{0}</CompositionPlaylist>',
}


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".png", ".mpd", ".sdp", ".concat", ""])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_under_any_name_opens_no_other_file(
    tmp_path: Path, server: tuple[str, list[str]], kind: str, suffix: str
) -> None:
    url, asked = server
    clip = write_clip(tmp_path / "secret.ts")
    for target in (f"{url}/a.ts", str(clip), clip.name):
        path = tmp_path / f"list{suffix}"
        path.write_text(PLAYLISTS[kind].format(target))
        for read in READERS:
            refused(lambda path=path, read=read: read(path), path)
    assert asked == []


def test_a_name_is_never_a_pattern_of_names(tmp_path: Path) -> None:
    """FFmpeg takes ``a%d.png`` for a series of pictures."""
    for i in range(3):
        Image.fromarray(corners()).save(tmp_path / f"a{i}.png")
    Image.fromarray(corners()[::-1]).save(tmp_path / "a%d.png")
    assert len(seen(tmp_path / "a%d.png")) == 1 and colours(seen(tmp_path / "a%d.png")[0])[0] == BLUE
    refused(lambda: media.probe(tmp_path / "b%d.png"), tmp_path / "b%d.png")
    named = write_clip(tmp_path / "plain.mp4").rename(tmp_path / "concat:a|b.mp4")
    assert len(seen(named)) == 6


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for path in (tmp_path / "fifo.mp4", tmp_path / "folder.png", tmp_path / "loop.png", Path("/dev/zero")):
        for read in READERS:
            refused(lambda path=path, read=read: read(path), path)


def test_only_demuxers_that_open_nothing_else_are_allowed() -> None:
    allowed = set(files.OPTIONS["format_whitelist"].split(","))
    openers = {
        "hls",
        "concat",
        "dash",
        "sdp",
        "rtsp",
        "image2",
        "imf",
        "webm_dash_manifest",
        "lavfi",
        "applehttp",
        "vapoursynth",
    }
    assert not allowed & openers and files.OPTIONS["protocol_whitelist"] == "file"


def test_decoding_a_large_picture_takes_bounded_memory(tmp_path: Path) -> None:
    """One of 2.7 GB is refused from its header: what is allocated meanwhile stays below 200 MB."""
    script = (
        "import resource, sys; from ltx2_mlx.media.images import decode_image\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() if sys.argv[2:] else 2**40\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 200_000_000, -1))\n"
        "try: decode_image(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    (tmp_path / "bomb.png").write_bytes(png_of_size(30000, 30000))
    argv = [sys.executable, "-c", script, str(tmp_path / "bomb.png"), *(["limited"] if sys.platform == "linux" else [])]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stdout.startswith("MediaError") and "at most" in done.stdout, done
