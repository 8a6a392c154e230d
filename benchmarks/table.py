"""The table of the last ``make bench``, its comparison with the one before, and the README's tables.

    python benchmarks/table.py reports/latest/bench
    python benchmarks/table.py reports/latest/bench --write benchmarks/README.md

One table for each device is kept between its markers in the README: a run on a GPU does not replace that of a CPU.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

SLOWER = 1.25  # times as long as last time is named: runs of a quiet machine differ by less
Rows = dict[str, dict[str, Any]]


def rows_of(path: Path) -> Rows:
    """Name of a part → what was measured."""
    found = json.loads(path.read_text())["benchmarks"]
    return {row["extra_info"]["name"]: row["extra_info"] for row in found if "name" in row["extra_info"]}


def table(rows: Rows) -> str:
    """The rows in Markdown."""
    lines = ["| part | beside | its ms / GB | ours, ms / GB | time | memory |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        sides = (f"{row[f'{side}_ms']:,.0f} / {row[f'{side}_gb']:.2f}" for side in ("other", "ours"))
        lines.append(
            f"| {name} | {row['beside']} | {' | '.join(sides)} | {row['time']:.2f} × | {row['memory']:.2f} × |"
        )
    return "\n".join(lines)


def caption(rows: Rows) -> str:
    """The machine, in a sentence."""
    row = next(iter(rows.values()))
    on = row["machine"]
    where = on["cpu"] if on["gpu"] == "none" else on["gpu"]
    versions = ", ".join(f"{name} {on[name]}" for name in ("mlx", "torch", "ltx-core"))
    return f"{where}; {row['dtype']}; {versions}, Python {on['python']}, {on['platform']}."


def compared(now: Rows, before: Rows) -> tuple[list[str], list[str]]:
    """A line for each part that was measured both times on the same device, and the names of those that became slower
    or larger."""
    lines, worse = [], []
    for name, row in now.items():
        old = before.get(name)
        if old is None or (old["device"], old["dtype"]) != (row["device"], row["dtype"]):
            continue
        time, memory = row["ours_ms"] / old["ours_ms"], row["ours_gb"] / max(old["ours_gb"], 1e-9)
        lines.append(f"{name}: {time:.2f} × the time of last time, {memory:.2f} × the memory")
        worse += [name] * (max(time, memory) > SLOWER)
    return lines, worse


def written(text: str, rows: Rows) -> str:
    """A document with the table between its device's markers. Raises SystemExit where it has none."""
    device = next(iter(rows.values()))["device"]
    pattern = rf"(<!-- bench {device} -->\n).*?(<!-- end of bench {device} -->)"
    made = f"{caption(rows)}\n\n{table(rows)}\n"
    result, count = re.subn(pattern, lambda found: found[1] + made + found[2], text, flags=re.DOTALL)
    if not count:
        raise SystemExit(f"no markers <!-- bench {device} --> and <!-- end of bench {device} -->")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the JSON files of make bench; the names sort by time")
    parser.add_argument("--write", type=Path, metavar="README", help="put the table into this document")
    arguments = parser.parse_args()
    runs = [(path, rows) for path in sorted(arguments.folder.glob("*.json")) if (rows := rows_of(path))]
    if not runs:
        raise SystemExit(f"{arguments.folder} holds no results: run make bench")
    path, rows = runs[-1]
    print(f"{path}\n{caption(rows)}\n\n{table(rows)}")
    if arguments.write:
        arguments.write.write_text(written(arguments.write.read_text(), rows))
    if len(runs) > 1:
        lines, worse = compared(rows, runs[-2][1])
        print("\n".join(["", *lines]))
        if worse:
            sys.exit(f"more than {SLOWER} × last time: {', '.join(worse)}")


if __name__ == "__main__":
    main()
