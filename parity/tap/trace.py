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


@dataclass
class Call:
    """One call of a tap: flattened inputs and outputs by name; constants stand beside tensors."""

    name: str
    index: int
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass
class Trace:
    """All calls of one run by (tap, call index). ``events`` orders what was seen: ("in" | "out", tap, index)."""

    calls: dict[tuple[str, int], Call] = field(default_factory=dict)
    events: list[tuple[str, str, int]] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)  # tap → where our source defines it, as file:line
    raised: Exception | None = None  # what ended the run
