"""The parts beside the stages: pipelines, self-test, what was not compared, the environment, how to read it all."""

from __future__ import annotations

from collections.abc import Callable
from math import log10
from typing import Any

from markupsafe import Markup

from ..judge import tolerance
from .digest import Document, Record, StageView, lanes
from .markup import breaking, number

NEAREST = 8  # tensors of a pipeline that are listed, those nearest to their limit
_FLOAT = (
    ("video latent", "video_latent", ".1e", tolerance.RUN),
    ("audio latent", "audio_latent", ".1e", tolerance.RUN),
    ("waveform", "waveform", ".1e", tolerance.WAVEFORM),
)
Column = tuple[str, Callable[[Record], str]]  # its title, and what it says of a run


# ---- pipelines ------------------------------------------------------------------------------------------------------


def pipelines(document: Document) -> list[dict[str, Any]]:
    """A table for each precision: what decides in it, with its limit."""
    found = []
    for dtype in dict.fromkeys(row["dtype"] for row in document["pipelines"]):
        rows = [row for row in document["pipelines"] if row["dtype"] == dtype]
        columns = _sizes() + (_in_float32() if dtype == "float32" else _in_half())
        lines = [
            {
                "name": _name(row),
                "config": row["config"],
                "verdict": row["verdict"],
                "first": row["first"],
                "why": row["why"],
                "numbers": [(title, value(row)) for title, value in columns],
            }
            for row in rows
        ]
        head = ["pipeline", "verdict", *(f"#{title}" for title, _ in columns)]
        found.append({"title": dtype, "meaning": _MEANING.get(dtype, _MEANING[""]), "head": head, "rows": lines})
    return found


_MEANING = {
    "float32": "The gate. Errors are relative (of the waveform: the largest of a sample); of the bytes of all frames a "
    "few may differ by 1, and none by more.",
    "": "Judged beside the reference's own distance from itself, with another order of sums. Single bytes are not "
    "judged here, since two runs of the reference differ in as many.",
}


def _name(row: Record) -> str:
    return str(row["pipeline"]).removeprefix("pipelines.")


def _sizes() -> list[Column]:
    return [
        ("frames", lambda row: number(row["frames"], "d")),
        ("steps", lambda row: number(row["steps"], "d")),
        ("seconds", lambda row: number(row["seconds"], ".1f")),
    ]


def _in_float32() -> list[Column]:
    def relative(key: str, form: str) -> Callable[[Record], str]:
        return lambda row: "0" if row[key] == 0 else number(row[key], form)

    errors = [(f"{title} (≤\u00a0{_plain(limit)})", relative(key, form)) for title, key, form, limit in _FLOAT]
    return [
        *errors,
        (f"bytes off by 1 (≤\u00a0{tolerance.PIXELS:.1%})", lambda row: _percent(row["off_by_one"])),
        ("bytes off by more (≤\u00a00)", lambda row: number(row["off_by_more"], ",d")),
    ]


def _in_half() -> list[Column]:
    least = -20 * log10(tolerance.NOISE)
    return [
        (f"PSNR of frames (≥\u00a0{least:.0f}\u00a0dB)", lambda row: _decibels(row["psnr"])),
        ("the reference beside itself", lambda row: _decibels(row["psnr_self"])),
        ("video latent", lambda row: _percent(row["video_latent"])),
        ("audio latent", lambda row: _percent(row["audio_latent"])),
        ("waveform, largest error", lambda row: number(row["waveform"], ".1e")),
    ]


def _plain(limit: float) -> str:
    """``5e-5``."""
    return f"{limit:.0e}".replace("e-0", "e-")


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{number(100 * value, '.2g')} %"


def _decibels(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} dB"


def pipeline_items(document: Document) -> list[dict[str, Any]]:
    """Each run with the tensors that do not pass, then those that come nearest to their limit."""
    found = []
    for row in document["pipelines"]:
        items = [_item(*item) for item in row["details"]]
        items.sort(key=lambda item: (item["verdict"] == "pass", -item["part"]))
        name = f"{_name(row)} {row['config']}, {row['dtype']}"
        note = f"{len(items):,} tensors, {row['steps']} steps"
        found.append({"name": name, "verdict": row["verdict"], "note": note, "rows": items[:NEAREST]})
    return found


def _item(name: str, error: float | None, limit: float | None, verdict: str) -> dict[str, Any]:
    part = error / limit if error is not None and limit else 0.0
    share = f"{part:.0%}" if error is not None and limit else "–"
    return {"name": name, "error": error, "limit": limit, "verdict": verdict, "part": part, "share": share}


# ---- self-test ------------------------------------------------------------------------------------------------------


def selftest(found: dict[str, Any]) -> dict[str, Any]:
    """How many planted faults are found, and where each is seen first."""
    summary = found["summary"]
    score: list[tuple[str, object]] = [
        ("faults planted", f"{summary.get('faults', 0):,}"),
        ("noticed", f"{summary.get('detected', 0):,}"),
    ]
    further = {"localised": "at their own tap", "equivalent": "change nothing, with a reason"}
    further |= {"false_alarms": "false alarms", "clean_tensors": "clean tensors judged"}
    score += [(words, f"{summary[key]:,}") for key, words in further.items() if key in summary]
    score += [(key, ", ".join(summary[key])) for key in ("void", "crashed") if summary.get(key)]
    if gate := summary.get("gate"):
        seen = f"{gate['parity'] + len(gate['tests'])} of {gate['faults']}"
        score.append(("seen by CI's own commands, of those planted in copies", seen))
    if told := summary.get("explained"):
        score.append(("true cause first, told by the others", f"{told['first']} of {told['of']}"))
    if "seconds" in summary:
        score.append(("time", f"{summary['seconds'] / 60:.0f} min"))
    return {"score": score, "kinds": summary.get("kinds", []), "faults": list(map(_fault, found.get("matrix", [])))}


