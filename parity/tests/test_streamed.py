"""What is larger than memory is compared page by page, with the very rows that memory would have given."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
import torch

from ltx2_mlx.errors import InputError
from parity.cli import main
from parity.declare.inputs import FIXTURES
from parity.declare.model import Case, Stage
from parity.declare.stages import stages
from parity.judge.results import EXIT_INCOMPLETE, EXIT_OK, EXIT_USAGE, Results, read_results
from parity.judge.verdicts import judge
from parity.run import cells, live, streaming
from parity.run.cells import RealFiles, real_cells
from parity.run.live import Runner
from parity.run.pool import cores, held_gb, peak_gb
from parity.run.recorded import Recorded
from parity.run.replay import probes_of, run_tapped
from parity.run.streamed import StreamedRunner, page_of
from parity.run.streaming import MemoryLimitError, Streaming
from parity.sides.fixtures import RECIPES
from parity.sides.torch.paging import threads
from parity.tap import raw_safetensors as shards

# Every lane of the smallest cell of a kind; of what else differs in its weights alone, the outputs of a free run.
CELLS = (
    ("transformer", "tiny-2.3-video-only", "ABC"),
    ("gemma", "tiny-gemma", "ABC"),
    ("gemma4", "tiny-gemma4", "C"),
    ("video_decoder", "tiny-2.0-timestep", "ABC"),
    ("vocoder", "tiny-2.0-audio-wide", "ABC"),
    ("vocoder", "tiny-2.3-audio-group", "C"),
    ("transformer_fp8", "tiny-2.3", "C"),
)


def base_of(name: str) -> Stage:
    """A stage with its first case alone; of a video decoder's two videos one, since no size is the subject here."""
    stage = stages()[name]

    def first(config: dict[str, Any]) -> dict[str, Case]:
        label, case = next(iter(stage.cases(config).items()))
        if name == "video_decoder":
            case = replace(
                case, kwargs={"sample": replace(case.kwargs["sample"], values=case.kwargs["sample"].values[:1])}
            )
        return {label: case}

    return replace(stage, cases=first)


def streamed(folder: Path, name: str, config: str, lanes: str, **options: Any) -> Results:
    """Everything is paged, whatever its size."""
    runner = StreamedRunner(Streaming(folder, **{"small": 0} | options))
    return runner.run([(base_of(name), config)], lanes)


def documents(results: Results) -> list[dict[str, Any]]:
    return [row.record() | {"order": 0, "source": "", "profile": None} for row in results.rows]


@pytest.mark.parametrize(("name", "config", "lanes"), CELLS)
def test_the_rows_are_those_of_a_run_in_memory_to_the_last_bit(
    name: str, config: str, lanes: str, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "HALF", ("bfloat16",))
    usual, paged = Runner().run([(base_of(name), config)], lanes), streamed(tmp_path, name, config, lanes)
    assert [row.record() for row in paged.rows] == [row.record() for row in usual.rows]
    assert {row.lane for row in paged.rows} == set(lanes)
    assert (paged.carried, paged.constants, paged.coverage) == (usual.carried, usual.constants, usual.coverage)
    assert not list(tmp_path.iterdir()), "what was recorded of a case is gone when it has been judged"


# ---- a file with many blocks ---------------------------------------------------------------------------------------

DEPTH, BLOCK = 12, 9
TAP = f"transformer_blocks.{BLOCK}"


