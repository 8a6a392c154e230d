"""Ways to a green that should not be, each tried. The table in ``parity/README.md`` has a row for each ``@way``."""

from __future__ import annotations

import json
import os
import py_compile
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any
from xml.etree import ElementTree

import mlx.core as mx
import numpy as np
import pytest

from ltx2_mlx.errors import CheckpointError, InputError
from parity.cli import main
from parity.declare.model import Case, Stage
from parity.judge import tolerance
from parity.judge.baseline import BASELINE, read_run
from parity.judge.documents import RUNNING, TapRecord
from parity.judge.results import (
    EXIT_DIVERGED,
    EXIT_INCOMPLETE,
    EXIT_INCONCLUSIVE,
    EXIT_OK,
    EXIT_USAGE,
    ORIGIN,
    Coverage,
    Item,
    PipelineRow,
    Results,
    Row,
)
from parity.judge.verdicts import judge
from parity.report import junit
from parity.report.render import render, replacing
from parity.run import pipelines as pipeline_runs
from parity.run.environment import ROOT, _package, code_digest, environment
from parity.run.loop import Live
from parity.run.recorded import Inventory, Recorded, Recording
from parity.run.replay import judge_recording
from parity.run.resume import CellResult, Cells
from parity.run.sources import edited, require_fresh
from parity.run.tracefile import LAYOUT, _seal
from parity.run.tracefile import SCHEMA as TRACE_SCHEMA
from parity.sides.pair import Pair
from parity.tap.trace import Call, Tensor, Trace
from parity.tap.watch import Watched
from parity.tests import asleep

WAYS: list[str] = []


def way(text: str) -> Callable[[Any], Any]:
    """The test of a row of the table: its first column."""
    WAYS.append(text)
    return lambda test: test


def test_the_table_has_a_row_for_each_way_and_no_other() -> None:
    document = (ROOT / "parity" / "README.md").read_text()
    section = document.partition("### Ways to a green that should not be\n")[2].partition("\n#")[0]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", section, re.MULTILINE)[1:]
    assert [row[0] for row in rows] == WAYS


# ---- what is chosen --------------------------------------------------------------------------------------------------


