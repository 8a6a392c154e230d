"""Correlation, std and error by depth: a picture of a stage on a config, in the order of computation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..judge.files import write_whole
from .digest import Document, Record
from .terminal import layer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, FREE, TORCH, REFERENCE, FAIL = "#0072b2", "#d55e00", "#777777", "#bbbbbb", "#cc0000"
MOST = 4  # pictures of a run that fails
FLOOR = 1e-9  # errors below are drawn here


def by_depth(document: Document, folder: Path, every: bool = False) -> list[Path]:
    """Draw the cells (a stage on a config) that fail, or ``every`` cell; the paths of the pictures.

    A picture takes half a second, and the page has curves of its own, so that a run that passes draws none.
    """
    cells: dict[tuple[str, str], list[Record]] = {}
    for row in document["taps"]:
        if ":" not in row["name"] and row["rel_l2"] is not None:
            cells.setdefault((row["stage"], row["config"]), []).append(row)
    failing = [key for key, rows in cells.items() if any(row["verdict"] != "pass" for row in rows)]
    drawn = (_cell(*key, cells[key], folder) for key in (cells if every else failing[:MOST]))
    return [path for path in drawn if path]


def _cell(stage: str, config: str, rows: list[Record], folder: Path) -> Path | None:
    """One case of the cell, the first that fails or else the first; None where nothing is rounded."""
    case = next((row["case"] for row in rows if row["verdict"] != "pass"), rows[0]["case"])
    places = dict.fromkeys((row["name"], row["call"]) for row in rows if row["case"] == case)  # in order
    # What is passed on unchanged from an inner tap says nothing; constants have no correlation.
    rows = [row for row in rows if row["case"] == case and row["std_ref"] and row["one_minus_r"]]
    if not any(row["rel_l2_reference"] for row in rows):
        return None
    shown = {(row["name"], row["call"]) for row in rows}
    order = {place: i for i, place in enumerate(place for place in places if place in shown)}
    return _draw(rows, order, f"{stage}, {config}, case {case}", folder / f"{_name(stage)}-{_name(config)}.png")


def _name(text: str) -> str:
    """A part of a file's name, whatever the results name a stage: it stays in the folder."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in text)[:80]


def _draw(rows: list[Record], order: dict[tuple[str, int], int], title: str, path: Path) -> Path:
    import matplotlib  # not above: a run that passes draws nothing

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(3, 1, figsize=(11, 8), sharex=True)
    figure.subplots_adjust(left=0.09, right=0.99, top=0.96, bottom=0.11, hspace=0.08)
    correlation, std, error = axes

    def draw(axis: Axes, group: list[Record], metric: str, form: str, colour: str, label: str, **style: Any) -> None:
        if group:
            x = [order[row["name"], row["call"]] for row in group]
            axis.plot(x, [max(row[metric], FLOOR**2) for row in group], form, color=colour, label=label, **style)

    free = [row for row in rows if row["lane"] == "C"]
    gate = [row for row in rows if row["lane"] != "C"]
    bad = [row for row in rows if row["verdict"] != "pass"]
    for axis, metric in ((correlation, "one_minus_r"), (error, "rel_l2")):
        draw(axis, gate, metric, ".", OURS, "ours, isolated", ms=3)
        draw(axis, free, metric, ".", FREE, "ours, free-running", ms=3)
        draw(axis, bad, metric, "x", FAIL, f"{len(bad)} not passed", ms=6)
    draw(error, gate, "rel_l2_reference", "-", TORCH, "torch's own error, isolated", lw=0.7)
    draw(std, gate or free, "std_ref", "-", REFERENCE, "reference", lw=2.5)
    draw(std, gate or free, "std_mlx", "-", OURS, "ours", lw=0.8)
    names = ("1 − correlation with the reference", "std", "relative L2 error\nagainst the float64 oracle")
    for axis, name in zip(axes, names, strict=True):
        axis.set_yscale("log")
        axis.minorticks_off()  # hundreds of labels that are measured and not shown: most of the time
        axis.set_ylabel(name)
        axis.grid(True, axis="y", lw=0.3)
        axis.legend(loc="upper left", fontsize=8, markerscale=2.5, ncols=4)
        axis.margins(y=0.25)
    ticks = _layers([name for name, _ in order])
    error.set_xticks(list(ticks), list(ticks.values()), rotation=30, ha="right", fontsize=8)
    correlation.set_title(title, loc="left")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    plt.close(figure)
    write_whole(path, picture.getvalue())
    return path


def _layers(names: list[str]) -> dict[int, str]:
    """Where each run of one layer's taps begins → its name, where there is room for it; that of a block rather than
    that of another layer."""
    ticks: dict[int, str] = {}
    blocks: set[int] = set()
    last = None
    for i, name in enumerate(names):
        if (found := layer(name)) != last:
            last = found
            crowded = [k for k in ticks if i - k < len(names) / 30]
            if found[-1].isdigit() and blocks.isdisjoint(crowded):
                for k in crowded:
                    del ticks[k]
                blocks.add(i)
            elif crowded:
                continue
            ticks[i] = found.replace("transformer_blocks.", "block ").lstrip("_")
    return ticks