@pytest.fixture(scope="module")
def deep(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small transformer with its blocks over and over again."""
    tensors, metadata = shards.read_raw(FIXTURES / "tiny-2.3-video-only.safetensors")
    config = json.loads(metadata["config"])
    prefix, count = "model.diffusion_model.transformer_blocks.", config["transformer"]["num_layers"]
    config["transformer"]["num_layers"] = DEPTH
    blocks = {key: raw for key, raw in tensors.items() if key.startswith(prefix)}
    whole = {key: raw for key, raw in tensors.items() if key not in blocks}
    for number in range(DEPTH):
        start = f"{prefix}{number % count}."
        whole |= {f"{prefix}{number}.{key[len(start) :]}": raw for key, raw in blocks.items() if key.startswith(start)}
    path = tmp_path_factory.mktemp("deep") / "deep.safetensors"
    shards.write_raw(path, whole, metadata | {"config": json.dumps(config)})
    return path


def recorded_of(runner: StreamedRunner, path: Path) -> Recorded:
    """What the reference does of the first case of the transformer."""
    stage = stages()["transformer"]
    name, case, pair = next(runner.matching(runner.load(stage, path.stem, "float32"), "*"))
    return replace(runner.record(pair, case), name=name)


def judged(runner: StreamedRunner, recorded: Recorded, run: str) -> Results:
    """A run of ours of this name, beside what was recorded."""
    pair = recorded.pair
    session = pair.session(run, runner.mlx, recorded.trace, probes_of(pair))
    ours = run_tapped(runner.mlx, pair, pair.ours, recorded, "float32", session)
    results, config = Results(), pair.paths[pair.stage.main].stem
    where = {"stage": pair.stage.name, "config": config, "case": recorded.name, "lane": "A"}
    judge(results, where, pair.stage, recorded.trace, recorded.oracle, ours)
    return results


def test_only_the_blocks_that_are_asked_for_are_judged_and_as_they_are_in_the_whole(
    checkpoints: Path, tmp_path: Path
) -> None:
    cell = "transformer", "tiny-2.3-video-only", "A"
    part, whole = (streamed(tmp_path / str(n), *cell, blocks=blocks) for n, blocks in enumerate((frozenset({1}), None)))
    assert {page_of(row.name.partition(":")[0]).rpartition(".")[0] for row in part.rows} >= {"transformer_blocks"}
    assert not [row.name for row in part.rows if row.name.startswith("transformer_blocks.0")]
    kept = [row for row in documents(whole) if not row["name"].startswith("transformer_blocks.0")]
    assert documents(part) == kept
    assert len([row for row in kept if row["name"].startswith("transformer_blocks.1.")]) > 30
    assert whole.coverage[0].whole
    assert not part.coverage


def _gate(block: Any) -> None:
    cls = type(block)

    def modulation(self: Any, *args: Any) -> Any:
        found = cls._modulation(self, *args)
        return found._replace(gate=found.gate * 1.01)

    object.__setattr__(block, "__class__", type(cls.__name__, (cls,), {"_modulation": modulation}))


def _swapped(block: Any) -> None:
    block.scale_shift_table = block.scale_shift_table[mx.array([1, 0, *range(2, block.scale_shift_table.shape[0])])]


def _bias(block: Any) -> None:
    block.attn2.to_out[0].bias = mx.zeros_like(block.attn2.to_out[0].bias)


def _eps(block: Any) -> None:
    block.attn1.q_norm.eps = 1e-3


def _rope(block: Any) -> None:
    attention = block.attn1
    cls = type(attention)

    def call(self: Any, x: mx.array, *args: Any, pe: Any = None, **kwargs: Any) -> mx.array:
        return cls.__call__(self, x, *args, pe=(pe[0], -pe[1]), **kwargs)

    object.__setattr__(attention, "__class__", type(cls.__name__, (cls,), {"__call__": call}))


FAULTS: dict[Callable[[Any], None], str] = {
    _gate: f"{TAP}.apply_cross_attention_adaln:x",
    _swapped: f"{TAP}.get_ada_values:scale_shift_table",
    _bias: f"{TAP}.attn2.to_out.0",
    _eps: f"{TAP}.attn1.q_norm",
    _rope: f"{TAP}.attn1.apply_rotary_emb:freqs_cis.1",
}


def test_each_of_five_faults_in_one_block_of_many_is_found_at_its_tap(
    deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streaming = Streaming(tmp_path, small=64, blocks=frozenset({BLOCK}))
    runner = StreamedRunner(streaming, {"transformer": deep})
    recorded = recorded_of(runner, deep)
    clean = judged(runner, recorded, "ours")
    assert len(clean.rows) > 30 and not clean.failures()
    usual = StreamedRunner.ours
    for fault, tap in FAULTS.items():

        def ours(
            self: StreamedRunner, *args: Any, fault: Callable[[Any], None] = fault, **options: Any
        ) -> dict[str, Any]:
            loaded = usual(self, *args, **options)
            blocks = loaded["transformer"].transformer_blocks
            if fault in (_swapped, _bias):  # in weights, which are there while the block runs
                loaded["transformer"].pages.amend = lambda block: fault(block) if block is blocks[BLOCK] else None
            else:
                fault(blocks[BLOCK])
            return loaded

        monkeypatch.setattr(StreamedRunner, "ours", ours)
        vars(recorded.pair)["ours"].drop()  # or else it would not be loaded again, with the fault
        first = judged(runner, recorded, f"ours{fault.__name__}").first_divergence()
        assert getattr(first, "name", "").startswith(tap), f"{fault.__name__}: first seen at {first}"


# ---- a file of the released size ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _given(owner: Any, **methods: Callable[..., Any]) -> Iterator[None]:
    """A module with methods of its own, while it lasts."""
    cls = type(owner)
    object.__setattr__(owner, "__class__", type(cls.__name__, (cls,), methods))
    try:
        yield
    finally:
        object.__setattr__(owner, "__class__", cls)


def _modulated(block: Any, changed: Callable[[Any], Any]) -> AbstractContextManager[None]:
    usual = type(block)._modulation
    return _given(block, _modulation=lambda self, *args: changed(usual(self, *args)))


def _exchanged(block: Any) -> AbstractContextManager[None]:
    return _modulated(block, lambda found: found._replace(shift=found.scale, scale=found.shift))


def _ungated(block: Any) -> AbstractContextManager[None]:
    return _modulated(block, lambda found: found._replace(gate=mx.ones_like(found.gate)))


def _norm_of_heads(block: Any) -> AbstractContextManager[None]:
    heads = block.attn1.heads

    def call(self: Any, x: mx.array) -> mx.array:
        each = mx.fast.rms_norm(x.reshape(*x.shape[:-1], heads, -1), None, self.eps)
        return each.reshape(x.shape) * self.weight

    return _given(block.attn1.q_norm, __call__=call)


def _other_rate(block: Any) -> AbstractContextManager[None]:
    usual = type(block.audio_to_video_attn).__call__

    def call(self: Any, x: mx.array, context: Any = None, mask: Any = None, pe: Any = None, k_pe: Any = None) -> Any:
        cos, sin = pe  # of twice the angle:
        return usual(self, x, context, mask, (2 * cos * cos - 1, 2 * sin * cos), k_pe)

    return _given(block.audio_to_video_attn, __call__=call)


def _no_bias(block: Any) -> AbstractContextManager[None]:
    return _given(block.ff.net[2], __call__=lambda self, x: x @ self.weight.T)


WIDE_FAULTS: dict[Callable[[Any], AbstractContextManager[None]], str] = {
    _exchanged: f"{TAP}.attn1:x",
    _ungated: f"{TAP}.rms_norm:x",
    _norm_of_heads: f"{TAP}.attn1.q_norm",
    _other_rate: f"{TAP}.audio_to_video_attn.apply_rotary_emb:freqs_cis",
    _no_bias: f"{TAP}.ff.net.2",
}


@pytest.fixture(scope="module")
def wide(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 blocks at the 19B's width, 38 GB: the file of ``--checkpoint``, or one that is written here."""
    if given := request.config.getoption("--checkpoint"):
        return Path(given)
    folder = tmp_path_factory.mktemp("wide")
    words = ["--full-size", "2.0", "--components", "transformer", "--out", str(folder)]
    subprocess.run([sys.executable, str(RECIPES / "make.py"), *words], check=True)
    return folder / "full-2.0.safetensors"


@pytest.fixture
def every_core() -> Iterator[None]:
    with threads(cores()):
        yield


@pytest.mark.full_size
def test_each_of_five_faults_in_block_37_of_48_at_the_released_width_is_found_at_its_tap(
    wide: Path, tmp_path: Path, every_core: None
) -> None:
    streaming = Streaming(tmp_path, blocks=frozenset({0, BLOCK}), max_rss=7)
    runner = StreamedRunner(streaming, {"transformer": wide}, lambda line: print(f"{held_gb():.1f} GB {line}"))
    recorded = recorded_of(runner, wide)

    def shown(run: str) -> Results:
        results = judged(runner, recorded, run)
        first = results.first_divergence()
        said = (
            f"{len(results.rows)} rows, first divergence {getattr(first, 'name', None)} ({getattr(first, 'why', '')})"
        )
        print(f"{run}: {said}, {peak_gb():.1f} GB", flush=True)
        return results

    clean = shown("ours")
    assert len(clean.rows) > 300 and not clean.failures()
    for fault, tap in WIDE_FAULTS.items():
        with fault(recorded.pair.ours["transformer"].transformer_blocks[BLOCK]):
            first = shown(f"ours{fault.__name__}").first_divergence()
        assert getattr(first, "name", "").startswith(tap), fault.__name__


# ---- going on --------------------------------------------------------------------------------------------------------


class StoppedError(MemoryLimitError):
    """As if the process had been killed."""


def test_a_run_that_was_stopped_goes_on_after_its_last_page(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After every fourth page, over all its runs. (Of a free run that goes on, the last bit may be another: a page that
    is handed on from disk is laid out in rows, which the one before it need not have been.)"""
    cell = [(base_of("video_decoder"), "tiny-2.0-timestep")]
    usual = streamed(tmp_path / "whole", "video_decoder", "tiny-2.0-timestep", "A")
    pages: list[str] = []

    def progress(line: str, left: Iterator[int]) -> None:
        if ": reference: " in line or ": ours" in line or ": oracle" in line:
            pages.append(line)
            if next(left, None) is None:
                raise StoppedError

    for _ in range(30):
        budget = iter(range(3))
        runner = StreamedRunner(
            Streaming(tmp_path / "parts", small=0), progress=lambda line, left=budget: progress(line, left)
        )
        try:
            results = runner.run(cell, "A")
            break
        except StoppedError:
            continue
    assert documents(results) == documents(usual)
    assert results.coverage == usual.coverage
    assert len(pages) == len(set(pages)) > 20, "no page was run twice"


def test_a_page_that_was_changed_or_is_of_other_code_is_run_again(deep: Path, tmp_path: Path) -> None:
    from parity.run.streamed_shards import Page, Shelf

    def numbers(key: str = "key") -> list[int]:
        shelf = Shelf(tmp_path / "shelf", key)
        return [n for n in range(3) if shelf.page("reference", (f"layers.{n}", 0)) is not None]

    shelf = Shelf(tmp_path / "shelf", "key")
    for number in range(3):
        with shelf.new(Page("reference", (f"layers.{number}", 0))):
            shelf.store("reference", live.Tensor(mx.arange(4).__array__(), "int32"))
    assert numbers() == [0, 1, 2]
    shard = tmp_path / "shelf" / "00001.shard"
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    assert numbers() == [0], "and what follows on it"
    assert numbers("of other code") == []


# ---- from the command line -------------------------------------------------------------------------------------------


def test_the_command_streams_what_is_too_large_and_looks_only_at_the_stages_that_it_names(
    in_this_process: None,
    checkpoints: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cells, "IN_MEMORY", 1e6)
    file, out = checkpoints / "tiny-2.0-interleaved.safetensors", tmp_path / "results.json"
    found = real_cells(RealFiles(file))
    assert "transformer" in found.streamed
    assert real_cells(RealFiles(file, checkpoints / "tiny-gemma"), "gemma").chosen == [
        (stages()["gemma"], "tiny-gemma")
    ]
    argv = ["run", "--checkpoint", str(file), "--stage", "transformer", "--lane", "A", "--json", str(out)]
    argv += ["--blocks", "1"]
    assert main([*argv, "--max-rss", "0.1"]) == EXIT_INCOMPLETE
    stopped = capsys.readouterr().err
    assert "--max-rss allows 0.1" in stopped
    assert "Traceback" not in stopped
    assert main([*argv, "--resume", "--max-rss", "24"]) == EXIT_OK
    assert torch.get_num_threads() == 1, "or else all that follows in this process is slower"
    assert read_results(out)["summary"]["peak_gb"] > 0
    assert read_results(out)["origin"]["blocks"] == "1"
    assert "blocks    1 alone" in capsys.readouterr().out
    assert "blocks other than 1" in (out.parent / "report" / "notes.html").read_text()
    assert main(["run", "--stage", "sampling", "--blocks", "1", "--json", str(out)]) == EXIT_USAGE


def test_a_small_part_of_a_file_larger_than_memory_is_streamed_too(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ltx-core's loader maps the whole file to be written, which Linux refuses."""
    file = checkpoints / "tiny-2.0.safetensors"
    assert not real_cells(RealFiles(file), "video_decoder").streamed
    monkeypatch.setattr(cells, "memory_size", lambda: file.stat().st_size)
    assert real_cells(RealFiles(file), "video_decoder").streamed == {"video_decoder"}


def test_less_memory_than_is_needed_stops_the_run_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "held_gb", lambda: 5.0)
    Streaming(tmp_path, max_rss=7).require(1_000_000_000)
    with pytest.raises(MemoryLimitError, match=r"5\.0 GB held and 3\.0 GB more"):
        Streaming(tmp_path, max_rss=7).require(3_000_000_000)


def test_a_tap_of_a_large_file_is_taken_apart_or_refused_in_one_line(
    deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cells, "IN_MEMORY", 1e6)
    monkeypatch.chdir(tmp_path)
    for verb in ("bisect", "explain"):
        place = ["transformer", "deep", "base", "A", f"{TAP}.attn1.to_q"]
        assert main([verb, *place, "--checkpoint", str(deep)]) == EXIT_OK
        assert main([verb, *place[:4], "X0Model", "--checkpoint", str(deep)]) == EXIT_USAGE
        assert "taken apart" in capsys.readouterr().err
    with pytest.raises(InputError, match="give the same files again"):
        from parity.investigate.bisect import record
        from parity.judge.place import Place

        record(Runner(), Place("transformer", "deep", "base", "A"))