def run(tmp_path: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """``parity run`` into ``tmp_path``: its exit code and results.json."""
    path = tmp_path / "results.json"
    code = main(["run", *more, "--device", "cpu", "--jobs", "1", "--json", str(path)])
    return code, json.loads(path.read_text()) if path.exists() else {}


@way("a chosen cell of which nothing is judged")
def test_a_chosen_cell_of_which_nothing_is_judged(
    in_this_process: None,
    checkpoints: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    judged = Live.judged
    monkeypatch.setattr(Live, "judged", lambda s, n, c: Results() if n == "tokenizer" else judged(s, n, c))
    code, found = run(tmp_path, "--stage", "[pt][ao][tk]*", "--lane", "A")  # patchifiers and tokenizer
    assert code == found["summary"]["exit_code"] == EXIT_INCOMPLETE
    said = "tokenizer any: nothing of it is judged in the chosen lanes"
    assert found["summary"]["silent"] == [said]
    pages = [(tmp_path / name).read_text() for name in ("report.html", "junit.xml")]
    assert all(said in page for page in (*pages, capsys.readouterr().out))


@way("a lane, asked for by name, in which nothing is judged")
def test_a_lane_in_which_nothing_is_judged(in_this_process: None, checkpoints: Path, tmp_path: Path) -> None:
    code, found = run(tmp_path, "--stage", "patchifiers", "--lane", "C")
    assert code == EXIT_INCOMPLETE and len(found["summary"]["silent"]) == 2
    code, found = run(tmp_path, "--stage", "patchifiers", "--lane", "A,C")
    assert (code, found["summary"]["silent"]) == (EXIT_INCOMPLETE, ["lane C: nothing is judged in it"])
    assert run(tmp_path, "--stage", "patchifiers")[0] == EXIT_OK, "all lanes that there are"


@way("a case of which nothing is judged")
def test_a_case_of_which_nothing_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.run.replay.replay", lambda mlx, recorded: recorded.trace)
    cases = [recorded("full", trace(REFERENCE), trace(ORACLE)), recorded("empty", Trace(), Trace())]
    results = Results()
    judge_recording(Recording(STAGE, "any", None, cases), results)
    assert results.silent == ["toy any empty: nothing of this case is judged"]
    assert results.exit_code() == EXIT_INCOMPLETE


@way("a glob of stages, one of which lacks the config")
def test_a_stage_that_lacks_the_config(checkpoints: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(tmp_path, "--stage", "transformer*", "--config", "tiny-2.0")[0] == EXIT_USAGE
    assert one_line(capsys).endswith("names transformer_25, which has no config 'tiny-2.0'")


@way("a trace without a cell")
def test_a_trace_without_a_cell(in_this_process: None, checkpoints: Path, tmp_path: Path) -> None:
    manifest: dict[str, Any] = {
        "schema": TRACE_SCHEMA,
        "layout": LAYOUT,
        "versions": {},
        "checkpoints": [],
        "cells": [],
        "seed": 0,
    }
    path, out = tmp_path / "trace.json", tmp_path / "results.json"
    path.write_text(json.dumps(manifest | {"sha256": _seal(manifest)}))
    assert main(["check", str(path), "--device", "cpu", "--json", str(out)]) == EXIT_INCOMPLETE
    assert json.loads(out.read_text())["summary"]["silent"] == ["no cell at all"]


@way("a trace in which a cell has no case")
def test_a_trace_without_a_case(tmp_path: Path, checkpoints: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.json"
    assert main(["record", "--out", str(path), "patchifiers", "--lane", "B"]) == EXIT_USAGE
    assert one_line(capsys).endswith("there is nothing to record of patchifiers any in these lanes")
    assert not path.exists()


@way("a component without a module to cover")
def test_a_component_without_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.run.replay.replay", lambda mlx, recorded: recorded.trace)
    results = Results()
    inventory = Inventory([], {})
    judge_recording(Recording(STAGE, "any", inventory, [recorded("a", trace(REFERENCE), trace(ORACLE))]), results)
    assert len(results.coverage) == 1 and results.exit_code() == EXIT_INCOMPLETE


@way("a pipeline of which no item is compared")
def test_a_pipeline_without_items(tmp_path: Path) -> None:
    row = pipeline_runs.judge(PipelineRow("pipelines.distilled", "tiny-2.0", "float32"), Watched(), Watched())
    assert (row.verdict, row.details[0].verdict) == ("invalid", "invalid")
    path = document(tmp_path / "a.json", lambda found: found["pipelines"][0].update(details=[]))
    assert main(["accept", str(path)]) == EXIT_USAGE


@way("a flag that cannot be obeyed")
@pytest.mark.parametrize(
    "words", [["--device", "gpu"], ["--json", "."], ["--json", "/proc/x/y.json"], ["--lane", ""], ["--config", "no"]]
)
@pytest.mark.parametrize("verb", ["run", "check"])
def test_a_flag_that_cannot_be_obeyed(
    verb: str, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mx, "is_available", lambda device: device == mx.cpu)
    monkeypatch.setattr("parity.run.tracefile.open_trace", lambda *arguments: None)
    if verb == "check" and words[0] in ("--lane", "--config"):
        with pytest.raises(SystemExit, match="2"):
            main([verb, "trace.json", *words])
        return
    assert main([verb, *(["trace.json"] if verb == "check" else []), *words]) == EXIT_USAGE
    assert (words[1] or "no lane ''") in one_line(capsys)


# ---- what a failed run leaves ----------------------------------------------------------------------------------------


def green(folder: Path) -> Path:
    """A green run's results.json with its pages."""
    path = document(folder / "results.json")
    render(path)
    return path


def is_no_result(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No reader takes it for a result, and every page says so."""
    for verb in ("accept", "diff", "report", "explain", "bisect"):
        flags = ["--results", str(path)] if verb in ("explain", "bisect") else [str(path)]
        capsys.readouterr()
        assert main([verb, *flags]) == EXIT_USAGE, verb
        assert "no results: the run" in one_line(capsys)
    assert main(["tables", str(path), "none", "none"]) == EXIT_USAGE
    suites = ElementTree.parse(path.parent / "junit.xml").getroot()
    assert (suites.get("tests"), suites.get("failures")) == ("1", "1")
    for name in ("report.html", "summary.md"):
        text = (path.parent / name).read_text()
        assert "No results" in text and "pass" not in text


@way("the green results and pages of the run before, after one that failed")
def test_a_failed_run_replaces_the_one_before(
    in_this_process: None,
    checkpoints: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fault(source: Live, name: str, config: str) -> Results:
        raise CheckpointError("tensor x is missing")

    path = green(tmp_path)
    monkeypatch.setattr(Live, "judged", fault)
    code, found = run(tmp_path, "--stage", "patchifiers", "--lane", "A")
    assert (code, found["state"]) == (EXIT_INCOMPLETE, "failed")
    assert one_line(capsys).endswith("the run failed at patchifiers any: CheckpointError: tensor x is missing")
    is_no_result(path, capsys)


@way("the same, after a crash of the harness or Ctrl-C")
@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_a_crash_replaces_the_one_before(
    error: BaseException, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = green(tmp_path)
    with pytest.raises(type(error)), replacing(path):
        raise error
    is_no_result(path, capsys)


@way("the same, while a run lasts or after it was killed")
def test_a_killed_run_leaves_no_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = green(tmp_path)
    script = "import sys, time, pathlib; from parity.report.render import replacing\n"
    script += "with replacing(pathlib.Path(sys.argv[1])): print('in it', flush=True); time.sleep(60)"
    process = python("-c", script, str(path))
    assert process.stdout is not None and process.stdout.readline() == "in it\n"
    process.kill()
    process.wait()
    assert json.loads(path.read_text())["state"] == RUNNING
    is_no_result(path, capsys)


@way("the same, after the disk was full")
def test_a_full_disk_leaves_no_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = green(tmp_path)
    script = "import resource, signal, sys, pathlib; from parity.report.render import replacing\n"
    script += "from parity.judge.results import Results\n"
    script += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))\n"
    script += "with replacing(pathlib.Path(sys.argv[1])): Results(unseen=['x' * 2000]).write(pathlib.Path(sys.argv[1]))"
    process = python("-c", script, str(path))
    assert "cannot be written (File too large)" in process.communicate()[1]
    assert not list(tmp_path.glob("*.partial"))
    is_no_result(path, capsys)


@way("a worker that is killed")
def test_a_killed_worker_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoints: Path
) -> None:
    path = green(tmp_path)
    monkeypatch.setattr("parity.run.loop.judge_cell", asleep.die)
    assert run(tmp_path, "--stage", "patchifiers", "--lane", "A")[0] == EXIT_INCOMPLETE
    assert "patchifiers any: its process was killed by SIGKILL" in one_line(capsys)
    is_no_result(path, capsys)


@way("workers that outlive their run, and write into the next one's files")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_run(how: signal.Signals, tmp_path: Path) -> None:
    script = "import sys, pathlib; from parity.run.pool import spread; from parity.tests.asleep import doze\n"
    script += "if __name__ == '__main__': list(spread(doze, [pathlib.Path(sys.argv[1])] * 2, ['a', 'b'], 2))"
    (tmp_path / "run.py").write_text(script)
    (tmp_path / "pids").mkdir()
    process = python(str(tmp_path / "run.py"), str(tmp_path / "pids"), cwd=tmp_path)
    wait(lambda: len(list((tmp_path / "pids").iterdir())) == 2)
    process.send_signal(how)
    process.wait(20)
    workers = [int(file.name) for file in (tmp_path / "pids").iterdir()]
    wait(lambda: not any(alive(pid) for pid in workers))


def alive(pid: int) -> bool:
    """A process that has ended and that nobody has asked about yet is not."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(found) and not found.startswith("Z")


# ---- accepted and compared -------------------------------------------------------------------------------------------


def document(path: Path, change: Callable[[dict[str, Any]], object] = lambda found: None) -> Path:
    """A green results.json of one stage with coverage, one without, and one pipeline, ``change`` made to it."""
    rows = [
        Row(f"tap{i}", stage, config, "base", lane, 0, i, "float32", needed_k=1.0)
        for stage, config in (("transformer", "tiny-2.0"), ("patchifiers", "any"))
        for lane in ("AC" if stage == "transformer" else "A")
        for i in range(3)
    ]
    item = Item("video_latent.000.out", 1e-5, 5e-5)
    results = Results(rows, [Coverage("transformer", "tiny-2.0", 2, 2, 3, 3, 9, 9)], code=code_digest(), origin=ORIGIN)
    results.pipelines = [
        PipelineRow("pipelines.distilled", "tiny-2.0", "float32", details=[item, Item("argument.seed")])
    ]
    results.environment = {"machine": "here", "device": "cpu"}
    results.write(path)
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    return path


def tap(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda found: found["taps"][0].update(changes)


def summary(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda found: found["summary"].update(changes)


def red(found: dict[str, Any]) -> None:
    """A failing row, and a summary that tells of it."""
    found["taps"][0].update(verdict="diverged", needed_k=9.0)
    found["summary"]["verdicts"].update({"pass": 9, "diverged": 1})
    found["summary"]["exit_code"] = EXIT_DIVERGED


def nothing(found: dict[str, Any]) -> None:
    found["taps"], found["pipelines"], found["summary"]["coverage"] = [], [], []
    found["summary"] |= {"taps": 0, "pipelines": 0, "exit_code": EXIT_INCOMPLETE}
    found["summary"]["verdicts"]["pass"] = 0


def hole(found: dict[str, Any]) -> None:
    found["summary"]["coverage"][0].update(leaves_compared=1, uncovered=["proj_out"])
    found["summary"]["exit_code"] = EXIT_INCOMPLETE


def twice(found: dict[str, Any]) -> None:
    found["pipelines"] *= 2
    found["summary"]["pipelines"], found["summary"]["verdicts"]["pass"] = 2, 11


def refused(path: Path, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Not accepted, with one line, and the baseline is as it was."""
    before = BASELINE.read_bytes() if BASELINE.exists() else None
    capsys.readouterr()
    assert main(["accept", str(path)]) == EXIT_USAGE
    line = one_line(capsys)
    assert str(path) in line and said in line
    assert (BASELINE.read_bytes() if BASELINE.exists() else None) == before


MALFORMED = {
    "no summary": (lambda found: found.pop("summary"), "'summary'"),
    "no taps": (lambda found: found.pop("taps"), "'taps'"),
    "NaN": (tap(needed_k=float("nan")), "invalid"),
    "negative": (tap(needed_k=-1.0), "needed_k"),
    "text for a number": (tap(needed_k="1.0"), "needed_k"),
    "no verdict": (lambda found: found["taps"][0].pop("verdict"), "verdict"),
    "unknown verdict": (tap(verdict="fine"), "verdict"),
    "unknown lane": (tap(lane="D"), "lane"),
    "unknown verdict of an item": (lambda found: found["pipelines"][0]["details"][0].__setitem__(3, "ok"), "details"),
    "another schema": (lambda found: found.update(schema="ltx2-parity/1"), "schema"),
    "a list": (lambda found: found.update(summary=[]), "summary"),
    "a summary of other rows": (summary(taps=3), "taps"),
    "counts of other rows": (lambda found: found["summary"]["verdicts"].update({"pass": 12}), "verdicts"),
    "a failing row, summed up as green": (tap(verdict="diverged"), "changed since it was written"),
    "a failing item, summed up as green": (
        lambda found: found["pipelines"][0]["details"][0].__setitem__(3, "diverged"),
        "changed since it was written",
    ),
    "zero coverage, summed up as green": (
        lambda found: found["summary"]["coverage"][0].update(leaves=0, leaves_compared=0),
        "exit_code",
    ),
    "what was unseen, summed up as green": (summary(unseen=["transformer apply_rotary_emb"]), "exit_code"),
}


@way("a results.json of another shape, cut, or changed by hand, accepted or compared")
@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    change, said = MALFORMED[name]
    whole, path = document(tmp_path / "whole.json"), document(tmp_path / "results.json", change)
    refused(path, said, capsys)
    for runs in ((path, path), (whole, path), (path, whole)):
        assert main(["diff", *map(str, runs)]) == EXIT_USAGE
        assert said in one_line(capsys)


@way("a file that is empty or no JSON, accepted or compared")
@pytest.mark.parametrize("text", ["", "{}", "[]", "not JSON", '{"schema": "ltx2-parity/2", "state": "finished"'])
def test_no_file_at_all_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path, whole = tmp_path / "results.json", document(tmp_path / "whole.json")
    path.write_text(text)
    refused(path, "results.json", capsys)
    assert main(["diff", str(whole), str(path)]) == EXIT_USAGE
    BASELINE.parent.mkdir()
    BASELINE.write_text(text)
    assert main(["diff", str(whole)]) == EXIT_USAGE
    capsys.readouterr()
    assert main(["accept", str(whole)]) == EXIT_USAGE, "nor is it replaced unseen"
    assert BASELINE.read_text() == text


NOT_GREEN = {
    "a failing row": (red, "its exit code is 1"),
    "nothing judged": (nothing, "its exit code is 3"),
    "what was not covered": (hole, "its exit code is 3"),
    "no coverage of a component": (lambda found: found["summary"].update(coverage=[]), "no coverage"),
    "a pass without a ratio": (tap(needed_k=None), "passes with a ratio of None"),
    "a pass beyond what is allowed": (tap(needed_k=4.0), "passes with a ratio of 4"),
    "a pass of an item beyond its limit": (
        lambda found: found["pipelines"][0]["details"][0].__setitem__(1, 1.0),
        "beyond its limit",
    ),
    "wider limits": (lambda found: found["allowed"].update(A=30.0), "it allows the ratios"),
    "a pipeline twice": (twice, "is in it twice"),
    "a stage that there is not": (tap(stage="toy"), "no such stage"),
    "a pipeline that there is not": (lambda found: found["pipelines"][0].update(pipeline="x"), "no pipeline x"),
}


@way("a run that is not green, or says so without the numbers for it, accepted")
@pytest.mark.parametrize("name", NOT_GREEN)
def test_what_is_not_green_is_not_accepted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["accept", str(document(tmp_path / "whole.json"))]) == EXIT_OK
    change, said = NOT_GREEN[name]
    refused(document(tmp_path / "results.json", change), said, capsys)


@way("a run of other code, another seed, another checkpoint or a trace, accepted")
@pytest.mark.parametrize("change", [{"code": "0"}, *({"origin": ORIGIN | {key: "7"}} for key in ORIGIN)])
def test_a_run_of_something_else_is_not_accepted(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(document(tmp_path / "results.json", lambda found: found.update(change)), "not accepted", capsys)


@way("a run of a part in the place of the whole baseline")
def test_a_part_takes_the_place_of_a_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["accept", str(document(tmp_path / "whole.json"))]) == EXIT_OK
    before = read_run(BASELINE)

    def part(found: dict[str, Any]) -> None:
        found["taps"] = [row | {"needed_k": 2.0} for row in found["taps"] if row["stage"] == "patchifiers"]
        found["pipelines"], found["summary"]["coverage"], found["environment"]["device"] = [], [], "gpu"
        found["summary"] |= {"taps": 3, "pipelines": 0}
        found["summary"]["verdicts"]["pass"] = 3

    assert main(["accept", str(document(tmp_path / "part.json", part))]) == EXIT_OK
    assert "1 cells of this run, 3 others kept as they were" in capsys.readouterr().out
    after, ran = read_run(BASELINE), ("patchifiers", "any", "A")
    assert after.taps.keys() == before.taps.keys() and after.taps[*ran, "tap0"].ratio == 2.0
    assert {cell: e["device"] for cell, e in after.environments.items()} == {
        cell: "gpu" if cell == ran else "cpu" for cell in before.cells
    }
    assert main(["diff", str(tmp_path / "whole.json")]) == EXIT_OK
    assert "1 cells ran on another machine" in " ".join(capsys.readouterr().out.split())


@way("a regression of a pipeline or of coverage that a comparison overlooks")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda found: found["pipelines"][0]["details"][0].__setitem__(1, 4e-5), "video_latent.000.out"),
        (lambda found: found["pipelines"][0]["details"][0].__setitem__(0, "other"), "video_latent.000.out"),
        (hole, "proj_out is not compared"),
        (lambda found: found["summary"].update(coverage=[]), "transformer tiny-2.0: no coverage"),
        (summary(unseen=["transformer x"], exit_code=3), "transformer x: no case reaches it"),
        (summary(silent=["lane B: nothing"], exit_code=3), "lane B: nothing"),
    ],
)
def test_a_regression_outside_the_taps(
    change: Callable[[dict[str, Any]], object], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = document(tmp_path / "a.json"), document(tmp_path / "b.json", change)
    assert main(["diff", str(a), str(b)]) == EXIT_DIVERGED
    out = " ".join(capsys.readouterr().out.split())
    assert "Regression" in out and said in out
    assert main(["diff", str(a), str(a)]) == EXIT_OK


@way("two runs without a cell in common, compared")
def test_runs_without_a_common_cell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = document(tmp_path / "a.json", lambda found: keep(found, "transformer"))
    b = document(tmp_path / "b.json", lambda found: keep(found, "patchifiers"))
    assert main(["diff", str(a), str(b)]) == EXIT_USAGE
    assert "nothing to compare" in one_line(capsys)


def keep(found: dict[str, Any], stage: str) -> None:
    found["taps"] = [row for row in found["taps"] if row["stage"] == stage]
    found["pipelines"], n = [], len(found["taps"])
    found["summary"] |= {"taps": n, "pipelines": 0}
    found["summary"]["verdicts"]["pass"] = n


# ---- kept cells, and the environment ---------------------------------------------------------------------------------


@way("a kept cell that was changed, cut, emptied or moved, resumed from")
def test_a_changed_cell_is_not_resumed_from(tmp_path: Path) -> None:
    cells, row = Cells(tmp_path, "key"), Row("tap", "toy", "any", "base", "A", 0, 0, "float32", verdict="diverged")
    cells.save("toy", "any", CellResult(Results([row]), 0.5))
    (file,) = tmp_path.glob("*.json")
    text = file.read_text()
    kept = cells.load("toy", "any")
    assert kept is not None and kept.results.rows == [row]
    digest, _, content = text.partition("\n")
    for other in ("", "{}", text[:-9], text.replace("diverged", "pass"), content, f"{digest}\n{{}}"):
        file.write_text(other)
        assert cells.load("toy", "any") is None, other
    (tmp_path / "toy.other.json").write_text(text)
    assert cells.load("toy", "other") is None
    cells.save("toy", "any", CellResult(Results(carried=3), 0.5))
    assert cells.load("toy", "any") is None, "a cell of which nothing was judged"


@way("cells of other code, of an edited reference, of other libraries, settings or bytes, resumed from")
def test_the_key_of_a_kept_cell() -> None:
    """In detail: ``test_resume.py``. Here: the source of this very checkout is hashed, wherever it lies."""
    script = "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
    script += "from parity.run.environment import ROOT, code_digest; print(ROOT, code_digest())"
    folder = ROOT / "parity"
    assert any(file.suffix == ".py" for file in folder.iterdir())
    first = python("-c", script, str(ROOT)).communicate()[0].split()
    assert first == [str(ROOT), code_digest()]


@way("another copy of ltx2_mlx, judged because PYTHONPATH names it")
def test_another_copy_of_the_product_is_named(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "ltx2_mlx", tmp_path / "ltx2_mlx", ignore=shutil.ignore_patterns("__pycache__"))
    script = "from parity.run.environment import environment; print(environment('cpu').get('ltx2_mlx', 'the same'))"
    assert python("-c", script, cwd=tmp_path).communicate()[0].strip() == str((tmp_path / "ltx2_mlx").resolve())
    assert python("-c", script, cwd=ROOT).communicate()[0].strip() == "the same"


@way("compiled files that are not what the sources say now")
def test_a_compiled_file_that_is_not_its_source(tmp_path: Path) -> None:
    source = tmp_path / "a.py"
    source.write_text("X = 1")
    for mode in PycInvalidationMode:
        compiled = Path(py_compile.compile(str(source), doraise=True, invalidation_mode=mode) or "")
        require_fresh(tmp_path)
        then = source.stat()
        source.write_text("X = 2")
        os.utime(source, ns=(then.st_atime_ns, then.st_mtime_ns))
        if mode is PycInvalidationMode.CHECKED_HASH:
            require_fresh(tmp_path)  # Python does not run it
        else:
            with pytest.raises(InputError, match=r"not what a\.py says now; remove it"):
                require_fresh(tmp_path)
            compiled.write_bytes(compiled.read_bytes()[:20])
            with pytest.raises(InputError, match="remove it"):
                require_fresh(tmp_path)
        compiled.unlink()
        source.write_text("X = 1")


@way("a reference that was edited where it is installed, or another copy of it")
def test_an_edited_reference_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _package("ltx_core")
    assert folder and edited("ltx_core", "ltx-core", folder) == ""
    shutil.copytree(folder, tmp_path / "ltx_core")
    assert edited("ltx_core", "ltx-core", tmp_path / "ltx_core") == str(tmp_path / "ltx_core")
    monkeypatch.setattr("importlib.metadata.PathDistribution.locate_file", lambda self, path: tmp_path / path)
    (tmp_path / "ltx_core" / "types.py").write_text("")
    assert edited("ltx_core", "ltx-core", tmp_path / "ltx_core") == "edited: ltx_core/types.py"
    monkeypatch.setattr("parity.run.environment._package", lambda name: tmp_path / name)
    assert environment("cpu")["ltx_core"] == "edited: ltx_core/types.py"


@way("TF32 in the environment, which hides faults on a GPU")
def test_tf32_is_off_whatever_the_environment_says() -> None:
    script = "import os, parity; print(os.environ['MLX_ENABLE_TF32'])"
    assert python("-c", script, MLX_ENABLE_TF32="1").communicate()[0] == "0\n"


@way("assertions, stripped by python -O")
def test_no_verdict_rests_on_an_assertion() -> None:
    files = [
        file
        for name in ("judge", "run", "commands", "tap", "declare")
        for file in (ROOT / "parity" / name).rglob("*.py")
    ]
    assert [file for file in files if re.search(r"^\s*assert\b", file.read_text(), re.MULTILINE)] == []


# ---- numbers ---------------------------------------------------------------------------------------------------------

STAGE = Stage(
    "toy",
    "toy",
    lambda config: {"base": Case()},
    {},
    ("any",),
    constant={"flat": "on purpose"},
    angles={"phase.1": "0"},
)
WHERE = {"stage": "toy", "config": "any", "case": "base", "lane": "A"}
ORACLE = np.random.default_rng(1).standard_normal((5, 7))
REFERENCE = ORACLE.astype(np.float32)
RUBBISH = np.random.default_rng(2).standard_normal((5, 7)).astype(np.float32)


def trace(values: np.ndarray, dtype: str = "float32", tap: str = "layer") -> Trace:
    return Trace({(tap, 0): Call(tap, 0, {}, {"": Tensor(values, dtype)})}, [("in", tap, 0), ("out", tap, 0)])


def recorded(name: str, reference: Trace, oracle: Trace) -> Recorded:
    return Recorded(Pair(STAGE, {}, {}, "float32", {}, {}, {}), Case(), reference, oracle, True, name)


def row(ours: np.ndarray, reference: np.ndarray, oracle: np.ndarray, dtype: str = "float16", tap: str = "layer") -> Row:
    (found,) = judge(
        Results(), WHERE, STAGE, trace(reference, dtype, tap), trace(oracle, "float64", tap), trace(ours, dtype, tap)
    )
    return found


def at(values: np.ndarray, value: float, index: tuple[int, int] = (1, 2)) -> np.ndarray:
    changed = values.copy()
    changed[index] = value
    return changed


INF, NAN = float("inf"), float("nan")


@way("the reference overflows in half precision, and ours is rubbish")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rubbish_beside_an_infinite_reference(dtype: str) -> None:
    for ours in (RUBBISH, REFERENCE, at(RUBBISH, INF)):
        assert row(ours, at(REFERENCE, INF), ORACLE, dtype).verdict == "invalid"
        assert row(ours, np.full_like(REFERENCE, INF), ORACLE, dtype).verdict == "invalid"


@way("infinities in other places, or of another sign")
def test_infinities_are_in_the_same_places() -> None:
    reference, oracle = at(REFERENCE, INF), at(ORACLE, INF)
    assert row(at(REFERENCE, INF), reference, oracle).verdict == "pass"
    assert row(at(RUBBISH, INF), reference, oracle).verdict == "diverged", "the rest is judged"
    for ours in (REFERENCE, at(REFERENCE, -INF), at(REFERENCE, INF, (2, 2)), at(at(REFERENCE, INF), INF, (2, 2))):
        assert row(ours, reference, oracle).verdict == "invalid"
    everywhere = np.full_like(REFERENCE, -INF)
    assert row(everywhere, everywhere, everywhere.astype(np.float64)).verdict == "invalid"


def test_an_angle_is_a_direction_and_nothing_has_none() -> None:
    length = at(np.abs(RUBBISH) + 1, 0.0, (0, 0))

    def verdict(ours: np.ndarray, reference: np.ndarray, tap: str = "phase") -> str:
        results = [Tensor(length, "float32"), Tensor(length, "float32"), Tensor(length.astype(np.float64), "float64")]
        angles = [Tensor(ours, "float32"), Tensor(reference, "float32"), Tensor(ORACLE, "float64")]
        traces = [
            Trace({(tap, 0): Call(tap, 0, {}, {"0": first, "1": second})}, [("in", tap, 0), ("out", tap, 0)])
            for first, second in zip(results, angles, strict=True)
        ]
        return judge(Results(), WHERE, STAGE, traces[1], traces[2], traces[0])[1].verdict

    turned, nowhere = at(REFERENCE, ORACLE[1, 2] + 2 * np.pi), at(REFERENCE, 3.0, (0, 0))
    for ours, theirs in ((turned, REFERENCE), (REFERENCE, turned), (turned, turned), (nowhere, REFERENCE)):
        assert verdict(ours, theirs) == "pass"
        assert verdict(ours, theirs, "layer") != "pass"
    for off in (np.pi, 3 * np.pi, 1.0, 1e-3):
        assert verdict(at(REFERENCE, ORACLE[1, 2] + off), turned) == "diverged"


@way("NaN in the reference, in the oracle, or in a number that decides")
def test_nan_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    assert row(at(REFERENCE, NAN), at(REFERENCE, NAN), at(ORACLE, NAN)).verdict == "invalid"
    assert row(REFERENCE, at(REFERENCE, NAN), ORACLE).verdict == "invalid"
    assert row(REFERENCE, REFERENCE, at(ORACLE, NAN)).verdict == "invalid"
    assert row(REFERENCE, REFERENCE, ORACLE).verdict == "pass"
    from parity.judge import metrics

    compare = metrics.compare
    for name in ("rel_l2", "rel_l2_reference", "tail", "tail_reference", "p999", "p999_reference", "peak"):
        monkeypatch.setattr(metrics, "compare", lambda *arrays, name=name: compare(*arrays) | {name: NAN})
        assert row(REFERENCE, REFERENCE, ORACLE).verdict != "pass", name


@way("a reference so far from its oracle that rubbish is as near")
def test_a_blunt_reference_is_inconclusive() -> None:
    far = (ORACLE + 2 * tolerance.BLUNT * RUBBISH).astype(np.float32)
    near = (ORACLE + tolerance.BLUNT / 2 * RUBBISH).astype(np.float32)
    assert (row(far, far, ORACLE).verdict, row(near, near, ORACLE).verdict) == ("inconclusive", "pass")
    assert row(REFERENCE, far, ORACLE).verdict == "inconclusive"
    oracle = np.random.default_rng(3).standard_normal((400, 500))
    spike = at(oracle.astype(np.float32), 10.0)
    assert row(spike, spike, oracle).verdict == "inconclusive", "one element"
    assert Results([row(far, far, ORACLE)]).exit_code() == EXIT_INCONCLUSIVE


@way("a pipeline's reference so far from itself that rubbish is as near")
def test_a_blunt_pipeline_is_invalid() -> None:
    theirs, twin = watched(REFERENCE), watched((ORACLE + 0.2 * RUBBISH).astype(np.float32))
    found = pipeline_runs.judge(PipelineRow("p", "any", "bfloat16"), theirs, watched(np.zeros_like(REFERENCE)), twin)
    assert found.verdict == "invalid"


def watched(values: np.ndarray, name: str = "x") -> Watched:
    ends = {"frames": np.zeros((1, 2, 2, 3), np.uint8), "waveform": np.zeros((2, 3), np.float32)}
    return Watched({name: Tensor(values, "bfloat16")} | {key: Tensor(end, str(end.dtype)) for key, end in ends.items()})


@way("an oracle of zeros, beside which every error is small")
def test_zeros_are_matched_by_zeros() -> None:
    zeros, small = np.zeros_like(REFERENCE), np.full_like(REFERENCE, 1e-9)
    assert row(zeros, zeros, zeros.astype(np.float64), "float32", "flat").verdict == "pass"
    assert row(small, zeros, zeros.astype(np.float64), "float32", "flat").verdict == "diverged"
    assert pipeline_runs.relative(Tensor(small, "float32"), Tensor(zeros, "float32")) == INF


@way("an array without an element")
def test_an_empty_array_is_invalid() -> None:
    none = np.zeros((0, 7), np.float32)
    assert row(none, none, none.astype(np.float64)).verdict == "invalid"
    for name in ("waveform", "frames", "video_latent.000.out"):
        item = pipeline_runs._compare(name, Tensor(none, "float32"), Tensor(none, "float32"), 1e-4)
        assert item.verdict == "invalid"


@way("integers of another kind: counts beside truth values or float64")
def test_integers_are_of_the_same_kind() -> None:
    counts = np.arange(35).reshape(5, 7)
    for ours, theirs in (("int32", "bool"), ("bool", "int64"), ("int64", "float64"), ("float64", "int64")):
        (found,) = judge(Results(), WHERE, STAGE, trace(counts, theirs), trace(counts, theirs), trace(counts, ours))
        assert found.verdict == "invalid", (ours, theirs)
    (found,) = judge(Results(), WHERE, STAGE, trace(counts, "int64"), trace(counts, "int64"), trace(counts, "int32"))
    assert found.verdict == "pass"


# ---- pages -----------------------------------------------------------------------------------------------------------


@way("a page for CI without a test, or without a failure, of a run that is not green")
def test_the_page_for_ci_is_red_when_the_run_is(tmp_path: Path) -> None:
    for number, change in enumerate((nothing, hole, summary(silent=["x"], exit_code=3), red)):
        found = json.loads(document(tmp_path / f"{number}.json", change).read_text())
        suites = junit.tree(found)
        assert int(suites.get("tests", 0)) > 0 and int(suites.get("failures", 0)) > 0
    assert junit.tree(json.loads(document(tmp_path / "green.json").read_text())).get("failures") == "0"


@way("tables of the documents from results of other code")
def test_tables_are_of_this_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = document(tmp_path / "results.json", lambda found: found.update(code="0"))
    assert main(["tables", str(path), "none", "none"]) == EXIT_USAGE
    assert "made by other code" in one_line(capsys)


# ---- helpers ---------------------------------------------------------------------------------------------------------


def test_the_types_of_a_row_are_those_of_its_record(tmp_path: Path) -> None:
    record = json.loads(document(tmp_path / "results.json").read_text())["taps"][0]
    assert record.keys() | {"profile", "seed"} == TapRecord.__annotations__.keys()


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said on stderr, without the progress: one line."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line and not line.startswith("[")]
    assert len(lines) == 1, lines
    return lines[0]


def python(*words: str, cwd: Path | None = None, **variables: str) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return subprocess.Popen([sys.executable, *words], text=True, cwd=cwd, env=environment, **pipes)


def wait(condition: Callable[[], bool], seconds: float = 40.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
