"""``ltx2-parity``: the parser of all verbs. Exit codes: 0 pass, 1 diverged or invalid, 2 usage, 3 incomplete,
4 inconclusive."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from ltx2_mlx import __version__
from ltx2_mlx.errors import LTX2Error

VERBS = (
    "run", "list", "check", "record", "report", "diff", "accept", "explain", "bisect", "selftest", "margins", "debug",
    "tables",
)  # fmt: skip
EXIT_USAGE = 2
OURS = ("ltx2_mlx", "parity")
EXTRAS = "cpu,parity,reference" if sys.platform == "linux" else "parity,reference"


def parser() -> argparse.ArgumentParser:
    """Every verb with its flags. A verb that cannot be imported, for want of an extra, is there and says so."""
    made = argparse.ArgumentParser(prog="ltx2-parity", description="LTX-2 in MLX beside its PyTorch reference.")
    made.add_argument("--version", action="version", version=f"ltx2-mlx {__version__}")
    commands = made.add_subparsers(dest="command", required=True)
    for verb in VERBS:
        try:
            import_module(f".commands.{verb}", __package__).register(commands)
        except ImportError as error:
            lacking = commands.add_parser(verb, help=_remedy(error), add_help=False)
            lacking.set_defaults(lacking=_remedy(error))
    return made


def _remedy(error: ImportError) -> str:
    """Advice to install the library that an import did not find. Raises the error for a module of this project."""
    library = (error.name or "").partition(".")[0]
    if not library or library in OURS:
        raise error
    return f"needs {library}, which cannot be imported: pip install 'ltx2-mlx[{EXTRAS}]'"


def main(argv: list[str] | None = None) -> int:
    made = parser()
    args, rest = made.parse_known_args(argv)
    if remedy := getattr(args, "lacking", None):
        print(f"ltx2-parity: {args.command} {remedy}", file=sys.stderr)
        return EXIT_USAGE
    if rest:
        made.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return int(args.handler(args))
    except LTX2Error as error:
        print(f"ltx2-parity: {error}", file=sys.stderr)
    except ImportError as error:
        print(f"ltx2-parity: {args.command} {_remedy(error)}", file=sys.stderr)
    return EXIT_USAGE
