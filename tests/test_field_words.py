"""What a file is that cannot be read, and what a file that can be read has in it that a user may not expect: further
kinds of each, built by their tests."""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from media_files import corners, png_chunk, refused, saved, seen, tone, write_audio, write_clip
from PIL import Image, TiffImagePlugin

from ltx2_mlx import media
from ltx2_mlx.cli.main import main
from ltx2_mlx.errors import HubError, InputError, LTX2Error
from ltx2_mlx.loading.hub import GEMMA_PATTERNS, resolve
from ltx2_mlx.media.images import read_picture
from ltx2_mlx.media.outputs import check_output
from ltx2_mlx.pipelines import checks, retake

# ---- pictures -------------------------------------------------------------------------------------------------------


def _tiff(tag: int, value: object) -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[tag] = value
    file = io.BytesIO()
    Image.fromarray(corners()).save(file, "TIFF", tiffinfo=tags)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.dng", _tiff(50706, b"\1\4\0\0"), "a raw photo, or only a thumbnail; develop it"),
        ("a.nef", _tiff(254, 1), "a raw photo, or only a thumbnail; develop it"),
        ("a.cr2", b"II*\0\x10\0\0\0CR\x02\0" + bytes(99), "a raw photo; develop it"),
        ("a.raf", b"FUJIFILMCCD-RAW 0201" + bytes(99), "a raw photo; develop it"),
        ("a.exr", b"\x76\x2f\x31\x01\2\0\0\0", "an OpenEXR picture"),
        ("a.hdr", b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "a Radiance HDR picture"),
        ("a.jxl", b"\xff\x0a" + bytes(50), "a JPEG XL picture"),
        ("b.jxl", b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
        ("a.xcf", b"gimp xcf v011\0", "export it as PNG"),
    ],
)
def test_a_picture_of_another_kind_is_named_with_what_to_do(
    name: str, content: bytes, said: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refused(lambda: read_picture(tmp_path / name), tmp_path / name)


def test_what_pillow_does_by_itself_is_a_note_too(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + bytes(8 * 6) for _ in range(8))
    header = b"\0\0\0\x08" * 2 + b"\x10\2\0\0\0"
    deep = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + deep)
    assert read_picture(tmp_path / "deep.png").notes == ("is cut from 16 bits to 8",)
    (tmp_path / "turned.tif").write_bytes(_tiff(0x0112, 6))
    turned = read_picture(tmp_path / "turned.tif")
    assert turned.notes == ("is turned as its EXIF data say",) and turned.pixels.shape == (96, 64, 3)


# ---- clips and audio ------------------------------------------------------------------------------------------------


