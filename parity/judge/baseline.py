"""``parity diff`` compares two runs tap by tap; ``parity accept`` keeps one as the baseline that later runs are
compared with.

A tap is compared by the worst of its ratios (``needed_k``) and verdicts over cases and calls. An input is listed in a
run only where it differs from what an earlier tap passed on, so one that is not listed has the ratio 0. An item of a
pipeline is a tap as well: its lane is the dtype, its ratio the error in units of a third of what is allowed, as in
lane A. What was not covered is compared by name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from pathlib import Path

from ..declare.stages import pipelines, stages
from . import tolerance
from .documents import (
    ACCEPT,
    AGAIN,
    BASELINE_SCHEMA,
    Document,
    PipelineRecord,
    TapRecord,
    read_baseline,
    schema_of,
)
from .files import RunError, write_whole
from .results import ALLOWED, EXIT_OK, ORIGIN, VERDICTS, read_results

BASELINE = Path("reports") / "baseline.json"
FACTOR = 2.0  # a ratio has moved when it did so by this factor,
FLOOR = 1.0  # and the larger one is above this: below, ours is as near to the truth as torch, and moves by chance
Cell = tuple[str, str, str]  # stage, config, lane
Key = tuple[str, str, str, str]  # of a tap: its cell and its name


@dataclass(frozen=True)
class Tap:
    """The worst of a tap: its verdict, and the ratio that would have passed."""

    verdict: str
    ratio: float

    def worst(self, other: Tap) -> Tap:
        verdict = min(self.verdict, other.verdict, key=VERDICTS.index)
        return Tap(verdict, max(self.ratio, other.ratio))


@dataclass(frozen=True)
class Run:
    """A run or a baseline, as far as another is compared with it.

    holes: what was not covered, by name. environments: where each cell ran.
    """

    taps: dict[Key, Tap]
    holes: frozenset[str] = frozenset()
    environments: dict[Cell, dict[str, str]] = field(default_factory=dict)

    @cached_property  # it is asked for each tap
    def cells(self) -> set[Cell]:
        return {key[:3] for key in self.taps}


def read_run(path: Path) -> Run:
    """Tap by tap, of a results.json or a baseline. Raises RunError, also for a file in which nothing was judged."""
    if schema_of(path, ACCEPT if path == BASELINE else AGAIN) == BASELINE_SCHEMA:
        stored = read_baseline(path)
        taps: dict[Key, Tap] = {}
        environments: dict[Cell, dict[str, str]] = {}
        for name, cell in stored["cells"].items():
            stage, config, lane = name.split(" ")
            environments[stage, config, lane] = stored["environments"][cell["environment"]]
            taps |= {(stage, config, lane, tap): Tap("pass", ratio) for tap, ratio in cell["taps"].items()}
        run = Run(taps, frozenset(), environments)
    else:
        run = _of_results(read_results(path))
    if not run.taps:
        raise RunError(f"{path}: nothing was judged in it")
    return run


def _of_results(document: Document) -> Run:
    taps: dict[Key, Tap] = {}
    for row in document["taps"]:
        key = (row["stage"], row["config"], row["lane"], row["name"])
        tap = Tap(row["verdict"], inf if row["needed_k"] is None else row["needed_k"])
        taps[key] = tap.worst(taps[key]) if key in taps else tap
    for run in document["pipelines"]:
        taps |= _of_pipeline(run)
    environments = {key[:3]: document["environment"] for key in taps}
    return Run(taps, frozenset(holes(document)), environments)


def _of_pipeline(run: PipelineRecord) -> dict[Key, Tap]:
    cell = (run["pipeline"], run["config"], run["dtype"])
    taps = {
        (*cell, name): Tap(verdict, 0.0 if _is_argument(name) and verdict == "pass" else _share(error, limit))
        for name, error, limit, verdict in run["details"]
    }
    return taps | {(*cell, "run"): Tap(run["verdict"], 0.0)}


def _is_argument(item: str) -> bool:
    """True for what says that an argument moves something: its verdict says it all, and there is no number."""
    return item.startswith("argument.")


def _share(error: float | None, limit: float | None) -> float:
    """An item's error as a ratio of which ``tolerance.K`` is allowed."""
    if error == 0.0:
        return 0.0
    return tolerance.K * error / limit if error is not None and limit else inf


