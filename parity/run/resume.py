"""Finished cells on disk, so that a run that was killed can go on where it was (``parity run --resume``)."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec

from ltx2_mlx.errors import LTX2Error

from ..declare.inputs import FIXTURES, RECIPES
from ..judge.documents import Count, CoverageRecord, PipelineRecord, TapRecord, row_problem
from ..judge.files import read_bytes, write_whole
from ..judge.results import ALLOWED, Coverage, PipelineRow, Results, Row
from ..tap import raw_safetensors as shards
from .environment import code_digest, settings

SAVED = ("rows", "coverage", "pipelines", "carried", "silent")  # of Results


@dataclass(frozen=True)
class CellResult:
    """The results of one cell, and the most memory (GB) that its process held."""

    results: Results
    peak_gb: float


@dataclass(frozen=True)
class _Kept:
    """The content of a cell's file: ``SAVED``, and what the cell took."""

    rows: list[Row]
    coverage: list[Coverage]
    pipelines: list[PipelineRow]
    carried: Count
    silent: list[str]
    peak_gb: float


@dataclass(frozen=True)
class Cells:
    """One JSON file for each finished cell (stage, config). One with another ``key`` is stale, and one with another
    digest was changed; neither is used."""

    folder: Path
    key: str

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def save(self, stage: str, config: str, cell: CellResult) -> None:
        """The file is there whole or not at all. Raises RunError."""
        kept = _Kept(**{name: getattr(cell.results, name) for name in SAVED}, peak_gb=cell.peak_gb)
        content = json.dumps({name: _plain(getattr(kept, name)) for name in vars(kept)}, default=float)
        path = self._path(stage, config)
        write_whole(path, f"{self._digest(path, content)}\n{content}")

    def load(self, stage: str, config: str) -> CellResult | None:
        """The result that was saved under the same key; None without it, where it was changed, or holds nothing."""
        path = self._path(stage, config)
        try:
            digest, _, content = read_bytes(path).decode().partition("\n")
            if digest != self._digest(path, content):
                return None
            kept = msgspec.convert(json.loads(content), type=_Kept)
            if not _sound(kept, stage, config):
                return None
        except (LTX2Error, ValueError, RecursionError, OverflowError, TypeError, msgspec.MsgspecError):
            return None
        return CellResult(Results(**{name: getattr(kept, name) for name in SAVED}), kept.peak_gb)

    def _digest(self, path: Path, content: str) -> str:
        return hashlib.sha256(f"{self.key} {path.name} {content}".encode()).hexdigest()

    def _path(self, stage: str, config: str) -> Path:
        return self.folder / f"{stage}.{config}.json"


def _sound(kept: _Kept, stage: str, config: str) -> bool:
    """True if the rows are of this cell, and are such as may stand in results.json. Raises msgspec.MsgspecError
    and ValueError for others."""
    rows = msgspec.convert([row.record() for row in kept.rows], list[TapRecord])
    runs = msgspec.convert([row.record() for row in kept.pipelines], list[PipelineRecord])
    msgspec.convert([asdict(entry) for entry in kept.coverage], list[CoverageRecord])
    of_cell = {(row["stage"], row["config"]) for row in rows} | {(run["pipeline"], run["config"]) for run in runs}
    beyond = [row for row in kept.rows if row.verdict == "pass" and not row.needed_k <= ALLOWED[row.lane]]
    if any(map(row_problem, rows)):
        return False
    records = [*(row.record() for row in kept.rows), *(run.record() for run in kept.pipelines)]
    json.dumps(records, allow_nan=False)  # NaN is no JSON
    return of_cell == {(stage, config)} and not beyond and isfinite(kept.peak_gb) and kept.carried >= 0


def _plain(value: Any) -> Any:
    """A list of records as JSON takes it. Those of tensors hold no other records, and are many."""
    if not isinstance(value, list) or not value or not is_dataclass(value[0]):
        return value
    names = [field.name for field in fields(Row)]  # not vars(row): see Row.record
    return [{n: getattr(row, n) for n in names} if isinstance(row, Row) else asdict(row) for row in value]


LARGE = 2e9  # bytes of a file that is not read for its identity


def key(lanes: str, checkpoints: Sequence[Path], environment: dict[str, str], origin: dict[str, str]) -> str:
    """SHA-256 of all that a cell's result depends on: the code of ours, of the harness and of the reference; every byte
    of the checkpoints (of a large one: its first bytes, its size and when it was written); lanes, device, seed,
    versions, and the environment's variables for the libraries."""
    digest = hashlib.sha256(json.dumps([sorted(lanes), environment, origin, settings()], sort_keys=True).encode())
    digest.update(code_digest().encode())
    for path in (RECIPES / "SHA256SUMS", RECIPES / "media.py", FIXTURES):
        digest.update(shards.sha256(path).encode() if path.exists() else b"none;")
    for checkpoint in checkpoints:
        for path in sorted(checkpoint.iterdir()) if checkpoint.is_dir() else [checkpoint]:
            digest.update(f"{path.name} {_identity(path)};".encode())
    return digest.hexdigest()


def _identity(path: Path) -> str:
    status = path.stat()
    if status.st_size < LARGE:
        return shards.sha256(path) if path.is_file() else ""
    with path.open("rb") as file:
        head = hashlib.sha256(file.read(1 << 20)).hexdigest()
    return f"{head} {status.st_size} {status.st_mtime_ns}"
