"""Run a case on one side, tapped."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

from ..declare.model import Case, Stage
from .binding import Binder
from .nest import join
from .patch import source_of, tapped
from .session import Session
from .side import Side

_KWARGS = Binder(lambda **kwargs: None)


def execute(
    side: Side, stage: Stage, modules: dict[str, Any], case: Case, lane: str, model: str, session: Session | None
) -> Any:
    """Run a case on the loaded components, tapped if there is a session.

    lane: dtype of the compared runs; model: of the weights.
    """
    counts = session is not None and session.counted and session.source is None and session.keeps == "all"
    counted = side.counted(session.count) if session and counts else contextlib.nullcontext()
    if session is not None:
        session.kept = case.taps
        session.single = not stage.mirrored
        session.matching |= session.single
        session.results = stage.results if side.key == "ours" else {}
    # Steps are recorded as calls from outside, which no cache can spare: they run as the product is shipped.
    with side.running(isolated=session is not None and not session.shipped and not case.steps), counted:
        if case.steps:
            return _execute_steps(side, stage, case, lane, model, session)
        entry, run = side.prepared(stage, modules, case, lane, model)
        if session is None:
            return run()
        taps = _module_taps(side, stage, modules, entry, session)
        with tapped(session, taps, session.taps(side.functions(stage))):
            return run()


def _module_taps(side: Side, stage: Stage, modules: dict[str, Any], entry: Any, session: Session) -> dict[str, Any]:
    """Tap → module, of every component; the session is told which of them are roots and which are channels-last."""
    session.roots = {side.root(modules[stage.main]), stage.wrapper or "", *stage.also}
    taps = {stage.wrapper: entry} if stage.wrapper and entry is not None else {}
    for component, module in modules.items():
        prefix = "" if component == stage.component else component
        root = prefix or side.root(module)
        named = ((join(prefix, name) if name else root, m) for name, m in side.named_modules(module))
        inner = {name: m for name, m in named if type(m) not in side.containers}
        session.channels_last |= side.channels_last(inner, root)
        taps |= inner
    session.paths = {id(module): name for name, module in taps.items()}
    return taps


def _execute_steps(side: Side, stage: Stage, case: Case, lane: str, model: str, session: Session | None) -> None:
    if session is None:
        raise ValueError("steps are run to be recorded: they need a session")
    for step in case.steps:
        target = step.target if isinstance(step.target, str) else side.materialise(step.target, stage, lane, model)
        function = side.cls(stage, target) if isinstance(target, str) else target
        if step.method:
            function = getattr(function, step.method)
        own = side.materialise(step.on_reference if side.key == "reference" else step.on_ours, stage, lane, model)
        session.trace.places[step.name] = source_of(function)
        function = functools.partial(function, **own)
        session.call(step.name, function, _KWARGS, (), side.materialise(step.kwargs, stage, lane, model))
