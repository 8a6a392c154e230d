"""The content of a page, from the rows of results.json: cells (stage and config), their layers, their worst tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..judge.results import VERDICTS
from .terminal import layer

Document = dict[str, Any]
Record = dict[str, Any]  # a row of results.json


def needed(row: Record) -> float:
    """The factor that would have passed; JSON holds null for infinity."""
    return float("inf") if row["needed_k"] is None else row["needed_k"]


def worst_verdict(verdicts: set[str]) -> str:
    """The worst verdict of what ran; without any verdict it is missing."""
    return next((verdict for verdict in VERDICTS if verdict in verdicts), "missing")


def is_whole(coverage: Record) -> bool:
    """Each leaf module compared, and each parameter moving a compared tensor."""
    return (
        0 < coverage["leaves"] == coverage["leaves_compared"]
        and coverage["parameters"] == coverage["parameters_moving"]
        and not coverage["uncovered"]
    )


@dataclass(frozen=True)
class Layer:
    """The tensors of one layer: the worst of lane A and of lane C, and the std of what leaves it."""

    name: str
    rows: list[Record]

    def worst(self, lane: str) -> Record | None:
        rows = [row for row in self.rows if row["lane"] == lane and row["rel_l2"] is not None]
        return max(rows, key=needed, default=None)

    def decorrelation(self, lane: str) -> float | None:
        found = [row["one_minus_r"] for row in self.rows if row["lane"] == lane and row["one_minus_r"] is not None]
        return max(found, default=None)

    @cached_property
    def leaving(self) -> Record | None:
        """The layer's last output, in the first case that has one."""
        outputs = [row for row in self.rows if ":" not in row["name"] and row["std_ref"]]
        return next((row for row in reversed(outputs) if row["case"] == outputs[0]["case"]), None)

    @cached_property
    def verdict(self) -> str:
        return worst_verdict({row["verdict"] for row in self.rows})


@dataclass(frozen=True)
class Cell:
    """A stage on one config."""

    stage: str
    config: str
    rows: list[Record] = field(default_factory=list)
    coverage: Record | None = None

    @property
    def anchor(self) -> str:
        return f"cell-{self.stage}-{self.config}"

    @cached_property
    def failures(self) -> list[Record]:
        """In the order of computation; isolated lanes before the free-running one."""
        return sorted((row for row in self.rows if row["verdict"] != "pass"), key=lambda row: row["lane"] == "C")

    @cached_property
    def verdict(self) -> str:
        found = worst_verdict({row["verdict"] for row in self.rows})
        holed = self.coverage is not None and not is_whole(self.coverage)
        return "incomplete" if holed and found == "pass" else found

    @cached_property
    def layers(self) -> list[Layer]:
        groups: dict[str, list[Record]] = {}
        for row in self.rows:
            groups.setdefault(layer(row["name"]), []).append(row)
        return [Layer(name, rows) for name, rows in groups.items()]

    def worst(self, lane: str) -> Record | None:
        return max((row for row in self.rows if row["lane"] == lane), key=needed, default=None)

    def worst_rows(self, count: int, allowed: dict[str, float]) -> list[Record]:
        """Failures first (in order), then the highest ratios beside what their lane allows; the same tensor of other
        cases is left out."""
        passes = [row for row in self.rows if row["verdict"] == "pass"]
        rows = self.failures + sorted(passes, key=lambda row: -needed(row) / allowed[row["lane"]])
        shown: dict[tuple[str, str], Record] = {}
        for row in rows:
            shown.setdefault((row["name"], row["lane"]), row)
            if len(shown) == count:
                break
        return list(shown.values())

    @cached_property
    def profiled(self) -> list[Record]:
        """Rows that say where their error is: the failures if any, or else the worst of lane A (or of another)."""
        rows = [row for row in self.rows if row.get("profile") and row["profile"]["axes"]]
        failed = [row for row in rows if row["verdict"] != "pass"]
        return failed or sorted(rows, key=lambda row: row["lane"])[:1]


@dataclass(frozen=True)
class StageView:
    """A stage with its cells; ``declared`` is its entry in the manifest."""

    name: str
    phase: str
    declared: Record
    cells: list[Cell]

    @property
    def anchor(self) -> str:
        return f"stage-{self.name}"

    @property
    def absent(self) -> list[str]:
        """Configs that did not run."""
        return [config for config in self.declared.get("configs", []) if config not in self.declared["ran"]]

    @property
    def tensors(self) -> int:
        return sum(len(cell.rows) for cell in self.cells)

    @property
    def verdict(self) -> str:
        return worst_of([cell.verdict for cell in self.cells])

    def worst(self, lane: str) -> Record | None:
        return max(filter(None, (cell.worst(lane) for cell in self.cells)), key=needed, default=None)


def worst_of(verdicts: list[str]) -> str:
    order = (*VERDICTS[:-1], "incomplete", "pass")
    return min(verdicts, key=order.index, default="not run")


def views(document: Document) -> list[StageView]:
    """Every stage in data order: those of the manifest, then any that only rows know."""
    rows: dict[tuple[str, str], list[Record]] = {}
    for row in document["taps"]:
        rows.setdefault((row["stage"], row["config"]), []).append(row)
    coverage = {(c["stage"], c["config"]): c for c in document["summary"]["coverage"]}
    declared = {entry["stage"]: entry for entry in document.get("stages", [])}
    for stage, config in rows:
        entry = declared.setdefault(
            stage, {"stage": stage, "phase": "", "configs": [], "ran": [], "layout": "sequence"}
        )
        if config not in entry["ran"]:
            entry["ran"] = [*entry["ran"], config]
    return [
        StageView(
            name,
            entry["phase"],
            entry,
            [Cell(name, c, rows.get((name, c), []), coverage.get((name, c))) for c in entry["ran"]],
        )
        for name, entry in declared.items()
    ]


def lanes(document: Document) -> list[str]:
    return sorted({row["lane"] for row in document["taps"]})
