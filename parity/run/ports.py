"""Runs of sides from outside: any reference beside any subjects, judged by the rules of every other run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ltx2_mlx.errors import InputError, LTX2Error
from ltx2_mlx.loading.checkpoint import CheckpointPath

from ..declare.model import Case, FunctionTap, Stage
from ..judge.results import ALLOWED, Results, Row
from ..judge.tolerance import Floor
from ..judge.verdicts import judge, tensors
from ..sides import versions
from ..sides.loading import loading_options, read
from ..sides.mlx import MLX
from ..sides.pair import Pair
from ..sides.port import NotComparableError, Port, PortError, find
from ..tap.execute import execute
from ..tap.matching import answering, comparable, narrowed
from ..tap.session import Session
from ..tap.side import Side, resolve
from ..tap.trace import Call, Tensor, Trace
from .live import Runner
from .recorded import Recorded
from .replay import handed_over, module_taps, run_tapped

REFERENCE, OURS = "ltx-core", "ltx2-mlx"


@dataclass
class Alignment:
    """What could be compared of a subject on one cell, and what not, with the reason."""

    stage: str
    config: str
    taps: int = 0  # of the reference, counted once a case
    compared: int = 0
    left_out: dict[str, int] = field(default_factory=dict)  # reason → taps, or cases

    def leave(self, why: str, count: int = 1) -> None:
        if count:
            self.left_out[why] = self.left_out.get(why, 0) + count


@dataclass(frozen=True)
class Vote:
    """A tensor that three sides have and not all agree on. odd: the one that differs from the other two; "" where all
    three differ."""

    place: str
    odd: str


@dataclass
class Subject:
    """One side that is judged, and what came of it."""

    name: str
    side: Side
    results: Results = field(default_factory=Results)
    alignments: list[Alignment] = field(default_factory=list)
    traces: dict[str, Trace] = field(default_factory=dict)  # of the case that was judged last, by lane

    @property
    def version(self) -> str:
        return self.side.version if isinstance(self.side, Port) else ""

    @property
    def versions(self) -> dict[str, str]:
        return {self.name: self.version} if self.version else {}


def side(name: str, role: str) -> Side:
    """A side by its name. Raises InputError for one that there is not."""
    if role == "reference" and name == REFERENCE:
        try:
            from ..sides.torch import Torch
        except (ImportError, AttributeError) as error:
            if installed := versions.other():
                why = f"{REFERENCE} {installed} does not answer as {versions.DECLARED} does: {error}"
                raise InputError(why) from error
            raise
        return Torch()
    if role != "reference" and name == OURS:
        return MLX()
    port = find(name, role)
    if role == "reference" and isinstance(port, MLX):
        raise InputError(
            f"--reference {name}: a port in MLX cannot be run in float64, as a reference is for its oracle"
        )
    return port


class PortRunner(Runner):
    """The reference's side of such a run. No probes, no coverage: a port has modules."""

    def __init__(
        self,
        reference: Side,
        progress: Callable[[str], None] = lambda line: None,
        files: Mapping[str, CheckpointPath] | None = None,
    ):
        super().__init__(None, progress, files or {})
        self.reference = reference

    def side(self, stage: Stage) -> Any:
        return self.reference

    def load(self, stage: Stage, config: str, dtype: str) -> Pair:
        paths, options = self.paths(stage, config), loading_options(stage, config)
        side = self.side(stage)
        try:
            reference = {name: side.load(name, p, read(p).config, dtype, **options) for name, p in paths.items()}
        except (ImportError, AttributeError, TypeError) as error:
            if isinstance(side, Port) or not versions.other():
                raise
            said = f"{type(error).__name__}: {error}"
            raise NotComparableError(f"{REFERENCE} {versions.other()} does not answer here: {said}") from error
        oracle = {name: side.oracle(module) for name, module in reference.items()}
        root = side.root(reference[stage.main])
        return Pair(stage, paths, read(paths[stage.main]).config, dtype, reference, oracle, {}, options, root_name=root)

    def influence(self, recorded: Recorded, known: dict[str, float]) -> dict[str, float]:
        return {}

    def matching(self, pair: Pair, glob: str) -> Iterator[tuple[str, Case, Pair]]:
        """Without the cases that the reference cannot be given, as a run shows; they are in ``skipped`` then."""
        for name, case, own in super().matching(pair, glob):
            try:
                if isinstance(self.reference, Port):
                    execute(self.reference, pair.stage, pair.reference, case, pair.dtype, pair.dtype, None)
            except NotComparableError as error:
                self.skipped.append((name, str(error)))
                continue
            yield name, case, own

    skipped: list[tuple[str, str]]


