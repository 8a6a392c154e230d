"""The way from a recording to verdicts: ours on the reference's recorded inputs, recorded just now or read from a file.

Nothing here knows torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

from ..declare.inputs import FIXTURES
from ..declare.model import Stage
from ..judge.results import Reason, Results, Row
from ..judge.verdicts import judge
from ..sides.loading import files_of, load_ours, read, tiny
from ..sides.mlx import MLX, compiler_trouble, shipped
from ..sides.pair import Pair
from ..tap.execute import execute
from ..tap.matching import met
from ..tap.session import Session
from ..tap.side import Side
from ..tap.trace import Tensor, Trace
from .coverage import coverage_of, function_names
from .recorded import Recorded, Recording
from .streaming import MemoryLimitError

Replayed = Callable[[Recorded], Trace]


def replay(mlx: MLX, recorded: Recorded, ours: dict[str, Any] | None = None) -> Trace:
    """Ours (or other modules in their place), every tap on the reference's recorded inputs."""
    pair = recorded.pair
    session = pair.session("ours", mlx, recorded.trace, probes_of(pair))
    return run_tapped(mlx, pair, ours or pair.ours, recorded, pair.dtype, session)


def replay_free(mlx: MLX, recorded: Recorded, ours: dict[str, Any] | None = None) -> Trace:
    """Ours from the inputs on, module by module, but for what ``Stage.defined`` hands over.

    It runs as it is shipped: compiled, and with caches that have seen the cases of ``Case.after``.
    """
    pair, modules = recorded.pair, ours or recorded.pair.ours
    # Of what is exact only the grids are handed over: which calls a cache spares is the product's business.
    exact = {f"*{tap.name}" for tap in pair.stage.functions if tap.exact}
    only = tuple(pattern for pattern in handed_over(pair) if pattern not in exact)
    session = pair.session("ours free", mlx, recorded.trace, only=only, keeps="module outputs")
    session.shipped = True
    given = (call.inputs.get("indices") for call in recorded.trace.calls.values())
    with shipped([grid.values for grid in given if isinstance(grid, Tensor)]):
        for earlier in recorded.case.after:
            with contextlib.suppress(Exception):  # it is judged by itself
                _run_before(mlx, pair, modules, earlier)
        return run_tapped(mlx, pair, modules, recorded, pair.dtype, session)


def _run_before(mlx: MLX, pair: Pair, modules: dict[str, Any], earlier: str) -> None:
    """Run a case that ``Case.after`` names, for what it leaves in the caches."""
    place, _, dtype = earlier.partition("@")
    other, _, name = place.rpartition(":")
    config = pair.config
    if other:
        if files_of(pair.paths[pair.stage.main])[0].parent != FIXTURES:  # only the small checkpoints have such a twin
            return
        paths = dict.fromkeys(pair.paths, tiny(other))
        modules, config = load_ours(mlx, paths, pair.dtype), read(paths[pair.stage.main]).config
    dtype = dtype or pair.dtype
    execute(mlx, pair.stage, modules, pair.stage.cases(config)[name], dtype, dtype, None)


def run_tapped(
    side: Side, pair: Pair, modules: dict[str, Any], recorded: Recorded, model: str, session: Session
) -> Trace:
    """The trace of one run. An exception is kept on the call that raised; what it never reached is missing."""
    try:
        execute(side, pair.stage, modules, recorded.case, pair.dtype, model, session)
    except Exception as error:
        stopped = isinstance(error, MemoryLimitError)  # which is no failure of ours
        if stopped or side.key == "reference" or not any(call.error for call in session.trace.calls.values()):
            raise
        session.trace.raised = error
    return session.trace


def handed_over(pair: Pair) -> tuple[str, ...]:
    """Taps (globs) that a free run starts from."""
    # In half precision all three start from the inputs as the reference had them, rounded.
    return pair.stage.defined if pair.dtype == "float32" else (*pair.stage.defined, pair.root)


def probes_of(pair: Pair) -> tuple[str, ...]:
    """None in float16: squares of scaled inputs and an eps of 1e-8 are zero there, and the reference divides by it."""
    return () if pair.dtype == "float16" else pair.stage.probes


def module_taps(stage: Stage, trace: Trace) -> set[str]:
    """The taps of a trace that are modules."""
    return {tap for tap, _ in trace.calls if tap.rsplit(".", 1)[-1] not in function_names(stage)}


def as_judged(recorded: Recorded, ours: Trace) -> tuple[Trace, Trace]:
    """The reference's trace and a run of ours, as they are judged: beside a reference with names of its own (see
    ``Stage.mirrored``) what has a counterpart, under the reference's names."""
    pair = recorded.pair
    return (recorded.trace, ours) if pair.stage.mirrored else met(recorded.trace, ours, pair.root, pair.stage.results)


def judge_recording(recording: Recording, results: Results, replayed: Replayed | None = None) -> None:
    """Judge every case in the lanes that it was recorded for; coverage of the isolated lane at the end. replayed: makes
    the isolated trace of ours, where that is not made here."""
    mlx, stage = MLX(), recording.stage
    compared: set[str] = set()
    moving: dict[str, float] = {}
    for recorded in recording.cases:
        before = len(results.rows), results.constants
        half = recorded.pair.dtype != "float32"
        name = f"{recorded.name}@{recorded.pair.dtype}" if half else recorded.name
        where = {"stage": stage.name, "config": recording.config, "case": name}
        if recorded.oracle is not None:
            where["lane"] = "B" if half else "A"
            theirs, ours = as_judged(recorded, replayed(recorded) if replayed else replay(mlx, recorded))
            rows = judge(results, where, stage, theirs, recorded.oracle, ours)
            _require(rows, recorded.repeats, Reason.REPEAT, "the reference does not repeat itself")
            if not half:
                compared |= {tap for tap, _ in theirs.calls}
                moving |= {k: max(share, moving.get(k, 0.0)) for k, share in recorded.moving.items()}
        if recorded.free is not None:
            where["lane"] = "B" if half else "C"
            judge_free(results, where, recorded, replay_free(mlx, recorded))
        chosen = recorded.oracle is not None or recorded.free is not None
        if chosen and (len(results.rows), results.constants) == before:
            results.silent.append(f"{stage.name} {recording.config} {name}: nothing of this case is judged")
    if recording.inventory is not None:
        results.coverage.append(coverage_of(stage, recording.config, recording.inventory, compared, moving))


def judge_free(results: Results, where: dict[str, str], recorded: Recorded, ours: Trace) -> list[Row]:
    """Judge a free run of ours: the outputs of modules, but for those that were handed over."""
    stage, trace = recorded.pair.stage, recorded.trace
    handed = {tap for tap, _ in trace.calls if any(fnmatchcase(tap, pattern) for pattern in stage.defined)}
    if recorded.free is None:
        raise ValueError(f"{where}: nothing was recorded of a free run")
    theirs, ours = as_judged(recorded, ours)
    rows = judge(results, where, stage, theirs, recorded.free, ours, module_taps(stage, trace) - handed)
    _require(rows, not (trouble := compiler_trouble()), Reason.COMPILER, trouble)
    return rows


def _require(rows: list[Row], met: bool, reason: Reason, why: str) -> None:
    """Rows that pass are inconclusive unless a condition is met."""
    if not met:
        for row in rows:
            if row.verdict == "pass":
                row.verdict, row.reason, row.why = "inconclusive", reason, why
