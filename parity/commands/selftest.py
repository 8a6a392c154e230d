"""``parity selftest`` plants known faults one at a time, and shows which are noticed, and where."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from pathlib import Path
from typing import Any

from ltx2_mlx.errors import InputError

from ..faults import gate
from ..faults.catalogue import FAULTS, NOT_APPLICABLE
from ..faults.likely_causes import learn
from ..faults.score import DETECTED, LOCALISED, Gate, Outcome, Score
from ..faults.selftest import run, sample, with_canaries
from ..judge.files import RunError, without_steering, write_whole
from ..judge.lines import printable
from ..judge.results import EXIT_DIVERGED, EXIT_OK, EXIT_USAGE
from ..run.pool import count, seed
from ..sides.fixtures import ensure_fixtures

REPORT = Path("reports") / "latest" / "selftest.json"
ALL = -1  # of --gate: every chosen fault


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "selftest", help="plant known faults one at a time and see that each is noticed in its place"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="plant only N faults, spread over the stages")
    parser.add_argument(
        "--only",
        default="*",
        metavar="GLOB",
        help="plant only the faults with this id, or with this id in the list of known faults",
    )
    parser.add_argument(
        "--gate",
        type=count,
        nargs="?",
        const=ALL,
        metavar="N",
        help="also plant N of them (default: all), spread over the kinds, in copies of the checkout, and see whether "
        "the commands that CI runs are red there; answers are kept in gate.json beside the results",
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of the inputs (default: 0)")
    parser.add_argument("--json", type=Path, default=REPORT, metavar="PATH", help="where the results are written")
    parser.add_argument("--learn", action="store_true", help="keep what each fault looks like, for parity explain")
    parser.add_argument(
        "--subject",
        metavar="SIDE",
        help="of this side from outside: change what its modules return and take, and see what is noticed "
        "(with --stage, --config; --sample taps of each cell, 8 by default)",
    )
    parser.add_argument("--stage", default="*", metavar="GLOB", help="with --subject: as of parity run")
    parser.add_argument("--config", default="*", metavar="NAME", help="with --subject: as of parity run")
    parser.add_argument(
        "--jobs",
        type=count,
        metavar="N",
        help="processes at once (default: as many as the cores and the free memory allow)",
    )
    parser.set_defaults(handler=_selftest)


def _selftest(args: argparse.Namespace) -> int:
    """Plant the chosen faults and the canaries of their kinds, and write and show what became of them."""
    if args.subject:
        return _of_side(args)
    if (args.stage, args.config) != ("*", "*"):
        raise InputError("--stage and --config go with --subject; a fault names its own: see --only")
    chosen = [m for m in FAULTS if any(fnmatch.fnmatchcase(name, args.only) for name in (m.id, m.known))]
    if not chosen or (args.sample is not None and args.sample < 1):
        wrong = f"no fault {args.only!r}" if not chosen else "--sample takes a number from 1 on"
        print(f"ltx2-parity: {wrong}", file=sys.stderr)
        return EXIT_USAGE
    if args.sample:
        chosen = sample(chosen, args.sample)
    asked = chosen if args.gate == ALL else sample(chosen, args.gate, lambda fault: fault.kind) if args.gate else []
    chosen = with_canaries(chosen, FAULTS)
    try:
        write_whole(args.json, "")
        args.json.unlink()  # a score that is not finished must not look like the one before
    except OSError as error:
        raise RunError(f"{args.json}: cannot be written ({error.strerror})") from None
    ensure_fixtures()
    start = time.monotonic()

    def progress(line: str) -> None:
        print(f"[{time.monotonic() - start:4.0f} s] {line}", file=sys.stderr)

    score = run(chosen, args.seed, progress, args.jobs)
    if asked := [fault for fault in asked if not fault.equivalent]:
        score.gate = gate.measure(asked, args.json.with_name("gate.json"), progress, args.jobs)
        score.seconds = time.monotonic() - start
    document = score.document()
    write_whole(args.json, without_steering(json.dumps(document, indent=1, ensure_ascii=False) + "\n"))
    if args.learn:
        learn(score.outcomes)
    show(score, document["summary"])
    print(f"written   {printable(args.json)}")
    return EXIT_OK if score.good else EXIT_DIVERGED


def _of_side(args: argparse.Namespace) -> int:
    """What the gate would notice of changes around the modules of a side from outside."""
    from ..declare.inputs import seeded
    from ..faults.wrapping import measure, table
    from ..run import ports
    from ..run.cells import select

    start = time.monotonic()

    def progress(line: str) -> None:
        print(f"[{time.monotonic() - start:4.0f} s] {line}", file=sys.stderr)

    ensure_fixtures()
    if not (chosen := select(args.stage, args.config)):
        raise InputError(f"no stage '{args.stage}' with config '{args.config}'; see: parity list")
    side = ports.side(args.subject, "ours" if args.subject == ports.OURS else "port")
    with seeded(args.seed):
        found = measure(chosen, side, ports.side(ports.REFERENCE, "reference"), args.sample or 8, progress)
    print(table(found))
    return EXIT_OK if found.made and all(wrapped.noticed for wrapped in found.made) else EXIT_DIVERGED


def show(score: Score, summary: dict[str, Any]) -> None:
    """The matrix, the score of each kind, and that of all."""
    width = max(len(f.fault) for f in score.outcomes)
    print(f"{'id':5} {'known':5} {'fault':{width}}  lane  first tap (expected tap, where it is another)")
    for f in score.outcomes:
        mark, place = _mark(f)
        print(f"{f.id:5} {f.known:5} {f.fault:{width}}  {f.lane:4} {mark} {place}")
    print("\nnot planted:")
    for known, reason in NOT_APPLICABLE.items():
        print(f"  {known:5} {reason}")
    print(f"\n{'kind':30} faults  noticed  in place  canary")
    for kind in score.kinds:
        numbers = f"{kind.faults:6} {kind.detected:8} {kind.localised:9}"
        print(f"{kind.kind:30} {numbers}  {f'VOID: {kind.void}' if kind.void else kind.canary}")
    n = summary["faults"]
    print(f"\n{n} faults, of {summary['known_faults']} known kinds and others; {summary['equivalent']} equivalent")
    print(f"detected  {summary['detected']} of {n} ({DETECTED:.0%} wanted)")
    print(f"localised {summary['localised']} of {n} ({LOCALISED:.0%} wanted)")
    for state in ("void", "crashed"):
        for line in summary[state]:
            print(f"{state:9} {line}")
    if score.gate:
        _show_gate(score.gate)
    seeds = ", ".join(map(str, score.clean_seeds))
    print(f"false alarms {summary['false_alarms']} in {summary['clean_tensors']:,} tensors (seeds {seeds})")
    for place in score.false_alarms[:8]:
        print(f"  {place}")
    told = summary["explained"]
    if told["of"]:
        print(
            f"explained: the true cause comes first for {told['first']}, among the first three for {told['three']} of"
        )
        print(f"          {told['of']} faults, each told by the others (leave one out)")
    print(f"{score.seconds:.0f} s: {'passed' if score.good else 'not passed'}")


def _mark(f: Outcome) -> tuple[str, str]:
    """A sign for an outcome, and what is to be said of it."""
    if f.state != "judged":
        return "!", f"{f.state}: {f.why}"
    mark = "·" if f.localised else "≠" if f.detected else "="
    place = f.first_tap if f.localised else f"{f.first_tap} ({f.expected_tap})" if f.detected else "undetected"
    if f.equivalent:
        return "≡", f"{place}; equivalent: {f.equivalent}"
    return mark, f"{place}: {f.why}" if f.why and not (f.detected and f.first_tap) else place


def _show_gate(found: Gate) -> None:
    """What the commands of CI say, in a line; the details of what they do not see."""
    parity, tests, missed = (found.ids(by) for by in ("parity", "tests", ""))
    print(f"gate      parity {len(parity)} of {len(found.seen)}, tests {len(tests)} more, missed {len(missed)}", end="")
    print(f": {', '.join(missed)}" if missed else "")
    for fault in found.crashed:
        print(f"gate      crashed {fault.id}: {fault.crashed}")
    for alarm in found.alarms:
        print(f"gate      false alarm {alarm}")