def _fault(row: Record) -> Record:
    verdict, seen = ("pass", "at its tap") if row.get("localised") else ("pass", "elsewhere")
    if not row.get("detected"):
        verdict, seen = ("pass", row["equivalent"]) if row.get("equivalent") else ("missing", "not noticed")
    if row.get("state", "judged") != "judged":
        verdict, seen = "invalid", f"{row['state']}: {row['why']}"
    keys = ("id", "fault", "kind", "stage", "config", "lane")
    return {key: row.get(key, "–") for key in keys} | {
        "verdict": verdict,
        "seen": seen,
        "tap": row.get("first_tap") or "–",
    }


# ---- what was not compared ------------------------------------------------------------------------------------------


def holes(document: Document) -> list[str]:
    """The reasons why the run is incomplete, a line each."""
    found = [
        f"{c['stage']} {c['config']}: {name} is not compared"
        for c in document["summary"]["coverage"]
        for name in c["uncovered"]
    ]
    found += [f"{tap} is declared, and no case reaches it" for tap in document["summary"]["unseen"]]
    found += document["summary"]["silent"]
    for row in document.get("pipelines") or []:
        if row.get("verdict", "pass") != "pass":
            name = " ".join(str(row[key]) for key in ("pipeline", "config", "dtype") if row.get(key))
            why = " ".join(str(row[key]) for key in ("first", "why") if row.get(key))
            found.append(f"pipeline {name}: {row['verdict']} {why}")
    return [Markup(breaking(hole)) for hole in found]


def notes(document: Document, stages: list[StageView]) -> dict[str, Any]:
    """All that ``notes.html`` says."""
    measured = "None: each leaf module is compared, each parameter moves a compared tensor."
    calibration = document.get("calibration") or {}
    keys = ("primitive", "dtype", "terms", "constant", "used")
    return {
        "no_holes": measured
        if document["summary"]["coverage"]
        else "Not looked for: coverage is measured in lane A, over all blocks.",
        "absent": _absent(document, stages),
        "declared": _references(document, stages) + _declared(stages),
        "carried": document["summary"]["carried"],
        "bound": calibration.get("bound"),
        "measures": [
            {key: row[key] for key in keys} | {"verdict": "pass" if row["honest"] else "inconclusive"}
            for row in calibration.get("measures", [])
        ],
        "environment": list(document["environment"].items()),
        "reading": _reading(document["allowed"]),
    }


def _absent(document: Document, stages: list[StageView]) -> list[str]:
    found = [f"{stage.name}: {', '.join(stage.absent)}" for stage in stages if stage.absent]
    found += [f"lane {lane}" for lane in document["allowed"] if lane not in lanes(document)]
    found += [] if "A" in lanes(document) else ["coverage, which is measured in lane A"]
    if blocks := document.get("origin", {}).get("blocks"):
        found.append(f"blocks other than {blocks} (--blocks), and coverage, which needs all of them")
    return found


_RULES = (
    ("reference_only", "an input that only the reference hands around"),
    ("different", "a value that is otherwise in ours on purpose"),
    ("constant", "an output that may be constant in the reference"),
)


def _references(document: Document, stages: list[StageView]) -> list[list[str]]:
    """The stages with another reference than ltx-core."""
    versions = document["environment"]
    others = [(stage.name, stage.declared.get("reference", "ltx-core")) for stage in stages]
    return [
        [name, "all taps", f"compared with {other} {versions.get(other, '')}", "ltx-core 1.0.0 has no such thing"]
        for name, other in others
        if other != "ltx-core"
    ]


def _declared(stages: list[StageView]) -> list[list[str]]:
    lines: list[list[str]] = []
    for stage in stages:
        entry = stage.declared
        for key, rule in _RULES:
            lines += [[stage.name, tap, rule, reason] for tap, reason in entry.get(key, {}).items()]
        for config, names in entry.get("idle", {}).items():
            reason = f"{config} holds it and its network does not use it: checked to move nothing"
            lines += [[stage.name, name, "a parameter", reason] for name in names]
        reason = "depends on the reference's maths library: lane C starts from its values, lane A judges it"
        lines += [
            [stage.name, tap, "passed on from the reference in lane C", reason] for tap in entry.get("defined", [])
        ]
        reason = "random: drawn by the reference and given to ours, so that only the shape is compared"
        lines += [[stage.name, tap, "random numbers", reason] for tap in entry.get("injected", [])]
    return lines


def _reading(allowed: dict[str, float]) -> list[str]:
    return [
        "The ratio is ours over torch's: both errors are distances from the reference evaluated in float64 on the same "
        "inputs, and torch's counts at least as much as rounding alone explains. 1 is as good as torch, "
        f"{allowed['A']:g} is allowed. Single elements have a bound of their own; whichever is nearer to its bound is "
        "shown as the ratio.",
        "Lane A is the gate: float32, every tap fed the reference's inputs, so that a fault shows where it is.",
        "Lane B is bfloat16 and float16, against the reference's own error in them.",
        f"Lane C runs free from the inputs on; errors grow alike but not in step, so {allowed['C']:g} is allowed.",
        "A name with : is what flows into a tap: attn1:x is the argument x of attn1.",
        "Correlation and std are shown because people expect them. They decide nothing: a wrong scale correlates at 1.",
        "In a chart: point at a tensor for its name and numbers, click on it for its row and its commands, drag to "
        "zoom, double-click to zoom out. What is equal to the last bit has no point on a logarithmic axis.",
    ]
