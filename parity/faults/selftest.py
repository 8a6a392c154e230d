"""The self-test: each fault is planted, and must be noticed at the place that it belongs to.

A fault is *detected* when a tensor of its case does not pass, *localised* when the first one that fails is that of its
expected tap. A fault that stops a component from loading is detected by any error of the loader, and localised when the
error names the expected tensor. Clean copies of the product must pass with the inputs of several seeds.

Nothing is detected by luck: a fault that is never reached is *void*, and one that makes the harness fall over, or is
badly written, has *crashed*.
"""

from __future__ import annotations

import faulthandler
import importlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..declare.inputs import seeded
from ..declare.stages import pipelines, stages
from ..investigate.bisect import isolated_rows
from ..investigate.signs import signs
from ..judge.device import Device, calibrated
from ..judge.results import PipelineRow, Results, Row
from ..judge.verdicts import tensors
from ..run import pipelines as pipeline_runs
from ..run.calibration import measure
from ..run.environment import default_device, use_device
from ..run.live import Runner
from ..run.pool import spread
from ..run.recorded import Recorded
from ..run.replay import judge_free, replay_free
from ..sides.pair import Pair
from ..tap import blame
from ..tap.trace import Trace
from .catalogue import Fault, StaleFaultError, planted
from .planting import BrokenFaultError, Copy
from .score import Outcome, Score

Cell = tuple[str, str, str]  # stage, config, dtype
LIMIT = 60.0  # seconds for one fault, and at least SLOWER times what a clean copy takes
SLOWER = 10.0


class HangError(BaseException):
    """A fault ran out of time. No exception of a kind that the product or the harness may catch."""


# ---- one fault in its place -----------------------------------------------------------------------------------------


def tried(fault: Fault, run: Callable[[], dict[str, Any]], limit: float = 0.0) -> dict[str, Any]:
    """What ``run`` finds while the fault is in its place, or why that says nothing.

    What it finds may have the exception that ended the product's run, as ``raised``. limit: seconds, 0 for none.
    """
    try:
        with planted(fault) as copy:
            try:
                with _limited(limit) if limit else nullcontext():
                    found = run()
            except Exception as error:
                found = {"detected": True, "why": _said(error), "raised": error}
            except HangError as error:
                found = {"detected": True, "why": f"hangs: {error}"}
            raised = found.pop("raised", None)
            if unfair := _unfair(raised, copy):
                return unfair
            # A function whose head was changed may be called, and never begin.
            if not copy.ran and not isinstance(raised, TypeError):
                return {"state": "void", "why": f"never reached: nothing runs what it changes in {fault.file}"}
            return found
    except StaleFaultError as error:
        return {"state": "void", "why": str(error)}
    except BrokenFaultError as error:
        return {"state": "crashed", "why": str(error)}


def _unfair(error: Exception | None, copy: Copy) -> dict[str, Any]:
    """The state of a fault whose run ended with an exception that proves nothing; empty for one that the product
    raised in earnest."""
    if error is None:
        return {}
    if place := blame.crash(error, copy.folder):
        return {"state": "crashed", "why": f"the harness fell over at {place}: {_said(error)}"}
    if blame.importing(error, copy.folder):
        return {"state": "void", "why": f"it dies when it is imported: {_said(error)}"}
    if isinstance(error, NameError):
        return {"state": "crashed", "why": f"it is badly written: {_said(error)}"}
    return {}


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


