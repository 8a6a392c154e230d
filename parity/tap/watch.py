"""The record of one run of a pipeline: tensors by name, in the order in which they came to be, and its noise.

The same functions are watched on both sides, looked up where they are defined or called; neither pipeline knows.
"""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np

from ..declare.model import Pipeline, Watch
from .side import Side, resolve
from .trace import Tensor


@dataclass
class Watched:
    """items: ``kind.NNN.part`` → tensor, and ``frames`` and ``waveform`` at the end. noise: every draw, in order.

    error: what the pipeline raised (raised), if it did; the items are then those of before.
    """

    items: dict[str, Tensor] = field(default_factory=dict)
    noise: list[np.ndarray] = field(default_factory=list)
    error: str | None = None
    raised: Exception | None = None
    seconds: float = 0.0


def record(fw: Side, pipeline: Pipeline, run: Callable[[], tuple[Iterator[Any], Any]], into: Watched) -> None:
    """Run a pipeline to its last frame with everything watched that it is to be compared by."""
    with watched(fw, pipeline.watches, into):
        chunks, audio = run()
        frames = [_numpy(fw, chunk) for chunk in chunks]
    into.items["frames"] = Tensor(np.concatenate([chunk.values for chunk in frames]), frames[0].dtype)
    into.items["waveform"] = _numpy(fw, audio.waveform)
    into.items["sampling_rate"] = Tensor(np.array(audio.sampling_rate), "int64")


@contextlib.contextmanager
def watched(fw: Side, watches: tuple[Watch, ...], into: Watched) -> Iterator[None]:
    """While it lasts, every call of what is watched adds its parts to ``into``."""
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as undo:
        for watch in watches:
            owner, name = resolve(getattr(watch.at, fw.key))
            undo.enter_context(mock.patch.object(owner, name, _watching(fw, watch, getattr(owner, name), counts, into)))
        yield


def _watching(
    fw: Side, watch: Watch, original: Callable[..., Any], counts: Counter[str], into: Watched
) -> Callable[..., Any]:
    signature = inspect.signature(original)

    def run(*args: Any, **kwargs: Any) -> Any:
        name = f"{watch.name}.{counts[watch.name]:03d}"
        counts[watch.name] += 1
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        _put(fw, into, name, watch.inputs, bound.arguments)
        result = original(*args, **kwargs)
        _put(fw, into, name, watch.outputs, {"": result})
        return result

    return run


def _put(fw: Side, into: Watched, name: str, parts: dict[str, str], values: dict[str, Any]) -> None:
    """Record the parts as items. A part that is None has no item: it must be None on both sides."""
    for part, path in parts.items():
        root, *rest = path.split(".")
        value = values[root]
        for step in rest:
            value = value[int(step)] if step.isdigit() else getattr(value, step)
        if value is not None:
            into.items[f"{name}.{part}"] = _numpy(fw, value)


def _numpy(fw: Side, value: Any) -> Tensor:
    """Arrays of either kind; a tuple of them stacked; a number as an array without axes."""
    if isinstance(value, (tuple, list)):
        stack = [_numpy(fw, item) for item in value]
        return Tensor(np.stack([item.values for item in stack]), stack[0].dtype)
    if fw.is_array(value):
        return fw.to_numpy(value)
    values = np.array(value)
    return Tensor(values, str(values.dtype))
