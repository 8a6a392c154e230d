"""The video side free-running: whole calls, in tiles too, from the inputs to the result, beside torch's float32."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.declare.stages import stages
from parity.run.live import Runner
from parity.sides.loading import read
from parity.sides.mlx import MLX
from parity.sides.torch import Torch
from parity.tap.execute import execute

UPSAMPLERS = stages()["upsampler"].configs
CALLS = [
    *(("video_encoder", config, "base") for config in ("tiny-2.0", "tiny-2.3", "tiny-2.0-timestep")),
    ("video_encoder", "tiny-2.0-timestep", "tiled"),
    *(("video_decoder", config, case) for config in ("tiny-2.0", "tiny-2.3") for case in ("base", "tiled")),
    *(("upsampler", config, "base") for config in UPSAMPLERS),
]


@functools.cache
def loaded(name: str, config: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """A stage's config, and its components on both sides, once for all its cases."""
    runner, stage = Runner(), stages()[name]
    paths = runner.paths(stage, config)
    reference = {part: Torch().load(part, path, read(path).config, "float32") for part, path in paths.items()}
    return dict(read(paths[stage.main]).config), reference, runner.ours(paths, "float32")


@pytest.mark.parametrize(("name", "config", "case"), CALLS, ids=["-".join(call) for call in CALLS])
def test_free_running_results_agree_to_1e_5(name: str, config: str, case: str, checkpoints: Path) -> None:
    stage, (config_of, reference, ours) = stages()[name], loaded(name, config)
    chosen = stage.cases(config_of)[case]
    results = []
    for side, modules in ((Torch(), reference), (MLX(), ours)):
        result = execute(side, stage, modules, chosen, "float32", "float32", None)
        chunks = result if isinstance(result, list) else [result]
        results.append(np.concatenate([side.to_numpy(chunk).values for chunk in chunks], axis=2).astype(np.float64))
    wanted, found = results
    assert found.shape == wanted.shape
    assert np.linalg.norm(found - wanted) / np.linalg.norm(wanted) <= 1e-5
