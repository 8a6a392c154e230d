"""Sides from outside: code of other names and structure is judged by the rules of every other run."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import parity.sides.torch
from ltx2_mlx.errors import InputError, LTX2Error
from parity.cli import main
from parity.commands.ports import describe, path_of
from parity.declare.stages import stages
from parity.faults import wrapping
from parity.report.ports import page
from parity.run import ports
from parity.run.coverage import function_names
from parity.run.environment import ROOT
from parity.run.live import Runner
from parity.run.outputs import check_outputs
from parity.run.ports import Subject
from parity.sides.loading import read
from parity.sides.mlx_port import MLXPort
from parity.sides.port import NotComparableError, Part, Port, PortError, find
from parity.tap.matching import answering, comparable, narrowed
from parity.tap.trace import Call, Tensor, Trace

TRACE = ROOT / "fixtures" / "traces" / "tiny.json"
TOY = Path(__file__).parent / "sides" / "toy.py"


pytestmark = pytest.mark.usefixtures("reference_loaded_once", "reference_runs_once")


@pytest.fixture(scope="module")
def toy() -> Any:
    spec = importlib.util.spec_from_file_location("toy", TOY)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def judged(side: Port | Any, lanes: str = "A", config: str = "tiny-2.0", reference: str = "ltx-core") -> Subject:
    subject = Subject("toy", side)
    ports.run([(stages()["vocoder"], config)], lanes, ports.side(reference, "reference"), [subject])
    return subject


@pytest.fixture(scope="module")
def subject(toy: Any, checkpoints: Path) -> Subject:
    return judged(toy.SIDE(), "AC")


def test_a_side_of_fifty_lines_is_judged_module_by_module(subject: Subject) -> None:
    (alignment,) = subject.alignments
    assert alignment.compared == 113 and alignment.taps == 114
    rows = subject.results.rows
    assert {row.lane for row in rows} == {"A", "C"} and len(rows) > 300
    assert {row.verdict for row in rows} == {"pass"}
    assert {"Vocoder", "conv_pre", "ups.4", "resblocks.14.convs2.2"} <= {row.name for row in rows}
    assert "Everything that could be compared is ltx-core's." in page("ltx-core", [subject], [], 1.0)


def test_a_fault_of_a_port_is_named_where_it_is(toy: Any, monkeypatch: pytest.MonkeyPatch, checkpoints: Path) -> None:
    def forward(self: Any, x: Any) -> Any:
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            x = x + plain(toy.leaky_relu(dilated(toy.leaky_relu(x, 0.1)), 0.2))
        return x

    monkeypatch.setattr(toy.Residual, "forward", forward)
    found = judged(toy.SIDE())
    first = found.results.first_divergence()
    assert first is not None and first.place == "vocoder tiny-2.0 base A resblocks.0.convs2.0:x"
    assert {row.name.partition(":")[0].split(".")[-2] for row in found.results.failures()} == {"convs2"}
    text = page("ltx-core", [found], [], 1.0)
    assert "`vocoder tiny-2.0 base A resblocks.0.convs2.0:x`" in text and "--subject toy --stage vocoder" in text


def test_a_parameter_without_a_counterpart_is_named(toy: Any, checkpoints: Path) -> None:
    class Other(toy.SIDE):  # type: ignore[name-defined,misc]
        components = {"vocoder": replace(toy.SIDE.components["vocoder"], rename=toy.SIDE.renames[:-1])}  # noqa: RUF012

    with pytest.raises(PortError, match=r"toy: vocoder: missing blocks\.0\.plain.*left over .*convs2"):
        judged(Other())


def test_what_a_port_cannot_be_given_is_counted_and_never_passed(toy: Any, checkpoints: Path) -> None:
    found = judged(toy.SIDE(), config="tiny-2.3")
    assert found.alignments[0].left_out == {"the config: it is of LTX-2.0 only": 1}
    assert not found.results.rows and found.results.exit_code() == 3

    def refuse(model: Any, case: SimpleNamespace) -> Any:
        raise NotComparableError("it takes no mel")

    class Refusing(toy.SIDE):  # type: ignore[name-defined,misc]
        components = {"vocoder": replace(toy.SIDE.components["vocoder"], call=refuse)}  # noqa: RUF012

    assert judged(Refusing()).alignments[0].left_out == {"case base: it takes no mel": 1}
    subject = Subject("toy", toy.SIDE())
    ports.run([(stages()["transformer"], "tiny-2.0")], "A", ports.side("ltx-core", "reference"), [subject])
    assert subject.alignments[0].left_out == {"the stage: toy declares no transformer": 1}


def test_a_side_that_raises_is_no_pass(toy: Any, checkpoints: Path) -> None:
    def broken(model: Any, case: SimpleNamespace) -> Any:
        return model(case.x[:, :1])

    class Broken(toy.SIDE):  # type: ignore[name-defined,misc]
        components = {"vocoder": replace(toy.SIDE.components["vocoder"], call=broken)}  # noqa: RUF012

    found = judged(Broken())
    assert found.results.exit_code() == 1 and "RuntimeError" in found.results.failures()[0].why


def test_a_side_that_ends_before_its_first_module_is_no_pass(
    toy: Any, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(model: Any, case: SimpleNamespace) -> Any:
        raise SystemExit(0)

    part = replace(toy.SIDE.components["vocoder"], call=broken)
    monkeypatch.setattr(toy.SIDE, "components", {"vocoder": part})
    found = judged(toy.SIDE())
    (row,) = found.results.failures()
    assert row.verdict == "invalid" and row.why == "SystemExit: 0" and found.results.exit_code() == 1


def test_a_result_that_is_not_the_references_is_an_error_of_the_component() -> None:
    def trace(outputs: dict[str, Any], tap: str = "Root") -> Trace:
        return Trace({(tap, 0): Call(tap, 0, {}, outputs)}, [("in", tap, 0), ("out", tap, 0)])

    def error(outputs: dict[str, Any], reference: dict[str, Any], tap: str = "Root") -> str | None:
        return answering(trace(reference), trace(outputs, tap), "Root").calls["Root", 0].error

    array = Tensor(np.ones(3), "float32")
    one, two = {"": array}, {"0": array, "1": array}
    for same in (error(one, one), error({"wave": array, "rate": 24000}, one), error(two, two)):
        assert same is None
    assert error({"": None}, one) == "it returns no array, the reference one array"
    assert error(two, one) == "it returns the arrays 0, 1, the reference one array"
    assert error({"0": array, "1": None}, two) == "it returns the arrays 0, the reference the arrays 0, 1"
    assert error(one, one, "inner") == "what is called returns without a call of the component itself"
    found = answering(trace(one), trace(one, "inner"), "Root")
    assert found.events[-2:] == [("in", "Root", 0), ("out", "Root", 0)]


def test_half_precision_is_compared_with_the_references_own(toy: Any, checkpoints: Path) -> None:
    rows = judged(toy.SIDE(), "B").results.rows  # ours computes this stage in float32; another does as it likes
    assert {row.verdict for row in rows} == {"pass"} and len(rows) > 200


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"make": lambda config: None}, "vocoder cannot be made .*AttributeError"),
        ({"weights": lambda tensors: None}, "vocoder cannot be made .*AttributeError"),
        ({"rename": ((r"convs1(", "dilated"),)}, r"vocoder cannot be made .*missing \)"),
        ({"taps": {"ups.0": "ups.9"}}, "taps: ups.0 → ups.9, which is no module of it"),
    ],
)
def test_a_part_that_cannot_be_loaded_is_said_in_one_line(
    changed: dict[str, Any], said: str, toy: Any, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy.SIDE, "components", {"vocoder": replace(toy.SIDE.components["vocoder"], **changed)})
    path = checkpoints / "tiny-2.0.safetensors"
    with pytest.raises(PortError, match=said):
        toy.SIDE().load("vocoder", path, read(path).config, "float32")


def test_ours_is_judged_by_another_reference(toy: Any, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Subject("ltx2-mlx", ports.side("ltx2-mlx", "ours"))
    ports.run([(stages()["vocoder"], "tiny-2.0")], "A", toy.SIDE("reference"), [ours])
    assert ours.alignments[0].compared > 100 and {row.verdict for row in ours.results.rows} == {"pass"}


def test_of_three_sides_the_one_that_differs_is_named(toy: Any, checkpoints: Path) -> None:
    def shifted(model: Any, case: SimpleNamespace) -> Any:
        return model(case.x + 1e-3)

    class Shifted(toy.SIDE):  # type: ignore[name-defined,misc]
        components = {"vocoder": replace(toy.SIDE.components["vocoder"], call=shifted)}  # noqa: RUF012

    cell = [(stages()["vocoder"], "tiny-2.0")]
    odd = [Subject("ltx2-mlx", ports.side("ltx2-mlx", "ours")), Subject("shifted", Shifted())]
    votes = ports.run(cell, "C", ports.side("ltx-core", "reference"), odd)
    assert {vote.odd for vote in votes} == {"shifted"}
    same = [Subject("ltx2-mlx", ports.side("ltx2-mlx", "ours")), Subject("toy", toy.SIDE())]
    votes = ports.run(cell, "C", Shifted("reference"), same)
    assert votes and {vote.odd for vote in votes} == {"reference"}


def test_of_a_free_run_modules_are_judged_and_no_functions_between_them(checkpoints: Path) -> None:
    whole = stages()["embeddings_processor"]
    one = replace(whole, cases=lambda config: {"right": whole.cases(config)["right"]})
    ours = Subject("ltx2-mlx", ports.side("ltx2-mlx", "ours"))
    ports.run([(one, "tiny-2.0")], "C", ports.side("ltx-core", "reference"), [ours])
    names = {row.name for row in ours.results.rows}
    assert "video_connector.transformer_1d_blocks.0.attn1" in names and ours.results.exit_code() == 0
    assert not {name for name in names if set(name.split(".")) & function_names(whole)}


def test_a_single_array_meets_the_single_array_of_the_other_side() -> None:
    def trace(name: str, shape: tuple[int, ...]) -> Trace:
        call = Call("a", 0, {name: Tensor(np.ones(2), "float32")}, {name: Tensor(np.zeros(shape), "float32")})
        return Trace({("a", 0): call}, [("in", "a", 0), ("out", "a", 0)])

    found, shapes = comparable(trace("x", (3,)), trace("y", (3,)), "Root")
    assert list(found.calls["a", 0].outputs) == ["x"] and not shapes
    found, shapes = comparable(trace("x", (3,)), trace("y", (4,)), "Root")
    assert not found.calls and shapes == {"a"}
    found, shapes = comparable(trace("x", (3,)), trace("y", (4,)), "a")
    assert list(found.calls["a", 0].outputs) == ["x"], "the component's own shape is always judged"


def test_what_a_port_does_between_its_taps_has_the_sums_of_the_taps_that_it_lacks() -> None:
    calls = {(name, 0): Call(name, 0, {}, {}, sums={"sum": n}) for name, n in (("a", 3), ("b", 5), ("c", 7), ("d", 9))}
    order = ("in", "a"), ("in", "b"), ("out", "b"), ("in", "c"), ("in", "d"), ("out", "d"), ("out", "c"), ("out", "a")
    whole = Trace(calls, [(kind, name, 0) for kind, name in order])
    found = narrowed(whole, Trace({("a", 0): whole.calls["a", 0], ("d", 0): whole.calls["d", 0]}))
    assert found.calls["d", 0].sums_before == {"sum": 5} and found.calls["d", 0].sums == {"sum": 9}
    assert found.calls["a", 0].sums == {"sum": 7} and found.calls["a", 0].sums_before == {}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nobody", "no side 'nobody'; a side is a Python file or one of: ltx-core"),
        ("missing.py", "missing.py: no such file"),
        ("{empty}", "defines no SIDE"),
        ("{broken}", "cannot be imported: ZeroDivisionError"),
        ("{ending}", "cannot be imported: SystemExit"),
        ("{nameless}", "SIDE.name is no text"),
        ("{partless}", "SIDE.components is no dictionary of Part"),
        ("{misspelt}", "SIDE.components: there is no 'vocodr', only audio_decoder"),
        ("ltx-core", "ltx-core is no subject of such a run"),
    ],
)
def test_what_is_no_side_is_refused_in_one_line(name: str, said: str, tmp_path: Path) -> None:
    head = "from parity.sides.mlx_port import MLXPort\nfrom parity.sides.port import Part\nclass SIDE(MLXPort):\n    "
    sources = {
        "empty": "",
        "broken": "1 / 0",
        "ending": "import sys; sys.exit(0)",
        "nameless": f"{head}components = {{'vocoder': Part(None, None)}}",
        "partless": f"{head}name, components = 'x', {{'vocoder': dict()}}",
        "misspelt": f"{head}name, components = 'x', {{'vocodr': Part(None, None)}}",
    }
    for stem, source in sources.items():
        (tmp_path / f"{stem}.py").write_text(source)
    path = name.format(**{stem: tmp_path / f"{stem}.py" for stem in sources})
    with pytest.raises(InputError) as error:
        find(path, "port")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_command_writes_results_and_a_page(tmp_path: Path, checkpoints: Path, capsys: Any) -> None:
    arguments = ["run", "--subject", str(TOY), "--stage", "vocoder", "--config", "tiny-2.0", "--lane", "A"]
    assert main([*arguments, "--json", str(tmp_path / "results.json")]) == 0
    assert f"## {TOY} 1" in (tmp_path / "ports.md").read_text()
    assert f"{TOY}, judged against ltx-core 1.0.0" in (tmp_path / "report.html").read_text()
    capsys.readouterr()
    assert main(["accept", str(tmp_path / "results.json")]) != 0, "another port's run is no baseline"
    assert "its subject is" in capsys.readouterr().err
    assert main(["bisect", "resblocks.0", "--results", str(tmp_path / "results.json")]) == 2
    assert "only the code of ltx2-mlx" in capsys.readouterr().err
    capsys.readouterr()
    for flag in (["--checkpoint", str(TOY)], ["--jobs", "2"], ["--ranks", "2"], ["--stage", "pipelines.*"]):
        assert main([*arguments[:3], *(flag if "--stage" in flag else [*arguments[3:], *flag])]) == 2
    assert "not for sides from outside" in capsys.readouterr().err


def test_of_two_subjects_none_is_a_baseline_and_each_has_its_folder(tmp_path: Path) -> None:
    same = [Subject(name, ports.side("ltx2-mlx", "ours")) for name in ("a/port.py", "b/port.py")]
    describe(argparse.Namespace(reference="ltx-core", subject="a/port.py,b/port.py", seed=0), "cpu", same)
    assert same[1].results.origin["subject"] == "b/port.py, one of a/port.py,b/port.py"  # which accept refuses
    assert len({path_of(tmp_path / "results.json", subject, same) for subject in same}) == 2


def test_a_port_in_mlx_is_no_reference_and_one_that_raises_is_named(
    toy: Any, checkpoints: Path, tmp_path: Path
) -> None:
    source = "from parity.tests.test_sides import Nothing as SIDE"
    (tmp_path / "mlx.py").write_text(source)
    with pytest.raises(InputError, match="a port in MLX cannot be run in float64"):
        ports.side(str(tmp_path / "mlx.py"), "reference")

    class Raising(toy.SIDE):  # type: ignore[name-defined,misc]
        components = {"vocoder": replace(toy.SIDE.components["vocoder"], call=lambda model, case: case.mel)}  # noqa: RUF012

    ours = Subject("ltx2-mlx", ports.side("ltx2-mlx", "ours"))
    with pytest.raises(PortError, match=r"toy: as the reference of vocoder tiny-2\.0 it raises AttributeError"):
        ports.run([(stages()["vocoder"], "tiny-2.0")], "A", Raising("reference"), [ours])


class Nothing(MLXPort):
    """A side in MLX with one part, which is never made."""

    name = "nothing"
    components = {"vocoder": Part(lambda config: None, lambda model, case: None)}  # noqa: RUF012


def test_a_part_says_what_is_called(toy: Any, checkpoints: Path) -> None:
    side = toy.SIDE()
    assert isinstance(side.components["vocoder"], Part)
    assert side.why_not(stages()["transformer_lora"]) == "toy declares no transformer"


def test_changes_around_a_ports_modules_are_noticed_in_place(toy: Any, checkpoints: Path) -> None:
    cell = [(stages()["vocoder"], "tiny-2.0"), (stages()["transformer"], "tiny-2.0")]
    found = wrapping.measure(cell, toy.SIDE(), ports.side("ltx-core", "reference"), 2)
    assert {w.change for w in found.made} == {*wrapping.OUTPUTS, wrapping.ARGUMENT} and len(found.made) == 10
    assert all(w.noticed and w.in_place for w in found.made)
    assert found.left_out == {"transformer: toy declares no transformer": 1}
    assert "| argument dropped | 2 | 2 | 2 |  |" in wrapping.table(found)


# ---- outputs of a program in any language -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("outputs") / "gemma.safetensors"
    subprocess.run([sys.executable, str(TOY.with_name("gemma_numpy.py")), str(TRACE), str(made)], check=True)
    return made


def test_what_a_program_in_numpy_left_is_judged_by_a_trace(outputs: Path) -> None:
    subject = check_outputs(TRACE, outputs)
    assert len(subject.results.rows) == 107 and {row.verdict for row in subject.results.rows} == {"pass"}
    gemma = next(a for a in subject.alignments if a.stage == "gemma")
    assert gemma.compared == 107 and gemma.taps > 107
    assert any("the file has nothing of it" in why for a in subject.alignments for why in a.left_out)


def test_a_wrong_output_of_a_program_is_named_and_what_is_no_tap_is_refused(outputs: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    arrays, key = load_file(outputs), "gemma/tiny-gemma/right/layers.3.self_attn.q_norm"
    changed = tmp_path / "changed.safetensors"
    save_file(arrays | {key: arrays[key] * np.float32(1.001)}, changed, {"lane": "C"})
    assert [row.name for row in check_outputs(TRACE, changed).results.failures()] == ["layers.3.self_attn.q_norm"]
    for odd, said in (
        ("gemma/tiny-gemma/right/nothing", "there is no tap 'nothing'"),
        ("gemma/tiny-gemma/left/norm", "the trace has no such case"),
        ("gemma/tiny-gemma/right/norm#x", "is no number of a call"),
    ):
        save_file(arrays | {odd: arrays[key]}, changed, {"lane": "C"})
        with pytest.raises(InputError, match=said):
            check_outputs(TRACE, changed)
    for odd, said in ((f"{key}#0", "twice, by another name"), (f"{key}#²", "no number"), (f"{key}/x", "no array 'x'")):
        save_file(arrays | {odd: arrays[key]}, changed, {"lane": "C"})
        with pytest.raises(InputError, match=said):
            check_outputs(TRACE, changed)
    save_file(arrays, changed, {"lane": "Z"})
    with pytest.raises(InputError, match="its lane is 'Z'"):
        check_outputs(TRACE, changed)
    changed.write_bytes(b"no")
    with pytest.raises(LTX2Error):
        check_outputs(TRACE, changed)


def test_an_output_of_another_shape_or_dtype_is_red_and_no_hole(outputs: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    arrays, at = load_file(outputs), "gemma/tiny-gemma/right/layers.{}.self_attn.q_norm"
    wrong = {
        at.format(0): arrays[at.format(0)].swapaxes(1, 2),
        at.format(1): arrays[at.format(1)].reshape(-1),
        at.format(2): arrays[at.format(2)].astype(np.float16),
        at.format(3): arrays[at.format(3)].astype(np.float64),
        at.format(4): arrays[at.format(4)] * np.float32(np.nan),
    }
    save_file({name: np.ascontiguousarray(a) for name, a in wrong.items()}, tmp_path / "wrong.safetensors")
    found = check_outputs(TRACE, tmp_path / "wrong.safetensors").results.rows
    assert [row.verdict for row in found] == ["invalid"] * 5
    assert [row.why.split(" ")[0] for row in found] == ["shape", "shape", "dtype", "dtype", "NaN"]
    # What ran on by itself is not what a tap makes of the reference's own inputs: lane A has its own limits and floors.
    save_file(arrays, tmp_path / "free.safetensors", {"lane": "A"})
    assert "layers.6.post_feedforward_layernorm" in {
        row.name for row in check_outputs(TRACE, tmp_path / "free.safetensors").results.failures()
    }


def test_the_command_judges_outputs(outputs: Path, tmp_path: Path) -> None:
    assert main(["check", str(TRACE), "--subject", str(outputs), "--json", str(tmp_path / "results.json")]) == 0
    assert "| gemma | tiny-gemma |" in (tmp_path / "ports.md").read_text()


# ---- a stage whose reference is another than ltx-core ---------------------------------------------------------------


@pytest.fixture
def beside(toy: Any, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the vocoder as a stage whose reference is the toy."""
    side = toy.SIDE("reference")
    monkeypatch.setattr(parity.sides.torch, "_side", lambda name: side)
    stage = replace(stages()["vocoder"], reference="diffusers", functions=(), probes=())

    def run(lanes: str, stage: Any = stage) -> Any:
        return Runner().run([(stage, "tiny-2.0")], lanes)

    return run


