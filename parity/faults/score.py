"""What became of the planted faults, and whether that is good enough: over all of them, and kind by kind."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ..report.scores import SCHEMA
from .catalogue import NOT_APPLICABLE
from .likely_causes import leave_one_out, table_of

DETECTED, LOCALISED = 0.98, 0.95  # of the faults that are not equivalent
CLEAN_SEEDS = 3  # the seed of the faults' inputs and those after it
State = Literal["judged", "void", "crashed"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of one fault. ``lane``: A, B, C or load, where it is looked for.

    state: ``void`` if the fault was never reached or nothing was judged, ``crashed`` if the harness or the fault itself
    fell over; neither is noticed nor missed, and ``why`` says more.
    """

    id: str
    known: str
    fault: str
    cause: str
    stage: str
    config: str
    case: str
    lane: str
    expected_tap: str
    first_tap: str = ""
    why: str = ""
    detected: bool = False
    localised: bool = False
    equivalent: str = ""
    signs: tuple[str, ...] = ()
    seconds: float = 0.0
    kind: str = ""
    canary: bool = False
    state: State = "judged"


@dataclass(frozen=True)
class KindScore:
    """The score of one kind of faults. void: why it says nothing; "" where it does."""

    kind: str
    faults: int
    detected: int
    localised: int
    equivalent: int
    canary: str
    void: str


@dataclass(frozen=True)
class Seen:
    """What the commands of CI said of one fault. by: ``parity``, ``tests``, or nobody; crashed: why it is not known."""

    id: str
    kind: str
    fault: str
    by: Literal["parity", "tests", ""] = ""
    crashed: str = ""
    seconds: float = 0.0


@dataclass
class Gate:
    """The score of the commands of CI, ``make parity`` and ``make test``. alarms: clean copies that were red."""

    seen: list[Seen] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)

    def ids(self, by: str) -> list[str]:
        return [fault.id for fault in self.seen if fault.by == by and not fault.crashed]

    @property
    def crashed(self) -> list[Seen]:
        return [fault for fault in self.seen if fault.crashed]

    @property
    def good(self) -> bool:
        found = len(self.ids("parity")) + len(self.ids("tests"))
        return not (self.alarms or self.crashed) and found >= DETECTED * len(self.seen)

    def document(self) -> dict[str, Any]:
        return {
            "faults": len(self.seen),
            "parity": len(self.ids("parity")),
            "tests": self.ids("tests"),
            "missed": self.ids(""),
            "crashed": [f"{fault.id}: {fault.crashed}" for fault in self.crashed],
            "false_alarms": self.alarms,
            "passed": self.good,
        }


@dataclass
class Score:
    """The outcome of all faults, with the inputs of ``seed``. false_alarms: places of clean runs that did not pass.

    gate: what the commands of CI say of the same faults, or of some; None where they were not asked.
    """

    seed: int = 0
    outcomes: list[Outcome] = field(default_factory=list)
    false_alarms: list[str] = field(default_factory=list)
    clean_tensors: int = 0
    seconds: float = 0.0
    gate: Gate | None = None

    @property
    def counted(self) -> list[Outcome]:
        return [f for f in self.outcomes if not f.equivalent]

    def of(self, state: State) -> list[Outcome]:
        return [f for f in self.outcomes if f.state == state]

    @property
    def kinds(self) -> list[KindScore]:
        groups: dict[str, list[Outcome]] = {}
        for outcome in self.outcomes:
            groups.setdefault(outcome.kind, []).append(outcome)
        return [_kind(kind, group) for kind, group in groups.items()]

    @property
    def good(self) -> bool:
        """Equivalent faults must go unnoticed: one that is seen is none."""
        seen = [f.id for f in self.outcomes if f.equivalent and f.detected]
        n = len(self.counted)
        detected, localised = (sum(getattr(f, key) for f in self.counted) for key in ("detected", "localised"))
        nothing = not n or self.of("void") or self.of("crashed") or any(kind.void for kind in self.kinds)
        wrong = nothing or self.false_alarms or seen or (self.gate and not self.gate.good)
        return not wrong and detected >= DETECTED * n and localised >= LOCALISED * n

    @property
    def clean_seeds(self) -> list[int]:
        return list(range(self.seed, self.seed + CLEAN_SEEDS))

    def document(self) -> dict[str, Any]:
        summary = {
            "faults": len(self.counted),
            "detected": sum(f.detected for f in self.counted),
            "localised": sum(f.localised for f in self.counted),
            "equivalent": len(self.outcomes) - len(self.counted),
            "void": [f"{f.id}: {f.why}" for f in self.of("void")],
            "crashed": [f"{f.id}: {f.why}" for f in self.of("crashed")],
            "kinds": [asdict(kind) for kind in self.kinds],
            "gate": self.gate.document() if self.gate else None,
            "false_alarms": len(self.false_alarms),
            "false_alarm_places": self.false_alarms,
            "clean_tensors": self.clean_tensors,
            "clean_seeds": self.clean_seeds,
            "known_faults": len({f.known for f in self.outcomes if f.known}),
            "not_applicable": NOT_APPLICABLE,
            "explained": leave_one_out(table_of(self.outcomes)),
            "passed": self.good,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
        }
        return {"schema": SCHEMA, "summary": summary, "matrix": [asdict(f) for f in self.outcomes]}


def _kind(kind: str, group: list[Outcome]) -> KindScore:
    canaries = [f for f in group if f.canary]
    counted = [f for f in group if not f.equivalent]
    alive = [f.id for f in canaries if not f.detected]
    void = f"its canary {', '.join(alive)} was not noticed" if alive else "" if canaries else "it has no canary"
    return KindScore(
        kind,
        len(counted),
        sum(f.detected for f in counted),
        sum(f.localised for f in counted),
        len(group) - len(counted),
        ", ".join(f.id for f in canaries),
        void,
    )
