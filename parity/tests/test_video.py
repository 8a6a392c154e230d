"""The video side free-running: whole calls, in tiles too, from the inputs to the result, beside torch's float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parity.declare.stages import stages
from parity.run.live import Runner
from parity.tap.execute import execute

UPSAMPLERS = stages()["upsampler"].configs
CALLS = [
    *(("video_encoder", config, "base") for config in ("tiny-2.0", "tiny-2.3", "tiny-2.0-timestep")),
    ("video_encoder", "tiny-2.0-timestep", "tiled"),
    *(("video_decoder", config, case) for config in ("tiny-2.0", "tiny-2.3") for case in ("base", "tiled")),
    *(("upsampler", config, "base") for config in UPSAMPLERS),
]


@pytest.mark.parametrize(("name", "config", "case"), CALLS, ids=["-".join(call) for call in CALLS])
def test_free_running_results_agree_to_1e_5(name: str, config: str, case: str, checkpoints: Path) -> None:
    runner, stage = Runner(), stages()[name]
    pair = runner.load(stage, config, "float32")
    chosen = stage.cases(pair.config)[case]
    results = []
    for side, modules in ((runner.side(pair.stage), pair.reference), (runner.mlx, pair.ours)):
        result = execute(side, stage, modules, chosen, "float32", "float32", None)
        chunks = result if isinstance(result, list) else [result]
        results.append(np.concatenate([side.to_numpy(chunk).values for chunk in chunks], axis=2).astype(np.float64))
    theirs, ours = results
    assert ours.shape == theirs.shape
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) <= 1e-5
