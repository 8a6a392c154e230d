"""The files that runs leave, with the type of every field. They are read here and nowhere else, and written whole.

A file goes to another name first, and is then moved. While a run lasts, and after one that failed, ``results.json``
says so (``state``) and holds nothing that could be taken for a result.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict, TypeVar

import msgspec

from ltx2_mlx.errors import LTX2Error

SCHEMA = "ltx2-parity/2"
BASELINE_SCHEMA = "ltx2-parity-baseline/2"
RUNNING, FAILED, FINISHED = "running", "failed", "finished"
AGAIN, ACCEPT = "Run again: python -m parity run", "Store one with: parity accept"

Verdict = Literal["invalid", "diverged", "missing", "inconclusive", "pass"]
Lane = Literal["A", "B", "C"]
Count = Annotated[int, msgspec.Meta(ge=0)]
Size = Annotated[float, msgspec.Meta(ge=0)]  # null in JSON stands for infinity
Number = float | None


class RunError(LTX2Error):
    """A file is not what it should be: which file, which field, and what to do."""


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
    profile: NotRequired[dict[str, Any]]
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
    seconds: float
    seconds_reference: float
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
    first_divergence: dict[str, Any] | None
    first_pipeline: dict[str, Any] | None
    worst: dict[Lane, dict[str, Any]]
    seconds: float
    peak_gb: float


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


class Document(TypedDict):
    """``results.json`` of a run that came to its end."""

    schema: str
    state: str
    code: str
    origin: dict[str, str]
    environment: dict[str, str]
    summary: Summary
    calibration: Calibration
    allowed: dict[Lane, float]
    stages: list[dict[str, Any]]
    explanation: dict[str, Any] | None
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


T = TypeVar("T")


def read_document(path: Path) -> Document:
    """A finished ``results.json``, every field of its type. Raises RunError."""
    text = _text(path, AGAIN)
    _require_schema(path, text, SCHEMA)
    return _decode(path, text, Document)


def read_baseline(path: Path) -> Baseline:
    """An accepted baseline, every field of its type. Raises RunError."""
    text = _text(path, ACCEPT)
    _require_schema(path, text, BASELINE_SCHEMA)
    found = _decode(path, text, Baseline)
    for name, cell in found["cells"].items():
        if len(name.split(" ")) != 3 or cell["environment"] not in found["environments"]:
            raise RunError(f"{path}: the cell '{name}' is no 'stage config lane' with an environment of the file")
    return found


def schema_of(path: Path, hint: str = AGAIN) -> str:
    """What a file says that it is. Raises RunError for one that says nothing, with a hint for one that is not there."""
    return _decode(path, _text(path, hint), _Head)["schema"]


def _require_schema(path: Path, text: bytes, schema: str) -> None:
    head = _decode(path, text, _Head)
    if head["schema"] != schema:
        raise RunError(f"{path}: its schema is {head['schema']!r}, expected {schema!r}. {AGAIN}")
    if schema == SCHEMA and head.get("state") != FINISHED:
        told = {RUNNING: "is still running, or was killed", FAILED: f"failed: {head.get('why', 'nobody knows why')}"}
        state = told.get(head.get("state", ""), f"has the state {head.get('state')!r}")
        raise RunError(f"{path}: no results: the run {state}. {AGAIN}")


def _text(path: Path, hint: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}). {hint}") from None


def _decode(path: Path, text: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        known = f"neither a results.json ({SCHEMA}) nor a baseline ({BASELINE_SCHEMA})"
        said = str(error).replace("`", "'")
        raise RunError(f"{path}: {known}, or changed since it was written: {said}") from None


def write_whole(path: Path, text: str) -> None:
    """The file with this text, or as it was before. Raises RunError."""
    if path.is_dir():
        raise RunError(f"{path}: cannot be written (it is a folder)")
    scratch = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise RunError(f"{path}: cannot be written ({error.strerror})") from None


def write_state(path: Path, state: str, why: str = "", schema: str = SCHEMA) -> None:
    """In place of earlier results: that there are none (yet), and why. Raises RunError."""
    write_whole(path, json.dumps({"schema": schema, "state": state, "why": why}) + "\n")
