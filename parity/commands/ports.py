"""``parity run --reference SIDE --subject SIDE``: sides from outside."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from ltx2_mlx.errors import InputError

from ..declare.model import Pipeline, Stage
from ..judge.files import write_whole
from ..judge.results import EXIT_DIVERGED, EXIT_INCOMPLETE, ORIGIN
from ..sides import versions

if TYPE_CHECKING:
    from ..run.ports import Subject, Vote


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
    """True where another side than the usual two is asked for, or another ltx-core than 1.0.0 is installed."""
    return bool((args.reference, args.subject) != ("ltx-core", "ltx2-mlx") or versions.other())


def run_sides(args: argparse.Namespace, chosen: list[tuple[Stage | Pipeline, str]], lanes: str) -> int:
    """Judge each subject; results.json of each, and one page of findings."""
    from ..declare.inputs import seeded
    from ..report.render import replacing
    from ..run import ports
    from ..run.environment import use_device

    for flag in ("checkpoint", "gemma", "upsampler", "blocks", "max_rss", "resume", "ranks", "jobs"):
        if getattr(args, flag) not in (None, False, 1):
            named = flag.replace("_", "-")
            raise InputError(f"--{named} is not for sides from outside: one process runs them on the small checkpoints")
    names = args.subject.split(",")
    if len(names) > 2 or len(set(names)) < len(names):
        raise InputError(f"--subject '{args.subject}': one side, or two different ones")
    start, device = time.monotonic(), args.device or "cpu"
    use_device(device)
    reference = ports.side(args.reference, "reference")
    subjects = [ports.Subject(name, ports.side(name, "ours" if name == "ltx2-mlx" else "port")) for name in names]
    if not (cells := [(stage, config) for stage, config in chosen if isinstance(stage, Stage)]):
        raise InputError(f"--stage '{args.stage}': pipelines are not for sides from outside, whose parts are compared")

    def progress(line: str) -> None:
        print(f"[{time.monotonic() - start:4.0f} s] {line}", file=sys.stderr, flush=True)

    with ExitStack() as stack:
        for subject in subjects:
            stack.enter_context(replacing(path_of(args.json, subject, subjects)))
        stack.enter_context(seeded(args.seed))
        votes = ports.run(cells, lanes, reference, subjects, progress)
        describe(args, device, subjects)
        write(args.json, subjects, time.monotonic() - start)
    return finished(args.json, args.reference, subjects, votes, time.monotonic() - start)


def describe(args: argparse.Namespace, device: str, subjects: list[Subject]) -> None:
    """Say in the results what ran."""
    from ..run import ports
    from ..run.environment import code_digest, environment

    for subject in subjects:
        results = subject.results
        results.environment, results.code = environment(device) | subject.versions, code_digest()
        sides = {"reference": (named(args.reference), ports.REFERENCE), "subject": (subject.name, ports.OURS)}
        given = {key: name for key, (name, usual) in sides.items() if name != usual}
        if len(subjects) > 1:  # ours is not run as it is shipped then, and is no baseline
            given["subject"] = f"{subject.name}, one of {args.subject}"
        results.origin = ORIGIN | {"seed": str(args.seed)} | given


def named(reference: str) -> str:
    """The reference with its version where it is ltx-core and not 1.0.0."""
    return f"{reference} {found}" if reference == versions.PACKAGE and (found := versions.other()) else reference


def write(path: Path, subjects: list[Subject], seconds: float) -> None:
    """Write the results of each subject."""
    from ..run.pool import peak_gb

    for subject in subjects:
        subject.results.seconds, subject.results.peak_gb = seconds, peak_gb()
        subject.results.write(path_of(path, subject, subjects))


def finished(path: Path, reference: str, subjects: list[Subject], votes: list[Vote], seconds: float) -> int:
    """Write the pages of each subject and the one of findings, and show it. Returns the exit code."""
    from ..report.ports import page
    from ..report.render import render

    for subject in subjects:
        render(path_of(path, subject, subjects))
    text = page(reference, subjects, votes, seconds, time.process_time())
    write_whole(path.with_name("ports.md"), text)
    print(text)
    codes = [subject.results.exit_code() if subject.results.rows else EXIT_INCOMPLETE for subject in subjects]
    return max(codes, key=lambda code: (code == EXIT_DIVERGED, code))


def path_of(path: Path, subject: Subject, subjects: list[Subject]) -> Path:
    """Where a subject's results go: each has its own folder where there are two."""
    if len(subjects) == 1:
        return path
    stems = [Path(other.name).stem for other in subjects]
    own = Path(subject.name).stem if len(set(stems)) > 1 else f"{stems[0]}-{subjects.index(subject) + 1}"
    return path.parent / own / path.name
