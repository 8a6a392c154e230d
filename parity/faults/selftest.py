"""The self-test: each fault is planted, and must be noticed at the place that it belongs to.

A fault is *detected* when a tensor of its case does not pass, *localised* when the first one that fails is that of its
expected tap. A fault that stops a component from loading is detected by any error of the loader, and localised when the
error names the expected tensor. Clean copies of the product must pass with the inputs of several seeds.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from ..declare.inputs import seeded
from ..declare.stages import pipelines, stages
from ..investigate.bisect import isolated_rows
from ..investigate.signs import signs
from ..judge.results import PipelineRow, Results, Row
from ..judge.verdicts import tensors
from ..run import pipelines as pipeline_runs
from ..run.environment import default_device
from ..run.live import Runner
from ..run.pool import spread
from ..run.recorded import Recorded
from ..run.replay import judge_free, replay_free
from ..sides.pair import Pair
from .catalogue import NOT_APPLICABLE, Fault, StaleFaultError, planted
from .likely_causes import leave_one_out, table_of

DETECTED, LOCALISED = 0.98, 0.95  # of the faults that are not equivalent
CLEAN_SEEDS = 3  # the seed of the faults' inputs and those after it
Cell = tuple[str, str, str]  # stage, config, dtype


@dataclass(frozen=True)
class Outcome:
    """The outcome of one fault. ``lane``: A, B or load, where it is looked for."""

    id: str
    known: str
    fault: str
    cause: str
    stage: str
    config: str
    case: str
    lane: str
    expected_tap: str
    first_tap: str = ""
    why: str = ""
    detected: bool = False
    localised: bool = False
    equivalent: str = ""
    signs: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass
class Score:
    """The outcome of all faults, with the inputs of ``seed``. false_alarms: places of clean runs that did not pass."""

    seed: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    false_alarms: list[str] = field(default_factory=list)
    clean_tensors: int = 0
    seconds: float = 0.0

    @property
    def counted(self) -> list[Outcome]:
        return [f for f in self.outcomes if not f.equivalent]

    @property
    def good(self) -> bool:
        """Equivalent faults must go unnoticed: one that is seen is none."""
        seen = [f.id for f in self.outcomes if f.equivalent and f.detected]
        n = len(self.counted)
        detected, localised = (sum(getattr(f, key) for f in self.counted) for key in ("detected", "localised"))
        return not (self.false_alarms or seen) and detected >= DETECTED * n and localised >= LOCALISED * n

    @property
    def clean_seeds(self) -> list[int]:
        return list(range(self.seed, self.seed + CLEAN_SEEDS))

    def document(self) -> dict[str, Any]:
        summary = {
            "faults": len(self.counted),
            "detected": sum(f.detected for f in self.counted),
            "localised": sum(f.localised for f in self.counted),
            "equivalent": len(self.outcomes) - len(self.counted),
            "false_alarms": len(self.false_alarms),
            "false_alarm_places": self.false_alarms,
            "clean_tensors": self.clean_tensors,
            "clean_seeds": self.clean_seeds,
            "known_faults": len({f.known for f in self.outcomes if f.known}),
            "not_applicable": NOT_APPLICABLE,
            "explained": leave_one_out(table_of(self.outcomes)),
            "passed": self.good,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
        }
        return {"schema": "ltx2-parity-selftest/1", "summary": summary, "matrix": [asdict(f) for f in self.outcomes]}


class Bench:
    """One cell: its components loaded once, each case recorded once for each seed."""

    def __init__(self, cell: Cell) -> None:
        stage, config, self.dtype = cell
        self.config, self.stage = config, stages()[stage]
        self.runner = Runner()
        self.pair: Pair = self.runner.load(self.stage, config, self.dtype)
        self._recorded: dict[tuple[str, int, bool], Recorded] = {}

    def recorded(self, case: str, seed: int, free: bool = False) -> Recorded:
        if (case, seed, free) not in self._recorded:
            with seeded(seed):
                chosen = self.stage.cases(self.pair.config)[case]
            recorded = self.runner.record(self.pair, chosen, repeat=False, isolated=not free, free=free)
            self._recorded[case, seed, free] = recorded
        return self._recorded[case, seed, free]

    def rows(
        self, case: str, fault: Fault | None, seed: int = 0, free: bool = False
    ) -> tuple[list[Row], tuple[Any, ...]]:
        """The verdicts on a copy of the product with the fault in it (None: without), and its traces."""
        recorded = self.recorded(case, seed, free)
        with planted(fault):
            ours = self.runner.ours(self.pair.paths, self.dtype, **self.pair.options)
            trace = replay_free(self.runner.mlx, recorded, ours) if free else self.runner.replay(recorded, ours)
        where = {"stage": self.stage.name, "config": self.config, "case": case}
        where["lane"] = "C" if free else lane(self.dtype)
        if free:
            return judge_free(Results(), where, recorded, trace), (recorded.trace, trace)
        return isolated_rows(recorded, trace, where), (recorded.trace, trace)

    def plant(self, fault: Fault, seed: int = 0) -> Outcome:
        start = time.monotonic()
        found = (self._load if fault.loads else self._run)(fault, seed)
        return _outcome(fault, seconds=round(time.monotonic() - start, 2), **found)

    def _run(self, fault: Fault, seed: int) -> dict[str, Any]:
        try:
            rows, traces = self.rows(fault.case, fault, seed, fault.free)
        except StaleFaultError as error:
            return {"why": str(error)}
        first = next((row for row in rows if row.verdict != "pass"), None)
        if first is None:
            return {}
        theirs, ours = tensors(first, *traces)
        return {
            "detected": True,
            "localised": _within(first.name, fault.tap),
            "first_tap": first.name,
            "why": first.why,
            "signs": tuple(sorted(signs(first, rows, theirs, ours, traces[0]))),
        }

    def _load(self, fault: Fault, seed: int) -> dict[str, Any]:
        try:
            with planted(fault):
                errors = importlib.import_module("ltx2_mlx.errors")
                try:
                    self.runner.ours(self.pair.paths, self.dtype, **self.pair.options)
                except errors.CheckpointError as error:
                    return _refused(str(error), fault)
        except StaleFaultError as error:
            return {"why": str(error)}
        return {"why": "it loads"}


def _within(name: str, tap: str) -> bool:
    """True for a row of the tap, of one of its inputs or outputs, or of a tap inside it."""
    return name == tap or name.startswith((f"{tap}.", f"{tap}:"))


class PipelineBench:
    """One pipeline with one config: the reference's run, beside which every copy of the product runs whole."""

    def __init__(self, cell: Cell) -> None:
        self.name, self.config, self.dtype = cell
        self.run = pipeline_runs.Run(pipelines()[self.name], self.config, self.dtype)
        self._clean: list[PipelineRow] = []

    def plant(self, fault: Fault, seed: int = 0) -> Outcome:
        start = time.monotonic()
        with planted(fault):
            row = self.run.judged()
        return _outcome(
            fault,
            first_tap=row.first,
            why=row.why,
            detected=row.verdict != "pass",
            localised=_within(row.first, fault.tap),
            seconds=round(time.monotonic() - start, 2),
        )

    def rows(self, case: str, fault: None, seed: int = 0, free: bool = False) -> tuple[list[PipelineRow], tuple[()]]:
        """The verdict on a clean copy: there is one set of inputs, whatever the seed."""
        if not self._clean:
            with planted(None):
                self._clean.append(self.run.judged())
        return self._clean, ()


