"""The pipelines' gate can fail, and names the first tensor that is wrong. One pipeline, and a few faults of it; ``make
parity`` runs all of them, ``make selftest`` plants all of their faults."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ltx2_mlx.diffusion.noisers import TorchNoise
from parity.declare.inputs import seeded
from parity.declare.model import Files, Obj, Pipeline
from parity.declare.stages import pipelines
from parity.declare.stages.pipelines import SEEDS
from parity.faults.catalogue import FAULTS, Fault
from parity.faults.selftest import PipelineBench
from parity.judge.results import EXIT_DIVERGED, EXIT_OK, PipelineRow, Results
from parity.report import html, summary, terminal
from parity.run import pipelines as pipeline_runs
from parity.run.arguments import Arguments, Until
from parity.run.moved import known
from parity.run.resume import CellResult, Cells
from parity.sides.mlx_pipelines import Replay
from parity.tap.trace import Tensor
from parity.tap.watch import NUMBER, TEXT, Watched

CHOSEN = [m for m in FAULTS if m.id in ("E01", "E08")]
CELL = ("pipelines.distilled", "tiny-2.0", "float32")


@pytest.fixture(scope="module")
def bench(checkpoints: Path) -> PipelineBench:
    return PipelineBench(CELL)


def test_a_pipeline_is_the_references(bench: PipelineBench) -> None:
    (row,) = bench.clean("run", 0, False)
    assert row.verdict == "pass", f"{row.place}: {row.why}"
    assert (row.frames, row.steps) == (17, 11)
    assert row.off_by_more == 0 and row.off_by_one < 1e-3 and row.waveform < 1e-4 and row.video_latent < 5e-6
    kinds = {item.name.split(".")[0] for item in row.details}
    assert {watch.name for watch in pipelines()[CELL[0]].watches} - kinds == {"audio_encoder", "sde_step", "enhance"}
    assert sum(item.name.startswith("video_decoder") for item in row.details) > 2, "one tile"


def test_a_seed_alone_repeats_the_references_noise(bench: PipelineBench) -> None:
    noise = TorchNoise(SEEDS[0])
    assert len(bench.run.theirs.noise) == 4
    for drawn in bench.run.theirs.noise:
        np.testing.assert_allclose(np.array(noise.randn(drawn.shape, mx.float32)), drawn, rtol=0, atol=2e-6)


@pytest.mark.parametrize("mutation", CHOSEN, ids=lambda m: m.id)
def test_a_fault_is_named_by_the_first_tensor_that_it_moves(bench: PipelineBench, mutation: Fault) -> None:
    found = bench.plant(mutation)
    assert found.localised, f"{mutation.description}: first seen at {found.first_tap!r}: {found.why}"


# ---- the rules, on made-up recordings -----------------------------------------------------------------------------

GENERATOR = np.random.default_rng(5)


def recording(**items: np.ndarray) -> Watched:
    base = {
        "x0.000.in.video.timesteps": np.full((1, 5, 1), 0.7, np.float32),
        "x0.000.video": GENERATOR.standard_normal((1, 5, 7)).astype(np.float32),
        "video_latent.000.out": GENERATOR.standard_normal((1, 7, 1, 1, 5)).astype(np.float32),
        "frames": GENERATOR.integers(1, 255, (3, 40, 50, 3)).astype(np.uint8),
        "waveform": GENERATOR.standard_normal((2, 99)).astype(np.float32),
    }
    return Watched({name: Tensor(array, str(array.dtype)) for name, array in (base | items).items()})


THEIRS = recording()
FRAMES = THEIRS.items["frames"].values
BYTE = np.arange(FRAMES.size).reshape(FRAMES.shape)


def judged(ours: Watched, twin: Watched | None = None) -> PipelineRow:
    return pipeline_runs.judge(PipelineRow("pipelines.toy", "any", "float32"), THEIRS, ours, twin)


def changed(name: str, values: np.ndarray | None, dtype: str = "") -> Watched:
    items = dict(THEIRS.items)
    del items[name]
    if values is not None:
        items[name] = Tensor(values, dtype or str(values.dtype))
    return Watched(items)


def scaled(name: str, by: float) -> np.ndarray:
    return THEIRS.items[name].values * np.float32(1 + by)


@pytest.mark.parametrize(
    ("name", "values", "verdict"),
    [
        ("x0.000.video", scaled("x0.000.video", 2e-5), "pass"),
        ("x0.000.video", scaled("x0.000.video", 1e-4), "diverged"),
        ("x0.000.video", scaled("x0.000.video", np.nan), "invalid"),
        ("x0.000.video", scaled("x0.000.video", 0)[:, :4], "invalid"),
        ("x0.000.video", None, "missing"),
        ("x0.000.in.video.timesteps", np.full((1, 1, 1), 0.7, np.float32), "pass"),
        ("x0.000.in.video.timesteps", np.full((1, 5, 1), np.nextafter(np.float32(0.7), np.float32(1))), "diverged"),
        ("waveform", THEIRS.items["waveform"].values + np.float32(5e-5), "pass"),
        ("waveform", THEIRS.items["waveform"].values + np.float32(2e-4) * (np.arange(99) == 7), "diverged"),
        ("frames", FRAMES + (BYTE % 1500 == 0).astype(np.uint8), "pass"),
        ("frames", FRAMES + (BYTE % 500 == 0).astype(np.uint8), "diverged"),
        ("frames", FRAMES + 2 * (BYTE == 7777).astype(np.uint8), "diverged"),
    ],
)
def test_rules_of_float32(name: str, values: np.ndarray | None, verdict: str) -> None:
    row = judged(changed(name, values))
    assert row.verdict == verdict, row.why
    assert row.first == ("" if verdict == "pass" else name)


def test_another_dtype_an_extra_tensor_and_an_error_are_invalid() -> None:
    half = changed("x0.000.video", scaled("x0.000.video", 0), "bfloat16")
    assert (judged(half).verdict, judged(half).why) == ("invalid", "dtype bfloat16, the reference has float32")
    extra = Watched(THEIRS.items | {"x0.001.video": THEIRS.items["x0.000.video"]})
    assert (judged(extra).verdict, judged(extra).first) == ("invalid", "x0.001.video")
    failed = replace(changed("frames", None), error="ValueError: no more")
    assert (judged(failed).first, judged(failed).why) == ("frames", "ValueError: no more")
    unused = Watched(THEIRS.items, error="2 of the reference's 4 draws were not made")
    assert (judged(unused).verdict, judged(unused).first) == ("invalid", "run")


def test_rules_of_bfloat16_follow_the_references_distance_from_itself() -> None:
    twin = changed("x0.000.video", scaled("x0.000.video", 0.02))
    ours = changed("x0.000.video", scaled("x0.000.video", 0.1))
    assert judged(ours, twin).verdict == "pass"
    assert judged(ours, THEIRS).verdict == "diverged"
    noisy = FRAMES.astype(int) + GENERATOR.normal(0, 3.0, FRAMES.shape).round().astype(int)
    row = judged(changed("frames", noisy.clip(0, 255).astype(np.uint8)), THEIRS)
    assert row.verdict == "diverged" and 37 < row.psnr < 40 and row.psnr_self == float("inf")


def test_nothing_to_compare_is_no_pass() -> None:
    nothing = pipeline_runs.judge(PipelineRow("pipelines.toy", "any", "float32"), Watched(), Watched())
    assert (nothing.verdict, nothing.first) == ("invalid", "run")
    empty = changed("x0.000.video", np.zeros((1, 0, 7), np.float32))
    both = pipeline_runs.judge(PipelineRow("pipelines.toy", "any", "float32"), empty, empty)
    assert (both.verdict, both.why) == ("invalid", "an empty tensor")


def test_a_second_run_that_lacks_a_tensor_or_is_far_away_allows_nothing() -> None:
    lacking, far = changed("x0.000.video", None), changed("x0.000.video", scaled("x0.000.video", 0.2))
    assert judged(THEIRS, lacking).why == "the reference's second run has no such tensor"
    assert judged(THEIRS, far).why == "the reference is further than 0.17 from itself, and can judge nothing"


def test_a_reference_that_is_rather_far_from_itself_allows_no_more_than_half() -> None:
    twin = changed("x0.000.video", scaled("x0.000.video", 0.1))
    for size, verdict in ((0.4, "pass"), (0.6, "diverged")):
        assert judged(changed("x0.000.video", scaled("x0.000.video", size)), twin).verdict == verdict


def test_what_is_no_tensor_is_equal() -> None:
    def with_text(text: str, number: float) -> Watched:
        items = {"enhance.000.in.prompt": Tensor(np.frombuffer(text.encode(), np.uint8), TEXT)}
        return Watched(THEIRS.items | items | {"x0.000.in.audio.enabled": Tensor(np.array(number), NUMBER)})

    def first(ours: Watched) -> str:
        return pipeline_runs.judge(PipelineRow("pipelines.toy", "any", "float32"), with_text("fox", 1), ours).first

    assert first(with_text("fox", 1)) == ""
    assert first(with_text("fax", 1)) == first(with_text("a fox", 1)) == "enhance.000.in.prompt"
    assert first(with_text("fox", 0)) == "x0.000.in.audio.enabled"


class Stream:
    def __init__(self, seed: int):
        self.seed = seed

    def initial_seed(self) -> int:
        return self.seed


def test_a_draw_is_known_by_its_seed_and_its_place_in_the_stream() -> None:
    def drawn(*streams: Stream | None) -> list[tuple[int, ...]]:
        recording, noise = Watched(), Tensor(np.ones((1, 2), np.float32), "float32")
        for stream in streams:
            recording.draw(stream, noise)
        parts = [[f"noise.{i:03d}.{part}" for part in ("seed", "draws")] for i in range(len(streams))]
        return [tuple(int(recording.items[p].values) for p in pair if p in recording.items) for pair in parts]

    one, other = Stream(-1), Stream(7)
    assert drawn(one, other, one) == [(2**64 - 1, 0), (7, 0), (2**64 - 1, 1)]
    assert drawn(one, Stream(-1)) == [(2**64 - 1, 0), (2**64 - 1, 0)], "made anew"
    assert drawn(None) == [()], "of the global generator nothing is known"


def test_noise_is_the_references_draw_by_draw() -> None:
    replay = Replay([np.ones((1, 2), np.float32), np.full((3,), 2.0)])
    assert replay.randn((1, 2), mx.bfloat16).dtype == mx.bfloat16
    with pytest.raises(ValueError, match="draw 1 has the shape"):
        replay.randn64((4,))
    with pytest.raises(ValueError, match="does not make"):
        replay.randn64((3,))


def test_pipelines_gate_and_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = judged(THEIRS), judged(changed("frames", FRAMES + 2 * (BYTE == 7).astype(np.uint8)))
    assert Results(pipelines=[good]).exit_code() == EXIT_OK
    results = Results(pipelines=[good, bad], environment={"machine": "m", "device": "cpu"})
    assert results.exit_code() == EXIT_DIVERGED and results.first_divergence() is bad
    results.write(tmp_path / "results.json")
    document = json.loads((tmp_path / "results.json").read_text())
    assert document["pipelines"][1]["off_by_more"] == 1 and document["pipelines"][0]["psnr"] is None
    text = summary.markdown(document)
    assert "**diverged at frames**" in text and "First divergence: `pipelines.toy any float32 frames`" in text
    page = html.single(html.Report(document))
    assert "1 pixels off by more than 1" in page
    terminal.show(results, [])
    assert "first divergence: pipelines.toy any float32 frames" in " ".join(capsys.readouterr().out.split())
    cells = Cells(tmp_path / "cells", "key")
    cells.save("pipelines.toy", "any", CellResult(results, 1.0))
    kept = cells.load("pipelines.toy", "any")
    assert kept is not None and kept.results.pipelines == results.pipelines


# ---- what arguments move, with a made-up reference -----------------------------------------------------------------


def moved(settled: dict[str, str], *runs: dict[str, object], deaf: str = "", restless: bool = False) -> dict[str, str]:
    """Why each argument is a hole, if it is; the reference, and so the recording, does not hear ``deaf``."""
    base = pipelines()["pipelines.distilled"]

    def made(files: Files) -> dict[str, object]:
        return runs[files.variant]

    def record(pipeline: Pipeline, into: Watched) -> Watched:
        given = pipeline.init(files[0]) | pipeline.call(files[0])
        for name in sorted(set(given) - {deaf}):
            value = given[name].fields["tile"] if isinstance(given[name], Obj) else given[name]
            into.put(name, Tensor(np.array(value), NUMBER))
        if restless:
            into.put("last", Tensor(np.array(GENERATOR.random()), NUMBER))
        return into

    def differs(name: str, before: Tensor, after: Tensor | None) -> bool:
        return after is None or not np.array_equal(before.values, after.values)

    files = [pipeline_runs.files(config, "float32") for config in base.configs]
    family = [replace(base, init=lambda files: {}, call=made, settled=base.settled | settled)]
    return {item.name: item.why for item in Arguments(family, files, record, differs).items() if item.why}


GIVEN = dict.fromkeys(("prompt", "seed", "height", "width", "num_frames", "frame_rate", "images", "loras"), (3, 4))
GIVEN |= {"distilled_checkpoint_path": (5, 6), "spatial_upsampler_path": (5, 6), "enhance_prompt": (False, True)}
GIVEN |= {"tiling_config": (Obj("Tiling", {"tile": 1}), Obj("Tiling", {"tile": 2}))}


def test_an_argument_that_is_not_given_has_one_value_or_moves_nothing_is_a_hole() -> None:
    first, second = ({name: pair[i] for name, pair in GIVEN.items()} for i in range(2))
    assert moved({}, first, second) == {}
    assert moved({}, first, second | {"seed": 3}) == {"argument.seed": "it has one value in all runs: 3"}
    assert moved({}, first, second, deaf="seed") == {"argument.seed": "it moves nothing that is compared"}
    lost = [{name: value for name, value in run.items() if name != "seed"} for run in (first, second)]
    assert moved({}, *lost) == {"argument.seed": "no run is given it"}
    assert moved({"seed": "of no use"}, *lost) == {}
    assert moved({"seed": "of no use"}, first, second) == {}
    stale = moved({"sead": "a name that is gone"}, first, second)
    assert stale == {"argument.sead": "declared to be settled, and no argument of either side"}


def test_a_reference_that_does_not_repeat_itself_proves_nothing_about_arguments() -> None:
    assert moved({}, *({name: pair[i] for name, pair in GIVEN.items()} for i in range(2)), restless=True) == {
        "argument": "a run with the same arguments differs from the first"
    }


FAMILIES: dict[str, list[Pipeline]] = {}
for one in pipelines().values():
    FAMILIES.setdefault(one.cls, []).append(one)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_kept_of_the_arguments_is_of_the_pipelines_as_they_are(name: str, checkpoints: Path) -> None:
    """Or else they are found again in every run, which is slow: ``python -m parity.run.moved`` keeps them."""
    rule = pipeline_runs.argument_rule(FAMILIES[name])
    rule.moved = known(FAMILIES[name], rule.given)
    rule.record = lambda *arguments: pytest.fail("the reference runs")
    assert rule.moved and {item.verdict for item in rule.items()} == {"pass"}


def test_what_is_kept_of_the_arguments_is_what_is_found(bench: PipelineBench) -> None:
    """Of every third argument; the reference runs for each of them. Its run with the first arguments is the bench's."""
    family = FAMILIES["DistilledPipeline"]
    rule = pipeline_runs.argument_rule(family)
    record, first = rule.record, bench.run.theirs
    assert rule.runs[0] == {**family[0].init(bench.run.files), **family[0].call(bench.run.files)}
    rule.record = lambda pipeline, into: record(pipeline, into) if isinstance(into, Until) else first
    kept = known(family, rule.given)
    rule.moved = kept - set(sorted(kept)[::3])
    found = {item.name.removeprefix("argument.") for item in rule.items() if item.verdict == "pass"}
    assert found == kept


def test_what_is_kept_of_the_arguments_serves_every_seed(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Arguments, "_moves", lambda *arguments: pytest.fail("the reference runs"))
    with seeded(3):
        assert {item.verdict for item in pipeline_runs.arguments(FAMILIES["DistilledPipeline"])} == {"pass"}


def test_nothing_is_known_of_arguments_with_other_values_or_recordings(checkpoints: Path) -> None:
    family = FAMILIES["DistilledPipeline"]
    given = pipeline_runs.argument_rule(family).given
    assert known(family, given)
    assert not known(family, [given[0] | {"frame_rate": 24.0}, *given[1:]])
    fewer = [replace(pipeline, watches=pipeline.watches[1:]) for pipeline in family]
    assert not known(fewer, given)


def test_a_name_chooses_pipelines() -> None:
    assert len(pipeline_runs.select("*", "*")) == len(pipeline_runs.select("pipelines", "tiny-*")) == 18
    assert [p.name for p, _ in pipeline_runs.select("pipelines.retake*", "tiny-2.3")] == [
        "pipelines.retake",
        "pipelines.retake_distilled",
    ]
    assert pipeline_runs.select("transformer") == []