class Bench:
    """One cell: its components loaded once, each case recorded once for each seed."""

    def __init__(self, cell: Cell) -> None:
        stage, config, self.dtype = cell
        self.config, self.stage = config, stages()[stage]
        self.runner = Runner()
        self.pair: Pair = self.runner.load(self.stage, config, self.dtype)
        self._recorded: dict[tuple[str, int, bool], Recorded] = {}

    def recorded(self, case: str, seed: int, free: bool = False) -> Recorded:
        key = case, seed, free
        if key not in self._recorded:
            with seeded(seed):
                chosen = self.stage.cases(self.pair.config)[case]
            self._recorded[key] = self.runner.record(self.pair, chosen, repeat=False, isolated=not free, free=free)
        return self._recorded[key]

    def rows(self, case: str, seed: int = 0, free: bool = False) -> tuple[list[Row], tuple[Trace, Trace]]:
        """The verdicts on the product as it can be imported now, and the traces: the reference's, and its own."""
        recorded = self.recorded(case, seed, free)
        ours = self.runner.ours(self.pair.paths, self.dtype, **self.pair.options)
        where = {"stage": self.stage.name, "config": self.config, "case": case, "lane": lane(self.dtype, free)}
        if not free:
            trace = self.runner.replay(recorded, ours)
            return isolated_rows(recorded, trace, where), (recorded.trace, trace)
        trace = replay_free(self.runner.mlx, recorded, ours)
        rows = judge_free(Results(), where, recorded, trace)
        return rows, (recorded.trace, trace)

    def clean(self, case: str, seed: int = 0, free: bool = False) -> list[Row]:
        """The verdicts on a copy without a fault."""
        self.recorded(case, seed, free)
        with planted(None):
            return self.rows(case, seed, free)[0]

    def plant(self, fault: Fault, seed: int = 0, limit: float = 0.0) -> Outcome:
        start = time.monotonic()
        if not fault.loads:
            self.recorded(fault.case, seed, fault.free)  # by the product as it is
        found = tried(fault, lambda: self._load(fault) if fault.loads else self._run(fault, seed), limit)
        return _outcome(fault, seconds=round(time.monotonic() - start, 2), **found)

    def _run(self, fault: Fault, seed: int) -> dict[str, Any]:
        rows, traces = self.rows(fault.case, seed, fault.free)
        if not rows:
            return {"state": "void", "why": "no tensor was judged"}
        first = next((row for row in rows if row.verdict != "pass"), None)
        if first is None:
            return {"raised": traces[1].raised}
        theirs, ours = tensors(first, *traces)
        return {
            "raised": traces[1].raised,
            "detected": True,
            "localised": _within(first.name, fault.tap),
            "first_tap": first.name,
            "why": first.why,
            "signs": tuple(sorted(signs(first, rows, theirs, ours, traces[0]))),
        }

    def _load(self, fault: Fault) -> dict[str, Any]:
        errors = importlib.import_module("ltx2_mlx.errors")
        try:
            self.runner.ours(self.pair.paths, self.dtype, **self.pair.options)
        except errors.CheckpointError as error:
            return _refused(str(error), fault)
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

    def plant(self, fault: Fault, seed: int = 0, limit: float = 0.0) -> Outcome:
        start = time.monotonic()
        found = tried(fault, lambda: self._run(fault), limit)
        return _outcome(fault, seconds=round(time.monotonic() - start, 2), **found)

    def _run(self, fault: Fault) -> dict[str, Any]:
        row = self.run.judged()
        if not row.details:
            return {"state": "void", "why": "no tensor was judged"}
        found = row.verdict != "pass"
        return {
            "raised": self.run.raised,
            "first_tap": row.first,
            "why": row.why,
            "detected": found,
            "localised": found and _within(row.first, fault.tap),
        }

    def clean(self, case: str, seed: int = 0, free: bool = False) -> list[PipelineRow]:
        """The verdict on a copy without a fault: there is one set of inputs, whatever the seed."""
        if not self._clean:
            with planted(None):
                self._clean.append(self.run.judged())
        return self._clean


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
        "load" if fault.loads else lane(fault.dtype, fault.free),
        fault.tap,
        equivalent=fault.equivalent,
        kind=fault.kind,
        canary=fault.canary,
        **found,
    )


def lane(dtype: str, free: bool = False) -> str:
    return "B" if dtype != "float32" else "C" if free else "A"


