"""Repeated blocks as pages: the weights of each are read when it is called and dropped after, so that a network needs
the memory of two of its blocks and not of all.

A class that owns a list of blocks names it in its attribute ``repeated``. Paths of modules and parameters stay.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from typing import Any, Protocol
from weakref import WeakValueDictionary

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..nn.norm import on_cuda
from .quantization import FP8


class Source(Protocol):
    """Reads the parameters of a module by their paths."""

    def read(self, names: Iterable[str], check: bool = True) -> list[tuple[str, mx.array]]: ...

    def start(self, names: Iterable[str]) -> None: ...

    def stop(self) -> None: ...

    def dtype_of(self, name: str) -> mx.Dtype: ...


@dataclass(frozen=True)
class Page:
    """One repeated block: its path in the module, and the paths in the module of the parameters that the file has."""

    path: str
    parameters: tuple[str, ...]


class Pages:
    """The pages of a module, in order. A block that is called fills its page, evaluates its result and drops the page.

    resident: the parameters that are in no page. prefetch: while one block computes, the next one's weights are read;
    False takes the memory of one block, and more time; so it is on CUDA. amend: changes a block that has been filled.

    A page that is not filled holds NaN: what uses it outside of ``filled`` gives NaN. Blocks are not kept alive here.
    """

    def __init__(self, module: nn.Module, source: Source, parameters: Iterable[str]):
        # On CUDA, MLX 0.31.1 waits without end for a page while the next one is read (seen on an H100).
        self.prefetch = not on_cuda()
        self.amend: Callable[[nn.Module], None] | None = None
        self.resident, pages = in_pages(module, parameters)
        self._pages = {path: Page(path, tuple(names)) for path, names in pages.items()}
        self._next = {a: b for a, b in pairwise(pages) if _list_of(a) == _list_of(b)}
        self._source = source
        self._blocks: WeakValueDictionary[str, nn.Module] = WeakValueDictionary()
        self._filled: dict[str, int] = {}  # page → how many uses it has now
        self._known: set[str] = set()  # pages that were read once, and hold neither NaN nor ∞

    def __iter__(self) -> Iterator[Page]:
        return iter(self._pages.values())

    def __len__(self) -> int:
        return len(self._pages)

    def __getitem__(self, path: str) -> Page:
        return self._pages[path]

    @contextmanager
    def filled(self, path: str) -> Iterator[nn.Module]:
        """The block of a page, with its weights while this lasts. Within another use of the same page it does nothing.

        Raises CheckpointError where the file cannot be read, or holds NaN or ∞ in this block.
        """
        self.fill(path)
        try:
            yield self._blocks[path]
        except BaseException:
            self._source.stop()
            raise
        finally:
            self.drop(path)

    def fill(self, path: str) -> None:
        """Read a page, unless it is filled; then begin to read the next one. Each call needs its ``drop``."""
        if not self._filled.get(path):
            try:
                self._read(self._pages[path], self._blocks[path])
            except BaseException:
                self._source.stop()
                raise
        self._filled[path] = self._filled.get(path, 0) + 1

    def _read(self, page: Page, block: nn.Module) -> None:
        _update(block, page.path, self._source.read(page.parameters, check=page.path not in self._known))
        self._known.add(page.path)
        if self.amend is not None:
            self.amend(block)
        if self.prefetch and page.path in self._next:
            self._source.start(self._pages[self._next[page.path]].parameters)

    def drop(self, path: str) -> None:
        """Give the memory of a page back, after its last use."""
        self._filled[path] -= 1
        if not self._filled[path]:
            block = self._blocks[path]
            _update(block, path, _placeholders(block, path))

    def placeholders(self, module: nn.Module) -> list[tuple[str, mx.array]]:
        """What stands in the place of every parameter that is in a page: NaN, and no memory."""
        blocks = dict(module.named_modules())
        pairs = [pair for path in self._pages for pair in _placeholders(blocks[path], path)]
        return [(name, mx.broadcast_to(_nan(self._source.dtype_of(name)), array.shape)) for name, array in pairs]

    def attached(self, module: nn.Module) -> Pages:
        """These pages, now filled by the calls of the module's blocks."""
        blocks = dict(module.named_modules())
        for path in self._pages:
            self._blocks[path] = blocks[path]
            cls = type(blocks[path])
            # MLX looks a call up on the class: a subclass of the same name leaves parameters and paths as they are
            paged = type(cls.__name__, (cls,), {"__call__": _paged(cls.__call__, self, path)})
            object.__setattr__(blocks[path], "__class__", paged)
        return self


def in_pages(module: nn.Module, parameters: Iterable[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The parameters of a module that are in no repeated block, and those of each block by its path."""
    resident: list[str] = []
    pages: dict[str, list[str]] = {path: [] for path in _blocks(module)}
    for name in parameters:
        pages.get(next((start for start in _starts(name) if start in pages), ""), resident).append(name)
    return resident, pages


def amend_blocks(module: nn.Module, amend: Callable[[nn.Module], None]) -> None:
    """Change every repeated block of a module: now, or each time that its page is filled."""
    pages: Pages | None = getattr(module, "pages", None)
    if pages is not None:
        pages.amend = amend
        return
    blocks = dict(module.named_modules())
    for path in _blocks(module):
        amend(blocks[path])


def _paged(call: Callable[..., Any], pages: Pages, path: str) -> Callable[..., Any]:
    @functools.wraps(call)
    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with pages.filled(path):
            result = call(self, *args, **kwargs)
            mx.eval(list(_arrays(result)))  # or its graph would hold the weights
        return result

    return run


def _arrays(value: Any) -> Iterator[mx.array]:
    """Every array in a result of a block."""
    if isinstance(value, mx.array):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _arrays(part)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _arrays(getattr(value, field.name))


def _blocks(module: nn.Module) -> list[str]:
    """The paths of all repeated blocks, in order."""
    result = []
    for path, owner in module.named_modules():
        for name in getattr(owner, "repeated", ()):
            within = f"{path}.{name}" if path else name
            result += [f"{within}.{i}" for i in range(len(owner[name]))]
    return sorted(result, key=lambda path: (_list_of(path), int(path.rpartition(".")[2])))


def _list_of(path: str) -> str:
    return path.rpartition(".")[0]


def _starts(name: str) -> Iterator[str]:
    """``a.b.c`` → ``a``, ``a.b``."""
    parts = name.split(".")
    return (".".join(parts[:i]) for i in range(1, len(parts)))


def _update(block: nn.Module, path: str, weights: Iterable[tuple[str, mx.array]]) -> None:
    block.update(tree_unflatten([(name.removeprefix(f"{path}."), array) for name, array in weights]))


def _placeholders(block: nn.Module, path: str) -> list[tuple[str, mx.array]]:
    leaves: dict[str, mx.array] = dict(tree_flatten(block.parameters()))
    return [(f"{path}.{name}", mx.broadcast_to(_nan(array.dtype), array.shape)) for name, array in leaves.items()]


def _nan(dtype: mx.Dtype) -> mx.array:
    if dtype == mx.uint32:  # of a packed weight, whose scales are NaN
        return mx.array(0, dtype)
    return mx.array(0x7F, FP8) if dtype == FP8 else mx.array(float("nan"), dtype)


def reader() -> mx.Stream:
    """The stream of this thread that reads files beside other work."""
    return _reader(threading.get_ident())


@functools.cache
def _reader(thread: int) -> mx.Stream:
    return mx.new_stream(mx.Device(mx.cpu))
