"""Our command line: ``ltx2-mlx generate``, with everything behind the plan replaced by recorders."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import inspect
import io
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from .media import scratch
from .mlx import MLX
from .once import answering_once, headers_read_once
from .values import compared, expanded, leaves

FACTOR = "reference_downscale_factor"  # what an in-context LoRA's file says
LEDGER = ("checkpoint_path", "gemma_root_path", "spatial_upsampler_path", "loras")
# Problems that the small checkpoints have with the defaults of large ones.
_OF_SMALL = ("stg-blocks", "takes about")


def arrived(step: str, recipe: str, argv: Sequence[str], more: Sequence[str] = ()) -> dict[str, Any]:
    """What arrives of a command line. more: flags that the reference does not have."""
    return compared(MLX(), step, _run(recipe, [*argv, *more]))


def configured(step: str, recipe: str, argv: Sequence[str], changed: Sequence[str]) -> dict[str, Any]:
    """What arrives of the settings that the last video of ``argv`` records, with changes on the command line."""
    said: list[str] = []
    with scratch("settings.json") as path:
        places = path.with_name("places.json")  # files are named without their folders, and found again there
        with mock.patch.object(_product("cli.places"), "file", lambda: places):
            _run(recipe, argv, said)
            path.write_text(said[-1])
            return compared(MLX(), step, _run(None, ["--config", str(path), *changed]))


def flags(recipe: str, argv: Sequence[str], given: Sequence[str], ours: Sequence[str]) -> dict[str, Any]:
    """The flags of our parser that the stage's cases do not give: none."""
    parser = _product("cli.recipes").parser("generate", recipe)
    known = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    unknown = sorted(known - {"--help", "--pipeline", *given, *ours})
    found = {flag: "a flag" for flag in given if flag in known}
    return compared(MLX(), "", {"unknown": unknown, **found})


def refused(recipe: str, argv: Sequence[str], flag: Sequence[str]) -> dict[str, Any]:
    """True if a command line with the flag is refused with a reason."""
    words = expanded(["--pipeline", recipe, *argv])
    parse, said = _product("cli.recipes").parse, io.StringIO()
    parse("generate", words)
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(said):
        parse("generate", [*words, *flag])
    return compared(MLX(), "", {"refused": f"{flag[0]}: has no effect here" in said.getvalue()})


def parts(recipe: str, argv: Sequence[str], source: str, files: Mapping[str, str]) -> dict[str, Any]:
    """The names of a split checkpoint's files, wherever they arrive. files: flag → name of a copy of ``source``."""
    with scratch("parts") as folder:
        folder.mkdir()
        given = {flag: folder / name for flag, name in files.items()}
        for path in given.values():
            shutil.copyfile(expanded([source])[0], path)
        arrived = _run(recipe, [*argv, *(word for flag, path in given.items() for word in (flag, str(path)))])
    held = {name: value for name, value in arrived.items() if name.endswith("checkpoint_path")}
    found = (pair for name, value in held.items() for pair in leaves(name, value, MLX()))
    return compared(MLX(), "", {name: Path(str(value)).name for name, value in found})


def existing(step: str, recipe: str, argv: Sequence[str]) -> dict[str, Any]:
    """True for a command line whose output exists already, if it is not refused."""
    found = {}
    with scratch("there.mp4") as path:
        path.touch()
        for name, more in (("plain", ()), ("--overwrite", ("--overwrite",))):
            try:
                found[name] = bool(_run(recipe, [*argv, "--output-path", str(path), *more]))
            except ValueError as error:
                if "exists; give another name" not in str(error):
                    raise
                found[name] = False
    return compared(MLX(), step, found)


def _product(module: str) -> Any:
    return importlib.import_module(f"ltx2_mlx.{module}")  # looked up when called, see sides/mlx.py


