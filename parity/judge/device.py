"""The rounding of the device that MLX runs on, primitive by primitive: measured before a run (``run.calibration``), and
used by the floor of every tensor that is made with it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from math import isfinite
from typing import Any

from . import tolerance


@dataclass(frozen=True)
class Measure:
    """One primitive in one dtype: its error in units of the floor, the worst over sizes.

    terms: of the sums at which it was the worst.
    """

    primitive: str
    dtype: str
    constant: float
    terms: int

    @property
    def used(self) -> float:
        """The factor that the floor takes: 1 where the device rounds as well as the floor assumes."""
        return min(max(self.constant, 1.0), tolerance.DEVICE) if self.honest else tolerance.DEVICE

    @property
    def honest(self) -> bool:
        """True for rounding; NaN is none."""
        return self.constant <= tolerance.DEVICE

    @property
    def sentence(self) -> str:
        error = f"{self.constant:.3g} times the rounding of {self.terms} terms in {self.dtype}"
        hint = " (TF32? set MLX_ENABLE_TF32=0)" if self.primitive == "matmul" and self.constant > 100 else ""
        return (
            f"the device's {self.primitive} is off by {error}; {tolerance.DEVICE:g} is the most that is rounding{hint}"
        )


@dataclass(frozen=True)
class Device:
    """All measures of a device; without any, its constants are 1."""

    measures: tuple[Measure, ...] = ()

    @property
    def beyond(self) -> list[Measure]:
        """The primitives that are off by more than rounding."""
        return [measure for measure in self.measures if not measure.honest]

    def faults(self, dtypes: set[str], sums: Mapping[str, int] | None = None) -> list[Measure]:
        """Those of them in these dtypes that make ``sums``, if it is given."""
        return [m for m in self.beyond if m.dtype in dtypes and (sums is None or m.primitive in sums)]

    def floor(self, dtype: str, sums: Mapping[str, int]) -> float:
        """The relative error that rounding on this device explains in a tensor that is made by ``sums``."""
        terms = {primitive: counted(primitive, n) for primitive, n in sums.items()}
        floor = tolerance.Floor(dtype, max(terms.values(), default=1)).value
        for primitive, n in terms.items():
            for measure in self._of_primitive.get(primitive, ()):
                if measure.dtype in (dtype, "float32"):
                    floor = max(floor, measure.used * tolerance.Floor(measure.dtype, n).value)
        return floor

    @functools.cached_property
    def _of_primitive(self) -> dict[str, list[Measure]]:
        found: dict[str, list[Measure]] = {}
        for measure in self.measures:
            found.setdefault(measure.primitive, []).append(measure)
        return found

    @property
    def sentence(self) -> str:
        """The measures in words."""
        if not self.measures:
            return "not calibrated"
        above = [f"{m.primitive} {m.used:g} in {m.dtype}" for m in self.measures if m.used > 1]
        rest = "; all others as the floor assumes" if len(above) < len(self.measures) else ""
        return f"{len(self.measures)} primitives measured; rounding: {', '.join(above) or '1'}{rest if above else ''}"

    def document(self) -> dict[str, Any]:
        """For results.json; a constant that is no number is null there."""
        measures = [
            vars(m) | {"constant": m.constant if isfinite(m.constant) else None, "used": m.used, "honest": m.honest}
            for m in self.measures
        ]
        return {"bound": tolerance.DEVICE, "measures": measures}


def counted(primitive: str, terms: int) -> int:
    """The terms that count: kernels keep many partial sums of a reduction."""
    return min(terms, tolerance.PARTIAL) if primitive in REDUCTIONS else terms


REDUCTIONS = ("sum", "softmax", "attention", "group_norm", "layer_norm", "rms_norm")

UNMEASURED = Device()
_current: ContextVar[Device] = ContextVar("device", default=UNMEASURED)


@contextlib.contextmanager
def calibrated(device: Device) -> Iterator[None]:
    """While it lasts, verdicts are made with the constants of this device."""
    token = _current.set(device)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Device:
    return _current.get()
