"""What the table of symptoms is made of: checks, the faults that they find, and how a fault comes into a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..faults.catalogue import MUTATIONS, Mutation

CLIP = "clip.npy"  # the video that a command about finished videos is given
_BY_ID = {mutation.id: mutation for mutation in MUTATIONS}


@dataclass(frozen=True)
class Changed:
    """A fault that is in a file: what becomes of its metadata and tensors. ``file``: the command's argument."""

    fault: str
    file: str
    change: Callable[[dict[str, str], dict[str, mx.array]], None]


@dataclass(frozen=True)
class Clip:
    """A fault that is in the frames: ``(F, H, W, 3)`` bytes."""

    fault: str
    frames: Callable[[], np.ndarray]


Fault = Mutation | Changed | Clip


@dataclass(frozen=True)
class Check:
    """healthy, faulty: words of the command's sentence without and with the fault. fault None: there is none to find,
    and the healthy sentence says so."""

    cause: str
    command: str
    healthy: str
    faulty: str = ""
    fault: Fault | None = None

    @property
    def argv(self) -> list[str]:
        return self.command.split()


@dataclass(frozen=True)
class Symptom:
    """reported: figures for the 19B model, not measured here."""

    name: str
    checks: tuple[Check, ...]
    reported: str = ""


def edit(fault: str, file: str, old: str, new: str) -> Mutation:
    return Mutation(f"debug: {fault}", fault, file, old, new, tap="")


def check(cause: str, command: str, healthy: str, faulty: str, fault: str | Fault) -> Check:
    """fault: the id of a planted fault, or one of this table's own."""
    return Check(cause, command, healthy, faulty, _BY_ID[fault] if isinstance(fault, str) else fault)


def untold(metadata: dict[str, str], tensors: dict[str, mx.array]) -> None:
    metadata["config"] = metadata["config"].replace('"timestep_conditioning": true', '"timestep_conditioning": false')


def renamed(metadata: dict[str, str], tensors: dict[str, mx.array]) -> None:
    for key in list(tensors):
        tensors[key.replace("diffusion_model.", "base_model.model.")] = tensors.pop(key)


def other_upsampler(metadata: dict[str, str], tensors: dict[str, mx.array]) -> None:
    metadata["config"] = metadata["config"].replace('"spatial_scale": 2.0', '"spatial_scale": 1.5')


def picture(light: float = 0.34, spread: float = 36.0) -> np.ndarray:
    """A moving, smooth picture of this brightness (0 to 1) and standard deviation (bytes)."""
    t, y, x, c = np.meshgrid(*(np.linspace(0, 1, n) for n in (9, 48, 64, 3)), indexing="ij")
    wave = np.sin(7 * x + 3 * t + c) + np.cos(5 * y - 2 * t + 0.5 * c)
    wave = (wave - wave.mean()) / wave.std()
    return np.clip(255 * light + spread * wave, 0, 255).astype(np.uint8)


def noise() -> np.ndarray:
    return np.clip(150 + 30 * np.random.default_rng(0).standard_normal((9, 48, 64, 3)), 0, 255).astype(np.uint8)


def place(fault: Changed, source: Path, folder: Path) -> Path:
    """The file of a command with the fault in it, in ``folder``."""
    tensors, metadata = mx.load(str(source), return_metadata=True)
    fault.change(metadata, tensors)
    target = folder / source.name
    mx.save_safetensors(str(target), tensors, metadata)
    return target
