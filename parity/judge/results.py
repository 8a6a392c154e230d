"""Rows, verdicts and their sum. ``results.json`` is this, and every report is made from it alone."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from math import isfinite, nan
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from . import metrics, tolerance
from .device import Device, Measure
from .documents import FINISHED, SCHEMA, Document, PipelineRecord, TapRecord, read_document
from .files import RunError, without_steering, write_whole

# Verdicts, worst first. `reported` marks rows that are shown and do not gate.
VERDICTS = ("invalid", "diverged", "missing", "inconclusive", "pass")
EXIT_OK, EXIT_DIVERGED, EXIT_USAGE, EXIT_INCOMPLETE, EXIT_INCONCLUSIVE = 0, 1, 2, 3, 4
ALLOWED = {"A": tolerance.K, "B": tolerance.K, "C": tolerance.K_FREE}  # the ratio, by lane
# What a run is of, unless it says otherwise: its inputs' seed; a checkpoint or a trace in place of the tiny files;
# other sides than ltx-core and ltx2-mlx.
ORIGIN = {"seed": "0", "checkpoint": "", "trace": "", "reference": "", "subject": ""}


class Reason(StrEnum):
    """The rule that decided against a row. ``Row.why`` says it in words; code asks this."""

    SHAPE = "shape"
    DTYPE = "dtype"
    MISSING = "missing"  # ours never calls this
    EXTRA = "extra"  # ours calls this, the reference does not
    ERROR = "error"  # ours raised
    NONFINITE = "nonfinite"  # NaN or Inf in ours alone
    MASK = "mask"  # elements masked on one side only
    CONSTANT = "constant"  # a constant that differs
    BLIND = "blind"  # every element of the reference is the same: a fault could not be seen
    EXACT = "exact"  # must be equal, and is not
    TOLERANCE = "tolerance"  # further from the oracle than rounding explains
    ORACLE = "oracle"  # the reference and its oracle are too far apart to judge by them
    ABSENT = "absent"  # ours has no array, or no result, where the reference has one
    REPEAT = "repeat"  # the reference does not repeat itself
    DEVICE = "device"  # a primitive of the device that made it is off by more than rounding
    COMPILER = "compiler"  # mx.compile does not work here


@dataclass
class Row:
    """One tensor of one call of one tap. ``name`` is the tap; ``tap:arg`` is what flows into it."""

    name: str
    stage: str
    config: str
    case: str
    lane: str
    call: int
    order: int
    dtype: str
    shape: tuple[int, ...] = ()
    verdict: str = "pass"
    reason: Reason | None = None  # None for a pass
    why: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    ratio: float = 0.0
    needed_k: float = 0.0
    floor: float = 0.0  # of the relative error: the larger of torch's own and what rounding explains
    source: str = ""  # of a failure: where our source computes it, as file:line
    seed: int = 0  # of the case's inputs
    further: str = ""  # of a failure: "ours" or "the reference", whichever is further from the float64 oracle
    profile: dict[str, Any] | None = None  # of a notable row: ``metrics.profile``

    def record(self) -> dict[str, Any]:
        """The row for JSON: every metric is there, null where it has no value; numbers to six digits."""
        metric = self.metrics.get
        # Not vars(self): of a row that was read without a field, its default is the class's alone
        row = {k: getattr(self, k) for k in _FIELDS} | {k: _rounded(metric(k)) for k in metrics.NAMES}
        row |= {k: _rounded(row[k]) for k in _NUMBERS}
        row |= {"seed": self.seed} if self.seed else {}
        return row | ({"profile": self.profile} if self.profile else {})

    @property
    def place(self) -> str:
        call = f"#{self.call}" if self.call else ""
        return f"{self.stage} {self.config} {self.case} {self.lane} {self.name}{call}"


_FIELDS = tuple(f.name for f in fields(Row) if f.name not in ("metrics", "profile", "seed"))
_NUMBERS = tuple(f.name for f in fields(Row) if f.type == "float")
PROFILES = 12  # failures of one cell that say where their error is


def _round(value: float) -> float | None:
    return float("%.6g" % value) if isfinite(value) else None  # noqa: UP031 (there are two million of them)


def _rounded(value: float | None) -> float | None:
    """The same of a number, of which most are 0 or absent."""
    return _round(value) if value else 0.0 if value == 0 else None


def _plain(value: Any) -> Any:
    """A number of NumPy as Python's own."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"no JSON: {type(value).__name__}")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


