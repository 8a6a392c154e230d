"""``parity diff`` compares two runs tap by tap; ``parity accept`` keeps one as the baseline that later runs are
compared with.

A tap is compared by the worst of its ratios (``needed_k``) and verdicts over cases and calls. An input is listed in a
run only where it differs from what an earlier tap passed on, so one that is not listed has the ratio 0.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from ltx2_mlx.errors import LTX2Error

from .results import SCHEMA, VERDICTS

BASELINE = Path("reports") / "baseline.json"
BASELINE_SCHEMA = "ltx2-parity-baseline/1"
FACTOR = 2.0  # a ratio has moved when it did so by this factor,
FLOOR = 1.0  # and the larger one is above this: below, ours is as near to the truth as torch, and moves by chance
Key = tuple[str, str, str, str]  # stage, config, lane, tap


@dataclass(frozen=True)
class Tap:
    """The worst of a tap: its verdict, and the ratio that would have passed."""

    verdict: str
    ratio: float

    def worst(self, other: Tap) -> Tap:
        verdict = min(self.verdict, other.verdict, key=VERDICTS.index)
        return Tap(verdict, max(self.ratio, other.ratio))


class RunError(LTX2Error):
    """A file is neither a results.json nor a baseline."""


def read_run(path: Path) -> dict[Key, Tap]:
    """Tap by tap, of a results.json or a baseline. Raises RunError."""
    try:
        document = json.loads(path.read_text())
        schema = document["schema"]
        taps = _of_rows(document["taps"]) if schema == SCHEMA else _of_baseline(document)
    except OSError as error:
        hint = ". Store one with: parity accept" if path == BASELINE else ""
        raise RunError(f"{path}: cannot be read ({error.strerror}){hint}") from None
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{path}: neither a results.json ({SCHEMA}) nor a baseline ({BASELINE_SCHEMA})") from None
    return taps


def _of_rows(rows: list[dict[str, Any]]) -> dict[Key, Tap]:
    taps: dict[Key, Tap] = {}
    for row in rows:
        key = (row["stage"], row["config"], row["lane"], row["name"])
        tap = Tap(row["verdict"], inf if row["needed_k"] is None else row["needed_k"])
        taps[key] = tap.worst(taps[key]) if key in taps else tap
    return taps


def _of_baseline(document: dict[str, Any]) -> dict[Key, Tap]:
    if document["schema"] != BASELINE_SCHEMA:
        raise KeyError(document["schema"])
    return {
        (stage, config, lane, tap): Tap("pass", ratio)
        for stage, configs in document["taps"].items()
        for config, lanes in configs.items()
        for lane, taps in lanes.items()
        for tap, ratio in taps.items()
    }


def write_baseline(path: Path, taps: dict[Key, Tap], environment: dict[str, str]) -> None:
    """Worst ratios to three digits, one line a cell. Raises RunError where a tap has not passed."""
    if failed := [key for key, tap in taps.items() if tap.verdict != "pass"]:
        raise RunError(f"not accepted: {len(failed)} taps have not passed, the first is {' '.join(failed[0])}")
    nested: dict[str, Any] = {}
    for (stage, config, lane, name), tap in sorted(taps.items()):
        lanes = nested.setdefault(stage, {}).setdefault(config, {})
        lanes.setdefault(lane, {})[name] = float(f"{tap.ratio:.3g}")
    cells = ",\n".join(f"  {json.dumps(stage)}: {_lines(configs)}" for stage, configs in nested.items())
    head = json.dumps({"schema": BASELINE_SCHEMA, "environment": environment}, indent=1)[:-2]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{head},\n "taps": {{\n{cells}\n}}}}\n')


def _lines(configs: dict[str, Any]) -> str:
    rows = (f"   {json.dumps(name)}: {json.dumps(lanes, separators=(',', ':'))}" for name, lanes in configs.items())
    return "{\n" + ",\n".join(rows) + "}"


@dataclass
class Difference:
    """Taps by what happened to them; ``skipped``: cells (stage, config, lane) of A that B does not have."""

    failed: list[Key] = field(default_factory=list)  # pass before, or not there, and no pass now
    gone: list[Key] = field(default_factory=list)
    worse: list[Key] = field(default_factory=list)
    better: list[Key] = field(default_factory=list)
    mended: list[Key] = field(default_factory=list)
    new: list[Key] = field(default_factory=list)
    skipped: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def regressions(self) -> list[Key]:
        return self.failed + self.gone + self.worse


def compare(a: dict[Key, Tap], b: dict[Key, Tap], factor: float = FACTOR, floor: float = FLOOR) -> Difference:
    """The outcome of A's taps in B, each list with the largest ratio first."""
    earlier: set[tuple[str, ...]] = {key[:3] for key in a}
    cells = {key[:3] for key in b}
    found = Difference(skipped=sorted(earlier - cells))
    for key in sorted(a.keys() | b.keys()):
        if key[:3] in cells and (kind := _kind(key, a, b, earlier, factor, floor)):
            getattr(found, kind).append(key)
    for kind in ("failed", "worse", "better"):
        getattr(found, kind).sort(key=lambda key: -max(run[key].ratio for run in (a, b) if key in run))
    return found


def _kind(
    key: Key, a: dict[Key, Tap], b: dict[Key, Tap], cells: set[tuple[str, ...]], factor: float, floor: float
) -> str | None:
    """The outcome of a tap; ``cells`` are those that A has."""
    unchanged = Tap("pass", 0.0) if ":" in key[3] else None  # an input that is not listed was passed on as it was
    before, now = a.get(key, unchanged if key[:3] in cells else None), b.get(key, unchanged)
    if now is None:
        return "gone"
    if before is None:
        return "failed" if now.verdict != "pass" else "new"
    if now.verdict != "pass":
        failed = VERDICTS.index(now.verdict) < VERDICTS.index(before.verdict)
        return "failed" if failed else "worse" if now.ratio > factor * before.ratio else None
    if before.verdict != "pass":
        return "mended"
    if max(before.ratio, now.ratio) <= floor:
        return None
    if now.ratio > factor * before.ratio:
        return "worse"
    return "better" if before.ratio > factor * now.ratio else None


def sentence(found: Difference, a: dict[Key, Tap], b: dict[Key, Tap]) -> str:
    counts = [f"{len(getattr(found, kind))} {kind}" for kind in KINDS if getattr(found, kind)]
    same = len(b) - sum(len(getattr(found, kind)) for kind in KINDS if kind != "gone")
    counted = ", ".join([*counts, f"{same:,} as before"])
    without = f"; {len(found.skipped)} cells of the first run are not in the second" if found.skipped else ""
    if not found.regressions:
        return f"No regression: {counted}{without}."
    first = found.regressions[0]
    return f"Regression at {' '.join(first)} ({change(first, a, b)}): {counted}{without}."


KINDS = ("failed", "gone", "worse", "better", "mended", "new")


def change(key: Key, a: dict[Key, Tap], b: dict[Key, Tap]) -> str:
    return " → ".join(_text(run.get(key)) for run in (a, b))


def _text(tap: Tap | None) -> str:
    if tap is None:
        return "not listed"
    return f"{tap.ratio:.2f}" if tap.verdict == "pass" else f"{tap.verdict} {tap.ratio:.3g}"
