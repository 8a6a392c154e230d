"""Traces: judged alike from a file and live, without torch, and refused by name when they are not as recorded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parity.cli import main
from parity.declare.stages import stages
from parity.faults.catalogue import FAULTS, planted
from parity.judge.results import EXIT_DIVERGED, EXIT_OK, EXIT_USAGE, Results
from parity.run.live import Runner
from parity.run.recorded import Recorded
from parity.run.replay import judge_recording
from parity.run.tracefile import MARK, TraceError, digest_of, open_trace
from parity.sides.mlx import MLX
from parity.tap.nest import flatten
from parity.tap.trace import Tensor

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "fixtures" / "traces" / "tiny.json"
CELL = ("transformer", "tiny-2.3-video-only", "schedule")


@pytest.fixture(scope="module")
def recorded(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of one small case in all lanes, with its weights."""
    out = tmp_path_factory.mktemp("traces") / "small.json"
    assert main(["record", ":".join(CELL), "--out", str(out), "--weights"]) == EXIT_OK
    return out


@pytest.fixture
def copy(recorded: Path, tmp_path: Path) -> Path:
    shutil.copytree(recorded.with_suffix(""), tmp_path / "small")
    return Path(shutil.copy(recorded, tmp_path))


def test_a_trace_gives_the_rows_of_a_live_run(recorded: Path, checkpoints: Path) -> None:
    stage, config, case = stages()[CELL[0]], CELL[1], CELL[2]
    live, read = Results(), Results()
    judge_recording(Runner().recording(stage, config, "ABC", case), live)
    judge_recording(open_trace(recorded).recording(0), read)
    assert {row.lane for row in live.rows} == set("ABC")
    assert [row.record() for row in read.rows] == [row.record() for row in live.rows]
    assert read.carried == live.carried


def test_a_planted_fault_is_red_against_a_trace(recorded: Path) -> None:
    mutation = next(m for m in FAULTS if m.id == "G01")
    results = Results()
    with planted(mutation):
        judge_recording(open_trace(recorded).recording(0), results)
    assert results.first_divergence().name.startswith(mutation.tap)
    assert results.exit_code() == EXIT_DIVERGED


