"""Inside a failing tap: which tensor is the first that is wrong, what it is made of, and which of that is used wrongly.

The isolated lanes have narrowed a fault to one tensor already: an output of a tap whose inputs and inner taps are all
the reference's, or an input, which is what the code between two taps made. So the *scope* is one tap's own code. There,
one at a time, each tensor that flows in (an input, what an inner tap passed on, a parameter) is changed on both sides,
and what becomes of the wrong tensor is compared with the oracle: where the answers agree, ours uses that operand as
the reference does. A free-running failure is first traced to the tap after which, once it is grafted, the rest passes.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from ltx2_mlx.errors import InputError

from ..declare.inputs import seeded
from ..declare.model import Stage
from ..declare.stages import stages
from ..judge.place import Place
from ..judge.results import Results, Row
from ..judge.verdicts import judge
from ..run.live import Runner
from ..run.recorded import Recorded
from ..run.replay import as_judged, handed_over, module_taps, run_tapped
from ..sides.loading import files_of
from ..tap.session import Session
from ..tap.side import PROBE, Side
from ..tap.trace import Tensor, Trace
from .scope import At, Focus, Target, inner_calls, module_at, scope_of, target_of, tensors_of
from .statements import Recorder, Slice, Statement

AS_REFERENCE = "as in the reference"
LANES = ("A", "B", "C")
AGREES = 2e-5  # relative difference of two answers to a change as large as the operand; rounding makes less


@dataclass(frozen=True)
class Operand:
    """A tensor that flows into the scope, and how ours uses it for the wrong tensor."""

    name: str
    use: str
    error: float


@dataclass(frozen=True)
class Diagnosis:
    """row: the first tensor that is wrong; scope: the tap in whose own code it is made; made: the statements of ours
    that made it. passed and failed count the tensors that were asked for. operands: the one used most wrongly first."""

    row: Row
    scope: At | None
    passed: int
    failed: int
    operands: tuple[Operand, ...] = ()
    constants: tuple[str, ...] = ()
    owner: Statement | None = None  # the class that the scope is a call or a method of: its constructor may be to blame
    made: Slice = field(default_factory=Slice)


# ---- asking again -------------------------------------------------------------------------------------------------


def _changed(trace: Trace, at: At, side: str, leaf: str) -> Trace:
    """The trace with one tensor changed by as much as it varies; what is masked stays."""
    call = trace.calls[at]
    leaves = call.inputs if side == "in" else call.outputs
    values = leaves[leaf].values
    noise = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{at}{leaf}".encode()).digest()[:8], "little"))
    kept = np.abs(values) > 1e30
    size = float(np.where(kept, 0, values).std()) or float(np.abs(np.where(kept, 0, values)).max(initial=0.0)) or 1.0
    moved = np.where(kept, values, values + size * noise.standard_normal(values.shape)).astype(values.dtype)
    leaves = leaves | {leaf: Tensor(moved, "float32")}
    new = replace(call, inputs=leaves) if side == "in" else replace(call, outputs=leaves)
    return Trace(trace.calls | {at: new}, trace.events)


def _floats(leaves: dict[str, Any]) -> list[str]:
    return [name for name, leaf in leaves.items() if isinstance(leaf, Tensor) and leaf.values.dtype.kind == "f"]


def _versions(recorded: Recorded, scope: At, target: Target) -> dict[str, Trace]:
    """Operand → the trace with that operand changed."""
    trace = recorded.trace
    found = {leaf: _changed(trace, scope, "in", leaf) for leaf in _floats(trace.calls[scope].inputs)}
    for at in inner_calls(scope, target, trace.events):
        name = at[0].removeprefix(f"{scope[0]}.") + (f"#{at[1]}" if at[1] else "")
        for leaf in _floats(trace.calls[at].outputs):
            if not leaf.startswith(PROBE):
                found[f"{name}{'.' if leaf else ''}{leaf}"] = _changed(trace, at, "out", leaf)
    return found


def _use(ours: list[Any], oracle: list[Any]) -> Operand | None:
    """The operand's use, from the wrong tensor before and after a change, on both sides; None where neither depends on
    the operand."""
    absent = not all(isinstance(t, Tensor) and t.values.shape == oracle[0].values.shape for t in ours)
    (m0, m1), (o0, o1) = ([t.values.astype(np.float64) for t in side] for side in (oracle if absent else ours, oracle))
    hidden = np.abs(o0) > 1e30
    dm, do = (np.where(hidden, 0.0, after - before) for before, after in ((m0, m1), (o0, o1)))
    noise = 1e-5 * float(np.linalg.norm(np.where(hidden, 0.0, o0)))
    moved, answer, wrong = (float(np.linalg.norm(a)) for a in (dm, do, dm - do))
    if not (moved > noise or answer > noise):
        return None
    if absent:
        return Operand("", "not used: ours has no such tensor", 1.0)
    error = wrong / (answer or moved)
    if not isfinite(error) or error > AGREES + noise / (answer or moved):
        use = (
            "not used" if moved <= noise else "used, and not by the reference" if answer <= noise else "used otherwise"
        )
        return Operand("", use, error)
    return Operand("", AS_REFERENCE, error)


# ---- modules: parameters and constants ----------------------------------------------------------------------------


def constants(theirs: Any, ours: Any) -> list[str]:
    """The numbers, flags and parameters that the two modules hold under one name and disagree on."""
    found = []
    for name, value in vars(theirs).items():
        other = vars(ours).get(name, ours.get(name) if hasattr(ours, "get") else None)
        plain = isinstance(value, (bool, int, float)) and isinstance(other, (bool, int, float))
        if plain and name != "training" and value != other:
            found.append(f"{name} is {other!r}, the reference's is {value!r}")
    own = tensors_of(ours)
    for name, a in tensors_of(theirs).items():
        b = own.get(name, a)
        if not np.array_equal(a, b):
            share = "another shape" if a.shape != b.shape else f"{int((a != b).sum())} of {a.size} values"
            found.append(f"parameter {name}: {share} differ from the reference's")
    return found


# ---- one failure --------------------------------------------------------------------------------------------------


def record(runner: Runner, place: Place) -> Recorded:
    """Run the reference on the place's case again. Raises InputError for what there is not."""
    stage = stages().get(place.stage)
    own = {files_of(runner.files[stage.main])[0].stem} if stage and stage.component in runner.files else set()
    if stage is None or place.config not in {*stage.configs, *own}:
        raise InputError(
            f"no stage '{place.stage}' with config '{place.config}'. Pipelines cannot be taken apart; of a run with "
            "--checkpoint give the same files again; the stages and their configs are listed by: parity list"
        )
    if place.lane not in LANES or (place.lane == "B") is not (place.dtype in ("bfloat16", "float16")):
        raise InputError(
            f"case '{place.case}' is not of lane '{place.lane}'; the lanes are A, B and C, and the cases of lane B end "
            "in @bfloat16 or @float16"
        )
    pair = runner.load(stage, place.config, place.dtype)
    with seeded(place.seed):
        cases, name = stage.cases(pair.config), place.case.partition("@")[0]
    if name not in cases:
        raise InputError(f"no case '{name}' of {place.stage} {place.config}; there are: {', '.join(cases)}")
    isolated = not (place.dtype != "float32" and stage.float32)
    _, case, pair = next(iter(runner.matching(pair, name)))
    return runner.record(pair, case, repeat=False, isolated=isolated)


