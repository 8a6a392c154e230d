"""The one ranker of causes: which causes make a tensor differ as it does, and which lines make it.

Causes are ranked by what planted faults looked like (``causes.json``, written by ``parity selftest --learn``), sign by
sign of ``signs``.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..investigate.bisect import Diagnosis, bisect, isolated_rows, record
from ..investigate.signs import signs as signs_of
from ..investigate.statements import Slice, Statement, shortened
from ..judge.device import calibrated
from ..judge.files import RunError, decode, read_bytes, write_whole
from ..judge.place import Place
from ..judge.results import Results, Row
from ..judge.verdicts import tensors
from ..run.environment import use_device
from ..run.live import Runner
from .catalogue import BY_ID, CAUSES, FAULTS

TABLE = Path(__file__).with_name("causes.json")
SHOWN = 3  # causes
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


@dataclass(frozen=True)
class _Row:
    """An example in the table's file."""

    cause: str
    signs: list[str]


@dataclass(frozen=True)
class _Table:
    """The table's file."""

    faults: dict[str, _Row]


class Seen(Protocol):
    """The outcome of a planted fault, as far as it is learned from."""

    @property
    def id(self) -> str: ...
    @property
    def cause(self) -> str: ...
    @property
    def signs(self) -> tuple[str, ...]: ...


def examples(path: Path = TABLE) -> list[Example]:
    """The measured table. Raises RunError."""
    table = decode(path, read_bytes(path), _Table, "not a table of causes").faults
    return [Example(id, row.cause, frozenset(row.signs)) for id, row in table.items() if row.cause in CAUSES]


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


def table_of(outcomes: Iterable[Seen]) -> list[Example]:
    return [Example(f.id, f.cause, frozenset(f.signs)) for f in outcomes if f.signs]


def leave_one_out(table: list[Example]) -> dict[str, int]:
    """How often the true cause comes first, and among the first three, told by all other faults."""
    first = three = 0
    for example in table:
        causes = [guess.cause for guess in rank(example.signs, [e for e in table if e is not example])]
        first += causes[:1] == [example.cause]
        three += example.cause in causes[:3]
    return {"of": len(table), "first": first, "three": three}


def learn(outcomes: Iterable[Seen], path: Path = TABLE) -> None:
    """Keep what these faults look like; what the table has of other faults that are still planted stays.

    A table that cannot be read is made anew from them.
    """
    try:
        known = {e.id: e for e in examples(path)}
    except RunError:
        known = {}
    known |= {e.id: e for e in table_of(outcomes)}
    table = [known[m.id] for m in FAULTS if m.id in known]
    rows = [f'  "{e.id}": {json.dumps({"cause": e.cause, "signs": sorted(e.signs)})}' for e in table]
    measured = json.dumps(leave_one_out(table))
    write_whole(path, f'{{"leave_one_out": {measured},\n "faults": {{\n' + ",\n".join(rows) + "\n }\n}\n")


@dataclass(frozen=True)
class Explanation:
    """row: what was looked at, as it is judged now; without signs it passes. diagnosis: the lines that make it."""

    row: Row
    signs: tuple[str, ...] = ()
    causes: tuple[Guess, ...] = ()
    diagnosis: Diagnosis | None = None

    def document(self) -> dict[str, Any]:
        """The explanation for ``results.json``; every report prints it from there."""
        if not self.signs:
            return {
                "missing": "It passes when it is fed the reference's inputs, so that errors add up on the way to it."
            }
        made = self.diagnosis.made if self.diagnosis else Slice()
        return {
            "place": self.row.place,
            "signs": list(self.signs),
            "causes": [_cause(guess) for guess in self.causes[:SHOWN]],
            "constants": list(self.diagnosis.constants) if self.diagnosis else [],
            "narrowest": _statement(made.narrowest) if made.narrowest else None,
            "statements": [_statement(statement) for statement in made.statements],
        }


def _cause(guess: Guess) -> dict[str, Any]:
    like = BY_ID.get(guess.example)
    return {
        "cause": guess.cause,
        "share": round(guess.share, 3),
        "meaning": CAUSES[guess.cause],
        "example": guess.example,
        "fault": like.description if like else "no longer planted",
    }


def _statement(statement: Statement) -> dict[str, Any]:
    file = statement.lines.partition(":")[0]
    return {"file": file, "first": statement.first, "last": statement.last, "text": shortened(statement.text)}


def explain(place: Place, runner: Runner | None = None) -> Explanation:
    """Run the case of a place again: what its tensor looks like, which causes look so, which lines make it."""
    runner = runner or Runner()
    recorded = record(runner, place)
    ours = runner.replay(recorded)
    rows = isolated_rows(recorded, ours, place.where)
    row = next((r for r in rows if (r.name, r.call) == (place.name, place.call)), None)
    if row is None or row.verdict == "pass":  # isolated, the fault may be elsewhere: where it starts
        row = next((r for r in rows if r.verdict != "pass"), row)
    if row is None or row.verdict == "pass":
        passed = Row(place.name, place.stage, place.config, place.case, place.lane, place.call, 0, "")
        return Explanation(row or passed)
    theirs, own = tensors(row, recorded.trace, ours)
    signs = signs_of(row, rows, theirs, own, recorded.trace)
    diagnosis = bisect(runner, recorded, recorded.pair.ours, rows, row.name.replace(":", "."))
    return Explanation(row, tuple(sorted(signs)), tuple(rank(signs, examples())), diagnosis)


def explain_first(results: Results) -> dict[str, Any] | None:
    """The explanation of a run's first divergence, for ``Results.explanation``; None where no tensor fails.

    A run keeps its results whatever becomes of this, so that an error here is what the explanation says.
    """
    first = results.summary()["first_divergence"]
    if first is None:
        return None
    if results.origin.get("checkpoint"):
        command = f"python -m parity explain {Place.of(first).words} --checkpoint {results.origin['checkpoint']}"
        return {"missing": f"It takes another pass over the file: {command}"}
    try:
        use_device(results.environment["device"])
        with calibrated(results.device):
            return explain(Place.of(first)).document()
    except Exception as error:
        return {"missing": f"It could not be run again: {type(error).__name__}: {error}"}