def test_a_stage_that_names_its_reference_is_judged_and_covered_as_any_other(beside: Any) -> None:
    results = beside("AC")
    assert {row.verdict for row in results.rows} == {"pass"} and {row.lane for row in results.rows} == {"A", "C"}
    assert {"Vocoder", "conv_pre", "ups.4", "ups.4:x", "resblocks.14.convs2.2"} <= {row.name for row in results.rows}
    (coverage,) = results.coverage
    assert not coverage.uncovered and coverage.parameters == coverage.parameters_moving > 100
    assert coverage.leaves == coverage.leaves_compared == 97


def test_what_ours_does_not_call_or_returns_otherwise_is_red_beside_a_named_reference(
    beside: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ltx2_mlx.vocoder import Vocoder

    monkeypatch.setattr(
        Vocoder, "__call__", lambda self, x: self.conv_pre(x.swapaxes(2, 3).flatten(1, 2).swapaxes(1, 2))
    )
    found = {row.name: row for row in beside("A").failures()}
    assert found["ups.0"].verdict == "missing" and found["Vocoder"].verdict == "invalid"


def test_a_parameter_of_a_named_reference_that_moves_nothing_is_a_hole(beside: Any, toy: Any, monkeypatch: Any) -> None:
    def forward(self: Any, x: Any) -> Any:
        for _, plain in zip(self.dilated, self.plain, strict=True):
            x = x + plain(toy.leaky_relu(x, 0.1))
        return x

    monkeypatch.setattr(toy.Residual, "forward", forward)
    (coverage,) = beside("A").coverage
    assert "resblocks.0.convs1.0.weight" in coverage.uncovered and "resblocks.0.convs1.0" in coverage.uncovered


def test_a_stage_with_a_reference_of_its_own_is_not_compared_with_another(toy: Any, checkpoints: Path) -> None:
    subject = Subject("toy", toy.SIDE())
    stage = replace(stages()["vocoder"], reference="diffusers")
    ports.run([(stage, "tiny-2.0")], "A", ports.side("ltx-core", "reference"), [subject])
    assert subject.alignments[0].left_out == {"the stage: ltx-core has no such thing; its reference is diffusers": 1}
