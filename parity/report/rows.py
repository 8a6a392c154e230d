"""Every row of a stage for the script of its page: columns of numbers, so packed that 37,000 rows are small."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from typing import Any

from ..judge.place import Place
from ..judge.results import VERDICTS
from .digest import Record
from .terminal import layer

# A column of the page: how it is called there, the key of results.json, and how many digits are kept.
_NUMBERS = (
    ("error", "rel_l2", 3),
    ("torch", "rel_l2_reference", 3),
    ("decorrelation", "one_minus_r", 2),
    ("floor", "floor", 3),
)


def packed(value: object) -> str:
    """JSON, compressed, in letters; the page's script unpacks it (``DecompressionStream``)."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "backslashreplace"), 6, mtime=0)).decode()


def columns(rows: Sequence[Record], allowed: dict[str, float]) -> dict[str, Any]:
    """The rows as columns. Words stand once, in a list of their own, and a row has their number.

    ``ratio`` is -1 for infinity. ``ours`` is null where the std of ours is the reference's to four digits.
    """
    made: dict[str, Any] = {"verdicts": list(VERDICTS), "allowed": allowed, "count": len(rows)}
    words: dict[str, Callable[[Record], str]] = {
        "name": lambda row: row["name"],
        "config": lambda row: row["config"],
        "case": lambda row: row["case"],
        "lane": lambda row: row["lane"],
        "kind": lambda row: f"{row['dtype'] or '–'} {'×'.join(map(str, row['shape']))}".strip(),
        "why": lambda row: row["why"],
        "source": lambda row: row.get("source") or "",
    }
    for key, word in words.items():
        made[f"{key}s"], made[key] = _numbered(map(word, rows))
    made["layers"] = [layer(name) for name in made["names"]]
    made["verdict"] = [VERDICTS.index(row["verdict"]) for row in rows]
    made["call"] = [row["call"] for row in rows]
    made["seed"] = rows[0].get("seed", 0) if rows else 0
    made["ratio"] = [-1 if row["needed_k"] is None else _digits(row["needed_k"], 3) for row in rows]
    for name, key, kept in _NUMBERS:
        made[name] = [_digits(row[key], kept) for row in rows]
    std = [(_digits(row["std_ref"], 4), _digits(row["std_mlx"], 4)) for row in rows]
    made["reference"] = [reference for reference, _ in std]
    made["ours"] = [None if ours == reference else ours for reference, ours in std]
    return made


def _numbered(values: Iterable[str]) -> tuple[list[str], list[int]]:
    """The words that there are, and for each value the number of its own."""
    found: dict[str, int] = {}
    numbers = [found.setdefault(value, len(found)) for value in values]
    return list(found), numbers


def _digits(value: float | None, kept: int) -> float | int | None:
    if value is None or not isfinite(value):
        return None
    rounded = float(f"{value:.{kept}g}")
    return int(rounded) if rounded == int(rounded) and abs(rounded) < 1e6 else rounded


def query(row: Record) -> str:
    """The end of a link that leads to a row in its stage's page, for the script there."""
    from urllib.parse import urlencode

    keys = {"stage": row["stage"], "config": row["config"], "case": row["case"], "lane": row["lane"]}
    return urlencode(keys | {"tap": row["name"], "call": row["call"]})


def commands(row: Record) -> list[str]:
    """The commands to go on with from a row: alone, why, and where."""
    lane = f" --lane {row['lane']}"
    alone = f"python -m parity run --stage {row['stage']} --config {row['config']}{lane}"
    return [*Place.of(row).commands.values(), alone]