def _line(record: dict[str, Any]) -> bytes:
    """A row in JSON. Half a character, of which msgspec makes no bytes, is written as its number."""
    try:
        return _encode(record)
    except UnicodeEncodeError:
        return json.dumps(record, separators=(",", ":"), default=_plain).encode()


@dataclass
class Coverage:
    """The coverage of one stage and config."""

    stage: str
    config: str
    leaves: int
    leaves_compared: int
    parameters: int
    parameters_moving: int
    elements: int
    elements_moving: int
    uncovered: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        all_of_it = self.leaves == self.leaves_compared and self.parameters == self.parameters_moving
        return self.leaves > 0 and all_of_it and not self.uncovered


@dataclass(frozen=True)
class Item:
    """One tensor that both pipelines recorded, ``kind.NNN.part``."""

    name: str
    error: float | None = None
    limit: float | None = None
    verdict: str = "pass"
    why: str = ""


@dataclass
class PipelineRow:
    """One run of one pipeline on both sides. A number is None where ours did not come that far.

    steps: calls of the transformer. off_by_one: share of bytes; off_by_more: count. video_latent, audio_latent, mel:
    relative root mean square. waveform: largest error. psnr: in dB; psnr_self: of the reference against its twin.
    first: the first tensor that is not as it should be; verdict and why are its.
    """

    pipeline: str
    config: str
    dtype: str
    frames: int | None = None
    steps: int = 0
    off_by_one: float | None = None
    off_by_more: int | None = None
    video_latent: float | None = None
    audio_latent: float | None = None
    mel: float | None = None
    waveform: float | None = None
    psnr: float | None = None
    psnr_self: float | None = None
    first: str = ""
    verdict: str = "pass"
    why: str = ""
    seconds: float = 0.0
    seconds_reference: float = 0.0
    details: list[Item] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """The row for JSON; details as lists of name, error, limit and verdict."""
        row = {k: _round(v) if isinstance(v, float) else v for k, v in vars(self).items() if k != "details"}
        details = [[i.name, i.error and _round(i.error), i.limit and _round(i.limit), i.verdict] for i in self.details]
        return row | {"details": details}

    @property
    def place(self) -> str:
        return f"{self.pipeline} {self.config} {self.dtype} {self.first}"


