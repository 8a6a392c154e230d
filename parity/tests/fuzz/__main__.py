"""``python -m parity.tests.fuzz``: a table of what became of every case; exit code 1 where one ended badly."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from .formats import FORMATS, outcome, shares
from .pool import results

GOOD = ("ok", "refused")
BAD = ("traceback", "hang", "memory", "crash", "wrong", "unnamed", "many lines")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m parity.tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, metavar="N", help="in all (default: 20,000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes at once (default: 2)")
    parser.add_argument("--only", choices=FORMATS, metavar="FORMAT", help=f"one of: {', '.join(FORMATS)}")
    parser.add_argument("--number", type=int, metavar="N", help="this one case of --only, in this process")
    args = parser.parse_args()
    if args.number is not None:
        import os
        import tempfile
        from pathlib import Path

        os.chdir(folder := tempfile.mkdtemp())
        print(*outcome(args.only, args.number, args.seed, Path(folder)), folder)
        return 0
    cases = [case for case in shares(args.cases) if args.only in (None, case[0])]
    if args.only:
        cases = [(args.only, number) for number in range(args.cases)]
    begun, counts = time.monotonic(), {name: Counter[str]() for name in FORMATS}
    for (name, number), what, why in results(cases, args.seed, args.jobs):
        counts[name][what] += 1
        if what in BAD:
            print(f"{name} {number}: {what}: {why}", file=sys.stderr, flush=True)
    print(table(counts))
    bad = sum(count[what] for count in counts.values() for what in BAD)
    print(f"\n{len(cases):,} cases, {bad} bad; seed {args.seed}; {time.monotonic() - begun:.0f} s")
    return 1 if bad else 0


def table(counts: dict[str, Counter[str]]) -> str:
    """In Markdown, a format a line."""
    lines = [f"| format | {' | '.join((*GOOD, *BAD))} |", f"|---|{'--:|' * len((*GOOD, *BAD))}"]
    for name, count in counts.items():
        if count:
            lines.append(f"| {name} | {' | '.join(f'{count[what]:,}' for what in (*GOOD, *BAD))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
