"""Put what runs on this machine have shown, and the table of symptoms, between the markers of the README.

python -m parity.readme RESULTS.json SELFTEST.json README.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from .debug import symptoms
from .report import summary


def insert(readme: str, name: str, text: str) -> str:
    """``readme`` with ``text`` between its two markers of that name. Raises ValueError where they are missing."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    before, found, rest = readme.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the README has no place for {name}")
    return f"{before}{start}\n{text.rstrip()}\n{end}{after}"


def selftest(document: dict[str, Any]) -> str:
    """The score in a sentence, and the matrix folded away."""
    s = document["summary"]
    lines = [
        f"{s['mutants']} faults planted one at a time: {s['detected']} noticed, {s['localised']} at the tap "
        f"they belong to, {s['equivalent']} that go unnoticed (each with its reason), {s['false_alarms']} false "
        f"alarms over clean runs with three seeds, in {s['seconds'] / 60:.0f} minutes.",
        "",
        "<details><summary>Every fault, the lane that caught it, and where</summary>",
        "",
        "| id | fault | lane | first seen at |",
        "|---|---|---|---|",
    ]
    for row in document["matrix"]:
        seen = f"`{row['first_tap']}`" if row["detected"] else row["equivalent"] or "not noticed"
        seen += "" if row["localised"] or not row["detected"] else f" (expected `{row['expected_tap']}`)"
        lines.append(f"| {row['id']} | {row['mutation']} | {row['lane']} | {seen} |".replace("\n", " "))
    return "\n".join([*lines, "", "</details>"])


def main(results: Path, score: Path, readme: Path) -> None:
    text = insert(readme.read_text(), "parity", summary.markdown(json.loads(results.read_text()), by_config=False))
    text = insert(text, "selftest", selftest(json.loads(score.read_text())))
    readme.write_text(insert(text, "symptoms", symptoms.markdown()))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
