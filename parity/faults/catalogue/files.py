"""Faults of files and of finished videos: what ``parity debug`` is given is wrong, not the product's source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np


@dataclass(frozen=True)
class FileFault:
    """``change`` is what becomes of the metadata and tensors of ``file``, a tiny checkpoint by name."""

    id: str
    description: str
    file: str
    change: Callable[[dict[str, str], dict[str, mx.array]], None]
    cause: str = ""

    def write(self, source: Path, folder: Path) -> Path:
        """Put a copy of the file with the fault in it into ``folder``."""
        loaded = mx.load(str(source), return_metadata=True)
        assert isinstance(loaded, tuple)  # as asked for with return_metadata
        tensors, metadata = loaded
        self.change(metadata, tensors)
        target = folder / source.name
        mx.save_safetensors(str(target), tensors, metadata)
        return target


@dataclass(frozen=True)
class ClipFault:
    """``frames`` makes a faulty video, ``(F, H, W, 3)`` bytes."""

    id: str
    description: str
    frames: Callable[[], np.ndarray]
    cause: str = ""


def picture(light: float = 0.34, spread: float = 36.0) -> np.ndarray:
    """Frames of a moving, smooth picture, ``(F, H, W, 3)`` bytes, of this brightness (0 to 1) and spread (in bytes)."""
    t, y, x, c = np.meshgrid(*(np.linspace(0, 1, n) for n in (9, 48, 64, 3)), indexing="ij")
    wave = np.sin(7 * x + 3 * t + c) + np.cos(5 * y - 2 * t + 0.5 * c)
    wave = (wave - wave.mean()) / wave.std()
    return np.asarray(np.clip(255 * light + spread * wave, 0, 255), np.uint8)


def noise() -> np.ndarray:
    """Frames of pixels that have nothing to do with each other, ``(F, H, W, 3)`` bytes."""
    values = np.clip(150 + 30 * np.random.default_rng(0).standard_normal((9, 48, 64, 3)), 0, 255)
    return np.asarray(values, np.uint8)


def _says(old: str, new: str) -> Callable[[dict[str, str], dict[str, mx.array]], None]:
    """The file's config with one text replaced."""

    def change(metadata: dict[str, str], tensors: dict[str, mx.array]) -> None:
        assert old in metadata["config"], f"the config does not say {old}"
        metadata["config"] = metadata["config"].replace(old, new)

    return change


def _renamed(metadata: dict[str, str], tensors: dict[str, mx.array]) -> None:
    for key in list(tensors):
        tensors[key.replace("transformer_blocks.", "another_list.")] = tensors.pop(key)


FILES: tuple[FileFault | ClipFault, ...] = (
    FileFault(
        "Y50",
        "the config says that the decoder has no timestep, although the file holds its embedder",
        "tiny-2.0-timestep",
        _says('"timestep_conditioning": true', '"timestep_conditioning": false'),
        cause="other network",
    ),
    FileFault(
        "Y51",
        "the upsampler's weights with the config of another upsampler",
        "tiny-2.0-upsampler-x2",
        _says('"spatial_scale": 2.0', '"spatial_scale": 1.5'),
        cause="other network",
    ),
    FileFault("Y52", "a LoRA whose layers have other names", "tiny-2.0-lora", _renamed, cause="wrong weights"),
    ClipFault("Y60", "a video with dark frames", lambda: picture(0.12, 14), cause="wrong input"),
    ClipFault("Y61", "a video of noise", noise, cause="wrong input"),
    ClipFault("Y62", "a video with grey frames", lambda: picture(0.6, 8.6), cause="missing normalisation"),
)
