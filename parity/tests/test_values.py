"""The stages of the command line, of defaults and of files: their inputs can see a fault, and nothing is left out."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.declare.model import Step
from parity.declare.stages import command_line, defaults, differences, files, stages
from parity.declare.stages.differences import DIFFERENCES
from parity.sides import mlx_command_line, mlx_files, values
from parity.sides.mlx import MLX
from parity.sides.torch import Torch
from parity.sides.torch import command_line as torch_command_line
from parity.sides.torch import files as torch_files
from parity.tap.side import Side

README = Path(__file__).parents[2] / "ltx2_mlx" / "README.md"


pytestmark = pytest.mark.usefixtures("built_once")


@pytest.mark.parametrize("recipe", command_line.FLAGS)
def test_no_value_of_a_command_line_is_a_default_or_like_another(recipe: str) -> None:
    """But for frames: an image's frame 0, and blocks, of which the small checkpoints have three."""
    parser = mlx_command_line._product("cli.recipes").parser("generate", recipe)
    known = {option: action.default for action in parser._actions for option in action.option_strings}
    for number in (0, 1):
        seen: set[str] = set()
        for flag, uses in command_line.FLAGS[recipe].items():
            given = [word for use in uses[number] for word in use]
            assert str(known[flag]) not in given, flag
            if not flag.endswith("-blocks"):
                repeated = [word for word in given if word in seen and word != "0" and "/" not in word]
                assert not repeated, (flag, repeated)
                seen.update(given)


def test_values_differ_between_the_two_command_lines() -> None:
    for recipe, flags in command_line.FLAGS.items():
        for flag, (first, second) in flags.items():
            alike = flag in ("--checkpoint-path", "--distilled-checkpoint-path", "--video-path")
            alike |= (recipe, flag) == ("retake", "--gemma-root")
            assert (first == second) is alike, (recipe, flag)


def test_a_flag_that_no_case_gives_is_named() -> None:
    step = next(step for step in command_line.cases({})["distilled"].steps if step.name == "distilled.flags")
    given = tuple(flag for flag in step.kwargs["given"] if flag != "--seed")
    for module, ours in ((torch_command_line, ()), (mlx_command_line, step.kwargs["ours"])):
        found = module.flags(**step.kwargs | {"given": given, "ours": ours})
        assert found["unknown.count"] == 1 and found["unknown.0"] == "--seed"
    few = {"ours": step.kwargs["ours"][1:]}
    assert mlx_command_line.flags(**step.kwargs | few)["unknown.0"] == step.kwargs["ours"][0]


def _run(side: Side, stage: str, met: set[tuple[str, int]]) -> None:
    """The steps that a difference is declared of by name, but for those whose differences have all been met."""
    declared = stages()[stage]
    for step in (step for case in declared.cases({}).values() for step in case.steps):
        named = [(i, d) for i, d in enumerate(DIFFERENCES) if d.steps != "*" and fnmatchcase(step.name, d.steps)]
        if any((side.key, i) not in met and getattr(d, side.key) is not differences.ABSENT for i, d in named):
            own = step.on_ours if side.key == "ours" else step.on_reference
            function = side.cls(declared, str(step.target))
            function(**side.materialise(step.kwargs | own, declared, "float32", "float32"))


def test_every_declared_difference_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """On each side that has the value it is met as declared, so that the table holds nothing that is no longer so."""
    met: set[tuple[str, int]] = set()

    def declared(side: str, step: str, name: str, value: Any) -> Any:
        found = differences.declared(side, step, name, value)  # type: ignore[arg-type]
        if found:
            met.add((side, DIFFERENCES.index(found)))
        return found

    monkeypatch.setattr(values, "declared", declared)
    for side in (Torch(), MLX()):
        for stage in ("command_line", "files"):
            _run(side, stage, met)
    for index, difference in enumerate(DIFFERENCES):
        assert difference.reference != difference.ours
        for side in ("reference", "ours"):
            if getattr(difference, side) is not differences.ABSENT:
                assert (side, index) in met, difference


def test_the_document_shows_every_difference() -> None:
    text = README.read_text().partition("<!-- differences: start -->\n")[2].partition("\n<!-- differences: end -->")[0]
    assert text == differences.table(), differences.table()


# ---- defaults -----------------------------------------------------------------------------------------------------


def _callables(package: str) -> dict[str, list[tuple[str, Any]]]:
    """Name → (module, function), of every public function and method of a package."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for info in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        if info.name.endswith(("__main__", "loader.kernels")):  # the second needs triton
            continue
        for name, value in vars(importlib.import_module(info.name)).items():
            if getattr(value, "__module__", None) != info.name or name.startswith("_"):
                continue
            if inspect.isfunction(value):
                found.setdefault(name, []).append((info.name, value))
            for part in vars(value) if inspect.isclass(value) else ():
                public = not part.startswith("_") or part in ("__init__", "__call__", "__new__")
                if public and inspect.isfunction(inspect.unwrap(getattr(value, part))):
                    own = f"{name}.{'__call__' if part == 'forward' else part}"
                    found.setdefault(own, []).append((info.name, getattr(value, part)))
    return found


def _with_default(function: Any) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is not inspect.Parameter.empty]


SAME_NAME = {  # another thing of the same name
    ("ltx_core.model.audio_vae.ops", "ltx2_mlx.nn.norm", "PerChannelStatistics.__init__"),
    ("ltx_core.model.video_vae.ops", "ltx2_mlx.audio_vae", "PerChannelStatistics.__init__"),
}


def test_the_table_of_defaults_is_whole() -> None:
    """Every argument that has a default on both sides, of functions whose names agree."""
    theirs = _callables("ltx_core")
    for name, found in _callables("ltx_pipelines").items():
        theirs.setdefault(name, []).extend(found)
    agree: dict[tuple[str, str, str], set[str]] = {}
    for name, ours in _callables("ltx2_mlx").items():
        for module, function in ours:
            for their_module, their_function in theirs.get(name, ()):
                both = set(_with_default(function)) & set(_with_default(their_function))
                if both and (their_module, module, name) not in SAME_NAME:
                    agree[their_module, module, name] = both
    declared = {
        (*modules, name): set(arguments.split())
        for modules, functions in defaults.ARGUMENTS.items()
        for name, arguments in functions.items()
    }
    assert declared == agree


# ---- files --------------------------------------------------------------------------------------------------------


def test_pictures_and_tones_tell_everything_apart() -> None:
    for step in files.cases({})["written"].steps:
        frames = np.concatenate([chunk.values for chunk in step.kwargs["chunks"]])
        corners = frames[:, ::16, ::16]
        for other in (frames[::-1], frames[..., ::-1], frames[:, ::-1], frames[:, :, ::-1]):
            assert len(frames) == 1 or not np.array_equal(frames, other)
        assert len({frame.tobytes() for frame in corners}) == len(frames)
    left, right = files.tones(0.75, 24000)
    assert abs(np.corrcoef(left, right)[0, 1]) < 0.1


@pytest.mark.parametrize("step", files.cases({})["written"].steps[:1])
def test_what_is_measured_is_what_was_given(step: Step) -> None:
    side = MLX()
    kwargs = side.materialise(step.kwargs, stages()["files"], "float32", "float32")
    found = mlx_files.written(**kwargs)
    frames = np.concatenate([chunk.values for chunk in step.kwargs["chunks"]])
    np.testing.assert_array_equal(found["video.blocks"], frames[:, 8::16, 8::16] // 16)
    assert found["video.frames"] == len(frames) and found["video.rate"] == "24"
    assert torch_files.MEDIA == mlx_files.MEDIA
