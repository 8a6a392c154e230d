"""The parts beside the stages: pipelines, self-test, what was not compared, the environment, how to read it all."""

from __future__ import annotations

from typing import Any

from .digest import Document, Record, StageView, lanes
from .markup import Html, badge, code, definitions, join, number, table, tag


def pipelines(document: Document) -> Html | None:
    """The end-to-end table, whatever its columns are: which run it is and its verdict come first."""
    found = document.get("pipelines")
    if not found:
        return None
    first = ("pipeline", "config", "dtype", "verdict", "why", "first")
    rows = []
    for row in found:
        named = {key: str(row[key]).removeprefix("pipelines.") for key in first if row.get(key)}
        # details: a hundred tensors each
        rows.append(named | {key: value for key, value in row.items() if key not in (*first, "details")})
    intro = tag("p", "From the prompt to frames and waveform, in one go.", class_="soft")
    return tag("section", tag("h2", "Pipelines, end to end"), intro, _records("Pipelines", rows), id="pipelines")


def selftest(found: dict[str, Any] | None) -> Html | None:
    """How many planted faults the gate finds, and where."""
    if not found:
        return None
    summary = found["summary"]
    score = [(_words(key), _value(value)) for key, value in summary.items() if not isinstance(value, (dict, list))]
    score += [(key, _value(summary[key])) for key in ("void", "crashed") if summary.get(key)]
    score += [(f"gate: {key}", _value(value)) for key, value in (summary.get("gate") or {}).items()]
    intro = tag(
        "p", "Faults that real ports shipped, planted one at a time: is each seen, and at its place?", class_="soft"
    )
    kinds = _records("Kinds of faults", summary.get("kinds", []))
    matrix = _records("Planted faults", found.get("matrix", []), filtered=True)
    return tag("section", tag("h2", "Self-test"), intro, definitions(score, "facts big"), kinds, matrix, id="selftest")


