"""``parity selftest``: is each planted fault noticed, and named at the place that it belongs to?

A mutant is *detected* when a tensor of its case does not pass, *localised* when the first one that fails is that of its
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
from ..investigate.signs import signs
from ..judge.results import PipelineRow, Results, Row
from ..judge.rules import judge, tensors
from ..run import pipelines as pipeline_runs
from ..run.environment import default_device
from ..run.live import Runner
from ..run.pool import spread
from ..run.recorded import Recorded
from ..sides.pair import Pair
from .catalogue import NOT_APPLICABLE, Mutation, planted
from .likely_causes import leave_one_out, table_of

DETECTED, LOCALISED = 0.98, 0.95  # of the mutants that are not equivalent


CLEAN_SEEDS = 3  # from the mutants' own on


Cell = tuple[str, str, str]  # stage, config, dtype


@dataclass(frozen=True)
class Finding:
    """What became of one mutant. ``lane``: A, B or load, where it is looked for."""

    id: str
    known: str
    mutation: str
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
    """Of a run with the inputs of ``seed``. false_alarms: places of clean runs that did not pass."""

    seed: int = 0
    findings: list[Finding] = field(default_factory=list)
    false_alarms: list[str] = field(default_factory=list)
    clean_tensors: int = 0
    seconds: float = 0.0

    @property
    def counted(self) -> list[Finding]:
        return [f for f in self.findings if not f.equivalent]

    @property
    def good(self) -> bool:
        """Equivalent mutants must go unnoticed: one that is seen is none."""
        seen = [f.id for f in self.findings if f.equivalent and f.detected]
        n = len(self.counted)
        detected, localised = (sum(getattr(f, key) for f in self.counted) for key in ("detected", "localised"))
        return not (self.false_alarms or seen) and detected >= DETECTED * n and localised >= LOCALISED * n

    @property
    def clean_seeds(self) -> list[int]:
        return list(range(self.seed, self.seed + CLEAN_SEEDS))

    def document(self) -> dict[str, Any]:
        summary = {
            "mutants": len(self.counted),
            "detected": sum(f.detected for f in self.counted),
            "localised": sum(f.localised for f in self.counted),
            "equivalent": len(self.findings) - len(self.counted),
            "false_alarms": len(self.false_alarms),
            "false_alarm_places": self.false_alarms,
            "clean_tensors": self.clean_tensors,
            "clean_seeds": self.clean_seeds,
            "known_faults": len({f.known for f in self.findings if f.known}),
            "not_applicable": NOT_APPLICABLE,
            "explained": leave_one_out(table_of(self.findings)),
            "passed": self.good,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
        }
        return {"schema": "ltx2-parity-selftest/1", "summary": summary, "matrix": [asdict(f) for f in self.findings]}


class Bench:
    """One cell: its components loaded once, each case recorded once for each seed."""

    def __init__(self, cell: Cell) -> None:
        stage, config, self.dtype = cell
        self.config, self.stage = config, stages()[stage]
        self.runner = Runner()
        self.pair: Pair = self.runner.load(self.stage, config, self.dtype)
        self._recorded: dict[tuple[str, int], Recorded] = {}

    def recorded(self, case: str, seed: int) -> Recorded:
        if (case, seed) not in self._recorded:
            with seeded(seed):
                chosen = self.stage.cases(self.pair.config)[case]
            self._recorded[case, seed] = self.runner.record(self.pair, chosen, repeat=False)
        return self._recorded[case, seed]

    def rows(self, case: str, mutation: Mutation | None, seed: int = 0) -> tuple[list[Row], tuple[Any, ...]]:
        """The verdicts on a copy of the product with the fault in it (None: without), and its traces."""
        recorded = self.recorded(case, seed)
        with planted(mutation):
            trace = self.runner.replay(recorded, self.runner.ours(self.pair.paths, self.dtype, **self.pair.options))
        where = {"stage": self.stage.name, "config": self.config, "case": case, "lane": lane(self.dtype)}
        rows = judge(Results(), where, self.stage, recorded.trace, recorded.oracle, trace)
        return rows, (recorded.trace, trace)

    def plant(self, mutation: Mutation, seed: int = 0) -> Finding:
        start = time.monotonic()
        found = (self._load if mutation.loads else self._run)(mutation, seed)
        return _finding(mutation, seconds=round(time.monotonic() - start, 2), **found)

    def _run(self, mutation: Mutation, seed: int) -> dict[str, Any]:
        try:
            rows, traces = self.rows(mutation.case, mutation, seed)
        except ValueError as error:
            if "stale" not in str(error):
                raise
            return {"why": str(error)}
        first = next((row for row in rows if row.verdict != "pass"), None)
        if first is None:
            return {}
        values = tensors(first, *traces)
        return {
            "detected": True,
            "localised": _within(first.name, mutation.tap),
            "first_tap": first.name,
            "why": first.why,
            "signs": tuple(sorted(signs(first, rows, *values, traces[0]))),
        }

    def _load(self, mutation: Mutation, seed: int) -> dict[str, Any]:
        try:
            with planted(mutation):
                errors = importlib.import_module("ltx2_mlx.errors")
                try:
                    self.runner.ours(self.pair.paths, self.dtype, **self.pair.options)
                except errors.CheckpointError as error:
                    return _refused(str(error), mutation)
        except ValueError as error:
            return {"why": str(error)}
        return {"why": "it loads"}


def _within(name: str, tap: str) -> bool:
    """Whether a row is the tap, one of its inputs or outputs, or of a tap inside it."""
    return name == tap or name.startswith((f"{tap}.", f"{tap}<"))


class PipelineBench:
    """One pipeline with one config: the reference's run, beside which every copy of the product runs whole."""

    def __init__(self, cell: Cell) -> None:
        self.name, self.config, self.dtype = cell
        self.run = pipeline_runs.Run(pipelines()[self.name], self.config, self.dtype)
        self._clean: list[PipelineRow] = []

    def plant(self, mutation: Mutation, seed: int = 0) -> Finding:
        start = time.monotonic()
        with planted(mutation):
            row = self.run.judged()
        return _finding(
            mutation,
            first_tap=row.first,
            why=row.why,
            detected=row.verdict != "pass",
            localised=_within(row.first, mutation.tap),
            seconds=round(time.monotonic() - start, 2),
        )

    def rows(self, case: str, mutation: None, seed: int = 0) -> tuple[list[PipelineRow], tuple[()]]:
        """Of a clean copy: there is one set of inputs, whatever the seed."""
        if not self._clean:
            with planted(None):
                self._clean.append(self.run.judged())
        return self._clean, ()