@dataclass
class Results:
    rows: list[Row] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)
    carried: int = 0  # inputs that are the very output of an earlier tap: judged equal, not listed
    constants: int = 0  # outputs that are no arrays: equal on both sides, not listed either
    unseen: list[str] = field(default_factory=list)  # declared function taps that no case reached
    silent: list[str] = field(default_factory=list)  # what was chosen, and nothing of it was judged
    pipelines: list[PipelineRow] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)  # what there is to run, and what each stage leaves out
    environment: dict[str, str] = field(default_factory=dict)
    code: str = ""  # digest of the source that was judged and judged by
    origin: dict[str, str] = field(default_factory=dict)  # what was run on: see ``ORIGIN``
    explanation: dict[str, Any] | None = None  # of the first divergence: likely causes and lines of ours
    device: Device = field(default_factory=Device)  # that ours ran on, as it was measured
    seconds: float = 0.0
    peak_gb: float = 0.0
    _worst: dict[str, Row] = field(default_factory=dict)
    _profiled: int = 0

    def count(self, verdict: str) -> int:
        return sum(row.verdict == verdict for row in self._all())

    def _all(self) -> list[Row | PipelineRow]:
        return [*self.rows, *self.pipelines]

    def notable(self, row: Row) -> bool:
        """True if a new row is to say where its error is: the first failures, and the worst pass of each lane so far
        (which then takes over from the one before)."""
        if row.verdict != "pass":
            self._profiled += 1
            return self._profiled <= PROFILES
        before = self._worst.get(row.lane)
        if not row.metrics or (before and before.needed_k >= row.needed_k):
            return False
        if before:
            before.profile = None
        self._worst[row.lane] = row
        return True

    def failures(self) -> list[Row | PipelineRow]:
        """The rows that are not a pass, in the order in which they were computed, pipelines last."""
        return [row for row in self._all() if row.verdict != "pass"]

    def first_divergence(self) -> Row | PipelineRow | None:
        """The first failing tap of the first failing run; isolated lanes before the free-running one and pipelines."""
        return min(self.failures(), key=lambda row: getattr(row, "lane", "C") == "C", default=None)

    def worst(self, lane: str) -> Row | None:
        rows = [row for row in self.rows if row.lane == lane]
        return max(rows, key=lambda row: row.needed_k, default=None)

    def exit_code(self) -> int:
        if self.count("invalid") or self.count("diverged"):
            return EXIT_DIVERGED
        if self.count("missing") or self.unseen or self.silent or not all(c.whole for c in self.coverage):
            return EXIT_INCOMPLETE
        if not self.rows and not self.pipelines:
            return EXIT_INCOMPLETE
        return EXIT_INCONCLUSIVE if self.device.beyond or self.count("inconclusive") else EXIT_OK

    def summary(self) -> dict[str, Any]:
        tap = next((row for row in (self.first_divergence(),) if isinstance(row, Row)), None)
        pipeline = next((row for row in self.pipelines if row.verdict != "pass"), None)
        worst = {lane: row for lane in "ABC" if (row := self.worst(lane))}
        return {
            "exit_code": self.exit_code(),
            "taps": len(self.rows),
            "pipelines": len(self.pipelines),
            "carried": self.carried,
            "verdicts": {verdict: self.count(verdict) for verdict in VERDICTS},
            "coverage": [asdict(c) for c in self.coverage],
            "unseen": self.unseen,
            "silent": self.silent,
            "first_divergence": tap.record() | {"place": tap.place} if tap else None,
            "first_pipeline": replace(pipeline, details=[]).record() | {"place": pipeline.place} if pipeline else None,
            "worst": {lane: {"needed_k": _round(row.needed_k), "place": row.place} for lane, row in worst.items()},
            "seconds": round(self.seconds, 1),
            "peak_gb": round(self.peak_gb, 2),
        }

    def write(self, path: Path) -> None:
        """The file, whole or as it was before. Raises RunError."""
        head: dict[str, Any] = {"schema": SCHEMA, "state": FINISHED, "code": self.code, "origin": self.origin}
        head |= {"environment": self.environment, "summary": self.summary()}
        head |= {"calibration": self.device.document()}
        head |= {"allowed": ALLOWED, "stages": self.stages, "explanation": self.explanation}
        lines = ((_line(row.record()) for row in rows) for rows in (self.rows, self.pipelines))
        taps, pipelines = (b",\n".join(each).decode() for each in lines)
        text = json.dumps(head, indent=1)[:-2]
        write_whole(path, without_steering(f'{text},\n "pipelines": [\n{pipelines}\n],\n "taps": [\n{taps}\n]}}\n'))


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_results(path: Path) -> Document:
    """A finished results.json. Raises RunError for any other file, and where its summary is not the sum of its rows."""
    document = read_document(path)
    made, said = _rebuilt(document).summary(), dict(document["summary"])
    for key in ("exit_code", "taps", "pipelines", "verdicts"):
        if said[key] != made[key]:
            raise RunError(
                f"{path}: changed since it was written: the summary's {key} is {said[key]}, its rows give {made[key]}"
            )
    return document


def _rebuilt(document: Document) -> Results:
    """As much of the run as decides its exit code."""
    summary = document["summary"]
    rows = [Row(*_place(row), order=0, dtype="", verdict=row["verdict"]) for row in document["taps"]]
    coverage = [Coverage(**entry) for entry in summary["coverage"]]
    pipelines = [
        PipelineRow(row["pipeline"], row["config"], row["dtype"], verdict=_worst_item(row))
        for row in document["pipelines"]
    ]
    measures = (
        Measure(m["primitive"], m["dtype"], nan if m["constant"] is None else m["constant"], m["terms"])
        for m in document["calibration"]["measures"]
    )
    return Results(
        rows,
        coverage,
        unseen=summary["unseen"],
        silent=summary["silent"],
        pipelines=pipelines,
        device=Device(tuple(measures)),
    )


def _place(row: TapRecord) -> tuple[str, str, str, str, str, int]:
    return row["name"], row["stage"], row["config"], row["case"], row["lane"], row["call"]


def _worst_item(row: PipelineRecord) -> str:
    """A pipeline's own verdict, unless one of its items denies it; without items nothing was compared."""
    items = [verdict for *_, verdict in row["details"]]
    return row["verdict"] if row["verdict"] != "pass" else min(items, key=VERDICTS.index, default="invalid")
