"""The selftest's own rules: its score falls when a fault goes unnoticed, its inputs follow the seed, and ``explain``
names the kind of a fault."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from parity.cli import main
from parity.commands import selftest as commands
from parity.declare.inputs import FIXTURES, seeded
from parity.declare.model import Data
from parity.declare.stages import pipelines, stages
from parity.faults import likely_causes as explain
from parity.faults import selftest
from parity.faults.catalogue import CAUSES, FAULTS, planted
from parity.investigate.signs import signs
from parity.judge.results import EXIT_DIVERGED, EXIT_OK, EXIT_USAGE, Row
from parity.sides.loading import read
from parity.tap.trace import Call, Tensor, Trace

BY_ID = {m.id: m for m in FAULTS}


def run(capsys: pytest.CaptureFixture[str], path: Path, *arguments: str) -> tuple[int, dict, str]:
    code = main(["selftest", "--json", str(path), *arguments])
    return code, json.loads(path.read_text()), capsys.readouterr().out


def test_command_prints_and_writes_the_matrix(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ("S12", "S21", "S26", "S27")
    monkeypatch.setattr(commands, "FAULTS", [BY_ID[id] for id in chosen])
    code, document, out = run(capsys, tmp_path / "s.json", "--seed", "5", "--sample", "4")
    assert code == EXIT_OK
    summary = document["summary"]
    assert (summary["faults"], summary["detected"], summary["localised"], summary["false_alarms"]) == (4, 4, 4, 0)
    assert summary["clean_tensors"] > 0 and summary["passed"]
    assert (summary["seed"], summary["clean_seeds"]) == (5, [5, 6, 7])
    assert [row["id"] for row in document["matrix"]] == list(chosen)
    wanted = {"id", "known", "fault", "lane", "first_tap", "expected_tap", "detected", "localised", "equivalent"}
    assert all(wanted <= row.keys() for row in document["matrix"])
    assert "detected  4 of 4" in out and "T17   Gemma 4" in out and BY_ID["S27"].description in out


def test_a_fault_that_cannot_be_seen_costs_the_score(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = replace(BY_ID["S26"], id="X00", new=BY_ID["S26"].old + "        # as it was\n")
    elsewhere = replace(BY_ID["S26"], id="X01", tap="ski")  # the start of a name is not the name
    stale = replace(BY_ID["S26"], id="X02", old="no such text")
    monkeypatch.setattr(commands, "FAULTS", [BY_ID["S26"], nothing, elsewhere, stale])
    code, document, out = run(capsys, tmp_path / "s.json")
    assert code == EXIT_DIVERGED and not document["summary"]["passed"]
    assert [(row["detected"], row["localised"]) for row in document["matrix"]] == [
        (True, True),
        (False, False),
        (True, False),
        (False, False),
    ]
    assert "undetected" in out and "stale" in out and "skip.0 (ski)" in out and "not passed" in out


def outcome(**changes: object) -> selftest.Outcome:
    found = selftest.Outcome("X", "", "", "eps", "s", "c", "b", "A", "t", detected=True, localised=True)
    return replace(found, **changes)


def test_what_the_score_asks_for() -> None:
    whole = [outcome() for _ in range(98)]
    assert selftest.Score(0, [*whole, outcome(detected=False, localised=False), outcome()]).good
    blind = outcome(detected=False, localised=False)
    assert not selftest.Score(0, [*whole[:97], blind, blind, blind]).good
    assert not selftest.Score(0, [outcome(localised=i > 5) for i in range(100)]).good
    assert not selftest.Score(0, [outcome()], ["a clean run that did not pass"]).good
    same = outcome(detected=False, localised=False, equivalent="computes the same")
    assert selftest.Score(0, [outcome(), same]).good
    assert not selftest.Score(0, [outcome(), replace(same, detected=True)]).good, "then it is not equivalent"


def test_a_fault_of_loading_is_found_where_the_error_says(checkpoints: Path) -> None:
    bench = selftest.Bench(("audio_decoder", "tiny-2.0-audio-wide", "float32"))
    found = bench.plant(BY_ID["A04"])
    assert found.detected and found.localised and found.lane == "load" and found.first_tap.startswith("missing ")
    assert not bench.plant(replace(BY_ID["A04"], tap="missing something else")).localised
    kept = bench.plant(replace(BY_ID["A04"], new=BY_ID["A04"].old))
    assert not kept.detected and kept.why == "it loads"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "Z*"], "no fault"),
        (["--sample", "0"], "--sample"),
        (["--json", "/proc/x/y.json"], "cannot be written"),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["selftest", *arguments]) == EXIT_USAGE
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line


def test_a_sample_is_the_same_every_time_and_spread_over_the_stages() -> None:
    chosen = selftest.sample(FAULTS, 30)
    assert len(chosen) == 30 and chosen == selftest.sample(FAULTS, 30)
    assert {m.stage for m in chosen} == {m.stage for m in FAULTS}
    assert len({m.stage for m in selftest.sample(FAULTS, 5)}) == 5
    whole = selftest.sample(FAULTS, 999)
    assert len(whole) == len(FAULTS) and set(whole) == set(FAULTS)


# ---- seeds --------------------------------------------------------------------------------------------------------


def arrays(value: object) -> list[object]:
    """Every array and text among a case's inputs."""
    if isinstance(value, Data):
        return [value.values]
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in arrays(item)]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in arrays(item)]
    fields = getattr(value, "__dict__", {})
    return arrays(fields) if type(value).__module__ == "parity.declare.model" else []


