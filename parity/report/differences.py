"""Two runs side by side, as a page: what got worse or better, and each cell's worst ratio; a CPU beside Metal too."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import Any

from ..judge.baseline import KINDS, Cell, Difference, Run, change, sentence
from ..judge.files import write_whole
from .markup import number, render

MOST = 500  # lines of the table of taps
_MEANING = {
    "failed": "did pass, and does not any more",
    "gone": "was judged, and is not any more",
    "worse": "its ratio has grown",
    "better": "its ratio has shrunk",
    "mended": "did not pass, and does now",
    "new": "was not judged before",
}
Named = tuple[Path, Run]


def write(found: Difference, before: Named, now: Named, path: Path) -> Path:
    write_whole(path, page(found, before, now))
    return path


def page(found: Difference, before: Named, now: Named) -> str:
    (a_path, a), (b_path, b) = before, now
    keys = [(kind, key) for kind in KINDS for key in getattr(found, kind)]
    cells = _cells(a, b)
    return render(
        "diff.html",
        title="Two runs · LTX-2 parity",
        verdict="diverged" if found.worsened else "pass",
        sentence=sentence(found, a, b),
        runs=[("before", str(a_path)), ("now", str(b_path))],
        environments=_environments(a, b),
        counts=[(kind, f"{len(getattr(found, kind)):,}", _MEANING[kind]) for kind in KINDS],
        taps=[(kind, *key, change(key, a, b)) for kind, key in keys[:MOST]],
        cut=len(keys) - MOST,
        uncovered=found.uncovered,
        cells=cells,
        chart=json.dumps([_chart(cells)], separators=(",", ":")),
    )


def _environments(a: Run, b: Run) -> list[tuple[str, str, str]]:
    """What machine and versions each run had; more than one where a baseline was made on several."""

    def said(run: Run, key: str) -> str:
        return ", ".join(sorted({where[key] for where in run.environments.values() if key in where})) or "–"

    keys = dict.fromkeys(key for run in (a, b) for where in run.environments.values() for key in where)
    return [(key, said(a, key), said(b, key)) for key in keys]


def _cells(a: Run, b: Run) -> list[dict[str, Any]]:
    """Each cell in a lane with its worst ratio in both runs; those that moved most come first."""
    worst = [_worst(run) for run in (a, b)]
    found = []
    for cell in dict.fromkeys((*a.cells, *b.cells)):
        before, now = (one.get(cell) for one in worst)
        moved = abs((now or 0.0) - (before or 0.0)) if before is not None and now is not None else 0.0
        found.append({"cell": " ".join(cell), "before": before, "now": now, "moved": moved})
    return sorted(found, key=lambda row: (-row["moved"] if isfinite(row["moved"]) else float("-inf"), row["cell"]))


def _worst(run: Run) -> dict[Cell, float]:
    found: dict[Cell, float] = {}
    for key, tap in run.taps.items():
        found[key[:3]] = max(found.get(key[:3], 0.0), tap.ratio)
    return found


def _chart(cells: list[dict[str, Any]]) -> dict[str, Any]:
    names = [row["cell"] for row in cells]
    sides = {side: [row[side] if _drawn(row[side]) else None for row in cells] for side in ("before", "now")}
    told = [f"{row['cell']}: {number(row['before'], '.3g')} → {number(row['now'], '.3g')}" for row in cells]
    return {
        "title": "Worst ratio of each cell",
        "names": told,
        "ticks": names,
        "style": "dots",
        "log": True,
        "series": sides,
    }


def _drawn(ratio: float | None) -> bool:
    return ratio is not None and isfinite(ratio)
