"""``parity tables``: write what runs on this machine have shown, and the table of symptoms, into the documents.

Each table stands between two markers, ``<!-- NAME: start -->`` and ``<!-- NAME: end -->``.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from ltx2_mlx.errors import InputError

from ..debug import symptoms
from ..judge.documents import AGAIN
from ..judge.files import RunError, read_bytes, write_whole
from ..judge.lines import printable
from ..judge.results import EXIT_OK, read_results
from ..report import scores, summary
from ..run.environment import code_digest


def insert(text: str, name: str, table: str) -> str | None:
    """``text`` with a table between its two markers of that name; None where it has no place for it."""
    start, end = f"<!-- {name}: start -->", f"<!-- {name}: end -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    return f"{before}{start}\n{table.rstrip()}\n{end}{after}" if found and closed else None


def fill(documents: list[Path], tables: dict[str, str]) -> None:
    """Write every table where a document has its markers. Raises InputError for one that has a place in none,
    and RunError for a document that cannot be read or written."""
    texts = {path: _text(path) for path in documents}
    for name, table in tables.items():
        filled = {path: new for path, text in texts.items() if (new := insert(text, name, table)) is not None}
        if not filled:
            named = ", ".join(map(str, documents))
            raise InputError(f"no place for the table '{name}' in {named}: expected <!-- {name}: start --> and its end")
        texts |= filled
    for path, text in texts.items():
        write_whole(path, text)


def _text(path: Path) -> str:
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError:
        raise RunError(f"{path}: no text in UTF-8") from None


def selftest(document: dict[str, Any]) -> str:
    """The score in a sentence and kind by kind, and the matrix folded away."""
    s = document["summary"]
    lines = [
        f"{s['faults']} faults planted one at a time: {s['detected']} noticed, {s['localised']} at the tap "
        f"they belong to, {s['equivalent']} that go unnoticed (each with its reason), {len(s['void'])} void, "
        f"{len(s['crashed'])} crashed, {s['false_alarms']} false alarms over clean runs with three seeds, in "
        f"{s['seconds'] / 60:.0f} minutes.",
        "",
        *([_gate(s["gate"]), ""] if s["gate"] else []),
        "| kind | faults | noticed | at their tap | canary |",
        "|---|--:|--:|--:|---|",
        *(_row(k["kind"], k["faults"], k["detected"], k["localised"], k["void"] or k["canary"]) for k in s["kinds"]),
        "",
        "<details><summary>Every fault, the lane that caught it, and where</summary>",
        "",
        "| id | kind | fault | lane | first seen at |",
        "|---|---|---|---|---|",
    ]
    for row in document["matrix"]:
        seen = f"`{row['first_tap']}`" if row["detected"] else row["equivalent"] or "not noticed"
        seen += "" if row["localised"] or not row["detected"] else f" (expected `{row['expected_tap']}`)"
        seen = seen if row["state"] == "judged" else f"{row['state']}: {row['why']}"
        seen = re.sub(r"(?<=`)/\S*/(?=[^/\s]+\.safetensors)", "", seen)  # whose folder it was is nobody's business
        lines.append(_row(row["id"], row["kind"], row["fault"], row["lane"], seen))
    return "\n".join([*lines, "", "</details>"])


def _row(*cells: object) -> str:
    """Our own Markdown (names are code) in cells: one line, no HTML."""
    made = (printable(str(cell).replace("\n", " ")).replace("|", "&#124;").replace("<", "&lt;") for cell in cells)
    return f"| {' | '.join(made)} |"


def _gate(found: dict[str, Any]) -> str:
    """What the commands of CI say, in a sentence."""
    said = (
        f"Of {found['faults']} faults in copies of the checkout, `parity run` saw {found['parity']}, and the product's "
        f"tests {len(found['tests'])} more"
    )
    missed = f"nobody saw {', '.join(found['missed'])}" if found["missed"] else "none was missed"
    return f"{said}; {missed}; {len(found['crashed'])} crashed."


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    tables = commands.add_parser("tables", help="write the tables of the documents from a run and a selftest")
    tables.add_argument("results", type=Path, metavar="RESULTS.json")
    tables.add_argument("score", type=Path, metavar="SELFTEST.json")
    tables.add_argument(
        "documents", type=Path, nargs="+", metavar="DOCUMENT.md", help="each table goes wherever one has its markers"
    )
    tables.set_defaults(handler=_tables)


def _of_this_code(path: Path) -> dict[str, Any]:
    """A finished results.json. Raises RunError for one that other code made: the documents would tell of another."""
    document = read_results(path)
    if document["code"] != code_digest():
        raise RunError(f"{path}: made by other code than this. {AGAIN}")
    return dict(document)


def _tables(args: argparse.Namespace) -> int:
    tables = {
        "parity": summary.markdown(_of_this_code(args.results), by_config=False),
        "selftest": selftest(scores.read(args.score)),
        "symptoms": symptoms.markdown(),
    }
    fill(args.documents, tables)
    return EXIT_OK