# Of lora the inputs are files, pinned by their hash.
@pytest.mark.parametrize("name", sorted(stages().keys() - {"lora"}))
def test_a_seed_changes_the_inputs_of_every_stage(name: str, checkpoints: Path) -> None:
    stage = stages()[name]
    path = FIXTURES / (stage.configs[0] if stage.folder else f"{stage.configs[0]}.safetensors")
    config = read(path).config if stage.component else {}

    def inputs(seed: int) -> list[object]:
        with seeded(seed):
            return arrays(stage.cases(config))

    def differ(a: list[object], b: list[object]) -> bool:
        return any(not np.array_equal(x, y) for x, y in zip(a, b, strict=True))

    usual = arrays(stage.cases(config))
    assert usual and not differ(usual, inputs(0))
    assert differ(usual, inputs(1)) and differ(inputs(1), inputs(2)) and not differ(inputs(1), inputs(1))


# ---- explain ------------------------------------------------------------------------------------------------------

REFERENCE = np.random.default_rng(3).standard_normal((3, 8, 12)).astype(np.float32)
ROW = Row("layer", "s", "c", "b", "A", 0, 0, "float32", verdict="diverged")


@pytest.mark.parametrize(
    ("sign", "ours"),
    {
        "one factor": REFERENCE * 1.1,
        "one offset": REFERENCE + 0.5,
        "the sign": -REFERENCE,
        "a factor for each slice": REFERENCE * np.linspace(1, 2, 12),
        "a factor for each position": REFERENCE * (1.5 + np.random.default_rng(1).random((3, 8, 1))),
        "same values, another order": REFERENCE.reshape(3, 12, 8).swapaxes(1, 2),
        "mirrored": REFERENCE[:, ::-1],
        "shifted by one": np.roll(REFERENCE, 1, axis=1),
        "one slice": np.where(np.arange(12) == 5, REFERENCE + 1, REFERENCE),
        "at the start only": np.where(np.arange(12) < 2, REFERENCE + 1, REFERENCE),
        "at both ends only": np.where(np.isin(np.arange(12), (0, 11)), REFERENCE + 1, REFERENCE),
        "grows along an axis": REFERENCE * (1 + 1e-3 * 3.0 ** np.arange(8)[:, None]),
        "rounded to bfloat16": (REFERENCE.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32),
        "zeros for values": np.where(np.arange(12) < 6, 0, REFERENCE),
        "not finite": np.where(np.arange(12) == 5, np.nan, REFERENCE),
        "shape transposed": REFERENCE.swapaxes(0, 1),
        "within rounding, element by element": np.nextafter(REFERENCE, np.float32(9)),
    }.items(),
)
def test_signs_of_a_residual(sign: str, ours: np.ndarray) -> None:
    assert sign in signs_of(ours)


