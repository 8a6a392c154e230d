"""The case of a format: how it is made, what reads it, and what is worse than a refusal."""

from __future__ import annotations

import contextlib
import functools
import io
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2_mlx.errors import LTX2Error


class WrongError(Exception):
    """Worse than a refusal: a wrong success, a page with what must not be in it, a refusal of many lines."""


@dataclass(frozen=True)
class Format:
    """share: of all cases. make: a changed one, at a path below a folder. read: what the product does with it: it
    returns, or raises LTX2Error in one line that names the file, or WrongError where an outcome is worse than that."""

    share: int
    make: Callable[[Path, random.Random], Path | list[str]]
    read: Callable[[Any], None]


@functools.cache
def content(path: Path) -> bytes:
    """A file's bytes, read once."""
    return path.read_bytes()


def command(argv: list[str], program: str = "parity") -> int:
    """Run a program in this process. Raises WrongError where it refuses in more than a line, or than one a problem."""
    if program == "parity":
        from parity.cli import main
    else:
        from ltx2_mlx.cli.main import main
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(argv)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    said = out.getvalue() + err.getvalue()
    if any(c in said for c in "\x1b\x07\x9b") or any(line.startswith("::") for line in said.splitlines()):
        raise WrongError(f"{argv}: steers the terminal or a job: {said!r:.300}")
    lines = err.getvalue().strip().splitlines()
    planned = program != "parity" and "problem" in said
    if code == 2 and not planned and len(lines) != 1:
        raise WrongError(f"{argv}: refused in {len(lines)} lines: {lines[:3]}")
    if code not in (0, 1, 2, 3, 4):
        raise WrongError(f"{argv}: exit code {code}")
    _refusals[:] = [lines[-1] if lines else out.getvalue()[:200].replace("\n", " ")] if code == 2 else []
    return code


_refusals: list[str] = []  # of the last command


def refuse(code: int) -> None:
    """Raises LTX2Error with what the last command said, if its exit code is 2."""
    if code == 2:
        raise LTX2Error(_refusals[0])
