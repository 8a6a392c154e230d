"""One tapped run: it records a free run, or *grafts* recorded values."""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any, Literal

from ..declare.model import FunctionTap
from .binding import Binder
from .matching import Names, matched_inputs, matched_names, matched_outputs
from .nest import axis_moved, flatten, graft, join
from .side import PROBE, Side
from .trace import Call, Sums, Tensor, Trace

PROBE_SCALE = 2.0**-10  # exact in every dtype; brings a variance of 1 near an eps of 1e-6


_ALIASES = {"input": "x"}  # torch.nn's name for the one argument of a leaf layer, and ours


class Session:
    """One tapped run. With ``source`` it grafts the taps ``only`` (globs) from that trace; without, it runs free.

    keeps: what goes into the trace: all; of modules alone, their outputs; or nothing.
    matching: the source's names and arguments are its own, and meet those here where they can; see ``matching``.
    """

    def __init__(
        self,
        fw: Side,
        source: Trace | None = None,
        probes: tuple[str, ...] = (),
        oracle: bool = False,
        only: tuple[str, ...] = ("*",),
        keeps: Literal["all", "module outputs", "nothing"] = "all",
        matching: bool = False,
    ):
        self.fw, self.source, self.probes, self.oracle, self.only = fw, source, probes, oracle, only
        self.keeps, self.matching = keeps, matching
        self.single = False  # of inputs only those of calls with a single array meet, as ``met`` judges them
        self.trace = Trace()
        self._stack: list[str] = []
        self._counts: Counter[str] = Counter()
        self._sums: list[Sums] = [{}]  # of the code of the taps that are running, the innermost last
        self.roots: set[str] = set()  # tapped root modules: what they call is named as in the checkpoint, without them
        self.paths: dict[int, str] = {}  # id of a tapped module → its tap
        self.channels_last: set[str] = set()  # taps whose arrays are channels-last on this side; traces never are
        self.results: Names = {}  # of some taps, beside a source with names of its own
        self.kept: tuple[str, ...] = ()  # globs of the taps that are seen at all; empty for all
        self.counted = True  # the terms of the reference's sums; False where nothing is judged by them
        self.shipped = False  # the product's own caches and compiled functions stay on
        self.on_values: Callable[[Iterable[Any]], None] = lambda values: None  # as they were before grafting

    def call(
        self,
        tap: str,
        original: Callable[..., Any],
        binder: Binder,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        wide: bool = False,
        injected: bool = False,
        channels_last: bool = False,
    ) -> Any:
        channels_last = channels_last or tap in self.channels_last
        index = self._counts[tap]
        self._counts[tap] += 1
        if self.kept and not injected and not any(fnmatchcase(tap, pattern) for pattern in self.kept):
            return self._within(tap, functools.partial(original, *args, **kwargs))
        bound = binder.bind(args, kwargs)
        call, known = Call(tap, index), None
        if self.source and (injected or any(fnmatchcase(tap, pattern) for pattern in self.only)):
            known = self.source.calls.get((tap, index))
        names = self.names(call, bound.arguments)
        if self.keeps == "all":
            for key, value in bound.arguments.items():
                flatten(value, names[key], self.fw, call.inputs)
            if channels_last:
                call.inputs = axis_moved(call.inputs, -1, 1)
        call.sums_before = dict(self._sums[-1])
        self.trace.calls[tap, index] = call
        self.trace.events.append(("in", tap, index))
        self.on_values(self._compared(bound.arguments))
        if known is not None:
            inputs = self.known_inputs(call, known)
            recorded = axis_moved(inputs, 1, -1) if channels_last else inputs
            for key, value in bound.arguments.items():
                bound.arguments[key] = graft(value, names[key], self.fw, recorded, wide and self.oracle)
        self._sums.append(call.sums)
        try:
            output = self._within(tap, functools.partial(original, *bound.args, **bound.kwargs))
        except Exception as error:
            call.error = call.error or f"{type(error).__name__}: {error}"
            raise
        finally:
            self._sums.pop()
        if self.keeps != "nothing":
            flatten(output, "", self.fw, call.outputs)
            if channels_last:
                call.outputs = axis_moved(call.outputs, -1, 1)
        self.on_values(output if isinstance(output, tuple) else (output,))
        if any(fnmatchcase(tap, pattern) for pattern in self.probes):
            self._probe(call, known, original, bound, names, channels_last)
        self.trace.events.append(("out", tap, index))
        self.finished(call)
        if known is None:
            return output
        outputs = self.known_outputs(call, known)
        return graft(output, "", self.fw, axis_moved(outputs, 1, -1) if channels_last else outputs)

    def known_inputs(self, call: Call, known: Call) -> dict[str, Any]:
        """What is grafted in the place of a call's inputs, under their names here."""
        return matched_inputs(call, known, self.single) if self.matching else known.inputs

    def known_outputs(self, call: Call, known: Call) -> dict[str, Any]:
        return matched_outputs(call, known, self.results) if self.matching else known.outputs

    def names(self, call: Call, arguments: dict[str, Any]) -> dict[str, str]:
        """Argument → its name in the trace."""
        names = {key: _ALIASES.get(key, key) for key in arguments}
        if not (self.matching and self.source):
            return names
        arrays = [key for key, value in arguments.items() if self.fw.is_array(value)]
        return matched_names(names, arrays, self.source.calls.get((call.name, call.index)))

    def _compared(self, arguments: dict[str, Any]) -> list[Any]:
        """The arguments that are compared."""
        values = list(arguments.values())
        arrays = [value for value in values if self.fw.is_array(value)]
        return values if not self.single else arrays if len(arrays) == 1 else []

    def finished(self, call: Call) -> None:
        """Called with each call that has been recorded whole."""

    def _within(self, tap: str, run: Callable[[], Any]) -> Any:
        """What ``run`` returns; the functions that it calls are named after the tap."""
        self._stack.append(tap)
        try:
            output = run()
            return list(output) if inspect.isgenerator(output) else output
        finally:
            self._stack.pop()

    def _probe(
        self,
        call: Call,
        known: Call | None,
        original: Callable[..., Any],
        bound: inspect.BoundArguments,
        names: dict[str, str],
        channels_last: bool,
    ) -> None:
        source = (known or call).inputs
        small = {
            k: Tensor(v.values * v.values.dtype.type(PROBE_SCALE), v.dtype)
            for k, v in source.items()
            if isinstance(v, Tensor) and v.values.dtype.kind == "f"  # masks and counts stay
        }
        if channels_last:
            small = axis_moved(small, 1, -1)
        for key, value in bound.arguments.items():
            bound.arguments[key] = graft(value, names[key], self.fw, small)
        self._sums.append({})
        output = flatten(original(*bound.args, **bound.kwargs), PROBE, self.fw, {})
        self._sums.pop()
        call.outputs |= axis_moved(output, -1, 1) if channels_last else output

    def count(self, primitive: str, terms: int) -> None:
        """Note a sum of the tap that is running."""
        sums = self._sums[-1]
        sums[primitive] = max(terms, sums.get(primitive, 1))

    def taps(self, functions: list[tuple[FunctionTap, str]]) -> list[tuple[FunctionTap, str]]:
        """The functions to be tapped: all of them, or none where their values are not kept and none is grafted. A tap
        is named after those around it, so one that is grafted needs them all."""
        ends = [pattern.rpartition(".")[2] for pattern in self.only]
        grafted = any(tap.injected or any(fnmatchcase(tap.name, end) for end in ends) for tap, _ in functions)
        return functions if self.keeps != "module outputs" or grafted else []

    def name_of(self, function: str, owner: Any = None) -> str:
        """A function is named after the tap that calls it, a method called from outside its module after the module."""
        enclosing = self._stack[-1] if self._stack else ""
        path = self.paths.get(id(owner), "")
        if path and path not in self.roots and not f"{enclosing}.".startswith(f"{path}."):
            enclosing = path
        return join("" if enclosing in self.roots else enclosing, function)
