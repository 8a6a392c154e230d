"""The statements of ours that made a value: those that ran in one tap's own code and that the value depends on."""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import Any


def shortened(text: str) -> str:
    """The beginning of a long statement."""
    return text if len(text) <= 100 else f"{text[:99]}…"


Tracer = Callable[[FrameType, str, Any], Any]  # of sys.settrace


@dataclass(frozen=True, order=True)
class Statement:
    """Source lines ``first`` to ``last`` of a file."""

    file: str
    first: int
    last: int
    text: str

    def covers(self, file: str, line: int) -> bool:
        return self.file.endswith(file) and self.first <= line <= self.last

    @property
    def lines(self) -> str:
        """``ltx2_mlx/file.py:first–last``, wherever the package is."""
        before, package, after = self.file.rpartition("ltx2_mlx/")
        last = f"–{self.last}" if self.last > self.first else ""
        return f"{package}{after or before}:{self.first}{last}"


@dataclass(eq=False)
class Frame:
    """One run of a function: the lines that ran, in order; by index into them, what they called and how many inner
    taps: what those pass on is the reference's, so what went into them does not matter."""

    file: str
    name: str
    parameters: tuple[str, ...]
    parent: Frame | None
    lines: list[int] = field(default_factory=list)
    called: dict[int, list[Frame]] = field(default_factory=dict)
    tapped: Counter[int] = field(default_factory=Counter)

    def calling_line(self, other: Frame) -> int:
        """The line of this frame that called ``other``."""
        return next(self.lines[index] for index, frames in self.called.items() if other in frames)

    def within(self, other: Frame) -> bool:
        """True if ``other`` is this frame, or called it."""
        return self is other or (self.parent is not None and self.parent.within(other))


Kept = dict[Statement, Frame]  # each statement that is to be shown → the frame that ran it


@dataclass(frozen=True)
class Slice:
    """The statements that made a value. narrowest: from the one that first uses a given name to the last of its
    function; statements: those of that function and of what it called; all, where no statement uses a given name."""

    statements: tuple[Statement, ...] = ()
    narrowest: Statement | None = None


