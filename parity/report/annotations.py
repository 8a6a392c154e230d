"""Failures as annotations of a GitHub job, at the lines of our source that compute them."""

from __future__ import annotations

import os

from ..judge.place import Place
from ..judge.results import VERDICTS
from .digest import Document, Record, needed

MOST = 10  # GitHub shows no more for one step


def show(document: Document) -> None:
    """Print them where GitHub reads them, and nowhere else."""
    if os.environ.get("GITHUB_ACTIONS") == "true":
        for line in lines(document):
            print(line)


def lines(document: Document) -> list[str]:
    """At most ``MOST`` workflow commands, worst first: a tensor once, and isolated lanes if they fail at all."""
    bad = [row for row in document["taps"] if row["verdict"] != "pass"]
    bad = [row for row in bad if row["lane"] != "C"] or bad
    bad.sort(key=lambda row: (VERDICTS.index(row["verdict"]), -needed(row)))
    first: dict[tuple[str, str], Record] = {}
    for row in bad:
        first.setdefault((row["stage"], row["name"]), row)
    found = [_error(row, _narrowest(document, row)) for row in first.values()]
    holes = [f"{tap}: no case reaches it" for tap in document["summary"]["unseen"]]
    holes += document["summary"]["silent"]
    for c in document["summary"]["coverage"]:
        holes += [f"{c['stage']} {c['config']} {name}: not compared" for name in c["uncovered"]]
    return [*found, *(f"::error title=parity incomplete::{_data(hole)}" for hole in holes)][:MOST]


def _narrowest(document: Document, row: Record) -> Record | None:
    """The lines that make a row's tensor, where they are known: those of the first divergence."""
    first = document["summary"]["first_divergence"]
    same = first and all(row[key] == first[key] for key in ("stage", "config", "case", "lane", "name", "call"))
    return (document.get("explanation") or {}).get("narrowest") if same else None


def _error(row: Record, narrowest: Record | None) -> str:
    """At the narrowest lines that are known, or else at the function of ours that the tap wraps."""
    file, _, line = (row.get("source") or "").partition(":")
    where = f"file={_property(file)},line={int(line)}," if file and line.isdecimal() and len(line) < 10 else ""
    if narrowest:
        where = f"file={_property(narrowest['file'])},line={narrowest['first']},endLine={narrowest['last']},"
    title = f"{row['verdict']}: {row['name']}"
    text = f"{row['stage']} {row['config']} {row['case']} lane {row['lane']}: {row['name']}: {row['why']}"
    text += "".join(f"\n{command}" for command in Place.of(row).commands.values())
    return f"::error {where}title={_property(title)}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
