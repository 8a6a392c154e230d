"""The gate's own rules: what is red, and that looking does not change what is seen."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from parity.cli import main
from parity.commands import tables as readme
from parity.debug import symptoms
from parity.declare.model import Case, Counterparts, FunctionTap, Stage, Step
from parity.declare.stages import pipelines, stages
from parity.faults.catalogue import Fault, planted
from parity.judge.results import EXIT_DIVERGED, EXIT_INCOMPLETE, EXIT_INCONCLUSIVE, EXIT_OK, Coverage, Results, Row
from parity.judge.verdicts import judge
from parity.report import plots, summary, terminal
from parity.report.render import render
from parity.run.cells import manifest
from parity.run.coverage import coverage_of, unseen
from parity.run.environment import environment
from parity.run.live import Runner
from parity.run.loop import Live
from parity.run.recorded import Inventory
from parity.run.replay import judge_recording
from parity.sides.loading import read
from parity.tap.execute import execute
from parity.tap.session import Session
from parity.tap.trace import Call, Tensor, Trace

STAGE = Stage(
    "toy",
    "toy",
    lambda config: {"base": Case()},
    {},
    ("any",),
    functions=(FunctionTap("exact", Counterparts("", ""), exact=True),),
)
WHERE = {"stage": "toy", "config": "any", "case": "base", "lane": "A"}
ORACLE = np.random.default_rng(1).standard_normal((5, 7))
REFERENCE = ORACLE.astype(np.float32)


WHOLE = Coverage("toy", "any", 2, 2, 1, 1, 4, 4)


def trace(values: object, tap: str = "layer", dtype: str = "float32", **inputs: object) -> Trace:
    call = Call(tap, 0, dict(inputs), {"": Tensor(values, dtype) if isinstance(values, np.ndarray) else values})
    return Trace({(tap, 0): call}, [("in", tap, 0), ("out", tap, 0)])


def verdict(ours: Trace, reference: np.ndarray = REFERENCE, oracle: np.ndarray = ORACLE, tap: str = "layer") -> Row:
    return judge(Results(), WHERE, STAGE, trace(reference, tap), trace(oracle, tap, "float64"), ours)[0]


def test_rounding_passes_and_its_ratio_is_near_one() -> None:
    row = verdict(trace(np.nextafter(REFERENCE, np.float32(9))))
    assert row.verdict == "pass"
    assert 0.1 < row.needed_k < 3


@pytest.mark.parametrize(
    ("name", "ours"),
    {
        "scaled, at correlation 1": REFERENCE * np.float32(1.00001),
        "shifted, at correlation 1": REFERENCE + np.float32(0.00001),
        "one element": np.where(np.arange(35).reshape(5, 7) == 3, REFERENCE + np.float32(1e-5), REFERENCE),
        "zeros": np.zeros_like(REFERENCE),
        "another constant": np.full_like(REFERENCE, 0.5),
    }.items(),
)
def test_a_difference_diverges(name: str, ours: np.ndarray) -> None:
    row = verdict(trace(ours))
    assert row.verdict == "diverged", name
    assert row.needed_k > 3
    if "correlation 1" in name:
        assert row.metrics["pearson"] > 0.999999


@pytest.mark.parametrize(
    ("why", "ours"),
    {
        "NaN": trace(np.where(REFERENCE > 1, np.float32(np.nan), REFERENCE)),
        "Inf": trace(np.where(REFERENCE > 1, np.float32(np.inf), REFERENCE)),
        "shape (7, 5)": trace(REFERENCE.T),
        "dtype bfloat16": trace(REFERENCE, dtype="bfloat16"),
        "ours has None": trace(None),
    }.items(),
)
def test_what_cannot_be_compared_is_invalid(why: str, ours: Trace) -> None:
    row = verdict(ours)
    assert row.verdict == "invalid"
    assert why in row.why


def test_a_tap_that_ours_lacks_is_missing_and_one_that_only_ours_has_is_invalid() -> None:
    assert verdict(Trace()).verdict == "missing"
    extra = trace(REFERENCE)
    extra.calls["other", 0] = Call("other", 0)
    rows = judge(Results(), WHERE, STAGE, trace(REFERENCE), trace(ORACLE), extra)
    assert [row.verdict for row in rows] == ["pass", "invalid"]


def test_a_constant_reference_is_blind_and_a_wrong_oracle_does_not_widen_the_gate() -> None:
    flat = np.full((5, 7), 0.25, dtype=np.float32)
    assert "constant in the reference" in verdict(trace(flat), flat, flat.astype(np.float64)).why
    row = verdict(trace(REFERENCE * np.float32(1.001)), oracle=ORACLE * 1.1)
    assert row.verdict == "invalid" and "not its oracle" in row.why


def test_an_exact_tap_has_no_tolerance() -> None:
    assert verdict(trace(REFERENCE, "exact"), tap="exact").verdict == "pass"
    assert verdict(trace(np.nextafter(REFERENCE, np.float32(9)), "exact"), tap="exact").verdict == "diverged"


def test_a_constant_argument_must_agree() -> None:
    reference, ours = trace(REFERENCE, eps=1e-6), trace(REFERENCE, eps=1e-5)
    rows = judge(Results(), WHERE, STAGE, reference, trace(ORACLE), ours)
    assert [(row.name, row.verdict) for row in rows] == [("layer:eps", "diverged"), ("layer", "pass")]


def test_a_constant_result_must_be_there_and_agree() -> None:
    assert judge(Results(), WHERE, STAGE, trace(7), trace(7), trace(7)) == []
    assert verdict_of(trace(8)) == "diverged"
    gone = trace(7)
    gone.calls["layer", 0].outputs = {"0": 7}
    assert verdict_of(gone) == "invalid"


def verdict_of(ours: Trace) -> str:
    (row,) = judge(Results(), WHERE, STAGE, trace(7), trace(7), ours)
    return row.verdict


def test_hidden_elements_of_a_mask_must_be_the_same() -> None:
    lowest = np.finfo(np.float32).min
    mask = np.where(ORACLE > 0, np.float32(lowest), REFERENCE)
    wide = np.where(ORACLE > 0, np.finfo(np.float64).min, ORACLE)
    assert verdict(trace(mask), mask, wide).verdict == "pass"
    assert verdict(trace(np.where(ORACLE > 1, np.float32(lowest), REFERENCE)), mask, wide).verdict == "diverged"
    only_hidden, wide = (
        np.where(ORACLE > 0, np.float32(lowest), np.float32(0)),
        np.where(ORACLE > 0, np.finfo("d").min, 0.0),
    )
    assert verdict(trace(only_hidden), only_hidden, wide).verdict == "pass"
    assert verdict(trace(only_hidden[::-1].copy()), only_hidden, wide).verdict == "diverged", "as many, elsewhere"


def test_a_step_declared_exact_must_be_equal_to_the_last_bit() -> None:
    next_to = np.nextafter(REFERENCE, np.float32(9))
    for exact, found in ((True, "diverged"), (False, "pass")):
        case = Case(steps=(Step("layer", "", {}, exact=exact),))
        stage = replace(STAGE, component=None, cases=lambda config, case=case: {"base": case})
        rows = judge(Results(), WHERE, stage, trace(REFERENCE), trace(ORACLE, dtype="float64"), trace(next_to))
        assert rows[0].verdict == found


def test_exit_codes() -> None:
    row = Row("layer", **WHERE, call=0, order=0, dtype="float32")
    whole, holed = WHOLE, Coverage("toy", "any", 2, 1, 1, 1, 4, 4)
    assert Results([row], [whole]).exit_code() == EXIT_OK
    assert Results([], [whole]).exit_code() == EXIT_INCOMPLETE
    assert Results([row], [holed]).exit_code() == EXIT_INCOMPLETE
    assert Results([row], [whole], unseen=["toy tap"]).exit_code() == EXIT_INCOMPLETE
    for name, code in (("diverged", 1), ("invalid", 1), ("missing", 3), ("inconclusive", EXIT_INCONCLUSIVE)):
        bad = Row("layer", **WHERE, call=0, order=0, dtype="float32", verdict=name)
        assert Results([row, bad], [whole]).exit_code() == code
    assert EXIT_DIVERGED == 1


@pytest.mark.parametrize("config", ["tiny-2.0", "tiny-2.3"])
def test_tapped_and_untapped_runs_of_ours_are_equal(config: str, checkpoints: Path) -> None:
    r, stage = Runner(), stages()["transformer"]
    paths = r.paths(stage, config)
    ours = r.ours(paths, "float32")
    for case in list(stage.cases(read(paths[stage.main]).config).values())[:3]:
        plain = execute(r.mlx, stage, ours, case, "float32", "float32", None)
        tapped = execute(r.mlx, stage, ours, case, "float32", "float32", Session(r.mlx))
        for a, b in zip(plain, tapped, strict=True):
            assert (a is None and b is None) or mx.allclose(a, b, rtol=1e-5, atol=1e-6)
    assert type(ours["transformer"]).__mro__[1].__name__ != "LTXModel", "the classes are back in place"


CELL = ("transformer", "tiny-2.3-video-only")


@pytest.fixture(scope="module")
def judged(checkpoints: Path) -> Results:
    """One cell in lanes A and C, without its longest case, which takes as long as all others."""
    stage = stages()[CELL[0]]
    short = replace(stage, cases=lambda config: {k: case for k, case in stage.cases(config).items() if k != "long"})
    return Runner().run([(short, CELL[1])], "AC")


def test_half_precision_is_judged_in_its_own_lane_and_counts_as_nothing_else(checkpoints: Path) -> None:
    results = Runner().run([(stages()["upsampler"], "tiny-2.3-upsampler-x1.5")], "B")
    assert {row.lane for row in results.rows} == {"B"} and results.exit_code() == EXIT_OK
    dtypes = {row.case.partition("@")[2] for row in results.rows}
    assert dtypes and dtypes <= {"bfloat16", "float16"}
    assert {row.dtype for row in results.rows} >= dtypes


def test_a_reference_that_does_not_repeat_itself_is_inconclusive(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def restless(*arguments: object) -> object:
        result, session = execute(*arguments), arguments[-1]
        return result if session else tuple(x if x is None else x * 1.0000001 for x in result)

    monkeypatch.setattr("parity.run.live.execute", restless)
    results = Results()
    judge_recording(Runner().recording(stages()[CELL[0]], CELL[1], "A", "base"), results)
    assert results.rows and all(row.verdict == "inconclusive" for row in results.rows)
    assert results.exit_code() == EXIT_INCONCLUSIVE


def test_an_exception_in_ours_is_named_where_it_was_raised(checkpoints: Path) -> None:
    r, stage = Runner(), stages()["transformer"]
    pair = r.load(stage, "tiny-2.3-video-only", "float32")
    recorded = r.record(pair, stage.cases(pair.config)["base"])
    old = "    q, k, v = (x.reshape(B, -1, heads, inner // heads).swapaxes(1, 2) for x in (q, k, v))\n"
    fault = Fault("X", "raises", "nn/attention.py", old, '    raise ValueError("no such head")\n', "")
    with planted(fault):
        trace = r.replay(recorded, r.ours(pair.paths, "float32"))
    rows = judge(Results(), WHERE, stage, recorded.trace, recorded.oracle, trace)
    first = next(row for row in rows if row.verdict != "pass")
    assert (first.name, first.verdict) == ("transformer_blocks.0.attn1.attention_function", "invalid")
    assert "ValueError: no such head" in first.why
    assert any(row.verdict == "missing" for row in rows)


def test_a_fault_on_the_references_side_is_blamed_on_it(checkpoints: Path, tmp_path: Path) -> None:
    run, tap = Runner(), "transformer_blocks.1.attn1.to_q"
    pair = run.load(stages()["transformer"], "tiny-2.3-video-only", "float32")
    dict(pair.reference["transformer"].named_modules())[tap].weight.data *= 1.01  # the oracle was copied before
    recorded = run.record(pair, pair.stage.cases(pair.config)["base"], repeat=False)
    results = Results(environment={"machine": "here"})
    where = {"stage": "transformer", "config": "tiny-2.3-video-only", "case": "base", "lane": "A"}
    rows = judge(results, where, pair.stage, recorded.trace, recorded.oracle, run.replay(recorded))
    failed = [row for row in rows if row.verdict != "pass"]
    assert {row.name.partition(":")[0] for row in failed} == {tap}
    assert failed[0].further == "the reference" and "the reference is wrong here" in failed[0].why
    terminal.show(results, [])
    results.stages = manifest([(pair.stage, "tiny-2.3-video-only")])
    results.environment = environment("cpu")
    results.write(tmp_path / "results.json")
    html = next(path for path in render(tmp_path / "results.json") if path.suffix == ".html").read_text()
    assert "Further from the float64 oracle" in html and "the reference is wrong here" in html
    ours = judge(results, WHERE, STAGE, trace(REFERENCE), trace(ORACLE), trace(REFERENCE * np.float32(1.01)))
    assert ours[0].further == "ours"


def test_a_tap_that_no_case_reaches_is_a_hole(judged: Results) -> None:
    cells = [(stages()[CELL[0]], CELL[1])]
    assert unseen(judged, cells) == []
    rows = [row for row in judged.rows if "apply_rotary_emb" not in row.name]
    assert unseen(replace(judged, rows=rows), cells) == ["transformer apply_rotary_emb"]


def test_coverage_counts_what_was_compared_and_what_moved() -> None:
    inventory = Inventory(["a", "b"], {"a.weight": 4, "b.weight": 2, "b.bias": 2})
    found = coverage_of(STAGE, "any", inventory, {"a"}, {"a.weight": 1.0, "b.weight": 0.5})
    assert found == Coverage("toy", "any", 2, 1, 3, 2, 8, 5, ["b", "b.bias"]) and not found.whole


def test_command_line_writes_a_report_and_names_a_fault(
    judged: Results,
    in_this_process: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cell is judged by the fixture; all that surrounds it is the command's."""
    path = tmp_path / "results.json"
    monkeypatch.setattr(Live, "judged", lambda live, name, config: copy.deepcopy(judged))
    arguments = [
        "run",
        "--stage",
        "transformer",
        "--config",
        "tiny-2.3-video-only",
        "--lane",
        "A,C",
        "--json",
        str(path),
    ]
    assert main(arguments) == EXIT_OK
    document = json.loads(path.read_text())
    assert document["schema"] == "ltx2-parity/2"
    assert document["summary"]["verdicts"]["pass"] == len(document["taps"]) > 1000
    assert document["summary"]["first_divergence"] is None
    wanted = "name stage config case lane call shape dtype pearson cosine std_ref std_mlx std_ratio slope offset rel_l2"
    wanted += " rel_l2_reference ratio max_abs needed_k verdict"
    assert all(set(wanted.split()) <= set(row) for row in document["taps"])
    assert main(["report", "--plots", str(path)]) == EXIT_OK
    assert (tmp_path / "transformer-tiny-2.3-video-only.png").stat().st_size > 10_000
    out = capsys.readouterr().out
    assert "worst lane-A ratio" in out and "53/53 leaf modules" in out and "77/77 parameters" in out


