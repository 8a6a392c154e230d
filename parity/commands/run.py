"""``parity run``: run both sides, judge every tensor, write a report."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from ltx2_mlx.errors import InputError

from ..declare.model import Pipeline, Stage
from ..judge.lines import printable
from ..judge.results import EXIT_INCOMPLETE
from ..run.pool import count

if TYPE_CHECKING:
    from ..judge.device import Measure

REPORTS = Path("reports") / "latest"


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = commands.add_parser("run", help="run both, judge every tensor, write a report")
    run.add_argument("--stage", metavar="GLOB", help="which stages (default: all)")
    run.add_argument("--config", default="*", metavar="NAME", help="which configs, as a glob (default: all)")
    run.add_argument(
        "--lane", help="A: isolated float32, the gate; B: half precision; C: free-running (default: all there are)"
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
    from ..faults.likely_causes import explain_first
    from ..judge.device import Device
    from ..report import terminal
    from ..report.render import render, replacing
    from ..run.environment import chosen_device
    from ..run.loop import CellError, run
    from ..run.workers import WorkerDiedError

    lanes, device = lanes_of(args.lane), chosen_device(args.device)

    def progress(line: str) -> None:
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""
        print(f"{clear}[{time.monotonic() - start:4.0f} s] {line}", file=sys.stderr, flush=True)

    chosen = _chosen(args)
    try:
        with replacing(args.json):
            large = _large_layers(args, chosen, lanes, device)
            cells, every = args.json.with_suffix(".cells"), args.lane is not None
            results = run(
                chosen, lanes, args.checkpoint, device, progress, cells, args.resume, args.jobs, args.seed, every
            )
            results.explanation = explain_first(results)
            results.seconds = time.monotonic() - start
            results.device = Device((*results.device.measures, *large))
            results.write(args.json)
    except (CellError, WorkerDiedError) as error:
        print(f"ltx2-parity: the run failed at {printable(error)}", file=sys.stderr)
        return EXIT_INCOMPLETE
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(*stop.args[:1] or (signal.SIGINT,), "parity run --resume goes on from here") from None
    shutil.rmtree(cells, ignore_errors=True)
    terminal.show(results, [*render(args.json), args.json])
    return results.exit_code()


def _large_layers(
    args: argparse.Namespace, chosen: Sequence[tuple[Stage | Pipeline, str]], lanes: str, device: str
) -> tuple[Measure, ...]:
    """Of a real file on a GPU: how far its largest layers are off there, with inputs of production size."""
    if not args.checkpoint or device == "cpu":
        return ()
    from ..run.largest import largest_layers

    components = [stage.component for stage, _ in chosen if isinstance(stage, Stage) and stage.component]
    return largest_layers(args.checkpoint, components, lanes)


def lanes_of(text: str | None) -> str:
    """The lanes of ``--lane``, all without it. Raises InputError."""
    lanes = "ABC" if text is None else text.replace(",", "").upper()
    if not lanes or set(lanes) - set("ABC"):
        raise InputError(f"no lane '{text}'; there are A, B and C, as in --lane A,C")
    return "".join(sorted(set(lanes)))


def _chosen(args: argparse.Namespace) -> list[tuple[Stage | Pipeline, str]]:
    """The cells that ``--stage`` and ``--config`` name. Raises InputError where they name none, or none of a stage."""
    from ..run import pipelines as pipeline_runs
    from ..run.cells import check_checkpoint, select
    from ..sides.fixtures import ensure_fixtures

    stage = args.stage or "*"
    if args.checkpoint:
        named = [found for found in check_checkpoint(args.checkpoint) if fnmatchcase(found.name, stage)]
        chosen: list[tuple[Stage | Pipeline, str]] = [(found, args.checkpoint.stem) for found in named]
    else:
        ensure_fixtures()
        chosen = [*select(stage, args.config), *pipeline_runs.select(stage, args.config)]
    if not chosen:
        raise InputError(f"no stage '{stage}' with config '{args.config}'; see: parity list")
    if args.stage and not args.checkpoint:
        every = {found.name for found, _ in select(stage)} | {found.name for found, _ in pipeline_runs.select(stage)}
        if without := sorted(every - {found.name for found, _ in chosen}):
            raise InputError(f"--stage '{stage}' names {without[0]}, which has no config '{args.config}'")
    return chosen
