"""Headers of checkpoints, and components loaded as a stage asks for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ltx2_mlx.loading.checkpoint import Checkpoint, CheckpointFiles, CheckpointPath, read_checkpoint
from ltx2_mlx.loading.gemma import is_gemma_file, read_gemma

from ..declare.inputs import FIXTURES, SPLIT
from ..declare.model import Stage
from .mlx import MLX


def loading_options(stage: Stage, config: str) -> dict[str, Any]:
    """How both sides load the stage's component: LoRAs fused, weights in float8."""
    loras = tuple((FIXTURES / f"{name.format(config=config)}.safetensors", by) for name, by in stage.loras)
    return {"loras": loras, "quantization": stage.quantization}


def load_ours(mlx: MLX, paths: dict[str, CheckpointPath], dtype: str, **options: Any) -> dict[str, Any]:
    """Component → module of ours."""
    return {name: mlx.load(name, p, read(p).config, dtype, **options) for name, p in paths.items()}


def tiny(config: str, folder: bool = False) -> CheckpointPath:
    """The small checkpoint of a config: a file, a folder, or several files."""
    return joined([FIXTURES / (name if folder else f"{name}.safetensors") for name in SPLIT.get(config, (config,))])


def joined(files: Sequence[Path]) -> CheckpointPath:
    """The checkpoint of one file, or of those two that 2.5's text connectors and their projection lie in."""
    return files[0] if len(files) == 1 else CheckpointFiles(transformer_path=files[0], text_encoder_path=files[1])


def files_of(path: CheckpointPath) -> tuple[Path, ...]:
    """The files (or the folder) of a checkpoint, that with its config first."""
    return tuple(map(Path, path.given().values())) if isinstance(path, CheckpointFiles) else (Path(path),)


def read(path: CheckpointPath) -> Checkpoint:
    """The header of a checkpoint, or of a Gemma: a folder, or the file of a text encoder."""
    if isinstance(path, CheckpointFiles):
        return read_checkpoint(path)
    path = Path(path)
    return read_gemma(path) if (path / "config.json").exists() or is_gemma_file(path) else read_checkpoint(path)
