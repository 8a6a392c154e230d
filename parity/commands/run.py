"""``parity run``: run both sides, judge every tensor, write a report."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

from ..declare.model import Pipeline, Stage
from ..judge.results import EXIT_USAGE
from ..run.pool import count

REPORTS = Path("reports") / "latest"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = commands.add_parser("run", help="run both, judge every tensor, write a report")
    run.add_argument("--stage", default="*", metavar="GLOB", help="which stages (default: all)")
    run.add_argument("--config", default="*", metavar="NAME", help="which configs, as a glob (default: all)")
    run.add_argument(
        "--lane", default="A,B,C", help="A: isolated float32, the gate; B: half precision; C: free-running"
    )
    run.add_argument(
        "--json", type=Path, default=REPORTS / "results.json", metavar="PATH", help="where results.json goes"
    )
    run.add_argument(
        "--checkpoint", type=Path, metavar="PATH", help="this checkpoint (or Gemma folder) instead of the tiny ones"
    )
    run.add_argument("--device", choices=("cpu", "gpu"), help="where MLX runs (default: its own choice)")
    run.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the inputs (default: 0)")
    run.add_argument("--resume", action="store_true", help="go on with a run that was killed: keep its finished cells")
    run.add_argument(
        "--jobs",
        type=count,
        metavar="N",
        help="processes at once (default: as many as the cores and the free memory allow)",
    )
    run.set_defaults(handler=_run)


def _run(args: argparse.Namespace) -> int:
    start = time.monotonic()
    try:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.open("a").close()
    except OSError as error:
        print(f"ltx2-parity: {args.json}: cannot be written ({error.strerror})", file=sys.stderr)
        return EXIT_USAGE
    from ..faults.likely_causes import explain_first
    from ..report import terminal
    from ..report.render import render
    from ..run import pipelines as pipeline_runs
    from ..run.cells import check_checkpoint, select
    from ..run.loop import run
    from ..sides.fixtures import ensure_fixtures

    lanes = args.lane.replace(",", "").upper()
    if not lanes or set(lanes) - set("ABC"):
        print(f"ltx2-parity: no lane '{args.lane}'; there are A, B and C, as in --lane A,C", file=sys.stderr)
        return EXIT_USAGE
    if args.checkpoint:
        chosen: list[tuple[Stage | Pipeline, str]]
        named = [stage for stage in check_checkpoint(args.checkpoint) if fnmatchcase(stage.name, args.stage)]
        chosen = [(stage, args.checkpoint.stem) for stage in named]
    else:
        ensure_fixtures()
        chosen = [*select(args.stage, args.config), *pipeline_runs.select(args.stage, args.config)]
    if not chosen:
        print(f"ltx2-parity: no stage '{args.stage}' with config '{args.config}'; see: parity list", file=sys.stderr)
        return EXIT_USAGE

    def progress(line: str) -> None:
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""
        print(f"{clear}[{time.monotonic() - start:4.0f} s] {line}", file=sys.stderr, flush=True)

    cells = args.json.with_suffix(".cells")
    results = run(chosen, lanes, args.checkpoint, args.device, progress, cells, args.resume, args.jobs, args.seed)
    results.explanation = explain_first(results)
    results.seconds = time.monotonic() - start
    results.write(args.json)
    shutil.rmtree(cells)
    terminal.show(results, [*render(args.json), args.json])
    return results.exit_code()
