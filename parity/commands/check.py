"""``parity check``: judge ours against a trace, without torch."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ..judge.lines import printable
from ..judge.results import EXIT_INCOMPLETE
from ..run.pool import count

REPORTS = Path("reports") / "latest"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    check = commands.add_parser("check", help="judge ours against a trace; needs no torch")
    check.add_argument("trace", type=Path, metavar="FILE.json", help="the manifest of a trace")
    check.add_argument("--checkpoint", type=Path, metavar="PATH", help="where the trace's one checkpoint is now")
    check.add_argument(
        "--subject",
        type=Path,
        metavar="OUTPUTS.safetensors",
        help="judge what a program in any language left there, in the place of ours",
    )
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
    from ..report import history, terminal
    from ..report.render import render, replacing
    from ..run.environment import chosen_device
    from ..run.loop import CellError, check
    from ..run.tracefile import open_trace
    from ..run.workers import WorkerDiedError

    start, device = time.monotonic(), chosen_device(args.device)
    if args.subject:
        return _check_outputs(args, start)
    open_trace(args.trace, args.checkpoint)  # one that cannot be used is no run
    try:
        with replacing(args.json):
            results = check(args.trace, args.checkpoint, device, args.jobs)
            results.seconds = time.monotonic() - start
            results.write(args.json)
            history.keep(results, args.json)
    except (CellError, WorkerDiedError) as error:
        print(f"ltx2-parity: the check failed at {printable(error)}", file=sys.stderr)
        return EXIT_INCOMPLETE
    terminal.show(results, [*render(args.json), args.json])
    return results.exit_code()


def _check_outputs(args: argparse.Namespace, start: float) -> int:
    from ..report.render import replacing
    from ..run.environment import code_digest, environment
    from ..run.outputs import check_outputs
    from .ports import finished, write

    with replacing(args.json):
        subject = check_outputs(args.trace, args.subject, args.checkpoint, lambda line: print(line, file=sys.stderr))
        subject.results.environment |= environment("cpu")
        subject.results.code = code_digest()
        write(args.json, [subject], time.monotonic() - start)
    return finished(args.json, "ltx-core", [subject], [], time.monotonic() - start)
