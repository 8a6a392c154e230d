"""Our pipelines, run with the noise that the reference drew."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from ..declare.model import Files, Pipeline
from ..tap.watch import Watched, record
from .mlx import MLX


class Replay:
    """Draws random numbers as ``ltx2_mlx.nn.noise.Generator`` does, from those that the reference drew.

    One for all the generators of a pipeline. Raises ValueError where ours draws another shape, or once more.
    """

    def __init__(self, draws: list[np.ndarray]):
        self.left = list(enumerate(draws))[::-1]

    def _next(self, shape: Sequence[int]) -> np.ndarray:
        if not self.left:
            raise ValueError(f"a draw of {tuple(shape)} that the reference does not make")
        index, values = self.left.pop()
        if values.shape != tuple(shape):
            raise ValueError(f"draw {index} has the shape {tuple(shape)}, the reference's has {values.shape}")
        return values

    def randn(self, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
        return mx.array(self._next(shape).astype(np.float32)).astype(dtype)

    def randn64(self, shape: Sequence[int]) -> np.ndarray:
        return self._next(shape).astype(np.float64)


def run_pipeline(pipeline: Pipeline, dtype: str, files: Files, noise: list[np.ndarray]) -> Watched:
    """Our pipeline with the reference's ``noise``. What it raises, and draws left over, are the recording's error."""
    side, recording, replay, start = MLX(), Watched(), Replay(noise), time.monotonic()

    def arguments(of: Callable[[Files], dict[str, Any]]) -> Any:
        return side.materialise(of(files), pipeline, dtype, dtype)

    def call() -> Any:
        package = importlib.import_module("ltx2_mlx.pipelines")
        settings = package.Settings(dtype=side.dtype(dtype), noise=lambda seed: replay)
        made = getattr(package, pipeline.cls)(**arguments(pipeline.init), settings=settings)
        return made(**arguments(pipeline.call))

    try:
        record(side, pipeline, call, recording)
        if replay.left:
            recording.error = f"{len(replay.left)} of the reference's {len(noise)} draws were not made"
    except Exception as error:
        recording.error = f"{type(error).__name__}: {error}"
    recording.seconds = time.monotonic() - start
    return recording
