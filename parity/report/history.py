"""What the runs on this machine came to, a line each: ``reports/history.jsonl``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from ..judge.documents import Count, Size
from ..judge.files import RunError, decode, read_bytes
from ..judge.lines import printable
from ..judge.results import Results
from ..run.environment import ROOT

LATEST = Path("reports") / "latest"
HISTORY = Path("reports") / "history.jsonl"
_KNOWN = "not a line of the history"
_ELSEWHERE = ("machine", "device", "ltx2_mlx")  # of the environment: no versions
_LONGEST = 200  # runs that are shown


class Entry(TypedDict):
    """A line. commit: of the checkout, "" outside one; changed: it had changes. worst: the ratio of each lane."""

    time: str
    commit: str
    changed: bool
    code: str
    machine: str
    device: str
    versions: dict[str, str]
    origin: dict[str, str]
    cells: list[str]
    exit_code: Count
    tensors: Count
    pipelines: Count
    failed: Count
    worst: dict[str, Size | None]
    seconds: Size
    peak_gb: Size


def keep(results: Results, path: Path) -> None:
    """Add a line for a run whose results lie in ``reports/latest``; one that is written elsewhere has none."""
    if not _is_latest(path):
        return
    line = json.dumps(entry(results), ensure_ascii=False, allow_nan=False)
    try:
        with HISTORY.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(line + "\n")
    except OSError as error:
        raise RunError(f"{HISTORY}: cannot be written ({error.strerror})") from None


def entry(results: Results) -> Entry:
    summary, environment = results.summary(), results.environment
    commit, changed = _commit()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "changed": changed,
        "code": results.code,
        "machine": environment.get("machine", ""),
        "device": environment.get("device", ""),
        "versions": {name: found for name, found in environment.items() if name not in _ELSEWHERE},
        "origin": results.origin,
        "cells": sorted({f"{row.stage} {row.config}" for row in results.rows}),
        "exit_code": summary["exit_code"],
        "tensors": summary["taps"],
        "pipelines": summary["pipelines"],
        "failed": len(results.failures()),
        "worst": {lane: worst["needed_k"] for lane, worst in summary["worst"].items()},
        "seconds": summary["seconds"],
        "peak_gb": summary["peak_gb"],
    }


def read(results: Path) -> list[dict[str, Any]]:
    """The last runs before and with these results, the oldest first. A line that cannot be read is named on stderr."""
    if not _is_latest(results) or not HISTORY.exists():
        return []
    found: list[dict[str, Any]] = []
    for number, line in enumerate(read_bytes(HISTORY).splitlines(), 1):
        try:
            found.append(dict(decode(HISTORY, line, Entry, _KNOWN)))
        except RunError as error:
            print(f"ltx2-parity: line {number} of {printable(error)}; the report does without", file=sys.stderr)
    return found[-_LONGEST:]


def _is_latest(path: Path) -> bool:
    return path.resolve().is_relative_to(LATEST.resolve())


def _commit() -> tuple[str, bool]:
    """The commit of the checkout that was judged, and whether it had changes; "" outside a checkout."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "", False
