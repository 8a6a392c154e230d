"""The harness's files: results, baseline, kept cells, the selftest's, traces, arrays."""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from parity.judge import tolerance
from parity.judge.results import ORIGIN, Coverage, Item, PipelineRow, Results, Row
from parity.run.environment import ROOT, code_digest
from parity.run.tracefile import _seal

from . import mutate
from .reading import Format, WrongError, command, content, refuse

TRACE = ROOT / "fixtures" / "traces" / "tiny.json"
CLI_TRACE_CELL = "patchifiers"


def results(red: bool) -> Results:
    """A run with every kind of row; ``red``: one that fails, and its explanation."""
    from parity.declare.stages import stages
    from parity.judge.device import Device, Measure
    from parity.run.cells import manifest

    cells = [("transformer", "tiny-2.0"), ("patchifiers", "any")]
    rows = [
        Row(
            f"tap{i}",
            s,
            c,
            "base",
            lane,
            0,
            i,
            "float32",
            (4, 8),
            needed_k=1.0,
            metrics={"rel_l2": 1e-7, "std_ref": 1.0},
        )
        for s, c in cells
        for lane in ("AC" if s == "transformer" else "A")
        for i in range(3)
    ]
    found = Results(rows, [Coverage("transformer", "tiny-2.0", 2, 2, 3, 3, 9, 9)], code=code_digest(), origin=ORIGIN)
    item = Item("video_latent.000.out", 1e-5, 5e-5)
    found.pipelines = [PipelineRow("pipelines.distilled", "tiny-2.0", "float32", 9, 8, details=[item])]
    found.environment = {"machine": "here", "device": "cpu", "mlx": "0.1"}
    found.stages = manifest([(stages()[s], c) for s, c in cells])
    found.device = Device((Measure("matmul", "float32", 0.5, 64),))
    axis = {"axis": 0, "size": 4, "ours": [0.1, None, 0.2, 0.3], "reference": [0.1, 0.1, 0.1, 0.1]}
    rows[1].profile = {"axes": [axis], "map": {"axes": [0, 1], "ours": [[-60, None], [-50, -40]]}}
    if red:
        rows[0].verdict, rows[0].needed_k, rows[0].why, rows[0].source = (
            "diverged",
            99.0,
            "far off",
            "ltx2_mlx/block.py:3",
        )
        rows[0].reason = None
        line = {"file": "ltx2_mlx/block.py", "first": 3, "last": 4, "text": "x = y"}
        cause = {"cause": "eps", "share": 0.5, "meaning": "another eps", "example": "N05", "fault": "eps 1e-5"}
        found.explanation = {"place": rows[0].place, "signs": ["scale"], "causes": [cause], "constants": ["eps"]}
        found.explanation |= {"narrowest": line, "statements": [line]}
    return found


@functools.cache
def document(red: bool) -> dict[str, Any]:
    """The content of results.json."""
    path = Path(f"whole-{red}.json")
    results(red).write(path)
    return dict(json.loads(path.read_text()))


def _results(folder: Path, rng: random.Random) -> Path:
    path = folder / "run" / "results.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(mutate.text(document(rng.random() < 0.5), rng))
    return path


def _read_results(path: Path) -> None:
    from parity.judge.baseline import BASELINE

    document(False)
    code = command(["report", str(path)])
    if code == 0:
        check_pages(path.parent)
    command(["diff", "whole-False.json", str(path)])
    command(["diff", str(path), "whole-False.json"])
    BASELINE.unlink(missing_ok=True)
    if command(["accept", str(path)]) == 0:
        require_green(json.loads(path.read_text()))
    refuse(command(["report", str(path)]) if code == 2 else 0)


def require_green(found: dict[str, Any]) -> None:
    """Raises WrongError for a run that must not have been accepted: judged here again, by hand."""
    allowed = {"A": tolerance.K, "B": tolerance.K, "C": tolerance.K_FREE}
    for row in found["taps"]:
        if row["verdict"] != "pass" or row["needed_k"] is None or row["needed_k"] > allowed[row["lane"]]:
            raise WrongError(f"accepted with {row['verdict']} {row['needed_k']}")
    for run in found["pipelines"]:
        if run["verdict"] != "pass" or not run["details"] or any(d[3] != "pass" or d[1] > d[2] for d in run["details"]):
            raise WrongError("accepted with a pipeline that does not pass")
    for c in found["summary"]["coverage"]:
        if c["uncovered"] or c["leaves"] != c["leaves_compared"] or c["parameters"] != c["parameters_moving"]:
            raise WrongError("accepted with a hole")
    if found["summary"]["exit_code"] or found["summary"]["unseen"] or found["summary"]["silent"] or not found["taps"]:
        raise WrongError("accepted, and not green")


