"""``parity check``: judge ours against a trace, without torch."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ..run.pool import count
from ..run.tracefile import TraceError

REPORTS = Path("reports") / "latest"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    check = commands.add_parser("check", help="judge ours against a trace; needs no torch")
    check.add_argument("trace", type=Path, metavar="FILE.json", help="the manifest of a trace")
    check.add_argument("--checkpoint", type=Path, metavar="PATH", help="where the trace's one checkpoint is now")
    check.add_argument("--device", choices=("cpu", "gpu"), help="where MLX runs (default: its own choice)")
    check.add_argument("--json", type=Path, default=REPORTS / "results.json", metavar="PATH")
    check.add_argument(
        "--jobs",
        type=count,
        metavar="N",
        help="processes at once (default: as many as the cores and the free memory allow)",
    )
    check.set_defaults(handler=_check)


def _check(args: argparse.Namespace) -> int:
    from ..report import terminal
    from ..run.loop import check

    start = time.monotonic()
    results = check(args.trace, args.checkpoint, args.device, args.jobs)
    results.seconds = time.monotonic() - start
    try:
        results.write(args.json)
    except OSError as error:
        raise TraceError(f"{args.json}: cannot be written ({error.strerror})") from None
    terminal.show(results, [args.json])
    return results.exit_code()