def bench(cell: Cell) -> Bench | PipelineBench:
    return (PipelineBench if cell[0] in pipelines() else Bench)(cell)


def _refused(message: str, mutation: Mutation) -> dict[str, Any]:
    problem = message.partition("does not fit its config: ")[2] or message
    return {
        "detected": True,
        "localised": mutation.tap in message,
        "first_tap": problem.partition(";")[0],
        "why": f"does not load: {problem.count(';') + 1} problems named",
    }


def _finding(mutation: Mutation, **found: Any) -> Finding:
    return Finding(
        mutation.id,
        mutation.known,
        mutation.fault,
        mutation.cause,
        mutation.stage,
        mutation.config,
        mutation.case,
        "load" if mutation.loads else lane(mutation.dtype),
        mutation.tap,
        equivalent=mutation.equivalent,
        **found,
    )


def lane(dtype: str) -> str:
    return "A" if dtype == "float32" else "B"


@dataclass(frozen=True)
class Task:
    """The mutants of one cell and case, and the seeds with which a clean copy is run as well."""

    cell: Cell
    case: str
    mutants: tuple[Mutation, ...]
    seed: int
    clean: list[int]
    device: str


def tasks(chosen: Iterable[Mutation], seed: int, clean: list[int]) -> list[Task]:
    """One for each cell and case, the largest first."""
    groups: dict[tuple[Cell, str], list[Mutation]] = {}
    for m in chosen:
        groups.setdefault(((m.stage, m.config, m.dtype), m.case), []).append(m)
    made = [Task(cell, case, tuple(group), seed, clean, default_device()) for (cell, case), group in groups.items()]
    return sorted(made, key=lambda task: -len(task.mutants))


def perform(task: Task) -> tuple[list[Finding], list[str], int]:
    """Findings, places of false alarms, and how many tensors of clean runs were judged."""
    import mlx.core as mx

    mx.set_default_device(getattr(mx, task.device))
    planting = bench(task.cell)
    findings = [planting.plant(mutation, task.seed) for mutation in task.mutants]
    alarms, judged = [], 0
    if any(not m.loads for m in task.mutants):
        for seed in task.clean:
            rows, _ = planting.rows(task.case, None, seed)
            judged += len(rows)
            alarms += [f"seed {seed}: {row.place}: {row.why}" for row in rows if row.verdict != "pass"]
    return findings, alarms, judged


def run(
    chosen: list[Mutation],
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
    jobs: int | None = None,
) -> Score:
    """Plant ``chosen``, in ``jobs`` processes; findings in their order."""
    start, score = time.monotonic(), Score(seed)
    work = tasks(chosen, seed, score.clean_seeds)

    def collect(outcomes: Iterable[tuple[list[Finding], list[str], int]]) -> None:
        for done, (findings, alarms, count) in enumerate(outcomes, 1):
            progress(f"{done} of {len(work)} cases done")
            score.findings += findings
            score.false_alarms += alarms
            score.clean_tensors += count

    names = [f"selftest {' '.join(task.cell)} {task.case}" for task in work]
    collect(map(perform, work) if len(work) == 1 or jobs == 1 else spread(perform, work, names, jobs))
    order = {m.id: i for i, m in enumerate(chosen)}
    score.findings.sort(key=lambda f: order[f.id])
    score.seconds = time.monotonic() - start
    return score


def sample(mutants: Iterable[Mutation], n: int) -> list[Mutation]:
    """``n`` of them, the same ones every time: in turn from each stage, evenly spread within it."""
    by_stage: dict[str, list[Mutation]] = {}
    for m in mutants:
        by_stage.setdefault(m.stage, []).append(m)
    share, taken = max(1, -(-n // len(by_stage))), []
    for group in by_stage.values():
        step = max(1, len(group) // share)
        taken.append(list(dict.fromkeys(group[step // 2 :: step] + group)))
    turns = [m for turn in range(max(map(len, taken))) for group in taken for m in group[turn : turn + 1]]
    chosen = {m.id for m in turns[:n]}
    return [m for group in by_stage.values() for m in group if m.id in chosen]