def test_a_frame_with_data_that_pyav_does_not_know_is_read(tmp_path: Path) -> None:
    """FFmpeg puts EXIF data beside the frame of a TIFF."""
    (tmp_path / "a.tif").write_bytes(saved(Image.fromarray(corners()), "tiff"))
    assert seen(tmp_path / "a.tif").shape == (1, 64, 96, 3)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("text.mp4", b"hello\n", "not a video or audio file of a kind that is read here"),
        ("wide.json", "{}".encode("utf-16"), "not a video or audio file of a kind that is read here"),
        ("zeros.mp4", bytes(9999), "or damaged, or cut short"),
        ("a.webp", b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\2\0\0\0" + bytes(20), "an animated WebP"),
    ],
)
def test_what_is_no_media_is_said_to_be_none(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in refused(lambda: media.probe(tmp_path / name), tmp_path / name)


def test_a_file_that_is_cut_short_is_refused_or_has_a_note(tmp_path: Path) -> None:
    noise = [np.random.default_rng(i).integers(0, 256, (64, 96, 3), np.uint8) for i in range(48)]
    for name in ("a.mkv", "a.flac"):
        if name == "a.mkv":
            path = write_clip(tmp_path / name, noise)
        else:
            path = write_audio(tmp_path / name, np.stack([tone(96000, 48000)] * 2), 48000, "flac")
        assert media.probe(path).notes == ()
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        try:
            assert any("it may be cut short" in note for note in media.probe(path).notes)
        except LTX2Error as error:
            assert "cut short" in str(error)


def test_transparency_that_is_not_read_and_silence_are_notes(tmp_path: Path) -> None:
    pixels = [np.dstack([corners(), np.full((64, 96), 9, np.uint8)])] * 2
    path = write_clip(tmp_path / "a.webm", pixels, codec="libvpx-vp9", pix_fmt="yuva420p", picture="rgba")
    assert any("transparent" in note for note in media.probe(path).notes)
    path = write_audio(tmp_path / "a.wav", np.zeros((1, 4800), np.float32), 48000, "pcm_s16le")
    assert media.probe(path).notes == ("has audio that is silent: each sample is 0",)


@pytest.mark.parametrize(
    ("rate", "factor", "said"),
    [
        (500, 1, "500 samples a second, expected 1,000 to"),
        (48000, 32768, "full scale is 1"),
        (2**31 - 1, 1, "expected"),
    ],
)
def test_audio_that_no_player_makes_is_refused_by_every_reader(
    rate: int, factor: float, said: str, tmp_path: Path
) -> None:
    path = write_audio(tmp_path / "a.wav", tone(4800, 48000)[None] * factor, rate, "pcm_f32le")
    for read in (media.probe, media.decode_audio_from_file):
        assert said in refused(lambda read=read: read(path), path)


def test_a_video_of_too_few_seconds_for_audio_cannot_be_changed(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "short.mp4", [corners()] * 9, rate=999)
    assert "less than the 0.02 s that audio needs" in refused(lambda: retake.source_shape(path), path)


# ---- prompts, names, outputs ----------------------------------------------------------------------------------------


def test_a_prompt_that_takes_minutes_is_refused_at_once() -> None:
    assert list(checks.problems({"prompt": "x" * 100_000})) == []
    assert list(checks.problems({"prompt": "x" * 100_001})) == [
        "prompt has 100,001 characters, expected 100,000 at most"
    ]


@pytest.mark.parametrize("file", ["/dev/zero", "wide.txt", "~nosuchuser/x"])
def test_a_file_of_prompts_is_bounded_and_a_text(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wide.txt").write_text("a fox", encoding="utf-16")
    with pytest.raises(SystemExit):
        main(["plan", "--prompts-file", file, "--output-path", "a.mp4"])
    said = capsys.readouterr().err
    assert file in said and said.count("\n") == 1
    assert any(words in said for words in ("more than 4,000,000", "not a text in UTF-8; save", "no such user"))


@pytest.mark.parametrize(
    ("name", "patterns", "said"),
    [
        (
            "https://huggingface.co/a/b/resolve/main/c.safetensors?download=true",
            None,
            "Hugging Face: a/b/c.safetensors",
        ),
        ("https://hf.co/a/b/blob/main/d/c.safetensors", None, "Hugging Face: a/b/d/c.safetensors"),
        ("https://huggingface.co/a/b", None, "Hugging Face: a/b/FILE.safetensors"),
        ("https://huggingface.co/a/b/tree/main", GEMMA_PATTERNS, "Hugging Face: a/b"),
        ("hf://a/b/c.safetensors", None, "Hugging Face: a/b/c.safetensors"),
        ("file:///x.safetensors", None, "an address; download the file"),
        ("gone.safetensors", None, "a link to a file that is not there"),
    ],
)
def test_an_address_or_a_dead_link_is_said_to_be_one(
    name: str, patterns: tuple[str, ...] | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink("blobs/0123", "gone.safetensors")
    with pytest.raises(HubError) as error:
        resolve(name, patterns)
    assert str(error.value).startswith(f"{name}: ") and said in str(error.value)


def test_an_output_that_nothing_can_be_written_to_is_known_before_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--prompt", "a fox", "--output-path", "-"])
    assert "- is no file" in capsys.readouterr().err
    if os.path.isdir("/proc/self"):
        with pytest.raises(InputError, match="/proc cannot be written to"):
            check_output(Path("/proc/a.mp4"), overwrite=False)
