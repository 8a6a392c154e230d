"""Bisecting names the place that a planted fault is in, and leaves a reproduction that sees it."""

from __future__ import annotations

import os
import runpy
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ltx2_mlx.errors import InputError
from parity.cli import main
from parity.commands.bisect import describe
from parity.declare.stages import stages
from parity.faults.catalogue import FAULTS, Fault, planted
from parity.investigate.bisect import Diagnosis, bisect, culprit, isolated_rows
from parity.investigate.repro import Repro, write_script
from parity.investigate.scope import target_of
from parity.judge.place import Place, find
from parity.judge.results import EXIT_DIVERGED, EXIT_OK, EXIT_USAGE, Results, Row
from parity.run.live import Runner
from parity.run.recorded import Recorded

ROOT = Path(__file__).parents[2]
SMALL = ("transformer", "tiny-2.3-video-only", "schedule")
STEPS = {"S21": ("sampling", "any", "euler"), "S22b": ("sampling", "any", "guiders")}
BY_ID = {fault.id: fault for fault in FAULTS}


class Bench:
    """Each case recorded once."""

    def __init__(self) -> None:
        self.runner = Runner()
        self.recorded: dict[tuple[str, str, str], Recorded] = {}

    def record(self, stage: str, config: str, case: str) -> Recorded:
        key = (stage, config, case)
        if key not in self.recorded:
            pair = self.runner.load(stages()[stage], config, "float32")
            self.recorded[key] = self.runner.record(pair, pair.stage.cases(pair.config)[case], repeat=False)
        return self.recorded[key]

    def find(self, fault: Fault | None, key: tuple[str, str, str]) -> tuple[Diagnosis | None, Recorded]:
        recorded = self.record(*key)
        with planted(fault):
            ours = self.runner.ours(recorded.pair.paths, "float32")
            rows = isolated_rows(recorded, self.runner.replay(recorded, ours), Place(*key, "A").where)
            return bisect(self.runner, recorded, ours, rows), recorded


@pytest.fixture(scope="module")
def bench(checkpoints: Path) -> Bench:
    return Bench()


def _lines(fault: Fault) -> range:
    """The lines of the planted source that differ from the product's."""
    old = (ROOT / "ltx2_mlx" / fault.file).read_text()
    new = old.replace(fault.old, fault.new).splitlines()
    first = next(i for i, (a, b) in enumerate(zip(old.splitlines(), new, strict=False), 1) if a != b)
    return range(first, first + max(1, fault.new.count("\n")))


# Fault → an operand, and what is said of it.
FOUND = {
    "R01": ("input_tensor", "used otherwise"),
    "D10": ("get_ada_values.0", "used otherwise"),
    "D10c": ("norm_out", "used otherwise"),
    "D11": ("prompt_scale_shift_table", "not used"),
    "D14": ("velocity", "used otherwise"),
    "G01": ("to_gate_logits", "used otherwise"),
    "G02": ("q", "used otherwise"),
    "T16": ("proj", "used otherwise"),
    "S21": ("kwargs.sigmas", "used otherwise"),
    "S22b": ("kwargs.uncond_modality", "used otherwise"),
}


IN_A_HELPER = ("R01", "G01", "T16")  # what the narrowest lines call


@pytest.mark.parametrize("name", FOUND)
def test_the_place_of_a_fault_is_named(name: str, bench: Bench) -> None:
    fault = BY_ID[name]
    diagnosis, _ = bench.find(fault, STEPS.get(name, SMALL))
    print(describe(diagnosis))
    made, lines = diagnosis.made, _lines(fault)
    assert any(s.covers(fault.file, line) for s in made.statements for line in lines)
    assert len(made.statements) <= 9
    assert any(made.narrowest.covers(fault.file, line) for line in lines) or name in IN_A_HELPER
    assert FOUND[name] in [(o.name, o.use) for o in diagnosis.operands[:3]]


