"""``parity doctor``: is the device sound? MLX's primitives at real sizes, without torch or weights."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ltx2_mlx.errors import InputError

from .run import REPORTS

if TYPE_CHECKING:
    from ..doctor.examine import Finding


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("doctor", help="is the device sound? needs neither torch nor weights")
    parser.add_argument("--device", choices=("cpu", "gpu"), help="where MLX runs (default: its own choice)")
    parser.add_argument("--only", default="*", metavar="GLOB", help="which lines, such as 'conv*' (default: all)")
    parser.add_argument(
        "--json",
        type=Path,
        default=REPORTS / "doctor.json",
        metavar="PATH",
        help="where the findings go, and a page of them beside (default: %(default)s)",
    )
    parser.set_defaults(handler=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from ..doctor import blas
    from ..doctor.examine import Examination, chosen, examine
    from ..doctor.line import Setting
    from ..doctor.page import as_json, line_of, page, summary
    from ..judge.files import write_whole
    from ..run.environment import chosen_device, environment
    from ..run.pool import free_bytes

    device, start = chosen_device(args.device), time.monotonic()
    if not (lines := chosen(args.only)):
        raise InputError(f"no line '{args.only}'; there are {', '.join(line.name for line in chosen('*'))}")
    beside = args.json.with_suffix(".html")
    if beside == args.json:
        raise InputError(f"--json {args.json}: the page of that name goes beside it; give a name that ends in .json")
    unfinished = "the doctor has not come to its end"
    for path, text in ((args.json, f'{{"unfinished": "{unfinished}"}}\n'), (beside, f"<p>{unfinished}</p>\n")):
        write_whole(path, text)
    speed = blas.gigaflops_a_second()
    begun = Examination((), environment(device), blas.notes(speed))

    def progress(finding: Finding) -> None:
        print(line_of(begun, finding), flush=True)

    print(
        f"{begun.environment['machine']}; MLX {begun.environment.get('mlx', 'of no known version')} on {device}",
        flush=True,
    )
    findings = examine(lines, Setting(device), speed, free_bytes() / 1e9, progress)
    found = Examination(findings, begun.environment, begun.notes, time.monotonic() - start)
    write_whole(args.json, as_json(found))
    write_whole(beside, page(found))
    print(*found.notes, summary(found), f"written: {args.json}, {beside}", sep="\n")
    return found.exit_code
