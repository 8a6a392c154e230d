"""``parity diff``: compare two runs tap by tap."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..judge.baseline import (
    BASELINE,
    FACTOR,
    FLOOR,
    KINDS,
    Difference,
    Run,
    change,
    compare,
    read_run,
    sentence,
)
from ..judge.files import RunError
from ..judge.lines import printable
from ..judge.results import EXIT_DIVERGED, EXIT_OK
from ..report import differences

SHOWN = 15  # lines of each kind


def show(found: Difference, a: Run, b: Run, console: Console | None = None) -> None:
    console = console or Console(width=None if Console().is_terminal else 132, highlight=False, emoji=False)
    table = Table(box=None, pad_edge=False)
    for name in ("", "stage", "config", "lane", "tap", "ratio before → now"):
        table.add_column(name)
    for kind in KINDS:
        keys = getattr(found, kind)
        for key in keys[:SHOWN]:
            table.add_row(kind, *(escape(printable(part)) for part in key), change(key, a, b))
        if len(keys) > SHOWN:
            table.add_row(kind, "…", "", "", f"and {len(keys) - SHOWN} more", "")
    if table.rows:
        console.print(table)
    for hole in found.uncovered[:SHOWN]:
        console.print(escape(printable(f"not covered any more: {hole}")))
    console.print(escape(printable(sentence(found, a, b))), style="bold red" if found.worsened else "bold green")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    diff = commands.add_parser("diff", help="compare two results.json, or one with the accepted baseline")
    diff.add_argument("runs", nargs="+", type=Path, metavar="RESULTS.json", help="before and now; or now alone")
    diff.add_argument("--factor", type=float, default=FACTOR, help=f"by how much a ratio must move ({FACTOR:g})")
    diff.add_argument("--floor", type=float, default=FLOOR, help=f"ratios up to this are not compared ({FLOOR:g})")
    diff.add_argument("--html", type=Path, metavar="PATH", help="write the comparison as a page as well")
    diff.set_defaults(handler=_diff)


def _diff(args: argparse.Namespace) -> int:
    if len(args.runs) > 2:
        raise RunError(f"{len(args.runs)} runs given, expected two, or one to compare with the baseline")
    before, now = args.runs if len(args.runs) == 2 else (BASELINE, args.runs[0])
    a, b = read_run(before), read_run(now)
    found = compare(a, b, args.factor, args.floor)
    show(found, a, b)
    if args.html:
        print(f"written   {printable(differences.write(found, (before, a), (now, b), args.html))}")
    return EXIT_DIVERGED if found.worsened else EXIT_OK
