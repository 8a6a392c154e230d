"""Another ltx-core than 1.0.0 is the reference as it is, and named; it is never taken for 1.0.0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ltx2_mlx.errors import InputError
from parity.cli import main
from parity.declare.stages import stages
from parity.report.ports import page
from parity.run import ports
from parity.run.environment import environment
from parity.run.ports import Subject
from parity.sides import versions
from parity.sides.torch import components

CELL = [(stages()["vocoder"], "tiny-2.0-audio-wide")]


def judged() -> Subject:
    ours = Subject("ltx2-mlx", ports.side("ltx2-mlx", "ours"))
    ports.run(CELL, "A", ports.side("ltx-core", "reference"), [ours])
    return ours


def test_every_change_is_of_a_known_release_and_of_stages_that_there_are() -> None:
    assert {change.since for change in versions.CHANGES} <= {*versions.RELEASES}
    assert {stage for change in versions.CHANGES for stage in change.stages} <= stages().keys()


@pytest.mark.parametrize(
    ("found", "since"),
    [("1.0.0", []), ("1.1.0", ["1.1.0"]), ("1.1.4.dev3", ["1.1.0", "1.1.4"]), ("1.10.0", ["1.1.0", "1.1.4"])],
)
def test_changes_are_those_up_to_a_version(found: str, since: list[str]) -> None:
    assert [change.since for change in versions.changes(found, {"vocoder", "transformer"})] == since


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("1.2.0", "ltx-core 1.2.0 is the reference; everything is declared of 1.0.0."),
        ("1.5.1", "not known here: the changes up to 1.2.0 are known, and what came after is not"),
        ("1.1.4+local", "not known here: the changes up to 1.1.4 are known"),
        ("0.9", "not known here: nothing is known of it"),
    ],
)
def test_a_version_is_named_and_one_that_is_not_known_is_called_so(found: str, said: str) -> None:
    assert said in versions.about(found)


@pytest.mark.parametrize("found", ["1.2.0", "7.0"])
def test_a_run_beside_another_release_goes_on_and_says_so(
    found: str, tmp_path: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(versions, "installed", lambda: found)
    arguments = ["run", "--stage", "vocoder", "--config", "tiny-2.0-audio-wide", "--lane", "A"]
    assert main([*arguments, "--json", str(tmp_path / "results.json")]) == 0
    text = (tmp_path / "ports.md").read_text()
    assert f"ltx-core {found} is the reference" in text and ("not known here" in text) == (found == "7.0")
    assert "- since 1.1.0, vocoder, decode_audio: LTX-2.3's vocoder computes in float32" in text
    assert f"judged against ltx-core {found}" in (tmp_path / "report.html").read_text()
    assert environment("cpu")["reference"] == versions.about(found)
    capsys.readouterr()
    assert main(["accept", str(tmp_path / "results.json")]) != 0
    assert f"its reference is 'ltx-core {found}'" in capsys.readouterr().err


def test_what_a_release_does_not_answer_is_counted(monkeypatch: pytest.MonkeyPatch, checkpoints: Path) -> None:
    def moved(config: dict[str, Any]) -> Any:
        raise AttributeError("no VocoderConfigurator")

    monkeypatch.setitem(components.BUILDERS, "vocoder", moved)
    with pytest.raises(AttributeError):
        judged()
    monkeypatch.setattr(versions, "installed", lambda: "1.2.0")
    (alignment,) = (ours := judged()).alignments
    assert [*alignment.left_out] == [
        "the config: ltx-core 1.2.0 does not answer here: AttributeError: no VocoderConfigurator"
    ]
    assert ours.results.exit_code() == 3 and "does not answer here" in page("ltx-core", [ours], [], 1.0)


def test_a_function_that_a_release_does_not_have_is_no_tap(monkeypatch: pytest.MonkeyPatch) -> None:
    stage, reference = stages()["audio_decoder"], ports.side("ltx-core", "reference")
    every = ports.functions(reference, stage)
    assert every == stage.functions
    monkeypatch.delattr("ltx_core.model.audio_vae.audio_vae.AudioDecoder._adjust_output_shape")
    assert {tap.name for tap in {*every} - {*ports.functions(reference, stage)}} == {"_adjust_output_shape"}


def test_a_release_that_cannot_be_imported_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "installed", lambda: "1.2.0")
    monkeypatch.setitem(__import__("sys").modules, "parity.sides.torch", None)
    with pytest.raises(InputError, match=r"ltx-core 1\.2\.0 does not answer as 1\.0\.0 does"):
        ports.side("ltx-core", "reference")
