"""The record of one run of a pipeline: tensors by name, in the order in which they came to be, and its noise.

The same functions are watched on both sides, looked up where they are defined or called; neither pipeline knows.
"""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from unittest import mock

import numpy as np

from ..declare.model import Pipeline, Watch
from .nest import flatten
from .side import Side, resolve
from .trace import Tensor

NUMBER, TEXT = "number", "text"  # dtypes of what is no array: a Python number, the bytes of a string


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
    _drawn: Counter[int] = field(default_factory=Counter)  # by the identity of a generator
    _alive: list[Any] = field(default_factory=list)  # or another generator would take over its identity

    def put(self, name: str, tensor: Tensor) -> None:
        self.items[name] = tensor

    def draw(self, generator: Any, noise: Tensor) -> None:
        """Record numbers, and whose they are: the seed of the generator, and how many draws it had made before. From
        the global generator (None) there is neither."""
        name = f"noise.{len(self.noise):03d}"
        self.noise.append(noise.values)
        for part, number in self.state(generator).items():
            self.put(f"{name}.{part}", number)
        self._drawn[id(generator)] += 1
        self._alive.append(generator)
        self.put(f"{name}.values", noise)

    def state(self, generator: Any) -> dict[str, Tensor]:
        if generator is None:
            return {}
        seed = np.array(generator.initial_seed() % 2**64, np.uint64)
        return {"seed": Tensor(seed, NUMBER), "draws": Tensor(np.array(self._drawn[id(generator)]), NUMBER)}


def record(fw: Side, pipeline: Pipeline, run: Callable[[], tuple[Iterator[Any], Any]], into: Watched) -> None:
    """Run a pipeline to its last frame with everything watched that it is to be compared by."""
    with watched(fw, pipeline.watches, into):
        chunks, audio = run()
        frames = [fw.to_numpy(chunk) if fw.is_array(chunk) else Tensor(chunk, str(chunk.dtype)) for chunk in chunks]
    into.put("frames", Tensor(np.concatenate([chunk.values for chunk in frames]), frames[0].dtype))
    into.put("waveform", fw.to_numpy(audio.waveform))
    into.put("sampling_rate", Tensor(np.array(audio.sampling_rate), NUMBER))


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
        for path, value in _given(fw, watch, bound.arguments, into).items():
            into.put(f"{name}.{watch.inputs.get(path, f'in.{path}')}", value)
        result = watch.instead(**bound.arguments) if watch.instead else original(*args, **kwargs)
        for part, path in watch.outputs.items():
            if (value := _at(result, path)) is not None:
                into.put(f"{name}.{part}", _constant(flatten(value, "", fw, {})[""]))
        return result

    return run


def _given(fw: Side, watch: Watch, arguments: dict[str, Any], into: Watched) -> dict[str, Tensor]:
    """Path → value of every leaf of the arguments. One that is None has no item: it must be None on both sides."""
    leaves: dict[str, Any] = {}
    for name, value in arguments.items():
        root = watch.ours.get(name, name) if fw.key == "ours" else name
        if hasattr(value, "initial_seed"):
            leaves |= {f"{root}.{part}": number for part, number in into.state(value).items()}
        elif root != "self":
            flatten(value, root, fw, leaves)
    kept = {path: leaf for path, leaf in leaves.items() if leaf is not None}
    return {p: _constant(leaf) for p, leaf in kept.items() if not _matches(p, watch.one_sided)}


def _matches(path: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(path, glob) for glob in globs)


def _constant(leaf: Any) -> Tensor:
    """A leaf as a tensor: of a string the bytes, of a number an array without axes."""
    if isinstance(leaf, Tensor):
        return leaf
    if isinstance(leaf, (bool, int, float, np.generic)):
        return Tensor(np.array(leaf), NUMBER)
    return Tensor(np.frombuffer(str(leaf).encode(), np.uint8), TEXT)


def _at(value: Any, path: str) -> Any:
    """What is at a path of attributes and indices; an empty one is the value itself."""
    for step in filter(None, path.split(".")):
        value = value[int(step)] if step.isdigit() else getattr(value, step)
    return value
