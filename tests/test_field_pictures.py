"""Pictures as people have them: read as a viewer shows them, or refused in one sentence with the name."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from media_files import BLUE, GREEN, GREY, RED, colours, corners, png_chunk, png_of_size, refused, saved
from PIL import Image, ImageCms

from ltx2_mlx import media
from ltx2_mlx.errors import MediaError
from ltx2_mlx.media.images import check_image, read_picture


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
    "deep.tif": (lambda: saved(Image.fromarray(np.ones((4, 4), np.float32)), "tiff"), "mode F"),
}


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
    whole = np.frombuffer(saved(Image.fromarray(corners(48, 48)), kind), np.uint8)
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
