"""The run as Markdown: the step summary of a CI job, and the table in the README.

    python -m parity.report.summary RESULTS.json [README.md]

prints the summary, or puts its table between the README's two ``parity`` markers.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

START, END = "<!-- parity: start -->", "<!-- parity: end -->"


def table(document: dict[str, Any]) -> str:
    """A row for each stage and config: coverage and the worst ratio of each lane."""
    cells: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for row in document["taps"]:
        cells.setdefault((row["stage"], row["config"]), {}).setdefault(row["lane"], []).append(row)
    coverage = {(c["stage"], c["config"]): c for c in document["summary"]["coverage"]}
    head = "| stage | checkpoint | leaf modules | parameters | tensors judged | worst ratio A | B | C | verdict |"
    lines = [head, "|---|---|--:|--:|--:|--:|--:|--:|---|"]
    for key, lanes in cells.items():
        covered = coverage.get(key)
        leaves = f"{covered['leaves_compared']} of {covered['leaves']}" if covered else "–"
        parameters = f"{covered['parameters_moving']} of {covered['parameters']}" if covered else "–"
        rows = [row for lane in lanes.values() for row in lane]
        bad = sum(row["verdict"] != "pass" for row in rows)
        worst = [_ratio(lanes.get(lane)) for lane in "ABC"]
        verdict = f"**{bad} not passed**" if bad else "pass"
        lines.append(
            f"| {key[0]} | {key[1]} | {leaves} | {parameters} | {len(rows):,} | {' | '.join(worst)} | {verdict} |"
        )
    return "\n".join(lines)


def _ratio(rows: list[dict[str, Any]] | None) -> str:
    if not rows:
        return "–"
    return "∞" if any(row["needed_k"] is None for row in rows) else f"{max(row['needed_k'] for row in rows):.2f}"


def sentence(document: dict[str, Any]) -> str:
    """Outcome, size, time, machine and versions in one paragraph."""
    summary, env = document["summary"], document["environment"]
    first = summary["first_divergence"]
    outcome = "Everything passes."
    if first:
        place = " ".join(first[key] for key in ("stage", "config", "case", "lane", "name"))
        outcome = f"**First divergence: `{place}`: {first['verdict']} {first['why']}**."
    elif summary["exit_code"]:
        outcome = "**Incomplete.**"
    worst = summary["worst"].get("A")
    ratio = (
        f" Worst lane-A ratio {worst['needed_k']:.2f} (3 is allowed) at `{worst['place']}`."
        if worst and not first
        else ""
    )
    versions = ", ".join(f"{name} {version}" for name, version in env.items() if name not in ("machine", "device"))
    return (
        f"{outcome}{ratio} {summary['taps']:,} tensors judged in {summary['seconds']:.0f} s and "
        f"{summary['peak_gb']:.1f} GB on {env['machine']}; MLX on the {env['device'].upper()}; {versions}."
    )


def markdown(document: dict[str, Any]) -> str:
    return f"{table(document)}\n\n{sentence(document)}\n"


def insert(readme: Path, text: str) -> None:
    """Put ``text`` between the markers of ``readme``."""
    before, _, rest = readme.read_text().partition(START)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{START}\n{text}{END}{after}")


if __name__ == "__main__":
    results = json.loads(Path(sys.argv[1]).read_text())
    if len(sys.argv) > 2:
        insert(Path(sys.argv[2]), markdown(results))
    else:
        print(markdown(results))
