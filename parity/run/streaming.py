"""The options of a streamed run: see ``streamed``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ltx2_mlx.errors import LTX2Error

from .pool import held_gb


class MemoryLimitError(LTX2Error):
    """The run would have taken more memory than ``--max-rss`` allows."""


@dataclass(frozen=True)
class Streaming:
    """What a streamed run is of, and where it keeps its shards.

    folder, key: of the shards; see ``resume.key``. blocks: the pages that are judged, by number; None for all. max_rss:
    in GB. small: elements of a tensor from which on it is paged. cases: a glob; the first case of a stage without it.
    """

    folder: Path
    key: str = ""
    blocks: frozenset[int] | None = None
    max_rss: float | None = None
    small: int | None = None
    cases: str | None = None

    def require(self, nbytes: int = 0) -> None:
        """Raises MemoryLimitError where so many bytes more are too many."""
        if self.max_rss is not None and held_gb() + nbytes / 1e9 > self.max_rss:
            raise MemoryLimitError(
                f"stopped: {held_gb():.1f} GB held and {nbytes / 1e9:.1f} GB more needed, --max-rss allows "
                f"{self.max_rss:g}. Finished pages are kept: --resume goes on with a larger limit"
            )