def bench(cell: Cell) -> Bench | PipelineBench:
    return (PipelineBench if cell[0] in pipelines() else Bench)(cell)


def _refused(message: str, fault: Fault) -> dict[str, Any]:
    problem = message.partition("does not fit its config: ")[2] or message
    return {
        "detected": True,
        "localised": fault.tap in message,
        "first_tap": problem.partition(";")[0],
        "why": f"does not load: {problem.count(';') + 1} problems named",
    }


def _outcome(fault: Fault, **found: Any) -> Outcome:
    return Outcome(
        fault.id,
        fault.known,
        fault.description,
        fault.cause,
        fault.stage,
        fault.config,
        fault.case,
        "load" if fault.loads else "C" if fault.free else lane(fault.dtype),
        fault.tap,
        equivalent=fault.equivalent,
        **found,
    )


def lane(dtype: str) -> str:
    return "A" if dtype == "float32" else "B"


@dataclass(frozen=True)
class Task:
    """The faults of one cell and case, and the seeds with which a clean copy is run as well."""

    cell: Cell
    case: str
    faults: tuple[Fault, ...]
    seed: int
    clean: list[int]
    device: str


def tasks(chosen: Iterable[Fault], seed: int, clean: list[int]) -> list[Task]:
    """One for each cell and case, the largest first."""
    groups: dict[tuple[Cell, str], list[Fault]] = {}
    for fault in chosen:
        groups.setdefault(((fault.stage, fault.config, fault.dtype), fault.case), []).append(fault)
    made = [Task(cell, case, tuple(group), seed, clean, default_device()) for (cell, case), group in groups.items()]
    return sorted(made, key=lambda task: -len(task.faults))


