"""Images: read as a viewer shows them, resized and scaled as the reference does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from ..errors import InputError, MediaError
from .files import MAX_PIXELS, foreign, heic, regular_file

DEFAULT_IMAGE_CRF = 33
MAX_H264_SIDE = 16384  # x264 takes no longer one

# Pillow's readers that may open a file. Others start programs (EPS), or only know the header (HDF5, GRIB).
_FORMATS = (
    "PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "TGA", "ICO", "PSD", "QOI",
    "PCX", "SGI", "DDS", "ICNS",
)  # fmt: skip
_CUT = "is cut from 16 bits to 8"
_CONVERT = "convert it first, for example: sips -s format png {0} --out image.png (macOS), heif-convert {0} image.png"


class Picture(NamedTuple):
    """``(H, W, 3)`` uint8 as a viewer shows it, and what was done to it that a user may not expect."""

    pixels: np.ndarray
    notes: tuple[str, ...]


def decode_image(image_path: str | Path) -> np.ndarray:
    """``(H, W, 3)`` uint8: see ``read_picture``. Raises MediaError for what cannot be read."""
    return read_picture(image_path).pixels


def read_picture(path: str | Path) -> Picture:
    """A picture's pixels as a viewer shows them: turned as its EXIF data say, on white where it is transparent, in
    sRGB, 16 bits a channel cut to 8, the first frame of several. The reference takes the pixels as they are stored.

    Raises MediaError, in one sentence with the path, for what cannot be read, and for more than ``MAX_PIXELS``.
    """
    with _opened(path) as image:
        notes = []
        if (frames := getattr(image, "n_frames", 1)) > 1 and image.format not in ("MPO", "ICO", "ICNS", "PSD"):
            notes.append(f"has {frames} frames; the first is used")
        _refuse_raw(image, path)
        deep = _sixteen_bits(image)
        turned_by_pillow = image.format == "TIFF" and _orientation(image) != 1  # as it loads it
        image.load()
        profile = image.info.get("icc_profile")
        turned = _turned(image)
        if turned is not image or turned_by_pillow:
            notes.append("is turned as its EXIF data say")
        if turned.mode[0] in "IF" and not turned.mode.startswith("I;16"):
            raise MediaError(f"{path}: a picture of mode {turned.mode}, expected 8 bits a channel; convert it")
        pixels, shown = _opaque(turned, profile)
        if deep and not turned.mode.startswith("I;16"):  # by Pillow itself
            shown.append(_CUT)
        return Picture(pixels, (*notes, *shown))


def check_image(path: str | Path, crf: float) -> Picture:
    """The picture of ``path``. Raises MediaError or InputError where it cannot go through H.264 at ``crf``."""
    picture = read_picture(path)
    try:
        _check_compression(picture.pixels, crf)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return picture


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """A picture whose header has been read, and whose size is known to be bounded."""
    head = regular_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own limit of the size, and damage that it gets over
            with Image.open(path, formats=_FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise MediaError(_too_large(path, width, height))
                yield image
    except MediaError:
        raise
    except UnidentifiedImageError:
        what = foreign(head) or "not a picture that Pillow reads; export it as PNG or JPEG"
        if heic(head) or head[4:12] == b"ftypavif":
            what = "an HEIC or AVIF picture, which Pillow does not read here; " + _CONVERT.format(Path(path).name)
        elif head[4:8] == b"ftyp":
            what = "a video, expected a picture; save one of its frames as PNG"
        raise MediaError(f"{path}: {what}") from None
    except Image.DecompressionBombError:
        raise MediaError(_too_large(path)) from None
    except OSError as error:
        raise MediaError(f"{path}: {_sentence(error.strerror or error)}") from None
    except Exception as error:  # its readers let almost anything escape: struct.error, IndexError, zlib.error …
        what = (
            "a colour profile or a text in it is larger than Pillow reads; save it without"
            if (isinstance(error, ValueError) and "MAX_TEXT" in str(error))
            else f"a damaged picture ({_sentence(error)})"
        )
        raise MediaError(f"{path}: {what}") from None


def _too_large(path: str | Path, *size: int) -> str:
    found = "{} × {} pixels".format(*size) if size else "far more pixels"
    return f"{path}: {found}, expected {MAX_PIXELS:,} at most; make it smaller first"


def _sentence(error: object) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _orientation(image: Image.Image) -> int:
    """1 for upright, 2 to 8 for what EXIF data say else."""
    with suppress(Exception):  # damaged EXIF data: a viewer shows the picture all the same
        if (said := image.getexif().get(0x0112, 1)) in range(2, 9):
            return int(said)
    return 1


def _turned(image: Image.Image) -> Image.Image:
    """Upright, as EXIF data say; the picture itself where they say nothing, or nothing that can be read."""
    with suppress(Exception):
        if _orientation(image) != 1:
            return ImageOps.exif_transpose(image)
    return image


def _refuse_raw(image: Image.Image, path: str | Path) -> None:
    """Raises MediaError for a camera's raw photo: it is a TIFF whose first picture is a thumbnail."""
    tags = getattr(image, "tag_v2", {})
    if image.format == "TIFF" and (50706 in tags or tags.get(254) == 1):  # a version of DNG; a picture of reduced size
        raise MediaError(f"{path}: a raw photo, or only a thumbnail; develop it, and export it as PNG or JPEG")


