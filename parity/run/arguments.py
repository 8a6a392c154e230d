"""Every argument of a pipeline takes two values at least over the runs, and moves something that is compared.

Or else a setting that is ignored, and equals the one value that it is given, would go unnoticed. The arguments are
those of both packages' classes, and the fields of the objects that they hold. What one of them moves is found with the
reference: one argument is exchanged for the value that it has in another run, and it runs until a tensor differs by
more than its limit. One that moves nothing is a hole in the coverage. ``moved`` keeps what was found before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ..declare.model import Data, Files, Obj, Pipeline
from ..judge.results import Item
from ..tap.side import resolve
from ..tap.trace import Tensor
from ..tap.watch import Watched

Path = tuple[str | int, ...]  # to a value inside of arguments: names of arguments and fields, places in lists
Differs = Callable[[str, Tensor, Tensor | None], bool]
WHOLE = ("Tiling",)  # objects whose fields are the business of a stage: the video decoder's


class MovedError(Exception):
    """Stops a run whose result is known."""


class Until(Watched):
    """A recording that stops at the first tensor that differs from that of another run."""

    def __init__(self, base: Watched, differs: Differs):
        super().__init__()
        self.base, self.differs = base, differs

    def put(self, name: str, tensor: Tensor) -> None:
        super().put(name, tensor)
        if name not in self.base.items or self.differs(name, self.base.items[name], tensor):
            raise MovedError(name)


class Arguments:
    """The arguments of one class of pipelines, as ``family`` (its pipelines) is given them with ``files`` of each
    variant, the first of them in ``record``'s runs.

    record: runs the reference with other arguments, into a recording. differs: the judge.
    """

    moved: frozenset[str] = frozenset()  # those that are known to move something

    def __init__(
        self,
        family: list[Pipeline],
        files: list[Files],
        record: Callable[[Pipeline, Watched], Watched],
        differs: Differs,
    ):
        from ..sides.torch import pipelines  # noqa: F401  it makes the reference importable

        self.pipeline, self.record, self.differs = family[0], record, differs
        first = files[0]
        variants = [replace(first, variant=file.variant) for file in files]
        # Of the same files with the values of each variant, and of the other files.
        self.runs = [_given(p, f) for p in family for f in variants]
        self.others = [_given(p, f) for p in family for f in files[1:]]
        self._bases: dict[int, Watched] = {}

    @property
    def given(self) -> list[dict[str, Any]]:
        """The arguments of every run."""
        return [*self.runs, *self.others]

    def items(self) -> list[Item]:
        """One for each argument: passed, or missing with what is missing. The same arguments must move nothing."""
        declared, settled = self._declared(), self.pipeline.settled
        unknown = {name for name in declared if name not in settled and name.partition(".")[0] not in settled}
        if unknown - self.moved and self._moves(0, self.runs[0]):
            return [
                Item("argument", verdict="inconclusive", why="a run with the same arguments differs from the first")
            ]
        found = [
            Item(f"argument.{name}", verdict="missing", why="declared to be settled, and no argument of either side")
            for name in settled
            if name not in declared
        ]
        for name in declared:
            if name in unknown:
                why = self._why(name)
                found.append(Item(f"argument.{name}", verdict="missing" if why else "pass", why=why))
        return found

    def _declared(self) -> list[str]:
        """The names of all arguments, and of all fields of what is given for them."""
        names: dict[str, None] = {}
        for module in (f"ltx_pipelines.{self.pipeline.module}", "ltx2_mlx.pipelines"):
            owner, attribute = resolve(f"{module}:{self.pipeline.cls}")
            for method in ("__init__", "__call__"):
                names |= dict.fromkeys(inspect.signature(getattr(getattr(owner, attribute), method)).parameters)
        del names["self"]
        for run in self.runs:
            for path, value in _walk(run):
                if isinstance(value, Obj):
                    owner, attribute = resolve(self.pipeline.classes[value.cls].reference)
                    fields = inspect.signature(getattr(owner, attribute)).parameters
                    names |= dict.fromkeys(f"{_name(path)}.{field}" for field in fields if value.cls not in WHOLE)
        return list(names)

    def _why(self, name: str) -> str:
        """What is missing of an argument, if anything is."""
        values = self._values(name)
        if len(values) < 2:
            return f"it has one value in all runs: {values[0]!r}" if values else "no run is given it"
        if name in self.moved:
            return ""
        for k, run in enumerate(self.runs):
            path = next((path for path, _ in _walk(run) if _name(path) == name), (name,))
            for value in values:
                if not _same(value, _at(run, path)) and self._moves(k, _exchanged(run, path, value)):
                    return ""
        return "it moves nothing that is compared"

    def _values(self, name: str) -> list[Any]:
        """The different values of an argument over the runs; None where a run leaves it out and others give it."""
        distinct: list[Any] = []
        for run in self.given:
            given = [value for path, value in _walk(run) if _name(path) == name]
            if not given and "." not in name:
                given = [None]
            distinct += [value for value in given if not any(_same(value, other) for other in distinct)]
        return [] if distinct == [None] else distinct

    def _moves(self, base: int, arguments: dict[str, Any]) -> bool:
        if base not in self._bases:
            self._bases[base] = self.record(_with(self.pipeline, self.runs[base]), Watched())
        recording = Until(self._bases[base], self.differs)
        try:
            self.record(_with(self.pipeline, arguments), recording)
        except MovedError:
            return True
        except Exception:  # values that do not fit together prove nothing
            return False
        return len(recording.items) < len(self._bases[base].items)


def _given(pipeline: Pipeline, files: Files) -> dict[str, Any]:
    return {**pipeline.init(files), **pipeline.call(files)}


def _with(pipeline: Pipeline, arguments: dict[str, Any]) -> Pipeline:
    """``pipeline`` with other arguments; those that are None are left to their defaults."""
    mine = inspect.signature(_reference(pipeline).__init__).parameters
    given = {name: value for name, value in arguments.items() if value is not None}
    init = {name: value for name, value in given.items() if name in mine}
    call = {name: value for name, value in given.items() if name not in mine}
    return replace(pipeline, init=lambda files: init, call=lambda files: call)


def _reference(pipeline: Pipeline) -> Any:
    owner, attribute = resolve(f"ltx_pipelines.{pipeline.module}:{pipeline.cls}")
    return getattr(owner, attribute)


def _walk(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value inside of arguments, with its path; an object's fields after itself."""
    if path:
        yield path, value
    if isinstance(value, Obj) and value.cls in WHOLE:
        return
    inner = value.fields if isinstance(value, Obj) else value
    if isinstance(inner, dict):
        for name, field in inner.items():
            yield from _walk(field, (*path, name))
    elif isinstance(inner, (list, tuple)):
        for i, element in enumerate(inner):
            if isinstance(element, Obj):
                yield from _walk(element, (*path, i))


def _name(path: Path) -> str:
    """``images.strength`` for the strength of any image."""
    return ".".join(step for step in path if isinstance(step, str))


def _at(value: Any, path: Path) -> Any:
    for step in path:
        inner: Any = value.fields if isinstance(value, Obj) else value
        value = inner.get(step) if isinstance(inner, dict) else inner[step]
    return value


def _exchanged(value: Any, path: Path, new: Any) -> Any:
    """A copy of ``value`` with ``new`` at ``path``."""
    if not path:
        return new
    step, *rest = path
    if isinstance(value, Obj):
        return replace(value, fields=_exchanged(value.fields, path, new))
    if isinstance(value, dict):
        return value | {step: _exchanged(value.get(step), tuple(rest), new)}
    return [_exchanged(element, tuple(rest), new) if i == step else element for i, element in enumerate(value)]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Data) and isinstance(b, Data):
        return np.array_equal(a.values, b.values)
    return type(a) is type(b) and bool(a == b)