def test_summary_goes_between_the_markers_and_names_a_failure(tmp_path: Path) -> None:
    results = Results(environment={"machine": "here", "device": "cpu"})
    judge(results, WHERE, STAGE, trace(REFERENCE), trace(ORACLE), trace(REFERENCE * np.float32(1.01)))
    results.write(tmp_path / "results.json")
    before = "before\n<!-- parity: start -->\nold\n<!-- parity: end -->\nafter\n"
    document = json.loads((tmp_path / "results.json").read_text())
    text = readme.insert(before, "parity", summary.markdown(document, by_config=False))
    assert "| toy | any |" in summary.markdown(document)
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "**1 not passed**" in text and "First divergence: `toy any base A layer`: diverged" in text


def test_documents_show_every_cell_and_no_failure() -> None:
    folders = ("", "faults", "debug")
    text = "\n".join((Path(__file__).parents[1] / folder / "README.md").read_text() for folder in folders)
    shown = text.partition("<!-- parity: start -->")[2].partition("<!-- parity: end -->")[0]
    for stage in stages().values():
        beside = "" if stage.reference == "ltx-core" else f" (beside {stage.reference})"
        assert f"| {stage.name}{beside} | {len(stage.configs)} |" in shown, "run: make readme"
    for name in pipelines():
        assert f"| {name.removeprefix('pipelines.')} |" in shown, "run: make readme"
    assert "not passed" not in shown and "Everything passes." in shown
    assert symptoms.markdown() in text, "run: make readme"
    assert " 0 false alarms over clean runs" in text.replace("\n", " ") and text.count("not noticed |") == 0


