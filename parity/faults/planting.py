"""Faults that real ports shipped, planted one at a time in a copy of the product's source.

A mutation is one edit: it must apply exactly once, or the mutant is stale and says so. The tap is where the fault must
be seen first; ``known`` is its id in the list of faults that ports shipped, which the project keeps.
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

PACKAGE = "ltx2_mlx"


@dataclass(frozen=True)
class Mutation:
    """``old`` becomes ``new`` in ``file``; running ``case`` of ``config`` must fail first at ``tap``.

    cause: a class of ``causes.CAUSES``. loads: the fault stops the stage's component from loading, and ``tap`` is what
    the error must name. equivalent: why nothing can tell the mutant from the product; it must then go unnoticed.
    """

    id: str
    fault: str
    file: str
    old: str
    new: str
    tap: str
    config: str = "tiny-2.3"
    case: str = "base"
    stage: str = "transformer"
    dtype: str = "float32"
    cause: str = ""
    known: str = ""
    loads: bool = False
    equivalent: str = ""


@contextlib.contextmanager
def planted(mutation: Mutation | None) -> Iterator[None]:
    """While it lasts, ``import ltx2_mlx`` gives a copy of the package with the fault in it (None: a plain copy)."""
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == PACKAGE}
    source = Path(importlib.import_module(PACKAGE).__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(source, Path(folder) / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
        if mutation:
            file = Path(folder) / PACKAGE / mutation.file
            text = file.read_text()
            if text.count(mutation.old) != 1:
                raise ValueError(
                    f"mutant {mutation.id} is stale: its text stands {text.count(mutation.old)} times in {file.name}"
                )
            file.write_text(text.replace(mutation.old, mutation.new))
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
