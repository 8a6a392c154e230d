"""An examination as lines on a terminal, as JSON, and as a page."""

from __future__ import annotations

import json
from typing import Any

from ..report.markup import Html, badge, breaking, definitions, join, number, table, tag
from ..report.style import CSS, JS
from .examine import Examination, Finding, document_of

_MARKS = {"pass": "✓", "diverged": "✕", "not run": "–"}
ISSUES = "https://github.com/ml-explore/mlx/issues/"


def line_of(examination: Examination, finding: Finding) -> str:
    """A finding on one line, and on a second one why, where it is no pass."""
    worst = finding.worst
    ratio = "" if worst is None else f"{number(worst.ratio):>8}"
    numbers = f"{ratio:8} {finding.seconds:6.1f} s {finding.gigabytes:5.1f} GB" if worst else ""
    head = f"{_MARKS[finding.verdict]} {finding.name:20} {finding.verdict:9}{numbers}".rstrip()
    if finding.verdict == "pass":
        return head
    return f"{head}\n    {said(examination, finding)}"


def said(examination: Examination, finding: Finding) -> str:
    """What is wrong and what to do, in a sentence or two; "" for a pass."""
    line, worst = examination.line(finding), finding.worst
    if finding.verdict == "not run":
        return finding.why
    if finding.verdict == "pass" or worst is None:
        return ""
    off = worst.detail or f"{number(worst.ratio)} times honest rounding, {worst.limit:g} are allowed"
    issues = ", ".join(f"mlx #{n}" for n in line.sources)
    known = f"{line.reason} ({issues})" if issues else line.reason
    return f"{worst.what}: {off}. Known: {known}. Do: {line.remedy}. Used by: {line.used}."


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
    title = _TITLES[examination.exit_code]
    body = join(
        tag(
            "header",
            tag("p", "Doctor · MLX's primitives at the sizes of LTX-2", class_="kicker"),
            tag("h1", title),
            tag("p", summary(examination), class_="lead"),
            class_="top",
        ),
        tag(
            "main",
            definitions([(key, value) for key, value in examination.environment.items()]),
            *(tag("p", note, class_="soft") for note in examination.notes),
            tag("h2", "Lines"),
            _explained(),
            _lines(examination),
            tag("h2", "All checks"),
            _checks(examination),
        ),
        tag(
            "footer", "Made by ", tag("code", "ltx2-parity doctor"), ". Attach the JSON file beside it to a bug report."
        ),
    )
    head = join(
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'),
        tag("title", f"{title} · LTX-2 doctor"),
        Html('<link rel="icon" href="data:,">'),
        tag("style", Html(CSS)),
    )
    script = tag("script", Html(JS))
    return f"<!doctype html>\n{tag('html', tag('head', head), tag('body', body, script), lang='en')}\n"


def _explained() -> Html:
    return tag(
        "p",
        "Each line computes one primitive on random data at real size, and compares some hundred outputs with NumPy's "
        "float64. The ratio is its error in units of honest rounding: 1 is rounding once (in float32: once a term, at "
        "random). A red line names what is known to cause it, and what to do.",
    )


def _lines(examination: Examination) -> Html:
    rows = []
    for finding in examination.findings:
        line, worst = examination.line(finding), finding.worst
        asked = join(tag("b", line.title), tag("br"), tag("small", f"Used by {line.used}", class_="soft"))
        rows.append(
            [
                badge(finding.verdict),
                breaking(finding.name),
                asked,
                number(worst.ratio) if worst else "–",
                f"{worst.limit:g}" if worst else "–",
                f"{finding.seconds:.1f}",
                f"{finding.gigabytes:.1f}",
                said(examination, finding),
            ]
        )
    head = [
        "Verdict",
        "Line",
        "What is asked",
        "#Ratio",
        "#Allowed",
        "#Seconds",
        "#GB",
        "What is wrong, and what to do",
    ]
    return table("One line a primitive, with its worst check", head, rows)


def _checks(examination: Examination) -> Html:
    rows = [
        [
            badge("pass" if check.sound else "diverged"),
            breaking(finding.name),
            check.what,
            number(check.ratio),
            f"{check.limit:g}",
            check.detail,
        ]
        for finding in examination.findings
        for check in finding.checks
    ]
    return table("Every case", ["Verdict", "Line", "Case", "#Ratio", "#Allowed", ""], rows, filtered=True)
