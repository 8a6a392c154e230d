"""The run as Markdown: the step summary of a CI job, and the table in ``parity/README.md``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ..judge.lines import printable
from ..judge.place import Place
from ..judge.results import EXIT_INCONCLUSIVE
from . import explanation

_MARKUP = re.compile(r"[\\`*~\[\]<>&|@]|://|www\.")


def plain(text: str) -> str:
    """The text in Markdown, without markup, links, HTML, mentions, or an end of its cell or line."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0][0])};{found[0][1:]}", printable(text))


def code(text: str) -> str:
    """The same as code, in which nothing can be escaped: what ends it, a cell, or begins HTML looks alike only."""
    return f"`{printable(text).translate(str.maketrans('`|<>', chr(39) + '¦‹›'))}`"


def table(document: dict[str, Any], by_config: bool = True) -> str:
    """A row for each stage and config, or for each stage: coverage and the worst ratio of each lane."""

    def key(entry: dict[str, Any]) -> tuple[str, str]:
        return entry["stage"], entry["config"] if by_config else ""

    references = {entry["stage"]: entry.get("reference", "ltx-core") for entry in document.get("stages", [])}
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in document["taps"]:
        groups.setdefault(key(row), []).append(row)
    lines = ["| stage | checkpoint | leaf modules | parameters | tensors judged | worst ratio A | B | C | verdict |"]
    lines.append("|---|---|--:|--:|--:|--:|--:|--:|---|")
    for (stage, config), rows in groups.items():
        covered = [c for c in document["summary"]["coverage"] if key(c) == (stage, config)]
        bad = sum(row["verdict"] != "pass" for row in rows)
        cells = [
            plain(stage) + _beside(references.get(stage, "ltx-core")),
            plain(config) or f"{len({row['config'] for row in rows})}",
            _of(covered, "leaves_compared", "leaves"),
            _of(covered, "parameters_moving", "parameters"),
            f"{len(rows):,}",
            *(_ratio([row for row in rows if row["lane"] == lane]) for lane in "ABC"),
            f"**{bad} not passed**" if bad else "pass",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    text = "\n".join(lines)
    return text if by_config else text.replace("| checkpoint |", "| checkpoints |")


def _beside(reference: str) -> str:
    return "" if reference == "ltx-core" else plain(f" (beside {reference})")


def pipelines_table(document: dict[str, Any], by_config: bool = True) -> str:
    """A row for each pipeline and config, or for each pipeline: the worst of both precisions."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in document["pipelines"]:
        groups.setdefault((row["pipeline"], row["config"] if by_config else ""), []).append(row)
    if not groups:
        return ""
    lines = [
        f"| pipeline | {'checkpoint' if by_config else 'checkpoints'} | frames | steps | float32: video latent | "
        "audio latent | bytes off by 1 | by more | waveform | bfloat16: PSNR | reference itself | verdict |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for (name, config), rows in groups.items():
        float32 = [row for row in rows if row["dtype"] == "float32"]
        half = [row for row in rows if row["dtype"] == "bfloat16"]
        bad = next((row for row in rows if row["verdict"] != "pass"), None)
        cells = [
            plain(name.removeprefix("pipelines.")),
            plain(config) or f"{len({row['config'] for row in rows})}",
            _extreme(rows, "frames", "d", min),
            _extreme(rows, "steps", "d", min),
            *(_extreme(float32, key, ".1e") for key in ("video_latent", "audio_latent", "off_by_one")),
            _extreme(float32, "off_by_more", "d"),
            _extreme(float32, "waveform", ".1e"),
            *(_extreme(half, key, ".1f", min) for key in ("psnr", "psnr_self")),
            f"**{bad['verdict']} at {plain(bad['first'])}**" if bad else "pass",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _extreme(rows: list[dict[str, Any]], key: str, form: str, of: Callable[..., Any] = max) -> str:
    values = [row[key] for row in rows if row[key] is not None]
    return format(of(values), form) if values else "–"


def _of(covered: list[dict[str, Any]], part: str, whole: str) -> str:
    return f"{sum(c[part] for c in covered):,} of {sum(c[whole] for c in covered):,}" if covered else "–"


def _ratio(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "–"
    return "∞" if any(row["needed_k"] is None for row in rows) else f"{max(row['needed_k'] for row in rows):.2f}"


def sentence(document: dict[str, Any]) -> str:
    """Outcome, size, time, machine and versions in one paragraph."""
    summary, env = document["summary"], document["environment"]
    first = summary["first_divergence"] or summary["first_pipeline"]
    outcome = "Everything passes."
    if first:
        outcome = f"**First divergence: {code(first['place'])}: {first['verdict']} {plain(first['why'])}**."
    elif summary["exit_code"] == EXIT_INCONCLUSIVE:
        outcome = "**Inconclusive: the device is off by more than rounding.**"
    elif summary["exit_code"]:
        outcome = "**Incomplete.**"
    worst = summary["worst"].get("A")
    ratio = (
        f" Worst lane-A ratio {worst['needed_k']:.2f} (3 is allowed) at {code(worst['place'])}."
        if worst and not first
        else ""
    )
    versions = ", ".join(
        plain(f"{name} {version}") for name, version in env.items() if name not in ("machine", "device")
    )
    return (
        f"{outcome}{ratio} {summary['taps']:,} tensors and {summary['pipelines']} runs of pipelines judged in "
        f"{summary['seconds']:.0f} s and "
        f"{summary['peak_gb']:.1f} GB on {plain(env.get('machine', 'an unknown machine'))}; "
        f"MLX on the {plain(env.get('device', '?').upper())}; {versions}."
    )


def _explained(document: dict[str, Any]) -> str:
    """Likely causes, lines and commands for the first divergence, as a block of plain text."""
    if not (first := document["summary"]["first_divergence"]):
        return ""
    lines = [printable(line) for line in explanation.lines(document.get("explanation"), Place.of(first))]
    fence = max((run for line in lines for run in re.findall("`{3,}", line)), key=len, default="``") + "`"
    return "\n".join([fence, *lines, fence])


def markdown(document: dict[str, Any], by_config: bool = True) -> str:
    tables = [table(document, by_config), pipelines_table(document, by_config), sentence(document)]
    tables += [_explained(document)]
    return "\n\n".join(text for text in tables if text) + "\n"
