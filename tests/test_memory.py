"""What a run takes is what its plan said; ``--memory-limit`` is kept, and changes no pixel where it need not."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ltx2_mlx.cli import blas, generate, limit
from ltx2_mlx.cli.main import main
from ltx2_mlx.cli.memory import Stage, lines, reading
from ltx2_mlx.cli.plan import Plan, plan
from ltx2_mlx.cli.recipes import parse
from ltx2_mlx.cli.request import Request
from ltx2_mlx.cli.shown import show
from ltx2_mlx.cli.values import size_of_memory
from ltx2_mlx.loading.checkpoint import read_checkpoint
from ltx2_mlx.memory import Peaks
from ltx2_mlx.pipelines.contexts import save_contexts
from ltx2_mlx.text.embeddings import EmbeddingsProcessorOutput
from ltx2_mlx.types import Audio


@pytest.fixture(autouse=True)
def on_cpu() -> None:
    """The estimates of these sizes were measured there."""
    if mx.default_device().type != mx.cpu:
        mx.set_default_device(mx.cpu)


def flags(checkpoints: Path, name: str, more: str, **names: object) -> list[str]:
    """A command line without a pipeline's own flags."""
    files = f"--gemma-root {checkpoints}/tiny-gemma --prompt 'a fox' --output-path {checkpoints}/none.mp4"
    checkpoint = "--distilled-checkpoint-path" if "distilled" in more else "--checkpoint-path"
    more = more.format(folder=checkpoints, name=name, **names)
    return shlex.split(f"{checkpoint} {checkpoints}/{name}.safetensors {files} {more}")


def planned(checkpoints: Path, name: str, more: str, **names: object) -> Plan:
    return plan(parse("generate", flags(checkpoints, name, more, **names)))


