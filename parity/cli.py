"""``ltx2-parity``: the parser of all verbs. Exit codes: 0 pass, 1 diverged or invalid, 2 usage, 3 incomplete,
4 inconclusive."""

from __future__ import annotations

import argparse
import sys

from ltx2_mlx.errors import LTX2Error

from .commands import accept, bisect, check, debug, diff, explain, record, report, run, selftest, tables
from .commands import list as list_command
from .judge.results import EXIT_USAGE

VERBS = (run, list_command, check, record, report, diff, accept, explain, bisect, selftest, debug, tables)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="ltx2-parity", description="LTX-2 in MLX beside its PyTorch reference.")
    commands = made.add_subparsers(dest="command", required=True)
    for verb in VERBS:
        verb.register(commands)
    return made


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        return args.handler(args)
    except LTX2Error as error:
        print(f"ltx2-parity: {error}", file=sys.stderr)
        return EXIT_USAGE
