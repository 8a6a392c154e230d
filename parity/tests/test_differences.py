"""Two runs tap by tap: what counts as a regression, and the baseline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parity.cli import main
from parity.judge import baseline
from parity.judge.baseline import Run, compare, read_run
from parity.judge.results import EXIT_DIVERGED, EXIT_OK, EXIT_USAGE, ORIGIN, Results, Row
from parity.run.environment import code_digest

PLACE = ("patchifiers", "any", "A")


def run(path: Path, **ratios: float | str | None) -> Path:
    """A results.json with a row for each tap of ``PLACE``: a ratio, a verdict, or nothing; ``x_in`` is ``x:in``."""
    stage, config, lane = PLACE
    rows = []
    for name, value in ratios.items():
        row = Row(name.replace("_", ":"), stage, config, "base", lane, 0, len(rows), "float32")
        row.verdict, row.needed_k = (value, 99.0) if isinstance(value, str) else ("pass", value)
        rows += [] if value is None else [row]
    Results(rows, code=code_digest(), origin=ORIGIN, environment={"machine": "here"}).write(path)
    return path


BEFORE = {"a": 1.0, "b": 0.1, "c": 1.5, "a_in": 0.4}
KINDS = {
    "nothing": ({}, None),
    "worse": ({"a": 2.4}, "a"),
    "worse_input": ({"c_in": 1.2}, "c:in"),
    "failed": ({"b": "diverged"}, "b"),
    "invalid": ({"c": "invalid"}, "c"),
    "gone": ({"b": None}, "b"),
    "failed_new": ({"d": "missing"}, "d"),
}


@pytest.mark.parametrize(("change", "place"), KINDS.values(), ids=list(KINDS))
def test_a_regression_is_named_and_exits_1(
    change: dict, place: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = run(tmp_path / "a.json", **BEFORE), run(tmp_path / "b.json", **(BEFORE | change))
    assert main(["diff", str(a), str(b)]) == (EXIT_DIVERGED if place else EXIT_OK)
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert f"Regression at patchifiers any A {place} (" in last if place else "No regression: 4 as before." in last


def test_what_is_no_regression(tmp_path: Path) -> None:
    a = read_run(run(tmp_path / "a.json", **BEFORE, e="diverged"))
    b = read_run(run(tmp_path / "b.json", a=1.9, b=0.9, c=0.2, d=1.4, e=0.5, b_in=0.7))
    found = compare(a, b)
    assert found.regressions == []
    assert [key[3] for key in found.better] == ["c"]
    assert [key[3] for key in found.mended] == ["e"]
    assert [key[3] for key in found.new] == ["d"]
    assert [key[3] for key in compare(a, b, floor=0.3).worse] == ["b", "b:in"]


def test_cells_that_were_not_run_again_are_counted_and_not_gone(tmp_path: Path) -> None:
    a = read_run(run(tmp_path / "a.json", **BEFORE))
    more = Run(a.taps | {(key[0], "other", *key[2:]): tap for key, tap in a.taps.items()})
    found = compare(more, a)
    assert (found.regressions, found.skipped) == ([], [("patchifiers", "other", "A")])
    assert compare(a, more).regressions == []


def test_the_baseline_is_what_was_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    good, bad = run(tmp_path / "good.json", **BEFORE), run(tmp_path / "bad.json", **(BEFORE | {"a": 2.9}))
    assert main(["diff", str(good)]) == EXIT_USAGE
    assert "parity accept" in capsys.readouterr().err
    assert main(["accept", str(good)]) == EXIT_OK
    assert json.loads(Path("reports/baseline.json").read_text())["environments"] == {"0": {"machine": "here"}}
    assert main(["diff", str(good)]) == EXIT_OK
    assert main(["diff", str(bad)]) == EXIT_DIVERGED
    assert main(["diff", "reports/baseline.json", str(bad)]) == EXIT_DIVERGED
    failing = run(tmp_path / "failing.json", a="diverged")
    assert main(["accept", str(failing)]) == EXIT_USAGE
    assert main(["diff", str(good)]) == EXIT_OK, "the baseline is as it was"


def test_runs_of_many_taps_are_accepted_and_compared_at_once(tmp_path: Path) -> None:
    """Their cells are looked for once, and not for each of 40,000 taps: that took longer than anyone waits."""
    taps = {("transformer", f"config {n % 97}", "A", f"tap {n}"): baseline.Tap("pass", 1.0) for n in range(20_000)}
    many, asked = baseline.Run(taps, environments={key[:3]: {} for key in taps}), baseline.Run.cells.func
    counted: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baseline.Run.cells, "func", lambda run: counted.append(1) or asked(run))
        baseline.write_baseline(tmp_path / "baseline.json", many, many)
        assert baseline.compare(many, many).regressions == []
    assert len(counted) == 1


@pytest.mark.parametrize("text", ["", "{}", '{"schema": "x", "taps": []}', "[1]"])
def test_what_is_no_run_is_refused_by_name(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "odd.json"
    path.write_text(text)
    assert main(["diff", str(path), str(path)]) == EXIT_USAGE
    assert f"{path}: " in capsys.readouterr().err