def _records(caption: str, rows: list[Record], filtered: bool = False) -> Html | None:
    """A table of records that may have different keys."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    numbers = {k for k in columns if all(_is_number(row.get(k)) for row in rows)}
    head = [f"#{_words(key)}" if key in numbers else _words(key) for key in columns]
    lines = [
        [badge(row[key]) if key == "verdict" and row.get(key) else _value(row.get(key)) for key in columns]
        for row in rows
    ]
    return table(caption, head, lines, filtered) if rows else None


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _words(key: str) -> str:
    return key.replace("_", " ")


def _value(value: object) -> str | Html:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "✓ yes" if value else "✕ no"
    if isinstance(value, float):
        return number(value, ".4g")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "–"
    return str(value)


# ---- what was not compared ----------------------------------------------------------------------------------------


def holes(document: Document) -> list[Html]:
    """The reasons why the run is incomplete, a line each."""
    found = [
        join(f"{c['stage']} {c['config']}: ", code(name), " is not compared")
        for c in document["summary"]["coverage"]
        for name in c["uncovered"]
    ]
    found += [join(code(tap), " is declared, and no case reaches it") for tap in document["summary"]["unseen"]]
    found += [join(part) for part in document["summary"]["silent"]]
    for row in document.get("pipelines") or []:
        if row.get("verdict", "pass") != "pass":
            name = " ".join(str(row[key]) for key in ("pipeline", "config", "dtype") if row.get(key))
            why = " ".join(str(row[key]) for key in ("first", "why") if row.get(key))
            found.append(join(f"pipeline {name}: ", badge(row["verdict"]), f" {why}"))
    return found


def not_compared(document: Document, stages: list[StageView]) -> Html:
    carried = document["summary"]["carried"]
    none = "None: each leaf module is compared, each parameter moves a compared tensor."
    if not document["summary"]["coverage"]:
        none = "Not looked for: coverage is measured in lane A, over all blocks."
    parts = [
        _list("Holes", holes(document), none),
        _list("Not part of this run", _absent(document, stages), "Nothing: every stage, config and lane ran."),
        tag("h3", "Declared, with the reason"),
        _declared(stages),
        tag("h3", "Judged and not listed"),
        tag("p", f"{carried:,} inputs are, bit for bit, what an earlier tap passed on, or of the declared kinds."),
    ]
    return tag("section", tag("h2", "What was not compared"), *parts, id="not-compared")


def _list(title: str, items: list[Html], none: str) -> Html:
    content = tag("ul", *(tag("li", item) for item in items)) if items else tag("p", none)
    return join(tag("h3", title), content)


def _absent(document: Document, stages: list[StageView]) -> list[Html]:
    found = [join(f"{stage.name}: ", ", ".join(stage.absent)) for stage in stages if stage.absent]
    found += [join(f"lane {lane}") for lane in document["allowed"] if lane not in lanes(document)]
    if "A" not in lanes(document):
        found.append(join("coverage, which is measured in lane A"))
    if blocks := document.get("origin", {}).get("blocks"):
        found.append(join(f"blocks other than {blocks} (--blocks), and coverage, which needs all of them"))
    return found


_RULES = (
    ("reference_only", "an input that only the reference hands around"),
    ("different", "a value that is otherwise in ours on purpose"),
    ("constant", "an output that may be constant in the reference"),
)


def _declared(stages: list[StageView]) -> Html:
    lines: list[list[object]] = []
    for stage in stages:
        entry = stage.declared
        for key, rule in _RULES:
            lines += [[stage.name, code(tap), rule, reason] for tap, reason in entry.get(key, {}).items()]
        for config, names in entry.get("idle", {}).items():
            reason = f"{config} holds it and its network does not use it: checked to move nothing"
            lines += [[stage.name, code(name), "a parameter", reason] for name in names]
        reason = "depends on the reference's maths library: lane C starts from its values, lane A judges it"
        lines += [
            [stage.name, code(tap), "passed on from the reference in lane C", reason]
            for tap in entry.get("defined", [])
        ]
        reason = "random: drawn by the reference and given to ours, so that only the shape is compared"
        lines += [[stage.name, code(tap), "random numbers", reason] for tap in entry.get("injected", [])]
    return table("What the stages declare", ["stage", "tap or parameter", "what", "why"], lines)


# ---- where it ran, and what it means ------------------------------------------------------------------------------


def calibration(document: Document) -> Html | None:
    """What the device makes of each primitive, as it was measured before the run."""
    found = document.get("calibration") or {}
    if not found.get("measures"):
        return None
    intro = tag(
        "p",
        "The error of each primitive of the device against NumPy's float64, in units of what the verdicts assume. "
        "Above 1 the floor of the tensors that are made with it takes that constant, up to "
        f"{found['bound']:g}; beyond, the device is at fault, and the run is inconclusive.",
        class_="soft",
    )
    keys = ("primitive", "dtype", "terms", "constant", "used")
    rows = [
        {key: row[key] for key in keys} | {"verdict": "pass" if row["honest"] else "inconclusive"}
        for row in found["measures"]
    ]
    table = _records("Rounding of the device", rows)
    return tag("section", tag("h2", "Rounding of the device"), intro, table, id="calibration")


def environment(document: Document) -> Html:
    pairs = [(name, value) for name, value in document["environment"].items()]
    return tag("section", tag("h2", "Environment"), definitions(pairs), id="environment")


def reading(document: Document) -> Html:
    allowed = document["allowed"]
    lines = [
        "The ratio is ours over torch's: both errors are distances from the reference evaluated in float64 on the same "
        "inputs, and torch's counts at least as much as rounding alone explains. 1 is as good as torch, "
        f"{allowed['A']:g} is allowed. Single elements have a bound of their own; whichever needs more is shown.",
        "Lane A is the gate: float32, every tap fed the reference's inputs, so that a fault shows where it is.",
        "Lane B is bfloat16 and float16, against the reference's own error in them.",
        f"Lane C runs free from the inputs on; errors grow alike but not in step, so {allowed['C']:g} is allowed.",
        "A name with : is what flows into a tap: attn1:x is the argument x of attn1.",
        "Correlation and std are shown because people expect them. They decide nothing: a wrong scale correlates at 1.",
    ]
    return tag("section", tag("h2", "How to read this"), tag("ul", *(tag("li", line) for line in lines)), id="reading")
