"""The run as one self-contained page: what failed first, the map of stages, then every stage in detail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..judge.files import write_whole
from ..judge.place import Place
from . import annex, explanation
from .digest import Cell, Document, Layer, Record, StageView, lanes, needed, views
from .figures import curves
from .heat import located
from .markup import Html, badge, breaking, code, definitions, join, kind, mark, number, table, tag
from .style import CSS, JS

LANES = {"A": "isolated, float32: the gate", "B": "bfloat16 and float16", "C": "free-running, float32"}
MOST_FAILURES = 200  # lines of the table of what does not pass
WORST_TENSORS = 8  # of a cell
LOCATED = 2  # failures of a cell whose place is drawn


def page(document: Document, selftest: dict[str, Any] | None = None) -> str:
    """The report. selftest: what lies in selftest.json, if there is one."""
    stages = views(document)
    body = join(
        tag("a", "Skip to the stages", href="#map", class_="skip"),
        tag("header", _kicker(document), _headline(document, stages), _finding(document, stages), class_="top"),
        _navigation(document, selftest),
        tag(
            "main",
            _facts(document),
            _map(stages),
            _failures(document),
            annex.pipelines(document),
            _stages(document, stages),
            annex.selftest(selftest),
            annex.not_compared(document, stages),
            annex.calibration(document),
            annex.environment(document),
            annex.reading(document),
        ),
        tag("footer", "Made from results.json by ", tag("code", "python -m parity report"), "."),
    )
    head = join(
        Html('<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'),
        tag("title", f"{_outcome(document, stages)[1]} · LTX-2 parity"),
        Html('<link rel="icon" href="data:,">'),
        tag("style", Html(CSS)),
    )
    script = tag("script", Html(JS))
    return f"<!doctype html>\n{tag('html', tag('head', head), tag('body', body, script), lang='en')}\n"


def write(document: Document, path: Path, selftest: dict[str, Any] | None = None) -> Path:
    write_whole(path, page(document, selftest))
    return path


# ---- the top ------------------------------------------------------------------------------------------------------


def _kicker(document: Document) -> Html:
    core = document["environment"].get("ltx-core", "")
    return tag("p", f"Parity report · LTX-2 in MLX, judged against ltx-core {core}".rstrip(), class_="kicker")


def _outcome(document: Document, stages: list[StageView]) -> tuple[str, str]:
    """A verdict and the headline."""
    partial = any(stage.absent for stage in stages)
    return {
        0: ("pass", "Everything that ran passes" if partial else "Everything passes"),
        1: ("diverged", "Diverged"),
        3: ("incomplete", "Incomplete"),
        4: ("inconclusive", "Inconclusive"),
    }.get(document["summary"]["exit_code"], ("incomplete", "Unknown outcome"))


def _headline(document: Document, stages: list[StageView]) -> Html:
    verdict, title = _outcome(document, stages)
    cells = [cell for stage in stages for cell in stage.cells]
    total = len(cells) + sum(len(stage.absent) for stage in stages)
    bad = sum(row["verdict"] != "pass" for row in document["taps"])
    ran = f"{len(cells)} of {total} cells (a stage on a config) ran" if len(cells) < total else f"all {total} cells ran"
    if bad:
        where = sum(any(cell.failures for cell in stage.cells) for stage in stages)
        lead = f"{bad:,} of {len(document['taps']):,} tensors do not pass, in {_count(where, 'stage')}; {ran}."
    else:
        lead = f"{len(document['taps']):,} tensors pass, judged by torch's own error; {ran}."
    return join(tag("h1", mark(verdict), " ", title), tag("p", lead, class_="lead"))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _finding(document: Document, stages: list[StageView]) -> Html | None:
    """The first divergence, or what makes a run without one incomplete."""
    if first := document["summary"]["first_divergence"]:
        stage = next(stage for stage in stages if stage.name == first["stage"])
        return _first_divergence(_with_profile(first, stage), stage, document.get("explanation"))
    holes = annex.holes(document)
    if not holes:
        return None
    more = [tag("li", tag("a", f"and {len(holes) - 4} more", href="#not-compared"))] if len(holes) > 4 else []
    items = tag("ul", *(tag("li", hole) for hole in holes[:4]), *more)
    return tag("section", tag("h2", "What is missing"), items, id="first-divergence", class_="finding warn")


def _with_profile(first: Record, stage: StageView) -> Record:
    """The row itself, which says where its error is if it is among the first of its cell."""
    key = ("config", "case", "lane", "name", "call")
    rows = (row for cell in stage.cells for row in cell.failures)
    return next((row for row in rows if all(row[k] == first[k] for k in key)), first)


def _first_divergence(row: Record, stage: StageView, explained: Record | None) -> Html:
    rows = [other for cell in stage.cells for other in cell.failures]
    same = {
        (other["config"], other["case"])
        for other in rows
        if (other["name"], other["lane"]) == (row["name"], row["lane"])
    }
    config = f" --config {row['config']}" if row["config"] in stage.declared["configs"] else ""
    command = f"python -m parity run --stage {row['stage']}{config} --lane {row['lane']}"
    facts: list[tuple[str, object]] = [("Our source", _source(row, explained))]
    if row.get("further"):
        errors = f"ours {row['rel_l2']:.1e}, the reference {row['rel_l2_reference']:.1e}"
        facts.append(("Further from the float64 oracle", f"{row['further']} ({errors})"))
    facts += [("The same tensor fails in", f"{_count(len(same), 'case')}"), ("Run it alone", tag("code", command))]
    commands = Place.of(row).commands
    facts += [
        ("Explain it again", tag("code", commands["explain"])),
        ("Find the lines", tag("code", commands["bisect"])),
    ]
    return tag(
        "section",
        tag("h2", "First divergence"),
        tag("p", code(_place(row)), class_="place"),
        tag(
            "p", badge(row["verdict"]), f" · {row['stage']} · {row['config']} · case {row['case']} · lane {row['lane']}"
        ),
        tag("p", row["why"]),
        tag("p", tag("b", "Likely causes"), id="causes"),
        _causes(explained, commands["explain"]),
        tag("p", _locality(row), class_="soft"),
        definitions(facts),
        id="first-divergence",
        class_="finding",
    )


def _causes(explained: Record | None, command: str) -> Html:
    """The causes, or how to have them ranked."""
    if why := explanation.missing(explained):
        return tag("ol", tag("li", why, " ", tag("code", command)), class_="none")
    assert explained is not None  # otherwise it is missing
    items = [
        tag("li", tag("b", cause["cause"]), f" ({cause['share']:.0%}): {cause['meaning']}. ", _example(cause))
        for cause in explained["causes"]
    ]
    return tag("ol", *items)


def _example(cause: Record) -> Html:
    return tag("small", f"Most alike: {cause['example']}, {cause['fault']}.")


def _source(row: Record, explained: Record | None) -> object:
    """The narrowest lines that make the tensor and what they say; else the function that the tap wraps."""
    constants = [tag("small", constant) for constant in (explained or {}).get("constants", [])]
    if explained and explained.get("narrowest"):
        statements = [
            tag("small", f"{explanation.where(s)}  ", tag("code", s["text"])) for s in explained["statements"]
        ]
        return join(code(explanation.where(explained["narrowest"])), *constants, *statements)
    return join(code(row["source"]) if row.get("source") else "not known", *constants)


def _place(row: Record) -> str:
    return f"{row['name']}#{row['call']}" if row["call"] else row["name"]


def _locality(row: Record) -> str:
    tap, _, argument = row["name"].partition(":")
    if row["lane"] == "C":
        return "It passes in isolation: nothing is wrong at one place, errors add up on the way here."
    given = "Every tap was fed the reference's inputs, so the fault is "
    if argument:
        return f"{given}in the arithmetic that makes “{argument}”, just before {tap}."
    return f"{given}in this computation, not before it."


def _navigation(document: Document, selftest: dict[str, Any] | None) -> Html:
    links = [("map", "Stages"), ("failures", "What does not pass"), ("pipelines", "Pipelines"), ("detail", "In detail")]
    links += [
        ("selftest", "Self-test"),
        ("not-compared", "Not compared"),
        ("calibration", "Rounding"),
        ("environment", "Environment"),
    ]
    links += [("reading", "How to read this")]
    there = {"failures": document["summary"]["first_divergence"], "pipelines": document.get("pipelines")}
    there |= {"selftest": selftest, "calibration": (document.get("calibration") or {}).get("measures")}
    items = [tag("li", tag("a", name, href=f"#{anchor}")) for anchor, name in links if there.get(anchor, True)]
    return tag("nav", tag("ul", *items), aria_label="Sections")


def _facts(document: Document) -> Html:
    """Size of the run and the worst ratio of each lane."""
    summary = document["summary"]
    facts: list[tuple[str, object]] = [
        (
            "tensors judged",
            join(f"{summary['taps']:,}", tag("small", f"{summary['carried']:,} more passed on unchanged")),
        )
    ]
    for lane, worst in summary["worst"].items():
        ratio = number(needed(worst), ".3g")
        value = join(f"{ratio} of {document['allowed'][lane]:g}", tag("small", Html(code(worst["place"]))))
        facts.append((f"worst ratio, lane {lane} ({LANES[lane].partition(':')[0]})", value))
    coverage = summary["coverage"]
    if coverage:
        done, whole = (sum(c[key] for c in coverage) for key in ("leaves_compared", "leaves"))
        moving, parameters = (sum(c[key] for c in coverage) for key in ("parameters_moving", "parameters"))
        moved = tag("small", f"{moving:,} of {parameters:,} parameters move a compared tensor")
        facts.append(("leaf modules compared", join(f"{done:,} of {whole:,}", moved)))
    facts.append(("time and memory", f"{summary['seconds']:.0f} s, {summary['peak_gb']:.1f} GB"))
    return definitions(facts, "facts big")


# ---- the map ------------------------------------------------------------------------------------------------------


def _map(stages: list[StageView]) -> Html:
    phases: dict[str, list[StageView]] = {}
    for stage in stages:
        phases.setdefault(stage.phase or "Further", []).append(stage)
    columns = [
        tag("li", tag("h4", phase), tag("ol", *(tag("li", _light(stage)) for stage in group)))
        for phase, group in phases.items()
    ]
    intro = tag("p", "From a prompt to a video with audio. Each stage leads to its numbers.", class_="soft")
    return tag("section", tag("h2", "Stages"), intro, tag("ol", *columns, class_="phases"), id="map")


def _light(stage: StageView) -> Html:
    if not stage.cells:
        return _stage_link(stage, "not run")
    worst = stage.worst("A") or stage.worst("B") or stage.worst("C")
    failed = sum(len(cell.failures) for cell in stage.cells)
    ratio = f"worst ratio {number(needed(worst), '.2f')}" if worst else "no tensors"
    part = f", {len(stage.cells)} of {len(stage.cells) + len(stage.absent)} configs" if stage.absent else ""
    return _stage_link(
        stage, f"{stage.verdict}: {failed:,} of {stage.tensors:,}" if failed else f"{stage.verdict}, {ratio}{part}"
    )


def _stage_link(stage: StageView, line: str) -> Html:
    verdict = stage.verdict
    inner = join(mark(verdict), tag("b", breaking(stage.name)), tag("small", line))
    return tag("a", inner, href=f"#{stage.anchor}", class_=f"stage {kind(verdict)}")


# ---- what does not pass -------------------------------------------------------------------------------------------


def _failures(document: Document) -> Html | None:
    """Every tensor that does not pass, its cases in one line; the isolated lanes first, in the order of computation."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for row in document["taps"]:
        if row["verdict"] != "pass":
            groups.setdefault((row["lane"], row["stage"], row["config"], row["name"]), []).append(row)
    if not groups:
        return None
    ordered = sorted(groups.items(), key=lambda item: item[0][0] == "C")
    lines = [
        [
            code(name),
            badge(min(rows, key=needed)["verdict"]),
            f"{stage} {config}",
            lane,
            ", ".join(dict.fromkeys(row["case"] for row in rows)),
            number(max(map(needed, rows)), ".3g"),
            code(rows[0]["source"]) if rows[0].get("source") else "–",
            rows[0]["why"],
        ]
        for (lane, stage, config, name), rows in ordered[:MOST_FAILURES]
    ]
    cut = (
        f", the first {MOST_FAILURES} of {len(groups):,}; all are in results.json"
        if len(groups) > MOST_FAILURES
        else ""
    )
    head = ["tensor", "verdict", "stage", "lane", "cases", "#ratio", "our source", "why, in the first case"]
    made = table(f"In the order of computation, isolated lanes first{cut}", head, lines, filtered=True)
    return tag("section", tag("h2", "What does not pass"), made, id="failures")


