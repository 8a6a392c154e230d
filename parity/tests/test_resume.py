"""A run that is killed goes on where it was, and reports the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from parity.cli import main
from parity.judge.device import calibrated
from parity.judge.results import EXIT_OK, ORIGIN, Results, Row, read_results
from parity.run import environment
from parity.run.calibration import measure
from parity.run.cells import select
from parity.run.environment import ROOT, code_digest, default_device
from parity.run.live import Runner
from parity.run.resume import CellResult, Cells, key
from parity.tests.fuzz.harness import results

QUICK, SLOW = ("patchifiers", "any"), ("upsampler", "tiny-2.3-upsampler-x1.5")
GLOBS = ("[pu][ap]*[er][sr]", "*[y5]")  # just these two cells


def _command(out: Path, *more: str) -> list[str]:
    cells = ["--stage", GLOBS[0], "--config", GLOBS[1], "--lane", "A", "--device", default_device()]
    return ["run", *cells, "--jobs", "1", "--json", str(out), *more]


def test_a_killed_run_goes_on_and_reports_the_same(
    in_this_process: None,
    checkpoints: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = select(*GLOBS)
    assert [(stage.name, config) for stage, config in chosen] == [QUICK, SLOW]
    out, cells = tmp_path / "results.json", tmp_path / "results.cells"
    # one process, and a folder where no times are known: the quick cell first, the slow one not before it has ended
    here = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    argv = [sys.executable, "-m", "parity", *_command(out)]
    process = subprocess.Popen(argv, start_new_session=True, stderr=subprocess.DEVNULL, **here)
    finished = cells / f"{QUICK[0]}.{QUICK[1]}.json"
    while not finished.exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [file.name for file in cells.glob("*.json")] == [finished.name]
    assert json.loads(out.read_text())["state"] == "running"

    monkeypatch.chdir(tmp_path)
    code, said = main(_command(out, "--resume")), capsys.readouterr().err
    assert code == EXIT_OK, said
    assert "1 of 2 cells kept" in said
    assert not cells.exists(), "what is in the report is not kept twice"

    with calibrated(measure(default_device(), "A")):
        whole = [Runner().run([cell], "A") for cell in chosen]
    rows = [row for part in whole for row in part.rows]
    for order, row in enumerate(rows):
        row.order = order
    document = json.loads(out.read_text())
    assert document["taps"] == json.loads(json.dumps([row.record() for row in rows]))
    assert document["summary"]["coverage"] == [asdict(c) for part in whole for c in part.coverage]


def test_cells_of_other_code_lanes_or_checkpoints_are_not_used(tmp_path: Path, checkpoints: Path) -> None:
    own = checkpoints / "tiny-2.3-video-only.safetensors"
    keys = [key("A", (), {}, ORIGIN), key("AB", (), {}, ORIGIN), key("A", (), {"mlx": "1"}, ORIGIN)]
    keys += [key("A", [own], {}, ORIGIN), key("A", (), {}, ORIGIN | {"seed": "1"})]
    assert len(set(keys)) == len(keys)
    cells = Cells(tmp_path, keys[0])
    cells.save("toy", "any", CellResult(Results([row()], carried=3), 0.5))
    kept = cells.load("toy", "any")
    assert kept is not None and (kept.results.carried, kept.peak_gb) == (3, 0.5)
    assert all(Cells(tmp_path, other).load("toy", "any") is None for other in keys[1:])
    (file,) = tmp_path.glob("*.json")
    file.write_text(file.read_text()[:-9])
    assert cells.load("toy", "any") is None


def row() -> Row:
    return Row("tap", "toy", "any", "base", "A", 0, 0, "float32", needed_k=float("inf"), verdict="diverged")


def test_the_key_is_made_of_the_code_wherever_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also below a folder named tests, and the reference's too."""
    folders = {name: tmp_path / "tests" / name for name in ("ltx2_mlx", "parity", "ltx_core", "ltx_pipelines")}
    for folder in folders.values():
        (folder / "tests").mkdir(parents=True)
        (folder / "judge.py").write_text("K = 3\n")
    monkeypatch.setattr(environment, "ROOT", tmp_path / "tests")
    monkeypatch.setattr(environment, "_package", folders.get)
    known = {digest()}
    for folder in folders.values():
        (folder / "judge.py").write_text("K = 4\n")
        assert digest() not in known, folder.name
        known.add(digest())
    (folders["parity"] / "tests" / "test_judge.py").write_text("")
    assert digest() in known, "the harness's own tests judge nothing"


