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


def table(document: dict[str, Any], by_config: bool = True) -> str:
    """A row for each stage and config, or for each stage: coverage and the worst ratio of each lane."""

    def key(entry: dict[str, Any]) -> tuple[str, str]:
        return entry["stage"], entry["config"] if by_config else ""

    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in document["taps"]:
        groups.setdefault(key(row), []).append(row)
    lines = ["| stage | checkpoint | leaf modules | parameters | tensors judged | worst ratio A | B | C | verdict |"]
    lines.append("|---|---|--:|--:|--:|--:|--:|--:|---|")
    for (stage, config), rows in groups.items():
        covered = [c for c in document["summary"]["coverage"] if key(c) == (stage, config)]
        bad = sum(row["verdict"] != "pass" for row in rows)
        cells = [
            stage,
            config or f"{len({row['config'] for row in rows})}",
            _of(covered, "leaves_compared", "leaves"),
            _of(covered, "parameters_moving", "parameters"),
            f"{len(rows):,}",
            *(_ratio([row for row in rows if row["lane"] == lane]) for lane in "ABC"),
            f"**{bad} not passed**" if bad else "pass",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    text = "\n".join(lines)
    return text if by_config else text.replace("| checkpoint |", "| checkpoints |")


def _of(covered: list[dict[str, Any]], part: str, whole: str) -> str:
    return f"{sum(c[part] for c in covered):,} of {sum(c[whole] for c in covered):,}" if covered else "–"


def _ratio(rows: list[dict[str, Any]]) -> str:
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


def markdown(document: dict[str, Any], by_config: bool = True) -> str:
    return f"{table(document, by_config)}\n\n{sentence(document)}\n"


def insert(readme: Path, text: str) -> None:
    """Put ``text`` between the markers of ``readme``."""
    before, _, rest = readme.read_text().partition(START)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{START}\n{text}{END}{after}")


if __name__ == "__main__":
    results = json.loads(Path(sys.argv[1]).read_text())
    if len(sys.argv) > 2:
        insert(Path(sys.argv[2]), markdown(results, by_config=False))
    else:
        print(markdown(results))