class Recorder:
    """Follows the code below ``folder`` that runs while ``active()``; ``stop`` ends it."""

    def __init__(self, folder: Path):
        self.folder = f"{folder}/"
        self.active: Callable[[], bool] = lambda: True
        self.top: list[Frame] = []  # frames that nothing followed called
        self.last: list[Frame] = []  # the frames that were running at the stop, innermost first
        self._frames: dict[FrameType, Frame] = {}
        self._stopped = False
        self._argument: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    @contextmanager
    def following(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(before)

    def _running(self) -> list[Frame]:
        """The followed frames that run now, innermost first."""
        frame: FrameType | None = sys._getframe()
        found = []
        while frame:
            if frame in self._frames:
                found.append(self._frames[frame])
            frame = frame.f_back
        return found

    def inner(self) -> None:
        """An inner tap is called here."""
        for frame in self._running()[:1]:
            frame.tapped[len(frame.lines) - 1] += 1

    def stop(self, parameters: tuple[str, ...], argument: str) -> None:
        """A tap with these parameters is called: what its argument is made of is asked for."""
        if not self._stopped:
            self._stopped, self.last = True, self._running()
            self._argument = (parameters, (argument,))

    def _call(self, frame: FrameType, event: str, arg: Any) -> Tracer | None:
        if self._stopped or not frame.f_code.co_filename.startswith(self.folder) or not self.active():
            return None
        caller = frame.f_back
        while caller and caller not in self._frames:
            caller = caller.f_back
        parent = self._frames.get(caller) if caller else None
        code = frame.f_code
        parameters = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        known = self._frames[frame] = Frame(code.co_filename, code.co_name, parameters, parent)
        if parent:
            parent.called.setdefault(len(parent.lines) - 1, []).append(known)
        else:
            self.top.append(known)
        return self._line

    def _line(self, frame: FrameType, event: str, arg: Any) -> Tracer:
        if event == "line" and not self._stopped:
            self._frames[frame].lines.append(frame.f_lineno)
        return self._line

    def statements(self, names: Iterable[str] = ()) -> Slice:
        """Statements that the value at the stop depends on: in the frames that ran then, or in the last that returned.

        names: of operands, the most suspect first; the first that a statement uses narrows the slice.
        """
        kept = self._kept()
        for name in names:
            if using := [s for s in sorted(kept) if re.search(rf"\b{re.escape(name)}\b", s.text)]:
                outermost = next(s for s in using if not any(_above(kept, other, s) for other in using))
                return _narrowed(kept, *self._returned_to(kept, outermost))
        if not kept:
            return Slice()
        innermost = next((frame for frame in self.last if frame in kept.values()), None)
        return replace(_narrowed(kept, innermost or next(iter(kept.values()))), statements=tuple(sorted(kept)))

    def _returned_to(self, kept: Kept, statement: Statement) -> tuple[Frame, int]:
        """The function that was still running when the value was there, and the line from which it had what the
        statement made: what a function returns may be used wrongly by its caller."""
        frame, first = kept[statement], statement.first
        running = self.last or self.top[-1:]
        while frame not in running and frame.parent in kept.values() and frame.parent is not None:
            line = frame.parent.calling_line(frame)
            frame = frame.parent
            first = min((s.first for s in kept if kept[s] is frame and s.first <= line <= s.last), default=line)
        return frame, first

    def _kept(self) -> Kept:
        kept: Kept = {}
        if not self.last:
            for frame in self.top[-1:]:
                _slice(frame, kept, None)
            return kept
        (parameters, wanted), name = self._argument, ""
        for frame in self.last:
            needed = _slice(frame, kept, partial(_arguments, function=name, parameters=parameters, wanted=wanted))
            parameters, name = frame.parameters, frame.name
            wanted = tuple(p for p in parameters if p in needed)
            if not wanted:
                break
        return kept


def _above(kept: Kept, other: Statement, statement: Statement) -> bool:
    """True if another statement's function called this one's."""
    return kept[other] is not kept[statement] and kept[statement].within(kept[other])


def _narrowed(kept: Kept, frame: Frame, first: int = 0) -> Slice:
    ran = [s for s in sorted(kept) if kept[s] is frame]
    own = [s for s in ran if s.first >= first] or ran
    narrowest = Statement(frame.file, own[0].first, max(s.last for s in own), own[0].text)
    return Slice(tuple(s for s in sorted(kept) if kept[s].within(frame)), narrowest)


# ---- source -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Node:
    """A statement, or the head of a compound one: its lines, what it stores and what it reads."""

    statement: Statement
    node: ast.stmt
    stores: frozenset[str]
    loads: frozenset[str]
    end: int  # of the whole, body included


@cache
def _nodes(file: str) -> dict[int, _Node]:
    """Line → the innermost statement that it belongs to."""
    source = Path(file).read_text()
    rows = source.splitlines()
    found: dict[int, _Node] = {}
    for node in sorted((n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.stmt)), key=lambda n: n.lineno):
        body = getattr(node, "body", None)
        end = node.end_lineno or node.lineno
        last = max(node.lineno, body[0].lineno - 1) if body else end
        text = " ".join(row.strip() for row in rows[node.lineno - 1 : last])
        stores, loads = _names(node)
        statement = Statement(file, node.lineno, last, text)
        entry = _Node(statement, node, frozenset(stores), frozenset(loads), end)
        found |= dict.fromkeys(range(node.lineno, last + 1), entry)
    return found


