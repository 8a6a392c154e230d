"""The files that runs leave, with the type of every field. They are read here and nowhere else, and written whole.

While a run lasts, and after one that failed, ``results.json`` says so (``state``) and holds nothing that could be taken
for a result.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal, NotRequired, TypedDict

import msgspec

from .files import RunError, decode, read_bytes, write_whole

SCHEMA = "ltx2-parity/2"
BASELINE_SCHEMA = "ltx2-parity-baseline/2"
RUNNING, FAILED, FINISHED = "running", "failed", "finished"
AGAIN, ACCEPT = "Run again: python -m parity run", "Store one with: parity accept"

Verdict = Literal["invalid", "diverged", "missing", "inconclusive", "pass"]
Lane = Literal["A", "B", "C"]
Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
_LARGEST = sys.float_info.max  # 1e999 is infinite, and could not be written again
Size = Annotated[float, msgspec.Meta(ge=0, le=_LARGEST)]  # null in JSON stands for infinity
Number = Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)] | None
Decibels = Annotated[int, msgspec.Meta(ge=-3300, le=3080)]


class AxisRecord(TypedDict):
    """The error along one axis, in bins."""

    axis: Count
    size: Count
    ours: list[Size | None]
    reference: list[Size | None]


class MapRecord(TypedDict):
    """The error over two axes."""

    axes: Annotated[list[Count], msgspec.Meta(min_length=2, max_length=2)]
    ours: list[list[Decibels | None]]


class Profile(TypedDict):
    """Where in a tensor its error is: ``metrics.profile``."""

    axes: list[AxisRecord]
    map: NotRequired[MapRecord]


class TapRecord(TypedDict):
    """A row: ``results.Row.record``."""

    name: str
    stage: str
    config: str
    case: str
    lane: Lane
    call: Count
    order: Count
    dtype: str
    shape: list[Count]
    verdict: Verdict
    reason: str | None
    why: str
    ratio: Size | None
    needed_k: Size | None
    floor: Size | None
    source: str
    further: str
    profile: NotRequired[Profile]
    seed: NotRequired[Count]
    pearson: Number
    one_minus_r: Number
    cosine: Number
    mean_ref: Number
    mean_mlx: Number
    std_ref: Number
    std_mlx: Number
    std_ratio: Number
    slope: Number
    offset: Number
    rel_l2: Number
    rel_l2_reference: Number
    max_abs: Number
    tail: Number
    tail_reference: Number
    p999: Number
    p999_reference: Number
    peak: Number


class PipelineRecord(TypedDict):
    """A run of a pipeline: ``results.PipelineRow.record``; details are name, error, limit, verdict."""

    pipeline: str
    config: str
    dtype: str
    frames: Count | None
    steps: Count
    off_by_one: Number
    off_by_more: Count | None
    video_latent: Number
    audio_latent: Number
    mel: Number
    waveform: Number
    psnr: Number
    psnr_self: Number
    first: str
    verdict: Verdict
    why: str
    seconds: Size
    seconds_reference: Size
    details: list[tuple[str, Size | None, Size | None, Verdict]]


class CoverageRecord(TypedDict):
    """What of a stage and config was covered: ``results.Coverage``."""

    stage: str
    config: str
    leaves: Count
    leaves_compared: Count
    parameters: Count
    parameters_moving: Count
    elements: Count
    elements_moving: Count
    uncovered: list[str]


class FirstRecord(TapRecord):
    """The first row that does not pass, once more."""

    place: str


class FirstPipeline(PipelineRecord):
    """The first pipeline that does not pass, without its details."""

    place: str


class Worst(TypedDict):
    """The row of a lane with the largest ratio."""

    needed_k: Size | None
    place: str


class Summary(TypedDict):
    """The sum of the rows. A reader makes it again, and refuses a file in which it is another."""

    exit_code: Count
    taps: Count
    pipelines: Count
    carried: Count
    verdicts: dict[Verdict, Count]
    coverage: list[CoverageRecord]
    unseen: list[str]
    silent: list[str]
    first_divergence: FirstRecord | None
    first_pipeline: FirstPipeline | None
    worst: dict[Lane, Worst]
    seconds: Size
    peak_gb: Size


class MeasureRecord(TypedDict):
    """A primitive of the device: ``device.Measure``. A constant is null where the device gives NaN or infinity."""

    primitive: str
    dtype: str
    constant: Size | None
    terms: Count
    used: Size
    honest: bool


class Calibration(TypedDict):
    """How the device rounds: ``device.Device.document``."""

    bound: Size
    measures: list[MeasureRecord]


class StageRecord(TypedDict):
    """A stage that there is, and what it leaves out with the reason: ``cells.manifest``."""

    stage: str
    reference: NotRequired[str]  # absent in runs from before, which had one
    phase: str
    configs: list[str]
    ran: list[str]
    layout: str
    reference_only: dict[str, str]
    different: dict[str, str]
    constant: dict[str, str]
    idle: dict[str, list[str]]
    defined: list[str]
    injected: list[str]


class CauseRecord(TypedDict):
    """A likely cause, and the planted fault that is most alike."""

    cause: str
    share: Annotated[float, msgspec.Meta(ge=0, le=1)]
    meaning: str
    example: str
    fault: str


class StatementRecord(TypedDict):
    """Lines of ours."""

    file: str
    first: Count
    last: Count
    text: str


class Explanation(TypedDict):
    """Why there is no explanation (``missing``), or all of it: ``likely_causes.Explanation.document``."""

    missing: NotRequired[str]
    place: NotRequired[str]
    signs: NotRequired[list[str]]
    causes: NotRequired[list[CauseRecord]]
    constants: NotRequired[list[str]]
    narrowest: NotRequired[StatementRecord | None]
    statements: NotRequired[list[StatementRecord]]


class Allowed(TypedDict):
    """The ratio that each lane allows."""

    A: Annotated[float, msgspec.Meta(gt=0, le=_LARGEST)]
    B: Annotated[float, msgspec.Meta(gt=0, le=_LARGEST)]
    C: Annotated[float, msgspec.Meta(gt=0, le=_LARGEST)]


class Document(TypedDict):
    """``results.json`` of a run that came to its end."""

    schema: str
    state: str
    code: str
    origin: dict[str, str]
    environment: dict[str, str]
    summary: Summary
    calibration: Calibration
    allowed: Allowed
    stages: list[StageRecord]
    explanation: Explanation | None
    pipelines: list[PipelineRecord]
    taps: list[TapRecord]


class BaselineCell(TypedDict):
    """The worst ratios of a cell in one lane, by tap; ``environment`` is the number of where it ran."""

    environment: str
    taps: dict[str, Size]


class Baseline(TypedDict):
    """``baseline.json``: cells are named ``stage config lane``, a pipeline's lane is its dtype."""

    schema: str
    environments: dict[str, dict[str, str]]
    cells: dict[str, BaselineCell]