def test_reports_show_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = Results(environment={"machine": "here"})
    ours, reference = trace(REFERENCE * np.float32(1.01), "blocks.0.ff"), trace(REFERENCE, "blocks.0.ff")
    judge(results, WHERE, STAGE, reference, trace(ORACLE, "blocks.0.ff"), ours)
    results.write(tmp_path / "results.json")
    terminal.show(results, plots.by_depth(json.loads((tmp_path / "results.json").read_text()), tmp_path))
    out = capsys.readouterr().out
    assert "first divergence: toy any base A blocks.0.ff: diverged" in out
    assert (tmp_path / "toy-any.png").exists()


@pytest.mark.parametrize(
    "arguments",
    [["--lane", "D"], ["--lane", ""], ["--stage", "nothing"], ["--config", "huge"], ["--json", "/proc/x/y.json"]],
)
def test_usage_errors_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *arguments]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_checkpoint_of_ones_own_is_run(
    in_this_process: None, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every stage of what it holds; here with the first case of each."""
    matching = Runner.matching
    monkeypatch.setattr(Runner, "matching", lambda *arguments: [next(iter(matching(*arguments)))])
    monkeypatch.setattr("parity.run.replay.coverage_of", lambda stage, config, *rest: WHOLE)
    own = tmp_path / "mine.safetensors"
    own.write_bytes((checkpoints / "tiny-2.3-video-only.safetensors").read_bytes())
    assert main(["run", "--checkpoint", str(own), "--lane", "A", "--json", str(tmp_path / "r.json")]) == EXIT_OK
    rows = json.loads((tmp_path / "r.json").read_text())["taps"]
    assert {(row["stage"], row["config"]) for row in rows} == {("transformer", "mine"), ("transformer_fp8", "mine")}


def test_list_names_every_stage(checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == EXIT_OK
    out = capsys.readouterr().out
    for stage in stages().values():
        assert stage.name in out
        assert all(config in out for config in stage.configs)
