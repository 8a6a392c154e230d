"""A page about sides from outside: what could be compared, what was found, and how to see it again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..judge.lines import printable
from ..judge.results import PipelineRow, Row
from ..sides import versions

if TYPE_CHECKING:
    from ..run.ports import Subject, Vote

SHOWN = 12  # findings of one stage and config
_STAGE = "the stage: "


def plain(text: object) -> str:
    """The text for a cell of a table."""
    return printable(text).replace("|", "\\|").replace("`", "'")


def page(reference: str, subjects: list[Subject], votes: list[Vote], seconds: float, processor: float = 0.0) -> str:
    """Markdown. processor: seconds that the run took of it, which on a busy machine are fewer."""
    lines = [f"# {' and '.join(plain(s.name) for s in subjects)} beside {plain(reference)}", ""]
    if reference == versions.PACKAGE and (found := versions.other()):
        lines += [*_reference(found, subjects), ""]
    for subject in subjects:
        lines += [*_subject(reference, subject), ""]
    if len(subjects) == 2:
        lines += [*_votes(reference, subjects, votes), ""]
    own = f", {processor:.0f} s of the processor" if processor else ""
    return "\n".join([*lines, *_machine(subjects), f"{seconds:.0f} s{own}."]) + "\n"


def _machine(subjects: list[Subject]) -> list[str]:
    """Where it ran, and the versions of what ran."""
    if not (found := {name: value for subject in subjects for name, value in subject.results.environment.items()}):
        return []
    known = {"machine", "device", "reference"}
    versions_ = ", ".join(f"{plain(name)} {plain(version)}" for name, version in found.items() if name not in known)
    return [f"{plain(found['machine'])}, MLX on the {plain(found['device'])}; {versions_}.", ""]


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
    lines = [f"## {plain(subject.name)} {subject.version}".rstrip(), "", _total(subject), "", *_compared(subject)]
    lines += _left_out(subject)
    if failures := [row for row in results.failures() if isinstance(row, Row)]:
        return [*lines, *_findings(reference, subject, failures)]
    said = f"Everything that could be compared is {plain(reference)}'s." if results.rows else "Nothing was judged."
    return [*lines, "", said]


def _total(subject: Subject) -> str:
    """How much was compared, and how much not, in a sentence."""
    taps, compared = sum(a.taps for a in subject.alignments), sum(a.compared for a in subject.alignments)
    rows = subject.results.rows
    bad = sum(row.verdict != "pass" for row in rows)
    cells = sum(bool(a.taps) for a in subject.alignments)
    return (
        f"{cells} of {len(subject.alignments)} cells (a stage on a small checkpoint) could be run. In their cases "
        f"{compared:,} of {taps:,} taps were compared, {taps - compared:,} could not be; {len(rows):,} tensors were "
        f"judged, {bad:,} did not pass."
    )


def _compared(subject: Subject) -> list[str]:
    """A row for each cell: how much of it was compared, and the worst ratios."""
    lines = ["| stage | config | taps | compared | tensors | not passed | worst ratio A | C |"]
    lines += ["|---|---|--:|--:|--:|--:|--:|--:|"]
    for a in subject.alignments:
        rows = [row for row in subject.results.rows if (row.stage, row.config) == (a.stage, a.config)]
        if not a.taps and not rows:
            continue
        bad = sum(row.verdict != "pass" for row in rows)
        worst = (max((row.needed_k for row in rows if row.lane == lane), default=None) for lane in "AC")
        figures = ("–" if ratio is None else f"{ratio:.3g}" for ratio in worst)
        counts = f"{a.taps:,} | {a.compared:,} | {len(rows):,} | {bad:,}"
        lines.append(f"| {a.stage} | {a.config} | {counts} | {' | '.join(figures)} |")
    return lines


def _left_out(subject: Subject) -> list[str]:
    """What could not be compared, by its reason."""
    whole = {a.stage: why for a in subject.alignments for why in a.left_out if why.startswith(_STAGE)}
    parts = [(a, why, n) for a in subject.alignments for why, n in a.left_out.items() if a.stage not in whole]
    if not (parts or whole):
        return []
    merged: dict[str, list[str]] = {}
    for a, why, count in parts:
        of = "" if why.startswith(("case ", "the config: ")) else f"{count} tap{'s' if count > 1 else ''} of "
        merged.setdefault(why, []).append(f"{of}{a.stage} {a.config}")
    lines = ["", "Not comparable, and not passed:", ""]
    lines += [f"- {plain(why)}: {'; '.join(places)}" for why, places in merged.items()]
    for why in dict.fromkeys(whole.values()):
        stages = ", ".join(stage for stage, other in whole.items() if other == why)
        lines.append(f"- whole stages, since {plain(why.removeprefix(_STAGE))}: {stages}")
    return lines


def _findings(reference: str, subject: Subject, failures: list[Row]) -> list[str]:
    shown = _grouped(failures)
    hidden = len(failures) - sum(1 + like for _, like in shown)
    lines = [
        "",
        "Findings, in the order of the data; those of lane A stand for themselves, with the reference's own inputs:",
    ]
    lines += ["", "| where | verdict | ratio | rel L2 | tensors like it |", "|---|---|--:|--:|--:|"]
    for row, like in shown:
        error = row.metrics.get("rel_l2")
        figure = "–" if error is None else f"{error:.1e}"
        said = f"{row.verdict}: {plain(row.why)}"
        lines.append(f"| `{plain(row.place)}` | {said} | {row.needed_k:.3g} | {figure} | {like} |")
    if hidden:
        lines += [
            "",
            f"{hidden:,} more tensors of these cells are off: beyond the first {SHOWN} kinds, or in lane C only.",
        ]
    return [*lines, "", "Again:", "", "```sh", *_again(reference, subject, failures), "```"]


def _again(reference: str, subject: Subject, failures: list[Row]) -> list[str]:
    """A command for each cell with a finding."""
    if trace := subject.results.origin.get("trace"):
        return [printable(f"python -m parity check {shlex.quote(trace)} --subject {shlex.quote(subject.name)}")]
    lanes: dict[tuple[str, str], str] = {}
    for row in failures:
        lanes.setdefault((row.stage, row.config), row.lane)
    sides = f"--reference {shlex.quote(reference)} --subject {shlex.quote(subject.name)}"
    return [
        printable(f"python -m parity run {sides} --stage {stage} --config {config} --lane {lane}")
        for (stage, config), lane in lanes.items()
    ]


def _grouped(failures: Sequence[Row | PipelineRow]) -> list[tuple[Row, int]]:
    """The first failure of each tap name without its numbers, in each stage and config; how many are like it. Of a cell
    that has some in lane A, those alone: what runs from the inputs on inherits them."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    isolated = {(row.stage, row.config) for row in failures if isinstance(row, Row) and row.lane == "A"}
    for row in failures:
        if isinstance(row, Row) and (row.lane == "A" or (row.stage, row.config) not in isolated):
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
    names = {"reference": plain(reference)} | {s.name: plain(s.name) for s in subjects}
    lines = [f"## Who differs, of {names['reference']}, {' and '.join(plain(s.name) for s in subjects)}", ""]
    first, second = ({row.place: row for row in s.results.rows} for s in subjects)
    both: dict[tuple[str, str], int] = {}
    for row in first.values():
        if row.place in second:
            both[row.stage, row.config] = both.get((row.stage, row.config), 0) + 1
    lines += [
        f"| stage | config | tensors of all three | all agree | {' | '.join(names.values())} | all differ | first |"
    ]
    lines += ["|---|---|--:|--:|" + "--:|" * len(names) + "--:|---|"]
    for (stage, config), count in both.items():
        own = [vote for vote in votes if vote.place.split(" ")[:2] == [stage, config]]
        odd = [sum(vote.odd == name for vote in own) for name in (*names, "")]
        where = f"`{plain(own[0].place.split(' ', 2)[2])}`" if own else ""
        counts = " | ".join(f"{n:,}" if n else "–" for n in odd)
        lines.append(f"| {stage} | {config} | {count:,} | {count - len(own):,} | {counts} | {where} |")
    return [*lines, "", "The column of a side counts the tensors in which the other two agree and it does not."]
