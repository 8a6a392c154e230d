"""The parts of the reference that were compared, and what was declared and never seen."""

from __future__ import annotations

from ..declare.model import Stage
from ..judge.results import Coverage, Results
from .recorded import Inventory


def function_names(stage: Stage) -> set[str]:
    return {tap.name for tap in stage.functions}


def coverage_of(
    stage: Stage, config: str, inventory: Inventory, compared: set[str], moving: dict[str, float]
) -> Coverage:
    # A leaf without a call of its own is compared through its methods.
    functions, idle = function_names(stage), stage.idle.get(config, ())
    compared |= {tap.rpartition(".")[0] for tap in compared if tap.rpartition(".")[2] in functions}
    sizes = {name: size for name, size in inventory.sizes.items() if name not in idle or moving.get(name)}
    missed = [name for name in inventory.leaves if name not in compared] + [n for n in sizes if not moving.get(n)]
    missed += [f"{name} (declared idle)" for name in idle if moving.get(name) or name not in inventory.sizes]
    return Coverage(
        stage.name,
        config,
        leaves=len(inventory.leaves),
        leaves_compared=sum(name in compared for name in inventory.leaves),
        parameters=len(sizes),
        parameters_moving=sum(bool(moving.get(name)) for name in sizes),
        elements=sum(sizes.values()),
        elements_moving=round(sum(moving.get(name, 0.0) * size for name, size in sizes.items())),
        uncovered=missed,
    )


def silent(results: Results, cells: list[tuple[str, str]], lanes: str = "") -> list[str]:
    """The chosen cells of which nothing was judged, and those of ``lanes`` in which nothing was."""
    judged = {(row.stage, row.config) for row in results.rows} | {(p.pipeline, p.config) for p in results.pipelines}
    empty = [f"{name} {config}: nothing of it is judged in the chosen lanes" for name, config in cells]
    found = [said for said, cell in zip(empty, cells, strict=True) if cell not in judged]
    # A pipeline's run in float32 stands for lanes A and C, one in bfloat16 for lane B.
    seen = {row.lane for row in results.rows}
    seen |= set("".join("AC" if row.dtype == "float32" else "B" for row in results.pipelines))
    found += [f"lane {lane}: nothing is judged in it" for lane in lanes if lane not in seen]
    return found or ([] if cells else ["no cell at all"])


def unseen(results: Results, chosen: list[tuple[Stage, str]]) -> list[str]:
    """Declared function taps that no case reached: holes in the manifest."""
    holes = []
    for stage in {stage.name: stage for stage, _ in chosen}.values():
        ran = {config for s, config in chosen if s.name == stage.name}
        rows = (row for row in results.rows if row.stage == stage.name)
        seen = {part for row in rows for part in row.name.partition(":")[0].split(".")}
        for tap in stage.functions:
            if ran & set(tap.configs or stage.configs) and tap.name not in seen:
                holes.append(f"{stage.name} {tap.name}")
    return holes
