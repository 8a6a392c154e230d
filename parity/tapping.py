"""Taps without hooks in product code.

A module is tapped by swapping its class for a one-method subclass while the run lasts; parameter names are untouched.
A function is tapped by swapping the name under which it is called. The same mechanism serves torch and MLX.

A session either records a free run, or *grafts*: every tap is evaluated on the inputs that the reference recorded, and
then hands the reference's recorded output on. So each tap, and each bit of arithmetic between taps (it shows as the
next tap's input), is isolated from errors elsewhere, within one run of the real code.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import inspect
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from .registry import Case, Data, DType, FunctionTap, Member, Obj, Part, Stage
from .trace import Call, Tensor, Trace

PROBE = "low"  # the output's name of a call with its inputs scaled down
PROBE_SCALE = 2.0**-10  # exact in every dtype; brings a variance of 1 near an eps of 1e-6
Loras = tuple[tuple[Path, float], ...]  # files and strengths
_ALIASES = {"input": "x"}  # torch.nn's name for the one argument of a leaf layer, and ours


class Side(ABC):
    """One of the two frameworks: how its arrays and modules look, how a component loads, how a case runs."""

    key: str  # "reference" or "ours"
    method: str  # of a module, that a call ends in
    containers: tuple[type, ...] = ()  # modules without arithmetic of their own, absent on the other side

    @abstractmethod
    def is_array(self, value: Any) -> bool: ...
    @abstractmethod
    def is_module(self, value: Any) -> bool:
        """Modules, and what else is no input: devices."""

    @abstractmethod
    def dtype(self, name: str) -> Any: ...
    @abstractmethod
    def dtype_name(self, value: Any) -> str | None:
        """The name of a dtype, None for anything else."""

    @abstractmethod
    def to_numpy(self, value: Any) -> Tensor: ...
    @abstractmethod
    def from_numpy(self, values: np.ndarray, dtype: Any) -> Any: ...
    @abstractmethod
    def load(
        self,
        component: str,
        path: Path,
        config: dict[str, Any],
        dtype: str,
        loras: Loras = (),
        quantization: str | None = None,
    ) -> Any: ...
    @abstractmethod
    def named_modules(self, module: Any) -> Iterator[tuple[str, Any]]: ...

    def cls(self, stage: Stage, name: str) -> Any:
        owner, attribute = resolve(getattr(stage.classes[name], self.key))
        return getattr(owner, attribute)

    def materialise(self, value: Any, stage: Stage, lane: str, model: str) -> Any:
        """A case's neutral inputs as this side's objects; ``lane`` and ``model`` are dtype names."""
        if isinstance(value, Data):
            name = {"model": model, "lane": lane, "none": str(value.values.dtype)}[value.cast]
            return self.from_numpy(value.values, self.dtype(name))
        if isinstance(value, DType):
            return self.dtype(lane if value is DType.LANE else value.value)
        if isinstance(value, Obj):
            return self.cls(stage, value.cls)(**self.materialise(value.fields, stage, lane, model))
        if isinstance(value, Member):
            return self.cls(stage, value.cls)(value.value)
        if isinstance(value, Part):
            return self._parts[value.component]
        if isinstance(value, dict):
            return {k: self.materialise(v, stage, lane, model) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self.materialise(v, stage, lane, model) for v in value)
        return value

    def execute(
        self, stage: Stage, modules: dict[str, Any], case: Case, lane: str, model: str, session: Session | None
    ) -> Any:
        """Run a case on the loaded components, tapped if there is a session.

        lane: dtype of the compared runs; model: of the weights.
        """
        if case.steps:
            return self._execute_steps(stage, case, lane, model, session)
        self._parts = modules
        main = modules[stage.component]
        entry = self.cls(stage, stage.wrapper)(main) if stage.wrapper else main
        kwargs = self.materialise(case.kwargs, stage, lane, model)

        def run() -> Any:
            owner = entry if not case.method else getattr(entry, case.method)
            result = (self.cls(stage, case.function) if case.function else owner)(**kwargs)
            return list(result) if inspect.isgenerator(result) else result

        if session is None:
            return run()
        session.roots = {type(main).__name__, stage.wrapper or "", *stage.also}
        taps = {stage.wrapper: entry} if stage.wrapper else {}
        for component, module in modules.items():
            prefix = "" if component == stage.component else component
            root = prefix or type(main).__name__
            named = ((_join(prefix, name) if name else root, m) for name, m in self.named_modules(module))
            inner = {name: m for name, m in named if type(m) not in self.containers}
            if getattr(type(module), "channels_last", False):
                public = {name for name, m in inner.items() if getattr(type(m), "reference_layout", False)}
                session.channels_last |= inner.keys() - {root} - public
            taps |= inner
        session.paths = {id(module): name for name, module in taps.items()}
        with tapped(session, taps, [(tap, getattr(tap.at, self.key)) for tap in stage.functions]):
            return run()

    def _execute_steps(self, stage: Stage, case: Case, lane: str, model: str, session: Session) -> None:
        for step in case.steps:
            target = step.target if isinstance(step.target, str) else self.materialise(step.target, stage, lane, model)
            function = self.cls(stage, target) if isinstance(target, str) else target
            if step.method:
                function = getattr(function, step.method)
            own = self.materialise(step.on_reference if self.key == "reference" else step.on_ours, stage, lane, model)
            session.trace.places[step.name] = source_of(function)
            function = functools.partial(function, **own)
            session.call(step.name, function, _KWARGS, (), self.materialise(step.kwargs, stage, lane, model))


_KWARGS = inspect.signature(lambda **kwargs: None)


def flatten(value: Any, name: str, fw: Side, into: dict[str, Any]) -> dict[str, Any]:
    """Name → Tensor or constant, for every leaf of a nest of arrays, tuples, dicts, dataclasses and enums."""
    if isinstance(value, np.ndarray):
        into[name] = Tensor(value.copy(), str(value.dtype))
    elif fw.is_array(value):
        into[name] = fw.to_numpy(value)
    elif fw.is_module(value):
        pass
    elif isinstance(value, Enum):
        into[name] = value.value
    elif dataclasses.is_dataclass(value):
        for f in dataclasses.fields(value):
            flatten(getattr(value, f.name), _join(name, f.name), fw, into)
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            flatten(item, _join(name, str(i)), fw, into)
    elif isinstance(value, dict):
        for key, item in value.items():
            flatten(item, _join(name, str(key)), fw, into)
    elif isinstance(value, slice):
        into[name] = f"{value.start}:{value.stop}:{value.step}"
    elif (dtype := fw.dtype_name(value)) is not None:
        into[name] = dtype
    elif callable(value):
        into[name] = getattr(value, "__name__", type(value).__name__)
    elif value is None or isinstance(value, (str, int, float, complex, np.generic, PurePath)):
        into[name] = value
    else:  # an object without arrays or fields
        into[name] = type(value).__name__
    return into


def graft(value: Any, name: str, fw: Side, recorded: dict[str, Any], wide: bool = False) -> Any:
    """``value`` with every array replaced by the recorded one of the same name, in the dtype it has here."""
    if isinstance(value, np.ndarray) or fw.is_array(value):
        tensor = recorded.get(name)
        if not isinstance(tensor, Tensor):
            return value
        widen = wide and tensor.values.dtype.kind == "f"
        if isinstance(value, np.ndarray):
            return tensor.values.astype(np.float64 if widen else value.dtype)
        return fw.from_numpy(tensor.values, fw.dtype("float64") if widen else value.dtype)
    if fw.is_module(value):  # an MLX module is a dict as well
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        new = {
            f.name: graft(getattr(value, f.name), _join(name, f.name), fw, recorded, wide)
            for f in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **new)
    if isinstance(value, (list, tuple)):
        new = [graft(item, _join(name, str(i)), fw, recorded, wide) for i, item in enumerate(value)]
        return type(value)(*new) if hasattr(value, "_fields") else type(value)(new)
    if isinstance(value, dict):
        return {k: graft(v, _join(name, str(k)), fw, recorded, wide) for k, v in value.items()}
    return value


def _join(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part


def _moved(leaves: dict[str, Any], source: int, to: int) -> dict[str, Any]:
    """Leaves with one axis of every array of three axes or more moved: from channels-last to the reference's layout
    and back."""
    return {
        name: Tensor(np.ascontiguousarray(np.moveaxis(leaf.values, source, to)), leaf.dtype)
        if isinstance(leaf, Tensor) and leaf.values.ndim > 2
        else leaf
        for name, leaf in leaves.items()
    }


class Session:
    """One tapped run. With ``source`` it grafts the taps ``only`` (globs) from that trace; without, it runs free."""

    def __init__(
        self,
        fw: Side,
        source: Trace | None = None,
        probes: tuple[str, ...] = (),
        oracle: bool = False,
        only: tuple[str, ...] = ("*",),
    ):
        self.fw, self.source, self.probes, self.oracle, self.only = fw, source, probes, oracle, only
        self.trace = Trace()
        self._stack: list[str] = []
        self._counts: Counter[str] = Counter()
        self.roots: set[str] = set()  # tapped root modules: what they call is named as in the checkpoint, without them
        self.paths: dict[int, str] = {}  # id of a tapped module → its tap
        self.channels_last: set[str] = set()  # taps whose arrays are channels-last on this side; traces never are
        self.on_values: Callable[[Iterable[Any]], None] = lambda values: None  # as they were before grafting

    def call(
        self,
        tap: str,
        original: Callable,
        signature: inspect.Signature,
        args: tuple,
        kwargs: dict,
        wide: bool = False,
        injected: bool = False,
        channels_last: bool = False,
    ) -> Any:
        channels_last = channels_last or tap in self.channels_last
        index = self._counts[tap]
        self._counts[tap] += 1
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        call = Call(tap, index)
        for key, value in bound.arguments.items():
            flatten(value, _ALIASES.get(key, key), self.fw, call.inputs)
        if channels_last:
            call.inputs = _moved(call.inputs, -1, 1)
        self.trace.calls[tap, index] = call
        self.trace.events.append(("in", tap, index))
        self.on_values(bound.arguments.values())
        known = None
        if self.source and (injected or any(fnmatchcase(tap, pattern) for pattern in self.only)):
            known = self.source.calls.get((tap, index))
        if known is not None:
            recorded = _moved(known.inputs, 1, -1) if channels_last else known.inputs
            for key, value in bound.arguments.items():
                new = graft(value, _ALIASES.get(key, key), self.fw, recorded, wide and self.oracle)
                bound.arguments[key] = new
        self._stack.append(tap)
        try:
            output = original(*bound.args, **bound.kwargs)
            if inspect.isgenerator(output):
                output = list(output)
        except Exception as error:
            call.error = call.error or f"{type(error).__name__}: {error}"
            raise
        finally:
            self._stack.pop()
        flatten(output, "", self.fw, call.outputs)
        if channels_last:
            call.outputs = _moved(call.outputs, -1, 1)
        self.on_values(output if isinstance(output, tuple) else (output,))
        if any(fnmatchcase(tap, pattern) for pattern in self.probes):
            self._probe(call, known, original, bound, channels_last)
        self.trace.events.append(("out", tap, index))
        if known is None:
            return output
        return graft(output, "", self.fw, _moved(known.outputs, 1, -1) if channels_last else known.outputs)

    def _probe(
        self,
        call: Call,
        known: Call | None,
        original: Callable,
        bound: inspect.BoundArguments,
        channels_last: bool,
    ) -> None:
        source = (known or call).inputs
        small = {
            k: Tensor(v.values * v.values.dtype.type(PROBE_SCALE), v.dtype)
            for k, v in source.items()
            if isinstance(v, Tensor) and v.values.dtype.kind == "f"  # masks and counts stay
        }
        if channels_last:
            small = _moved(small, 1, -1)
        for key, value in bound.arguments.items():
            bound.arguments[key] = graft(value, _ALIASES.get(key, key), self.fw, small)
        output = flatten(original(*bound.args, **bound.kwargs), PROBE, self.fw, {})
        call.outputs |= _moved(output, -1, 1) if channels_last else output

    def name_of(self, function: str, owner: Any = None) -> str:
        """A function is named after the tap that calls it, a method called from outside its module after the module."""
        enclosing = self._stack[-1] if self._stack else ""
        path = self.paths.get(id(owner), "")
        if path and path not in self.roots and not f"{enclosing}.".startswith(f"{path}."):
            enclosing = path
        return _join("" if enclosing in self.roots else enclosing, function)


@contextlib.contextmanager
def tapped(session: Session, modules: dict[str, Any], functions: list[tuple[FunctionTap, str]]) -> Iterator[Session]:
    """Tap ``modules`` (tap name → module) and functions (tap, ``module:attribute`` on this side) while it lasts."""
    with contextlib.ExitStack() as undo:
        for name, module in modules.items():
            undo.enter_context(_tap_module(session, name, module))
        for tap, place in functions:
            undo.enter_context(_tap_function(session, tap, place))
        yield session


@functools.cache
def _signature(function: Callable, method: bool) -> inspect.Signature:
    """Of a function, without its first parameter when it is a method."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # a builtin without one
        signature = inspect.signature(lambda *args, **kwargs: None)
    return signature.replace(parameters=list(signature.parameters.values())[method:])


