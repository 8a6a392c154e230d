"""``parity record``: write what the reference does to a portable trace."""

from __future__ import annotations

import argparse
from pathlib import Path

from ltx2_mlx.errors import InputError

from ..declare.inputs import seeded
from ..declare.model import Stage
from ..judge.lines import printable
from ..run.pool import seed
from ..run.tracefile import write
from .run import lanes_of


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    record = commands.add_parser("record", help="run the reference and write a portable trace of it")
    record.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="the manifest; a folder beside it")
    record.add_argument("cells", nargs="*", default=["*"], metavar="STAGE[:CONFIG[:CASE]]", help="globs (default: all)")
    record.add_argument("--lane", default="A,B,C", help="as of parity run")
    record.add_argument("--checkpoint", type=Path, metavar="PATH", help="this checkpoint instead of the tiny ones")
    record.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of the inputs (default: 0)")
    record.add_argument("--weights", action="store_true", help="put the weights that are needed into the trace")
    record.set_defaults(handler=_record)


def _record(args: argparse.Namespace) -> int:
    from ..run.environment import environment
    from ..run.live import Runner
    from ..run.pool import show_progress

    lanes = lanes_of(args.lane)
    chosen = {glob: _select(glob, args.checkpoint) for glob in args.cells}
    wrong = [glob for glob, cells in chosen.items() if not cells]
    if wrong:
        raise InputError(f"nothing to record: {wrong[0]}; see: parity list")
    runner = Runner(args.checkpoint, show_progress)
    cells = (runner.recording(*cell[:2], lanes, cell[2]) for found in chosen.values() for cell in found)
    with seeded(args.seed):
        sizes = write(args.out, cells, environment("cpu"), args.weights)
    for cell, size in sizes.items():
        print(f"{cell:<44}{size / 1e6:8.2f} MB")
    folder = args.out.with_suffix("")
    total = args.out.stat().st_size + sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(printable(f"written   {args.out}, {folder}: {total / 1e6:.1f} MB"))
    return 0


def _select(glob: str, checkpoint: Path | None) -> list[tuple[Stage, str, str]]:
    """(stage, config, glob of cases) of ``STAGE[:CONFIG[:CASE]]``; a checkpoint of one's own is a config."""
    from ..run.cells import RealFiles, real_cells, select
    from ..sides.fixtures import ensure_fixtures

    stage, config, case = (*glob.split(":"), "*", "*")[:3]
    if checkpoint is None:
        ensure_fixtures()
        return [(*cell, case) for cell in select(stage, config)]
    real = real_cells(RealFiles(checkpoint), stage)
    if real.streamed:
        raise InputError(
            f"{checkpoint}: {min(real.streamed)} is not recorded: it or its file is too large for memory; compare it "
            "with: parity run"
        )
    return [(*cell, case) for cell in real.chosen]
