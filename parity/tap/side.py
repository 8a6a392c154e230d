"""One of the two frameworks, as the taps see it."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ltx2_mlx.loading.checkpoint import CheckpointPath

from ..declare.model import Case, Data, DType, FunctionTap, HasClasses, Loaded, Member, Obj, Stage
from .trace import Tensor

PROBE = "low"  # the output's name of a call with its inputs scaled down


Loras = tuple[tuple[Path, float], ...]  # files and strengths


class Side(ABC):
    """One of the two frameworks: how its arrays and modules look, how a component loads, how a case runs."""

    key: str  # "reference" or "ours"
    method: str  # of a module, that a call ends in
    containers: tuple[type, ...] = ()  # modules without arithmetic of their own, absent on the other side

    @abstractmethod
    def is_array(self, value: Any) -> bool: ...
    @abstractmethod
    def is_module(self, value: Any) -> bool:
        """Modules, and what else is no input: devices."""

    @abstractmethod
    def dtype(self, name: str) -> Any: ...
    @abstractmethod
    def dtype_name(self, value: Any) -> str | None:
        """The name of a dtype, None for anything else."""

    @abstractmethod
    def to_numpy(self, value: Any) -> Tensor: ...
    @abstractmethod
    def from_numpy(self, values: np.ndarray, dtype: Any) -> Any: ...
    @abstractmethod
    def load(
        self,
        component: str,
        path: CheckpointPath,
        config: dict[str, Any],
        dtype: str,
        loras: Loras = (),
        quantization: str | None = None,
    ) -> Any: ...
    @abstractmethod
    def named_modules(self, module: Any) -> Iterator[tuple[str, Any]]:
        """Tap → module: every module, itself under an empty name."""

    def root(self, module: Any) -> str:
        """The tap of a component itself: the reference's name of its class."""
        return type(module).__name__

    def channels_last(self, taps: dict[str, Any], root: str) -> set[str]:
        """Those of a component's taps whose arrays are channels-last here."""
        return set()

    def prepared(
        self, stage: Stage, modules: dict[str, Any], case: Case, lane: str, model: str
    ) -> tuple[Any, Callable[[], Any]]:
        """What is called in a case (the component, or its wrapper), and the call."""
        main = modules[stage.main]
        entry = self.cls(stage, stage.wrapper)(main) if stage.wrapper else main
        kwargs = self.materialise(case.kwargs, stage, lane, model, modules)

        def run() -> Any:
            owner = entry if not case.method else getattr(entry, case.method)
            result = (self.cls(stage, case.function) if case.function else owner)(**kwargs)
            return list(result) if inspect.isgenerator(result) else result

        return entry, run

    def functions(self, stage: Stage) -> list[tuple[FunctionTap, str]]:
        """The stage's function taps, and where this side has them."""
        return [(tap, getattr(tap.at, self.key)) for tap in stage.functions]

    def cls(self, stage: HasClasses, name: str) -> Any:
        owner, attribute = resolve(getattr(stage.classes[name], self.key))
        return getattr(owner, attribute)

    def materialise(
        self, value: Any, stage: HasClasses, lane: str, model: str, loaded: Mapping[str, Any] | None = None
    ) -> Any:
        """A case's neutral inputs as this side's objects; ``lane`` and ``model`` are dtype names, ``loaded`` are the
        components that a ``Loaded`` stands for."""

        def made(inner: Any) -> Any:
            return self.materialise(inner, stage, lane, model, loaded)

        if isinstance(value, Data):
            name = {"model": model, "lane": lane, "none": str(value.values.dtype)}[value.cast]
            return self.from_numpy(value.values, self.dtype(name))
        if isinstance(value, DType):
            return self.dtype(lane if value is DType.LANE else value.value)
        if isinstance(value, Obj):
            return self.cls(stage, value.cls)(**made(value.fields))
        if isinstance(value, Member):
            return self.cls(stage, value.cls)(value.value)
        if isinstance(value, Loaded):
            return (loaded or {})[value.component]
        if isinstance(value, dict):
            return {k: made(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(made(v) for v in value)
        return value

    @contextlib.contextmanager
    def running(self, isolated: bool) -> Iterator[None]:
        """Set up what this framework needs around a run; ``isolated``: every call in it is to be recorded."""
        yield

    def random_state(self) -> Any:
        """The state of the global generator; None where nothing is drawn from one."""
        return None

    def set_random_state(self, state: Any) -> None:
        """Go on from ``random_state``."""
        if state is not None:
            raise ValueError("a state of another side's generator")

    @contextlib.contextmanager
    def counted(self, count: Callable[[str, int], None]) -> Iterator[None]:
        """Tell ``count`` the primitive and the terms of every sum; the reference alone does."""
        yield


def resolve(place: str) -> tuple[Any, str]:
    """``package.module:Class.attribute`` → (owner, attribute name)."""
    module, _, path = place.partition(":")
    owner = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name
