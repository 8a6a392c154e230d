"""A selftest.json, checked before anything is shown of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ltx2_mlx.errors import InputError

SCHEMA = "ltx2-parity-selftest/2"
_Fields = dict[str, tuple[type, ...]]  # name → the types that its value may have
_TEXT, _NUMBER = (str,), (int, float)
_SUMMARY: _Fields = {
    **dict.fromkeys(("faults", "detected", "localised", "equivalent", "false_alarms"), (int,)),
    **dict.fromkeys(("void", "crashed", "kinds"), (list,)),
    "gate": (dict, type(None)),
    "passed": (bool,),
    "seconds": _NUMBER,
}
_KIND: _Fields = {
    **dict.fromkeys(("kind", "canary", "void"), _TEXT),
    **dict.fromkeys(("faults", "detected", "localised"), (int,)),
}
_GATE: _Fields = {
    **dict.fromkeys(("faults", "parity"), (int,)),
    **dict.fromkeys(("tests", "missed", "crashed", "false_alarms"), (list,)),
}
_OUTCOME: _Fields = {
    **dict.fromkeys(("id", "fault", "lane", "kind", "state", "why", "first_tap", "expected_tap", "equivalent"), _TEXT),
    **dict.fromkeys(("detected", "localised", "canary"), (bool,)),
}


def read(path: Path) -> dict[str, Any]:
    """The content of a selftest.json. Raises InputError, in one line, for anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise _refused(path, f"no JSON: {error}") from None
    if problem := _problem(document):
        raise _refused(path, problem)
    found: dict[str, Any] = document
    return found


def _refused(path: Path, why: str) -> InputError:
    return InputError(f"{path}: not a selftest.json of this harness ({why}); make it with: python -m parity selftest")


def _problem(document: Any) -> str:
    """What is wrong with the shape of a document; "" if nothing is."""
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        return f"its schema is not {SCHEMA}"
    summary, matrix = document.get("summary"), document.get("matrix")
    if not isinstance(summary, dict) or not isinstance(matrix, list):
        return "no summary or no matrix"
    if problem := _wrong("summary", summary, _SUMMARY):
        return problem
    parts: list[tuple[str, Any, _Fields]] = []
    parts += [("a kind", kind, _KIND) for kind in summary["kinds"]]
    parts += [("gate", summary["gate"], _GATE)] if summary["gate"] is not None else []
    parts += [("a fault", outcome, _OUTCOME) for outcome in matrix]
    return next((wrong for part in parts if (wrong := _wrong(*part))), "")


def _wrong(what: str, record: Any, fields: _Fields) -> str:
    if not isinstance(record, dict):
        return f"{what} is no record"
    names = [name for name, types in fields.items() if type(record.get(name)) not in types]
    return f"{what}: {', '.join(names)}" if names else ""