def _run(recipe: str | None, argv: Sequence[str], comments: list[str] | None = None) -> dict[str, Any]:
    """The values that arrived. comments: gets the settings that were to be written into the file."""
    into: dict[str, Any] = {}
    plans, real, said = _product("cli.plan"), importlib.util.find_spec, io.StringIO()
    planned = plans.plan

    def plan(*args: Any, **kwargs: Any) -> Any:
        made = planned(*args, **kwargs)
        made.problems = [p for p in made.problems if not any(part in p for part in _OF_SMALL)]
        return made

    def find_spec(name: str, *args: Any) -> Any:
        return SimpleNamespace() if name in ("mlx_lm", "mlx_vlm") else real(name, *args)

    with contextlib.ExitStack() as undo:
        undo.enter_context(headers_read_once())  # by the 64 plans of this stage; so it is with what is built of them
        for user, name in (
            (plans, "build"),
            (_product("pipelines.prompts"), "build"),
            (_product("cli.settings_file"), "fingerprint"),
        ):
            undo.enter_context(mock.patch.object(user, name, answering_once(getattr(user, name))))
        undo.enter_context(mock.patch.object(plans, "plan", plan))
        undo.enter_context(mock.patch.object(importlib.util, "find_spec", find_spec))
        if comments is None:  # the list of this machine's files is not touched
            undo.enter_context(mock.patch.object(_product("cli.places"), "remember"))
        undo.enter_context(mock.patch.object(_product("cli.blas"), "note", lambda: None))  # not in each of its plans
        undo.enter_context(mock.patch.object(logging, "basicConfig"))
        undo.enter_context(mock.patch.object(logging, "captureWarnings"))
        undo.enter_context(contextlib.redirect_stdout(said))
        undo.enter_context(contextlib.redirect_stderr(said))
        undo.enter_context(_recorded(into, [] if comments is None else comments))
        named = [] if recipe is None else ["--pipeline", recipe]
        code = _product("cli.main").main(["generate", *named, *expanded(argv)])
    if code:
        raise ValueError(" ".join(said.getvalue().rpartition(":\n")[2].split()))
    return into


@contextlib.contextmanager
def _recorded(into: dict[str, Any], comments: list[str]) -> Iterator[None]:
    """While it lasts, every pipeline and the writer put what they are given into ``into``."""
    package, generate = _product("pipelines"), _product("cli.generate")
    ledger = _product("pipelines.ledger").ModelLedger
    classes = {value for value in vars(package).values() if isinstance(value, type) and "Pipeline" in value.__name__}

    def recorder(cls: type) -> dict[str, Any]:
        make, call = cls.__init__, cls.__call__  # type: ignore[misc]

        def made(self: Any, **kwargs: Any) -> None:
            given = _bound(make, self, **kwargs)
            settings = given.pop("settings")
            into.update({f"init.{name}": value for name, value in given.items() if name != "self"})
            into["init.quantization"] = settings.quantization
            make(self, **kwargs)
            if hasattr(self, FACTOR):
                into[f"init.{FACTOR}"] = getattr(self, FACTOR)
            for number, each in enumerate((v for v in vars(self).values() if isinstance(v, ledger)), 1):
                into.update({f"ledger.{number}.{name}": getattr(each, name) for name in LEDGER})
                into[f"ledger.{number}.dtype"] = each.settings.dtype
                into[f"ledger.{number}.quantization"] = each.settings.quantization
            own = ("dtype", "quantization", "progress", "peaks")
            rest = (f.name for f in dataclasses.fields(settings) if f.name not in own)
            into.update({f"settings.{name}": getattr(settings, name) for name in rest})

        def called(self: Any, **kwargs: Any) -> tuple[str, str]:
            given = _bound(call, self, **kwargs)
            into.update({f"call.{name}": value for name, value in given.items() if name != "self"})
            return "the frames", "the audio"

        return {"__init__": made, "__call__": called}

    def written(*args: Any, **kwargs: Any) -> None:
        given = _bound(write, *args, **kwargs)
        names = {"video": "frames", "output_path": "path", "video_chunks_number": "chunks"}
        comment = given.pop("comment")
        comments.extend([] if comment is None else [comment])
        into["write.metadata"] = comment is not None
        into.update({f"write.{names.get(name, name)}": v for name, v in given.items() if name != "progress"})

    write = generate.encode_video
    recorders = {cls: recorder(cls) for cls in classes - {package.PipelineParams}}  # one class inherits from another
    with contextlib.ExitStack() as undo:
        for cls, own in recorders.items():
            undo.enter_context(mock.patch.multiple(cls, **own))
        undo.enter_context(mock.patch.object(generate, "encode_video", written))
        yield


def _bound(function: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments
