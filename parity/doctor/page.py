"""An examination as lines on a terminal, as JSON, and as a page."""

from __future__ import annotations

import json
from typing import Any

from ..report.markup import number, render
from .examine import Examination, Finding, document_of
from .line import Check

_MARKS = {"pass": "✓", "diverged": "✕", "not run": "–"}
ISSUES = "https://github.com/ml-explore/mlx/issues/"


def line_of(examination: Examination, finding: Finding) -> str:
    """A finding on one line, and on a second one why, where it is no pass."""
    worst = finding.worst
    ratio = "" if worst is None else f"{number(worst.ratio, '.3g'):>8}"
    numbers = f"{ratio:8} {finding.seconds:6.1f} s {finding.gigabytes:5.1f} GB" if worst else ""
    head = f"{_MARKS[finding.verdict]} {finding.name:20} {finding.verdict:9}{numbers}".rstrip()
    if finding.verdict == "pass":
        return head
    used = f" Used by: {examination.line(finding).used}." if finding.verdict == "diverged" else ""
    return f"{head}\n    {said(examination, finding)}{used}"


def said(examination: Examination, finding: Finding) -> str:
    """What is wrong and what to do, in a sentence or two; "" for a pass."""
    line, worst = examination.line(finding), finding.worst
    if finding.verdict == "not run":
        return finding.why
    if finding.verdict == "pass" or worst is None:
        return ""
    off = worst.detail or f"{number(worst.ratio, '.3g')} times honest rounding, {worst.limit:g} are allowed"
    issues = ", ".join(f"mlx #{n}" for n in line.sources)
    known = f"{line.reason} ({issues})" if issues else line.reason
    return f"{worst.what}: {off}. Known: {known}. Do: {line.remedy}."


def summary(examination: Examination) -> str:
    """What came of all lines, on one line."""
    counts = {v: sum(finding.verdict == v for finding in examination.findings) for v in _MARKS}
    peak = max((finding.gigabytes for finding in examination.findings), default=0.0)
    words = [f"{count} {verdict}" for verdict, count in counts.items() if count]
    return f"{', '.join(words)}; {examination.seconds:.0f} s, {peak:.1f} GB at most"


def document(examination: Examination) -> dict[str, Any]:
    """For JSON: every line with what it asks and every check of it."""
    lines = []
    for finding in examination.findings:
        line = examination.line(finding)
        about = {key: getattr(line, key) for key in ("title", "used", "reason", "remedy")}
        lines.append(document_of(finding) | about | {"sources": [f"{ISSUES}{n}" for n in line.sources]})
    return {
        "environment": examination.environment,
        "notes": list(examination.notes),
        "exit_code": examination.exit_code,
        "seconds": round(examination.seconds, 1),
        "lines": lines,
    }


def as_json(examination: Examination) -> str:
    return json.dumps(document(examination), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


# ---- the page --------------------------------------------------------------------------------------------------------

_TITLES = {0: "The device is sound", 1: "The device is not sound", 3: "Not everything was asked"}


def page(examination: Examination) -> str:
    """The page, in the frame of the reports."""
    title = _TITLES[examination.exit_code]
    return render(
        "doctor.html",
        title=f"{title} · LTX-2 doctor",
        heading=title,
        summary=summary(examination),
        environment=list(examination.environment.items()),
        notes=examination.notes,
        lines=[_line(examination, f) for f in sorted(examination.findings, key=lambda f: f.verdict)],  # the red first
        checks=[_check(finding, check) for finding in examination.findings for check in finding.checks],
    )


def _line(examination: Examination, finding: Finding) -> dict[str, Any]:
    line, worst = examination.line(finding), finding.worst
    return {
        "verdict": finding.verdict,
        "name": finding.name,
        "title": line.title,
        "used": line.used,
        "ratio": worst.ratio if worst else None,
        "limit": worst.limit if worst else None,
        "seconds": finding.seconds,
        "gigabytes": finding.gigabytes,
        "said": said(examination, finding),
    }


def _check(finding: Finding, check: Check) -> dict[str, Any]:
    shown = {key: getattr(check, key) for key in ("what", "ratio", "limit", "detail")}
    return shown | {"name": finding.name, "verdict": "pass" if check.sound else "diverged"}