def perform(task: Task) -> tuple[list[Outcome], list[str], int]:
    """Findings, places of false alarms, and how many tensors of clean runs were judged."""
    import mlx.core as mx

    mx.set_default_device(getattr(mx, task.device))
    planting = bench(task.cell)
    outcomes = [planting.plant(fault, task.seed) for fault in task.faults]
    alarms, judged = [], 0
    for free in sorted({m.free for m in task.faults if not m.loads}):
        for seed in task.clean:
            rows, _ = planting.rows(task.case, None, seed, free)
            judged += len(rows)
            alarms += [f"seed {seed}: {row.place}: {row.why}" for row in rows if row.verdict != "pass"]
    return outcomes, alarms, judged


def run(
    chosen: list[Fault],
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
    jobs: int | None = None,
) -> Score:
    """Plant ``chosen``, in ``jobs`` processes; outcomes in their order."""
    start, score = time.monotonic(), Score(seed)
    work = tasks(chosen, seed, score.clean_seeds)

    def collect(parts: Iterable[tuple[list[Outcome], list[str], int]]) -> None:
        for done, (outcomes, alarms, count) in enumerate(parts, 1):
            progress(f"{done} of {len(work)} cases done")
            score.outcomes += outcomes
            score.false_alarms += alarms
            score.clean_tensors += count

    names = [f"selftest {' '.join(task.cell)} {task.case}" for task in work]
    collect(map(perform, work) if len(work) == 1 or jobs == 1 else spread(perform, work, names, jobs))
    order = {m.id: i for i, m in enumerate(chosen)}
    score.outcomes.sort(key=lambda f: order[f.id])
    score.seconds = time.monotonic() - start
    return score


def sample(faults: Iterable[Fault], n: int) -> list[Fault]:
    """``n`` of them, the same ones every time: in turn from each stage, evenly spread within it."""
    by_stage: dict[str, list[Fault]] = {}
    for m in faults:
        by_stage.setdefault(m.stage, []).append(m)
    share, taken = max(1, -(-n // len(by_stage))), []
    for group in by_stage.values():
        step = max(1, len(group) // share)
        taken.append(list(dict.fromkeys(group[step // 2 :: step] + group)))
    turns = [m for turn in range(max(map(len, taken))) for group in taken for m in group[turn : turn + 1]]
    chosen = {m.id for m in turns[:n]}
    return [m for group in by_stage.values() for m in group if m.id in chosen]
