"""The templates of all pages: their filters, their style sheets and scripts. What goes in as text is escaped there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ..judge.files import write_whole

HERE = Path(__file__).parent
ASSETS = ("uplot.css", "report.css", "uplot.js", "report.js")
# A verdict is a symbol and a word; its colour only repeats them.
_MARKS = {"pass": ("✓", "pass"), "diverged": ("✕", "fail"), "invalid": ("✕", "fail"), "missing": ("◌", "warn")}
_MARKS |= {"incomplete": ("◌", "warn"), "inconclusive": ("?", "warn"), "not run": ("–", "none")}
_UNKNOWN = ("?", "warn")


def render(template: str, **context: Any) -> str:
    """The page of a template. inline: style and scripts are in it; without, ``root``/assets holds them."""
    return _environment().get_template(template).render(**({"inline": True, "root": ""} | context))


def write_assets(folder: Path) -> None:
    """Style sheets and scripts, for pages that are not ``inline``. Raises RunError."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ASSETS:
        write_whole(folder / name, asset(name))


@cache
def asset(name: str) -> Markup:
    return Markup((HERE / "assets" / name).read_text(encoding="utf-8"))


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.globals["asset"] = asset
    made.filters |= {
        "kind": kind,
        "symbol": lambda verdict: _MARKS.get(verdict, _UNKNOWN)[0],
        "breaking": breaking,
        "number": number,
        "n": lambda value: f"{value:,}",
        "percent": lambda value: f"{value:.0%}",
        "shown": shown,
        "columns": columns,
        "place": place,
        "needed": lambda row: row["needed_k"] if row["needed_k"] is not None else float("inf"),
    }
    return made


def kind(verdict: str) -> str:
    """The class that colours a verdict; an unknown word is a warning."""
    return _MARKS.get(verdict, _UNKNOWN)[1]


def breaking(value: object) -> Markup:
    """A name that may break after its dots, slashes and underscores."""
    text = str(escape(value))
    return Markup(text.replace(".", ".<wbr>").replace("/", "/<wbr>").replace("_", "_<wbr>"))


def number(value: float | None, form: str = ".2g") -> str:
    """``–`` for what has no value, ``∞`` for infinity."""
    if value is None or value != value:
        return "–"
    return format(value, form) if isfinite(value) else "∞"


def place(row: dict[str, Any]) -> str:
    """The tap of a row, with the number of its call where it is not the first."""
    return f"{row['name']}#{row['call']}" if row["call"] else row["name"]


# ---- records of any keys --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    key: str
    number: bool

    @property
    def title(self) -> str:
        return self.key.replace("_", " ")

    @property
    def head(self) -> str:
        return f"#{self.title}" if self.number else self.title


def columns(rows: Sequence[dict[str, Any]]) -> list[Column]:
    """A column for each key that any of the records has."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return [Column(key, all(_is_number(row.get(key)) for row in rows)) for key in keys]


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def shown(value: object) -> str:
    """A value of a record as text."""
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
