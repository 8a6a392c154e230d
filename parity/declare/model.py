"""The types of what is compared: stages, their taps and their cases. Only files in ``stages/`` fill these in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np


@dataclass(frozen=True)
class Data:
    """An input array.

    cast: "model" takes the dtype of the weights (float64 in the oracle), "lane" the dtype of the compared runs (also
    in the oracle: what the reference defines in it stays), "none" keeps the dtype it has here.
    """

    values: np.ndarray
    cast: Literal["model", "lane", "none"] = "model"


@dataclass(frozen=True)
class Obj:
    """An instance of the class (or member of the enum) that both sides know under the same name."""

    cls: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Member:
    """A member of an enum that both sides know under the same name and values."""

    cls: str
    value: str


@dataclass(frozen=True)
class Loaded:
    """A loaded component of the stage, as an argument."""

    component: str


class DType(Enum):
    """A dtype as an argument; "lane" is that of the compared runs."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    LANE = "lane"


@dataclass(frozen=True)
class Counterparts:
    """The same thing on both sides, as ``module:attribute`` paths."""

    reference: str
    ours: str


@dataclass(frozen=True)
class FunctionTap:
    """A function wrapped on both sides under one name, looked up where it is called.

    exact: integer or layout work, or float32 arithmetic that the reference defines: equal to the last bit.
    wide: in the oracle it is evaluated in float64 of the reference's float32 arguments.
    injected: random numbers, drawn by the reference and passed to ours in every lane; only their shape is compared.
    channels_last: our function takes and returns channels-last arrays (of three axes or more).
    configs: the configs in which it must be seen; empty means all.
    """

    name: str
    at: Counterparts
    exact: bool = False
    wide: bool = False
    injected: bool = False
    channels_last: bool = False
    configs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One call of a case: a function or class by name, or a method of an object, with keyword arguments."""

    name: str
    target: str | Obj
    kwargs: dict[str, Any]
    method: str | None = None
    on_reference: dict[str, Any] = field(default_factory=dict)  # arguments that only the reference takes
    on_ours: dict[str, Any] = field(default_factory=dict)
    exact: bool = True


@dataclass(frozen=True)
class Case:
    """Inputs of one run: arguments of the stage's model (of its ``method``, or of a free ``function`` named in the
    stage's classes, which takes loaded components as ``Loaded``), or steps for a stage without a model.

    half: also run in bfloat16 and float16 (lane B).
    taps: globs of the taps that are recorded; empty for all. Long inputs name a few, and are judged in lane A alone.
    isolated: judged in lane A as well, and not in the free-running lane alone.
    after: cases that ours has run in the same process, with its caches on, before the free-running lane: the caches
        must not confuse them. ``name``, ``name@bfloat16`` or, of another checkpoint, ``config:name``.
    """

    kwargs: dict[str, Any] = field(default_factory=dict)
    method: str | None = None
    function: str | None = None
    steps: tuple[Step, ...] = ()
    half: bool = True
    taps: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    isolated: bool = True

    def only(self, taps: tuple[str, ...]) -> Case:
        """The case with these taps alone, and with the steps of these names; with all, where none is given."""
        steps = tuple(step for step in self.steps if not taps or any(fnmatchcase(step.name, glob) for glob in taps))
        return replace(self, taps=taps, steps=steps)


def section(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of a checkpoint's config; empty where it is not there, or is none."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}


Reference = Literal["ltx-core", "transformers", "diffusers", "formulas"]


@dataclass(frozen=True)
class Stage:
    """One component beside its reference.

    reference: the package whose code the stage is compared with. results: of one that has names of its own: tap (a
        glob) → its name of a result → ours, where a tap has several results of other names.
    fits: says of a checkpoint's config whether the stage is about such networks; where it is not, real files that hold
        the component are not compared in it.
    component: what both sides load from the config's checkpoint; None for a stage of free functions.
    also: further components that a case needs, each with the config whose checkpoint holds it ("" for the same one);
        their taps are named after them, and their coverage is the business of their own stages.
    wrapper: the class around the component that is called, if any.
    classes: names used in ``Obj``, ``Member`` and ``wrapper``, and where each side has them.
    probes: taps (globs) that are also called with their inputs · 2⁻¹⁰, or an eps could not be told from another.
    defined: taps (globs) whose float32 values depend on the reference's libm; the free-running lane starts from them.
    constant: taps (globs) whose reference output may be constant, with the reason.
    float32: ours computes in nothing else. Lane B then shows both sides' errors over the whole chain, free-running.
    idle: config → parameters that its checkpoint holds and its network does not use; one that does move is a hole.
    exact: taps (globs) of modules whose output must be equal to the last bit.
    angles: results (``tap.result``) in radians, each with the result of its tap that is the magnitude.
    reference_only: inputs (globs, ``tap:argument``) that only the reference hands around, with the reason.
    different: gives the values that are otherwise in ours on purpose, with the reason; see ``stages/differences.py``.
    folder: what it loads is a Hugging Face folder and no checkpoint file.
    loras: fused into the component as it loads: name (with ``{config}`` in it) and strength of each file.
    quantization: how the component is loaded, by the name that both sides know.
    layout: what the axes of its tensors are, for captions.
    """

    name: str
    component: str | None
    cases: Callable[[dict[str, Any]], dict[str, Case]]
    classes: dict[str, Counterparts]
    configs: tuple[str, ...]
    wrapper: str | None = None
    also: dict[str, str] = field(default_factory=dict)
    functions: tuple[FunctionTap, ...] = ()
    probes: tuple[str, ...] = ()
    defined: tuple[str, ...] = ()
    constant: dict[str, str] = field(default_factory=dict)
    float32: bool = False
    idle: dict[str, tuple[str, ...]] = field(default_factory=dict)
    exact: tuple[str, ...] = ()
    angles: dict[str, str] = field(default_factory=dict)
    reference_only: dict[str, str] = field(default_factory=dict)
    different: Callable[[], dict[str, str]] = dict
    folder: bool = False
    loras: tuple[tuple[str, float], ...] = ()
    quantization: str | None = None
    layout: Literal["sequence", "video", "audio"] = "sequence"
    reference: Reference = "ltx-core"
    results: dict[str, dict[str, str]] = field(default_factory=dict)
    fits: Callable[[dict[str, Any]], bool] = lambda config: True

    @property
    def mirrored(self) -> bool:
        """True where the reference's arguments and results have our names; diffusers has its own."""
        return self.reference != "diffusers"

    @property
    def main(self) -> str:
        """The component of a stage that has one. Raises ValueError for a stage of free functions."""
        if self.component is None:
            raise ValueError(f"the stage {self.name} has no component")
        return self.component