# ---- every stage --------------------------------------------------------------------------------------------------


def _stages(document: Document, stages: list[StageView]) -> Html:
    parts = [_stage(document, stage) for stage in stages]
    return tag("section", tag("h2", "In detail"), *parts, id="detail")


def _stage(document: Document, stage: StageView) -> Html:
    title = tag("h3", stage.name, " ", badge(stage.verdict))
    if not stage.cells:
        absent = tag("p", f"Not part of this run: {', '.join(stage.absent)}.", class_="soft")
        return tag("section", title, absent, id=stage.anchor)
    head = ["config", "verdict", "#cases", "#tensors", *(f"#ratio {lane}" for lane in lanes(document))]
    head += ["#leaf modules", "#parameters"]
    rows = [_cell_line(cell, lanes(document)) for cell in stage.cells]
    rest = tag("p", f"Not part of this run: {', '.join(stage.absent)}.", class_="soft") if stage.absent else None
    made = table(f"{stage.name} by config: worst ratio of each lane, coverage", head, rows)
    cells = [_cell(cell, stage, document) for cell in stage.cells]
    return tag("section", title, made, rest, *cells, id=stage.anchor)


def _cell_line(cell: Cell, shown: list[str]) -> list[object]:
    covered = cell.coverage
    cases = {row["case"].partition("@")[0] for row in cell.rows}
    return [
        tag("a", cell.config, href=f"#{cell.anchor}"),
        badge(cell.verdict),
        str(len(cases)),
        f"{len(cell.rows):,}",
        *(number(needed(worst), ".2f") if (worst := cell.worst(lane)) else "–" for lane in shown),
        f"{covered['leaves_compared']:,} of {covered['leaves']:,}" if covered else "–",
        f"{covered['parameters_moving']:,} of {covered['parameters']:,}" if covered else "–",
    ]