def holes(document: Document) -> list[str]:
    """Everything that should have been covered and was not, by name."""
    summary, found = document["summary"], []
    for c in summary["coverage"]:
        found += [f"{c['stage']} {c['config']}: {name} is not compared" for name in c["uncovered"]]
        for parts, seen in (("leaves", c["leaves_compared"]), ("parameters", c["parameters_moving"])):
            whole: int = c[parts]  # type: ignore[literal-required]
            if seen != whole or (parts == "leaves" and not whole):
                found.append(f"{c['stage']} {c['config']}: {parts} not covered")
    covered = {(c["stage"], c["config"]) for c in summary["coverage"]}
    with_parts = {name for name, stage in stages().items() if stage.component}
    isolated = {(row["stage"], row["config"]) for row in document["taps"] if row["lane"] == "A"}
    found += [f"{s} {c}: no coverage" for s, c in sorted(isolated - covered) if s in with_parts]
    return found + [f"{tap}: no case reaches it" for tap in summary["unseen"]] + summary["silent"]


# ---- accepting -------------------------------------------------------------------------------------------------------


def acceptable(path: Path, code: str) -> Run:
    """A results.json that may become a baseline. Raises RunError, saying why it may not.

    code: the digest of the code as it is now.
    """
    document = read_results(path)
    for reason in _against(document, code):
        raise RunError(f"{path}: not accepted: {reason}")
    return _of_results(document)


_USUAL = {"reference": "ltx-core", "subject": "ltx2-mlx"}


def _against(document: Document, code: str) -> list[str]:
    """Reasons not to accept a run."""
    exit_code, taps, ran = document["summary"]["exit_code"], document["taps"], document["pipelines"]
    found = [] if exit_code == EXIT_OK else [f"its exit code is {exit_code}, not 0"]
    found += [] if taps or ran else ["nothing was judged in it"]
    if document["code"] != code:
        found.append("it was made by other code than this. Run again: python -m parity run")
    for key, usual in ORIGIN.items():
        if (value := document["origin"].get(key, "")) != usual:
            found.append(
                f"its {key} is {value!r}, and the baseline is of {_USUAL.get(key, usual) or 'the tiny checkpoints'!r}"
            )
    if document["allowed"] != ALLOWED:
        found.append(f"it allows the ratios {document['allowed']}, and {ALLOWED} is right")
    found += holes(document)
    found += [said for row in taps if (said := _doubt(row))]
    runs = [(run["pipeline"], run["config"], run["dtype"]) for run in ran]
    found += [f"{' '.join(run)} is in it twice" for run in sorted(set(runs)) if runs.count(run) > 1]
    found += [f"there is no pipeline {' '.join(run)}" for run in runs if not _is_pipeline(*run)]
    for run in ran:
        measured = [item for item in run["details"] if not _is_argument(item[0])]
        wrong = (name for name, error, limit, _ in measured if error is None or limit is None or error > limit)
        found += [f"{run['pipeline']} {run['config']} {run['dtype']} {name} is beyond its limit" for name in wrong]
    return found


def _is_pipeline(name: str, config: str, dtype: str) -> bool:
    return name in pipelines() and config in pipelines()[name].configs and dtype in ("float32", "bfloat16")


def _doubt(row: TapRecord) -> str:
    """What speaks against a row, though it says that it passes."""
    place = f"{row['stage']} {row['config']} {row['case']} {row['lane']} {row['name']}"
    known = stages().get(row["stage"])
    if known is None or row["config"] not in known.configs:
        return f"{place}: there is no such stage and config"
    if row["needed_k"] is None or row["needed_k"] > ALLOWED[row["lane"]]:
        return f"{place}: it passes with a ratio of {row['needed_k']}"
    return ""