def test_without_torch(tmp_path: Path) -> None:
    """The committed trace, in a process, and its children, where the reference cannot be imported."""
    for name in ("torch", "ltx_core", "ltx_pipelines", "transformers"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not installed')\n")
    path, out = os.pathsep.join([str(tmp_path), str(ROOT)]), tmp_path / "results.json"
    command = [sys.executable, "-m", "parity", "check", str(COMMITTED), "--jobs", "1", "--json", str(out)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == EXIT_OK, done.stdout[-2000:] + done.stderr[-2000:]
    document = json.loads(out.read_text())
    assert document["summary"]["exit_code"] == EXIT_OK
    assert len(document["taps"]) > 2000
    assert document["summary"]["coverage"] == []  # each cell of it is a part of a cell


def _cut(trace: Path) -> Path:
    shard = next(trace.with_suffix("").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    return shard


def _flip(trace: Path) -> Path:
    shard = next(trace.with_suffix("").glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-5000] ^= 1
    shard.write_bytes(content)
    return shard


def _drop(trace: Path) -> Path:
    shard = next(trace.with_suffix("").glob("*.safetensors"))
    shard.unlink()
    return shard


def _weights(trace: Path) -> Path:
    file = trace.with_suffix("") / "weights" / f"{CELL[1]}.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    return file


def _cut_manifest(trace: Path) -> Path:
    trace.write_text(trace.read_text()[:-1000])
    return trace


def _edit_manifest(trace: Path) -> Path:
    text = trace.read_text()
    edited = text.replace('"repeats":true', '"repeats":false', 1)
    assert edited != text
    trace.write_text(edited)
    return trace


def _other_schema(trace: Path) -> Path:
    trace.write_text(json.dumps(json.loads(trace.read_text()) | {"schema": "ltx2-parity-trace/0"}))
    return trace


@pytest.mark.parametrize("harm", [_cut, _flip, _drop, _weights, _cut_manifest, _edit_manifest, _other_schema])
def test_what_is_not_as_recorded_is_refused_by_name(
    harm: Callable[[Path], Path], copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harmed = harm(copy)
    assert main(["check", str(copy), "--json", str(tmp_path / "results.json")]) == EXIT_USAGE
    assert str(harmed) in capsys.readouterr().err
    assert not (tmp_path / "results.json").exists()


def test_a_referenced_checkpoint_that_has_changed_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    own, out = tmp_path / "mine.safetensors", tmp_path / "mine.json"
    own.write_bytes((checkpoints / f"{CELL[1]}.safetensors").read_bytes())
    arguments = ["record", "transformer:*:late", "--lane", "C", "--checkpoint", str(own), "--out", str(out)]
    assert main(arguments) == EXIT_OK
    assert open_trace(out).checkpoints == {own.name: own}
    moved = own.rename(tmp_path / "moved.safetensors")
    with pytest.raises(TraceError, match=r"mine\.safetensors: not there"):
        open_trace(out)
    assert open_trace(out, moved).checkpoints == {own.name: moved}
    moved.write_bytes(moved.read_bytes()[:-1] + b"\x01")
    with pytest.raises(TraceError, match=r"moved\.safetensors: truncated or changed"):
        open_trace(out, moved)


def test_changed_taps_and_changed_inputs_are_refused(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace, stage = open_trace(recorded), stages()["transformer"]
    cases = stage.cases

    def later(config: dict) -> dict:
        made = cases(config)
        made["schedule"].kwargs["video"].fields["latent"].values[0, 0, 0] += 1
        return made

    monkeypatch.setitem(stage.__dict__, "cases", later)
    with pytest.raises(TraceError, match=r"schedule: its input kwargs\.video\.fields\.latent\.values is another"):
        list(trace.recording(0).cases)
    monkeypatch.setitem(stage.__dict__, "probes", ())
    with pytest.raises(TraceError, match="taps have changed"):
        open_trace(recorded)


def _arrays(recorded: Recorded) -> dict[tuple[str, int, str, str], np.ndarray]:
    """Every array of the reference's trace."""
    return {
        (*key, side, name): leaf.values
        for key, call in recorded.trace.calls.items()
        for side in ("inputs", "outputs")
        for name, leaf in getattr(call, side).items()
        if isinstance(leaf, Tensor)
    }


@pytest.mark.parametrize("cell", ["patchifiers", "transformer"])
def test_the_committed_trace_is_fresh(cell: str, checkpoints: Path) -> None:
    """Its inputs and the reference's numbers are those of a recording made now, up to another machine's libm."""
    trace = open_trace(COMMITTED)
    index = [stage.name for stage, _ in trace.cells].index(cell)
    stage, config = trace.cells[index]
    for then, entry in zip(trace.recording(index).cases, trace.manifest["cells"][index]["cases"], strict=True):
        (now,) = Runner().recording(stage, config, "A", then.name).cases
        assert digest_of(flatten(then.case, "", MLX(), {})) == entry["inputs_sha256"]
        a, b = _arrays(then), _arrays(now)
        assert a.keys() == b.keys()
        assert then.trace.events == now.trace.events
        for key in a:
            assert np.allclose(a[key], b[key], rtol=1e-4, atol=1e-4, equal_nan=True), key


def test_what_cannot_be_recorded_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine.json").write_text("{}")
    for cells, out in (
        (["nothing"], "a.json"),
        (["sampling:huge"], "a.json"),
        (["sampling", "--lane", "D"], "a.json"),
        (["sampling"], "a.txt"),
        (["sampling"], "mine.json"),
        (["sampling"], "/proc/x/y.json"),
    ):
        assert main(["record", *cells, "--out", str(tmp_path / out)]) == EXIT_USAGE
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert (tmp_path / "mine").exists()


def test_a_trace_whose_folder_has_no_mark_is_replaced(tmp_path: Path) -> None:
    """An older one, or one that was copied without its hidden files."""
    out = tmp_path / "small.json"
    argv = ["record", "patchifiers:any:shapes", "--lane", "A", "--out", str(out)]
    assert main(argv) == EXIT_OK
    (tmp_path / "small" / MARK).unlink()
    assert main(argv) == EXIT_OK
    assert open_trace(out).cells


def test_the_committed_trace_is_small() -> None:
    files = [COMMITTED, *(file for file in COMMITTED.with_suffix("").rglob("*") if file.is_file())]
    assert sum(file.stat().st_size for file in files) < 20e6
