"""``parity bisect``: from a red line of the report to the code that makes it, with a reproduction of its own."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ltx2_mlx.errors import InputError

from ..declare.stages import stages
from ..judge.results import EXIT_DIVERGED, EXIT_OK

if TYPE_CHECKING:
    from ..investigate.bisect import Diagnosis
    from ..investigate.statements import Statement
    from ..run.live import Runner
    from ..run.recorded import Recorded

OUT = Path("reports") / "latest" / "bisect"


def register(commands: argparse._SubParsersAction) -> None:
    command = commands.add_parser("bisect", help="what in a failing tap is wrong: operands, lines, a reproduction")
    command.add_argument(
        "stage", help="as in the report's line: transformer tiny-2.0 base A transformer_blocks.0.attn1"
    )
    command.add_argument("config", help="which checkpoint")
    command.add_argument("case", nargs="?", default="base", help="which case; base@bfloat16 in lane B (default: base)")
    command.add_argument("lane", nargs="?", default="A", choices=("A", "B", "C"), help="which lane (default: A)")
    command.add_argument("tap", nargs="?", default="", help="at or inside this tap (default: the first that is red)")
    command.add_argument("--out", type=Path, default=OUT, metavar="FOLDER", help="where the reproduction goes")
    command.set_defaults(handler=_bisect)


def _bisect(args: argparse.Namespace) -> int:
    from ..investigate.bisect import bisect, culprit, isolated_rows
    from ..run.live import Runner
    from ..sides.fixtures import ensure_fixtures

    ensure_fixtures()
    runner = Runner()
    recorded = _record(runner, args)
    ours, tap = recorded.pair.ours, re.match(r"[^:#]*", args.tap)[0]  # without the argument's and the call's part
    where = {"stage": args.stage, "config": args.config, "case": args.case}
    if args.lane == "C" or recorded.oracle is None:
        found = culprit(runner, recorded, ours, where)
        if found is None:
            print("nothing fails when it runs free")
            return EXIT_OK
        last, row = found
        print(f"first red, running free: {row.place}: {row.why}\nwith all taps up to {last} grafted, the rest passes")
    if recorded.oracle is None:
        return EXIT_DIVERGED
    diagnosis = bisect(runner, recorded, ours, isolated_rows(runner, recorded, ours, args.config, args.case), tap)
    if diagnosis is None:
        print(f"nothing fails {f'at {tap} ' if tap else ''}on the reference's inputs")
        return EXIT_DIVERGED if args.lane == "C" else EXIT_OK
    story = describe(diagnosis)
    print(f"{diagnosis.row.place}: {diagnosis.row.verdict}: {diagnosis.row.why}\n{story}", end="")
    print(f"reproduction  {_write(diagnosis, recorded, story, args.out)}")
    return EXIT_DIVERGED


def _record(runner: Runner, args: argparse.Namespace) -> Recorded:
    """The case that the report's words name. Raises InputError."""
    stage = stages().get(args.stage)
    name, _, half = args.case.partition("@")
    if stage is None or args.config not in stage.configs:
        raise InputError(f"no stage '{args.stage}' with config '{args.config}'; see: parity list")
    if (args.lane == "B") is not (half in ("bfloat16", "float16")):
        raise InputError(f"case '{args.case}' is not of lane {args.lane}: those of lane B end in @bfloat16 or @float16")
    pair = runner.load(stage, args.config, half or "float32")
    cases = stage.cases(pair.config)
    if name not in cases:
        raise InputError(f"no case '{name}' of {args.stage} {args.config}; there are: {', '.join(cases)}")
    isolated = not (half and stage.float32)
    return runner.record(pair, cases[name], repeat=False, isolated=isolated)


def describe(diagnosis: Diagnosis) -> str:
    """The diagnosis in lines: where it is made, what is used how, which statements of ours."""
    lines = [f"around it     {diagnosis.passed} tensors there pass, {diagnosis.failed} do not"]
    if diagnosis.scope:
        tap, call = diagnosis.scope
        lines.append(f"made in       the own code of {tap}{f' (call {call})' if call else ''}")
    if diagnosis.owner:
        lines.append(f"class         {_where(diagnosis.owner)}–{diagnosis.owner.last}  {diagnosis.owner.text}")
    lines += [f"held          {constant}" for constant in diagnosis.constants]
    lines += [f"operand       {o.name}: {o.use} ({o.error:.1e})" for o in diagnosis.operands]
    for s in diagnosis.statements:
        text = s.text if len(s.text) <= 100 else f"{s.text[:99]}…"
        lines.append(f"statement     {_where(s)}  {text}")
    return "\n".join(lines) + "\n"


def _where(statement: Statement) -> str:
    """``ltx2_mlx/file.py:line``, wherever the package is."""
    before, package, after = statement.file.rpartition("ltx2_mlx/")
    return f"{package}{after or before}:{statement.first}"


def _write(diagnosis: Diagnosis, recorded: Recorded, story: str, out: Path) -> str:
    from ..investigate.repro import Repro, write_script
    from ..investigate.scope import target_of

    if diagnosis.scope is None:
        return "none: no tap of the reference makes it"
    repro = Repro.of(recorded, diagnosis.row, diagnosis.scope, target_of(diagnosis.row, recorded.trace))
    return str(write_script(repro, diagnosis.row, story, out))
