"""A side from outside: code that is no copy of the reference's structure, beside it.

A port is declared in one file, as ``COMPONENTS`` here says: which class is which component, how its parameters are
named, and how it is called. See "Another port" in ``parity/README.md``.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2_mlx.errors import InputError, LTX2Error
from ltx2_mlx.loading.checkpoint import CheckpointPath
from ltx2_mlx.loading.load import build

from ..declare.model import Case, FunctionTap, HasClasses, Stage
from ..declare.stages import stages
from ..tap.side import Loras, Side, resolve
from .loading import read

Rename = tuple[str, str | Callable[[re.Match[str]], str]]
ENTRY_POINTS = "parity.sides"


class PortError(LTX2Error):
    """A side from outside is not as it must be: which component, and what is wrong with it."""


class NotComparableError(LTX2Error):
    """The port has nothing that a case could be run on, and why."""


@dataclass(frozen=True)
class Part:
    """One component of a port.

    make: the checkpoint's config → the port's module, with random weights.
    call: the module, and the case's inputs by the reference's names (arrays are the port's) → its result. Raises
        NotComparableError for inputs that the port cannot take.
    rename: regular expressions and what takes their place, in this order, in the official names of parameters and
        modules; the component's prefix is gone already. A function of the config where they depend on it.
    weights: official name → NumPy array to the same in the port's layouts: joined, split, turned.
    unused: official parameters (globs) that the port does without. own: the port's (globs) that a checkpoint may lack.
        Everything else must meet its counterpart, in its shape but for ``loose`` (globs of the port's).
    taps: official module → the port's, where the rename rules do not say it; None for one that is another thing.
    channels_last: arrays within the component, and into and out of it, have their channels last. A function of a module
        where that is so of some of them.
    entry: the reference's method, or function around the component, that ``call`` stands for; "" for the call itself.
    """

    make: Callable[[dict[str, Any]], Any]
    call: Callable[[Any, SimpleNamespace], Any]
    rename: tuple[Rename, ...] | Callable[[dict[str, Any]], tuple[Rename, ...]] = ()
    weights: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda tensors: tensors
    unused: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    loose: tuple[str, ...] = ()
    taps: dict[str, str | None] = field(default_factory=dict)
    channels_last: bool | Callable[[Any], bool] = False
    entry: str = ""


class Port(Side):
    """What every side from outside does in the same way; ``TorchPort`` and ``MLXPort`` add the framework.

    components: the component's name in this harness → its part. version: of the code that is compared.
    """

    name: str
    version = ""
    components: dict[str, Part]

    def __init__(self, role: str = "port"):
        self.key = role
        self._loaded: dict[int, _Loaded] = {}

    def parameters_of(self, module: Any) -> dict[str, tuple[int, ...]]:
        """Name → shape of everything that the module takes from a checkpoint."""
        raise NotImplementedError

    def assign(self, module: Any, tensors: dict[str, Any]) -> Any:
        """The module with its weights, ready to be called."""
        raise NotImplementedError

    def modules_of(self, module: Any) -> Iterator[tuple[str, Any]]:
        """Path → module, all of them."""
        raise NotImplementedError

    def why_not(self, stage: Stage) -> str:
        """Why a stage cannot be compared; "" where it can."""
        if stage.component is None:
            return "it compares free functions"
        if lacking := [name for name in (stage.main, *stage.also) if name not in self.components]:
            return f"{self.name} declares no {', '.join(lacking)}"
        return "LoRAs and float8 are each port's own business" if stage.loras or stage.quantization else ""

    def part(self, component: str, config: dict[str, Any]) -> Part:
        """The declaration of a component as a checkpoint has it."""
        return self.components[component]

    def load(
        self,
        component: str,
        path: CheckpointPath,
        config: dict[str, Any],
        dtype: str,
        loras: Loras = (),
        quantization: str | None = None,
        paged: bool = False,
    ) -> Any:
        """The component with the checkpoint's weights. Raises PortError where the two do not meet."""
        official, keys = build(component, read(path))
        arrays, paths = read(path).arrays(), _paths(official)
        with self._made(component):
            part, to = self.part(component, config), self.dtype(dtype)
            if callable(part.rename):
                part = replace(part, rename=part.rename(config))
            held = {n: np.array(arrays[k].astype(mx.float32)) for n, k in keys.items() if not _any(n, part.unused)}
            module = part.make(config)
            tensors = {renamed(name, part): np.asarray(array) for name, array in part.weights(held).items()}
            wanted, modules = self.parameters_of(module), dict(self.modules_of(module))
        lacking = [n for n in wanted if n not in tensors and not _any(n, part.own) and "._" not in f".{n}"]
        absent = [f"missing {n} {wanted[n]}" for n in lacking]
        over = [f"left over {n} {a.shape}" for n, a in tensors.items() if n not in wanted]
        other = [
            f"misshaped {n}: {a.shape} for {wanted[n]}"
            for n, a in tensors.items()
            if n in wanted and a.shape != tuple(wanted[n]) and not _any(n, part.loose)
        ]
        nowhere = [
            f"taps: {name} → {path}, which is no module of it"
            for name, path in part.taps.items()
            if name in paths and path is not None and path not in modules
        ]
        if problems := [*absent[:3], *over[:3], *other[:3], *nowhere[:3]]:
            count = len(absent) + len(over) + len(other) + len(nowhere) - len(problems)
            more = f"; and {count} more" if count else ""
            raise PortError(f"{self.name}: {component}: {'; '.join(problems)}{more}")
        with self._made(component):
            module = self.assign(module, {name: self.from_numpy(a, to) for name, a in tensors.items()})
        names = {renamed(name, part): name for name in held}
        self._loaded[id(module)] = _Loaded(component, part, type(official).__name__, paths, names, module)
        return module

    @contextlib.contextmanager
    def _made(self, component: str) -> Iterator[None]:
        """What the port's own code raises within is one line that names the component and the place."""
        try:
            yield
        except NotComparableError:
            raise
        except (Exception, SystemExit) as error:
            line = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(line.filename).name}:{line.lineno}"
            raise PortError(
                f"{self.name}: {component} cannot be made ({where}): {type(error).__name__}: {error}"
            ) from error

    def also(self, module: Any, copy: Any) -> None:
        """Another module is a copy of one that was loaded."""
        self._loaded[id(copy)] = replace(self._loaded[id(module)], module=copy)

    def root(self, module: Any) -> str:
        return self._loaded[id(module)].root if id(module) in self._loaded else type(module).__name__

    def official(self, module: Any) -> dict[str, str]:
        """Parameter that a checkpoint holds → its official name; its own where it is one of a joined or split one."""
        loaded = self._loaded[id(module)]
        held = (name for name in self.parameters_of(module) if not _any(name, loaded.part.own))
        return {name: loaded.names.get(name, name) for name in held}

    def named_modules(self, module: Any) -> Iterator[tuple[str, Any]]:
        """The official name of every module that the port has as well."""
        loaded = self._loaded.get(id(module))
        own = dict(self.modules_of(module))
        if loaded is None:
            yield from own.items()
            return
        seen = set()
        for official in ["", *sorted(loaded.paths, key=len, reverse=True)]:  # a container's name could be its layer's
            path = "" if not official else loaded.part.taps.get(official, renamed(official, loaded.part))
            if path is not None and path in own and id(own[path]) not in seen:
                seen.add(id(own[path]))
                yield official, own[path]

    def channels_last(self, taps: dict[str, Any], root: str) -> set[str]:
        loaded = self._loaded.get(id(taps[root]))
        last = loaded.part.channels_last if loaded else False
        return (
            {name for name, module in taps.items() if last(module)} if callable(last) else set(taps) if last else set()
        )

    def prepared(
        self, stage: Stage, modules: dict[str, Any], case: Case, lane: str, model: str
    ) -> tuple[Any, Callable[[], Any]]:
        main = modules[stage.main]
        part = self._loaded[id(main)].part if id(main) in self._loaded else self.components[stage.main]
        if self.key == "reference" and case.function in stage.classes:
            owner, function = resolve(stage.classes[case.function].reference)
            kwargs = self.materialise(case.kwargs, stage, lane, model, modules)
            return None, lambda: getattr(owner, function)(**kwargs)
        if (called := case.method or case.function or "") != part.entry:
            raise NotComparableError(f"it calls {called or 'the component itself'}, which is not declared of the port")
        inputs = SimpleNamespace(**self.materialise(case.kwargs, stage, lane, model, modules))
        return None, lambda: part.call(main, inputs)

    def functions(self, stage: Stage) -> list[tuple[FunctionTap, str]]:
        """Those of a stage whose reference this is; as a subject it has modules only."""
        return super().functions(stage) if self.key == "reference" else []

    def cls(self, stage: HasClasses, name: str) -> Any:
        """Objects of the reference's are plain ones with the same fields; members of its enums are their values."""
        return lambda *value, **fields: value[0] if value else SimpleNamespace(**fields)


@dataclass(frozen=True)
class _Loaded:
    component: str
    part: Part
    root: str
    paths: list[str]
    names: dict[str, str]  # its parameters → the official ones
    module: Any  # or its identity could become another's


def _paths(official: Any) -> list[str]:
    """The official modules, from ours, which is built as the reference is."""
    return sorted(name for name, _ in official.named_modules() if name)


def renamed(name: str, part: Part) -> str:
    """The port's name of an official parameter or module."""
    assert not callable(part.rename)  # ``load`` has called it
    for pattern, by in part.rename:
        name = re.sub(pattern, by, name)
    return name


def _any(name: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


# ---- finding sides ------------------------------------------------------------------------------------------------


def find(name: str, role: str) -> Port:
    """A side by its name (one of ours, or of an entry point of ``parity.sides``), or from a Python file.

    The file, or the entry point's module, defines ``SIDE``, a subclass of ``TorchPort`` or ``MLXPort``. Raises
    InputError.
    """
    path = Path(name)
    if path.suffix == ".py":
        if not path.is_file():
            raise InputError(f"{name}: no such file; a side is a Python file or one of: {', '.join(known())}")
        spec = importlib.util.spec_from_file_location(f"parity_side_{path.stem}", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        with _said(name):
            spec.loader.exec_module(module)
    elif name in BUNDLED:
        with _said(name):
            module = importlib.import_module(BUNDLED[name])
    else:
        points = importlib.metadata.entry_points(group=ENTRY_POINTS, name=name)
        if name in known()[:2]:
            raise InputError(f"{name} is no {'reference' if role == 'reference' else 'subject'} of such a run")
        if not points:
            raise InputError(f"no side '{name}'; a side is a Python file or one of: {', '.join(known())}")
        if len(points) > 1:
            raise InputError(f"the side {name} is declared {len(points)} times: {', '.join(p.value for p in points)}")
        with _said(name):
            module = next(iter(points)).load()
    side = module if isinstance(module, type) else getattr(module, "SIDE", None)
    if not (isinstance(side, type) and issubclass(side, Port)):
        raise InputError(f"{name}: defines no SIDE, a subclass of TorchPort or MLXPort (see parity/sides/README.md)")
    _check(name, side)
    with _said(name):
        return side(role)


def _check(name: str, side: type[Port]) -> None:
    """Raises InputError for a side whose fields are not as they must be."""
    for key in ("name", "version"):
        if not isinstance(getattr(side, key, None), str):
            raise InputError(f"{name}: SIDE.{key} is no text")
    parts = getattr(side, "components", None)
    if not (isinstance(parts, dict) and parts and all(isinstance(part, Part) for part in parts.values())):
        raise InputError(f"{name}: SIDE.components is no dictionary of Part")
    there = {component for stage in stages().values() if stage.component for component in (stage.main, *stage.also)}
    if strangers := sorted(str(component) for component in parts if component not in there):
        raise InputError(f"{name}: SIDE.components: there is no '{strangers[0]}', only {', '.join(sorted(there))}")


BUNDLED = {"diffusers": "parity.sides.torch.diffusers", "mlx-video-with-audio": "parity.sides.ports.mlx_video"}


def known() -> list[str]:
    """The names of the sides that are installed."""
    installed = (point.name for point in importlib.metadata.entry_points(group=ENTRY_POINTS))
    return list(dict.fromkeys(["ltx-core", "ltx2-mlx", *BUNDLED, *installed]))


@contextlib.contextmanager
def _said(name: str) -> Iterator[None]:
    try:
        yield
    except (Exception, SystemExit) as error:
        remedy = "; pip install 'ltx2-mlx[ports]'" if name in BUNDLED and isinstance(error, ImportError) else ""
        raise InputError(f"the side {name} cannot be imported: {type(error).__name__}: {error}{remedy}") from error