def test_constants_and_parameters_that_differ_are_named(bench: Bench) -> None:
    diagnosis, _ = bench.find(BY_ID["N02"], SMALL)
    assert "eps is 1e-05, the reference's is 5e-06" in diagnosis.constants
    assert diagnosis.owner.text == "RMSNorm"
    diagnosis, _ = bench.find(BY_ID["D11b"], SMALL)
    assert any("parameter scale_shift_table" in constant for constant in diagnosis.constants)
    assert bench.find(None, SMALL)[0] is None


def test_a_free_run_is_traced_to_the_tap_after_which_the_rest_passes(bench: Bench) -> None:
    recorded = bench.record(*SMALL)
    place = Place(*SMALL, "C")
    with planted(BY_ID["T16"]):
        ours = bench.runner.ours(recorded.pair.paths, "float32")
        tap, row = culprit(bench.runner, recorded, ours, place)
    assert row.name.startswith("transformer_blocks.0.ff.net.0")
    assert tap.startswith("transformer_blocks.1")  # the same fault is in the last block
    assert culprit(bench.runner, recorded, recorded.pair.ours, place) is None


def test_the_reproduction_sees_the_fault_and_is_green_without_it(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = BY_ID["G01"]
    diagnosis, recorded = bench.find(fault, SMALL)
    repro = Repro.of(recorded, diagnosis.row, diagnosis.scope, target_of(diagnosis.row, recorded.trace))
    script = write_script(repro, diagnosis.row, describe(diagnosis), tmp_path / "out")
    with planted(fault), pytest.raises(SystemExit) as red:
        runpy.run_path(str(script), run_name="__main__")
    out = capsys.readouterr().out
    assert red.value.code == 1, out
    assert "ours now       diverged" in out and "0.0e+00 from what it gave" in out
    (tmp_path / "torch.py").write_text("raise ImportError('not installed')\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, script]
    green = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert green.returncode == 0, green.stdout + green.stderr
    assert "ours now       pass" in green.stdout and "torch is not installed" in green.stdout


def test_the_command(checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bisect", "sampling", "any", "euler", "--out", str(tmp_path)]) == EXIT_OK
    assert "nothing fails" in capsys.readouterr().out
    with planted(BY_ID["S21"]):
        assert main(["bisect", "sampling", "any", "euler", "A", "euler.3", "--out", str(tmp_path)]) == EXIT_DIVERGED
    out = capsys.readouterr().out
    assert out.startswith("sampling any euler A euler.3: diverged") and "diffusion_steps.py:28–30" in out
    assert "EulerDiffusionStep" in out
    assert {file.suffix for file in tmp_path.iterdir()} == {".py", ".npz"}
    wrong = (
        ["x", "any"],
        ["sampling", "x"],
        ["sampling", "any", "x"],
        ["sampling", "any", "euler", "B"],
        list("123456"),
    )
    for words in wrong:
        assert main(["bisect", *words]) == EXIT_USAGE
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_one_word_is_a_tap_of_the_results_and_more_are_a_line_of_the_report(tmp_path: Path) -> None:
    where = ("transformer", "tiny-2.3", "base")
    rows = [
        Row("patchify_proj", *where, "C", 0, 0, "float32", verdict="diverged"),
        Row("block.attn1:x", *where, "A", 2, 1, "float32", verdict="diverged"),
        Row("block.attn2", *where, "A", 0, 2, "float32"),
    ]
    path = tmp_path / "results.json"
    Results(rows).write(path)
    attn1 = Place("transformer", "tiny-2.3", "base", "A", "block.attn1:x", 2)
    for words in ([], ["first"], ["block.attn1"], ["block.attn1:x#2"], ["*attn*"], shlex.split(attn1.words)):
        assert find(words, path) == attn1, words
    assert find(["patchify_proj"], path).lane == "C" and find(["block.attn2"], path).name == "block.attn2"
    assert find(["transformer", "tiny-2.3"], path) == Place("transformer", "tiny-2.3", "base", "A")
    assert replace(attn1, name="a b:x").commands["bisect"].endswith("A 'a b:x#2'")
    for words, where in ((["block.attn"], path), (["block.attn1#1"], path), ([], tmp_path / "none.json")):
        with pytest.raises(InputError):
            find(words, where)
