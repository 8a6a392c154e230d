"""The selftest's own rules: its score falls when a fault goes unnoticed, its inputs follow the seed, and ``explain``
names the kind of a fault."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.cli import main
from parity.commands import selftest as commands
from parity.commands import tables
from parity.declare.inputs import FIXTURES, seeded
from parity.declare.model import Data
from parity.declare.stages import pipelines, stages
from parity.faults import likely_causes as explain
from parity.faults import probe, selftest
from parity.faults.catalogue import CAUSES, FAULTS, Fault, planted
from parity.faults.classes import CANARIES
from parity.investigate.signs import signs
from parity.judge.files import RunError
from parity.judge.results import EXIT_DIVERGED, EXIT_OK, EXIT_USAGE, Results, Row
from parity.report import annex, scores
from parity.sides.loading import read
from parity.tap import blame, session
from parity.tap.trace import Call, Tensor, Trace

BY_ID = {m.id: m for m in FAULTS}


def run(capsys: pytest.CaptureFixture[str], path: Path, *arguments: str) -> tuple[int, dict, str]:
    code = main(["selftest", "--jobs", "1", "--json", str(path), *arguments])
    return code, json.loads(path.read_text()), capsys.readouterr().out


def test_command_prints_and_writes_the_matrix(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ("S12", "S21", "S26", "S27", "S30")
    monkeypatch.setattr(commands, "FAULTS", [BY_ID[id] for id in chosen])
    code, document, out = run(capsys, tmp_path / "s.json", "--seed", "5", "--only", "S2*", "--sample", "3")
    assert code == EXIT_OK
    summary = document["summary"]
    assert [row["id"] for row in document["matrix"]] == ["S21", "S26", "S27", "S30"], "the canary of the kind as well"
    assert (summary["faults"], summary["detected"], summary["localised"], summary["false_alarms"]) == (4, 4, 4, 0)
    assert summary["clean_tensors"] > 0 and summary["passed"] and summary["gate"] is None
    assert (summary["seed"], summary["clean_seeds"]) == (5, [5, 6, 7])
    assert summary["kinds"] == [
        {"kind": "sampling", "faults": 4, "detected": 4, "localised": 4, "equivalent": 0, "canary": "S30", "void": ""}
    ]
    assert "detected  4 of 4" in out and "R13   the transformer" in out and BY_ID["S27"].description in out
    assert re.search(r"^sampling +4 +4 +4  S30$", out, re.MULTILINE)
    assert scores.read(tmp_path / "s.json") == document
    assert "S26 | sampling |" in tables.selftest(document) and "| sampling | 4 | 4 | 4 | S30 |" in tables.selftest(
        document
    )


def test_a_fault_that_cannot_be_seen_costs_the_score(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    same = replace(BY_ID["S26"], id="X00", new="(step % (self.params.skip_step + 1)) != 0 and True")
    elsewhere = replace(BY_ID["S26"], id="X01", tap="ski")  # the start of a name is not the name
    stale = replace(BY_ID["S26"], id="X02", old="no such text")
    monkeypatch.setattr(commands, "FAULTS", [BY_ID["S26"], same, elsewhere, stale])
    code, document, out = run(capsys, tmp_path / "s.json")
    assert code == EXIT_DIVERGED and not document["summary"]["passed"]
    assert [(row["detected"], row["localised"], row["state"]) for row in document["matrix"]] == [
        (True, True, "judged"),
        (False, False, "judged"),
        (True, False, "judged"),
        (False, False, "void"),
    ]
    assert "undetected" in out and "stale" in out and "skip.0 (ski)" in out and "not passed" in out
    assert "VOID: it has no canary" in out


# ---- what is neither noticed nor missed -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(checkpoints: Path) -> selftest.Bench:
    return selftest.Bench(("sampling", "any", "float32"))


SKIP = "        return step % (self.params.skip_step + 1) != 0\n"  # of the guiders


def edit(new: str, old: str = SKIP, **changes: object) -> Fault:
    return replace(BY_ID["S26"], id="X", old=old, new=new, **changes)


@pytest.mark.parametrize(
    ("fault", "state", "why"),
    [
        (edit(SKIP + "        # as it was\n"), "crashed", "changes no statement"),
        (edit("        return step %% 2\n"), "crashed", "badly written: invalid syntax"),
        (edit("        return stepp\n"), "crashed", "NameError"),
        (
            edit("class MultiModalGuider(Nothing):", "class MultiModalGuider:"),
            "void",
            "dies when it is imported: NameError",
        ),
        (edit("x = 1\n", "PIXELS_", file="media/writing.py"), "void", "stands 0 times"),
        (edit("frame_rate(24)\n", "frame_rate(fps)\n", file="media/writing.py"), "void", "never reached"),
        (edit("a sigma of zero", "sigma is 0, and", file="diffusion/diffusion_steps.py"), "void", "never reached"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_that_proves_nothing_is_neither_noticed_nor_missed(
    bench: selftest.Bench, fault: Fault, state: str, why: str
) -> None:
    found = bench.plant(fault)
    assert (found.state, found.detected, found.localised) == (state, False, False) and why in found.why, found.why
    assert not selftest.Score(0, [outcome(canary=True), found]).good


def test_an_exception_of_the_product_is_a_detection(bench: selftest.Bench) -> None:
    found = bench.plant(edit("        raise ValueError(step)\n"))
    assert (found.state, found.detected, found.localised) == ("judged", True, True), found.why
    asks_more = bench.plant(edit("step: int, more: int) -> bool:", "step: int) -> bool:"))
    assert (asks_more.state, asks_more.detected) == ("judged", True), asks_more.why


def test_a_crash_of_the_harness_is_no_detection(bench: selftest.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = BY_ID["S26"]
    bench.recorded(fault.case, 0)

    def broken(*_: object) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(session, "flatten", broken)
    found = bench.plant(fault)
    assert (found.state, found.detected) == ("crashed", False)
    assert "the harness fell over at parity/tests/test_selftest.py" in found.why and "out of order" in found.why


def test_a_judgement_of_nothing_is_void(bench: selftest.Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "isolated_rows", lambda *_: [])
    found = bench.plant(BY_ID["S26"])
    assert (found.state, found.why) == ("void", "no tensor was judged")


def test_a_fault_that_hangs_is_noticed_and_not_in_place(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "LIMIT", 4.0)
    monkeypatch.setattr(selftest, "SLOWER", 0.1)
    hanging = edit(
        "        while True:\n            __import__('time').sleep(0.01)\n"
    )  # and leaves the processor to others
    score = selftest.run([hanging, BY_ID["S27"]], jobs=1)
    hangs, after = score.outcomes
    assert (hangs.state, hangs.detected, hangs.localised) == ("judged", True, False) and "hangs" in hangs.why
    assert after.localised, "the next one is planted as if nothing had been"


def test_a_fault_that_ends_its_process_is_named_and_the_others_are_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = {"X": "S26", "Y": "S27", "Z": "V04b"}
    ends, same_case, elsewhere = (replace(BY_ID[id], id=name) for name, id in ids.items())

    class Planting:
        def clean(self, *_: object) -> list[Row]:
            return [ROW]

        def plant(self, fault: Fault, seed: int, limit: float) -> selftest.Outcome:
            if fault.id == "X":
                raise BrokenProcessPool("killed")
            return outcome(id=fault.id)

    monkeypatch.setattr(selftest, "bench", lambda cell: Planting())
    monkeypatch.setattr(selftest, "spread", lambda work, tasks, names, jobs: map(work, tasks))
    score = selftest.run([ends, same_case, elsewhere], jobs=2)
    assert [(f.id, f.state) for f in score.outcomes] == [("X", "crashed"), ("Y", "judged"), ("Z", "judged")]
    assert "its process ended: BrokenProcessPool: killed" in score.outcomes[0].why and not score.good
    monkeypatch.setattr(Planting, "clean", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):  # no fault is to blame
        selftest.run([same_case, elsewhere], jobs=2)


def raised(run: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:
        run()
    return caught.value


def module(path: Path, text: str, **names: object) -> dict[str, Any]:
    space: dict[str, Any] = dict(names)
    exec(compile(text, str(path), "exec"), space)
    return space


def test_who_is_to_blame_for_an_exception(tmp_path: Path) -> None:
    ours = tmp_path / "ltx2_mlx"
    product = module(ours / "a.py", "def run(f, *args): return f(*args)\ndef fail(): raise KeyError(1)\n")
    harness = module(blame.HARNESS / "judge" / "b.py", "def run(f, *args): return f(*args)\ndef fail(): 1 / 0\n")
    passing = module(blame.HARNESS / "tap" / "c.py", "def run(f, *args): return f(*args)\n")
    stand_in = module(blame.STAND_INS / "d.py", "def fail(): 1 / 0\n")

    def place(run: Callable[[], object]) -> str:
        return blame.crash(raised(run), ours)

    assert place(lambda: passing["run"](product["fail"])) == ""
    assert place(lambda: product["run"](passing["run"], harness["fail"])) == "parity/judge/b.py:2"
    assert place(lambda: product["run"](passing["run"], product["fail"], 1)) == "", "wrong arguments, passed on"
    assert place(lambda: product["run"](harness["run"], product["fail"], 1)) == "parity/judge/b.py:1"
    assert place(lambda: product["run"](stand_in["fail"])) == "", "it could not work with what ours gave it"
    assert place(lambda: stand_in["fail"]()) == "parity/sides/d.py:1"
    tap = module(blame.TAPS, "def run(f, *args): return f(*args)\ndef fail(): 1 / 0\n")
    library = module(tmp_path / "site-packages" / "e.py", "def fail(): raise ValueError('shapes')\n")
    assert place(lambda: product["run"](tap["run"], library["fail"])) == "", (
        "a layer of a library, called through a tap"
    )
    assert place(lambda: product["run"](tap["fail"])) == "parity/tap/patch.py:2"
    assert place(lambda: tap["run"](library["fail"])) == "parity/tap/patch.py:1"


PLAIN = "def f(a):\n    if a:\n        a = 1\n    return a\n"


@pytest.mark.parametrize(
    ("before", "old", "new", "calls", "reached"),
    [
        ("x = 1\n", "1", "2", "", True),
        ("from __future__ import annotations\nclass A:\n    x: int = 1\n", "= 1", "= 2", "", True),
        ("def f():\n    return 1\n", "1", "2", "", False),
        ("def f():\n    return 1\n", "1", "2", "f()", True),
        ("def f():\n    return 1\n", "def", "@(lambda f: f)\ndef", "f()", True),
        ("def f(a=1):\n    'Say.'\n    return a\n", "a=1", "a=2", "", False),
        ("def f(a=1):\n    'Say.'\n    return a\n", "a=1", "a=2", "f()", True),
        (PLAIN, "a = 1", "a = 2", "f(0)", False),
        (PLAIN, "a = 1", "a = 2", "f(1)", True),
        (PLAIN, "if a", "if not a", "f(1)", True),
        (PLAIN, "    if a:\n        a = 1\n", "", "", False),
        (PLAIN, "    if a:\n        a = 1\n", "", "f(0)", True),
        ("try:\n    x = 1\nexcept KeyError:\n    pass\n", "Key", "Value", "", True),
        ("def f(a):\n    return (\n        1,\n        a,\n    )\n", "a,", "0,", "f(3)", True),
    ],
)
def test_a_statement_that_was_changed_notes_that_it_runs(
    before: str, old: str, new: str, calls: str, reached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, after = tmp_path / "some_module.py", before.replace(old, new, 1)
    file.write_text(after)
    probe.put(file, before)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "some_module", raising=False)
    found = importlib.import_module("some_module")
    exec(calls, vars(found))
    assert probe.reached(found) is reached
    assert file.read_text() == after and not probe.reached(None)


# ---- the score ------------------------------------------------------------------------------------------------------


def outcome(**changes: object) -> selftest.Outcome:
    found = selftest.Outcome("X", "", "", "eps", "s", "c", "b", "A", "t", detected=True, localised=True, kind="k")
    return replace(found, **changes)


def test_what_the_score_asks_for() -> None:
    whole = [outcome(canary=not i) for i in range(98)]
    assert selftest.Score(0, [*whole, outcome(detected=False, localised=False), outcome()]).good
    blind = outcome(detected=False, localised=False)
    assert not selftest.Score(0, [*whole[:97], blind, blind, blind]).good
    assert not selftest.Score(0, [outcome(canary=True, localised=i > 5) for i in range(100)]).good
    canary = outcome(canary=True)
    assert not selftest.Score(0, [canary], ["a clean run that did not pass"]).good
    same = outcome(detected=False, localised=False, equivalent="computes the same")
    assert selftest.Score(0, [canary, same]).good
    assert not selftest.Score(0, [canary, replace(same, detected=True)]).good, "then it is not equivalent"
    assert not selftest.Score(0, []).good, "nothing was planted"
    for state in ("void", "crashed"):
        assert not selftest.Score(0, [*whole, replace(blind, state=state)]).good, state


def test_a_kind_whose_canary_lives_is_void_whatever_its_share() -> None:
    found = [outcome(kind="a", canary=True), *(outcome(kind="b") for _ in range(300))]
    assert selftest.Score(0, [*found, outcome(kind="b", canary=True)]).good
    alive = outcome(id="C", kind="b", canary=True, detected=False, localised=False)
    score = selftest.Score(0, [*found, alive])
    assert not score.good and [k.void for k in score.kinds] == ["", "its canary C was not noticed"]
    score = selftest.Score(0, found)
    assert not score.good and score.kinds[1].void == "it has no canary"


def test_the_canaries_of_the_chosen_kinds_are_planted_too() -> None:
    chosen = selftest.with_canaries([BY_ID["S12"], BY_ID["T15"]], FAULTS)
    assert {m.id for m in chosen} == {"S12", "T15", CANARIES["sampling"], CANARIES["text"]}


def test_a_fault_of_loading_is_found_where_the_error_says(checkpoints: Path) -> None:
    bench = selftest.Bench(("audio_decoder", "tiny-2.0-audio-wide", "float32"))
    found = bench.plant(BY_ID["A04"])
    assert found.detected and found.localised and found.lane == "load" and found.first_tap.startswith("missing ")
    assert not bench.plant(replace(BY_ID["A04"], tap="missing something else")).localised
    kept = bench.plant(replace(BY_ID["A04"], new=f"{BY_ID['A04'].old} or ()"))
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
    chosen = selftest.sample(FAULTS, 36)
    assert len(chosen) == 36 and chosen == selftest.sample(FAULTS, 36)
    assert {m.stage for m in chosen} == {m.stage for m in FAULTS}
    assert len({m.stage for m in selftest.sample(FAULTS, 5)}) == 5
    whole = selftest.sample(FAULTS, 999)
    assert len(whole) == len(FAULTS) and set(whole) == set(FAULTS)


# ---- what is written ------------------------------------------------------------------------------------------------


def score(**changes: object) -> dict[str, Any]:
    document = json.loads(json.dumps(selftest.Score(0, [outcome(canary=True)]).document()))
    document["summary"] |= changes
    return document


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "truncated"),
        ("[]", "Expected 'object'"),
        (json.dumps({"schema": scores.SCHEMA}), "missing required field 'summary'"),
        (json.dumps(score(faults="many")), "$.summary.faults"),
        (json.dumps(score(passed=None)), "$.summary.passed"),
        (json.dumps(score(kinds=[{"kind": "a"}])), "missing required field 'faults' - at '$.summary.kinds[0]'"),
        (json.dumps(score(gate={"faults": 1})), "missing required field 'parity' - at '$.summary.gate'"),
        (json.dumps(score() | {"matrix": [3]}), "$.matrix[0]"),
        (json.dumps(score() | {"matrix": [{"id": 3}]}), "$.matrix[0].id"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_score_is_refused_in_one_line(
    text: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "selftest.json"
    path.write_text(text)
    with pytest.raises(RunError) as error:
        scores.read(path)
    assert problem in str(error.value) and "\n" not in str(error.value) and str(path) in str(error.value)
    (tmp_path / "results.json").write_text(json.dumps({"taps": []}))
    code = main(["tables", str(tmp_path / "results.json"), str(path), str(tmp_path / "README.md")])
    assert code == EXIT_USAGE and len(capsys.readouterr().err.splitlines()) == 1


def test_a_score_is_shown_on_the_page_and_in_the_table() -> None:
    void = outcome(id="N", kind="files", state="void", why="never reached", detected=False, localised=False)
    document = json.loads(json.dumps(selftest.Score(0, [outcome(canary=True), void]).document()))
    page = str(annex.selftest(document))
    assert "N: never reached" in page and "it has no canary" in page
    table = tables.selftest(document)
    assert "1 void" in table and "| files | 1 | 0 | 0 | it has no canary |" in table
    assert "| N | files |" in table and "void: never reached |" in table


def test_a_selftest_that_does_not_end_leaves_no_score(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(score()))
    monkeypatch.setattr(commands, "run", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        main(["selftest", "--only", "S26", "--json", str(path)])
    assert not path.exists()


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


# Of lora the inputs are files, pinned by their hash; of the command line they are flags.
@pytest.mark.parametrize("name", sorted(stages().keys() - {"lora", "command_line"}))
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
    assert told["of"] == len(table)
    # Nor does that of a flag or a file: a value is another, and no sign says why.
    wired = {m.id for m in FAULTS if m.stage in ("command_line", "files")}
    told = explain.leave_one_out([e for e in table.values() if e.id not in wired])
    assert told["of"] > 300 and told["three"] >= 0.7 * told["of"]


def test_learning_keeps_what_is_still_planted(tmp_path: Path) -> None:
    path = tmp_path / "causes.json"
    explain.learn([outcome(id="V11", signs=("old",)), outcome(id="gone", signs=("x",))], path)
    explain.learn([outcome(id="T02", signs=("a", "b")), outcome(id="V01", detected=False)], path)
    assert [(e.id, sorted(e.signs)) for e in explain.examples(path)] == [("T02", ["a", "b"]), ("V11", ["old"])]
    assert json.loads(path.read_text())["leave_one_out"] == {"of": 2, "first": 2, "three": 2}
    for broken in ("", "{}", '{"faults": 3}', '{"faults": {"V11": {}}}'):
        path.write_text(broken)
        explain.learn([outcome(id="T02", signs=("a",))], path)
        assert [e.id for e in explain.examples(path)] == ["T02"], broken


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
    Results([Row(fault.tap, fault.stage, fault.config, fault.case, "A", 0, 0, "float32", verdict="diverged")]).write(
        path
    )
    with planted(fault):
        assert main(["explain", "first", "--results", str(path)]) == EXIT_OK
    out = capsys.readouterr().out
    assert f"{fault.cause}: {CAUSES[fault.cause]}" in out and "looks like: " in out and "diverged" in out
    assert main(["explain", fault.tap, "--results", str(path)]) == EXIT_OK
    assert "It passes when it is fed" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["no such tap"], ["first"], ["x", "--results", "/nowhere.json"]])
def test_explain_refuses_in_one_line(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    Results([Row("layer", "transformer", "tiny-2.0", "base", "A", 0, 0, "float32")]).write(path)
    assert main(["explain", *arguments, *([] if "--results" in arguments else ["--results", str(path)])]) == EXIT_USAGE
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
