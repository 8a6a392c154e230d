"""``parity tables``: what runs on this machine have shown, and the table of symptoms, between markers of the README."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..debug import symptoms
from ..report import summary


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
        f"{s['faults']} faults planted one at a time: {s['detected']} noticed, {s['localised']} at the tap "
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
        lines.append(f"| {row['id']} | {row['fault']} | {row['lane']} | {seen} |".replace("\n", " "))
    return "\n".join([*lines, "", "</details>"])


def register(commands: argparse._SubParsersAction) -> None:
    tables = commands.add_parser("tables", help="write the tables of the README from a run and a selftest")
    tables.add_argument("results", type=Path, metavar="RESULTS.json")
    tables.add_argument("score", type=Path, metavar="SELFTEST.json")
    tables.add_argument("readme", type=Path, metavar="README.md")
    tables.set_defaults(handler=_tables)


def _tables(args: argparse.Namespace) -> int:
    text = args.readme.read_text()
    text = insert(text, "parity", summary.markdown(json.loads(args.results.read_text()), by_config=False))
    text = insert(text, "selftest", selftest(json.loads(args.score.read_text())))
    args.readme.write_text(insert(text, "symptoms", symptoms.markdown()))
    return 0