def digest() -> str:
    code_digest.cache_clear()
    try:
        return code_digest()
    finally:
        code_digest.cache_clear()


@pytest.mark.parametrize("change", [("MLX_SOMETHING", "1"), ("OPENBLAS_NUM_THREADS", "7"), ("LD_PRELOAD", "/other.so")])
def test_the_key_is_made_of_what_the_environment_tells_the_libraries(
    change: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key("A", (), {}, ORIGIN)
    monkeypatch.setenv(*change)
    assert key("A", (), {}, ORIGIN) != before


def test_the_key_is_made_of_the_bytes_of_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parity.run.resume.FIXTURES", tmp_path)
    folder = tmp_path / "gemma"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    before, own = key("A", (), {}, ORIGIN), key("A", [folder], {}, ORIGIN)
    (folder / "config.json").write_text("[]")
    assert key("A", (), {}, ORIGIN) != before
    assert key("A", [folder], {}, ORIGIN) != own


@pytest.mark.parametrize(
    ("part", "value"), [("size", 5), ("ours", [0.1, float("inf"), 0.1, 0.1]), ("unknown", float("nan"))]
)
def test_a_kept_cell_with_a_profile_that_cannot_be_is_run_again(tmp_path: Path, part: str, value: object) -> None:
    cells, run = Cells(tmp_path, "key"), results(False)
    run.rows, run.coverage, run.pipelines = run.rows[:6], run.coverage, []
    cells.save("transformer", "tiny-2.0", CellResult(run, 0.5))
    assert cells.load("transformer", "tiny-2.0") is not None
    assert run.rows[1].profile is not None
    run.rows[1].profile["axes"][0][part] = value
    cells.save("transformer", "tiny-2.0", CellResult(run, 0.5))
    assert cells.load("transformer", "tiny-2.0") is None


@pytest.mark.parametrize("name", ["verdict", "source", "further", "reason", "why"])
def test_a_kept_row_without_a_field_has_its_default(tmp_path: Path, name: str) -> None:
    cells, run = Cells(tmp_path, "key"), results(False)
    run.rows, run.pipelines = run.rows[:6], []
    cells.save("transformer", "tiny-2.0", CellResult(run, 0.5))
    path = tmp_path / "transformer.tiny-2.0.json"
    whole = json.loads(path.read_text().partition("\n")[2])
    del whole["rows"][0][name]
    path.write_text(f"{cells._digest(path, json.dumps(whole))}\n{json.dumps(whole)}")
    kept = cells.load("transformer", "tiny-2.0")
    assert kept is not None and kept.results.rows[0].record() == run.rows[0].record()
    cells.save("transformer", "tiny-2.0", kept)
    assert cells.load("transformer", "tiny-2.0") == kept


def test_a_kept_text_with_half_a_character_is_written_so_that_it_can_be_read(tmp_path: Path) -> None:
    """Python reads and writes such a text; a strict reader refuses the file."""
    cells, run = Cells(tmp_path / "cells", "key"), results(False)
    stage, config = run.rows[0].stage, run.rows[0].config
    run.rows = [
        replace(run.rows[0], why="x\ud800y"),
        replace(run.rows[0], why="\udc00", call=1),
        replace(run.rows[0], why="😀", call=2),
    ]
    run.pipelines, run.coverage = [], []
    cells.save(stage, config, CellResult(run, 1.0))
    kept = cells.load(stage, config)
    assert kept
    kept.results.write(tmp_path / "results.json")
    assert [row["why"] for row in read_results(tmp_path / "results.json")["taps"]] == ["x?y", "?", "😀"]
