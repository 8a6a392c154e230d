"""Every command of the table of symptoms: its sentence when all is well, and that it names the cause when it is not."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import mlx.core as mx
import numpy as np
import pytest

from parity.cli import main
from parity.commands.debug import register
from parity.debug.symptoms import CLIP, SYMPTOMS, Check, markdown
from parity.declare.inputs import FIXTURES, GEMMA
from parity.faults.catalogue import BY_ID, EDITS, FILES, ClipFault, Fault, FileFault, planted
from parity.faults.catalogue.files import picture
from parity.sides.torch import Torch

CHECKS = [check for symptom in SYMPTOMS for check in symptom.checks]


class Once(Torch):
    """The reference, its components loaded once for all commands."""

    def load(self, component: str, path: Path, config: dict[str, Any], dtype: str, *args: Any, **kwargs: Any) -> Any:
        return _loaded(component, path, dtype)


@functools.cache
def _loaded(component: str, path: Path, dtype: str) -> Any:
    from parity.sides.loading import read

    return Torch().load(component, path, read(path).config, dtype)


@contextlib.contextmanager
def reloaded() -> Iterator[Any]:
    """The views, imported again: over the copy of the product that is planted."""
    names = [name for name in sys.modules if name.startswith("parity.debug")]
    kept = {name: sys.modules.pop(name) for name in names}
    try:
        yield importlib.import_module("parity.debug.views")
    finally:
        for name in [name for name in sys.modules if name.startswith("parity.debug")]:
            del sys.modules[name]
        sys.modules.update(kept)


def sentence(argv: list[str], fault: Fault | None = None) -> str:
    """The sentence that a command finds, on a copy of the product with a fault in it."""
    with (
        planted(fault) if fault else contextlib.nullcontext(),
        reloaded() if fault else contextlib.nullcontext() as debug,
    ):
        debug = debug or importlib.import_module("parity.debug.views")
        ours = importlib.import_module("parity.sides.mlx").MLX()
        parser = argparse.ArgumentParser()
        register(parser.add_subparsers())
        return debug.look(parser.parse_args(["debug", *argv]), {"ours": ours, "reference": Once()}).sentence


def arguments(check: Check, folder: Path, faulty: bool = False) -> list[str]:
    """The command with its files in place: those of the tiny checkpoints, or with the fault in them."""
    argv, fault = list(check.argv), BY_ID[check.fault] if faulty else None
    if CLIP in argv:
        np.save(folder / CLIP, fault.frames() if isinstance(fault, ClipFault) else picture())
        argv[argv.index(CLIP)] = str(folder / CLIP)
    for i, word in enumerate(argv):
        if argv[i - 1] == "--config":
            word = str(FIXTURES / f"{word}.safetensors")
            argv[i - 1] = "--checkpoint"
        if isinstance(fault, FileFault) and Path(word).stem == fault.file:
            word = str(fault.write(FIXTURES / Path(word).name, folder))
        argv[i] = word
    return argv + (["--gemma", str(GEMMA)] if "--checkpoint" in argv else [])


pytestmark = pytest.mark.usefixtures("checkpoints", "reference_runs_once")  # the faults are in ours


@pytest.mark.parametrize("command", sorted({check.command for check in CHECKS}))
def test_every_command_says_that_all_is_well(command: str, tmp_path: Path) -> None:
    checks = [check for check in CHECKS if check.command == command]
    said = sentence(arguments(checks[0], tmp_path))
    for check in checks:
        assert check.healthy in said
        assert not check.faulty or check.faulty not in said


@pytest.mark.parametrize("check", [c for c in CHECKS if c.fault], ids=lambda c: f"{c.command.split()[0]}: {c.cause}")
def test_every_command_names_its_fault(check: Check, tmp_path: Path) -> None:
    fault = BY_ID[check.fault]
    said = sentence(arguments(check, tmp_path, faulty=True), fault if isinstance(fault, Fault) else None)
    assert check.faulty in said
    assert check.healthy not in said


def test_the_table_holds_every_check() -> None:
    table = markdown()
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) == len(CHECKS) and all(row.count("|") == 6 for row in rows)
    assert all(check.fault or check.healthy == "so that is the model" for check in CHECKS)
    assert all(symptom.name in table for symptom in SYMPTOMS)


def test_every_fault_that_only_a_view_sees_is_named_by_a_check() -> None:
    alone = {fault.id for fault in EDITS if fault.seen_by == "debug"} | {fault.id for fault in FILES}
    assert alone and alone <= {check.fault for check in CHECKS} <= BY_ID.keys() | {""}


def test_a_command_shows_its_tables_its_sentence_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / CLIP, picture())
    plot = tmp_path / "video.png"
    assert main(["debug", "video", str(tmp_path / CLIP), "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    assert "local-variance ratio" in out and "finding   This has structure" in out
    assert matplotlib.image.imread(plot).std() > 0.05


def test_without_the_reference_a_command_says_what_it_can(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plot = ["--plot", str(tmp_path / "plot.png")]
    assert main(["debug", "step", "--without-reference", *plot]) == 0
    out = capsys.readouterr().out
    assert "reference   " not in out and "without the reference nothing more can be said" in out
    assert main(["debug", "adaln", "--without-reference", *plot]) == 0
    assert "where they belong in all" in capsys.readouterr().out


def test_a_checkpoint_without_sound_is_looked_at_as_far_as_it_goes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    where = ["--config", "tiny-2.3-video-only", "--plot", str(tmp_path / "plot.png")]
    assert main(["debug", "adaln", *where]) == 0
    assert "where they belong in all 7 places" in capsys.readouterr().out
    assert main(["debug", "denoise", *where]) == 2
    assert "has no audio stream" in capsys.readouterr().err


def test_wrong_files_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    upsampler = str(FIXTURES / "tiny-2.0-upsampler-x2.safetensors")
    assert main(["debug", "vae", "--checkpoint", upsampler]) == 2
    assert "holds no video_decoder" in capsys.readouterr().err
    assert main(["debug", "video", str(tmp_path / "none.mp4")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["debug", "sync", "--fps", "9" * 50]) == 2
    assert "--fps from 0.1 to 1000" in capsys.readouterr().err


def test_measures_tell_noise_from_a_picture() -> None:
    from parity.debug import measures

    noise = np.random.default_rng(0).standard_normal((1, 3, 64, 64))
    assert measures.local_variance_ratio(noise) == pytest.approx(2 / np.sqrt(np.pi), rel=0.02)
    assert abs(measures.autocorrelation(noise)) < 0.02
    ramp = np.linspace(0, 1, 64)[None, None, None] + np.linspace(0, 1, 64)[None, None, :, None]
    assert measures.local_variance_ratio(ramp) < 0.1 and measures.autocorrelation(ramp) > 0.99
    assert measures.dc_ratio(np.ones((2, 4, 4))) == pytest.approx(1) and measures.dc_ratio(noise) < 0.01
    assert measures.distance(np.array([1.0, np.nan]), np.array([1.0, 2.0])) == float("inf")


def test_a_lora_in_the_spelling_of_another_trainer_is_compared_as_it_is_meant(tmp_path: Path) -> None:
    """Names with underscores, down and up, and an α that halves the change."""
    path = FIXTURES / "tiny-2.0-lora.safetensors"
    spelled: dict[str, mx.array] = {}
    for key, values in mx.load(str(path)).items():
        layer, part = key.removeprefix("diffusion_model.").removesuffix(".weight").split(".lora_")
        name = f"lora_unet_{layer.replace('.', '_')}"
        spelled[f"{name}.lora_{'down' if part == 'A' else 'up'}.weight"] = values
        if part == "A":
            spelled[f"{name}.alpha"] = mx.array(values.shape[0] / 2)
    mx.save_safetensors(str(tmp_path / "kohya.safetensors"), spelled)
    argv = ["weights", "--checkpoint", str(FIXTURES / "tiny-2.0.safetensors"), "--gemma", str(GEMMA)]
    whole, half = (
        sentence([*argv, "--component", "transformer", "--lora", str(file)])
        for file in (path, tmp_path / "kohya.safetensors")
    )
    assert "is W + B·A" in whole and "is W + B·A" in half and whole != half
