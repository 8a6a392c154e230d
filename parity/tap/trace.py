"""The record of a run: every tap's inputs and outputs, in the order in which they came to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Tensor:
    """An array off its framework: half precision is widened to float32 (exactly), ``dtype`` says what it was."""

    values: np.ndarray
    dtype: str


Sums = dict[str, int]  # primitive of a device (matmul, conv1d, exp, …) → the most terms that one of its sums has


@dataclass
class Call:
    """One call of a tap: flattened inputs and outputs by name; constants stand beside tensors.

    sums: of the tap's own code, without the taps inside it; sums_before: of the code of the tap around it, up to this
    call, which is what made the inputs. Counted on the reference's side alone.
    """

    name: str
    index: int
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    sums: Sums = field(default_factory=dict)
    sums_before: Sums = field(default_factory=dict)


@dataclass
class Trace:
    """All calls of one run by (tap, call index). ``events`` orders what was seen: ("in" | "out", tap, index)."""

    calls: dict[tuple[str, int], Call] = field(default_factory=dict)
    events: list[tuple[str, str, int]] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)  # tap → where our source defines it, as file:line
    raised: Exception | None = None  # what ended the run
