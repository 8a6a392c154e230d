"""A few hundred of the cases of ``make fuzz``, and that a bad one is seen."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from ltx2_mlx.errors import LTX2Error
from parity.report import annotations, summary
from parity.tests import asleep
from parity.tests.fuzz import harness, lines, mutate, pool
from parity.tests.fuzz.formats import FORMATS, outcome
from parity.tests.fuzz.reading import Format

# Cases of a format; 3 of each other one, so that none of them can break unseen.
QUICK = {"baseline.json": 40, "kept cell": 30, "selftest.json": 40, "gate, causes, costs": 40, "trace": 20, "array": 30}
QUICK |= {"LoRA": 30, "tokenizer_config.json": 10, "checkpoint": 10, "results.json": 15, "ltx2-mlx info": 10}


@pytest.mark.parametrize("name", FORMATS)
def test_a_changed_file_or_command_line_is_read_or_refused_in_one_line(
    name: str, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("parity.run.pool.COSTS", tmp_path / "costs.json")
    harness.document.cache_clear()  # it is a file in the folder of before
    if name in lines.FORMATS:
        lines.prepare(monkeypatch.setattr)
    (tmp_path / "case").mkdir()
    for number in range(QUICK.get(name, 3)):
        found, why = outcome(name, number, 0, tmp_path / "case")
        assert found in ("ok", "refused"), (number, why)


def test_the_same_seed_makes_the_same_case() -> None:
    document = {"a": [1, 2, {"b": "c"}], "d": None}
    assert mutate.text(document, random.Random(3)) == mutate.text(document, random.Random(3))
    assert len({mutate.text(document, random.Random(seed)) for seed in range(50)}) > 30


BAD: dict[str, Any] = {
    "traceback": lambda made: {}["x"],
    "unnamed": lambda made: _refuse("somewhere"),
    "many lines": lambda made: _refuse(f"{made}: {'x' * 7000}"),
    "wrong": lambda made: harness.require_green({"taps": [{"verdict": "diverged", "needed_k": 1.0, "lane": "A"}]}),
}


def _refuse(text: str) -> None:
    raise LTX2Error(text)


@pytest.mark.parametrize("what", BAD)
def test_what_ends_badly_is_seen(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "toy", Format(1, lambda folder, rng: folder / "toy.json", BAD[what]))
    assert outcome("toy", 0, 0, tmp_path)[0] == what


def test_a_trace_that_is_not_noticed_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutate, "numbers", lambda data, rng: data)
    assert outcome("trace's arrays", 0, 0, tmp_path)[0] == "wrong"


def test_a_hang_and_a_hog_are_seen_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_serve", asleep.serve)
    monkeypatch.setattr(pool, "SECONDS", 1.0)
    monkeypatch.setattr(pool, "BYTES", 200 << 20)
    cases = [("fine", 0), ("hang", 1), ("fine", 2), ("memory", 3), ("fine", 4)]
    found = {case: what for case, what, _ in pool.results(cases, 0, 1)}
    assert found == {case: "ok" if case[0] == "fine" else case[0] for case in cases}


# ---- what gets out --------------------------------------------------------------------------------------------------

HOSTILE = "a|b`c`\n::error::x<script>alert(1)</script>[l](http://x) @who \x1b[31m"


def test_no_text_of_a_run_becomes_more_than_text(tmp_path: Path) -> None:
    run = harness.results(True)
    run.rows[0].name = run.rows[0].why = HOSTILE
    run.rows[0].source = "a.py:1\n::warning::gotcha"
    run.environment["machine"] = HOSTILE
    run.write(path := tmp_path / "results.json")
    found = json.loads(path.read_text())
    marks = annotations.lines(found)
    assert all(mark.startswith("::error ") and "\n" not in mark for mark in marks), marks
    assert not any("gotcha" in mark.partition("title=")[0] for mark in marks)
    from parity.report.render import render

    render(path)
    harness.check_pages(tmp_path)
    text = summary.markdown(found)
    prose = re.sub("`[^`]*`", "", text.partition("\n```")[0])  # without code
    assert "<script" not in prose and "](" not in prose and "\n::error" not in text and "\x1b" not in text
    assert all(line.count("|") == 10 for line in text.splitlines() if line.startswith("| transformer"))


def test_a_control_character_in_a_file_is_refused(tmp_path: Path) -> None:
    from parity.judge.files import RunError
    from parity.judge.results import read_results

    harness.results(False).write(path := tmp_path / "results.json")
    text = path.read_text()
    for escape in (r"\u001b[31m", r"\u009b", r"\u202e", "\x7f", "\u202e"):
        path.write_text(text.replace('"here"', f'"here{escape}"'))
        with pytest.raises(RunError, match="a text in it holds"):
            read_results(path)
    path.write_text(text.replace('"here"', r'"here\\u001b"'))
    assert read_results(path)["environment"]["machine"] == r"here\u001b"
