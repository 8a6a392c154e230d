"""``parity explain``: what the residual of a tap looks like, and which causes look like that."""

from __future__ import annotations

import argparse
import json
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from ..faults.catalogue import CAUSES, FAULTS
from ..faults.likely_causes import Explanation, explain
from ..judge.results import EXIT_OK, EXIT_USAGE

RESULTS = Path("reports") / "latest" / "results.json"


def register(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("explain", help="what the residual of a tap looks like, and what that points to")
    parser.add_argument("tap", metavar="TAP", help="a tap of the results, by name or glob, or 'first'")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="PATH", help="of parity run")
    parser.set_defaults(handler=_explain)


def _explain(args: argparse.Namespace) -> int:
    try:
        rows = json.loads(args.results.read_text())["taps"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"ltx2-parity: {args.results}: no results of parity run ({error})", file=sys.stderr)
        return EXIT_USAGE
    named = [row for row in rows if args.tap == "first" or fnmatchcase(row["name"], args.tap)]
    failed = [row for row in named if row["verdict"] != "pass"]
    if not named or (args.tap == "first" and not failed):
        what = f"no tap '{args.tap}'" if not named else "nothing failed"
        print(f"ltx2-parity: {what} in {args.results}", file=sys.stderr)
        return EXIT_USAGE
    from ..sides.fixtures import ensure_fixtures

    ensure_fixtures()
    show(explain(failed[0] if failed else named[0]))
    return EXIT_OK


def show(explanation: Explanation) -> None:
    row = explanation.row
    print(f"{row.place}: {row.verdict} {row.why}")
    if not explanation.signs:
        print("it passes, fed what the reference was fed")
        return
    if row.metrics:
        shown = ("rel_l2", "rel_l2_reference", "slope", "offset", "pearson", "std_ratio", "max_abs")
        print("  " + "  ".join(f"{key} {row.metrics[key]:.4g}" for key in shown))
    print("looks like: " + "; ".join(explanation.signs))
    print("causes that look so, the likeliest first, each with the planted fault that is most alike:")
    faults = {m.id: m.description for m in FAULTS}
    for guess in explanation.causes[:3]:
        print(f"  {guess.share:4.0%}  {guess.cause}: {CAUSES[guess.cause]}")
        print(f"        {guess.example}: {faults.get(guess.example, 'no longer planted')}")
