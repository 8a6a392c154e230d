"""A page about sides from outside: what could be compared, what was found, and how to see it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..judge.lines import printable
from ..judge.results import PipelineRow, Row
from ..sides import versions

if TYPE_CHECKING:
    from ..run.ports import Subject, Vote

SHOWN = 12  # findings of one stage and config


def plain(text: object) -> str:
    """The text for a cell of a table."""
    return printable(text).replace("|", "\\|").replace("`", "'")


def page(reference: str, subjects: list[Subject], votes: list[Vote], seconds: float) -> str:
    """Markdown."""
    lines = [f"# {' and '.join(plain(s.name) for s in subjects)} beside {plain(reference)}", ""]
    if reference == versions.PACKAGE and (found := versions.other()):
        lines += [*_reference(found, subjects), ""]
    for subject in subjects:
        lines += [*_subject(reference, subject), ""]
    if len(subjects) == 2:
        lines += [*_votes(reference, subjects, votes), ""]
    return "\n".join([*lines, f"{seconds:.0f} s."]) + "\n"


def _reference(found: str, subjects: list[Subject]) -> list[str]:
    """What is known of a reference that is not the release that everything is declared of."""
    known = versions.changes(found, {row.stage for subject in subjects for row in subject.results.rows})
    lines = [versions.about(found), ""]
    if known:
        lines += [f"What it has otherwise than {versions.DECLARED} in these stages; a finding in them may be that:", ""]
        lines += [f"- since {c.since}, {', '.join(c.stages)}: {c.what}" for c in known]
    return lines


def _subject(reference: str, subject: Subject) -> list[str]:
    results = subject.results
    title = f"## {plain(subject.name)} {subject.version}".rstrip()
    lines = [title, "", "| stage | config | taps | compared | tensors | not passed | worst ratio A | C |"]
    lines += ["|---|---|--:|--:|--:|--:|--:|--:|"]
    for a in subject.alignments:
        rows = [row for row in results.rows if (row.stage, row.config) == (a.stage, a.config)]
        if not a.taps and not rows:
            continue
        bad = sum(row.verdict != "pass" for row in rows)
        worst = (max((row.needed_k for row in rows if row.lane == lane), default=None) for lane in "AC")
        figures = ("–" if ratio is None else f"{ratio:.3g}" for ratio in worst)
        counts = f"{a.taps:,} | {a.compared:,} | {len(rows):,} | {bad:,}"
        lines.append(f"| {a.stage} | {a.config} | {counts} | {' | '.join(figures)} |")
    whole = {a.stage: why for a in subject.alignments for why in a.left_out if why.startswith("the stage: ")}
    parts = [(a, why, n) for a in subject.alignments for why, n in a.left_out.items() if a.stage not in whole]
    if parts or whole:
        lines += ["", "Not comparable, and not passed:", ""]
        merged: dict[str, list[str]] = {}
        for a, why, count in parts:
            of = "" if why.startswith(("case ", "the config: ")) else f"{count} taps of "
            merged.setdefault(why, []).append(f"{of}{a.stage} {a.config}")
        lines += [f"- {plain(why)}: {'; '.join(places)}" for why, places in merged.items()]
        lines += [f"- whole stages (not declared, or no networks): {', '.join(whole)}"] if whole else []
    failures = [row for row in results.failures() if isinstance(row, Row)]
    if not failures:
        return [
            *lines,
            "",
            f"Everything that could be compared is {reference}'s." if results.rows else "Nothing was judged.",
        ]
    lines += [
        "",
        "Findings, in the order of the data; those of lane A stand for themselves, with the reference's own inputs:",
        "",
    ]
    lines += ["| where | verdict | ratio | rel L2 | tensors like it |", "|---|---|--:|--:|--:|"]
    for row, like in _grouped(failures):
        error = row.metrics.get("rel_l2")
        figure = "–" if error is None else f"{error:.1e}"
        lines.append(
            f"| `{plain(row.place)}` | {row.verdict}: {plain(row.why)} | {row.needed_k:.3g} | {figure} | {like} |"
        )
    first = failures[0]
    again = f"python -m parity run --reference {shlex.quote(reference)} --subject {shlex.quote(subject.name)} "
    again += f"--stage {first.stage} --config {first.config} --lane {first.lane}"
    if trace := results.origin.get("trace"):
        again = f"python -m parity check {shlex.quote(trace)} --subject {shlex.quote(subject.name)}"
    return [*lines, "", "Again:", "", "```sh", printable(again), "```"]


def _grouped(failures: Iterable[Row | PipelineRow]) -> list[tuple[Row, int]]:
    """The first failure of each tap name without its numbers, in each stage, config and lane; how many are like it."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in failures:
        if isinstance(row, Row):
            name = ".".join("N" if part.isdigit() else part for part in row.name.split("."))
            groups.setdefault((row.stage, row.config, row.lane, name), []).append(row)
    counts: dict[tuple[str, ...], int] = {}
    shown = []
    for (stage, config, lane, _), rows in groups.items():
        place = stage, config, lane
        counts[place] = counts.get(place, 0) + 1
        if counts[place] <= SHOWN:
            shown.append((rows[0], len(rows) - 1))
    return shown


def _votes(reference: str, subjects: list[Subject], votes: list[Vote]) -> list[str]:
    """Two agree, one does not: who."""
    names = {"reference": reference, "": "all three differ"} | {s.name: s.name for s in subjects}
    lines = [f"## Who differs, of {reference}, {' and '.join(s.name for s in subjects)}", ""]
    if not votes:
        return [*lines, "Nobody, in what all three have."]
    lines += ["| the odd one | tensors | first of them |", "|---|--:|---|"]
    for odd, name in names.items():
        places = [vote.place for vote in votes if vote.odd == odd]
        if places:
            lines.append(f"| {name} | {len(places):,} | `{plain(places[0])}` |")
    return lines
