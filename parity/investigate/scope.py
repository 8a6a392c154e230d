"""One tap of one run, looked at alone: where a tensor is made, and that tap's own code run again on other values."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..declare.model import Stage
from ..judge.results import Row
from ..run.recorded import Recorded
from ..run.replay import run_tapped
from ..run.streamed import made, passed_in
from ..sides.mlx import MLX
from ..tap.binding import Binder
from ..tap.session import Session
from ..tap.side import PROBE, Side
from ..tap.trace import Trace
from .statements import Recorder

At = tuple[str, int]  # a tap and the index of its call


@dataclass(frozen=True)
class Target:
    """A tensor of a trace."""

    side: str  # "in" or "out"
    at: At
    leaf: str

    def of(self, trace: Trace) -> Any:
        call = trace.calls.get(self.at)
        return call and (call.inputs if self.side == "in" else call.outputs).get(self.leaf)


def target_of(row: Row, trace: Trace) -> Target:
    """The tensor that a row is about."""
    name, _, leaf = row.name.partition(":")
    if leaf:
        return Target("in", (name, row.call), leaf)
    tap = max((tap for tap, index in trace.calls if index == row.call and f"{name}.".startswith(f"{tap}.")), key=len)
    return Target("out", (tap, row.call), name.removeprefix(tap).removeprefix("."))


def scope_of(target: Target, events: list[tuple[str, str, int]]) -> At | None:
    """The tap whose own code makes the tensor: the tap itself for an output, the one that calls it for an input."""
    stack: list[At] = []
    for side, tap, index in events:
        if side == "in":
            if target.side == "in" and (tap, index) == target.at:
                return stack[-1] if stack else None
            stack.append((tap, index))
        elif stack and stack[-1] == (tap, index):
            stack.pop()
    return target.at if target.side == "out" else None


def inner_calls(scope: At, target: Target, events: list[tuple[str, str, int]]) -> list[At]:
    """The calls that the scope's own code made, and that returned before the tensor was there."""
    stack: list[At] = []
    found: list[At] = []
    for side, tap, index in events:
        at = (tap, index)
        if at == target.at and side == target.side:
            break
        if side == "in":
            stack.append(at)
        elif stack and stack[-1] == at:
            stack.pop()
            if stack and stack[-1] == scope:
                found.append(at)
    return found


class _DoneError(Exception):
    """The scope has been run on every version; nothing else is of interest."""


class Focus(Session):
    """A grafted run that comes to the scope, runs it once on each version of the recorded values, and stops."""

    def __init__(
        self,
        fw: Side,
        scope: At,
        versions: dict[str, Trace],
        target: Target,
        oracle: bool = False,
        recorder: Recorder | None = None,
    ):
        probes = (target.at[0],) if target.leaf.startswith(PROBE) else ()
        super().__init__(fw, next(iter(versions.values())), probes, oracle)
        self.scope, self.versions, self.target = scope, versions, target
        self.answers: dict[str, Any] = {}
        self.reached = False  # the target's tap was called, or returned
        self.recorder = recorder
        if recorder:
            recorder.active = self._here
        self._inside = False
        self.passed: dict[At, dict[str, Any]] = {}  # outputs of the pages that the reference ran unrecorded

    def _here(self) -> bool:
        return self._inside and bool(self._stack) and self._stack[-1] == self.scope[0]

    def call(self, tap: str, original: Callable[..., Any], binder: Binder, *args: Any, **kwargs: Any) -> Any:
        at = (tap, self._counts[tap])
        if at in self.passed:
            self._counts[tap] += 1
            arguments = binder.bind(*args[:2]).arguments
            return made(self.fw, self.passed[at], arguments, tap in self.channels_last)
        if self._inside and self.recorder:
            if at == self.target.at and self.target.side == "in":
                self.recorder.stop(binder.parameters, self.target.leaf.split(".")[0])
            self.recorder.inner()
        if self._inside or at != self.scope:
            return super().call(tap, original, binder, *args, **kwargs)
        self._inside, counts = True, Counter(self._counts)
        for name, source in self.versions.items():
            self.trace, self.source, self._counts = Trace(), source, Counter(counts)
            follow = self.recorder.following() if self.recorder and not self.answers else contextlib.nullcontext()
            with follow, contextlib.suppress(Exception):
                super().call(tap, original, binder, *args, **kwargs)
            self.answers[name] = self.target.of(self.trace)
            self.reached |= (self.target.side, *self.target.at) in self.trace.events
        raise _DoneError

    def ask(self, recorded: Recorded, modules: dict[str, Any], model: str) -> dict[str, Any]:
        """Version → the target's tensor, None where it was not reached. model: dtype of the modules."""
        self.passed = passed_in(recorded.trace)
        with contextlib.suppress(_DoneError):
            run_tapped(self.fw, recorded.pair, modules, recorded, model, self)
        return self.answers


def module_at(side: Side, modules: dict[str, Any], stage: Stage, tap: str) -> Any:
    """The module that has this tap, None for a function's."""
    for component, module in modules.items():
        prefix = "" if component == stage.component else f"{component}."
        for name, found in side.named_modules(module):
            if tap == ((f"{prefix}{name}" if name else component) if prefix or name else type(module).__name__):
                return found
    return None


def tensors_of(module: Any) -> dict[str, np.ndarray]:
    """Name → float tensor of the module itself, of either side, in the reference's axes and in float32."""
    if hasattr(module, "named_buffers"):
        own = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        own = {name: t for name, t in own.items() if t.is_floating_point() and not t.is_meta}  # not of a paged layer
        return {name: t.detach().float().numpy() for name, t in own.items()}
    axes, found = getattr(module, "from_file", {}), {}
    for name, value in module.items():
        if (tensor := _numpy(value)) is not None:
            found[name] = np.transpose(tensor, np.argsort(axes[name])) if name in axes else tensor
    return found


def _numpy(value: Any) -> np.ndarray | None:
    mlx = MLX()
    tensor = mlx.to_numpy(value).values if mlx.is_array(value) else np.zeros(0, dtype=bool)
    return tensor if tensor.dtype.kind == "f" else None