@contextlib.contextmanager
def _tap_module(session: Session, name: str, module: Any) -> Iterator[None]:
    cls, method = type(module), session.fw.method
    original = getattr(cls, method)
    signature = _signature(original, True)

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        return session.call(name, lambda *a, **k: original(self, *a, **k), signature, args, kwargs)

    session.trace.places[name] = source_of(original)
    module.__class__ = type(cls.__name__, (cls,), {method: run})
    try:
        yield
    finally:
        module.__class__ = cls


def resolve(place: str) -> tuple[Any, str]:
    """``package.module:Class.attribute`` → (owner, attribute name)."""
    module, _, path = place.partition(":")
    owner = importlib.import_module(module)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name


def source_of(function: Callable) -> str:
    """Where the product's source defines a function or class, as ``ltx2_mlx/file.py:line``; "" for anybody else's."""
    function = inspect.unwrap(function)
    if isinstance(function, type):
        function = function.__init__
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    parts = Path(code.co_filename).parts if code else ()
    if "ltx2_mlx" not in parts:
        return ""
    start = len(parts) - 1 - parts[::-1].index("ltx2_mlx")
    return f"{'/'.join(parts[start:])}:{code.co_firstlineno}"


@contextlib.contextmanager
def _tap_function(session: Session, tap: FunctionTap, place: str) -> Iterator[None]:
    owner, name = resolve(place)
    original = getattr(owner, name)
    method = isinstance(owner, type) and next(iter(_signature(original, False).parameters), "") == "self"
    signature, where = _signature(original, method), source_of(original)

    def run(*args: Any, **kwargs: Any) -> Any:
        bound, this = original, None
        if method:
            this, *args = args
            bound = functools.partial(original, this)
        last = tap.channels_last and session.fw.key == "ours"
        name = session.name_of(tap.name, this)
        session.trace.places[name] = where
        return session.call(name, bound, signature, tuple(args), kwargs, tap.wide, tap.injected, last)

    run.__name__ = getattr(original, "__name__", name)
    setattr(owner, name, run)
    try:
        yield
    finally:
        setattr(owner, name, original)
