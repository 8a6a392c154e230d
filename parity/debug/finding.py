"""The result of a view: tables, charts and one plain sentence; printed and drawn here."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from ..judge.files import write_whole
from ..judge.lines import printable

OURS, REFERENCE = "#0072b2", "#777777"
_OTHERS = ("#d55e00", "#009e73", "#cc79a7", "#e69f00")
_MOST_ROWS = 60  # of a table; the chart has the rest


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


@dataclass(frozen=True)
class Lines:
    """One line a series over ``names``; a series whose name starts with "reference" is drawn beside ours in grey."""

    title: str
    ylabel: str
    names: list[str]
    series: Mapping[str, Sequence[float]]
    log: bool = False


@dataclass(frozen=True)
class Pictures:
    """Images ``(H, W)`` or ``(H, W, 3)`` in a row, each on its own scale."""

    title: str
    images: dict[str, np.ndarray]


@dataclass(frozen=True)
class Grid:
    """Values in [−1, 1] by row and column."""

    title: str
    rows: list[str]
    columns: list[str]
    values: np.ndarray


Chart = Lines | Pictures | Grid


@dataclass(frozen=True)
class Finding:
    """The result of a view: one plain sentence, and the tables and charts that it was read from."""

    sentence: str
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()


def number(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    return str(value)


def show(finding: Finding, console: Console | None = None) -> None:
    console = console or Console(width=None if Console().is_terminal else 132, highlight=False, emoji=False)
    for table in finding.tables:
        rich = RichTable(box=None, title=escape(table.title), title_justify="left")
        for i, column in enumerate(table.columns):
            rich.add_column(escape(column), justify="right" if i else "left", overflow="fold")
        for row in table.rows[:_MOST_ROWS]:
            rich.add_row(*(escape(printable(number(cell))) for cell in row))
        console.print(rich)
        if len(table.rows) > _MOST_ROWS:
            console.print(f"… and {len(table.rows) - _MOST_ROWS} more rows")
        console.print()
    console.print(f"finding   {escape(printable(finding.sentence))}")


def draw(finding: Finding, path: Path) -> Path | None:
    """The charts, one below the other; None where there are none."""
    if not finding.charts:
        return None
    n = len(finding.charts)
    figure = plt.figure(figsize=(11, 3.4 * n + 0.6), layout="constrained")
    parts = figure.subfigures(n, 1, squeeze=False)[:, 0]
    for part, chart in zip(parts, finding.charts, strict=True):
        if isinstance(chart, Lines):
            _draw_lines(part, chart)
        elif isinstance(chart, Pictures):
            _draw_pictures(part, chart)
        else:
            _draw_grid(part, chart)
    figure.suptitle(finding.sentence, fontsize=8, wrap=True)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    plt.close(figure)
    write_whole(path, picture.getvalue())
    return path


def _draw_lines(figure: Any, chart: Lines) -> None:
    axes = figure.subplots()
    others, ours = iter(_OTHERS * len(chart.series)), 0
    marker = "." if len(chart.names) <= 100 else None
    for name, values in chart.series.items():
        if name.startswith("reference"):  # below ours and wider, so that both show where they are equal
            style = {"color": REFERENCE, "lw": 4, "alpha": 0.45, "zorder": 1}
        elif name.startswith("ours"):
            style, ours = {"color": OURS, "lw": 1, "marker": marker, "ls": ("-", "--")[ours % 2]}, ours + 1
        else:
            style = {"color": next(others), "lw": 1, "marker": marker}
        axes.plot(values, label=name, **style)
    ticks = range(0, len(chart.names), max(1, -(-len(chart.names) // 30)))
    axes.set_xticks(ticks, [_short(chart.names[i]) for i in ticks], rotation=35, ha="right", fontsize=7)
    positive = [v for values in chart.series.values() for v in values if v > 0]
    if chart.log and positive and max(positive) > 20 * min(positive):
        axes.set_yscale("log")
    axes.set_ylabel(chart.ylabel)
    axes.set_title(chart.title, loc="left", fontsize=9)
    axes.grid(True, axis="y", lw=0.3)
    axes.legend(fontsize=7)


def _short(name: str) -> str:
    """The end of a long name; a $ is no formula."""
    return (name if len(name) <= 30 else f"…{name[-29:]}").replace("$", r"\$")


def _draw_pictures(figure: Any, chart: Pictures) -> None:
    axes = figure.subplots(1, len(chart.images), squeeze=False)[0]
    for ax, (name, image) in zip(axes, chart.images.items(), strict=True):
        ax.imshow(image, cmap="gray" if image.ndim == 2 else None, interpolation="nearest")
        ax.set_title(name, fontsize=8)
        ax.set_axis_off()
    figure.suptitle(chart.title, fontsize=9, x=0.01, ha="left")


def _draw_grid(figure: Any, chart: Grid) -> None:
    axes = figure.subplots()
    image = axes.imshow(chart.values, aspect="auto", vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    axes.set_yticks(range(len(chart.rows)), chart.rows, fontsize=6)
    ticks = range(0, len(chart.columns), max(1, -(-len(chart.columns) // 40)))
    axes.set_xticks(ticks, [_short(chart.columns[i]) for i in ticks], rotation=60, ha="right", fontsize=7)
    figure.colorbar(image, ax=axes, label=chart.title)
