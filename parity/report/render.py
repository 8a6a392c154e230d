"""Views of a run, each made from its results alone."""

from __future__ import annotations

import json
from pathlib import Path

from ltx2_mlx.errors import InputError

from ..judge.results import SCHEMA


def render(path: Path) -> list[Path]:
    """Write report.html, junit.xml and summary.md beside a results.json (and annotate, in a GitHub job).

    A selftest.json beside it is shown as well. Raises InputError for what is no results.json.
    """
    from . import html, junit, summary
    from .annotations import show as annotate

    document = _read(path)
    if document.get("schema") != SCHEMA or "taps" not in document:
        raise InputError(f"{path}: not a results.json of this harness (its schema is not {SCHEMA})")
    beside = path.parent / "selftest.json"
    text = path.parent / "summary.md"
    text.write_text(summary.markdown(document), encoding="utf-8")
    page = html.write(document, path.parent / "report.html", _read(beside) if beside.exists() else None)
    annotate(document)
    return [page, text, junit.write(document, path.parent / "junit.xml")]


def _read(path: Path) -> dict:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); make it with: python -m parity run") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: not a results.json of this harness")
    return document
