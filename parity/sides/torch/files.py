"""The reference's readers and writers of files."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from types import SimpleNamespace
from typing import Any
from unittest import mock

import av
import numpy as np
import torch
from ltx_core.types import Audio

from ..media import MEDIA, exact_colours, image_file, measured, scratch, uncounted_file
from ..odd_media import attempted, heard, odd_file, seen
from ..values import compared
from .bars import media_io
from .components import Torch

_CPU = torch.device("cpu")


def written(
    step: str,
    chunks: Sequence[torch.Tensor],
    rate: str,
    audio: torch.Tensor | None,
    sampling_rate: int,
    only: Sequence[str] = (),
    whole: bool = False,
) -> dict[str, Any]:
    """A written MP4, measured. The reference cuts the rate to a whole number, unless ``whole`` is false."""
    sound = None if audio is None else Audio(audio, sampling_rate)
    with scratch("clip.mp4") as path:
        if whole:
            media_io.encode_video(iter(chunks), float(Fraction(rate)), sound, str(path), len(chunks))
        else:
            with mock.patch.object(media_io, "int", lambda fps: fps, create=True):
                media_io.encode_video(iter(chunks), Fraction(rate), sound, str(path), len(chunks))
        found = measured(path)
    return compared(Torch(), step, {name: found[name] for name in only or found})


def colours(chunks: Sequence[torch.Tensor], codec: str) -> dict[str, Any]:
    """The pictures that the reference gives its encoder, in the colours of BT.709 by a computation of the harness'."""
    given: list[np.ndarray] = []
    make = av.VideoFrame.from_ndarray

    def kept(pixels: np.ndarray, format: str) -> av.VideoFrame:
        assert format == "rgb24"
        given.append(pixels.copy())
        return make(pixels, format=format)

    named = SimpleNamespace(**vars(av) | {"VideoFrame": SimpleNamespace(from_ndarray=kept)})
    with scratch("clip.mp4") as path, mock.patch.object(media_io, "av", named):
        media_io.encode_video(iter(chunks), 24, None, str(path), len(chunks))
    return compared(Torch(), "", exact_colours(np.stack(given)))


def frames(chunks: Sequence[torch.Tensor]) -> dict[str, Any]:
    """The frames as they are, counted from 0: the reference writes no pictures."""
    return {"pixels": torch.cat(list(chunks)), "first": np.array(0)}


def wav(waveform: torch.Tensor, sampling_rate: int) -> dict[str, Any]:
    """The samples as the reference gives them to its encoder."""
    given: list[np.ndarray] = []

    def keep(container: None, stream: None, frame: Any) -> None:
        given.append(frame.to_ndarray())

    with mock.patch.object(media_io, "_resample_audio", keep):
        media_io._write_audio(None, None, Audio(waveform, sampling_rate))
    return compared(Torch(), "", {"rate": sampling_rate, "channels": 2, "samples": given[0].reshape(-1, 2)})


def picture(pixels: torch.Tensor, suffix: str) -> Any:
    with image_file(pixels.numpy(), suffix) as path:
        return media_io.decode_image(str(path))


def on_white(pixels: torch.Tensor) -> np.ndarray:
    """A transparent picture over white, to the nearest step: the reference would show the colours that it hides."""
    colours, alpha = (part.numpy().astype(np.int64) for part in (pixels[..., :3], pixels[..., 3:]))
    seen: np.ndarray = np.rint((colours * alpha + 255 * (255 - alpha)) / 255).astype(np.uint8)  # never a half
    return seen


def conditioning(pixels: torch.Tensor, suffix: str, crf: int, height: int, width: int) -> torch.Tensor:
    with image_file(pixels.numpy(), suffix) as path:
        loaded: torch.Tensor = media_io.load_image_conditioning(str(path), height, width, torch.float32, _CPU, crf)
    return loaded


def resized(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
    result: torch.Tensor = media_io.resize_and_center_crop(pixels, height, width)
    return result


def aspect(pixels: torch.Tensor, side: int) -> torch.Tensor:
    result: torch.Tensor = media_io.resize_aspect_ratio_preserving(pixels, side)
    return result


def clip(cap: int) -> torch.Tensor:
    return torch.stack(list(media_io.decode_video_from_file(str(MEDIA / "clip.mp4"), cap, _CPU)))


def clip_conditioning(size: torch.Tensor) -> torch.Tensor:
    cap, height, width, _ = size.tolist()
    path = str(MEDIA / "clip.mp4")
    loaded: torch.Tensor = media_io.load_video_conditioning(path, height, width, cap, torch.float32, _CPU)
    return loaded


def metadata(step: str, rate: str, pixels: torch.Tensor) -> dict[str, Any]:
    with uncounted_file(pixels.numpy(), rate) as path:
        values = media_io.get_videostream_metadata(str(path))
    return compared(Torch(), step, dict(zip(("fps", "frames", "width", "height"), values, strict=True)))


def sound(file: str, start: float, duration: float | None) -> dict[str, Any]:
    audio = media_io.decode_audio_from_file(str(MEDIA / file), _CPU, start, duration)
    if audio is None:
        return {"nothing": np.array(1)}
    return {"waveform": audio.waveform, "rate": np.array(audio.sampling_rate)}


def odd_picture(step: str, kind: str) -> dict[str, Any]:
    with odd_file(kind) as path:
        found = attempted(lambda: {"seen": seen(media_io.decode_image(str(path)))})
    return compared(Torch(), step, found)


def odd_clip(step: str, kind: str) -> dict[str, Any]:
    def read() -> dict[str, Any]:
        _, count, width, height = media_io.get_videostream_metadata(str(path))
        frames = list(media_io.decode_video_from_file(str(path), 99, _CPU))
        return {"stated": f"{count} of {width}x{height}", "frames": len(frames), "seen": seen(frames[-1][0].numpy())}

    with odd_file(kind) as path:
        return compared(Torch(), step, attempted(read))


def odd_sound(step: str, kind: str, start: float, duration: float | None) -> dict[str, Any]:
    def read() -> dict[str, Any]:
        audio = media_io.decode_audio_from_file(str(path), _CPU, start, duration)
        assert audio is not None
        return heard(audio.waveform.numpy(), audio.sampling_rate)

    with odd_file(kind) as path:
        return compared(Torch(), step, attempted(read))


def odd_rate(step: str, pixels: torch.Tensor, waveform: torch.Tensor, rate: int) -> dict[str, Any]:
    def write() -> dict[str, Any]:
        media_io.encode_video(iter([pixels]), 24, Audio(waveform, rate), str(path), 1)
        return {"rate": measured(path)["audio.rate"]}

    with scratch("clip.mp4") as path:
        return compared(Torch(), step, attempted(write))