def check_pages(folder: Path) -> None:
    """Raises WrongError for a page that a text of the results has got into as more than text."""
    pages = [folder / "report.html", *(folder / "report").glob("*.html")]
    markdown = (folder / "summary.md").read_text().partition("\n```")[0]
    if any("<script>alert" in text for text in (*(page.read_text() for page in pages), markdown)):
        raise WrongError("a script in a page")
    ElementTree.fromstring((folder / "junit.xml").read_bytes())


def _baseline(folder: Path, rng: random.Random) -> Path:
    from parity.judge.baseline import read_run, write_baseline

    document(False)
    path = Path("whole-baseline.json")
    if not path.exists():
        write_baseline(path, read_run(Path("whole-False.json")))
    changed = folder / "baseline.json"
    changed.write_bytes(mutate.text(json.loads(path.read_text()), rng))
    return changed


def _read_baseline(path: Path) -> None:
    refuse(command(["diff", str(path), "whole-False.json"]))


def _cell(folder: Path, rng: random.Random) -> Path:
    """A kept cell with changed content, as a rule under its right digest."""
    from parity.run.resume import CellResult, Cells

    cells, run = Cells(folder / "cells", "key"), results(rng.random() < 0.5)
    run.rows, run.coverage, run.pipelines = run.rows[:6], run.coverage, []
    cells.save("transformer", "tiny-2.0", CellResult(run, 0.5))
    path = folder / "cells" / "transformer.tiny-2.0.json"
    whole = json.loads(path.read_text().partition("\n")[2])
    if rng.random() < 0.3:  # the arrays of a tap alone
        row = next(row for row in whole["rows"] if row["profile"])
        row["profile"] = mutate.tree(row["profile"], rng)
        changed = json.dumps(whole)
    else:
        changed = mutate.text(whole, rng).decode("utf-8", "replace")
    digest = cells._digest(path, changed) if rng.random() < 0.9 else "0" * 64
    path.write_text(f"{digest}\n{changed}", errors="replace")
    return path


def _read_cell(path: Path) -> None:
    from parity.judge.results import read_results
    from parity.run.resume import Cells

    kept = Cells(path.parent, "key").load("transformer", "tiny-2.0")
    if kept is not None:
        kept.results.environment, kept.results.code = {"machine": "here", "device": "cpu"}, "x"
        kept.results.write(Path("resumed.json"))
        read_results(Path("resumed.json"))
        command(["report", "resumed.json"])


@functools.cache
def score() -> dict[str, Any]:
    """The content of selftest.json."""
    from parity.faults.score import Gate, Outcome, Score, Seen

    place = ("transformer", "tiny-2.0", "base", "A", "tap", "tap", "why", True, True)
    outcomes = [Outcome("A01", "A01", "a fault", "eps", *place, kind="kind", canary=True, signs=("scale",))]
    outcomes += [Outcome("A02", "A02", "another", "eps", *place[:7], kind="kind", state="void")]
    made = Score(0, outcomes, gate=Gate([Seen("A01", "kind", "a fault", "parity")]))
    return dict(json.loads(json.dumps(made.document())))


def _selftest(folder: Path, rng: random.Random) -> Path:
    path = folder / "selftest.json"
    path.write_bytes(mutate.text(score(), rng))
    return path


def _read_selftest(path: Path) -> None:
    from parity.commands.tables import selftest
    from parity.report import annex, scores

    found = scores.read(path)
    selftest(found)
    if "<script>alert" in str(annex.selftest(found)):
        raise WrongError("a script in a page")


def _kept(folder: Path, rng: random.Random) -> Path:
    """gate.json, causes.json or costs.json."""
    answers = {"sources": "s", "answers": {"A01": {"red": "parity", "crashed": "", "seconds": 1.0}}}
    causes = json.loads(content(ROOT / "parity" / "faults" / "causes.json"))
    whole = {"gate.json": answers, "causes.json": causes, "costs.json": {"run A x": [1.0, 0.5], "check y": [2.0, 0.1]}}
    name = rng.choice(list(whole))
    path = folder / name
    path.write_bytes(mutate.text(whole[name], rng))
    return path


def _read_kept(path: Path) -> None:
    from parity.faults import gate, likely_causes
    from parity.run import pool

    if path.name == "gate.json":
        gate._read(path, "s")
    elif path.name == "causes.json":
        likely_causes.rank({"a"}, likely_causes.examples(path))
    else:
        pool.COSTS = path
        pool.jobs_for(4, 1e9, [peak for _, peak in pool.known_costs().values()])
        sorted(pool.known_costs().values())


