"""The mutation score of a side from outside: what its gate would catch.

Its source is not known here, so that nothing can be planted in it. What can be is planted around its modules: a tap's
result is changed on its way out, or one of its arguments on its way in, and the run is judged as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..declare.model import Stage
from ..judge.results import Results, Row
from ..run.ports import PortRunner, judge_side, load, run_side, session_of, why_not
from ..run.recorded import Recorded
from ..sides.port import NotComparableError, Port
from ..tap.matching import answering, comparable
from ..tap.nest import flatten, graft
from ..tap.session import Session
from ..tap.side import Side
from ..tap.trace import Tensor

Change = Callable[[np.ndarray], np.ndarray]


def _exchanged(values: np.ndarray) -> np.ndarray:
    """The halves of the last axis exchanged, or of the one before it."""
    axis = -1 if values.shape[-1] > 1 else -2
    return np.roll(values, values.shape[axis] // 2, axis)


# What a port gets wrong, as a change of one tap.
OUTPUTS: dict[str, Change] = {
    "result scaled by 1.01": lambda x: x * 1.01,
    "result off by a hundredth of its size": lambda x: x + 0.01 * float(np.sqrt(np.mean(np.square(x)))),
    "halves of an axis exchanged": _exchanged,
    "result in bfloat16": lambda x: (x.view(np.uint32) & 0xFFFF0000).view(np.float32),
}
ARGUMENT = "argument dropped"


@dataclass(frozen=True)
class Wrapped:
    """One change of one tap, and what came of it. first: the tap that was seen first; "" where nothing was."""

    stage: str
    config: str
    tap: str
    change: str
    first: str

    @property
    def noticed(self) -> bool:
        return bool(self.first)

    @property
    def in_place(self) -> bool:
        return self.first == self.tap


@dataclass
class Wrappings:
    """The changes that were made, and places where none could be."""

    made: list[Wrapped] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)

    def leave(self, why: str) -> None:
        self.left_out[why] = self.left_out.get(why, 0) + 1


class _Changing(Session):
    """A run in which one tap's result, or its last array argument, is another."""

    change: tuple[str, str] = ("", "")  # the tap, and the change's name
    changed = False

    def call(self, tap: str, original: Callable[..., Any], *more: Any, **options: Any) -> Any:
        wanted, name = self.change
        return super().call(tap, self._changing(original, name) if tap == wanted else original, *more, **options)

    def _changing(self, original: Callable[..., Any], name: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            if name == ARGUMENT:
                return original(*self._dropped(args), **self._dropped(kwargs))
            result = original(*args, **kwargs)
            leaves = flatten(result, "", self.fw, {})
            new = {k: self._new(leaf, OUTPUTS[name]) for k, leaf in leaves.items() if isinstance(leaf, Tensor)}
            return graft(result, "", self.fw, new)

        return run

    def _new(self, leaf: Tensor, change: Change) -> Tensor:
        if leaf.values.dtype != np.float32 or not leaf.values.size:
            return leaf
        values = change(leaf.values).astype(np.float32)
        self.changed |= not np.array_equal(values, leaf.values)
        return Tensor(values, leaf.dtype)

    def _dropped(self, arguments: Any) -> Any:
        leaves = flatten(arguments, "", self.fw, {})
        new = {k: self._new(leaf, np.zeros_like) for k, leaf in leaves.items() if isinstance(leaf, Tensor)}
        return graft(arguments, "", self.fw, new)


def measure(
    chosen: Sequence[tuple[Stage, str]],
    side: Side,
    reference: Side,
    sample: int = 8,
    progress: Callable[[str], None] = lambda line: None,
) -> Wrappings:
    """Change ``sample`` taps of the first case of each cell, one at a time and in every way, and judge each in lane A.
    Only taps that pass as they are can show a change."""
    found, runner = Wrappings(), PortRunner(reference, progress)
    for declared, config in chosen:
        stage = replace(declared, functions=(), probes=())
        why = why_not(reference, stage) or (side.why_not(stage) if isinstance(side, Port) else "")
        if why:
            found.leave(f"{stage.name}: {why}")
            continue
        runner.skipped = []
        try:
            recorded = next(iter(runner.recording(stage, config, "A").cases))
            modules = load(side, recorded.pair)
            clean = _rows(side, modules, recorded, config, _Changing)[0]
        except (NotComparableError, StopIteration) as error:
            found.leave(f"{stage.name} {config}: {error or 'no case of it'}")
            continue
        bad = {_tap(row) for row in clean if row.verdict != "pass"}
        outputs = list(dict.fromkeys(row.name for row in clean if ":" not in row.name))
        sound = [tap for tap in outputs if tap in {key for key, _ in recorded.trace.calls} and tap not in bad]
        if not sound:
            found.leave(f"{stage.name} {config}: no tap of it passes as it is; see parity run")
        for tap in sound[:: max(1, len(sound) // sample)][:sample]:
            for change in (*OUTPUTS, ARGUMENT):
                progress(f"{stage.name} {config} {tap}: {change}")
                rows, changed = _rows(side, modules, recorded, config, _Changing, (tap, change))
                if not changed:
                    found.leave(f"{change}: there is nothing to change")
                    continue
                red = (_tap(row) for row in rows if row.verdict != "pass")
                found.made.append(Wrapped(stage.name, config, tap, change, next((t for t in red if t not in bad), "")))
    return found


def _tap(row: Row) -> str:
    return row.name.partition(":")[0]


def _rows(
    side: Side,
    modules: dict[str, Any],
    recorded: Recorded,
    config: str,
    kind: type[_Changing],
    change: tuple[str, str] = ("", ""),
) -> tuple[list[Row], bool]:
    """The rows of one run, and whether anything was changed in it."""
    session = session_of(side, recorded, False, kind)
    session.change = change
    trace, root = run_side(side, modules, recorded, session), recorded.pair.root
    trace, _ = comparable(recorded.trace, answering(recorded.trace, trace, root), root)
    return judge_side(Results(), config, recorded, trace, False), session.changed


def table(found: Wrappings) -> str:
    """In Markdown, a change a line."""
    lines = ["| change of one tap | made | noticed | in place | first that was not noticed |", "|---|--:|--:|--:|---|"]
    for change in dict.fromkeys(w.change for w in found.made):
        some = [w for w in found.made if w.change == change]
        missed = next((f"`{w.stage} {w.config} {w.tap}`" for w in some if not w.noticed), "")
        numbers = f"{len(some)} | {sum(w.noticed for w in some)} | {sum(w.in_place for w in some)}"
        lines.append(f"| {change} | {numbers} | {missed} |")
    lines += ["", *(f"- not changed: {why} ({count})" for why, count in found.left_out.items())]
    return "\n".join(lines).rstrip() + "\n"