@pytest.fixture(scope="module")
def context(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A context of the prompt, so that Gemma need not run."""
    path = tmp_path_factory.mktemp("contexts") / "kept.safetensors"
    files = (checkpoints / "tiny-2.3.safetensors", checkpoints / "tiny-gemma")
    encoded = [mx.random.normal((1, 1024, width)).astype(mx.bfloat16) for width in (56, 28)]
    save_contexts(path, ["a fox"], [EmbeddingsProcessorOutput(*encoded, mx.ones((1, 1024)))], *files)
    return path


def run(made: Plan) -> tuple[np.ndarray, Audio | None, Peaks]:
    """The frames and audio of a plan, and the memory of its phases."""
    assert not made.problems
    mx.clear_cache()
    own = generate.settings(made.request)
    frames, audio = generate.run(made.request, own)
    return np.concatenate(list(frames)), audio, own.peaks


RUNS = {
    "float32, from a video": (
        "tiny-2.0",
        "--pipeline retake --video-path {folder}/media/clip.mp4 --start-time 0.1 --end-time 0.5 --dtype float32 "
        "--num-inference-steps 2 --video-stg-blocks 1 --audio-stg-blocks 1",
    ),
    "bfloat16, two stages from an image": (
        "tiny-2.3",
        "--pipeline distilled --spatial-upsampler-path {folder}/{name}-upsampler-x2.safetensors --no-audio "
        "--height 128 --width 192 --num-frames 9 --image {folder}/media/image-0.png 0 0.9 --context {context}",
    ),
}


@pytest.mark.parametrize("case", RUNS)
def test_each_phase_takes_what_its_plan_said_within_15_percent(case: str, checkpoints: Path, context: Path) -> None:
    made = planned(checkpoints, *RUNS[case], context=context)
    _, _, peaks = run(made)
    expected = {stage.name: stage.memory for stage in made.stages}
    print("\n".join(lines(made.stages, peaks)))
    assert list(peaks.phases) == list(expected)
    # An upsampler is read while its phase lasts. How many tensors are on their way at once, from none to twice what the
    # plan counts, depends on the disk and on what else the machine does.
    path = made.request.spatial_upsampler_path
    moving = {} if path is None else {"upsampling": reading(read_checkpoint(path), "upsampler", made.request)}
    for name, peak in peaks.phases.items():
        least, most = (expected[name] + sign * moving.get(name, 0) for sign in (-1, 1))
        assert least <= 1.15 * peak and 0.85 * peak <= most, (name, peak, expected[name])
    assert peaks.most == max(peaks.phases.values())


def test_phases_keep_the_larger_of_two_peaks_and_what_was_before_is_left_out() -> None:
    before = mx.zeros((1000, 1000))
    mx.eval(before)
    peaks = Peaks()
    for side in (600, 300, 400):
        with peaks.phase("both"), peaks.phase(str(side)):
            mx.eval(mx.zeros((side, side)))
    assert list(peaks.phases) == ["both", "600", "300", "400"]
    assert [peaks.phases[name] // 1000 for name in peaks.phases] == [1440, 1440, 360, 640]
    assert peaks.most == peaks.phases["both"]


# ---- the limit ----------------------------------------------------------------------------------------------------

LARGE = (
    "--pipeline distilled --spatial-upsampler-path {folder}/{name}-upsampler-x2.safetensors --no-audio "
    "--height 512 --width 768 --num-frames 121 --context {context}"
)
DECODED = "--pipeline ti2vid_one_stage --height 64 --width 96 --num-frames 25 --placeholder --no-audio --seed 3"


def test_a_limit_picks_smaller_slabs_which_change_no_pixel(checkpoints: Path) -> None:
    plain, limited = (planned(checkpoints, "tiny-2.3", f"{DECODED} {more}") for more in ("", "--memory-limit 12MB"))
    before, after = run(plain), run(limited)
    np.testing.assert_array_equal(after[0], before[0])
    assert before[2].most > 12e6 >= after[2].most
    assert limited.notes == ["--memory-limit 12.00 MB picks smaller slabs for decoding the video: the same pixels"]
    assert not plain.notes and plain.request.decode_budget is None
    assert limited.notes[0] in show(limited) and "of 12.00 MB" in show(limited)


def asked() -> Request:
    return Request("ti2vid_one_stage", "none.safetensors", "a fox", Path("none.mp4"), height=64, width=64, num_frames=9)


def test_a_limit_turns_on_low_memory_only_where_that_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit, "memory_size", lambda: 10**11)
    request = replace(asked(), memory_limit=8 * 10**9)

    def stages(request: Request) -> list[Stage]:
        held = 3 if request.low_memory else 30
        return [Stage("stage 1", "", held * 10**9, 10**9, reading=50), Stage("frames", "", 10**9, 10**9)]

    found = limit.fitted(request, stages)
    assert found.request.low_memory and not found.problems
    assert len(found.picked) == 1 and found.picked[0].startswith("--low-memory")
    assert found.request.decode_budget == 7 * 10**9
    wide = limit.fitted(replace(request, memory_limit=40 * 10**9), stages)
    assert not wide.request.low_memory and not wide.picked
    unhelped = limit.fitted(request, lambda request: [Stage("frames", "", 10**9, 10**10)])
    assert not unhelped.request.low_memory and len(unhelped.problems) == 1


def test_what_does_not_fit_says_what_does(checkpoints: Path, context: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = flags(checkpoints, "tiny-2.3", f"{LARGE} --memory-limit 500MB", context=context)
    for command in ("plan", "generate"):
        assert main([command, *argv]) == 2
        streams = capsys.readouterr()
        said = streams.out if command == "plan" else streams.err
        (problem,) = re.findall(r"- (stage 2 takes about .*)", said)
    frames, size = re.findall(r"--num-frames \d+|--height \d+ --width \d+", problem)
    for way in (frames, size):
        changed = [*argv, *way.split()]  # the last one of a flag counts
        assert main(["plan", *changed]) == 0, capsys.readouterr().out
    more = int(frames.split()[1]) + 8
    assert main(["plan", *argv, "--num-frames", str(more)]) == 2


def test_the_machines_memory_is_a_limit_too(checkpoints: Path, context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit, "memory_size", lambda: 5 * 10**8)
    problems = planned(checkpoints, "tiny-2.3", LARGE, context=context).problems
    assert any(text.startswith("stage 2") and "of 0.50 GB of memory: use --num-frames" in text for text in problems)


@pytest.mark.parametrize(
    ("text", "size"),
    [("16", 16e9), ("16GB", 16e9), ("16 gb", 16e9), ("12.5GiB", 12.5 * 2**30), ("800MB", 8e8), ("0.5", 5e8)],
)
def test_a_size_of_memory_is_read(text: str, size: float) -> None:
    assert size_of_memory(text) == int(size)


@pytest.mark.parametrize(
    "text", ["", "GB", "-1", "0", "nan", "1e9", "16TBB", "16 G B", "1,5GB", "½GB", "9" * 40, "٣GB"]
)
def test_what_is_no_size_of_memory_is_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse("plan", ["--memory-limit", text] if not text.startswith("-") else [f"--memory-limit={text}"])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--memory-limit" in line and "write 16GB, 12.5GiB or 800MB" in line


def test_mlx_keeps_to_the_limit_while_a_video_is_made_and_not_after(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = planned(checkpoints, "tiny-2.3", f"{DECODED} --memory-limit 64MB")
    made.request = replace(made.request, output_path=tmp_path / "frames")
    seen: list[int] = []

    def run(request: Request, settings: object) -> tuple[list[np.ndarray], None]:
        seen.extend(setter(2 * 10**9) for setter in (mx.set_memory_limit, mx.set_cache_limit))
        return [np.zeros((9, 64, 96, 3), np.uint8)], None

    before = [setter(10**9) for setter in (mx.set_memory_limit, mx.set_cache_limit)]
    monkeypatch.setattr(generate, "run", run)
    generate.generate(made)
    assert seen == [64 * 10**6, 64 * 10**6 - made.memory]
    assert [setter(size) for setter, size in zip((mx.set_memory_limit, mx.set_cache_limit), before, strict=True)] == [
        10**9
    ] * 2


# ---- the slow BLAS ------------------------------------------------------------------------------------------------

NUMPYS = "/site-packages/numpy.libs/libscipy_openblas64_-fdde5778.so"
WHEELS = "/site-packages/mlx_cpu.libs/libblas-bd8a282c.so.3.10.0"


@pytest.mark.parametrize(
    ("files", "slow"),
    [
        ((), False),
        ((NUMPYS,), False),
        ((NUMPYS, WHEELS), True),
        ((WHEELS, "/usr/lib/x86_64-linux-gnu/openblas-pthread/libblas.so.3"), False),
        ((WHEELS, "/opt/intel/libmkl_rt.so.2"), False),
        (("/usr/lib/x86_64-linux-gnu/blas/libblas.so.3.11.0",), True),
    ],
)
def test_the_slow_blas_is_told_by_the_libraries_of_the_process(files: tuple[str, ...], slow: bool) -> None:
    maps = "\n".join(f"7f00-7f01 r-xp 0000 08:01 {i} {file}" for i, file in enumerate(files))
    assert blas.slow(blas.of_maps(maps)) is slow


def test_the_slow_blas_is_named_at_the_start_of_a_video(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "libraries", lambda: [WHEELS])
    monkeypatch.setattr(blas.sys, "platform", "linux")
    assert "LD_PRELOAD" in (blas.note() or "")
    monkeypatch.setattr(blas.sys, "platform", "darwin")
    assert blas.note() is None
