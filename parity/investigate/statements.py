"""The statements of ours that made a value: those that ran in one tap's own code and that the value depends on."""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any


@dataclass(frozen=True, order=True)
class Statement:
    """Source lines ``first`` to ``last`` of a file."""

    file: str
    first: int
    last: int
    text: str

    def covers(self, file: str, line: int) -> bool:
        return self.file.endswith(file) and self.first <= line <= self.last


@dataclass
class Frame:
    """One run of a function: the lines that ran, in order; by index into them, what they called and how many inner
    taps: what those hand on is the reference's, so what went into them does not matter."""

    file: str
    name: str
    parameters: tuple[str, ...]
    parent: Frame | None
    lines: list[int] = field(default_factory=list)
    called: dict[int, list[Frame]] = field(default_factory=dict)
    tapped: Counter[int] = field(default_factory=Counter)


class Recorder:
    """Follows the code below ``folder`` that runs while ``active()``; ``stop`` ends it."""

    def __init__(self, folder: Path, active: Callable[[], bool]):
        self.folder, self.active = f"{folder}/", active
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
        frame, found = sys._getframe(), []
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

    def _call(self, frame: FrameType, event: str, arg: Any) -> Callable | None:
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

    def _line(self, frame: FrameType, event: str, arg: Any) -> Callable:
        if event == "line" and not self._stopped:
            self._frames[frame].lines.append(frame.f_lineno)
        return self._line

    def statements(self) -> list[Statement]:
        """What the value at the stop depends on: in the frames that ran then, or in the last that returned."""
        kept: dict[Statement, None] = {}
        if not self.last:
            for frame in self.top[-1:]:
                _slice(frame, kept, None)
            return sorted(kept)
        (parameters, wanted), name = self._argument, None
        for frame in self.last:
            needed = _slice(frame, kept, lambda node, p=parameters, w=wanted, n=name: _arguments(node, n, p, w))
            parameters, name = frame.parameters, frame.name
            wanted = tuple(p for p in parameters if p in needed)
            if not wanted:
                break
        return sorted(kept)


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
        last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno
        text = " ".join(row.strip() for row in rows[node.lineno - 1 : last])
        stores, loads = _names(node)
        statement = Statement(file, node.lineno, last, text)
        entry = _Node(statement, node, frozenset(stores), frozenset(loads), node.end_lineno)
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
    stores, loads = set(), set()
    for inner in (inner for part in flat for inner in ast.walk(part)):
        if isinstance(inner, ast.Name):
            (stores if isinstance(inner.ctx, ast.Store) else loads).add(inner.id)
        elif isinstance(inner, (ast.Attribute, ast.Subscript)) and isinstance(inner.ctx, ast.Store):
            stores |= {n.id for n in ast.walk(inner.value) if isinstance(n, ast.Name)} - {"self"}
    method = (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute)
    )
    if method:  # x.append(…) changes x
        stores |= {n.id for n in ast.walk(node.value.func.value) if isinstance(n, ast.Name)} - {"self"}
    return stores, loads


def _arguments(node: _Node, function: str | None, parameters: tuple[str, ...], wanted: tuple[str, ...]) -> set[str]:
    """What the expressions for the wanted arguments of a call read; what all of it reads where that cannot be told."""
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
    """Whether all that the statement stores was handed on by inner taps, which it called ``tapped`` times."""
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


def _slice(frame: Frame, kept: dict[Statement, None], first: Callable[[_Node], set[str]] | None) -> set[str]:
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
        kept[node.statement] = None
        for helper in called:
            _slice(helper, kept, None)
    return needed or set()
