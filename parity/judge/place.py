"""One place of a run, named by a tap or by the words of a report's line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from shlex import quote
from typing import Any

from ltx2_mlx.errors import InputError

from .files import RunError
from .results import read_results


@dataclass(frozen=True)
class Place:
    """A row of a report: ``name`` is the tap, ``tap:arg`` what flows into it; empty for the first that fails."""

    stage: str
    config: str
    case: str
    lane: str
    name: str = ""
    call: int = 0
    seed: int = 0  # of the case's inputs

    @classmethod
    def of(cls, row: dict[str, Any]) -> Place:
        """The place of a row of ``results.json``."""
        named = {key: row[key] for key in ("stage", "config", "case", "lane", "name", "call")}
        return cls(**named, seed=row.get("seed", 0))

    @property
    def words(self) -> str:
        """The words of the report's line, quoted for a shell."""
        name = f"{self.name}#{self.call}" if self.call else self.name
        words = (self.stage, self.config, self.case, self.lane, *([name] if name else []))
        return " ".join(quote(word) for word in words)

    @property
    def tap(self) -> str:
        """The tap, without the argument."""
        return self.name.partition(":")[0]

    @property
    def commands(self) -> dict[str, str]:
        """The commands to run for this place, ready for a shell."""
        seed = f" --seed {self.seed}" if self.seed else ""
        return {verb: f"python -m parity {verb} {self.words}{seed}" for verb in ("explain", "bisect")}

    @property
    def dtype(self) -> str:
        return self.case.partition("@")[2] or "float32"

    @property
    def where(self) -> dict[str, str]:
        """The place's run on the reference's inputs, as a row names it."""
        lane = "A" if self.dtype == "float32" else "B"
        return {"stage": self.stage, "config": self.config, "case": self.case, "lane": lane}


def find(words: list[str], results: Path, seed: int | None = None) -> Place:
    """One word is a tap of ``results`` (a name, a glob, or ``first``: the first that fails); more are a report's line:
    STAGE CONFIG [CASE [LANE [TAP]]]. seed: of the inputs, if it is not that of ``results``. Raises InputError."""
    if len(words) > 5:
        raise InputError(
            f"{len(words)} words given; expected a tap, or STAGE CONFIG CASE LANE TAP as the report has it"
        )
    if len(words) > 1:
        stage, config, case, lane, tap = (*words, *("", "", "base", "A", "")[len(words) :])
        name, _, call = tap.partition("#")
        return Place(stage, config, case, lane, name, int(call) if call.isdigit() else 0, seed or 0)
    found = _in_results(words[0] if words else "first", results)
    return found if seed is None else replace(found, seed=seed)


def _in_results(tap: str, path: Path) -> Place:
    try:
        document = read_results(path)
    except RunError as error:
        raise InputError(f"{error}; or name the place: STAGE CONFIG CASE LANE TAP") from None
    if other := document["origin"].get("subject") or document["origin"].get("reference"):
        raise InputError(f"{path}: a run of {other}; only the code of ltx2-mlx beside ltx-core is looked into")
    rows: list[dict[str, Any]] = [dict(row) for row in document["taps"]]
    named = rows if tap == "first" else [row for row in rows if _matches(row, tap)]
    failed = sorted((row for row in named if row["verdict"] != "pass"), key=lambda row: bool(row["lane"] == "C"))
    if not named or (tap == "first" and not failed):
        what = f"no tap '{tap}'" if tap != "first" else "nothing failed"
        raise InputError(f"{what} in {path}")
    return Place.of((failed or named)[0])


def _matches(row: dict[str, Any], tap: str) -> bool:
    """True if a row is at the tap, by name or glob, or inside it."""
    name, _, call = tap.partition("#")
    if call and str(row["call"]) != call:
        return False
    return fnmatchcase(row["name"], name) or row["name"].startswith((f"{name}.", f"{name}:"))
