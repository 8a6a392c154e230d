"""A stage's components, loaded on both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ltx2_mlx.loading.checkpoint import CheckpointPath

from ..declare.model import Stage
from ..tap.session import Session


def in_memory(run: str, *args: Any, **kwargs: Any) -> Session:
    """A session whose trace stays in memory; ``run`` says which of a case's runs it is of."""
    return Session(*args, **kwargs)


@dataclass
class Pair:
    """A stage's components (name → module) loaded on both sides in one dtype, with their oracles.

    Of a trace file only ``ours`` is loaded. session: makes the session of each run of a case.
    """

    stage: Stage
    paths: dict[str, CheckpointPath]
    config: dict[str, Any]
    dtype: str
    reference: dict[str, Any]
    oracle: dict[str, Any]
    ours: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    session: Callable[..., Session] = in_memory
    root_name: str = ""

    @property
    def root(self) -> str:
        """The class of the component that the stage is about: its tap's name."""
        return self.root_name or type(self.ours[self.stage.component] if self.stage.component else None).__name__
