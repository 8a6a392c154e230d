"""``parity report``: make the report again from an existing results.json."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..report.render import render

LATEST = Path("reports") / "latest" / "results.json"


def register(commands: argparse._SubParsersAction) -> None:
    report = commands.add_parser("report", help="make the report again from an existing results.json")
    report.add_argument("results", nargs="?", type=Path, default=LATEST, metavar="RESULTS.json")
    report.set_defaults(handler=_report)


def _report(args: argparse.Namespace) -> int:
    for path in render(args.results):
        print(f"written   {path}")
    return 0
