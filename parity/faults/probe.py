"""Whether a planted fault was ever reached: the statements that it changed note that they run.

The source on disk stays as a reader of it expects. What is imported is the compiled file beside it, into which the
notes are put.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import marshal
import struct
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

REACHED = "__fault_reached__"
UNCHECKED = 0b01  # a compiled file that is taken as it is, without a look at its source (PEP 552)


class NothingChangedError(ValueError):
    """The two texts are the same program."""


def put(file: Path, before: str) -> None:
    """Compile ``file`` with a note at every statement that is not as in the text ``before``.

    Raises SyntaxError, or NothingChangedError.
    """
    after = file.read_text()
    tree = ast.parse(after, str(file))
    if _same(_statements(before, _parsed(before)), _statements(after, tree)):
        raise NothingChangedError("it changes no statement")
    _note(tree, changed_lines(before, after))
    code = compile(tree, str(file), "exec")
    compiled = Path(importlib.util.cache_from_source(str(file)))
    compiled.parent.mkdir(parents=True, exist_ok=True)
    compiled.write_bytes(importlib.util.MAGIC_NUMBER + struct.pack("<I8x", UNCHECKED) + marshal.dumps(code))


@functools.lru_cache(8)
def _parsed(text: str) -> ast.Module:
    """The tree of a text as it was, which nobody changes: the faults of a file come one after the other."""
    return ast.parse(text)


def _statements(text: str, tree: ast.Module) -> list[tuple[list[str], ast.stmt]]:
    """The statements of a module, each with its lines."""
    lines = text.split("\n")
    return [(lines[_first(statement) - 1 : statement.end_lineno], statement) for statement in tree.body]


def _same(old: list[tuple[list[str], ast.stmt]], new: list[tuple[list[str], ast.stmt]]) -> bool:
    """True for statements that are the same program. Of those whose text is the same this is known without a look."""
    return len(old) == len(new) and all(
        before == after or ast.dump(a) == ast.dump(b) for (before, a), (after, b) in zip(old, new, strict=True)
    )


def reached(module: ModuleType | None) -> bool:
    """True if a note was made in the module; a module that was not imported has none."""
    return bool(getattr(module, REACHED, False))


def changed_lines(before: str, after: str) -> range:
    """The lines of ``after`` (the first is 1) that are not as they were; where some are only gone, those around."""
    old, new = before.splitlines(), after.splitlines()
    most = min(len(old), len(new))
    head = next((i for i in range(most) if old[i] != new[i]), most)
    tail = next((i for i in range(most - head) if old[-1 - i] != new[-1 - i]), most - head)
    first, last = head + 1, len(new) - tail
    return range(first, last + 1) if first <= last else range(max(head, 1), head + 2)


def _note(tree: ast.AST, lines: range) -> bool:
    """Put a note before each innermost statement on these lines; into a function whose head they touch. True if any
    was put."""
    noted = False
    for statements in _blocks(tree):
        for statement in list(statements):
            first = _first(statement)
            if not _meet(lines, first, statement.end_lineno or first):
                continue
            head = min([block[0].lineno - 1 for block in _blocks(statement)], default=statement.end_lineno or first)
            if not _note(statement, lines) or _meet(lines, first, max(first, head)):
                if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    statement.body.insert(_start(statement.body), _made(statement))
                else:
                    statements.insert(max(statements.index(statement), _start(statements)), _made(statement))
            noted = True
    return noted


def _first(statement: ast.stmt) -> int:
    """Its first line, where a decorator may stand."""
    decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The lists of statements directly inside a node."""
    for name in ("body", "orelse", "finalbody"):
        if isinstance(block := getattr(node, name, None), list) and block:
            yield block
    for name in ("handlers", "cases"):
        for part in getattr(node, name, []):
            yield part.body


def _start(block: list[ast.stmt]) -> int:
    """Where a note may stand at first: after a docstring and imports from the future."""
    texts = (s for s in block if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant)))
    first = next((s for s in texts if not (isinstance(s, ast.ImportFrom) and s.module == "__future__")), None)
    return block.index(first) if first else len(block)


def _meet(lines: range, first: int, last: int) -> bool:
    return first < lines.stop and lines.start <= last


def _made(beside: ast.stmt) -> ast.stmt:
    (note,) = ast.parse(f"globals()[{REACHED!r}] = True").body
    for node in ast.walk(note):
        ast.copy_location(node, beside)
    return note
