"""The most memory that MLX holds in each phase of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import mlx.core as mx


@dataclass
class Peaks:
    """Bytes of memory at its fullest, above what MLX held when this record was made.

    phases: name of a phase → its peak, in the order of their starts; the larger one of two phases of a name. most: of
    all that was seen until the last phase ended. What MLX keeps for reuse (its cache) is not counted.
    """

    phases: dict[str, int] = field(default_factory=dict)
    most: int = 0
    _before: int = field(default_factory=mx.get_active_memory)
    _running: list[str] = field(default_factory=list)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure what happens within. The peak of a phase within another one is one of both.

        MLX has one counter for the process: nothing else may reset it while this lasts.
        """
        self._note()
        mx.reset_peak_memory()
        self._running.append(name)
        try:
            yield
        finally:
            self._note()
            self._running.remove(name)

    def _note(self) -> None:
        peak = max(mx.get_peak_memory(), mx.get_active_memory()) - self._before
        for name in self._running:
            self.phases[name] = max(self.phases.get(name, 0), peak)
        if self._running:
            self.most = max(self.most, peak)


@contextmanager
def limited(limit: int | None, expected: int = 0) -> Iterator[None]:
    """Keep MLX within ``limit`` bytes while this lasts; None leaves it as it is. expected: the most that the work
    needs; what MLX keeps for reuse may fill the rest. On Metal memory up to the limit stays wired, as far as the system
    allows."""
    if limit is None:
        yield
        return
    undo: list[tuple[Callable[[int], int], int]] = [
        (mx.set_memory_limit, mx.set_memory_limit(limit)),
        (mx.set_cache_limit, mx.set_cache_limit(max(limit - expected, 0))),
    ]
    if mx.metal.is_available():
        most = int(mx.device_info()["max_recommended_working_set_size"])
        undo.append((mx.set_wired_limit, mx.set_wired_limit(min(limit, most))))
    try:
        yield
    finally:
        for setter, before in undo:
            setter(before)