def isolated_rows(recorded: Recorded, ours: Trace, where: dict[str, str]) -> list[Row]:
    """The verdicts on a run of ours on the reference's inputs. where: ``Place.where``."""
    assert recorded.oracle is not None  # recorded to be judged isolated
    theirs, ours = as_judged(recorded, ours)
    return judge(Results(), where, recorded.pair.stage, theirs, recorded.oracle, ours)


def bisect(
    runner: Runner, recorded: Recorded, ours: dict[str, Any], rows: list[Row], tap: str = ""
) -> Diagnosis | None:
    """The first wrong tensor at or inside ``tap`` (everywhere, without), explained; None where all pass."""
    chosen = [row for row in rows if f"{row.name}.".replace(":", ".").startswith(f"{tap}." if tap else "")]
    row = next((row for row in chosen if row.verdict != "pass"), None)
    if row is None:
        return None
    failed = sum(row.verdict != "pass" for row in chosen)
    base = Diagnosis(row, None, len(chosen) - failed, failed)
    trace = recorded.trace
    if (row.name.partition(":")[0], row.call) not in trace.calls and not _known(row, trace):
        return base  # ours alone has it
    target = target_of(row, trace)
    scope = scope_of(target, trace.events)
    if scope is None:
        return base
    operands, made = _operands(runner, recorded, ours, scope, target)
    theirs, own = (
        _module(side, modules, recorded.pair.stage, scope[0])
        for side, modules in ((runner.side(recorded.pair.stage), recorded.pair.reference), (runner.mlx, ours))
    )
    held = constants(theirs, own) if theirs is not None and own is not None else []
    cls = _class_of_step(runner, recorded, scope) if own is None else type(own)
    owner = _source(cls) if isinstance(cls, type) else None
    return replace(base, scope=scope, operands=operands, constants=tuple(held), owner=owner, made=made)


