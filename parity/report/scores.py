"""A selftest.json, checked before anything is shown of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypedDict

from ..judge.documents import Count, Size
from ..judge.files import decode, read_bytes

SCHEMA = "ltx2-parity-selftest/2"
_AGAIN = "Make it with: python -m parity selftest"
_KNOWN = f"not a selftest.json of this harness ({SCHEMA}), which python -m parity selftest makes"


class Kind(TypedDict):
    """The score of a kind of faults: ``score.KindScore``."""

    kind: str
    faults: Count
    detected: Count
    localised: Count
    equivalent: Count
    canary: str
    void: str


class Gate(TypedDict):
    """What the commands of CI say: ``score.Gate.document``."""

    faults: Count
    parity: Count
    tests: list[str]
    missed: list[str]
    crashed: list[str]
    false_alarms: list[str]
    passed: bool


class Outcome(TypedDict):
    """What became of one fault: ``score.Outcome``."""

    id: str
    known: str
    fault: str
    cause: str
    stage: str
    config: str
    case: str
    lane: str
    expected_tap: str
    first_tap: str
    why: str
    detected: bool
    localised: bool
    equivalent: str
    signs: list[str]
    seconds: Size
    kind: str
    canary: bool
    state: Literal["judged", "void", "crashed"]


class Explained(TypedDict):
    """How often the true cause comes first, told by the other faults."""

    of: Count
    first: Count
    three: Count


class Summary(TypedDict):
    """The score of all of them: ``score.Score.document``."""

    faults: Count
    detected: Count
    localised: Count
    equivalent: Count
    void: list[str]
    crashed: list[str]
    kinds: list[Kind]
    gate: Gate | None
    false_alarms: Count
    false_alarm_places: list[str]
    clean_tensors: Count
    clean_seeds: list[int]
    known_faults: Count
    not_applicable: dict[str, str]
    explained: Explained
    passed: bool
    seed: int
    seconds: Size


class Document(TypedDict):
    """``selftest.json``."""

    schema: Literal["ltx2-parity-selftest/2"]
    summary: Summary
    matrix: list[Outcome]


def read(path: Path) -> dict[str, Any]:
    """The content of a selftest.json. Raises RunError, in one line, for anything else."""
    return dict(decode(path, read_bytes(path, _AGAIN), Document, _KNOWN))
