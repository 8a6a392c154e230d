"""Rows with verdicts, from three traces (the reference, its oracle, ours), in the order of the reference's run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from ..declare.inputs import seed
from ..declare.model import Case, Stage
from ..tap.side import PROBE
from ..tap.trace import Call, Sums, Tensor, Trace
from . import metrics
from .results import Reason, Results, Row
from .rules import ABSENT, CARRIED, EQUAL, Comparison, Verdict, decide


def judge(
    results: Results,
    where: dict[str, str],
    stage: Stage,
    reference: Trace,
    oracle: Trace,
    ours: Trace,
    outputs_of: set[str] | None = None,
) -> list[Row]:
    """Append and return a row for every tensor of the reference's trace, in its order.

    where: stage, config, case and lane. outputs_of: only the outputs of these taps (the free-running lane).
    """
    rows: list[Row] = []

    def add(name: str, call: int, verdict: Verdict, dtype: str = "", shape: tuple[int, ...] = ()) -> Row:
        place = where["stage"], where["config"], where["case"], where["lane"]
        rows.append(Row(name, *place, call, len(results.rows) + len(rows), dtype, shape, seed=seed(), **vars(verdict)))
        return rows[-1]

    for compared in _comparisons(stage, where["lane"], reference, oracle, ours, outputs_of):
        verdict, values = decide(compared), compared.reference
        if verdict is CARRIED or verdict is EQUAL:
            results.carried += verdict is CARRIED
            results.constants += verdict is EQUAL
            continue
        array = (values.dtype, values.values.shape) if isinstance(values, Tensor) and compared.our_call else ()
        _locate(results, add(compared.row, compared.reference_call.index, verdict, *array), compared, ours)
    if outputs_of is None:
        for name, index in ours.calls:
            if (name, index) not in reference.calls:
                extra = Verdict("invalid", Reason.EXTRA, "ours calls this, the reference does not")
                add(name, index, extra).source = _source(ours, name)
    results.rows += rows
    return rows


def _comparisons(
    stage: Stage, lane: str, reference: Trace, oracle: Trace, ours: Trace, outputs_of: set[str] | None
) -> Iterator[Comparison]:
    """Everything that the reference recorded, and arrays that only ours has beside it."""
    declared = _declared(stage)
    sums = _sums(reference, free=outputs_of is not None)
    for side, name, index in reference.events:
        if outputs_of is not None and (side == "in" or name not in outputs_of):
            continue
        calls = reference.calls[name, index], oracle.calls.get((name, index)), ours.calls.get((name, index))
        theirs, truth, own = (_leaves(call, side) for call in calls)
        exact, injected = declared.get(name) or declared.get(name.rpartition(".")[2]) or (False, False)
        extra = (key for key, value in own.items() if isinstance(value, Tensor) and key not in theirs)
        for leaf in (*theirs, *extra):
            if outputs_of is not None and leaf.startswith(PROBE):
                continue  # probes are isolated by nature
            yield Comparison(
                row=_row_name(name, leaf, side),
                tap=name,
                side="in" if side == "in" else "out",
                lane=lane,
                stage=stage,
                exact=exact,
                injected=injected,
                reference=theirs.get(leaf, ABSENT),
                oracle=truth.get(leaf, ABSENT),
                ours=own.get(leaf, ABSENT),
                reference_call=calls[0],
                our_call=calls[2],
                sums=sums[side, name, index],
            )


def _sums(reference: Trace, free: bool) -> dict[tuple[str, str, int], Sums]:
    """What made the inputs and the outputs of each call: in the isolated lanes the code of one tap, all else being
    judged by itself; running free, all that came before."""
    found: dict[tuple[str, str, int], Sums] = {}
    total: Sums = {}
    for side, name, index in reference.events:
        call = reference.calls[name, index]
        made = call.sums_before if side == "in" else call.sums
        if free:
            total |= {primitive: max(terms, total.get(primitive, 1)) for primitive, terms in made.items()}
            made = dict(total)
        found[side, name, index] = made
    return found


def _declared(stage: Stage) -> dict[str, tuple[bool, bool]]:
    """Function taps and steps of a stage: whether their outputs must be equal, and whether they are random draws."""
    functions = {tap.name: (tap.exact, tap.injected) for tap in stage.functions}
    return functions if stage.component else functions | {name: (exact, False) for name, exact in _steps(stage.cases)}


@functools.cache
def _steps(cases: Callable[[dict[str, Any]], dict[str, Case]]) -> list[tuple[str, bool]]:
    return [(step.name, step.exact) for case in cases({}).values() for step in case.steps]


def _leaves(call: Call | None, side: str) -> dict[str, Any]:
    if call is None:
        return {}
    return call.inputs if side == "in" else call.outputs


def _row_name(tap: str, leaf: str, side: str) -> str:
    return f"{tap}:{leaf}" if side == "in" else f"{tap}.{leaf}" if leaf else tap


def tensors(row: Row, *traces: Trace) -> list[Any]:
    """The values that the traces (the reference's first) have for a row: a Tensor, a constant, or None for each."""
    for side, name, index in traces[0].events:
        if index == row.call and row.name.startswith(name):
            leaves = [_leaves(trace.calls.get((name, index)), side) for trace in traces]
            for leaf in dict.fromkeys(key for one in leaves for key in one):
                if _row_name(name, leaf, side) == row.name:
                    return [one.get(leaf) for one in leaves]
    return [None for _ in traces]


def _locate(results: Results, row: Row, compared: Comparison, trace: Trace) -> None:
    """Say where a notable row's error is, and where our source computes a failing one."""
    if row.verdict != "pass":
        row.source = _source(trace, compared.tap.rpartition(".")[0] if compared.side == "in" else compared.tap)
    ours, reference, oracle = compared.ours, compared.reference, compared.oracle
    both = isinstance(reference, Tensor) and isinstance(ours, Tensor)
    if both and reference.values.shape == ours.values.shape and ours.values.size and results.notable(row):
        truth = oracle if isinstance(oracle, Tensor) else reference
        row.profile = metrics.profile(ours.values, reference.values, truth.values)


def _source(trace: Trace, tap: str) -> str:
    """Where our source defines a tap, or what is around it: its parents, then the component itself."""
    while tap:
        if place := trace.places.get(tap):
            return place
        tap = tap.rpartition(".")[0]
    return next((place for name, place in reversed(trace.places.items()) if place and name[:1].isupper()), "")
