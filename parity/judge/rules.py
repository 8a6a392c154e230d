"""The rules that decide about one tensor, in their order: the first that answers decides. Their numbers are in
``tolerance``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np

from ..declare.model import Stage
from ..tap.trace import Call, Sums, Tensor
from . import device, metrics, tolerance
from .results import Reason

ABSENT = object()  # what a run has where it has nothing
_HALF = ("bfloat16", "float16")


@dataclass(frozen=True)
class Verdict:
    """The outcome of a rule, in the fields of a row."""

    verdict: str = "pass"
    reason: Reason | None = None
    why: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    ratio: float = 0.0
    needed_k: float = 0.0
    floor: float = 0.0
    further: str = ""


PASS = Verdict()
# The two verdicts that make no row.
CARRIED = Verdict()  # judged elsewhere, or nobody's business
EQUAL = Verdict()  # a constant that both sides return


def _invalid(reason: Reason, why: str, **numbers: Any) -> Verdict:
    return Verdict("invalid", reason, why, **numbers)


@dataclass(frozen=True)
class Comparison:
    """One tensor (or constant) of one call of a tap, as the three runs have it.

    row: the row's name. exact: the tap's outputs must be equal. injected: they are what the reference drew at random.
    sums: what made it in the reference, as far as no other tap is judged for that.
    """

    row: str
    tap: str
    side: Literal["in", "out"]
    lane: str
    stage: Stage
    exact: bool
    injected: bool
    reference: Any
    oracle: Any
    ours: Any
    reference_call: Call
    our_call: Call | None
    sums: Sums = field(default_factory=dict)

    def among(self, patterns: Iterable[str]) -> bool:
        """True if the tap matches one of a stage's globs."""
        return any(fnmatchcase(self.tap, pattern) for pattern in patterns)

    @property
    def truth(self) -> np.ndarray:
        """The oracle's array; the reference's where it has none."""
        return self.oracle.values if isinstance(self.oracle, Tensor) else self.reference.values

    @functools.cached_property
    def finite(self) -> bool:
        """True where no number of the three is NaN or infinite."""
        return all(np.isfinite(array).all() for array in (self.ours.values, self.reference.values, self.truth))

    @functools.cached_property
    def masks(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Where ours, the reference and the oracle stand at their dtype's lowest value, as an additive mask does; None
        where none of them does."""
        m, r, o = self.ours, self.reference, self.truth
        ours, theirs = metrics.masked(m.values, m.dtype), metrics.masked(r.values, r.dtype)
        oracles = metrics.masked(o, "float64")
        if ours is None and theirs is None and oracles is None:
            return None
        none = np.zeros(o.shape, bool)
        ours, theirs, oracles = (none if hidden is None else hidden for hidden in (ours, theirs, oracles))
        return ours, theirs, oracles | (theirs & (o == r.values))  # of its own dtype, or grafted

    @functools.cached_property
    def values(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ours, the reference's and the oracle's, with 0 where they are masked or all the same infinity; of angles the
        points in the plane, at the reference's magnitude: −π and π are one direction, and nothing has none."""
        m, r, o = self.ours.values, self.reference.values, self.truth
        if self.masks is not None:
            m, r, o = (np.where(hidden, 0.0, a) for hidden, a in zip(self.masks, (m, r, o), strict=True))
        if not self.finite and (infinite := np.isinf(m) & (m == r) & (m == o)).any():
            m, r, o = (np.where(infinite, 0.0, a) for a in (m, r, o))
        if magnitude := self.stage.angles.get(self.row):
            length = self.reference_call.outputs[magnitude].values
            m, r, o = (length * np.stack([np.cos(a), np.sin(a)]) for a in (m, r, o))
        return m, r, o

    @functools.cached_property
    def metrics(self) -> dict[str, float]:
        return metrics.compare(*self.values)


def decide(comparison: Comparison) -> Verdict:
    """The verdict of the first rule that has one."""
    return next(verdict for rule in RULES if (verdict := rule(comparison)))


# ---- without an array on both sides ----------------------------------------------------------------------------------


def never_called(c: Comparison) -> Verdict | None:
    if c.our_call is not None:
        return None
    missing = Verdict("missing", Reason.MISSING, "ours never calls this")
    return missing if isinstance(c.reference, Tensor) or c.side == "out" else CARRIED


def constant(c: Comparison) -> Verdict | None:
    """A constant that both sides name must agree; one that only the reference names is its own affair."""
    if isinstance(c.reference, Tensor):
        return None
    named = "nothing" if c.reference is ABSENT else repr(c.reference)
    if c.ours is ABSENT and c.side == "out":
        return _invalid(Reason.ABSENT, f"ours returns nothing here, the reference {named}")
    if isinstance(c.ours, Tensor):
        return _invalid(Reason.CONSTANT, f"an array {c.ours.values.shape}, the reference has {named}")
    if c.ours is not ABSENT and c.reference is not ABSENT and c.ours != c.reference:
        return Verdict("diverged", Reason.CONSTANT, f"{c.ours!r}, the reference has {named}")
    absent = c.ours is ABSENT or c.reference is ABSENT
    return CARRIED if absent or c.side == "in" else EQUAL


def reference_only(c: Comparison) -> Verdict | None:
    """An input that, as the stage declares, only the reference passes around."""
    declared = any(fnmatchcase(c.row, pattern) for pattern in c.stage.reference_only)
    return CARRIED if c.ours is ABSENT and declared else None


def raised(c: Comparison) -> Verdict | None:
    error = c.our_call.error if c.our_call and c.side == "out" else None
    return _invalid(Reason.ERROR, error) if error else None


def no_array(c: Comparison) -> Verdict | None:
    if isinstance(c.ours, Tensor):
        return None
    found = "nothing" if c.ours is ABSENT else repr(c.ours)
    return _invalid(Reason.ABSENT, f"ours has {found} where the reference has an array")


# ---- two arrays that may not be compared -----------------------------------------------------------------------------


def shape(c: Comparison) -> Verdict | None:
    ours, theirs = c.ours.values.shape, c.reference.values.shape
    return None if ours == theirs else _invalid(Reason.SHAPE, f"shape {ours}, the reference has {theirs}")


def dtype(c: Comparison) -> Verdict | None:
    ours, theirs = c.ours.dtype, c.reference.dtype
    if c.stage.float32 and theirs in _HALF:  # only what flows in from outside may be half
        right = ours == "float32" or (c.side == "in" and ours == theirs)
    else:
        right = ours == theirs or (_is_integer(ours) and _is_integer(theirs))  # MLX counts in int32
    return None if right else _invalid(Reason.DTYPE, f"dtype {ours}, the reference has {theirs}")


def _is_integer(dtype: str) -> bool:
    return dtype.startswith(("int", "uint"))


def passed_on(c: Comparison) -> Verdict | None:
    """An input that is, to the last bit, what an earlier tap returned: judged there."""
    if c.side == "out" or not equal(c.ours.values, c.reference.values):
        return None
    return CARRIED if not isinstance(c.oracle, Tensor) or np.array_equal(c.truth, c.reference.values) else None


def injected(c: Comparison) -> Verdict | None:
    return PASS if c.injected and c.side == "out" else None


# ---- two arrays ------------------------------------------------------------------------------------------------------


def exact(c: Comparison) -> Verdict | None:
    """Integers, and what the stage declares to be equal to the last bit."""
    m, r = c.ours.values, c.reference.values
    if r.dtype.kind == "f" and (c.side == "in" or not (c.exact or c.among(c.stage.exact)) or np.isnan(r).any()):
        return None
    numbers = metrics.compare(m, r, r)
    if equal(m, r):
        return Verdict(metrics=numbers)
    why, infinite = f"must be equal; {int((m != r).sum())} of {m.size} elements differ", float("inf")
    return Verdict("diverged", Reason.EXACT, why, numbers, infinite, infinite)


def nonfinite(c: Comparison) -> Verdict | None:
    """NaN anywhere; infinities that are not in the same places with the same signs, in ours, the reference and the
    oracle. Those that are say nothing, and the rest is judged."""
    if c.finite:
        return None
    m, r, o = c.ours.values, c.reference.values, c.truth
    for whose, array in (("", m), ("the reference has ", r), ("the oracle has ", o)):
        if array.dtype.kind == "f" and np.isnan(array).any():
            return _invalid(Reason.NONFINITE, f"{whose}NaN")
    for side, other in (("the reference", r), ("the oracle", o)):
        if differ := int((_infinite(m) != _infinite(other)).sum()):
            if side == "the oracle" and c.masks is not None and np.array_equal(_infinite(m), _infinite(r)):
                continue  # a mask stands at the lowest value of its own dtype: see ``mask``
            return _invalid(
                Reason.NONFINITE, f"Inf in other places or of another sign than {side}: {differ} of {m.size}"
            )
    if m.size and np.isinf(m).all():
        return _invalid(Reason.BLIND, "every element is infinite: this case cannot see a fault here")
    return None


def empty(c: Comparison) -> Verdict | None:
    """Arrays without an element, of which nothing can be compared."""
    return _invalid(Reason.BLIND, "no element: nothing is compared") if c.reference.values.size == 0 else None


def blind(c: Comparison) -> Verdict | None:
    """A reference of which every element is the same, unless the stage says why."""
    if c.side == "in" or not metrics.is_constant(c.reference.values) or c.among(c.stage.constant):
        return None
    return _invalid(Reason.BLIND, "constant in the reference: this case cannot see a fault here", metrics=c.metrics)


def oracle(c: Comparison) -> Verdict | None:
    """A float32 reference far from its oracle. Ours decides who is wrong: where it is with the oracle, the reference
    is; where it is with the reference, the oracle is not its own."""
    q = c.metrics
    narrow = c.side == "out" and _takes_half(c.reference_call)  # a float32 result then has half precision's error
    if c.reference.dtype != "float32" or narrow or not q["rel_l2_reference"] > tolerance.ORACLE:
        return None
    if q["rel_l2"] < tolerance.ORACLE:
        errors = f"{q['rel_l2_reference']:.1e} from its float64 oracle, ours is {q['rel_l2']:.1e} from it"
        why = f"the reference is wrong here: it is {errors}"
        return _invalid(Reason.ORACLE, why, metrics=q, further="the reference")
    why = f"the oracle is {q['rel_l2_reference']:.1e} from the reference: not its oracle"
    return _invalid(Reason.ORACLE, why, metrics=q)


def mask(c: Comparison) -> Verdict | None:
    """Where an additive mask stands at its dtype's lowest value must be equal."""
    if c.masks is None or np.array_equal(c.masks[0], c.masks[1]):
        return None
    why = f"{int((c.masks[0] != c.masks[1]).sum())} elements masked on one side only"
    return Verdict("diverged", Reason.MASK, why, c.metrics, *_ratios(c))


def tolerated(c: Comparison) -> Verdict:
    """The gate: ours as near to the oracle as the reference is, up to a factor, or as rounding explains; and the
    reference near enough for that to mean something."""
    q, allowed = c.metrics, tolerance.K_FREE if c.lane == "C" else tolerance.K
    ratio, needed_k, floor = _ratios(c)
    if needed_k <= allowed:
        if blunt := _blunt(q):
            return Verdict("inconclusive", Reason.ORACLE, blunt, q, ratio, needed_k, floor)
        return Verdict(metrics=q, ratio=ratio, needed_k=needed_k, floor=floor)
    errors = f"rel L2 {q['rel_l2']:.2e}, torch {q['rel_l2_reference']:.2e}"
    if at_fault := device.current().faults({c.reference.dtype, "float32"}, c.sums):
        why = f"ratio {needed_k:.3g}, but {at_fault[0].sentence} ({errors})"
        return Verdict("inconclusive", Reason.DEVICE, why, q, ratio, needed_k, floor)
    why = f"ratio {needed_k:.3g}, {allowed:g} is allowed ({errors})"
    further = "ours" if q["rel_l2"] > q["rel_l2_reference"] else "the reference"
    return Verdict("diverged", Reason.TOLERANCE, why, q, ratio, needed_k, floor, further)


RULES = (
    *(never_called, constant, reference_only, raised, no_array),
    *(shape, dtype, passed_on, injected),
    *(empty, exact, nonfinite, blind, oracle, mask, tolerated),
)


def _blunt(q: dict[str, float]) -> str:
    """Why the reference is too far from its oracle for rubbish to be told from it; nothing where it is not."""
    whole, single = q["rel_l2_reference"], q["tail_reference"] / q["peak"]
    if whole <= tolerance.BLUNT and single <= tolerance.BLUNT_TAIL:  # neither holds of a NaN
        return ""
    most = f"at most {tolerance.BLUNT:.1%} and {tolerance.BLUNT_TAIL:.1%} can be judged by"
    return f"the reference is {whole:.1%} from its oracle, single elements {single:.1%} of the largest; {most}"


def _ratios(c: Comparison) -> tuple[float, float, float]:
    """The ratio of the norms of the errors, the ``k`` that would have passed, and the floor of the relative error.

    Where the oracle is zero, rounding explains nothing.
    """
    least = device.current().floor(c.reference.dtype, c.sums)
    return ratios(c.metrics, least if np.any(c.values[2]) else 0.0)


def ratios(q: dict[str, float], least: float) -> tuple[float, float, float]:
    """The same of any metrics; ``least`` is the relative error that rounding explains."""
    floor = max(q["rel_l2_reference"], least)
    ratio = _over(q["rel_l2"], floor)
    tails = [_over(q[name], max(q[f"{name}_reference"], least * q["peak"])) for name in ("tail", "p999")]
    needed = float(np.max([ratio, *(tail * tolerance.K / tolerance.K_TAIL for tail in tails)]))  # NaN if one is
    return ratio, needed, floor


def _over(error: float, allowed: float) -> float:
    if allowed == 0.0:
        return 0.0 if error == 0.0 else float("inf")
    return error / allowed


def _infinite(array: np.ndarray) -> np.ndarray:
    """+1 and −1 at infinities, 0 elsewhere."""
    found: np.ndarray = np.where(np.isinf(array), np.sign(array), 0.0)
    return found


def equal(a: np.ndarray, b: np.ndarray) -> bool:
    """To the last digit; NaN is NaN."""
    if a.shape != b.shape:
        return False
    same: np.ndarray = a == b
    return bool(same.all()) or bool((same | ((a != a) & (b != b))).all())


def _takes_half(call: Call) -> bool:
    return any(isinstance(v, Tensor) and v.dtype in _HALF for v in call.inputs.values())
