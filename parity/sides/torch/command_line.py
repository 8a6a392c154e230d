"""The reference's command lines: its ``main()`` functions, with everything behind the flags replaced by recorders."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

from ..media import scratch
from ..values import compared, expanded, leaves
from .components import Torch

from ltx_pipelines.utils import args as reference_args  # isort: skip  after components, see there
from ltx_pipelines.utils import model_ledger  # isort: skip

_POLICIES = SimpleNamespace(
    fp8_cast=lambda: "fp8-cast", fp8_scaled_mm=lambda amax: f"fp8-scaled-mm {amax or ''}".strip()
)


def arrived(step: str, recipe: str, argv: Sequence[str], stated: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What arrives of a command line. stated: what arrives of flags that the reference does not have."""
    _, values = _run(recipe, argv)
    found = compared(Torch(), step, values)
    return found | compared(Torch(), "", stated or {})


def configured(step: str, recipe: str, argv: Sequence[str]) -> dict[str, Any]:
    """What arrives of a command line: the reference reads no settings from files."""
    return arrived(step, recipe, argv)


def flags(recipe: str, argv: Sequence[str], given: Sequence[str], ours: Sequence[str]) -> dict[str, Any]:
    """The flags of the reference's parser that the stage's cases do not give: none."""
    parser, _ = _run(recipe, argv)
    left = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    return compared(Torch(), "", {"unknown": sorted(left - {"--help", *given}), **dict.fromkeys(given, "a flag")})


def refused(recipe: str, argv: Sequence[str], flag: Sequence[str]) -> dict[str, Any]:
    """True if nothing that arrives depends on the flag."""
    _, plain = _run(recipe, argv)
    _, more = _run(recipe, [*argv, *flag])
    side = Torch()
    both = [[f"{leaf}" for name, value in each.items() for leaf in leaves(name, value, side)] for each in (plain, more)]
    return compared(side, "", {"refused": both[0] == both[1]})


def parts(
    recipe: str, argv: Sequence[str], source: str, files: Mapping[str, str], stated: Mapping[str, Any]
) -> dict[str, Any]:
    """What is stated: the reference takes a checkpoint in one file."""
    return compared(Torch(), "", stated)


def existing(step: str, recipe: str, argv: Sequence[str]) -> dict[str, Any]:
    """True for a command line whose output exists already, if it is not refused."""
    with scratch("there.mp4") as path:
        path.touch()
        _, arrived = _run(recipe, [*argv, "--output-path", str(path)])
    return compared(Torch(), step, {"plain": bool(arrived)})


def _run(recipe: str, argv: Sequence[str]) -> tuple[argparse.ArgumentParser, dict[str, Any]]:
    """The last parser that parsed, and the values that arrived."""
    module, into = importlib.import_module(f"ltx_pipelines.{recipe}"), dict[str, Any]()
    parsers: list[argparse.ArgumentParser] = []
    parse = argparse.ArgumentParser.parse_args

    def parsing(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        parsers.append(self)
        return parse(self, *args, **kwargs)

    with contextlib.ExitStack() as undo:
        put = mock.patch.object
        undo.enter_context(put(argparse.ArgumentParser, "parse_args", parsing))
        undo.enter_context(put(sys, "argv", [recipe, *expanded(argv)]))
        undo.enter_context(put(reference_args, "QuantizationPolicy", _POLICIES))
        undo.enter_context(put(model_ledger.ModelLedger, "build_model_builders", lambda self: None))
        undo.enter_context(put(logging.getLogger(), "setLevel"))
        undo.enter_context(_recorded(module, into))
        module.main()
    return parsers[-1], into


@contextlib.contextmanager
def _recorded(module: ModuleType, into: dict[str, Any]) -> Iterator[None]:
    """While it lasts, the module's pipeline and writer put what they are given into ``into``."""
    cls: Any
    (cls,) = (
        value
        for name, value in vars(module).items()
        if isinstance(value, type) and "Pipeline" in name and value.__module__ == module.__name__
    )
    make, call, write = cls.__init__, cls.__call__, module.encode_video

    def made(self: Any, *args: Any, **kwargs: Any) -> None:
        given = _bound(make, self, *args, **kwargs)
        into.update({f"init.{name}": _named(value) for name, value in given.items() if name not in ("self", "device")})
        make(self, *args, **kwargs)
        if hasattr(self, FACTOR):
            into[f"init.{FACTOR}"] = getattr(self, FACTOR)
        ledgers = [value for value in vars(self).values() if isinstance(value, model_ledger.ModelLedger)]
        for number, ledger in enumerate(ledgers, 1):
            into.update({f"ledger.{number}.{name}": _named(getattr(ledger, name)) for name in LEDGER})

    def called(self: Any, *args: Any, **kwargs: Any) -> tuple[str, str]:
        given = _bound(call, self, *args, **kwargs)
        into.update({f"call.{name}": value for name, value in given.items() if name != "self"})
        return "the frames", "the audio"

    def written(*args: Any, **kwargs: Any) -> None:
        given = _bound(write, *args, **kwargs)
        names = {"video": "frames", "output_path": "path", "video_chunks_number": "chunks"}
        into.update({f"write.{names.get(name, name)}": value for name, value in given.items()})

    with mock.patch.multiple(cls, __init__=made, __call__=called), mock.patch.object(module, "encode_video", written):
        yield


class _BareLora(NamedTuple):
    path: str


def _named(value: Any) -> Any:
    """LoRAs that are bare names, as ``retake`` passes them on, with a field for the name."""
    return [_BareLora(x) if isinstance(x, str) else x for x in value] if isinstance(value, (list, tuple)) else value


FACTOR = "reference_downscale_factor"  # what an in-context LoRA's file says
LEDGER = ("checkpoint_path", "gemma_root_path", "spatial_upsampler_path", "loras", "dtype", "quantization")


def _bound(function: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments
