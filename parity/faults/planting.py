"""Faults that real ports shipped, planted one at a time in a copy of the product's source.

A fault is one edit: its old text must stand exactly once in the file, or the fault is stale and says so. ``known`` is
its id in the list of faults that ports shipped, which the project keeps.
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PACKAGE = "ltx2_mlx"


class StaleFaultError(ValueError):
    """The text that a fault replaces is not in the product any more, or stands there more than once."""


@dataclass(frozen=True)
class Fault:
    """``old`` becomes ``new`` in ``file``; running ``case`` of ``config`` must fail first at ``tap``.

    cause: a class of ``classes.CAUSES``. loads: the fault stops the stage's component from loading, and ``tap`` is what
    the error must name. equivalent: why nothing can tell the faulty copy from the product; it must then go unnoticed.
    free: looked for in the free-running lane, where ours is compiled and its caches have seen ``Case.after``.
    seen_by: ``stage``, which the selftest runs, or ``debug``: a view of ``parity debug`` alone, which needs no tap.
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

    def applied(self, source: str) -> str:
        """The text of the file with the fault in it. Raises StaleFaultError."""
        if (count := source.count(self.old)) != 1:
            raise StaleFaultError(f"fault {self.id} is stale: its text stands {count} times in {self.file}, not once")
        return source.replace(self.old, self.new)


def package_folder() -> Path:
    """The folder of the product as it is imported now."""
    (folder,) = importlib.import_module(PACKAGE).__path__
    return Path(folder)


@contextlib.contextmanager
def planted(fault: Fault | None) -> Iterator[None]:
    """While it lasts, ``import ltx2_mlx`` gives a copy of the package with the fault in it (None: a plain copy)."""
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == PACKAGE}
    source = package_folder()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(source, Path(folder) / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
        if fault:
            file = Path(folder) / PACKAGE / fault.file
            file.write_text(fault.applied(file.read_text()))
        for name in kept:
            del sys.modules[name]
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        try:
            yield
        finally:
            sys.path.remove(folder)
            for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
                del sys.modules[name]
            sys.modules.update(kept)
