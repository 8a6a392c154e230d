"""``parity accept``: keep a run in the baseline that later runs are compared with."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..judge.baseline import BASELINE, acceptable, read_run, write_baseline
from ..judge.results import EXIT_OK
from ..run.environment import code_digest


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    accept = commands.add_parser("accept", help=f"keep a run's worst ratios in the baseline, {BASELINE}")
    accept.add_argument(
        "results", nargs="?", type=Path, default=Path("reports") / "latest" / "results.json", metavar="RESULTS.json"
    )
    accept.set_defaults(handler=_accept)


def _accept(args: argparse.Namespace) -> int:
    """The cells that ran take the place of the baseline's; its others stay as they are."""
    run = acceptable(args.results, code_digest())
    earlier = read_run(BASELINE) if BASELINE.exists() else None
    write_baseline(BASELINE, run, earlier)
    kept = len(earlier.cells - run.cells) if earlier else 0
    size = BASELINE.stat().st_size / 1e6
    print(f"written   {BASELINE}: {len(run.cells)} cells of this run, {kept} others kept as they were, {size:.2f} MB")
    return EXIT_OK
