"""Which cells there are, and which of them are chosen. A cell is a stage on a config."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

from ltx2_mlx.errors import CheckpointError
from ltx2_mlx.loading.load import build

from ..declare.model import Stage
from ..declare.stages import PHASES, stages
from ..sides.loading import read


def manifest(chosen: list[tuple[Stage, str]]) -> list[dict[str, Any]]:
    """Every stage there is, in data order, for the report: which of its configs ran, and what it declares not to
    compare or to be no fault."""
    ran = {stage.name: [config for other, config in chosen if other.name == stage.name] for stage, _ in chosen}
    phases = {name: phase for phase, names in PHASES.items() for name in names}
    order = list(phases)
    return [
        {
            "stage": stage.name,
            "phase": phases.get(stage.name, ""),
            "configs": list(stage.configs),
            "ran": ran.get(stage.name, []),
            "layout": stage.layout,
            "reference_only": stage.reference_only,
            "different": stage.different,
            "constant": stage.constant,
            "idle": {config: list(names) for config, names in stage.idle.items()},
            "defined": list(stage.defined),
            "injected": [tap.name for tap in stage.functions if tap.injected],
        }
        for stage in sorted(stages().values(), key=lambda s: order.index(s.name) if s.name in phases else len(order))
    ]


def select(stage: str = "*", config: str = "*", registry: dict[str, Stage] | None = None) -> list[tuple[Stage, str]]:
    """The cells (stage, config) that match two globs."""
    return [
        (s, c)
        for s in (registry or stages()).values()
        for c in s.configs
        if fnmatchcase(s.name, stage) and fnmatchcase(c, config)
    ]


def check_checkpoint(path: Path) -> list[Stage]:
    """The stages of the parts that a file holds.

    Raises CheckpointError unless each part is whole, and fits in memory on both sides.
    """
    checkpoint = read(path)
    fitting = [s for s in stages().values() if s.component and not s.loras and checkpoint.holds(s.component)]
    for component in dict.fromkeys(stage.component or "" for stage in fitting) or ["transformer"]:
        _, keys = build(component, checkpoint)
        parameters = sum(prod(checkpoint.tensors[key].shape) for key in keys.values())
        needed = parameters * 20 / 1e9  # float32 on both sides, the float64 oracle, and its gradients
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
        if needed > memory:
            raise CheckpointError(
                f"{path}: {parameters / 1e9:.1f} billion parameters need about {needed:.0f} GB here (float32 on "
                f"both sides and a float64 oracle), this machine has {memory:.0f} GB. Use a smaller checkpoint"
            )
    return fitting