def _cell(cell: Cell, stage: StageView, document: Document) -> Html:
    allowed, layout = document["allowed"], stage.declared["layout"]
    pictures: Html | None = curves(cell, allowed)
    if pictures is None and cell.rows and not any(row["rel_l2"] for row in cell.rows):
        pictures = tag(
            "p", "Every value equals the reference's, to the last bit: there is no error to draw.", class_="soft"
        )
    places = [
        join(
            tag("h4", "Where the error is: ", code(_place(row)), f" (case {row['case']}, lane {row['lane']})"),
            located(row, layout),
        )
        for row in cell.profiled[:LOCATED]
    ]
    worst = _worst_table(cell, allowed)
    line = join(tag("b", f"{stage.name}, {cell.config}"), " ", badge(cell.verdict), _note(cell))
    content = tag("div", pictures, worst, *places, _layer_table(cell))
    return tag("details", tag("summary", line), content, id=cell.anchor, open=bool(cell.failures))


def _note(cell: Cell) -> Html:
    note = f"{len(cell.failures):,} of {len(cell.rows):,} tensors" if cell.failures else f"{len(cell.rows):,} tensors"
    return tag("span", note, class_="soft")


def _worst_table(cell: Cell, allowed: dict[str, float]) -> Html:
    head = [
        "tensor",
        "verdict",
        "case",
        "lane",
        "shape",
        "dtype",
        "#ratio",
        "#rel L2",
        "#torch's",
        "#1 − r",
        "#std ours",
        "#std ref.",
    ]
    lines = [
        [
            code(_place(row)),
            badge(row["verdict"]),
            row["case"],
            row["lane"],
            "×".join(map(str, row["shape"])) or "–",
            row["dtype"] or "–",
            number(needed(row), ".3g"),
            number(row["rel_l2"]),
            number(row["rel_l2_reference"]),
            number(row["one_minus_r"]),
            number(row["std_mlx"], ".4g"),
            number(row["std_ref"], ".4g"),
        ]
        for row in cell.worst_rows(WORST_TENSORS, allowed)
    ]
    title = "First tensors that do not pass" if cell.failures else "Tensors with the highest ratio"
    return table(f"{title}: {cell.stage}, {cell.config}", head, lines)


def _layer_table(cell: Cell) -> Html | None:
    """The numbers of the curves."""
    if len(cell.layers) < 2:
        return None
    head = [
        "layer",
        "verdict",
        "#tensors",
        "#1 − r (A)",
        "#1 − r (C)",
        "#std ours",
        "#std ref.",
        "#ratio A",
        "#ratio C",
    ]
    lines = [
        [
            code(layer.name),
            badge(layer.verdict),
            f"{len(layer.rows):,}",
            number(layer.decorrelation("A")),
            number(layer.decorrelation("C")),
            *_std(layer),
            *(number(needed(worst), ".3g") if (worst := layer.worst(lane)) else "–" for lane in "AC"),
        ]
        for layer in cell.layers
    ]
    return table(f"By layer: {cell.stage}, {cell.config}", head, lines)


def _std(layer: Layer) -> list[str]:
    row = layer.leaving
    return [number(row[key], ".4g") if row else "–" for key in ("std_mlx", "std_ref")]
