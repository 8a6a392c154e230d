"""Faults that real ports shipped, planted one at a time in a copy of the product's source.

A fault is one edit: its old text must stand exactly once in the file, or the fault is stale and says so. ``known`` is
its id in the list of faults that ports shipped, which the project keeps.
"""

from __future__ import annotations

import compileall
import contextlib
import importlib
import importlib.util
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Literal

from . import probe
from .classes import KINDS

PACKAGE = "ltx2_mlx"


class StaleFaultError(ValueError):
    """The text that a fault replaces is not in the product any more, or stands there more than once."""


class BrokenFaultError(ValueError):
    """A fault's text is not Python, or says the same as what it replaces."""


@dataclass(frozen=True)
class Fault:
    """``old`` becomes ``new`` in ``file``; running ``case`` of ``config`` must fail first at ``tap``.

    cause: a class of ``classes.CAUSES``. loads: the fault stops the stage's component from loading, and ``tap`` is what
    the error must name. equivalent: why nothing can tell the faulty copy from the product; it must then go unnoticed.
    free: looked for in the free-running lane, where ours is compiled and its caches have seen ``Case.after``.
    seen_by: ``stage``, which the selftest runs, or ``debug``: a view of ``parity debug`` alone, which needs no tap.
    kind: one of ``classes.KINDS``, by which faults are scored. canary: one that cannot be overlooked; while it is, the
    score of its kind means nothing.
    """

    id: str
    description: str
    file: str
    old: str
    new: str
    tap: str = ""
    config: str = "tiny-2.3"
    case: str = "base"
    stage: str = "transformer"
    dtype: str = "float32"
    cause: str = ""
    known: str = ""
    loads: bool = False
    equivalent: str = ""
    free: bool = False
    seen_by: Literal["stage", "debug"] = "stage"
    kind: str = ""
    canary: bool = False

    def __post_init__(self) -> None:
        if self.kind and self.kind not in KINDS:
            raise ValueError(f"fault {self.id}: no kind '{self.kind}'; there are: {', '.join(KINDS)}")

    def applied(self, source: str) -> str:
        """The text of the file with the fault in it. Raises StaleFaultError."""
        if (count := source.count(self.old)) != 1:
            raise StaleFaultError(f"fault {self.id} is stale: its text stands {count} times in {self.file}, not once")
        return source.replace(self.old, self.new)


def package_folder() -> Path:
    """The folder of the product as it is imported now."""
    (folder,) = importlib.import_module(PACKAGE).__path__
    return Path(folder)


@cache
def _compiled(source: Path) -> None:
    """Compile the product once where it is, so that its copies need not be; where that cannot be written, they are."""
    compileall.compile_dir(source, quiet=2)


@dataclass(frozen=True)
class Copy:
    """A copy of the product that is imported in its place. file: of the fault in it; "" without one."""

    folder: Path
    file: str = ""

    @property
    def ran(self) -> bool:
        """True once a statement of the fault was reached: at import, if that is where it stands."""
        name = ".".join((PACKAGE, *Path(self.file.removesuffix(".py")).parts)).removesuffix(".__init__")
        return bool(self.file) and probe.reached(sys.modules.get(name))


@dataclass(frozen=True)
class _Finder(MetaPathFinder):
    """Finds the product in a folder, before all others: pytest has a finder of its own for what brings a plugin, and an
    editable install has one as well."""

    folder: str

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name.partition(".")[0] != PACKAGE:
            return None
        return PathFinder.find_spec(name, [self.folder] if path is None else path)


def _own(source: Path, fault: Fault | None) -> set[Path]:
    """What a copy has of its own: the file of the fault, also compiled, and the folders around both."""
    if fault is None:
        return set()
    file = source / fault.file
    compiled = Path(importlib.util.cache_from_source(str(file)))
    return {path for path in (file, compiled, *file.parents, *compiled.parents) if path.is_relative_to(source)}


def _link(source: Path, target: Path, own: set[Path]) -> None:
    """Link to a file or folder; of what is ``own`` a folder is made, with links in it, and a file is left out."""
    if source not in own:
        target.symlink_to(source)
    elif source.is_dir():
        target.mkdir()
        for entry in source.iterdir():
            _link(entry, target / entry.name, own)


@contextlib.contextmanager
def planted(fault: Fault | None) -> Iterator[Copy]:
    """While it lasts, ``import ltx2_mlx`` gives a copy of the package with the fault in it (None: a plain copy).

    Raises StaleFaultError for a fault whose text is not there, BrokenFaultError for one that is no Python or changes
    nothing.
    """
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == PACKAGE}
    source = package_folder()
    _compiled(source)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Copy(Path(temporary) / PACKAGE, fault.file if fault else "")
        _link(source, copy.folder, _own(source, fault))
        if fault:
            file = copy.folder / fault.file
            before = (source / fault.file).read_text()
            file.write_text(fault.applied(before))
            try:
                probe.put(file, before)
            except (SyntaxError, probe.NothingChangedError) as error:
                raise BrokenFaultError(f"fault {fault.id} is badly written: {error}") from None
        for name in kept:
            del sys.modules[name]
        finder = _Finder(temporary)
        sys.meta_path.insert(0, finder)
        importlib.invalidate_caches()
        try:
            yield copy
        finally:
            sys.meta_path.remove(finder)
            for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
                del sys.modules[name]
            sys.modules.update(kept)