def _sixteen_bits(image: Image.Image) -> bool:
    """True where Pillow cuts the numbers of a picture in colour to 8 bits."""
    return any(isinstance(tile[3], str) and ";16" in tile[3] for tile in getattr(image, "tile", ()))


def _opaque(image: Image.Image, profile: bytes | None) -> tuple[np.ndarray, list[str]]:
    """The picture in RGB of 8 bits, on white, and notes."""
    if image.mode.startswith("I;16"):  # grey, with 16 bits
        values = np.asarray(image).astype(np.uint16) >> 8
        return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2), [_CUT]
    notes = []
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
    if profile and (converted := _in_srgb(image, profile)) is not None:
        image = converted
        notes.append("is converted from its colour profile to sRGB")
    pixels = np.array(image.convert("RGB"))
    if alpha is not None and alpha.min() < 255:
        notes.append("is transparent in places, and shown on white")
        pixels = on_white(pixels, alpha)
    return pixels, notes


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """``(..., 3)`` uint8 over white, by ``alpha`` of the same shape without its last axis."""
    share = alpha[..., None].astype(np.uint16)
    return ((pixels * share + 255 * (255 - share) + 127) // 255).astype(np.uint8)


def _in_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The picture in sRGB, None where it is so already, or its profile cannot be read or does not fit."""
    with suppress(Exception):  # a viewer shows a picture with a damaged profile as if it had none
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        if image.mode not in ("L", "CMYK"):
            image = image.convert("RGB")
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        return ImageCms.profileToProfile(image, source, target, outputMode="RGB")
    return None


def _check_compression(image: np.ndarray, crf: float) -> None:
    height, width = image.shape[:2]
    if not 0 <= crf <= 51:
        raise InputError(f"CRF {crf}, expected 0 to 51")
    if crf and not min(height, width) >= 2:
        raise InputError(f"a picture of {width} × {height} pixels, H.264 takes 2 × 2 and more")
    if crf and max(height, width) > MAX_H264_SIDE:
        raise InputError(
            f"a picture of {width} × {height} pixels, H.264 takes {MAX_H264_SIDE} a side; make it smaller, or use CRF 0"
        )


def preprocess(image: np.ndarray, crf: float = DEFAULT_IMAGE_CRF) -> np.ndarray:
    """``(H, W, 3)`` uint8 through one H.264 frame and back, cropped to even sides. crf 0 gives it back untouched."""
    _check_compression(image, crf)
    if crf == 0:
        return image
    height, width = (side // 2 * 2 for side in image.shape[:2])
    with BytesIO() as file:
        with av.open(file, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=1, options={"crf": str(crf), "preset": "veryfast"})
            stream.width, stream.height = width, height
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
            container.mux(stream.encode())
        file.seek(0)
        with av.open(file, "r") as decoded:
            pixels: np.ndarray = next(decoded.decode(video=0)).to_ndarray(format="rgb24")
            return pixels


def resize_aspect_ratio_preserving(image: np.ndarray, long_side: int) -> np.ndarray:
    """``(H, W, C)`` or ``(F, H, W, C)``, scaled so that the longer side is ``long_side`` and the other truncated."""
    height, width = image.shape[-3:-1]
    scale = long_side / float(max(height, width))
    resized = resize_and_center_crop(image, int(height * scale), int(width * scale))
    frames: np.ndarray = resized[0].transpose(1, 2, 3, 0)
    return np.asarray(frames[0]) if len(frames) == 1 else frames


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
    result: np.ndarray = upper * (1 - weight_y) + lower * weight_y
    if image.dtype == np.uint8:
        result = np.rint(result).astype(np.uint8)
    return np.expand_dims(result.transpose(3, 0, 1, 2), 0)


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