@pytest.mark.parametrize(
    ("sign", "ours"),
    {
        "is its own input": REFERENCE * 2,
        "is an earlier tensor": REFERENCE**2,
        "is a later tensor": REFERENCE + 3,
        "another tensor is lacking": REFERENCE - REFERENCE**2,
        "another tensor is added": REFERENCE + REFERENCE**2,
        "error follows the input": np.tanh(REFERENCE),
    }.items(),
)
def test_signs_that_other_tensors_of_the_run_give(sign: str, ours: np.ndarray) -> None:
    assert sign in signs_of(ours)
    assert sign not in signs_of(REFERENCE[::-1])


def signs_of(ours: np.ndarray) -> frozenset[str]:
    """The signs of a layer that took REFERENCE · 2, between a tensor with its squares and one that is 3 larger."""
    values = {"before": REFERENCE**2, "layer": REFERENCE, "after": REFERENCE + 3}
    calls = {(name, 0): Call(name, 0, {}, {"": Tensor(v, "float32")}) for name, v in values.items()}
    calls["layer", 0].inputs["x"] = Tensor(REFERENCE * 2, "float32")
    trace = Trace(calls, [(side, name, 0) for name in values for side in ("in", "out")])
    return signs(ROW, [ROW], Tensor(REFERENCE, "float32"), Tensor(ours.astype(np.float32), "float32"), trace)


def test_the_table_has_every_fault_and_every_cause() -> None:
    table = {e.id: e for e in explain.examples()}
    # What a pipeline's first wrong tensor looks like says nothing of its cause: it is wired wrongly.
    tapped = [m for m in FAULTS if m.stage not in pipelines()]
    expected = {m.id: m.cause for m in tapped if not m.loads and not m.equivalent}
    assert {id: e.cause for id, e in table.items()} == expected, "run: python -m parity selftest --learn"
    assert {e.cause for e in table.values()} == CAUSES.keys() - {"other network"}, "that one does not load"
    told = json.loads(explain.TABLE.read_text())["leave_one_out"]
    assert told["of"] == len(table) and told["three"] >= 0.7 * told["of"]


def test_learning_keeps_what_is_still_planted(tmp_path: Path) -> None:
    path = tmp_path / "causes.json"
    explain.learn([outcome(id="V11", signs=("old",)), outcome(id="gone", signs=("x",))], path)
    explain.learn([outcome(id="T02", signs=("a", "b")), outcome(id="V01", detected=False)], path)
    assert [(e.id, sorted(e.signs)) for e in explain.examples(path)] == [("T02", ["a", "b"]), ("V11", ["old"])]
    assert json.loads(path.read_text())["leave_one_out"] == {"of": 2, "first": 2, "three": 2}


def test_ranking_follows_the_table() -> None:
    causes = ("eps", "mask") * 3
    table = [explain.Example(f"{cause}{i}", cause, frozenset({cause, "both"})) for i, cause in enumerate(causes)]
    assert explain.rank({"eps", "both"}, table)[0].cause == "eps"
    first, second = explain.rank({"mask"}, table)
    assert (first.cause, second.cause) == ("mask", "eps")
    assert first.share > 0.9 and first.share + second.share == pytest.approx(1)
    assert {e.id: e.cause for e in table if e.cause == "mask"}[first.example] == "mask"


@pytest.mark.parametrize("id", ["S22b", "A09b"])
def test_explain_names_the_cause_of_a_planted_fault(
    id: str, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, path = BY_ID[id], tmp_path / "results.json"
    table = [e for e in explain.examples() if e.id != id]  # told by the others
    monkeypatch.setattr(explain, "examples", lambda: table)
    place = {"name": fault.tap, "call": 0, "stage": fault.stage, "config": fault.config, "case": fault.case}
    place["lane"] = "A"
    path.write_text(json.dumps({"taps": [place | {"verdict": "diverged"}]}))
    with planted(fault):
        assert main(["explain", "first", "--results", str(path)]) == EXIT_OK
    out = capsys.readouterr().out
    assert f"{fault.cause}: {CAUSES[fault.cause]}" in out and "looks like: " in out and "diverged" in out
    assert main(["explain", fault.tap, "--results", str(path)]) == EXIT_OK
    assert "It passes when it is fed" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["no such tap"], ["first"], ["x", "--results", "/nowhere.json"]])
def test_explain_refuses_in_one_line(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"taps": [{"name": "layer", "verdict": "pass"}]}))
    assert main(["explain", *arguments, *([] if "--results" in arguments else ["--results", str(path)])]) == EXIT_USAGE
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
