"""``parity accept``: keep a run as the baseline that later runs are compared with."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..judge.baseline import BASELINE, RunError, read_run, write_baseline
from ..judge.results import EXIT_OK


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    accept = commands.add_parser("accept", help=f"keep a run's worst ratios as the baseline, {BASELINE}")
    accept.add_argument(
        "results", nargs="?", type=Path, default=Path("reports") / "latest" / "results.json", metavar="RESULTS.json"
    )
    accept.set_defaults(handler=_accept)


def _accept(args: argparse.Namespace) -> int:
    taps = read_run(args.results)
    summary = json.loads(args.results.read_text())
    if summary.get("summary", {}).get("exit_code", EXIT_OK) != EXIT_OK:
        raise RunError(f"{args.results}: not accepted: its exit code is {summary['summary']['exit_code']}, not 0")
    write_baseline(BASELINE, taps, summary["environment"])
    print(f"written   {BASELINE}: {len(taps):,} taps, {BASELINE.stat().st_size / 1e6:.2f} MB")
    return EXIT_OK