def _trace(folder: Path, rng: random.Random) -> Path:
    """A trace of the stage that needs no checkpoint: its manifest or a shard changed, its digests right as a rule."""
    path, shards = folder / "trace.json", folder / "trace"
    shutil.rmtree(shards, ignore_errors=True)
    shards.mkdir()
    whole = _small_trace()
    for case in whole["cells"][0]["cases"]:
        (shards / case["shard"]).write_bytes(content(TRACE.with_suffix("") / case["shard"]))
    manifest: Any = whole
    if rng.random() < 0.4:
        manifest = json.loads(json.dumps(whole))
        case = rng.choice(manifest["cells"][0]["cases"])
        data = mutate.safetensors(content(TRACE.with_suffix("") / case["shard"]), rng)
        (shards / case["shard"]).write_bytes(data)
        case["sha256"] = hashlib.sha256(data).hexdigest()
    elif rng.random() < 0.8:
        manifest = mutate.tree(whole, rng)
    else:
        path.write_bytes(mutate.text(whole, rng))
        return path
    if isinstance(manifest, dict) and rng.random() < 0.9:
        with contextlib.suppress(RecursionError):
            manifest["sha256"] = _seal(manifest)
    path.write_text(json.dumps(manifest), errors="replace")
    return path


@functools.cache
def _small_trace() -> dict[str, Any]:
    manifest = dict(json.loads(content(TRACE)))
    cell = next(cell for cell in manifest["cells"] if cell["stage"] == CLI_TRACE_CELL)
    return manifest | {"cells": [cell], "checkpoints": []}


def _read_trace(path: Path) -> None:
    from parity.run.tracefile import open_trace

    trace = open_trace(path)
    for index in range(len(trace.cells)):
        list(trace.recording(index).cases)


def _trace_arrays(folder: Path, rng: random.Random) -> Path:
    """A trace in which one array holds other numbers, under right digests."""
    path, shards = folder / "trace.json", folder / "trace"
    manifest = json.loads(json.dumps(_small_trace()))
    shutil.rmtree(shards, ignore_errors=True)
    shards.mkdir()
    cases = manifest["cells"][0]["cases"]
    changed = rng.choice([case for case in cases if case["bytes"] > 1000])
    for case in cases:
        data = content(TRACE.with_suffix("") / case["shard"])
        if case is changed:
            data = mutate.numbers(data, rng)
            case["sha256"] = hashlib.sha256(data).hexdigest()
        (shards / case["shard"]).write_bytes(data)
    manifest["sha256"] = _seal(manifest)
    path.write_text(json.dumps(manifest))
    return path


def _judge_trace(path: Path) -> None:
    """Judge ours against it. Raises WrongError where all passes."""
    from parity.run.replay import judge_recording
    from parity.run.tracefile import open_trace

    trace, found = open_trace(path), Results()
    for index in range(len(trace.cells)):
        judge_recording(trace.recording(index), found)
    if all(row.verdict == "pass" for row in found.rows):
        raise WrongError(f"{len(found.rows)} tensors pass beside a trace of other numbers")


def _array(folder: Path, rng: random.Random) -> Path:
    path = folder / rng.choice(("frames.npy", "frames.npy", "repro.npz"))
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(rng.choice((np.uint8, np.float32)))
    stream = io.BytesIO()
    if path.suffix == ".npy":
        np.save(stream, frames)
    else:
        np.savez_compressed(stream, head=np.array(json.dumps({"paths": {}})), a=frames)
    data = stream.getvalue()
    if path.suffix == ".npy" and rng.random() < 0.5:
        shape = rng.choice(
            ("(10**12, 2, 2, 3)", "(0, 16, 16, 3)", "(1, 1, 1, 3)", "(1, 512, 1, 3)", "(((((", "(-1, 2, 2, 3)")
        )
        data = data.replace(b"(2, 16, 16, 3)", shape.encode()[:14].ljust(14))
    path.write_bytes(mutate.raw(data, rng, head=128) if rng.random() < 0.7 else data)
    return path


def _read_array(path: Path) -> None:
    from parity.debug.video import look
    from parity.investigate.repro import Repro

    if path.suffix == ".npz":
        Repro.load(path)
    else:
        look(argparse.Namespace(file=path))


FORMATS = {
    "results.json": Format(12, _results, _read_results),
    "baseline.json": Format(5, _baseline, _read_baseline),
    "kept cell": Format(8, _cell, _read_cell),
    "selftest.json": Format(6, _selftest, _read_selftest),
    "gate, causes, costs": Format(4, _kept, _read_kept),
    "trace": Format(8, _trace, _read_trace),
    "trace's arrays": Format(6, _trace_arrays, _judge_trace),
    "array": Format(6, _array, _read_array),
}
