"""``parity run --reference SIDE --subject SIDE``: sides from outside."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ltx2_mlx.errors import InputError

from ..declare.model import Pipeline, Stage
from ..judge.results import EXIT_INCOMPLETE, ORIGIN

if TYPE_CHECKING:
    from ..run.ports import Subject


def add_sides(command: argparse.ArgumentParser) -> None:
    """The flags that name sides."""
    command.add_argument(
        "--reference",
        default="ltx-core",
        metavar="SIDE",
        help="what is compared with: ltx-core, diffusers, the name of an installed side, or a Python file",
    )
    command.add_argument(
        "--subject",
        default="ltx2-mlx",
        metavar="SIDE[,SIDE]",
        help="what is judged, in the same way; of two, who of the three differs is said as well (default: ltx2-mlx)",
    )


def foreign(args: argparse.Namespace) -> bool:
    """True where another side than the usual two is asked for."""
    return bool((args.reference, args.subject) != ("ltx-core", "ltx2-mlx"))


def run_sides(args: argparse.Namespace, chosen: list[tuple[Stage | Pipeline, str]], lanes: str) -> int:
    """Judge each subject; results.json of each, and one page of findings."""
    from ..declare.inputs import seeded
    from ..report.ports import page
    from ..run import ports
    from ..run.environment import code_digest, environment, use_device
    from ..run.pool import peak_gb

    for flag in ("checkpoint", "gemma", "upsampler", "blocks", "max_rss", "resume"):
        if getattr(args, flag):
            raise InputError(
                f"--{flag.replace('_', '-')} is not for sides from outside: they run on the small checkpoints"
            )
    names = args.subject.split(",")
    if len(names) > 2 or len(set(names)) < len(names):
        raise InputError(f"--subject '{args.subject}': one side, or two different ones")
    start, device = time.monotonic(), args.device or "cpu"
    use_device(device)
    reference = ports.side(args.reference, "reference")
    subjects = [ports.Subject(name, ports.side(name, "ours" if name == "ltx2-mlx" else "port")) for name in names]
    cells = [(stage, config) for stage, config in chosen if isinstance(stage, Stage)]

    def progress(line: str) -> None:
        print(f"[{time.monotonic() - start:4.0f} s] {line}", file=sys.stderr, flush=True)

    with seeded(args.seed):
        votes = ports.run(cells, lanes, reference, subjects, progress)
    for subject in subjects:
        results = subject.results
        results.environment, results.code = environment(device) | subject.versions, code_digest()
        sides = {"reference": (args.reference, ports.REFERENCE), "subject": (subject.name, ports.OURS)}
        named = {key: name for key, (name, usual) in sides.items() if name != usual}
        results.origin = ORIGIN | {"seed": str(args.seed)} | named
        results.seconds, results.peak_gb = time.monotonic() - start, peak_gb()
        results.write(path_of(args.json, subject, subjects))
    text = page(args.reference, subjects, votes, time.monotonic() - start)
    args.json.with_name("ports.md").write_text(text)
    print(text)
    codes = [subject.results.exit_code() if subject.results.rows else EXIT_INCOMPLETE for subject in subjects]
    return max(codes, key=lambda code: (code == 1, code))


def path_of(path: Path, subject: Subject, subjects: list[Subject]) -> Path:
    """Where a subject's results go: each has its own file where there are two."""
    return path if len(subjects) == 1 else path.with_suffix(f".{Path(subject.name).stem}.json")
