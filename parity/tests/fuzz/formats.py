"""Every format of both packages: a whole file of each, how it is changed, and the real code that reads it.

A reader returns, or raises LTX2Error in one line that names the file. ``WrongError`` is what it raises itself where an
outcome is worse than a refusal.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import os
import random
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ltx2_mlx.errors import LTX2Error
from parity.declare.inputs import FIXTURES, GEMMA
from parity.judge import tolerance
from parity.judge.results import ORIGIN, Coverage, Item, PipelineRow, Results, Row
from parity.run.environment import ROOT, code_digest

from . import mutate

CHECKPOINTS = ("tiny-2.0.safetensors", "tiny-2.3.safetensors", "tiny-2.0-upsampler-x2.safetensors")
TRACE = ROOT / "fixtures" / "traces" / "tiny.json"
CLI_TRACE_CELL = "patchifiers"


class WrongError(Exception):
    """Worse than a refusal: a wrong success, a page with what must not be in it, a refusal of many lines."""


@dataclass(frozen=True)
class Format:
    """share: of all cases. make: a changed one, at a path below a folder. read: what the product does with it."""

    share: int
    make: Callable[[Path, random.Random], Path | list[str]]
    read: Callable[[Any], None]


# ---- the product's files --------------------------------------------------------------------------------------------


@functools.cache
def _bytes(path: Path) -> bytes:
    return path.read_bytes()


def _tensors(*names: str, inner: str = "config") -> Callable[[Path, random.Random], Path]:
    def make(folder: Path, rng: random.Random) -> Path:
        path = folder / "changed.safetensors"
        path.write_bytes(mutate.safetensors(_bytes(FIXTURES / rng.choice(names)), rng, inner))
        return path

    return make


def _checkpoint(path: Path) -> None:
    from ltx2_mlx.cli.info import info
    from ltx2_mlx.loading.checkpoint import read_checkpoint
    from ltx2_mlx.loading.load import build

    info(str(path))
    checkpoint = read_checkpoint(path)
    for component in ("transformer", "video_decoder", "vocoder", "audio_decoder", "upsampler", "embeddings_processor"):
        if checkpoint.holds(component):
            build(component, checkpoint)


def _lora(path: Path) -> None:
    from ltx2_mlx.loading.lora import LoraPathStrength, lora_metadata, read_lora

    lora_metadata(path)
    read_lora(LoraPathStrength(str(path), 1.0))


def _gemma_file(name: str) -> Callable[[Path, random.Random], Path]:
    def make(folder: Path, rng: random.Random) -> Path:
        gemma = folder / "gemma"
        gemma.mkdir(exist_ok=True)
        for file in GEMMA.iterdir():
            (gemma / file.name).unlink(missing_ok=True)
            if file.name != name:
                (gemma / file.name).symlink_to(file)
        (gemma / name).write_bytes(mutate.text(json.loads(_bytes(GEMMA / name)), rng))
        return gemma

    return make


def _gemma(path: Path) -> None:
    from ltx2_mlx.loading.gemma import check_gemma
    from ltx2_mlx.loading.load import build

    build("gemma", check_gemma(path))


def _tokenizer(path: Path) -> None:
    from ltx2_mlx.text.tokenizer import LTXVGemmaTokenizer

    LTXVGemmaTokenizer(path, 64).encode("a fox in the snow")


@functools.cache
def _contexts() -> bytes:
    import mlx.core as mx

    from ltx2_mlx.config import EmbeddingsProcessorConfig
    from ltx2_mlx.loading.checkpoint import read_checkpoint
    from ltx2_mlx.pipelines.contexts import save_contexts
    from ltx2_mlx.text.embeddings import EmbeddingsProcessorOutput
    from ltx2_mlx.text.tokenizer import MAX_LENGTH

    path, rng = Path("contexts.safetensors"), np.random.default_rng(0)
    checkpoint = FIXTURES / "tiny-2.0.safetensors"
    config = EmbeddingsProcessorConfig.from_metadata(read_checkpoint(checkpoint).config)
    widths = (config.video_connector.inner_dim, config.audio_connector.inner_dim)
    video, audio = (mx.array(rng.standard_normal((1, MAX_LENGTH, width)), mx.bfloat16) for width in widths)
    output = EmbeddingsProcessorOutput(video, audio, mx.ones((1, MAX_LENGTH), mx.int32))
    save_contexts(path, ["a fox"], [output], checkpoint, GEMMA)
    return path.read_bytes()


def _context(folder: Path, rng: random.Random) -> Path:
    path = folder / "contexts.safetensors"
    path.write_bytes(mutate.safetensors(_contexts(), rng, "made"))
    return path


def _read_contexts(path: Path) -> None:
    from ltx2_mlx.pipelines.contexts import load_contexts

    load_contexts(path, FIXTURES / "tiny-2.0.safetensors", GEMMA)


# ---- media ----------------------------------------------------------------------------------------------------------


@functools.cache
def _media() -> dict[str, dict[str, bytes]]:
    """Pictures, clips and audio, by name."""
    import av
    from PIL import Image

    sys.path.insert(0, str(ROOT))
    from tests.media_files import corners, saved, tone, write_audio, write_clip

    av.logging.set_level(av.logging.PANIC)
    here = Path("media")
    here.mkdir(exist_ok=True)
    kinds = ("png", "jpeg", "webp", "gif", "tiff", "bmp", "ico", "tga", "ppm", "jpeg2000")
    clips: dict[str, dict[str, Any]] = {"a.mp4": {"audio": 9000}, "a.mov": {}, "a.mkv": {"audio": 9000}}
    clips |= {"b.avi": {"codec": "mpeg4"}, "a.ts": {}, "q.mov": {"codec": "qtrle", "pix_fmt": "rgb24"}}
    codecs = {"a.wav": "pcm_s16le", "a.flac": "flac", "a.mp3": "libmp3lame", "a.m4a": "aac", "a.ogg": "libopus"}
    sound = np.stack([tone(9000, 48000)] * 2)
    return {
        "picture": {f"x.{kind}": saved(Image.fromarray(corners(48, 48)), kind) for kind in kinds},
        "clip": {name: write_clip(here / name, **options).read_bytes() for name, options in clips.items()},
        "audio": {name: write_audio(here / name, sound, 48000, codec).read_bytes() for name, codec in codecs.items()},
    }


def _medium(kind: str) -> Callable[[Path, random.Random], Path]:
    def make(folder: Path, rng: random.Random) -> Path:
        name = rng.choice(list(_media()[kind]))
        path = folder / f"changed-{name}"
        path.write_bytes(mutate.raw(_media()[kind][name], rng, head=600))
        return path

    return make


def _picture(path: Path) -> None:
    from ltx2_mlx.media.images import read_picture

    read_picture(path)


def _clip(path: Path) -> None:
    from ltx2_mlx import media

    media.probe(path)
    media.load_video_conditioning(path, 32, 32, 9)


def _audio(path: Path) -> None:
    from ltx2_mlx import media

    media.probe(path)
    media.decode_audio_from_file(path)


# ---- the harness's files --------------------------------------------------------------------------------------------


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
def _document(red: bool) -> dict[str, Any]:
    path = Path(f"whole-{red}.json")
    results(red).write(path)
    return dict(json.loads(path.read_text()))


def _results(folder: Path, rng: random.Random) -> Path:
    path = folder / "run" / "results.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(mutate.text(_document(rng.random() < 0.5), rng))
    return path


def _read_results(path: Path) -> None:
    from parity.judge.baseline import BASELINE

    _document(False)
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
    page, markdown = ((folder / name).read_text() for name in ("report.html", "summary.md"))
    if "<script>alert" in page or "<script>alert" in markdown.partition("\n```")[0]:
        raise WrongError("a script in a page")
    ElementTree.fromstring((folder / "junit.xml").read_bytes())


def _baseline(folder: Path, rng: random.Random) -> Path:
    from parity.judge.baseline import read_run, write_baseline

    _document(False)
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
    content = mutate.text(json.loads(path.read_text().partition("\n")[2]), rng).decode("utf-8", "replace")
    digest = cells._digest(path, content) if rng.random() < 0.9 else "0" * 64
    path.write_text(f"{digest}\n{content}", errors="replace")
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
def _score() -> dict[str, Any]:
    from parity.faults.score import Gate, Outcome, Score, Seen

    place = ("transformer", "tiny-2.0", "base", "A", "tap", "tap", "why", True, True)
    outcomes = [Outcome("A01", "A01", "a fault", "eps", *place, kind="kind", canary=True, signs=("scale",))]
    outcomes += [Outcome("A02", "A02", "another", "eps", *place[:7], kind="kind", state="void")]
    score = Score(0, outcomes, gate=Gate([Seen("A01", "kind", "a fault", "parity")]))
    return dict(json.loads(json.dumps(score.document())))


def _selftest(folder: Path, rng: random.Random) -> Path:
    path = folder / "selftest.json"
    path.write_bytes(mutate.text(_score(), rng))
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
    causes = json.loads(_bytes(ROOT / "parity" / "faults" / "causes.json"))
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
    from parity.run.tracefile import _seal

    path, shards = folder / "trace.json", folder / "trace"
    shutil.rmtree(shards, ignore_errors=True)
    shards.mkdir()
    whole = _small_trace()
    for case in whole["cells"][0]["cases"]:
        (shards / case["shard"]).write_bytes(_bytes(TRACE.with_suffix("") / case["shard"]))
    manifest: Any = whole
    if rng.random() < 0.4:
        manifest = json.loads(json.dumps(whole))
        case = rng.choice(manifest["cells"][0]["cases"])
        data = mutate.safetensors(_bytes(TRACE.with_suffix("") / case["shard"]), rng)
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
    manifest = dict(json.loads(_bytes(TRACE)))
    cell = next(cell for cell in manifest["cells"] if cell["stage"] == CLI_TRACE_CELL)
    return manifest | {"cells": [cell], "checkpoints": []}


def _read_trace(path: Path) -> None:
    from parity.run.tracefile import open_trace

    trace = open_trace(path)
    for index in range(len(trace.cells)):
        list(trace.recording(index).cases)


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


# ---- command lines --------------------------------------------------------------------------------------------------


def command(argv: list[str], program: str = "parity") -> int:
    """Run a program in this process. Raises WrongError where it refuses in more than a line."""
    if program == "parity":
        from parity.cli import main
    else:
        from ltx2_mlx.cli.main import main
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(argv)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    said = out.getvalue() + err.getvalue()
    if any(c in said for c in "\x1b\x07\x9b") or any(line.startswith("::") for line in said.splitlines()):
        raise WrongError(f"{argv}: steers the terminal or a job: {said!r:.300}")
    lines = err.getvalue().strip().splitlines()
    usage = any(": error: " in line for line in lines)
    planned = program == "plan" and "problem" in out.getvalue()
    if code == 2 and not usage and not planned and len(lines) != 1:
        raise WrongError(f"{argv}: refused in {len(lines)} lines: {lines[:3]}")
    if code not in (0, 1, 2, 3, 4):
        raise WrongError(f"{argv}: exit code {code}")
    _refusals[:] = [lines[-1] if lines else out.getvalue()[:200].replace("\n", " ")] if code == 2 else []
    return code


_refusals: list[str] = []  # of the last command


def refuse(code: int) -> None:
    """Raises LTX2Error with what the last command said, if its exit code is 2."""
    if code == 2:
        raise LTX2Error(_refusals[0])


LINES = [
    ["diff", "whole-False.json", "whole-True.json", "--factor", "2", "--floor", "1"],
    ["report", "whole-False.json"],
    ["accept", "whole-False.json"],
    ["tables", "whole-False.json", "score.json", "document.md"],
    ["explain", "first", "--results", "whole-True.json", "--seed", "1"],
    ["bisect", "transformer", "tiny-2.0", "base", "A", "tap0", "--out", "found"],
    ["check", "trace.json", "--json", "new/results.json", "--jobs", "1", "--device", "cpu"],
    ["run", "--stage", "patchifiers", "--lane", "A", "--json", "new/results.json", "--seed", "1", "--jobs", "1"],
    ["record", "patchifiers:any:states", "--out", "made.json", "--lane", "A", "--seed", "1"],
    ["margins", "--stage", "patchifiers", "--seeds", "1", "--jobs", "1"],
    ["selftest", "--only", "A01", "--sample", "1", "--json", "new/selftest.json", "--seed", "1", "--gate", "1"],
    ["debug", "sync", "--frames", "121", "--fps", "24"],
    ["debug", "video", "frames.npy", "--plot", "new/plot.png"],
]


def _line(folder: Path, rng: random.Random) -> list[str]:
    return mutate.words(rng.choice(LINES), rng)


def _run_line(argv: list[str]) -> None:
    _prepare()
    if any(word in argv for word in ("-h", "--help", "--version")):
        return
    refuse(command(argv))


@functools.cache
def _prepare() -> None:
    """The files that command lines name, and light work in the place of heavy."""
    from parity.commands import bisect, record, selftest
    from parity.debug import finding
    from parity.faults import likely_causes
    from parity.faults.score import Score
    from parity.run import calibration, loop

    results(False).write(Path("whole-False.json"))
    results(True).write(Path("whole-True.json"))
    Path("score.json").write_text(json.dumps(_score()))
    Path("document.md").write_text(
        "".join(f"<!-- {n}: start -->\n<!-- {n}: end -->\n" for n in ("parity", "selftest", "symptoms"))
    )
    np.save("frames.npy", np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype(np.uint8))
    shutil.copytree(TRACE.with_suffix(""), "trace", dirs_exist_ok=True)
    shutil.copy(TRACE, "trace.json")
    light: dict[tuple[Any, str], Any] = {
        (loop, "judge_cells"): lambda *a, **k: results(False),
        (loop, "measure"): lambda *a, **k: results(False).device,
        (calibration, "measure"): lambda *a, **k: results(False).device,
        (bisect, "_found"): lambda place, out: 0,
        (likely_causes, "explain"): lambda place: likely_causes.Explanation(Row("t", "s", "c", "base", "A", 0, 0, "")),
        (likely_causes, "explain_first"): lambda found: None,
        (record, "write"): lambda out, *rest: _written(out),
        (selftest, "run"): lambda *a, **k: Score(0, []),
        (selftest.gate, "measure"): lambda *a, **k: None,
        (selftest, "show"): lambda *a, **k: None,
        (finding, "draw"): lambda found, path: path,
    }
    for (module, name), stand_in in light.items():
        setattr(module, name, stand_in)


def warm() -> None:
    """Import what readers import, and make the whole files."""
    import parity.sides.torch  # noqa: F401  takes the longest
    from parity.sides.fixtures import ensure_fixtures

    ensure_fixtures()
    _prepare()
    _media()
    _contexts()


def _written(out: Path) -> dict[str, int]:
    from parity.judge.files import write_whole

    write_whole(out, "{}")
    return {"patchifiers any": 1}


def _plan(folder: Path, rng: random.Random) -> list[str]:
    tiny = FIXTURES / "tiny-2.0"
    line = ["--distilled-checkpoint-path", f"{tiny}.safetensors", "--gemma-root", str(GEMMA)]
    line += ["--spatial-upsampler-path", f"{tiny}-upsampler-x2.safetensors", "--prompt", "a fox", "--seed", "1"]
    line += ["--height", "64", "--width", "128", "--num-frames", "9", "--frame-rate", "24", "--output-path", "a.mp4"]
    line += [
        "--image",
        str(FIXTURES / "media" / "image-0.png"),
        "0",
        "0.9",
        "--lora",
        f"{tiny}-lora.safetensors",
        "0.7",
    ]
    line += ["--pipeline", rng.choice(("distilled",))]
    return ["plan", *mutate.words(line, rng)]


def _run_plan(argv: list[str]) -> None:
    if not any(word in argv for word in ("-h", "--help", "--version")):
        refuse(command(argv, "plan"))


FORMATS = {
    "checkpoint": Format(8, _tensors(*CHECKPOINTS), _checkpoint),
    "LoRA": Format(8, _tensors("tiny-2.0-lora.safetensors", "tiny-2.3-ic-lora.safetensors", inner=""), _lora),
    "Gemma config.json": Format(4, _gemma_file("config.json"), _gemma),
    "Gemma index": Format(3, _gemma_file("model.safetensors.index.json"), _gemma),
    "tokenizer.json": Format(3, _gemma_file("tokenizer.json"), _tokenizer),
    "tokenizer_config.json": Format(3, _gemma_file("tokenizer_config.json"), _tokenizer),
    "contexts": Format(6, _context, _read_contexts),
    "picture": Format(8, _medium("picture"), _picture),
    "clip": Format(6, _medium("clip"), _clip),
    "audio": Format(6, _medium("audio"), _audio),
    "results.json": Format(12, _results, _read_results),
    "baseline.json": Format(5, _baseline, _read_baseline),
    "kept cell": Format(8, _cell, _read_cell),
    "selftest.json": Format(6, _selftest, _read_selftest),
    "gate, causes, costs": Format(4, _kept, _read_kept),
    "trace": Format(8, _trace, _read_trace),
    "array": Format(6, _array, _read_array),
    "parity's command line": Format(8, _line, _run_line),
    "ltx2-mlx plan": Format(6, _plan, _run_plan),
}  # fmt: skip


def outcome(name: str, number: int, seed: int, folder: Path) -> tuple[str, str]:
    """Make and read one case: ok, refused, or what is bad of it, and why."""
    rng = random.Random(f"{seed} {name} {number}")
    made = FORMATS[name].make(folder, rng)
    os.environ["GITHUB_ACTIONS"] = "false"
    try:
        FORMATS[name].read(made)
    except LTX2Error as error:
        said = str(error)
        named = not isinstance(made, Path) or made.name in said or f"/{made.stem}/" in said
        if "\n" in said or len(said) > 6000:
            return "many lines", said[:300]
        return ("refused", "") if named else ("unnamed", said[:300])
    except WrongError as error:
        return "wrong", str(error)[:500]
    except MemoryError as error:
        return "memory", str(error)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "site-packages" not in f.filename]
        return "traceback", f"{type(error).__name__}: {error}"[:200].replace(
            "\n", " "
        ) + f" at {' < '.join(ours[:-7:-1])}"
    return "ok", ""


def shares(cases: int) -> Iterator[tuple[str, int]]:
    """(format, number) of each case."""
    whole = sum(form.share for form in FORMATS.values())
    for name, form in FORMATS.items():
        for number in range(max(1, round(cases * form.share / whole))):
            yield name, number
