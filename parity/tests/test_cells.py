"""The comparison itself, a test for each stage and config: all lanes, all cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from parity.run.cells import select
from parity.run.live import Runner

CELLS = select()


@pytest.mark.parametrize(("stage", "config"), CELLS, ids=[f"{stage.name}-{config}" for stage, config in CELLS])
def test_cell(stage: object, config: str, checkpoints: Path) -> None:
    results = Runner().run([(stage, config)])
    first = results.first_divergence()
    assert first is None, f"first divergence: {first.place}: {first.verdict} {first.why}"
    assert all(c.whole for c in results.coverage), results.coverage[0].uncovered
    assert results.rows
