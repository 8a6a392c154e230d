"""The few pieces of HTML that every section is made of. What goes in as text is escaped here and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import isfinite

# A verdict is a symbol and a word; its colour only repeats them.
_MARKS = {"pass": ("✓", "pass"), "diverged": ("✕", "fail"), "invalid": ("✕", "fail"), "missing": ("◌", "warn")}
_MARKS |= {"incomplete": ("◌", "warn"), "inconclusive": ("?", "warn"), "not run": ("–", "none")}
_UNKNOWN = ("?", "warn")


class Html(str):
    """Markup, as against text that is still to be escaped."""


def text(value: object) -> Html:
    return value if isinstance(value, Html) else Html(escape(str(value)))


def tag(name: str, *content: object, **attributes: object) -> Html:
    """``<name …>content</name>``; ``class_`` is class, ``aria_label`` is aria-label, True is an attribute alone."""
    found = []
    for key, value in attributes.items():
        if value is not None and value is not False:
            key = key.rstrip("_").replace("_", "-")
            found.append(f" {key}" if value is True else f' {key}="{escape(str(value))}"')
    return Html(f"<{name}{''.join(found)}>{join(*content)}</{name}>")


def join(*parts: object) -> Html:
    return Html("".join(text(part) for part in parts if part is not None))


def kind(verdict: str) -> str:
    """The class that colours a verdict; an unknown word is a warning."""
    return _MARKS.get(verdict, _UNKNOWN)[1]


def mark(verdict: str) -> Html:
    symbol, name = _MARKS.get(verdict, _UNKNOWN)
    return tag("span", symbol, class_=f"mark {name}", aria_hidden="true")


def badge(verdict: str) -> Html:
    return tag("span", f"{_MARKS.get(verdict, _UNKNOWN)[0]} {verdict}", class_=f"badge {kind(verdict)}")


def code(value: str) -> Html:
    """A dotted name that may break after its dots."""
    return tag("code", breaking(value))


def breaking(value: str) -> Html:
    """A name that may break after its dots, slashes and underscores."""
    return Html(escape(value).replace(".", ".<wbr>").replace("/", "/<wbr>").replace("_", "_<wbr>"))


def table(caption: str, head: list[str], rows: Sequence[Sequence[object]], filtered: bool = False) -> Html:
    """A table in a box of its own, so that a wide one scrolls there. A head that starts with ``#`` is of numbers."""
    numeric = [name.startswith("#") for name in head]
    cells = [
        tag("th", name.lstrip("#"), scope="col", class_="n" if n else None)
        for name, n in zip(head, numeric, strict=True)
    ]
    body = [
        tag("tr", *(tag("td", cell, class_="n" if n else None) for cell, n in zip(row, numeric, strict=True)))
        for row in rows
    ]
    inner = tag("table", tag("caption", caption), tag("thead", tag("tr", *cells)), tag("tbody", *body))
    box = tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption)
    return join(_FILTER, box) if filtered else box


# Shown by the script that makes it work; without a script nothing is missing.
_FILTER = Html('<label class="filter" hidden>Filter <input type="search" autocomplete="off"></label>')


def definitions(pairs: Sequence[tuple[str, object]], class_: str = "facts") -> Html:
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs), class_=class_)


def number(value: float | None, form: str = ".2g") -> str:
    """``–`` for what has no value, ``∞`` for infinity."""
    if value is None or value != value:
        return "–"
    return format(value, form) if isfinite(value) else "∞"