def run(
    chosen: list[tuple[Stage, str]],
    lanes: str,
    reference: Side,
    subjects: list[Subject],
    progress: Callable[[str], None] = lambda line: None,
    files: Mapping[str, CheckpointPath] | None = None,
) -> list[Vote]:
    """Judge every subject on every chosen cell; results and alignments are put into the subjects. Of two subjects, say
    of every tensor that a side has otherwise which one that is."""
    runner, votes = PortRunner(reference, progress, files), list[Vote]()
    for stage, config in chosen:
        stage = replace(stage, functions=functions(reference, stage), probes=())
        for subject in subjects:
            subject.alignments.append(Alignment(stage.name, config))
        reasons = {s.name: s.side.why_not(stage) for s in subjects if isinstance(s.side, Port)}
        own = why_not(reference, stage)
        able = [s for s in subjects if not (own or reasons.get(s.name))]
        for subject in subjects:
            if why := own or reasons.get(subject.name):
                subject.alignments[-1].leave(f"the stage: {why}")
        if len(able) < len(subjects):  # of two, what only one has says nothing about who differs
            for subject in able:
                subject.alignments[-1].leave("the stage: the other subject does not have it")
            continue
        runner.skipped = []
        loaded: dict[tuple[str, str], dict[str, Any] | None] = {}
        try:
            for recorded in runner.recording(stage, config, lanes).cases:
                rows = [_judge(subject, recorded, config, loaded) for subject in able]
                if len(able) == 2 and all(rows):
                    votes += _votes(able, rows)
                if loaded and all(modules is None for modules in loaded.values()):
                    break  # nobody has such a config
        except NotComparableError as error:
            for subject in able:
                subject.alignments[-1].leave(f"the config: {error}")
        except LTX2Error:
            raise
        except (Exception, SystemExit) as error:
            if not isinstance(reference, Port):
                raise
            said = f"{type(error).__name__}: {error}"
            raise PortError(f"{reference.name}: as the reference of {stage.name} {config} it raises {said}") from error
        for subject in able:
            for name, why in dict(runner.skipped).items():
                subject.alignments[-1].leave(f"case {name}: {why}")
    return votes


def functions(reference: Side, stage: Stage) -> tuple[FunctionTap, ...]:
    """The stage's function taps that the reference has. Ours is judged at them as well; a port has none."""
    return () if isinstance(reference, Port) else tuple(tap for tap in stage.functions if _found(tap.at.reference))


def _found(place: str) -> bool:
    try:
        owner, name = resolve(place)
    except (ImportError, AttributeError):
        return False
    return hasattr(owner, name)


def why_not(reference: Side, stage: Stage) -> str:
    """Why a stage cannot be compared with a reference; "" where it can."""
    own = reference.name if isinstance(reference, Port) else REFERENCE
    if stage.reference not in (REFERENCE, own):
        return f"ltx-core has no such thing; its reference is {stage.reference}"
    return reference.why_not(stage) if isinstance(reference, Port) else ""


def _votes(subjects: list[Subject], rows: list[list[Row]]) -> list[Vote]:
    """Who differs, for every tensor that both subjects have and one of them at least has otherwise."""
    found = []
    first, second = ({row.place: row for row in some} for some in rows)
    for place in first.keys() & second.keys():
        bad = [row.verdict != "pass" for row in (first[place], second[place])]
        if all(bad):
            one, other = (subject.traces[first[place].lane] for subject in subjects)
            found.append(Vote(place, "reference" if _agree(first[place], one, other) else ""))
        elif any(bad):
            found.append(Vote(place, subjects[bad.index(True)].name))
    return sorted(found, key=lambda vote: first[vote.place].order)


def _agree(row: Row, one: Trace, other: Trace) -> bool:
    """True if two subjects have the same tensor, as near as rounding allows."""
    a, b = tensors(row, one, other)
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.values.shape != b.values.shape:
        return False
    size = float(np.linalg.norm(b.values.astype(np.float64)))
    apart = float(np.linalg.norm(a.values.astype(np.float64) - b.values))
    return apart <= ALLOWED[row.lane] * max(row.floor, Floor(row.dtype, 1).value) * size


