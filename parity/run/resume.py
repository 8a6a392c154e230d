"""Finished cells on disk, so that a run that was killed can go on where it was (``parity run --resume``)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..declare.inputs import RECIPES
from ..judge.results import Coverage, Item, PipelineRow, Reason, Results, Row
from ..tap import raw_safetensors as shards

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class CellResult:
    """The results of one cell, and the most memory (GB) that its process held."""

    results: Results
    peak_gb: float


@dataclass(frozen=True)
class Cells:
    """One JSON file for each finished cell (stage, config). Files with another ``key`` are stale, and not used."""

    folder: Path
    key: str

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def save(self, stage: str, config: str, cell: CellResult) -> None:
        """The file is there whole or not at all."""
        results = cell.results
        content: dict[str, Any] = {"key": self.key, "peak_gb": cell.peak_gb, "carried": results.carried}
        content |= {name: list(map(asdict, getattr(results, name))) for name in ("rows", "coverage", "pipelines")}
        path = self._path(stage, config)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(content, default=float))
        os.replace(partial, path)

    def load(self, stage: str, config: str) -> CellResult | None:
        """The result that was saved under the same key; None without it."""
        try:
            content = json.loads(self._path(stage, config).read_text())
        except (OSError, ValueError):
            return None
        if content.get("key") != self.key:
            return None
        rows = [_row(row) for row in content["rows"]]
        coverage = [Coverage(**entry) for entry in content["coverage"]]
        pipelines = [
            PipelineRow(**row | {"details": [Item(**item) for item in row["details"]]}) for row in content["pipelines"]
        ]
        return CellResult(Results(rows, coverage, content["carried"], pipelines=pipelines), content["peak_gb"])

    def _path(self, stage: str, config: str) -> Path:
        return self.folder / f"{stage}.{config}.json"


def _row(record: dict[str, Any]) -> Row:
    reason = Reason(record["reason"]) if record["reason"] else None
    return Row(**record | {"shape": tuple(record["shape"]), "reason": reason})


def key(lanes: str, checkpoint: Path | None, environment: dict[str, str]) -> str:
    """SHA-256 of all that a cell's result depends on: the code, the checkpoints, lanes, device and versions."""
    digest = hashlib.sha256(json.dumps([sorted(lanes), environment], sort_keys=True).encode())
    for package in ("ltx2_mlx", "parity"):
        for file in sorted((ROOT / package).rglob("*.py")):
            if "tests" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}={shards.sha256(file)};".encode())
    for name in ("SHA256SUMS", "media.py"):
        digest.update((RECIPES / name).read_bytes())
    digest.update(shards.sha256(checkpoint).encode() if checkpoint else b"")
    return digest.hexdigest()
