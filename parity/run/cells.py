"""Which cells there are, and which of them are chosen. A cell is a stage on a config."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from pathlib import Path
from typing import Any

from ltx2_mlx.errors import InputError
from ltx2_mlx.loading.checkpoint import Checkpoint, CheckpointPath
from ltx2_mlx.loading.gemma import is_gemma_file
from ltx2_mlx.loading.load import build

from ..declare.model import Stage
from ..declare.stages import PHASES, stages
from ..sides.loading import files_of, joined, read

IN_MEMORY = 4e9  # bytes that a component may need to be compared in memory; a larger one is streamed
NEEDED = 20  # bytes for each parameter: float32 on both sides, the float64 oracle, and its gradients


def manifest(chosen: list[tuple[Stage, str]]) -> list[dict[str, Any]]:
    """Every stage there is, in data order, for the report: which of its configs ran, and what it declares not to
    compare or to be no fault."""
    ran = {stage.name: [config for other, config in chosen if other.name == stage.name] for stage, _ in chosen}
    phases = {name: phase for phase, names in PHASES.items() for name in names}
    order = list(phases)
    return [
        {
            "stage": stage.name,
            "reference": stage.reference,
            "phase": phases.get(stage.name, ""),
            "configs": list(stage.configs),
            "ran": ran.get(stage.name, []),
            "layout": stage.layout,
            "reference_only": stage.reference_only,
            "different": stage.different(),
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


@dataclass(frozen=True)
class RealFiles:
    """Files in the place of the tiny ones; ``checkpoint`` may be a Gemma folder or an upsampler as well."""

    checkpoint: Path | None = None
    gemma: Path | None = None
    upsampler: Path | None = None

    def __bool__(self) -> bool:
        return bool(self.given)

    @property
    def given(self) -> tuple[Path, ...]:
        return tuple(path for path in (self.checkpoint, self.gemma, self.upsampler) if path)


@dataclass(frozen=True)
class RealCells:
    """The stages that real files are compared in. files: component → its file. streamed: those of the stages of which a
    component is too large for memory."""

    chosen: list[tuple[Stage, str]]
    files: dict[str, CheckpointPath]
    streamed: frozenset[str]


def real_cells(real: RealFiles, glob: str = "*") -> RealCells:
    """The cells of the parts that files hold, as far as their stages match a glob: what does not is not looked at.

    Raises CheckpointError unless each part is whole, and InputError for one that no run can hold.
    """
    headers = {path: read(path) for path in real.given}
    held = [stage for stage in stages().values() if stage.component and not stage.loras]
    files: dict[str, CheckpointPath] = {}
    for path, checkpoint in headers.items():
        files |= {s.main: path for s in held if checkpoint.holds(s.main) and s.main not in files}
    if "embeddings_processor" in files and real.gemma and is_gemma_file(real.gemma):  # it has their projection
        files["embeddings_processor"] = joined([*files_of(files["embeddings_processor"]), real.gemma])
    named = [stage for stage in held if stage.component in files and fnmatchcase(stage.name, glob)]
    named = [stage for stage in named if stage.fits(headers[files_of(files[stage.main])[0]].config)]
    if not files:
        build("transformer", headers[real.given[0]])  # says what is wrong with the file
    needed = {component: needed_for(component, read(files[component])) for component in _components(named, files)}
    large = {component for component, size in needed.items() if size > IN_MEMORY or not is_mapped(files[component])}
    streamed = {stage.name for stage in named if large & {stage.main, *stage.also}}
    if unread := next((s for s in named if s.name in streamed and not s.mirrored), None):
        raise InputError(
            f"{files[unread.main]}: too large to be compared in memory, and the reference of the stage {unread.name}, "
            f"{unread.reference}, is not read page by page. Choose other stages by --stage"
        )
    return RealCells([(stage, files_of(files[stage.main])[0].stem) for stage in named], files, frozenset(streamed))


def _components(named: list[Stage], files: dict[str, CheckpointPath]) -> list[str]:
    found = [component for stage in named for component in (stage.main, *stage.also) if component in files]
    return list(dict.fromkeys(found))


def is_mapped(path: CheckpointPath) -> bool:
    """Say whether ltx-core's loader can take a file: it maps it whole, to be written, whatever it reads of it, and
    Linux refuses that for one of about the memory's size."""
    files = files_of(path)
    return not files[0].is_file() or max(file.stat().st_size for file in files) < memory_size() / 2


def memory_size() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def needed_for(component: str, checkpoint: Checkpoint) -> float:
    """Bytes that a component takes to be compared in memory. Raises CheckpointError unless it is whole."""
    _, keys = build(component, checkpoint)
    return float(sum(prod(checkpoint.tensors[key].shape) for key in keys.values()) * NEEDED)
