"""``parity margins``: clean runs with the inputs of many seeds, and how near to an alarm they come."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ltx2_mlx.errors import InputError

from ..judge import tolerance
from ..judge.results import EXIT_DIVERGED, EXIT_OK
from ..run.pool import count, show_progress
from .run import lanes_of

if TYPE_CHECKING:
    from ..declare.model import Pipeline, Stage
    from ..judge.results import Results

ALLOWED = {"A": tolerance.K, "B": tolerance.K, "C": tolerance.K_FREE}


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("margins", help="how near to an alarm do correct runs come, with other inputs?")
    parser.add_argument("--seeds", type=count, default=10, metavar="N", help="how many seeds, from 0 on (default: 10)")
    parser.add_argument("--stage", default="*", metavar="GLOB", help="as of parity run")
    parser.add_argument("--config", default="*", metavar="NAME", help="as of parity run")
    parser.add_argument("--lane", default="A,B,C", help="as of parity run")
    parser.add_argument("--device", choices=("cpu", "gpu"), help="as of parity run")
    parser.add_argument("--jobs", type=count, metavar="N", help="as of parity run")
    parser.set_defaults(handler=_margins)


def _margins(args: argparse.Namespace) -> int:
    from ..run import pipelines
    from ..run.cells import select
    from ..run.loop import run
    from ..sides.fixtures import ensure_fixtures

    if args.seeds > 1000:
        raise InputError("--seeds is 1000 at most")
    ensure_fixtures()
    chosen: list[tuple[Stage | Pipeline, str]] = [
        *select(args.stage, args.config),
        *pipelines.select(args.stage, args.config),
    ]
    lanes = lanes_of(args.lane)
    if not chosen:
        raise InputError(f"no stage '{args.stage}' with config '{args.config}'; see: parity list")
    alarms, judged, worst = 0, 0, {"tensors": (0.0, ""), "pipelines": (0.0, "")}
    for seed in range(args.seeds):
        results = run(chosen, lanes, device=args.device, jobs=args.jobs, progress=show_progress, seed=seed)
        failures = results.failures()
        for row in failures[:8]:
            print(f"seed {seed}: {row.place}: {row.verdict}: {row.why}")
        for kind, (part, place) in largest(results).items():
            worst[kind] = max(worst[kind], (part, f"{place}, seed {seed}"))
            print(f"seed {seed}: {len(failures)} alarms, {kind} came to {part:.0%} of the limit at {place}", flush=True)
        alarms += len(failures) or bool(results.exit_code())
        judged += len(results.rows) + sum(len(row.details) for row in results.pipelines)
    print(f"rounding  {results.device.sentence}")
    print(f"{args.seeds} seeds, {judged:,} tensors, {alarms} alarms")
    for kind, (part, place) in worst.items():
        if place:
            print(f"{kind} came to {part:.0%} of the limit at most (ratio {part * tolerance.K:.2f} of 3): {place}")
    print(f"{tolerance.MARGIN:.0%} is wanted of tensors")
    return EXIT_DIVERGED if alarms or worst["tensors"][0] > tolerance.MARGIN else EXIT_OK


def largest(results: Results) -> dict[str, tuple[float, str]]:
    """The largest part of its limit that a tensor, and an item of a pipeline, came to, and its place."""
    tensors = [(row.needed_k / ALLOWED[row.lane], row.place) for row in results.rows]
    items = [
        (item.error / item.limit, f"{row.pipeline} {row.config} {row.dtype} {item.name}")
        for row in results.pipelines
        for item in row.details
        if item.error and item.limit
    ]
    return {kind: max(found) for kind, found in (("tensors", tensors), ("pipelines", items)) if found}
