"""Taps without hooks in product code."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..declare.model import FunctionTap
from .binding import Binder
from .session import Session
from .side import resolve


@contextlib.contextmanager
def tapped(session: Session, modules: dict[str, Any], functions: list[tuple[FunctionTap, str]]) -> Iterator[Session]:
    """Tap ``modules`` (tap name → module) and functions (tap, ``module:attribute`` on this side) while it lasts."""
    with contextlib.ExitStack() as undo:
        undo.enter_context(_tap_modules(session, modules))
        for tap, place in functions:
            undo.enter_context(_tap_function(session, tap, place))
        yield session


_binder = functools.cache(Binder)


@contextlib.contextmanager
def _tap_modules(session: Session, modules: dict[str, Any]) -> Iterator[None]:
    """Make every module one of a subclass that tells the session of its calls. A class has one subclass, since a run
    has hundreds of modules of few classes."""
    subclasses: dict[type, tuple[type, dict[int, str]]] = {}  # and the taps of its modules, by their ids
    changed: list[Any] = []
    try:
        for name, module in modules.items():
            cls = type(module)
            if cls not in subclasses:
                names: dict[int, str] = {}
                subclasses[cls] = _tapping(session, cls, names), names
            subclass, names = subclasses[cls]
            names[id(module)] = name
            session.trace.places[name] = source_of(getattr(cls, session.fw.method))
            object.__setattr__(module, "__class__", subclass)
            changed.append(module)
        yield
    finally:
        for module in changed:
            object.__setattr__(module, "__class__", type(module).__base__)


def _tapping(session: Session, cls: type, names: dict[int, str]) -> type:
    """A subclass whose modules tell the session of each call by their names."""
    original = getattr(cls, session.fw.method)
    binder = _binder(original, True)

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        return session.call(names[id(self)], functools.partial(original, self), binder, args, kwargs)

    return type(cls.__name__, (cls,), {session.fw.method: run})


@functools.cache
def source_of(function: Callable[..., Any]) -> str:
    """Where the product's source defines a function or class, as ``ltx2_mlx/file.py:line``; "" for anybody else's."""
    function = inspect.unwrap(function)
    if isinstance(function, type):
        function = inspect.getattr_static(function, "__init__")
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    parts = Path(code.co_filename).parts if code else ()
    if code is None or "ltx2_mlx" not in parts:
        return ""
    start = len(parts) - 1 - parts[::-1].index("ltx2_mlx")
    return f"{'/'.join(parts[start:])}:{code.co_firstlineno}"


@contextlib.contextmanager
def _tap_function(session: Session, tap: FunctionTap, place: str) -> Iterator[None]:
    owner, name = resolve(place)
    original = getattr(owner, name)
    method = isinstance(owner, type) and _binder(original).first == "self"
    binder, where = _binder(original, method), source_of(original)

    def run(*args: Any, **kwargs: Any) -> Any:
        bound, this = original, None
        if method:
            this, args = args[0], args[1:]
            bound = functools.partial(original, this)
        last = tap.channels_last and session.fw.key == "ours"
        name = session.name_of(tap.name, this)
        session.trace.places[name] = where
        return session.call(name, bound, binder, args, kwargs, tap.wide, tap.injected, last)

    run.__name__ = getattr(original, "__name__", name)
    setattr(owner, name, run)
    try:
        yield
    finally:
        setattr(owner, name, original)
