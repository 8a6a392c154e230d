"""From three traces (ours, the reference, the oracle) to rows with verdicts. The policy is ``tolerance``'s."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ..declare.model import FunctionTap, Stage
from ..tap.side import PROBE
from ..tap.trace import Call, Tensor, Trace
from . import metrics, tolerance
from .results import Results, Row


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
    functions = {tap.name: tap for tap in stage.functions} | {
        step.name: FunctionTap(step.name, None, exact=step.exact) for case in _steps(stage) for step in case
    }
    for side, name, index in reference.events:
        if outputs_of is not None and (side == "in" or name not in outputs_of):
            continue
        calls = [trace.calls.get((name, index)) for trace in (reference, oracle, ours)]
        tap = functions.get(name) or functions.get(name.rsplit(".", 1)[-1]) or FunctionTap(name, None)
        for leaf in _leaves(calls, side):
            if outputs_of is not None and leaf.startswith(PROBE):
                continue  # probes are isolated by nature
            row = Row(_row_name(name, leaf, side), **where, call=index, order=len(results.rows) + len(rows), dtype="")
            values = [
                getattr(c, "inputs" if side == "in" else "outputs").get(leaf, _ABSENT) if c else _ABSENT for c in calls
            ]
            if _decide(row, *values, tap, stage, side, name, calls[2], calls[0]):
                rows.append(row)
                _locate(results, row, *values, ours, name, side)
            else:
                results.carried += 1
    if outputs_of is None:
        for name, index in ours.calls:
            if (name, index) not in reference.calls:
                row = Row(name, **where, call=index, order=len(results.rows) + len(rows), dtype="")
                row.verdict, row.why = "invalid", "ours calls this, the reference does not"
                row.source = _source(ours, name)
                rows.append(row)
    results.rows += rows
    return rows


def _locate(
    results: Results, row: Row, reference: Any, oracle: Any, ours: Any, trace: Trace, name: str, side: str
) -> None:
    """Say where a notable row's error is, and where our source computes a failing one."""
    if row.verdict != "pass":
        row.source = _source(trace, name.rpartition(".")[0] if side == "in" else name)
    both = isinstance(reference, Tensor) and isinstance(ours, Tensor)
    if both and reference.values.shape == ours.values.shape and results.notable(row):
        truth = oracle if isinstance(oracle, Tensor) else reference
        row.profile = metrics.profile(ours.values, reference.values, truth.values)


def _source(trace: Trace, tap: str) -> str:
    """Where our source defines a tap, or what is around it: its parents, then the component itself."""
    while tap:
        if place := trace.places.get(tap):
            return place
        tap = tap.rpartition(".")[0]
    return next((place for name, place in reversed(trace.places.items()) if place and name[:1].isupper()), "")


_ABSENT = object()


_HALF = ("bfloat16", "float16")


def _right_dtype(ours: str, reference: str, stage: Stage, side: str) -> bool:
    if stage.float32 and reference in _HALF:  # only what flows in from outside may be half
        return ours == "float32" or (side == "in" and ours == reference)
    return ours == reference or not {ours, reference} & {"float32", *_HALF}


def _steps(stage: Stage) -> list[tuple[Any, ...]]:
    return [case.steps for case in stage.cases({}).values()] if stage.component is None else []


def _leaves(calls: list[Call | None], side: str) -> list[str]:
    """The reference's leaves; arrays that only ours has follow."""
    reference, _, ours = ((c.inputs if side == "in" else c.outputs) if c else {} for c in calls)
    extra = [k for k, v in ours.items() if isinstance(v, Tensor) and k not in reference]
    return [*reference, *extra]


def tensors(row: Row, *traces: Trace) -> list[Any]:
    """What each trace (the reference's first) has for a row: a Tensor, a constant, or None."""
    for side, name, index in traces[0].events:
        if index == row.call and row.name.startswith(name):
            calls = [trace.calls.get((name, index)) for trace in traces]
            leaves = [(c.inputs if side == "in" else c.outputs) if c else {} for c in calls]
            for leaf in dict.fromkeys(key for one in leaves for key in one):
                if _row_name(name, leaf, side) == row.name:
                    return [one.get(leaf) for one in leaves]
    return [None for _ in traces]


def _row_name(tap: str, leaf: str, side: str) -> str:
    return f"{tap}:{leaf}" if side == "in" else f"{tap}.{leaf}" if leaf else tap


def _decide(
    row: Row,
    reference: Any,
    oracle: Any,
    ours: Any,
    tap: FunctionTap,
    stage: Stage,
    side: str,
    name: str,
    our_call: Call | None,
    reference_call: Call,
) -> bool:
    """Fill in the row. False for an input that is bit for bit what an earlier tap handed on."""
    if our_call is None:
        row.verdict, row.why = "missing", "ours never calls this"
        return isinstance(reference, Tensor) or side == "out"
    if not isinstance(reference, Tensor):
        return _decide_constant(row, reference, ours, side)
    if ours is _ABSENT and any(fnmatchcase(row.name, pattern) for pattern in stage.reference_only):
        return False
    row.dtype, row.shape = reference.dtype, reference.values.shape
    if our_call.error and side == "out":
        row.verdict, row.why = "invalid", our_call.error
    elif not isinstance(ours, Tensor):
        found = "nothing" if ours is _ABSENT else repr(ours)
        row.verdict, row.why = "invalid", f"ours has {found} where the reference has an array"
    elif ours.values.shape != reference.values.shape:
        row.verdict, row.why = "invalid", f"shape {ours.values.shape}, the reference has {reference.values.shape}"
    elif not _right_dtype(ours.dtype, reference.dtype, stage, side):
        row.verdict, row.why = "invalid", f"dtype {ours.dtype}, the reference has {reference.dtype}"
    else:
        handed_on = side == "in" and np.array_equal(ours.values, reference.values, equal_nan=True)
        if handed_on and (not isinstance(oracle, Tensor) or np.array_equal(oracle.values, reference.values)):
            return False
        _decide_arrays(row, reference, oracle, ours, tap, stage, side, name, reference_call)
    return True


