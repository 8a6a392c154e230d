"""Functions of files that answer once in a process, for as long as the files stay as they are. Nothing is kept on
disk.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

READERS = ("checkpoint", "gemma", "lora")  # modules of ``ltx2_mlx.loading`` that read headers

_answers: WeakKeyDictionary[Callable[..., Any], dict[Any, Any]] = WeakKeyDictionary()  # by the function that answers


def answering_once(original: Callable[..., Any]) -> Callable[..., Any]:
    """A function of files, whose argument is a path or the checkpoint last. Of a folder it answers anew."""
    answers = _answers.setdefault(original, {})

    def run(*args: Any) -> Any:
        *more, source = args
        files = {info.file for info in source.tensors.values()} if hasattr(source, "tensors") else {Path(source)}
        if not all(file.is_file() for file in files):
            return original(*args)
        states = frozenset((file, *state_of(file)) for file in files)
        if (key := (*more, str(getattr(source, "path", source)), states)) not in answers:
            answers[key] = original(*args)
        return answers[key]

    return run


def state_of(file: Path) -> tuple[int, int, int]:
    """Inode, size and time of the last change."""
    state = file.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


@contextlib.contextmanager
def headers_read_once() -> Iterator[None]:
    """While it lasts, the product reads the header of each file once. A cell loads its components in three dtypes, and
    a pipeline asks for the same checkpoint ten times."""
    with contextlib.ExitStack() as undo:
        for reader in READERS:
            module = importlib.import_module(f"ltx2_mlx.loading.{reader}")  # looked up when called: see sides/mlx.py
            undo.enter_context(mock.patch.object(module, "read_header", _copying(module.read_header)))
        yield


def _copying(original: Callable[[Path], tuple[dict[str, str], dict[str, Any]]]) -> Callable[..., Any]:
    """``read_header``, once for each file; whoever asks gets dictionaries of its own."""
    once = answering_once(original)

    def read_header(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
        metadata, tensors = once(path)
        return dict(metadata), dict(tensors)

    return read_header
