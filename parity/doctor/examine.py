"""Asks the lines one after the other, each in a process of its own: what one of them breaks, ends or leaves in memory
touches no other, and a line that takes too long is stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from itertools import groupby
from math import isfinite
from pathlib import Path
from typing import Any

import parity

from ..judge.results import EXIT_DIVERGED, EXIT_INCOMPLETE, EXIT_OK
from . import attention, convolutions, functions, large, products
from .line import Check, Line, Setting

LINES: tuple[Line, ...] = (
    *products.LINES,
    *convolutions.LINES,
    *attention.LINES,
    *functions.LINES,
    *large.LINES,
)
BUDGET = 180.0  # seconds for all lines
PATIENCE = 60.0  # … and for one
MEMORY = 6.0  # GB


@dataclass(frozen=True)
class Finding:
    """What came of a line. verdict: pass, diverged, or not run, and then why. excused: no such device can run it."""

    name: str
    verdict: str
    checks: tuple[Check, ...] = ()
    seconds: float = 0.0
    gigabytes: float = 0.0
    why: str = ""
    excused: bool = False

    @property
    def worst(self) -> Check | None:
        """The check that is furthest off, as a part of its limit."""
        return max(self.checks, key=lambda c: (not c.sound, c.ratio / (c.limit or 1.0)), default=None)


@dataclass(frozen=True)
class Examination:
    """All findings, the machine, and what slows it down."""

    findings: tuple[Finding, ...]
    environment: dict[str, str]
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    lines: tuple[Line, ...] = field(default=LINES, repr=False)

    @property
    def exit_code(self) -> int:
        """As of parity run: 1 where a primitive is wrong, 3 where one was not asked that could have been."""
        if any(finding.verdict == "diverged" for finding in self.findings):
            return EXIT_DIVERGED
        lacking = any(finding.verdict == "not run" and not finding.excused for finding in self.findings)
        return EXIT_INCOMPLETE if lacking or not self.findings else EXIT_OK

    def line(self, finding: Finding) -> Line:
        return next(line for line in self.lines if line.name == finding.name)


def chosen(pattern: str) -> list[Line]:
    return [line for line in LINES if fnmatchcase(line.name, pattern)]


def ask(line: Line, setting: Setting) -> Finding:
    """Ask a line in this process."""
    start = time.monotonic()
    try:
        checks = tuple(line.checks(setting))
    except (RuntimeError, ValueError, MemoryError, TypeError, NotImplementedError) as error:  # MLX refuses, or fails
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        checks = (Check(f"{type(error).__name__}: {first[:200]}", float("inf"), 0.0, "it fails"),)
    verdict = "pass" if checks and all(check.sound for check in checks) else "diverged"
    return Finding(line.name, verdict, checks, time.monotonic() - start)


def examine(
    lines: Sequence[Line],
    setting: Setting,
    gigaflops_a_second: float,
    free_gigabytes: float,
    progress: Callable[[Finding], None],
) -> tuple[Finding, ...]:
    """The findings of these lines, from processes of their own. gigaflops_a_second: of a float32 matrix product."""
    start, found = time.monotonic(), []
    for _, group in groupby(lines, key=lambda line: line.together or line.name):
        left = BUDGET - (time.monotonic() - start)
        asked = []
        for line in group:
            why, excused = _obstacle(line, setting, gigaflops_a_second, free_gigabytes, left)
            if why:
                found.append(Finding(line.name, "not run", why=why, excused=excused))
                progress(found[-1])
            else:
                asked.append(line)
        if asked:
            for finding in _in_a_process(asked, setting, min(PATIENCE * len(asked), left)):
                found.append(finding)
                progress(finding)
    return tuple(found)


def _obstacle(
    line: Line, setting: Setting, gigaflops_a_second: float, free_gigabytes: float, left: float
) -> tuple[str, bool]:
    """Why a line is not asked, "" where it is; and whether that lies in the kind of device."""
    if left < 1:
        return f"the {BUDGET:.0f} s for all lines are over", False
    on_cpu = setting.device == "cpu"
    needed = 0.1 if setting.small else line.gigabytes[0 if on_cpu else 1]
    if on_cpu and line.elsewhere and not setting.small:
        return line.elsewhere, True
    if needed > free_gigabytes:
        return f"it takes {needed:g} GB, and {free_gigabytes:.1f} GB are free: close other programs", False
    seconds = line.gigaflops / gigaflops_a_second if on_cpu and not setting.small else 0.0
    if seconds > min(PATIENCE, left):
        slow = f"{line.gigaflops:g} billion operations at {gigaflops_a_second:.1f} a second"
        return f"{slow} take {seconds:.0f} s, and {min(PATIENCE, left):.0f} s are left for it", False
    return "", False


def _in_a_process(lines: Sequence[Line], setting: Setting, patience: float) -> Iterator[Finding]:
    """The findings of lines that share a process, and what became of those that have none."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_root()), environment.get("PYTHONPATH"))))
    environment.pop("MLX_ENABLE_TF32")
    if parity.TF32_ASKED is not None:
        environment["MLX_ENABLE_TF32"] = parity.TF32_ASKED
    names = [line.name for line in lines]
    words = [sys.executable, "-m", "parity.doctor.process", json.dumps(asdict(setting)), *names]
    try:
        done = subprocess.run(words, capture_output=True, timeout=patience, env=environment, check=False)
        output, errors, code = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as late:
        output, errors, code = late.stdout or b"", b"", None
    finished = [found for line in output.splitlines() if (found := _read(line))]
    yield from finished
    lost = names[len(finished) :]
    for name in lost:
        if code is None:
            yield Finding(name, "not run", seconds=patience, why=f"stopped after {patience:.0f} s: too slow here")
        elif name == lost[0]:
            last = (errors.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            why = f"its process ended with {code}: {last[:200]}"
            yield Finding(name, "diverged", (Check(why, float("inf"), 0.0, "it fails"),))
        else:
            yield Finding(name, "not run", why=f"the process ended in {lost[0]}: try --only {name}")


def _read(line: bytes) -> Finding | None:
    """A finding that a process printed; None for what else is printed there."""
    try:
        return read_finding(json.loads(line))
    except (ValueError, TypeError, KeyError):
        return None


def _root() -> Path:
    return Path(__file__).resolve().parents[2]


# ---- as a document ---------------------------------------------------------------------------------------------------


def document_of(finding: Finding) -> dict[str, Any]:
    """For JSON, which has no infinity: null there is one."""
    found = asdict(finding)
    for check in found["checks"]:
        check["ratio"] = check["ratio"] if isfinite(check["ratio"]) else None
    return found


def read_finding(document: dict[str, Any]) -> Finding:
    checks = tuple(Check(**check | {"ratio": _number(check["ratio"])}) for check in document["checks"])
    return Finding(**document | {"checks": checks})


def _number(value: float | None) -> float:
    return float("inf") if value is None else float(value)
