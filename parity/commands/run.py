"""``parity run``: run both sides, judge every tensor, write a report."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ltx2_mlx.errors import InputError

from ..declare.model import Pipeline, Stage
from ..judge.lines import printable
from ..judge.results import EXIT_INCOMPLETE
from ..run.pool import count, seed
from .ports import add_sides, foreign, run_sides

if TYPE_CHECKING:
    from ..judge.device import Measure
    from ..run.cells import RealCells, RealFiles
    from ..run.streaming import Streaming

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
    add_files(run)
    add_sides(run)
    run.add_argument("--ranks", type=int, choices=(2,), help="ours over so many processes, in lane A")
    run.add_argument(
        "--blocks", type=_numbers, metavar="N,N", help="of large files: judge these blocks alone (and what is in none)"
    )
    run.add_argument(
        "--max-rss",
        type=float,
        metavar="GB",
        help="of large files: stop, with exit code 3, rather than take more memory",
    )
    run.add_argument("--device", choices=("cpu", "gpu"), help="where MLX runs (default: its own choice)")
    run.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of the inputs (default: 0)")
    run.add_argument("--resume", action="store_true", help="go on with a run that was killed: keep its finished cells")
    run.add_argument(
        "--jobs",
        type=count,
        metavar="N",
        help="processes at once (default: as many as the cores and the free memory allow)",
    )
    run.set_defaults(handler=_run)


def add_files(command: argparse.ArgumentParser) -> None:
    """The flags that name real files."""
    command.add_argument(
        "--checkpoint", type=Path, metavar="PATH", help="this checkpoint (or Gemma folder) instead of the tiny ones"
    )
    command.add_argument("--gemma", type=Path, metavar="FOLDER", help="this Gemma 3 folder as well")
    command.add_argument("--upsampler", type=Path, metavar="PATH", help="this latent upsampler as well")


def real_files(args: argparse.Namespace) -> RealFiles:
    """The files that ``add_files`` asked for."""
    from ..run.cells import RealFiles

    return RealFiles(args.checkpoint, args.gemma, args.upsampler)


def _numbers(text: str) -> frozenset[int]:
    """``0,12,47``."""
    numbers = frozenset(int(part) for part in text.split(","))
    if min(numbers) < 0:
        raise ValueError(text)
    return numbers


def _run(args: argparse.Namespace) -> int:
    start = time.monotonic()
    from ..run.environment import chosen_device, judged_package
    from ..run.sources import require_fresh

    lanes, device = lanes_of("A" if args.ranks and args.lane is None else args.lane), chosen_device(args.device)

    def progress(line: str) -> None:
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""
        print(f"{clear}[{time.monotonic() - start:4.0f} s] {line}", file=sys.stderr, flush=True)

    require_fresh(judged_package())
    if foreign(args):
        return run_sides(args, _chosen(args)[0], lanes)
    chosen, real = _chosen(args)
    streaming = _streaming(args, real)
    _check_ranks(args, lanes, chosen)

    from ..faults.likely_causes import explain_first  # what a wrong word would wait for in vain
    from ..judge.device import Device
    from ..report import history, terminal
    from ..report.render import render, replacing
    from ..run.loop import CellError, run
    from ..run.workers import WorkerDiedError

    jobs = 1 if real and real.streamed else args.jobs  # each takes a few GB
    try:
        with replacing(args.json):
            large = _large_layers(real, lanes, device)
            cells, every = args.json.with_suffix(".cells"), args.lane is not None
            how = (jobs, args.seed, every, streaming, args.ranks or 1)
            results = run(chosen, lanes, real, device, progress, cells, args.resume, *how)
            results.explanation = explain_first(results)
            results.seconds = time.monotonic() - start
            results.device = Device((*results.device.measures, *large))
            results.write(args.json)
            history.keep(results, args.json)
    except (CellError, WorkerDiedError) as error:
        print(f"ltx2-parity: the run failed at {printable(error)}", file=sys.stderr)
        return EXIT_INCOMPLETE
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(*stop.args[:1] or (signal.SIGINT,), "parity run --resume goes on from here") from None
    shutil.rmtree(cells, ignore_errors=True)
    terminal.show(results, [*render(args.json), args.json])
    return results.exit_code()


def _check_ranks(args: argparse.Namespace, lanes: str, chosen: list[tuple[Stage | Pipeline, str]]) -> None:
    """Raises InputError for what several ranks cannot run."""
    from ..run.over_ranks import STAGES

    if not args.ranks:
        return
    if lanes != "A":
        raise InputError(f"--ranks is for lane A, and lanes {lanes} were asked for")
    if other := sorted({stage.name for stage, _ in chosen} - set(STAGES)):
        raise InputError(f"--ranks is for {', '.join(STAGES)}: name one with --stage ({other[0]} runs in one process)")


def _large_layers(real: RealCells | None, lanes: str, device: str) -> tuple[Measure, ...]:
    """Of real files on a GPU: how far their largest layers are off there, with inputs of production size."""
    if real is None or device == "cpu":
        return ()
    from ..run.largest import largest_layers

    judged = {stage.component for stage, _ in real.chosen}
    return largest_layers({name: path for name, path in real.files.items() if name in judged}, lanes)


def lanes_of(text: str | None) -> str:
    """The lanes of ``--lane``, all without it. Raises InputError."""
    lanes = "ABC" if text is None else text.replace(",", "").upper()
    if not lanes or set(lanes) - set("ABC"):
        raise InputError(f"no lane '{text}'; there are A, B and C, as in --lane A,C")
    return "".join(sorted(set(lanes)))


def _streaming(args: argparse.Namespace, real: RealCells | None) -> Streaming | None:
    """How what is larger than memory is compared. Raises InputError for flags that nothing would obey."""
    from ..run.streaming import Streaming

    if real is None or not real.streamed:
        for flag, value in (("--blocks", args.blocks), ("--max-rss", args.max_rss)):
            if value is not None:
                raise InputError(f"{flag} is for files that are larger than memory, and none of those is compared")
        return None
    return Streaming(args.json.parent, blocks=args.blocks, max_rss=args.max_rss)


def _chosen(args: argparse.Namespace) -> tuple[list[tuple[Stage | Pipeline, str]], RealCells | None]:
    """The cells that ``--stage`` and ``--config`` name. Raises InputError where they name none, or none of a stage."""
    from ..run import pipelines as pipeline_runs
    from ..run.cells import real_cells, select
    from ..sides.fixtures import ensure_fixtures

    stage = args.stage or "*"
    files, real = real_files(args), None
    chosen: list[tuple[Stage | Pipeline, str]]
    if files:
        real = real_cells(files, stage)
        chosen = [*real.chosen]
    else:
        ensure_fixtures()
        chosen = [*select(stage, args.config), *pipeline_runs.select(stage, args.config)]
    if not chosen and files:
        raise InputError(f"no stage '{stage}' in {', '.join(map(str, files.given))}; see: parity list")
    if not chosen:
        raise InputError(f"no stage '{stage}' with config '{args.config}'; see: parity list")
    if args.stage and not files:
        every = {found.name for found, _ in select(stage)} | {found.name for found, _ in pipeline_runs.select(stage)}
        if without := sorted(every - {found.name for found, _ in chosen}):
            raise InputError(f"--stage '{stage}' names {without[0]}, which has no config '{args.config}'")
    return chosen, real
