"""``parity record`` writes what the reference does to a portable trace; ``parity check`` judges ours against one,
without torch."""

from __future__ import annotations

import argparse
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

from .cells import Part
from .registry import Stage
from .results import EXIT_USAGE, Results
from .tracefile import TraceError, open_trace, write

REPORTS = Path("reports") / "latest"


def register(commands: argparse._SubParsersAction) -> None:
    record = commands.add_parser("record", help="run the reference and write a portable trace of it")
    record.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="the manifest; a folder beside it")
    record.add_argument("cells", nargs="*", default=["*"], metavar="STAGE[:CONFIG[:CASE]]", help="globs (default: all)")
    record.add_argument("--lane", default="A,B,C", help="as of parity run")
    record.add_argument("--checkpoint", type=Path, metavar="PATH", help="this checkpoint instead of the tiny ones")
    record.add_argument("--weights", action="store_true", help="put the weights that are needed into the trace")
    record.set_defaults(handler=_record)
    check = commands.add_parser("check", help="judge ours against a trace; needs no torch")
    check.add_argument("trace", type=Path, metavar="FILE.json", help="the manifest of a trace")
    check.add_argument("--checkpoint", type=Path, metavar="PATH", help="where the trace's one checkpoint is now")
    check.add_argument("--device", choices=("cpu", "gpu"), help="where MLX runs (default: its own choice)")
    check.add_argument("--json", type=Path, default=REPORTS / "results.json", metavar="PATH")
    check.set_defaults(handler=_check)


def _record(args: argparse.Namespace) -> int:
    from .replay import environment, show_progress
    from .runner import Runner

    lanes = args.lane.replace(",", "").upper()
    chosen = {glob: _select(glob, args.checkpoint) for glob in args.cells}
    wrong = [glob for glob, cells in chosen.items() if not cells]
    if wrong or not lanes or set(lanes) - set("ABC"):
        print(f"ltx2-parity: nothing to record: {wrong[0] if wrong else args.lane}; see: parity list", file=sys.stderr)
        return EXIT_USAGE
    runner = Runner(args.checkpoint, show_progress)
    cells = (runner.recording(*cell[:2], lanes, cell[2]) for found in chosen.values() for cell in found)
    sizes = write(args.out, cells, environment("cpu"), args.weights)
    for cell, size in sizes.items():
        print(f"{cell:<44}{size / 1e6:8.2f} MB")
    folder = args.out.with_suffix("")
    total = args.out.stat().st_size + sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"written   {args.out}, {folder}: {total / 1e6:.1f} MB")
    return 0


def _select(glob: str, checkpoint: Path | None) -> list[tuple[Stage, str, str]]:
    """(stage, config, glob of cases) of ``STAGE[:CONFIG[:CASE]]``; a checkpoint of one's own is a config."""
    from .runner import check_checkpoint, ensure_fixtures, select

    stage, config, case = (*glob.split(":"), "*", "*")[:3]
    if checkpoint is None:
        ensure_fixtures()
        return [(*cell, case) for cell in select(stage, config)]
    return [(s, checkpoint.stem, case) for s in check_checkpoint(checkpoint) if fnmatchcase(s.name, stage)]


def check(path: Path, checkpoint: Path | None = None, device: str | None = None) -> Results:
    """Judge ours against every cell of a trace. Raises TraceError where it is not as it was recorded."""
    from .replay import default_device, in_processes, unseen

    trace, device = open_trace(path, checkpoint), device or default_device()
    tasks = [(path, checkpoint, index, device) for index in range(len(trace.cells))]
    results = in_processes(_check_cell, tasks, device)
    recorded = {name: value for name, value in trace.manifest["versions"].items() if name not in ("device", "mlx")}
    results.environment |= {f"{name} of the trace": value for name, value in recorded.items()}
    whole = [cell for cell, entry in zip(trace.cells, trace.manifest["cells"], strict=True) if entry["inventory"]]
    results.unseen = unseen(results, whole)
    return results


def _check_cell(task: tuple[Path, Path | None, int, str]) -> Part:
    from .replay import judge_recording, peak_gb, use_device

    path, checkpoint, index, device = task
    use_device(device)
    results = Results()
    judge_recording(open_trace(path, checkpoint).recording(index), results)
    return results, peak_gb()


def _check(args: argparse.Namespace) -> int:
    from .report import terminal

    start = time.monotonic()
    results = check(args.trace, args.checkpoint, args.device)
    results.seconds = time.monotonic() - start
    try:
        results.write(args.json)
    except OSError as error:
        raise TraceError(f"{args.json}: cannot be written ({error.strerror})") from None
    terminal.show(results, [args.json])
    return results.exit_code()