def _decide_constant(row: Row, reference: Any, ours: Any, side: str) -> bool:
    """A constant argument that both sides name must agree; one that only the reference names is its own affair."""
    if ours is _ABSENT and side == "out":
        row.verdict, row.why = "invalid", f"ours returns nothing here, the reference {reference!r}"
        return True
    if isinstance(ours, Tensor) or (ours is not _ABSENT and reference is not _ABSENT and ours != reference):
        found = f"an array {ours.values.shape}" if isinstance(ours, Tensor) else repr(ours)
        named = "nothing" if reference is _ABSENT else repr(reference)
        row.verdict, row.why = (
            ("invalid" if isinstance(ours, Tensor) else "diverged"),
            f"{found}, the reference has {named}",
        )
        return True
    return False


def _decide_arrays(
    row: Row,
    reference: Tensor,
    oracle: Any,
    ours: Tensor,
    tap: FunctionTap,
    stage: Stage,
    side: str,
    name: str,
    reference_call: Call,
) -> None:
    r, m = reference.values, ours.values
    o = oracle.values if isinstance(oracle, Tensor) else r
    if tap.injected and side == "out":
        return
    exact = tap.exact or any(fnmatchcase(name, pattern) for pattern in stage.exact)
    if (exact and side == "out") or r.dtype.kind != "f":
        row.metrics = metrics.compare(m, r, r)
        equal = np.array_equal(m, r, equal_nan=True)
        row.verdict, row.ratio = ("pass", 0.0) if equal else ("diverged", float("inf"))
        row.why = "" if equal else f"must be equal; {int((m != r).sum())} of {m.size} elements differ"
        row.needed_k = row.ratio
        return
    hidden = [metrics.masked(m, ours.dtype), metrics.masked(r, reference.dtype)]
    hidden.append(metrics.masked(o, "float64") | (hidden[1] & (o == r)))  # of its own dtype, or grafted
    if any(h.any() for h in hidden):  # an additive mask: where it stands at the dtype's lowest value must be equal
        if not np.array_equal(hidden[0], hidden[1]):
            row.verdict, row.why = "diverged", f"{int((hidden[0] != hidden[1]).sum())} elements masked on one side only"
        m, r, o = (np.where(h, 0.0, a) for h, a in zip(hidden, (m, r, o), strict=True))
    if (found := metrics.fault(m)) and not np.array_equal(np.isfinite(m), np.isfinite(o)):
        row.verdict, row.why = "invalid", found
        return
    row.metrics = metrics.compare(m, r, o)
    blind = side == "out" and metrics.is_constant(reference.values)
    if blind and not any(fnmatchcase(name, pattern) for pattern in stage.constant):
        row.verdict, row.why = "invalid", "constant in the reference: this case cannot see a fault here"
        return
    narrow = side == "out" and _takes_half(reference_call)  # then a float32 result carries half precision's error
    if row.dtype == "float32" and not narrow and row.metrics["rel_l2_reference"] > tolerance.ORACLE:
        row.verdict, (row.why, row.further) = "invalid", _strayed(row.metrics)
        return
    floor = tolerance.Floor(row.dtype, _terms(reference_call) if side == "out" else 1).value
    allowed = tolerance.K_FREE if row.lane == "C" else tolerance.K
    q = row.metrics
    row.floor = max(q["rel_l2_reference"], floor)
    row.ratio = q["rel_l2"] / row.floor
    tail = max(
        q["tail"] / max(q["tail_reference"], floor * q["peak"]), q["p999"] / max(q["p999_reference"], floor * q["peak"])
    )
    row.needed_k = max(row.ratio, tail * tolerance.K / tolerance.K_TAIL)
    if not row.needed_k <= allowed and row.verdict == "pass":
        row.verdict = "diverged"
        errors = f"rel L2 {q['rel_l2']:.2e}, torch {q['rel_l2_reference']:.2e}"
        row.why = f"needs k = {row.needed_k:.3g}, allowed is {allowed:g} ({errors})"
        row.further = "ours" if q["rel_l2"] > q["rel_l2_reference"] else "the reference"


def _strayed(q: dict[str, float]) -> tuple[str, str]:
    """Of a float32 reference far from its oracle: why, and who is wrong. Ours decides: where it is with the oracle, the
    reference is; where it is with the reference, the oracle is not its own."""
    if q["rel_l2"] < tolerance.ORACLE:
        errors = f"{q['rel_l2_reference']:.1e} from its float64 oracle, ours is {q['rel_l2']:.1e} from it"
        return f"the reference is wrong here: it is {errors}", "the reference"
    return f"the oracle is {q['rel_l2_reference']:.1e} from the reference: not its oracle", ""


def _terms(call: Call) -> int:
    """How many terms a tap may sum: the widest last axis among its inputs, or channel axis of images and videos."""
    shapes = [v.values.shape for v in call.inputs.values() if isinstance(v, Tensor) and v.values.ndim]
    return max((max(shape[-1], shape[1] if len(shape) > 3 else 1) for shape in shapes), default=1)


def _takes_half(call: Call) -> bool:
    return any(isinstance(v, Tensor) and v.dtype in ("bfloat16", "float16") for v in call.inputs.values())
