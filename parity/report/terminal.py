"""The run in a terminal: a table by layer, one by lane, coverage, and one line naming the first divergence."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape as _escape
from rich.table import Table

from ..judge.lines import printable
from ..judge.place import Place
from ..judge.results import EXIT_INCONCLUSIVE, Results, Row
from . import explanation

Key = TypeVar("Key")
_BLOCK = re.compile(r"^((?:\w+\.)*?(?:\w*blocks|layers)\.\d+)\b")
_STYLES = {"pass": "green", "inconclusive": "yellow", "missing": "red", "diverged": "bold red", "invalid": "bold red"}


def escape(text: object) -> str:
    """The text for a terminal: no markup, no escape sequence, one line."""
    return _escape(printable(text))


@functools.cache
def layer(name: str) -> str:
    """The layer that a tap belongs to: its block, or the first part of its path."""
    tap = name.partition(":")[0]
    found = _BLOCK.match(tap)
    return found.group(1) if found else tap.split(".")[0]


def show(results: Results, written: list[Path], console: Console | None = None) -> None:
    console = console or Console(width=None if Console().is_terminal else 132, highlight=False, emoji=False)
    for (stage, config), rows in _grouped(results.rows, lambda row: (row.stage, row.config)).items():
        console.print(_by_layer(escape(f"{stage}, {config}"), rows))
    if results.rows:
        console.print(_by_lane(results))
    if results.pipelines:
        console.print(_by_pipeline(results))
    for c in results.coverage:
        console.print(
            f"coverage  {escape(c.stage)} {escape(c.config)}: {c.leaves_compared}/{c.leaves} leaf modules compared, "
            f"{c.parameters_moving}/{c.parameters} parameters move a compared tensor "
            f"({c.elements_moving:,}/{c.elements:,} elements)",
            style=None if c.whole else "red",
        )
    if blocks := results.origin.get("blocks"):
        console.print(f"blocks    {escape(blocks)} alone (--blocks), so that coverage is not measured")
    for hole in results.unseen:
        console.print(f"never seen: {escape(hole)}", style="red")
    for part in results.silent:
        console.print(f"not judged: {escape(part)}", style="red")
    for path in written:
        console.print(f"written   {escape(path)}")
    env = ", ".join(f"{k} {v}" for k, v in results.environment.items() if k not in ("machine", "device"))
    console.print(
        escape(f"on        {results.environment.get('machine')}; MLX on {results.environment.get('device')}; {env}")
    )
    console.print(f"rounding  {results.device.sentence}")
    for measure in results.device.beyond:
        console.print(f"device    {measure.sentence}", style="yellow")
    console.print(_verdict(results))
    if first := results.summary()["first_divergence"]:
        for line in explanation.lines(results.explanation, Place.of(first)):
            console.print(escape(line), soft_wrap=True)


def _grouped(rows: list[Row], key: Callable[[Row], Key]) -> dict[Key, list[Row]]:
    """The rows of each key, in their order: a run has 75,000."""
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def _by_layer(title: str, rows: list[Row]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("layer", "lanes"):
        table.add_column(name)
    for name in ("tensors", "worst 1 − r", "std ours", "std reference", "worst rel L2", "torch's own", "worst ratio"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for key, group in _grouped(rows, lambda row: layer(row.name)).items():
        gate = [row for row in group if row.lane == "A"] or group
        worst = max(gate, key=lambda row: row.needed_k)
        shown = next(
            (row for row in reversed(gate) if row.case == "base" and "std_mlx" in row.metrics and ":" not in row.name),
            worst,
        )
        decorrelation = max((row.metrics.get("one_minus_r", 0.0) for row in gate), default=0.0)
        verdict = min(group, key=lambda row: list(_STYLES)[::-1].index(row.verdict)).verdict
        table.add_row(
            escape(key),
            "".join(sorted({row.lane for row in group})),
            f"{len(group):,}",
            _number(decorrelation),
            _number(shown.metrics.get("std_mlx"), ".4f"),
            _number(shown.metrics.get("std_ref"), ".4f"),
            _number(worst.metrics.get("rel_l2")),
            _number(worst.metrics.get("rel_l2_reference")),
            f"{worst.needed_k:.2f}",
            f"[{_STYLES[verdict]}]{verdict}",
        )
    return table


def _by_lane(results: Results) -> Table:
    meaning = {"A": "isolated, float32 (the gate)", "B": "bfloat16 and float16", "C": "free-running, float32"}
    table = Table(title="\nby lane", title_justify="left", box=None, pad_edge=False)
    for name in ("stage", "config", "lane", "tensors", "worst ratio", "at", "verdict"):
        table.add_column(name, justify="right" if name in ("tensors", "worst ratio") else "left")
    for key, rows in _grouped(results.rows, lambda row: (row.stage, row.config, row.lane)).items():
        worst = max(rows, key=lambda row: row.needed_k)
        bad = sum(row.verdict != "pass" for row in rows)
        verdict = f"[bold red]{bad} not passed" if bad else "[green]pass"
        table.add_row(
            escape(key[0]),
            escape(key[1]),
            f"{key[2]}  {meaning[key[2]]}",
            f"{len(rows):,}",
            f"{worst.needed_k:.2f}",
            escape(f"{worst.case} {worst.name}"),
            verdict,
        )
    return table


def _by_pipeline(results: Results) -> Table:
    title = "\npipelines, end to end (float32: gate; bfloat16: beside what the reference reaches against itself)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name, width in (("pipeline", 22), ("config", 8), ("dtype", 8)):
        table.add_column(name, min_width=width)
    columns = ("frames", "steps", "latents", "audio", "bytes off by 1", "more", "PSNR", "itself", "mel", "waveform")
    for name in columns:
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for row in results.pipelines:
        table.add_row(
            escape(row.pipeline.removeprefix("pipelines.")),
            escape(row.config),
            row.dtype,
            _number(row.frames, "d"),
            _number(row.steps, "d"),
            _number(row.video_latent),
            _number(row.audio_latent),
            _number(row.off_by_one),
            _number(row.off_by_more, ",d"),
            _number(row.psnr, ".1f"),
            _number(row.psnr_self, ".1f"),
            _number(row.mel),
            _number(row.waveform),
            f"[{_STYLES[row.verdict]}]{row.verdict}" + (f" at {escape(row.first)}" if row.first else ""),
        )
    return table


def _verdict(results: Results) -> str:
    first = results.first_divergence()
    counts = f"{len(results.rows):,} tensors judged, {results.carried:,} more passed on unchanged"
    if results.pipelines:
        counts += f", {len(results.pipelines)} runs of pipelines"
    size = f"{results.seconds:.0f} s, {results.peak_gb:.1f} GB"
    if first:
        why = f" ({first.why})" if first.why else ""
        failed = f"{len(results.failures())} not passed of {counts}; {size}"
        return f"[bold red]first divergence: {escape(first.place)}: {first.verdict}{escape(why)}[/]\n{failed}"
    if results.exit_code() == EXIT_INCONCLUSIVE:
        return f"[bold yellow]inconclusive[/]: {escape(results.device.beyond[0].sentence)}; {counts}; {size}"
    if results.exit_code():
        return f"[bold red]incomplete[/]: {counts}; {size}"
    worst = results.worst("A")
    ratio = f"worst lane-A ratio {worst.needed_k:.2f} at {escape(worst.place)}; " if worst else ""
    return f"[bold green]pass[/]: {counts}; {ratio}{size}"


def _number(value: float | None, form: str = ".1e") -> str:
    return "–" if value is None or value != value else format(value, form)
