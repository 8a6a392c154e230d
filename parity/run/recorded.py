"""The reference's run on a cell: all that judging ours needs. Made live by ``runner``, or read from a trace file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..declare.model import Case, Stage
from ..sides.pair import Pair
from ..tap.trace import Call, Tensor, Trace


@dataclass
class Recorded:
    """The reference's run on one case: recorded once, judged against as often as ours is run.

    oracle: the isolated lane's, grafted from the reference's trace; None where that lane is not wanted.
    free: the free-running lane's: outputs of module taps.
    repeats: the reference gave the same result twice. moving: parameter → share of it that moves a compared tensor.
    """

    pair: Pair
    case: Case
    trace: Trace
    oracle: Trace | None
    repeats: bool
    name: str = ""
    free: Trace | None = None
    moving: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Inventory:
    """The parts of the reference's component to be covered: leaf modules, and parameters with their sizes."""

    leaves: list[str]
    sizes: dict[str, int]


@dataclass
class Recording:
    """Every case of one stage and config, in the order of judging; ``inventory`` where coverage is judged."""

    stage: Stage
    config: str
    inventory: Inventory | None
    cases: Iterable[Recorded]


def close_to(reference: Trace, oracle: Trace) -> Trace:
    """The oracle's trace with every array as the reference's plus a float32 residual.

    This is how a trace file stores it in half the space. An error is the residual itself, so it keeps 24 bits. Where
    that does not hold (masks, NaN, another shape) the float64 values stay.
    """
    for key, call in oracle.calls.items():
        other = reference.calls.get(key, Call(*key))
        for leaves, theirs in ((call.inputs, other.inputs), (call.outputs, other.outputs)):
            leaves |= {name: _close(leaf, theirs.get(name)) for name, leaf in leaves.items()}
    return oracle


def _close(oracle: Any, reference: Any) -> Any:
    if not (isinstance(oracle, Tensor) and isinstance(reference, Tensor)) or oracle.dtype != "float64":
        return oracle
    if (delta := residual(oracle.values, reference.values)) is None:
        return oracle
    return Tensor(reference.values + delta.astype(np.float64), "float64")


def residual(oracle: np.ndarray, reference: np.ndarray) -> np.ndarray | None:
    """``oracle − reference`` in float32; None where that overflows or means nothing."""
    if reference.dtype != np.float32 or oracle.shape != reference.shape:
        return None
    with np.errstate(all="ignore"):
        delta = (oracle - reference).astype(np.float32)
    return delta if np.isfinite(delta).all() else None
