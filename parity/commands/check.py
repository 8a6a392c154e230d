"""``parity check``: judge ours against a trace, without torch."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ..judge.results import Results
from ..run.pool import count
from ..run.resume import Part
from ..run.tracefile import TraceError, open_trace

REPORTS = Path("reports") / "latest"


def register(commands: argparse._SubParsersAction) -> None:
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


def check(path: Path, checkpoint: Path | None = None, device: str | None = None, jobs: int | None = None) -> Results:
    """Judge ours against every cell of a trace. Raises TraceError where it is not as it was recorded."""
    from ..run.coverage import unseen
    from ..run.environment import default_device
    from ..run.pool import in_processes

    trace, device = open_trace(path, checkpoint), device or default_device()
    tasks = [(path, checkpoint, index, device) for index in range(len(trace.cells))]
    names = [f"check {entry['stage']} {entry['config']}" for entry in trace.manifest["cells"]]
    results = in_processes(_check_cell, tasks, names, device, jobs=jobs)
    recorded = {name: value for name, value in trace.manifest["versions"].items() if name not in ("device", "mlx")}
    results.environment |= {f"{name} of the trace": value for name, value in recorded.items()}
    whole = [cell for cell, entry in zip(trace.cells, trace.manifest["cells"], strict=True) if entry["inventory"]]
    results.unseen = unseen(results, whole)
    return results


def _check_cell(task: tuple[Path, Path | None, int, str]) -> Part:
    from ..run.environment import use_device
    from ..run.pool import peak_gb
    from ..run.replay import judge_recording

    path, checkpoint, index, device = task
    use_device(device)
    results = Results()
    judge_recording(open_trace(path, checkpoint).recording(index), results)
    return results, peak_gb()


def _check(args: argparse.Namespace) -> int:
    from ..report import terminal

    start = time.monotonic()
    results = check(args.trace, args.checkpoint, args.device, args.jobs)
    results.seconds = time.monotonic() - start
    try:
        results.write(args.json)
    except OSError as error:
        raise TraceError(f"{args.json}: cannot be written ({error.strerror})") from None
    terminal.show(results, [args.json])
    return results.exit_code()
