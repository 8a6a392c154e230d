"""Our readers and writers of files."""

from __future__ import annotations

import importlib
import wave
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

from .media import MEDIA, exact_colours, image_file, measured, scratch, snapped, stored_colours, uncounted_file
from .mlx import MLX
from .odd_media import attempted, heard, odd_file, seen
from .values import compared


def _product(module: str) -> Any:
    return importlib.import_module(f"ltx2_mlx.{module}")  # looked up when called, see sides/mlx.py


def written(
    step: str,
    chunks: Sequence[mx.array],
    rate: str,
    audio: mx.array | None,
    sampling_rate: int,
    only: Sequence[str] = (),
) -> dict[str, Any]:
    """A written MP4, measured."""
    sound = None if audio is None else _product("types").Audio(audio, sampling_rate)
    with scratch("clip.mp4") as path:
        _product("media").encode_video(iter(chunks), float(Fraction(rate)), sound, path)
        found = measured(path)
    return compared(MLX(), step, {name: found[name] for name in only or found})


def colours(chunks: Sequence[mx.array], codec: str) -> dict[str, Any]:
    """The planes that reach the encoder: those of a file that is written without loss, or, as ProRes, with as little as
    can be. Half a step from the exact value is what rounding to whole steps gives."""
    options, most = ({"preset": "hq"}, 0.14) if codec == "prores" else ({"crf": 0}, 0.52)
    with scratch("clip.mov") as path:
        encoding = _product("media").Encoding(codec, **options)
        _product("media").encode_video(iter(chunks), 24.0, None, path, encoding=encoding)
        exact = exact_colours(np.concatenate([np.array(chunk) for chunk in chunks]))
        return compared(MLX(), "", snapped(stored_colours(path), exact, most))


def frames(chunks: Sequence[mx.array]) -> dict[str, np.ndarray]:
    """A folder of pictures, read again in the order of their names, and the number of the first."""
    with scratch("frames") as folder:
        _product("media").save_png_frames(folder, iter(chunks))
        files = sorted(folder.iterdir())
        first = int(files[0].stem.rpartition("_")[2])
        return {"pixels": np.stack([np.array(Image.open(file)) for file in files]), "first": np.array(first)}


def wav(waveform: mx.array, sampling_rate: int) -> dict[str, Any]:
    """A file of samples, read again."""
    with scratch("audio.wav") as path:
        _product("media").save_wav(path, _product("types").Audio(waveform, sampling_rate))
        with wave.open(str(path)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
            found = {"rate": file.getframerate(), "channels": file.getnchannels(), "samples": samples}
    return compared(MLX(), "", found)


def picture(pixels: mx.array, suffix: str) -> np.ndarray:
    with image_file(np.array(pixels), suffix) as path:
        decoded: np.ndarray = _product("media").decode_image(path)
        return decoded


def on_white(pixels: mx.array) -> np.ndarray:
    return picture(pixels, "png")


def conditioning(pixels: mx.array, suffix: str, crf: int, height: int, width: int) -> np.ndarray:
    with image_file(np.array(pixels), suffix) as path:
        loaded: np.ndarray = _product("media").load_image_conditioning(path, height, width, crf)
        return loaded


def resized(pixels: mx.array, height: int, width: int) -> np.ndarray:
    result: np.ndarray = _product("media").resize_and_center_crop(np.array(pixels), height, width)
    return result


def aspect(pixels: mx.array, side: int) -> np.ndarray:
    result: np.ndarray = _product("media").resize_aspect_ratio_preserving(np.array(pixels), side)
    return result


def clip(cap: int) -> np.ndarray:
    return np.stack(list(_product("media").decode_video_from_file(MEDIA / "clip.mp4", cap)))


def clip_conditioning(size: mx.array) -> np.ndarray:
    cap, height, width, _ = np.array(size).tolist()
    loaded: np.ndarray = _product("media").load_video_conditioning(MEDIA / "clip.mp4", height, width, cap)
    return loaded


def metadata(step: str, rate: str, pixels: mx.array) -> dict[str, Any]:
    with uncounted_file(np.array(pixels), rate) as path:
        values = _product("media").get_videostream_metadata(path)
    return compared(MLX(), step, dict(zip(("fps", "frames", "width", "height"), values, strict=True)))


def sound(file: str, start: float, duration: float | None) -> dict[str, Any]:
    audio = _product("media").decode_audio_from_file(MEDIA / file, start, duration)
    if audio is None:
        return {"nothing": np.array(1)}
    return {"waveform": audio.waveform, "rate": np.array(audio.sampling_rate)}


def odd_picture(step: str, kind: str) -> dict[str, Any]:
    with odd_file(kind) as path:
        found = attempted(lambda: {"seen": seen(_product("media").decode_image(path))})
    return compared(MLX(), step, found)


def odd_clip(step: str, kind: str) -> dict[str, Any]:
    media = _product("media")

    def read() -> dict[str, Any]:
        _, count, width, height = media.get_videostream_metadata(path)
        frames = list(media.decode_video_from_file(path))
        return {"stated": f"{count} of {width}x{height}", "frames": len(frames), "seen": seen(frames[-1][0])}

    with odd_file(kind) as path:
        return compared(MLX(), step, attempted(read))


def odd_sound(step: str, kind: str, start: float, duration: float | None) -> dict[str, Any]:
    def read() -> dict[str, Any]:
        audio = _product("media").decode_audio_from_file(path, start, duration)
        return heard(np.array(audio.waveform), audio.sampling_rate)

    with odd_file(kind) as path:
        return compared(MLX(), step, attempted(read))


def odd_rate(step: str, pixels: mx.array, waveform: mx.array, rate: int) -> dict[str, Any]:
    """The rate of the audio in a file of audio at one that AAC does not take."""

    def write() -> dict[str, Any]:
        sound = _product("types").Audio(waveform, rate)
        _product("media").encode_video(iter([pixels]), 24.0, sound, path)
        return {"rate": measured(path)["audio.rate"]}

    with scratch("clip.mp4") as path:
        return compared(MLX(), step, attempted(write))
