"""``parity bisect``: from a red line of the report to the code that makes it, with a reproduction of its own."""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ltx2_mlx.errors import InputError

from ..investigate.statements import shortened
from ..judge.device import calibrated
from ..judge.lines import printable
from ..judge.place import Place, find
from ..judge.results import EXIT_DIVERGED, EXIT_OK
from ..run.pool import seed
from .run import add_files, real_files

if TYPE_CHECKING:
    from ..investigate.bisect import Diagnosis
    from ..run.cells import RealFiles
    from ..run.live import Runner
    from ..run.recorded import Recorded

RESULTS = Path("reports") / "latest" / "results.json"
OUT = RESULTS.with_name("bisect")


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("bisect", help="find the operands and the lines of code that make a tap wrong")
    add_place(command)
    command.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help="where the reproduction is written")
    command.set_defaults(handler=_bisect)


def add_place(command: argparse.ArgumentParser) -> None:
    """The arguments that name one row of a report."""
    command.add_argument(
        "place",
        nargs="*",
        metavar="PLACE",
        help="a tap of the results, by name or glob, or 'first' (the default): the first that fails; or the words of a "
        "report's line: STAGE CONFIG CASE LANE TAP",
    )
    command.add_argument(
        "--seed", type=seed, metavar="N", help="seed of the inputs (default: that of the results, or 0)"
    )
    command.add_argument("--results", type=Path, default=RESULTS, metavar="PATH", help="the results.json to look in")
    add_files(command)


def _bisect(args: argparse.Namespace) -> int:
    from ..run.calibration import measure
    from ..run.environment import default_device
    from ..sides.fixtures import ensure_fixtures

    place = find(args.place, args.results, args.seed)
    ensure_fixtures()
    with calibrated(measure(default_device())), runner_of(real_files(args), place) as runner:
        return _found(runner, place, args.out)


@contextlib.contextmanager
def runner_of(real: RealFiles, place: Place) -> Iterator[Runner]:
    """What runs the case of a place again. Of files that are larger than memory, the place's page alone is recorded."""
    from ..run.cells import real_cells
    from ..run.live import Runner

    cells = real_cells(real, place.stage) if real else None
    if cells is None or place.stage not in cells.streamed:
        yield Runner(files=cells.files if cells else {})
        return
    from ..run.streamed import StreamedRunner, page_of
    from ..run.streaming import Streaming

    page = page_of(place.tap)
    if not page or place.lane == "C":
        raise InputError(
            f"{printable(place.name or place.stage)}: of files that are larger than memory, a tap of one page is taken "
            "apart, on the reference's inputs: transformer_blocks.37.attn1, say, in lane A or B"
        )
    OUT.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=OUT, prefix="pages-") as folder:
        blocks = frozenset({int(page.rpartition(".")[2])})
        streaming = Streaming(Path(folder), blocks=blocks, cases=place.case.partition("@")[0])
        yield StreamedRunner(streaming, cells.files, functools.partial(print, file=sys.stderr, flush=True))


def _found(runner: Runner, place: Place, out: Path) -> int:
    from ..investigate.bisect import bisect, culprit, isolated_rows, record

    recorded = record(runner, place)
    ours = recorded.pair.ours
    if place.lane == "C" or recorded.oracle is None:
        found = culprit(runner, recorded, ours, place)
        if found is None:
            print("nothing fails when it runs free")
            return EXIT_OK
        last, row = found
        print(f"first red, running free: {row.place}: {row.why}\nwith all taps up to {last} grafted, the rest passes")
    if recorded.oracle is None:
        return EXIT_DIVERGED
    rows = isolated_rows(recorded, runner.replay(recorded, ours), place.where)
    diagnosis = bisect(runner, recorded, ours, rows, place.tap)
    if diagnosis is None:
        print(f"nothing fails {f'at {printable(place.tap)} ' if place.tap else ''}on the reference's inputs")
        return EXIT_DIVERGED if place.lane == "C" else EXIT_OK
    story = describe(diagnosis)
    print(printable(f"{diagnosis.row.place}: {diagnosis.row.verdict}: {diagnosis.row.why}"), story, sep="\n", end="")
    print(f"reproduction  {printable(_write(diagnosis, recorded, story, out))}")
    return EXIT_DIVERGED


def describe(diagnosis: Diagnosis) -> str:
    """The diagnosis in lines: where the tensor is made, how its operands are used, which statements of ours make it."""
    lines = [f"around it     {diagnosis.passed} tensors there pass, {diagnosis.failed} do not"]
    if diagnosis.scope:
        tap, call = diagnosis.scope
        lines.append(f"made in       the own code of {tap}{f' (call {call})' if call else ''}")
    if diagnosis.owner:
        lines.append(f"class         {diagnosis.owner.lines}  {diagnosis.owner.text}")
    lines += [f"held          {constant}" for constant in diagnosis.constants]
    lines += [f"operand       {o.name}: {o.use} ({o.error:.1e})" for o in diagnosis.operands]
    if diagnosis.made.narrowest:
        lines.append(f"narrowest     {diagnosis.made.narrowest.lines}")
    lines += [f"statement     {s.lines}  {shortened(s.text)}" for s in diagnosis.made.statements]
    return "\n".join(lines) + "\n"


def _write(diagnosis: Diagnosis, recorded: Recorded, story: str, out: Path) -> str:
    from ..investigate.repro import Repro, write_script
    from ..investigate.scope import target_of

    if diagnosis.scope is None:
        return "none: no tap of the reference makes it"
    repro = Repro.of(recorded, diagnosis.row, diagnosis.scope, target_of(diagnosis.row, recorded.trace))
    return str(write_script(repro, diagnosis.row, story, out))