class _Head(TypedDict):
    """What every file of the harness begins with."""

    schema: str
    state: NotRequired[str]
    why: NotRequired[str]


_KNOWN = f"neither a results.json ({SCHEMA}) nor a baseline ({BASELINE_SCHEMA})"


def read_document(path: Path) -> Document:
    """A finished ``results.json``, every field of its type. Raises RunError."""
    text = read_bytes(path, AGAIN)
    _require_schema(path, text, SCHEMA)
    found = decode(path, text, Document, _KNOWN)
    if problem := _problem(found):
        raise RunError(f"{path}: changed since it was written: {problem}. {AGAIN}")
    return found


def read_baseline(path: Path) -> Baseline:
    """An accepted baseline, every field of its type. Raises RunError."""
    text = read_bytes(path, ACCEPT)
    _require_schema(path, text, BASELINE_SCHEMA)
    found = decode(path, text, Baseline, _KNOWN)
    for name, cell in found["cells"].items():
        if len(name.split(" ")) != 3 or cell["environment"] not in found["environments"]:
            raise RunError(f"{path}: the cell '{name}' is no 'stage config lane' with an environment of the file")
    return found


def schema_of(path: Path, hint: str = AGAIN) -> str:
    """What a file says that it is. Raises RunError for one that says nothing, with a hint for one that is not there."""
    return decode(path, read_bytes(path, hint), _Head, _KNOWN)["schema"]


def _require_schema(path: Path, text: bytes, schema: str) -> None:
    head = decode(path, text, _Head, _KNOWN)
    if head["schema"] != schema:
        raise RunError(f"{path}: its schema is {head['schema']!r}, expected {schema!r}. {AGAIN}")
    if schema == SCHEMA and head.get("state") != FINISHED:
        told = {RUNNING: "is still running, or was killed", FAILED: f"failed: {head.get('why', 'nobody knows why')}"}
        state = told.get(head.get("state", ""), f"has the state {head.get('state')!r}")
        raise RunError(f"{path}: no results: the run {state}. {AGAIN}")


_PLACE = ("stage", "config", "case", "lane", "name", "call", "verdict", "needed_k", "why")


def _problem(document: Document) -> str:
    """What of a document has the right type, and still cannot be; "" if nothing."""
    explained = document["explanation"]
    if explained and "missing" not in explained and (lacking := Explanation.__annotations__.keys() - explained.keys()):
        lacking -= {"missing"}
        return f"its explanation lacks {', '.join(sorted(lacking))}" if lacking else ""
    first = document["summary"]["first_divergence"]
    if first and not any(all(row[k] == first[k] for k in _PLACE) for row in document["taps"]):  # type: ignore[literal-required]
        return "its first divergence is none of its rows"
    for number, row in enumerate([*document["taps"], *([first] if first else [])]):
        if problem := row_problem(row):
            return f"taps[{number}] ({row['name']}) {problem}"
    return ""


def row_problem(row: TapRecord) -> str:
    """What of a row has the right type, and still cannot be; "" if nothing."""
    if "profile" in row and not _fits(row["profile"], row["shape"]):
        return "has a profile that is not of its shape"
    if row["verdict"] == "pass" and row["reason"] is not None:
        return f"passes, and has the reason {row['reason']}"
    return ""


def _fits(profile: Profile, shape: list[int]) -> bool:
    """True if a profile is of axes that a tensor of this shape has."""
    for axis in profile["axes"]:
        bins = len(axis["ours"])
        if axis["axis"] >= len(shape) or shape[axis["axis"]] != axis["size"] or not 0 < bins <= axis["size"]:
            return False
        if len(axis["reference"]) != bins:
            return False
    if found := profile.get("map"):
        widths = {len(line) for line in found["ours"]}
        return max(found["axes"]) < len(shape) and len(widths) == 1 and widths != {0}
    return True


def write_state(path: Path, state: str, why: str = "", schema: str = SCHEMA) -> None:
    """In place of earlier results: that there are none (yet), and why. Raises RunError."""
    write_whole(path, json.dumps({"schema": schema, "state": state, "why": why}) + "\n")