def write_baseline(path: Path, run: Run, earlier: Run | None = None) -> None:
    """Worst ratios to three digits, one line a cell: those of the run, and what an earlier baseline has of other cells.
    Raises RunError."""
    taps = {key: tap for key, tap in (earlier.taps if earlier else {}).items() if key[:3] not in run.cells} | run.taps
    environments = (earlier.environments if earlier else {}) | run.environments
    cells: dict[Cell, dict[str, float]] = {}
    for key, tap in sorted(taps.items()):
        cells.setdefault(key[:3], {})[key[3]] = float(f"{tap.ratio:.3g}")
    kinds = list({json.dumps(environments[cell], sort_keys=True): environments[cell] for cell in cells}.values())
    lines = [
        f"  {json.dumps(' '.join(cell))}: "
        + json.dumps({"environment": str(kinds.index(environments[cell])), "taps": ratios}, separators=(",", ":"))
        for cell, ratios in cells.items()
    ]
    numbered = {str(number): environment for number, environment in enumerate(kinds)}
    head = json.dumps({"schema": BASELINE_SCHEMA, "environments": numbered}, indent=1)[:-2]
    write_whole(path, f'{head},\n "cells": {{\n' + ",\n".join(lines) + "\n}}\n")


# ---- comparing -------------------------------------------------------------------------------------------------------


@dataclass
class Difference:
    """Taps by what happened to them; ``uncovered``: what B does not cover and A did, by name; ``skipped``: cells of A
    that B does not have; ``elsewhere``: in how many cells both ran, on another machine or with other versions."""

    failed: list[Key] = field(default_factory=list)  # pass before, or not there, and no pass now
    gone: list[Key] = field(default_factory=list)
    worse: list[Key] = field(default_factory=list)
    better: list[Key] = field(default_factory=list)
    mended: list[Key] = field(default_factory=list)
    new: list[Key] = field(default_factory=list)
    uncovered: list[str] = field(default_factory=list)
    skipped: list[Cell] = field(default_factory=list)
    elsewhere: int = 0

    @property
    def regressions(self) -> list[Key]:
        return self.failed + self.gone + self.worse

    @property
    def worsened(self) -> bool:
        return bool(self.regressions or self.uncovered)


def compare(a: Run, b: Run, factor: float = FACTOR, floor: float = FLOOR) -> Difference:
    """The outcome of A's taps in B, each list with the largest ratio first. Raises RunError where none is common."""
    both = a.cells & b.cells
    if not both:
        raise RunError("nothing to compare: no cell of the first run is in the second")
    found = Difference(skipped=sorted(a.cells - b.cells), uncovered=sorted(b.holes - a.holes))
    found.elsewhere = sum(a.environments.get(cell) != b.environments.get(cell) for cell in both)
    for key in sorted(a.taps.keys() | b.taps.keys()):
        if key[:3] in b.cells and (kind := _kind(key, a, b, factor, floor)):
            getattr(found, kind).append(key)
    for kind in ("failed", "worse", "better"):
        getattr(found, kind).sort(key=lambda key: -max(run.taps[key].ratio for run in (a, b) if key in run.taps))
    return found


def _kind(key: Key, a: Run, b: Run, factor: float, floor: float) -> str | None:
    """The outcome of a tap."""
    unchanged = Tap("pass", 0.0) if ":" in key[3] else None  # an input that is not listed was passed on as it was
    before, now = a.taps.get(key, unchanged if key[:3] in a.cells else None), b.taps.get(key, unchanged)
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


def sentence(found: Difference, a: Run, b: Run) -> str:
    counts = [f"{len(getattr(found, kind))} {kind}" for kind in KINDS if getattr(found, kind)]
    same = len(b.taps) - sum(len(getattr(found, kind)) for kind in KINDS if kind != "gone")
    counted = ", ".join([*counts, f"{same:,} as before"])
    without = f"; {len(found.skipped)} cells of the first run are not in the second" if found.skipped else ""
    without += f"; {found.elsewhere} cells ran on another machine or with other versions" if found.elsewhere else ""
    if found.regressions:
        first = found.regressions[0]
        return f"Regression at {' '.join(first)} ({change(first, a, b)}): {counted}{without}."
    if found.uncovered:
        return f"Regression: {found.uncovered[0]} (of {len(found.uncovered)} that were covered): {counted}{without}."
    return f"No regression: {counted}{without}."


KINDS = ("failed", "gone", "worse", "better", "mended", "new")


def change(key: Key, a: Run, b: Run) -> str:
    return " → ".join(_text(run.taps.get(key)) for run in (a, b))


def _text(tap: Tap | None) -> str:
    if tap is None:
        return "not listed"
    return f"{tap.ratio:.2f}" if tap.verdict == "pass" else f"{tap.verdict} {tap.ratio:.3g}"