def _names(node: ast.stmt) -> tuple[set[str], set[str]]:
    """Names that a statement (of a compound one: its head) stores and reads."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}, set()
    heads = [getattr(node, name) for name in ("test", "iter", "target", "items", "value", "targets", "exc")
             if hasattr(node, name)]  # fmt: skip
    parts = heads if hasattr(node, "body") else [node]
    flat = [part for head in parts if head is not None for part in (head if isinstance(head, list) else [head])]
    stores: set[str] = set()
    loads: set[str] = set()
    for inner in (inner for part in flat for inner in ast.walk(part)):
        if isinstance(inner, ast.Name):
            (stores if isinstance(inner.ctx, ast.Store) else loads).add(inner.id)
        elif isinstance(inner, (ast.Attribute, ast.Subscript)) and isinstance(inner.ctx, ast.Store):
            stores |= {n.id for n in ast.walk(inner.value) if isinstance(n, ast.Name)} - {"self"}
    call = node.value if isinstance(node, ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):  # x.append(…) changes x
        stores |= {n.id for n in ast.walk(call.func.value) if isinstance(n, ast.Name)} - {"self"}
    return stores, loads


def _arguments(node: _Node, function: str, parameters: tuple[str, ...], wanted: tuple[str, ...]) -> set[str]:
    """The names that the wanted arguments of a call read; those that all of it reads where that cannot be told."""
    calls = [call for call in ast.walk(node.node) if isinstance(call, ast.Call)]
    named = [call for call in calls if function and _last_name(call.func) == function]
    own = [p for p in parameters if p != "self"]
    found: list[ast.expr] = []
    fits = {call: sum(k.arg in own for k in call.keywords) for call in named or calls}
    for call in (call for call, names in fits.items() if names == max(fits.values())):
        keywords = {k.arg: k.value for k in call.keywords}
        starred = any(isinstance(a, ast.Starred) for a in call.args) or None in keywords
        for name in wanted:
            if name in keywords:
                found.append(keywords[name])
            elif starred:
                return set(node.loads)
            elif name in own and own.index(name) < len(call.args):
                found.append(call.args[own.index(name)])
    if not found:
        return set(node.loads)
    return {n.id for value in found for n in ast.walk(value) if isinstance(n, ast.Name)}


def _last_name(function: ast.expr) -> str:
    return getattr(function, "attr", getattr(function, "id", ""))


def _only_taps(node: _Node, tapped: int) -> bool:
    """True if inner taps, which the statement called ``tapped`` times, passed on all that it stores."""
    value = getattr(node.node, "value", None)
    values = value.elts if isinstance(value, ast.Tuple) else [value]
    return 0 < len(values) <= tapped and all(isinstance(v, ast.Call) for v in values)


def _runs(frame: Frame) -> Iterator[tuple[_Node, list[Frame], int]]:
    """Backwards: each statement that ran, what it called, and how many inner taps."""
    nodes, index = _nodes(frame.file), len(frame.lines) - 1
    while index >= 0:
        node, called, tapped = nodes.get(frame.lines[index]), [], 0
        while index >= 0 and nodes.get(frame.lines[index]) is node:
            called += frame.called.get(index, [])
            tapped += frame.tapped[index]
            index -= 1
        if node is not None:
            yield node, called, tapped


def _slice(frame: Frame, kept: Kept, first: Callable[[_Node], set[str]] | None) -> set[str]:
    """Keep, backwards from the last line of a frame, what made the values that it reads, and what that called.

    first: which names the last statement needs, all that it reads without. Returns the names needed from outside.
    """
    needed: set[str] | None = None
    own: list[_Node] = []
    for node, called, tapped in _runs(frame):
        if needed is None:
            needed = set(node.loads) if first is None else first(node)
            if first is not None:
                called = []
        elif node not in own:
            encloses = node.end > node.statement.last and any(
                node.statement.first < other.statement.first <= node.end for other in own
            )
            if not node.stores & needed and not encloses:
                continue
            targets = node.node.targets if isinstance(node.node, ast.Assign) else []
            if targets and all(isinstance(t, (ast.Name, ast.Tuple)) for t in targets):
                needed -= node.stores
            if not called and _only_taps(node, tapped):
                called = []
            else:
                needed |= node.loads
        own.append(node)
        kept.setdefault(node.statement, frame)
        for helper in called:
            _slice(helper, kept, None)
    return needed or set()
