"""Headers of checkpoints, and components loaded as a stage asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ltx2_mlx.loading.checkpoint import Checkpoint, read_checkpoint
from ltx2_mlx.loading.gemma import is_gemma_file, read_gemma

from ..declare.inputs import FIXTURES
from ..declare.model import Stage
from .mlx import MLX


def loading_options(stage: Stage, config: str) -> dict[str, Any]:
    """How both sides load the stage's component: LoRAs fused, weights in float8."""
    loras = tuple((FIXTURES / f"{name.format(config=config)}.safetensors", by) for name, by in stage.loras)
    return {"loras": loras, "quantization": stage.quantization}


def load_ours(mlx: MLX, paths: dict[str, Path], dtype: str, **options: Any) -> dict[str, Any]:
    """Component → module of ours."""
    return {name: mlx.load(name, p, read(p).config, dtype, **options) for name, p in paths.items()}


def read(path: Path) -> Checkpoint:
    """The header of a checkpoint, or of a Gemma: a folder, or the file of a text encoder."""
    return read_gemma(path) if (path / "config.json").exists() or is_gemma_file(path) else read_checkpoint(path)
