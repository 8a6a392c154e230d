"""Images: decoded, resized and scaled as the reference does."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path

import av
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import InputError, MediaError

DEFAULT_IMAGE_CRF = 33


def decode_image(image_path: str | Path) -> np.ndarray:
    """``(H, W, 3)`` uint8. Transparency is dropped and EXIF orientation is not applied, as in the reference.

    Grey and palette pictures become RGB (the reference takes them for other shapes); 16-bit ones are refused.
    """
    try:
        with Image.open(image_path) as image:
            if image.mode[0] in "IF":
                raise InputError(f"{image_path}: a picture of mode {image.mode}, expected 8 bits a channel; convert it")
            return np.array(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise MediaError(f"{image_path}: not a picture that Pillow reads") from error
    except OSError as error:
        raise MediaError(f"{image_path}: {error.strerror or error}") from error


def preprocess(image: np.ndarray, crf: float = DEFAULT_IMAGE_CRF) -> np.ndarray:
    """``(H, W, 3)`` uint8 through one H.264 frame and back, cropped to even sides. crf 0 gives it back untouched."""
    if crf == 0:
        return image
    if not 0 < crf <= 51:
        raise InputError(f"CRF {crf}, expected 0 to 51")
    height, width = (side // 2 * 2 for side in image.shape[:2])
    if not (height and width):
        raise InputError(f"a picture of {image.shape[1]} × {image.shape[0]} pixels, H.264 takes 2 × 2 and more")
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
