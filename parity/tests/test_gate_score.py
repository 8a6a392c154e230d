"""The score of CI's own commands: what they see of a fault, what they do not, and a crash is neither."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from parity.commands import tables
from parity.faults import gate
from parity.faults.catalogue import BY_ID, Fault
from parity.faults.score import Gate, Score, Seen

FAULT, LOADING = BY_ID["V04b"], BY_ID["L01"]
assert isinstance(FAULT, Fault) and isinstance(LOADING, Fault)
QUESTION = gate.Question(FAULT, FAULT.stage, FAULT.config, "A")
GREEN, RED = (0, "all pass"), (1, "diverged")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, tuple[int, str]]:
    """How each command ends, by its lane; ``pytest`` for the tests."""
    ends: dict[str, tuple[int, str]] = {"A": GREEN, "A,B,C": GREEN, "pytest": GREEN}

    def run(folder: Path, *command: str) -> tuple[int, str]:
        return ends["pytest"] if command[0] == "pytest" else ends[command[command.index("--lane") + 1]]

    monkeypatch.setattr(gate, "_run", run)
    monkeypatch.setattr(gate, "checkout", lambda fault: nullcontext(tmp_path))
    return ends


def test_a_fault_is_seen_by_the_real_command_in_a_copy_of_the_checkout(checkpoints: Path) -> None:
    """One whose cell is quickly judged."""
    fault = BY_ID["S26"]
    assert isinstance(fault, Fault)
    answer = gate.ask(gate.Question(fault, fault.stage, fault.config, "A"))
    assert (answer.red, answer.crashed) == ("parity", "")


@pytest.mark.parametrize(
    ("ends", "red", "crashed"),
    [
        ({"A": RED}, "parity", ""),
        ({"A": (3, "missing")}, "parity", ""),
        ({"A,B,C": RED}, "parity", ""),
        ({"pytest": (1, "1 failed")}, "tests", ""),
        ({}, "", ""),
        ({"A": (4, "inconclusive")}, "", "parity run ended with 4: inconclusive"),
        ({"A": (2, "ltx2-parity: no such stage")}, "", "parity run ended with 2: ltx2-parity: no such stage"),
        ({"A": (1, f"{gate.TRACEBACK}\n  File\nKeyError: 1")}, "", "parity run ended with 1: KeyError: 1"),
        ({"A": (-9, "")}, "", "parity run ended with -9: no output"),
        ({"pytest": (2, "error in collection")}, "", "pytest ended with 2: error in collection"),
    ],
)
def test_what_counts_as_seen(
    ends: dict[str, tuple[int, str]], red: str, crashed: str, commands: dict[str, tuple[int, str]]
) -> None:
    commands |= ends
    answer = gate.ask(QUESTION)
    assert (answer.red, answer.crashed) == (red, crashed)


def test_a_fault_of_loading_is_seen_where_the_error_names_it(commands: dict[str, tuple[int, str]]) -> None:
    question = gate.Question(LOADING, LOADING.stage, LOADING.config, "A")
    for ends, red in (((2, f"ltx2-parity: {LOADING.tap}"), "parity"), ((2, "another error"), ""), (GREEN, "")):
        commands["A"] = ends
        assert gate.ask(question).red == red


def test_a_clean_copy_that_is_red_is_a_false_alarm(commands: dict[str, tuple[int, str]], tmp_path: Path) -> None:
    commands["A"] = RED
    found = gate.measure([FAULT], tmp_path / "gate.json", jobs=1)
    assert found.ids("parity") == ["V04b"] and found.alarms == ["patchifiers any A: red without a fault"]
    assert not found.good
    commands |= {"A": GREEN, "pytest": (1, "1 failed")}
    found = gate.measure([FAULT], tmp_path / "other.json", jobs=1)
    assert found.ids("tests") == ["V04b"] and found.alarms == ["tests: red without a fault"]


def test_answers_are_kept_until_the_fault_or_the_sources_change(
    commands: dict[str, tuple[int, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, asked = tmp_path / "gate.json", []
    ask = gate.ask
    monkeypatch.setattr(gate, "ask", lambda question: asked.append(question.fault) or ask(question))

    def questions(fault: Fault = FAULT) -> int:
        asked.clear()
        gate.measure([fault], kept, jobs=1)
        return len(asked)

    assert questions() == 2, "the fault and a clean copy"
    assert questions() == 0
    assert questions(replace(FAULT, new=FAULT.new + "  # another\n")) == 1
    assert questions(replace(FAULT, id="another", kind="video")) == 0, "what it is called decides nothing"
    monkeypatch.setattr(gate, "sources", lambda: "others")
    assert questions() == 2
    for broken in ("", "[]", '{"sources": "others"}', '{"sources": "others", "answers": {"x": 1}}'):
        kept.write_text(broken)
        assert questions() == 2, broken


def test_the_hash_of_the_sources_follows_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "ltx2_mlx/a.py",
        "parity/b.py",
        "parity/faults/c.py",
        "tests/d.py",
        "fixtures/SHA256SUMS",
        "conftest.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.setattr(gate, "ROOT", tmp_path)
    for name, counts in (("ltx2_mlx/a.py", 1), ("parity/b.py", 1), ("tests/d.py", 1), ("parity/faults/c.py", 0)):
        before = gate.sources()
        (tmp_path / name).write_text(name)
        assert (gate.sources() != before) is bool(counts), name


def test_the_gate_asks_for_as_much_as_the_selftest() -> None:
    def seen(by: str = "parity", **changes: str) -> Seen:
        return replace(Seen("X", "k", "a fault"), by=by, **changes)

    assert Gate([seen() for _ in range(98)] + [seen("tests"), seen("")]).good
    assert not Gate([seen() for _ in range(97)] + [seen(""), seen(""), seen("")]).good
    crashed = Gate([seen(), seen("", crashed="a traceback")])
    assert not crashed.good and crashed.ids("") == [], "neither seen nor missed"
    document = Score(gate=Gate([seen(), seen("tests"), seen("", id="Y")])).document()
    assert document["summary"]["gate"] | {"passed": False} == {
        "faults": 3, "parity": 1, "tests": ["X"], "missed": ["Y"], "crashed": [], "false_alarms": [], "passed": False,
    }  # fmt: skip
    assert "Of 3 faults" in tables.selftest(document) and "nobody saw Y" in tables.selftest(document)


def test_the_copy_of_the_checkout_has_the_fault_and_no_results() -> None:
    with gate.checkout(FAULT) as folder:
        assert FAULT.new in (folder / "ltx2_mlx" / FAULT.file).read_text()
        assert (folder / "fixtures" / "SHA256SUMS").exists() and not list((folder / "reports").iterdir())
    assert FAULT.new not in (gate.ROOT / "ltx2_mlx" / FAULT.file).read_text()
