"""``parity report``: write the reports again from an existing results.json."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..judge.lines import printable
from ..judge.results import EXIT_OK
from ..report.render import render

LATEST = Path("reports") / "latest" / "results.json"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    report = commands.add_parser("report", help="write the reports again from an existing results.json")
    report.add_argument("results", nargs="?", type=Path, default=LATEST, metavar="RESULTS.json")
    report.add_argument(
        "--plots", action="store_true", help="draw a picture of every stage and config, not only of those that fail"
    )
    report.add_argument("--single-file", action="store_true", help="write all pages into one file as well, for mail")
    report.set_defaults(handler=_report)


def _report(args: argparse.Namespace) -> int:
    for path in render(args.results, args.plots, args.single_file):
        print(f"written   {printable(path)}")
    return EXIT_OK