# ---- all of them ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """The faults of one cell, case and lane, and the seeds with which a clean copy is run as well.

    mark: a file that says which fault is being planted, for when the process does not live to tell.
    """

    cell: Cell
    case: str
    free: bool
    faults: tuple[Fault, ...]
    seed: int
    clean: list[int]
    device: str
    measured: Device
    mark: Path | None = None

    @property
    def name(self) -> str:
        return f"selftest {' '.join(self.cell)} {self.case}"


Part = tuple[list[Outcome], list[str], int]  # outcomes, places of false alarms, and how many clean tensors were judged


def tasks(chosen: Iterable[Fault], seed: int, clean: list[int]) -> list[Task]:
    """One for each cell, case and lane, the largest first."""
    groups: dict[tuple[Cell, str, bool], list[Fault]] = {}
    for fault in chosen:
        cell = fault.stage, fault.config, fault.dtype
        groups.setdefault((cell, fault.case, fault.free), []).append(fault)
    where = default_device(), measure(default_device())
    made = [
        Task(*group, tuple(faults), seed, [] if all(f.loads for f in faults) else clean, *where)
        for group, faults in groups.items()
    ]
    return sorted(made, key=lambda task: -len(task.faults))


def perform(task: Task) -> Part:
    """Run clean copies, and then every fault, for which there is SLOWER times as long."""
    use_device(task.device)
    with calibrated(task.measured):
        return _performed(task)


def _performed(task: Task) -> Part:
    planting = bench(task.cell)
    outcomes: list[Outcome] = []
    alarms: list[str] = []
    judged, limit = 0, LIMIT
    for seed in task.clean:
        start = time.monotonic()
        rows = planting.clean(task.case, seed, task.free)
        limit = max(limit, SLOWER * (time.monotonic() - start))
        judged += len(rows)
        alarms += [f"seed {seed}: {row.place}: {row.why}" for row in rows if row.verdict != "pass"]
    for fault in task.faults:
        if task.mark:
            task.mark.write_text(fault.id)
        outcomes.append(planting.plant(fault, task.seed, limit))
    if task.mark:
        task.mark.unlink()
    return outcomes, alarms, judged


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise HangError after so many seconds. Where Python does not get to that, end the process a little later."""

    def stop(*_: object) -> None:
        raise HangError(f"more than {seconds:.0f} s, of which a clean copy takes at most {1 / SLOWER:.0%}")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(2 * seconds, exit=True, file=2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def run(
    chosen: list[Fault],
    seed: int = 0,
    progress: Callable[[str], None] = lambda line: None,
    jobs: int | None = None,
) -> Score:
    """Plant ``chosen``, in ``jobs`` processes; outcomes in their order."""
    start, score = time.monotonic(), Score(seed)
    work = tasks(chosen, seed, score.clean_seeds)
    for done, (outcomes, alarms, count) in enumerate(performed(work, jobs), 1):
        progress(f"{done} of {len(work)} cases done")
        score.outcomes += outcomes
        score.false_alarms += alarms
        score.clean_tensors += count
    order = {m.id: i for i, m in enumerate(chosen)}
    score.outcomes.sort(key=lambda f: order[f.id])
    score.seconds = time.monotonic() - start
    return score


def performed(work: list[Task], jobs: int | None) -> Iterator[Part]:
    """``perform`` on every task. A fault that takes its process with it has crashed, and the others are planted again.

    Raises what ended a task without a fault in it.
    """
    if len(work) == 1 or jobs == 1:
        yield from map(perform, work)
        return
    left = list(work)
    with TemporaryDirectory() as folder:
        while left:
            marked = [replace(task, mark=Path(folder) / f"{index}") for index, task in enumerate(left)]
            done = 0
            try:
                for part in spread(perform, marked, [task.name for task in marked], jobs):
                    done += 1
                    yield part
                return
            except Exception:  # most often one that says that a process died; which fault was in it, the marks tell
                suspects = {task.mark.read_text() for task in marked[done:] if task.mark and task.mark.exists()}
                if not suspects:
                    raise
            again = left[done:]
            for task in again:
                for fault in task.faults:
                    if fault.id in suspects:
                        yield _alone(replace(task, faults=(fault,), clean=[]))
            left = [replace(t, faults=tuple(f for f in t.faults if f.id not in suspects)) for t in again]


def _alone(task: Task) -> Part:
    """The outcome of one fault in a process that may die of it."""
    try:
        (part,) = spread(perform, [task], [task.name], 1)
        return part
    except Exception as error:
        return [_outcome(task.faults[0], state="crashed", why=f"its process ended: {_said(error)}")], [], 0


def sample(faults: Iterable[Fault], n: int, by: Callable[[Fault], str] = lambda fault: fault.stage) -> list[Fault]:
    """``n`` of them, the same ones every time: in turn from each stage (or other group), evenly spread within it."""
    groups: dict[str, list[Fault]] = {}
    for fault in faults:
        groups.setdefault(by(fault), []).append(fault)
    share, taken = max(1, -(-n // len(groups))), []
    for group in groups.values():
        step = max(1, len(group) // share)
        taken.append(list(dict.fromkeys(group[step // 2 :: step] + group)))
    turns = [m for turn in range(max(map(len, taken))) for group in taken for m in group[turn : turn + 1]]
    chosen = {m.id for m in turns[:n]}
    return [m for group in groups.values() for m in group if m.id in chosen]


def with_canaries(chosen: list[Fault], catalogue: Iterable[Fault]) -> list[Fault]:
    """The chosen faults, and the canaries of their kinds."""
    kinds, ids = {fault.kind for fault in chosen}, {fault.id for fault in chosen}
    return [fault for fault in catalogue if fault.id in ids or (fault.canary and fault.kind in kinds)]
