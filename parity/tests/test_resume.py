"""A run that is killed goes on where it was, and reports the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from parity.judge.device import calibrated
from parity.judge.results import EXIT_OK, Results
from parity.run.calibration import measure
from parity.run.cells import select
from parity.run.environment import default_device
from parity.run.live import Runner
from parity.run.resume import ROOT, CellResult, Cells, key

QUICK, SLOW = ("patchifiers", "any"), ("transformer", "tiny-2.3-video-only")
GLOBS = ("[pt][ar]*", "*y")  # just these two cells


def _command(out: Path, *more: str) -> list[str]:
    cells = ["--stage", GLOBS[0], "--config", GLOBS[1], "--lane", "A", "--device", default_device()]
    return [sys.executable, "-m", "parity", "run", *cells, "--jobs", "1", "--json", str(out), *more]


def test_a_killed_run_goes_on_and_reports_the_same(checkpoints: Path, tmp_path: Path) -> None:
    chosen = select(*GLOBS)
    assert [(stage.name, config) for stage, config in chosen] == [QUICK, SLOW]
    out, cells = tmp_path / "results.json", tmp_path / "results.cells"
    # one process, and a folder where no times are known: the quick cell first, the slow one not before it has ended
    here = {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    process = subprocess.Popen(_command(out), start_new_session=True, stderr=subprocess.DEVNULL, **here)
    finished = cells / f"{QUICK[0]}.{QUICK[1]}.json"
    while not finished.exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert [file.name for file in cells.glob("*.json")] == [finished.name]
    assert out.read_text() == ""

    done = subprocess.run(_command(out, "--resume"), capture_output=True, text=True, **here)
    assert done.returncode == EXIT_OK, done.stderr
    assert "1 of 2 cells kept" in done.stderr
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
    keys = [key("A", None, {}), key("AB", None, {}), key("A", None, {"mlx": "1"})]
    keys.append(key("A", checkpoints / "tiny-2.3-video-only.safetensors", {}))
    assert len(set(keys)) == len(keys)
    cells = Cells(tmp_path, keys[0])
    cells.save("toy", "any", CellResult(Results(carried=3), 0.5))
    kept = cells.load("toy", "any")
    assert kept is not None and (kept.results.carried, kept.peak_gb) == (3, 0.5)
    assert all(Cells(tmp_path, other).load("toy", "any") is None for other in keys[1:])
    (file,) = tmp_path.glob("*.json")
    file.write_text(file.read_text()[:-9])
    assert cells.load("toy", "any") is None


def test_the_key_is_made_of_the_code(tmp_path: Path, monkeypatch: object) -> None:
    for package in ("ltx2_mlx", "parity"):
        (tmp_path / package).mkdir()
    (tmp_path / "parity" / "judge.py").write_text("K = 3\n")
    monkeypatch.setattr("parity.run.resume.ROOT", tmp_path)
    before = key("A", None, {})
    (tmp_path / "parity" / "judge.py").write_text("K = 4\n")
    assert key("A", None, {}) != before
