"""Clips as people have them: read as a player shows them, or refused in one sentence with the name."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media_files import (
    BLUE,
    GREEN,
    GREY,
    RED,
    colours,
    corners,
    png_of_size,
    refused,
    seen,
    tone,
    write_audio,
    write_clip,
)
from PIL import Image

from ltx2_mlx import media
from ltx2_mlx.errors import MediaError
from ltx2_mlx.media.reading import read_reference, read_source

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
