"""Views of a run, each made from its results alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ltx2_mlx.errors import InputError

from ..judge.results import SCHEMA


def render(path: Path, every_picture: bool = False) -> list[Path]:
    """Write report.html, junit.xml, summary.md and pictures beside a results.json (and annotate, in a GitHub job).

    Pictures are drawn of stages that fail, or of all. A selftest.json beside it is shown as well; one that cannot be
    is named on stderr. Raises InputError for a file that is not a results.json.
    """
    from . import html, junit, plots, summary
    from .annotations import show as annotate

    document = _read(path)
    if document.get("schema") != SCHEMA or "taps" not in document:
        raise InputError(f"{path}: not a results.json of this harness (its schema is not {SCHEMA})")
    beside = path.parent / "selftest.json"
    text = path.parent / "summary.md"
    text.write_text(summary.markdown(document), encoding="utf-8")
    page = html.write(document, path.parent / "report.html", _score(beside))
    annotate(document)
    pictures = plots.by_depth(document, path.parent, every_picture)
    return [page, text, junit.write(document, path.parent / "junit.xml"), *pictures]


def _score(path: Path) -> dict[str, Any] | None:
    """The selftest's score, if there is one."""
    from . import scores

    try:
        return scores.read(path) if path.exists() else None
    except InputError as error:
        print(f"ltx2-parity: {error}; the report does without", file=sys.stderr)
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); make it with: python -m parity run") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: not a results.json of this harness")
    return document
