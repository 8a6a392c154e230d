"""``parity explain``: what a failing tensor looks like, which causes look like that, and which lines make it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..judge.device import calibrated
from ..judge.lines import printable
from ..judge.place import Place, find
from ..judge.results import EXIT_OK
from ..report.explanation import lines
from .bisect import add_place, runner_of
from .run import real_files

if TYPE_CHECKING:
    from ..faults.likely_causes import Explanation


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("explain", help="rank the likely causes of a tensor that does not pass")
    add_place(parser)
    parser.set_defaults(handler=_explain)


def _explain(args: argparse.Namespace) -> int:
    from ..faults.likely_causes import explain
    from ..run.calibration import measure
    from ..run.environment import default_device
    from ..sides.fixtures import ensure_fixtures

    place = find(args.place, args.results, args.seed)
    ensure_fixtures()
    with calibrated(measure(default_device())), runner_of(real_files(args), place) as runner:
        show(explain(place, runner), place)
    return EXIT_OK


def show(explanation: Explanation, place: Place) -> None:
    row = explanation.row
    print(printable(f"{row.place}: {row.verdict} {row.why}".rstrip()))
    if row.metrics:
        shown = ("rel_l2", "rel_l2_reference", "slope", "offset", "pearson", "std_ratio", "max_abs")
        print("  " + "  ".join(f"{key} {row.metrics[key]:.4g}" for key in shown))
    for line in lines(explanation.document(), place):
        print(printable(line))
