"""The way from a recording to verdicts: ours on the reference's recorded inputs, recorded just now or read from a file.

Nothing here knows torch.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from ..declare.model import Stage
from ..judge.results import Reason, Results, Row
from ..judge.verdicts import judge
from ..sides.mlx import MLX
from ..sides.pair import Pair
from ..tap.execute import execute
from ..tap.session import Session
from ..tap.side import Side
from ..tap.trace import Trace
from .coverage import coverage_of, function_names
from .recorded import Recorded, Recording


def replay(mlx: MLX, recorded: Recorded, ours: dict[str, Any] | None = None) -> Trace:
    """Ours (or other modules in their place), every tap on the reference's recorded inputs."""
    pair = recorded.pair
    session = Session(mlx, recorded.trace, probes_of(pair))
    return run_tapped(mlx, pair, ours or pair.ours, recorded, pair.dtype, session)


def replay_free(mlx: MLX, recorded: Recorded) -> Trace:
    """Ours from the inputs on, module by module, but for what ``Stage.defined`` hands over."""
    pair = recorded.pair
    session = Session(mlx, recorded.trace, only=handed_over(pair), keeps="module outputs")
    return run_tapped(mlx, pair, pair.ours, recorded, pair.dtype, session)


def run_tapped(
    side: Side, pair: Pair, modules: dict[str, Any], recorded: Recorded, model: str, session: Session
) -> Trace:
    """The trace of one run. An exception is kept on the call that raised; what it never reached is missing."""
    try:
        execute(side, pair.stage, modules, recorded.case, pair.dtype, model, session)
    except Exception:
        if side.key == "reference" or not any(call.error for call in session.trace.calls.values()):
            raise
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


def judge_recording(recording: Recording, results: Results) -> None:
    """Judge every case in the lanes that it was recorded for; coverage of the isolated lane at the end."""
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
            rows = judge(results, where, stage, recorded.trace, recorded.oracle, replay(mlx, recorded))
            _require_repeat(rows, recorded)
            if not half:
                compared |= {tap for tap, _ in recorded.trace.calls}
                moving |= {k: max(share, moving.get(k, 0.0)) for k, share in recorded.moving.items()}
        if recorded.free is not None:
            where["lane"] = "B" if half else "C"
            handed = {tap for tap, _ in recorded.trace.calls if any(fnmatchcase(tap, p) for p in stage.defined)}
            outputs_of = module_taps(stage, recorded.trace) - handed
            judge(results, where, stage, recorded.trace, recorded.free, replay_free(mlx, recorded), outputs_of)
        chosen = recorded.oracle is not None or recorded.free is not None
        if chosen and (len(results.rows), results.constants) == before:
            results.silent.append(f"{stage.name} {recording.config} {name}: nothing of this case is judged")
    if recording.inventory is not None:
        results.coverage.append(coverage_of(stage, recording.config, recording.inventory, compared, moving))


def _require_repeat(rows: list[Row], recorded: Recorded) -> None:
    if not recorded.repeats:
        for row in rows:
            if row.verdict == "pass":
                row.verdict, row.reason, row.why = "inconclusive", Reason.REPEAT, "the reference does not repeat itself"
