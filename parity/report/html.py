"""The run as pages: what failed first, the map of stages, then a page for each stage; or all of it in one file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..judge.files import write_whole
from . import annex, causes, explanation
from .digest import Cell, Document, Layer, Record, StageView, lanes, needed, views
from .heat import located
from .landmarks import landmarks
from .markup import number, render, write_assets
from .rows import columns, commands, packed, query

LANES = {"A": "isolated, float32: the gate", "B": "bfloat16 and float16", "C": "free-running, float32"}
CAUSES = 20  # of a red run that are listed
WORST_TENSORS = 8  # of a cell
LOCATED = 2  # failures of a cell whose place is drawn
OVERVIEW, FOLDER, SINGLE = "report.html", "report", "report-single.html"


@dataclass(frozen=True)
class Report:
    """All that pages are made of. pictures: what is drawn beside them, for readers without a script."""

    document: Document
    selftest: dict[str, Any] | None = None
    history: Sequence[Record] = ()
    pictures: Sequence[str] = ()


def write(report: Report, folder: Path) -> Path:
    """The overview ``report.html`` and a page for each part in ``report/``, in the place of earlier ones."""
    remove(folder)
    write_assets(folder / FOLDER / "assets")
    made = _Pages(report)
    for name, part in made.parts.items():
        if name != "overview":
            write_whole(folder / FOLDER / made.files[name], made.page(name, [part]))
    write_whole(folder / OVERVIEW, made.page("overview", [made.parts["overview"]]))
    return folder / OVERVIEW


def write_single(report: Report, path: Path) -> Path:
    """Everything in one file, for mail."""
    write_whole(path, single(report))
    return path


def single(report: Report) -> str:
    made = _Pages(report, whole=True)
    return made.page("overview", list(made.parts.values()))


def remove(folder: Path) -> None:
    """Take away the pages of another run, but for the overview, which is replaced."""
    for path in (*(folder / FOLDER).glob("*.html"), folder / SINGLE):
        path.unlink(missing_ok=True)


class _Pages:
    """The parts of a report, and how they link to each other."""

    def __init__(self, report: Report, whole: bool = False):
        self.report, self.document, self.whole = report, report.document, whole
        self.stages = views(self.document)
        self.groups = causes.groups(self.document)
        self.parts: dict[str, Record] = {"overview": {"template": "overview.html"}}
        for stage in self.stages:
            self.parts[stage.anchor] = {"template": "stage.html"} | _stage(stage, report)
        if self.document.get("pipelines"):
            self.parts["pipelines"] = {"template": "pipelines.html"}
        if report.selftest:
            self.parts["selftest"] = {"template": "selftest.html"}
        self.parts["notes"] = {"template": "notes.html"}
        self.files = _files(self.parts)

    def page(self, here: str, parts: list[Record]) -> str:
        verdict, headline = _outcome(self.document, self.stages)
        root = "" if self.whole or here != "overview" else f"{FOLDER}/"
        shared = {
            "here": here,
            "single": self.whole,
            "inline": self.whole,
            "root": root,
            "title": f"{headline if here == 'overview' else here.removeprefix('stage-')} · LTX-2 parity",
            "parts": parts,
            "link": self._link(here),
            "verdict": verdict,
            "headline": headline,
            "lead": _lead(self.document, self.stages, self.groups),
            "sides": _sides(self.document),
            "stages": self.stages,
            "others": [(name, title) for name, title in _OTHERS if name in self.parts],
            "files": json.dumps({name.removeprefix("stage-"): file for name, file in self.files.items()}),
            "allowed": self.document["allowed"],
            "holes": annex.holes(self.document),
        }
        return render("report.html", **shared, **self._content(parts))

    def _content(self, parts: list[Record]) -> Record:
        """What the templates of these parts need beside what all need."""
        makers: dict[str, Callable[[], Record]] = {
            "overview.html": lambda: _overview(self.report, self.stages, self.groups),
            "pipelines.html": lambda: {
                "pipelines": annex.pipelines(self.document),
                "pipeline_items": annex.pipeline_items(self.document),
            },
            "selftest.html": lambda: {"selftest": annex.selftest(self.report.selftest or {})},
            "notes.html": lambda: {"notes": annex.notes(self.document, self.stages)},
        }
        found: Record = {}
        for part in parts:
            found |= makers.get(part["template"], dict)()
        return found

    def _link(self, here: str) -> Callable[..., str]:
        """The address of a part, of an anchor in it, or of a row."""

        def link(name: str, anchor: str = "", row: Record | None = None) -> str:
            end = f"#{query(row) if row else anchor or (name if self.whole else '')}".rstrip("#")
            if self.whole or name == here:
                return end or "#main"
            if name == "overview":
                return f"../{OVERVIEW}{end}"
            return ("" if here != "overview" else f"{FOLDER}/") + quote(self.files[name]) + end

        return link


_OTHERS = (("pipelines", "Pipelines"), ("selftest", "Self-test"), ("notes", "Notes"))


def _files(parts: dict[str, Record]) -> dict[str, str]:
    """The file of each part, whatever the results name a stage: it stays in the folder."""
    found: dict[str, str] = {}
    for name in parts:
        plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in name.removeprefix("stage-"))[:80] or "_"
        while f"{plain}.html" in found.values():
            plain += "_"
        found[name] = f"{plain}.html"
    return found


# ---- the overview -------------------------------------------------------------------------------------------------


def _outcome(document: Document, stages: list[StageView]) -> tuple[str, str]:
    """A verdict and the headline."""
    partial = any(stage.absent for stage in stages)
    return {
        0: ("pass", "Everything that ran passes" if partial else "Everything passes"),
        1: ("diverged", "Diverged"),
        3: ("incomplete", "Incomplete"),
        4: ("inconclusive", "Inconclusive"),
    }.get(document["summary"]["exit_code"], ("incomplete", "Unknown outcome"))


def _lead(document: Document, stages: list[StageView], groups: list[causes.Group]) -> str:
    cells = [cell for stage in stages for cell in stage.cells]
    total = len(cells) + sum(len(stage.absent) for stage in stages)
    bad = sum(len(group.rows) for group in groups)
    ran = f"{len(cells)} of {total} cells (a stage on a config) ran" if len(cells) < total else f"all {total} cells ran"
    if bad:
        where = sum(any(cell.failures for cell in stage.cells) for stage in stages)
        return (
            f"{bad:,} of {len(document['taps']):,} tensors do not pass, in {_count(where, 'stage')}, "
            f"from {_count(len(groups), 'cause')}; {ran}."
        )
    return f"{len(document['taps']):,} tensors pass, judged by torch's own error; {ran}."


def _sides(document: Document) -> str:
    """What was judged, and against what."""
    origin, versions = document.get("origin", {}), document["environment"]
    ran = (entry for entry in document.get("stages", []) if entry["ran"])
    names = dict.fromkeys(("ltx-core", *(entry.get("reference", "ltx-core") for entry in ran)))
    references = ", ".join(f"{name} {versions.get(name, '')}".strip() for name in names)
    return f"{origin.get('subject') or 'LTX-2 in MLX'}, judged against {origin.get('reference') or references}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _overview(report: Report, stages: list[StageView], groups: list[causes.Group]) -> Record:
    document = report.document
    newest = list(reversed(report.history))
    return {
        "groups": groups,
        "most": CAUSES,
        "failed": sum(len(group.rows) for group in groups),
        "explained": _explained(document, groups[0]) if groups else None,
        "facts": _facts(document),
        "phases": _phases(document, stages),
        "names": packed(_names(stages)),
        "history": [_run(line) for line in newest[:12]],
        "history_chart": json.dumps(_history(report.history), separators=(",", ":")),
    }


def _explained(document: Document, group: causes.Group) -> Record:
    """What ``finding.html`` says of the first divergence, beside its row."""
    row, explained = group.first, document.get("explanation")
    missing = explanation.missing(explained)
    known = explained if explained and not missing else {}
    narrowest, lines = known.get("narrowest"), causes.excerpt_of(document, row)
    return {
        "missing": missing,
        "command": commands(row)[0],
        "causes": known.get("causes", []),
        "constants": known.get("constants", []),
        "statements": [
            s | {"where": explanation.where(s)} for s in known.get("statements", []) if not _shown(s, lines)
        ],
        "where": explanation.where(narrowest) if narrowest else row.get("source") or "not known",
        "excerpt": lines,
        "locality": _locality(row),
        "commands": commands(row),
    }


def _shown(statement: Record, lines: causes.Excerpt | None) -> bool:
    """True for a statement that is in the excerpt already."""
    numbers = {line.number for line in lines.lines} if lines and lines.file == statement["file"] else set()
    return {statement["first"], statement["last"]} <= numbers


def _locality(row: Record) -> str:
    tap, _, argument = row["name"].partition(":")
    if row["lane"] == "C":
        return "It passes in isolation: nothing is wrong at one place, errors add up on the way here."
    given = "Every tap was fed the reference's inputs, so the fault is "
    if argument:
        return f"{given}in the arithmetic that makes “{argument}”, just before {tap}."
    return f"{given}in this computation, not before it."


def _facts(document: Document) -> list[tuple[str, str]]:
    """Size of the run and the worst ratio of each lane."""
    summary = document["summary"]
    facts = [("tensors judged", f"{summary['taps']:,}")]
    for lane, worst in summary["worst"].items():
        ratio = number(needed(worst), ".3g")
        facts.append((f"worst ratio, lane {lane}", f"{ratio} ({document['allowed'][lane]:g} is allowed)"))
    if coverage := summary["coverage"]:
        for words, done, whole in (
            ("leaf modules compared", "leaves_compared", "leaves"),
            ("parameters that move a tensor", "parameters_moving", "parameters"),
        ):
            facts.append((words, f"{sum(c[done] for c in coverage):,} of {sum(c[whole] for c in coverage):,}"))
    return [*facts, ("time and memory", f"{summary['seconds']:.0f} s, {summary['peak_gb']:.1f} GB")]


def _phases(document: Document, stages: list[StageView]) -> dict[str, list[Record]]:
    """The map: a light for each stage under its phase, and for each pipeline."""
    phases: dict[str, list[Record]] = {}
    for stage in stages:
        light = {"page": stage.anchor, "name": stage.name, "verdict": stage.verdict, "line": _light(stage)}
        phases.setdefault(stage.phase or "Further", []).append(light)
    runs: dict[str, list[Record]] = {}
    for row in document.get("pipelines") or []:
        runs.setdefault(row["pipeline"].removeprefix("pipelines."), []).append(row)
    for name, rows in runs.items():
        bad = next((row for row in rows if row["verdict"] != "pass"), None)
        line = f"at {bad['first'] or 'its end'}" if bad else f"pass, {_count(len(rows), 'run')}"
        verdict = bad["verdict"] if bad else "pass"
        light = {"page": "pipelines", "name": name, "verdict": verdict, "line": line}
        phases.setdefault("Pipelines, end to end", []).append(light)
    return phases


def _light(stage: StageView) -> str:
    if not stage.cells:
        return "not run"
    worst = stage.worst("A") or stage.worst("B") or stage.worst("C")
    failed = sum(len(cell.failures) for cell in stage.cells)
    ratio = f"worst ratio {_ratio(worst)}" if worst else "no tensors"
    part = f", {len(stage.cells)} of {len(stage.cells) + len(stage.absent)} configs" if stage.absent else ""
    return f"{stage.verdict}: {failed:,} of {stage.tensors:,}" if failed else f"{stage.verdict}, {ratio}{part}"


def _names(stages: list[StageView]) -> Record:
    """For the search: the taps of each stage, with the worst ratio and whether one of their tensors does not pass."""
    found: Record = {}
    for stage in stages:
        worst: dict[str, tuple[float, int]] = {}
        for cell in stage.cells:
            for row in cell.rows:
                before, red = worst.get(row["name"], (0.0, 0))
                worst[row["name"]] = (max(before, needed(row)), red or int(row["verdict"] != "pass"))
        finite = [[name, float(f"{ratio:.2g}") if ratio < 1e300 else -1, red] for name, (ratio, red) in worst.items()]
        found[stage.anchor.removeprefix("stage-")] = finite
    return {"stages": found}


def _run(line: Record) -> Record:
    """A line of the history for its table."""
    code = line["commit"][:10] + (" and changes" if line["changed"] else "")
    worst = {f"ratio {lane}": value for lane, value in line["worst"].items()}
    verdict = {0: "pass", 1: "diverged", 3: "incomplete", 4: "inconclusive"}.get(line["exit_code"], "invalid")
    size = {"tensors": line["tensors"], "failed": line["failed"]}
    cost = {"seconds": float(line["seconds"]), "GB": float(line["peak_gb"])}
    versions = f"mlx {line['versions'].get('mlx', '?')}, torch {line['versions'].get('torch', '–')}"
    head = {"time": line["time"].replace("T", " ")[:16], "verdict": verdict, "commit": code, "device": line["device"]}
    return head | size | worst | cost | {"versions": versions}


def _history(lines: Sequence[Record]) -> list[Record]:
    """The charts of the history."""
    names = [
        f"{line['time'][:16]} {line['commit'][:10]} {line['device']}, {line['tensors']:,} tensors" for line in lines
    ]
    axis = {"names": names, "ticks": [line["time"][5:16].replace("T", " ") for line in lines], "style": "line"}
    worst = {f"lane {lane}": [line["worst"].get(lane) for line in lines] for lane in "ACB"}
    seconds = {"seconds": [line["seconds"] for line in lines]}
    return [
        axis | {"title": "Worst ratio", "log": True, "series": worst},
        axis | {"title": "Time", "log": False, "series": seconds},
    ]


# ---- a stage ------------------------------------------------------------------------------------------------------

_COLUMNS = ["tensor", "verdict", "config", "case", "lane", "shape and dtype", "#ratio", "#rel L2", "#torch's", "#1 − r"]
_COLUMNS += ["#std ours", "#std ref."]
_WORST = ["tensor", "verdict", "case", "lane", "shape", "dtype", "#ratio", "#allowed", "#rel L2", "#torch's", "#1 − r"]
_WORST += ["#std ours", "#std ref."]
_LAYER = ["layer", "verdict", "#tensors", "#1 − r (A)", "#1 − r (C)", "#std ours", "#std ref.", "#ratio A", "#ratio C"]


def _stage(stage: StageView, report: Report) -> Record:
    document = report.document
    shown = lanes(document)
    titles = ["cases", "tensors", *(f"ratio {lane}" for lane in shown), "leaf modules", "parameters"]
    rows = [row for cell in stage.cells for row in cell.rows]
    data = columns(rows, document["allowed"]) | {"landmarks": landmarks(stage.cells)}
    return {
        "stage": stage,
        "head": ["config", "verdict", *(f"#{title}" for title in titles)],
        "lines": [_cell_line(cell, shown, titles) for cell in stage.cells],
        "columns": _COLUMNS,
        "worst_head": _WORST,
        "layer_head": _LAYER,
        "data": packed(data),
        "cells": [_cell(cell, stage, document) for cell in stage.cells],
        "pictures": [
            (f"../{name}", f"1 − correlation, std and error by depth: {stage.name}")
            for name in report.pictures
            if name.startswith(f"{stage.name}-")
        ],
    }


def _cell_line(cell: Cell, shown: list[str], titles: list[str]) -> Record:
    covered = cell.coverage
    cases = {row["case"].partition("@")[0] for row in cell.rows}
    values = [
        str(len(cases)),
        f"{len(cell.rows):,}",
        *(_ratio(cell.worst(lane)) for lane in shown),
        f"{covered['leaves_compared']:,} of {covered['leaves']:,}" if covered else "–",
        f"{covered['parameters_moving']:,} of {covered['parameters']:,}" if covered else "–",
    ]
    numbers = list(zip(titles, values, strict=True))
    return {"anchor": cell.anchor, "config": cell.config, "verdict": cell.verdict, "numbers": numbers}


def _ratio(row: Record | None) -> str:
    if row is None:
        return "–"
    return number(needed(row), ".2f" if needed(row) < 1e4 else ".3g")


def _cell(cell: Cell, stage: StageView, document: Document) -> Record:
    failed, whole = len(cell.failures), len(cell.rows)
    title = "First tensors that do not pass" if failed else "Tensors with the highest ratio"
    layers = cell.layers if len(cell.layers) > 1 else []
    return {
        "anchor": cell.anchor,
        "config": cell.config,
        "verdict": cell.verdict,
        "open": bool(failed),
        "note": f"{failed:,} of {whole:,} tensors" if failed else f"{whole:,} tensors",
        "equal": bool(cell.rows) and not any(row["rel_l2"] for row in cell.rows),
        "title": f"{title}: {stage.name}, {cell.config}",
        "worst": cell.worst_rows(WORST_TENSORS, document["allowed"]),
        "places": [located(row, stage.declared["layout"]) for row in cell.profiled[:LOCATED]],
        "layers": [{"name": layer.name, "verdict": layer.verdict, "numbers": _layer(layer)} for layer in layers],
    }


def _layer(layer: Layer) -> list[str]:
    std = layer.leaving
    return [
        f"{len(layer.rows):,}",
        *(number(layer.decorrelation(lane)) for lane in "AC"),
        *(number(std[key], ".4g") if std else "–" for key in ("std_mlx", "std_ref")),
        *(_ratio(layer.worst(lane)) for lane in "AC"),
    ]