class HasClasses(Protocol):
    """A declaration that names the classes of both sides: a stage, a pipeline."""

    @property
    def classes(self) -> dict[str, Counterparts]: ...


@dataclass(frozen=True)
class Watch:
    """A function or method whose every call is recorded while a pipeline runs, as ``name.NNN.part``.

    Every leaf of every argument is a part, ``in.`` and its path (``in.video.context``).
    inputs: shorter names for some of them, by path. outputs: part → where it is in the result, as a path of attributes
    and indices (``.latent``, ``.0``; "" is the whole result).
    ours: arguments that have another name in ours → the reference's.
    one_sided: arguments (globs of paths) that only one side hands around, with the reason.
    instead: called with the same arguments, on both sides, in place of what is watched.
    """

    name: str
    at: Counterparts
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    ours: dict[str, str] = field(default_factory=dict)
    one_sided: dict[str, str] = field(default_factory=dict)
    instead: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Files:
    """The files that pipelines are given, by path. variant: which of its values each argument takes, 0 or 1."""

    checkpoint: Path
    upsampler: Path
    gemma: Path
    lora: Path
    distilled_lora: Path
    ic_lora: Path
    images: tuple[Path, ...]
    clips: tuple[Path, ...]
    audios: tuple[Path, ...]
    variant: int


Arguments = Callable[[Files], dict[str, Any]]


@dataclass(frozen=True)
class Pipeline:
    """One pipeline beside its reference: a class of the same name, in a module of the same name, run once.

    init and call: keyword arguments, neutral (``Obj``), of the constructor and of the call. on_ours: what only our call
    is given. settled: arguments of either side that have one value or none, with the reason. half: the config that runs
    in bfloat16 as well. tokens: in which both sides encode a prompt; the product's and the reference's 1024 take most
    of a tiny run's time.
    """

    name: str
    module: str
    cls: str
    init: Arguments
    call: Arguments
    watches: tuple[Watch, ...]
    classes: dict[str, Counterparts]
    on_ours: dict[str, Any] = field(default_factory=dict)
    settled: dict[str, str] = field(default_factory=dict)
    configs: tuple[str, ...] = ("tiny-2.0", "tiny-2.3")  # one for each variant
    half: str = "tiny-2.0"
    tokens: int = 256
