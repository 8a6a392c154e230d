"""``parity explain TAP``: what the residual of a tap looks like, and which causes look like that.

Causes are ranked by what planted faults looked like (``causes.json``, written by ``parity selftest --learn``), sign by
sign of ``signatures``.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..declare.stages import stages
from ..investigate.signs import signs as signs_of
from ..judge.results import Results, Row
from ..judge.verdicts import judge, tensors
from .catalogue import MUTATIONS

TABLE = Path(__file__).with_name("causes.json")


SHARPNESS = 5  # of the votes; measured: 3 to 8 do about as well


@dataclass(frozen=True)
class Example:
    """A planted fault: its class, and the signs it showed."""

    id: str
    cause: str
    signs: frozenset[str]


@dataclass(frozen=True)
class Guess:
    """A cause, its share of the votes, and the planted fault that is most alike."""

    cause: str
    share: float
    example: str


class Seen(Protocol):
    id: str
    cause: str
    signs: tuple[str, ...]


def examples(path: Path = TABLE) -> list[Example]:
    """The measured table."""
    table = json.loads(path.read_text())["mutants"]
    return [Example(id, row["cause"], frozenset(row["signs"])) for id, row in table.items()]


def rank(signs: Iterable[str], table: list[Example]) -> list[Guess]:
    """Causes, the likeliest first: each example votes for its own by the share of signs in common, rare ones counting
    more, to a power that leaves the say to the most alike."""
    found, seen = frozenset(signs), Counter(sign for example in table for sign in example.signs)
    weight = {sign: math.log(1 + len(table) / (seen[sign] + 0.5)) for sign in found | seen.keys()}
    votes: dict[str, list[tuple[float, str]]] = {}
    for example in table:
        common, either = (sum(weight[s] for s in both) for both in (found & example.signs, found | example.signs))
        votes.setdefault(example.cause, []).append(((common / either) ** SHARPNESS if either else 0.0, example.id))
    total = sum(vote for cast in votes.values() for vote, _ in cast) or 1.0
    guesses = [Guess(cause, sum(v for v, _ in cast) / total, max(cast)[1]) for cause, cast in votes.items()]
    return sorted(guesses, key=lambda guess: -guess.share)


def table_of(findings: Iterable[Seen]) -> list[Example]:
    return [Example(f.id, f.cause, frozenset(f.signs)) for f in findings if f.signs]


def leave_one_out(table: list[Example]) -> dict[str, int]:
    """How often the true cause comes first, and among the first three, told by all other faults."""
    first = three = 0
    for example in table:
        causes = [guess.cause for guess in rank(example.signs, [e for e in table if e is not example])]
        first += causes[:1] == [example.cause]
        three += example.cause in causes[:3]
    return {"of": len(table), "first": first, "three": three}


def learn(findings: Iterable[Seen], path: Path = TABLE) -> None:
    """Keep what these faults look like; what the table has of other faults that are still planted stays."""
    known = {e.id: e for e in (examples(path) if path.exists() else [])} | {e.id: e for e in table_of(findings)}
    table = [known[m.id] for m in MUTATIONS if m.id in known]
    rows = [f'  "{e.id}": {json.dumps({"cause": e.cause, "signs": sorted(e.signs)})}' for e in table]
    measured = json.dumps(leave_one_out(table))
    path.write_text(f'{{"leave_one_out": {measured},\n "mutants": {{\n' + ",\n".join(rows) + "\n }\n}\n")


@dataclass(frozen=True)
class Explanation:
    """row: what was looked at, as it is judged now; without signs it passes."""

    row: Row
    signs: tuple[str, ...] = ()
    causes: tuple[Guess, ...] = ()


def explain(place: dict[str, Any]) -> Explanation:
    """Run the case of a row of ``results.json`` again, and look at its tensor."""
    from ..run.live import Runner

    runner, stage = Runner(), stages()[place["stage"]]
    case, _, dtype = place["case"].partition("@")
    pair = runner.load(stage, place["config"], dtype or "float32")
    recorded = runner.record(pair, stage.cases(pair.config)[case], repeat=False)
    ours = runner.replay(recorded)
    where = {key: place[key] for key in ("stage", "config", "case")} | {"lane": "B" if dtype else "A"}
    rows = judge(Results(), where, stage, recorded.trace, recorded.oracle, ours)
    row = next((r for r in rows if (r.name, r.call) == (place["name"], place["call"])), None)
    if row is None or row.verdict == "pass":  # isolated, the fault may be elsewhere: where it starts
        row = next((r for r in rows if r.verdict != "pass"), row)
    if row is None or row.verdict == "pass":
        return Explanation(row or Row(place["name"], **where, call=0, order=0, dtype=""))
    signs = signs_of(row, rows, *tensors(row, recorded.trace, ours), recorded.trace)
    return Explanation(row, tuple(sorted(signs)), tuple(rank(signs, examples())))