def _judge(
    subject: Subject, recorded: Recorded, config: str, loaded: dict[tuple[str, str], dict[str, Any] | None]
) -> list[Row]:
    """One case, in each lane that it was recorded for."""
    pair, alignment, rows = recorded.pair, subject.alignments[-1], list[Row]()
    key = subject.name, pair.dtype
    if key not in loaded:
        try:
            loaded[key] = load(subject.side, pair)
        except NotComparableError as error:
            loaded[key] = None
            alignment.leave(f"the config: {error}")
    modules = loaded[key]
    if modules is None:
        return rows
    for free in (False, True):
        if (recorded.free if free else recorded.oracle) is None:
            continue
        try:
            trace = run_side(subject.side, modules, recorded, session_of(subject.side, recorded, free))
        except NotComparableError as error:
            alignment.leave(f"case {recorded.name}: {error}")
            return rows
        called = {tap for tap, _ in trace.calls}
        trace, shapes = comparable(recorded.trace, answering(recorded.trace, trace, pair.root), pair.root)
        if not free or recorded.oracle is None:
            taps, met = module_taps(pair.stage, recorded.trace), {tap for tap, _ in trace.calls}
            alignment.taps += len(taps)
            alignment.compared += len(taps & met)
            alignment.leave("another shape on the way", len(taps & shapes - met))
            alignment.leave("called, and nothing that it returns has a counterpart", len(taps & called - met - shapes))
            alignment.leave("the port has no such module, or does not call it", len(taps - called))
        rows += judge_side(subject.results, config, recorded, trace, free, isinstance(subject.side, Port))
        subject.traces[lane_of(recorded, free)] = trace
    return rows


def load(side: Side, pair: Pair) -> dict[str, Any]:
    """The modules of a side that a pair's stage needs."""
    return {
        name: side.load(name, path, read(path).config, pair.dtype, **pair.options) for name, path in pair.paths.items()
    }


def run_side(side: Side, modules: dict[str, Any], recorded: Recorded, session: Session) -> Trace:
    """What a side does in a case.

    Raises NotComparableError where it cannot be given them; any other error is the component's.
    """
    pair = recorded.pair
    try:
        trace = run_tapped(side, pair, modules, recorded, pair.dtype, session)
    except NotComparableError:
        raise
    except (Exception, SystemExit) as error:  # before its first module, or after its last
        trace = session.trace
        said = f"{type(error).__name__}: {error}"
        trace.calls[pair.root, 0] = Call(pair.root, 0, error=said)
        trace.events, trace.raised = [("in", pair.root, 0), ("out", pair.root, 0)], PortError(said)
    if isinstance(trace.raised, NotComparableError):
        raise trace.raised
    return trace


def session_of(side: Side, recorded: Recorded, free: bool, kind: type[Session] = Session) -> Any:
    """For a run with each tap on the recorded inputs, or ``free`` from the case's own on."""
    only = handed_over(recorded.pair) if free else ("*",)
    return kind(side, recorded.trace, only=only, keeps="module outputs" if free else "all", matching=True)


def lane_of(recorded: Recorded, free: bool) -> str:
    return "B" if recorded.pair.dtype != "float32" else "C" if free else "A"


def judge_side(
    results: Results, config: str, recorded: Recorded, trace: Trace, free: bool, foreign: bool = True
) -> list[Row]:
    """Judge what can be compared (see ``comparable``) of a side's run. foreign: it is not ours, which computes some
    stages in float32 always (``Stage.float32``)."""
    pair = recorded.pair
    stage = replace(pair.stage, float32=pair.stage.float32 and not foreign)
    name = recorded.name if pair.dtype == "float32" else f"{recorded.name}@{pair.dtype}"
    where = {"stage": pair.stage.name, "config": config, "case": name, "lane": lane_of(recorded, free)}
    oracle = recorded.free if free else recorded.oracle
    if oracle is None:
        raise ValueError(f"{where}: not recorded")
    handed = {tap for tap, _ in trace.calls if any(fnmatchcase(tap, pattern) for pattern in pair.stage.defined)}
    own, truth = narrowed(recorded.trace, trace), narrowed(oracle, trace)
    modules = module_taps(stage, trace)  # functions between them are judged on the reference's own inputs
    return judge(results, where, stage, own, truth, trace, modules - handed if free else None)