def _operands(
    runner: Runner, recorded: Recorded, ours: dict[str, Any], scope: At, target: Target
) -> tuple[tuple[Operand, ...], Slice]:
    """How each operand is used, the most wrongly used first; and the statements of ours that made the target."""
    pair, (folder,) = recorded.pair, importlib.import_module("ltx2_mlx").__path__
    tensor = isinstance(target.of(recorded.trace), Tensor) and pair.dtype == "float32"
    changed = _versions(recorded, scope, target) if tensor else {}
    versions = {"": recorded.trace, **changed}
    recorder = Recorder(Path(folder))
    focus = Focus(runner.mlx, scope, versions, target, recorder=recorder)
    answers, oracle = focus.ask(recorded, ours, pair.dtype), {}
    if changed:
        side = runner.side(pair.stage)
        with side.widened():
            oracle = Focus(side, scope, versions, target, oracle=True).ask(recorded, pair.oracle, "float64")
    found = []
    for name in changed:
        use = _use([answers.get(""), answers.get(name)], [oracle.get(""), oracle.get(name)])
        found += [replace(use, name=name)] if use else []
    found.sort(key=lambda operand: -operand.error)
    suspects = [_identifier(o.name) for o in found if o.use != AS_REFERENCE]
    return tuple(found), recorder.statements(suspects)


def _identifier(operand: str) -> str:
    """The name by which a statement uses an operand: of ``kwargs.sigmas`` it is sigmas, of ``norm#1.0`` norm."""
    return [part for part in operand.partition("#")[0].split(".") if not part.isdigit()][-1]


def _module(side: Side, modules: dict[str, Any], stage: Stage, tap: str) -> Any:
    """The module of a tap, or that a method's tap is of; None for a free function's."""
    found = module_at(side, modules, stage, tap)
    return module_at(side, modules, stage, tap.rpartition(".")[0]) if found is None else found


def _class_of_step(runner: Runner, recorded: Recorded, scope: At) -> Any:
    """The class that a step's method is called on; None where the scope is no step."""
    step = next((step for step in recorded.case.steps if step.name == scope[0]), None)
    if step is None:
        return None
    return runner.mlx.cls(recorded.pair.stage, step.target if isinstance(step.target, str) else step.target.cls)


def _source(cls: type) -> Statement:
    """The lines of a class."""
    lines, first = inspect.getsourcelines(cls)
    return Statement(inspect.getsourcefile(cls) or "", first, first + len(lines) - 1, cls.__name__)


def _known(row: Row, trace: Trace) -> bool:
    name = row.name.partition(":")[0]
    return any(index == row.call and f"{name}.".startswith(f"{tap}.") for tap, index in trace.calls)


def culprit(runner: Runner, recorded: Recorded, ours: dict[str, Any], place: Place) -> tuple[str, Row] | None:
    """The culprit of a free run: the last tap that something is wrong at or before, so that the rest passes once all up
    to it are grafted; and the first failure.

    None where everything passes.
    """
    stage, pair = recorded.pair.stage, recorded.pair
    modules, lane = module_taps(stage, recorded.trace), "C" if pair.dtype == "float32" else "B"
    handed = {tap for tap in modules if any(fnmatchcase(tap, p) for p in stage.defined)}
    order = list(dict.fromkeys(tap for side, tap, _ in recorded.trace.events if side == "out" and tap in modules))

    def failing(grafted: int) -> list[Row]:
        known = set(order[:grafted])
        only = (*handed_over(pair), *known)
        trace = run_tapped(runner.mlx, pair, ours, recorded, pair.dtype, Session(runner.mlx, recorded.trace, only=only))
        side = runner.side(stage)
        oracle = run_tapped(side, pair, pair.oracle, recorded, "float64", Session(side, recorded.trace, only=only))
        rest = modules - known - handed
        theirs, trace = as_judged(recorded, trace)
        rows = judge(Results(), place.where | {"lane": lane}, stage, theirs, oracle, trace, rest)
        return [row for row in rows if row.verdict != "pass"]

    failed = failing(0)
    if not failed:
        return None
    low, high = 0, len(order)  # fails with `low` grafted, passes with `high`
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if failing(middle) else (low, middle)
    return order[high - 1], failed[0]
