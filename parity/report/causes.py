"""What does not pass, grouped by cause: one fault makes hundreds of rows, and is shown once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..run.environment import ROOT, code_digest
from .digest import Document, Record, needed

AROUND = 4  # lines of source before and after the ones that are named
_NUMBER = re.compile(r"\d+")
Run = tuple[str, str, str, str]  # stage, config, case, lane
Cases = dict[tuple[str, str, str], set[str]]  # by stage, config and name

# How a row belongs to the first of its group, in the order of the page.
SAME = "the same code, in other layers, cases, configs or precisions"
AROUND_IT = "modules that contain it"
RIGHT = "after it, and right where another case feeds them the reference's inputs"
AFTER = "free-running after it"


@dataclass
class Group:
    """Rows of one cause: the first divergence, and the others by how they belong to it."""

    first: Record
    others: dict[str, list[Record]] = field(default_factory=dict)

    @cached_property
    def rows(self) -> list[Record]:
        return [self.first, *(row for rows in self.others.values() for row in rows)]

    @cached_property
    def stages(self) -> list[str]:
        return list(dict.fromkeys(row["stage"] for row in self.rows))

    @property
    def worst(self) -> float:
        return max(map(needed, self.rows))

    @property
    def is_drift(self) -> bool:
        """True if nothing fails in isolation: errors add up on the way."""
        return bool(self.first["lane"] == "C")


def groups(document: Document) -> list[Group]:
    """The causes, in the order of computation; what fails only when it runs free comes last.

    An isolated tensor is fed the reference's inputs, so that an error upstream cannot reach it. It belongs to an
    earlier one if the same lines of ours make both, or if its module contains that one; and, since some cases record
    few taps, if it passes in another case. Whatever runs free belongs to the first cause of its stage and config.
    """
    failed = sorted((row for row in document["taps"] if row["verdict"] != "pass"), key=lambda row: row["lane"] == "C")
    known = _Known(_cases(document["taps"], passing=True), _cases(failed, passing=False))
    for row in failed:
        known.add(row)
    return known.groups


class _Known:
    """The groups so far, and what leads to each."""

    def __init__(self, right: Cases, wrong: Cases) -> None:
        self.right, self.wrong = right, wrong
        self.groups: list[Group] = []
        self.by_source: dict[str, Group] = {}
        self.by_tap: dict[str, Group] = {}
        self.by_cell: dict[tuple[str, str], Group] = {}
        self.by_stage: dict[str, Group] = {}
        self.inside: dict[Run, list[tuple[str, Group]]] = {}

    def add(self, row: Record) -> None:
        found, how = self._group_of(row)
        if found is None:
            found = Group(row)
            self.groups.append(found)
            if row["source"]:
                self.by_source.setdefault(row["source"], found)
        else:
            found.others.setdefault(how, []).append(row)
        if row["lane"] != "C":
            self.by_tap.setdefault(_pattern(row["name"]), found)
            self.by_cell.setdefault((row["stage"], row["config"]), found)
            self.by_stage.setdefault(row["stage"], found)
            self.inside.setdefault(_run(row), []).append((row["name"].partition(":")[0], found))

    def _group_of(self, row: Record) -> tuple[Group | None, str]:
        tap = row["name"].partition(":")[0]
        if row["lane"] == "C":
            by_cell = self.by_cell.get((row["stage"], row["config"])) or self.by_stage.get(row["stage"])
            return by_cell or self._like(row), AFTER
        if same := self._like(row):
            return same, SAME
        for name, group in self.inside.get(_run(row), []):
            if name.startswith(f"{tap}.") or _is_whole(tap, name) or _is_function(name):
                return group, AROUND_IT
        before = self.inside.get(_run(row))
        return (before[0][1], RIGHT) if before and self._passes_elsewhere(row) else (None, "")

    def _passes_elsewhere(self, row: Record) -> bool:
        """True if another case feeds the same tap the reference's inputs, and it passes there. An input that is passed
        on as it was is not listed: its tap is."""
        tap = row["name"].partition(":")[0]
        right, wrong = (
            cases.get((row["stage"], row["config"], name), set())
            for cases, name in ((self.right, tap), (self.wrong, row["name"]))
        )
        return bool(right - wrong)

    def _like(self, row: Record) -> Group | None:
        return self.by_source.get(row["source"]) or self.by_tap.get(_pattern(row["name"]))


def _cases(rows: list[Record], passing: bool) -> Cases:
    """The isolated cases in which a tap passes, or does not."""
    found: Cases = {}
    for row in rows:
        if row["lane"] != "C" and (row["verdict"] == "pass") == passing:
            found.setdefault((row["stage"], row["config"], row["name"]), set()).add(row["case"])
    return found


def _run(row: Record) -> Run:
    return row["stage"], row["config"], row["case"], row["lane"]


def _pattern(name: str) -> str:
    """The name of a tap without its numbers: the same in every layer."""
    return _NUMBER.sub("*", name)


def _is_whole(tap: str, inner: str) -> bool:
    """True for the tap of a whole component, which has its class's name."""
    return tap[:1].isupper() and inner != tap


def _is_function(name: str) -> bool:
    """True for the tap of a function that modules call: it has no path."""
    return "." not in name and name[:1].islower()


# ---- the lines ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    number: int
    text: str
    named: bool  # one of the lines that make the tensor


@dataclass(frozen=True)
class Excerpt:
    """Lines of our source, with those that were named; or why they are not shown."""

    file: str
    lines: tuple[Line, ...] = ()
    missing: str = ""


def excerpt(document: Document, file: str, first: int, last: int) -> Excerpt:
    """The lines ``first`` to ``last`` of ``ltx2_mlx/…`` and some around them, as they were judged."""
    path = (ROOT / file).resolve()
    if not path.is_relative_to(ROOT / "ltx2_mlx") or path.suffix != ".py" or not path.is_file():
        return Excerpt(file, missing="This source is not here.")
    if document["code"] != code_digest():
        return Excerpt(file, missing="The source has changed since the run: its lines may have moved.")
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    start, end = max(1, first - AROUND), min(len(lines), last + AROUND)
    shown = (Line(n, lines[n - 1], first <= n <= last) for n in range(start, end + 1))
    return Excerpt(file, tuple(shown))


def excerpt_of(document: Document, row: Record) -> Excerpt | None:
    """The narrowest lines that are known to make a row's tensor, or else the head of what its tap wraps."""
    explained = document.get("explanation") or {}
    first = document["summary"]["first_divergence"]
    key = ("stage", "config", "case", "lane", "name", "call")
    if first and all(row[k] == first[k] for k in key) and (narrowest := explained.get("narrowest")):
        return excerpt(document, narrowest["file"], narrowest["first"], narrowest["last"])
    file, _, line = (row.get("source") or "").partition(":")
    return excerpt(document, file, int(line), int(line)) if line.isdecimal() and len(line) < 10 else None
