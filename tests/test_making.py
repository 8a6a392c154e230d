"""What a run shows, and several videos of one command line: progress, events, previews, names, signals, macOS."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import shtab
from PIL import Image

from ltx2_mlx.cli import completion, costs, macos, making, stopping
from ltx2_mlx.cli.costs import DECODING, DENOISING, READING, Cost
from ltx2_mlx.cli.main import main
from ltx2_mlx.cli.plan import plan
from ltx2_mlx.cli.preview import Preview
from ltx2_mlx.cli.progress import Lines, OneLine, Run, State, duration
from ltx2_mlx.cli.recipes import parse, parse_all
from ltx2_mlx.errors import InputError
from ltx2_mlx.pipelines import ledger, stages
from ltx2_mlx.pipelines.ledger import Denoised, Kept, ModelLedger
from ltx2_mlx.pipelines.preview import LatentColours, fitted, latent_colours

pytestmark = pytest.mark.usefixtures("short_prompts", "built_once")


@pytest.fixture
def flags(checkpoints: Path, contexts: Path) -> list[str]:
    """The smallest distilled run, whose contexts are kept from the first test that needs them."""
    tiny = checkpoints / "tiny-2.0"
    words = ["--distilled-checkpoint-path", f"{tiny}.safetensors", "--gemma-root", checkpoints / "tiny-gemma"]
    words += ["--spatial-upsampler-path", f"{tiny}-upsampler-x2.safetensors", "--height", "64", "--width", "64"]
    words += ["--num-frames", "9", "--no-audio", "--context", contexts]
    return list(map(str, words))


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("contexts") / "kept.safetensors"


@pytest.fixture(scope="module")
def colours(checkpoints: Path) -> LatentColours:
    """The fit of one decoder, from fewer pictures than usual, made once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ltx2_mlx.pipelines.preview._PICTURES", 6)
        return latent_colours(ModelLedger(checkpoints / "tiny-2.0.safetensors"))


# ---- progress -----------------------------------------------------------------------------------------------------


class Clock:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_time_left_follows_the_pace_of_each_kind_of_work() -> None:
    clock, seen = Clock(), list[State]()
    video = {
        "loading the transformer": Cost(READING, 10.0, 2),
        "stage 1": Cost(DENOISING, 8.0),
        "stage 2": Cost(DENOISING, 6.0),
        "decoding the video": Cost(DECODING, 1.0),
    }
    run = Run([video, video], {}, seen.append, clock)

    def event(at: float, name: str, done: int, total: int | None) -> State:
        clock.now = at
        run(name, done, total)
        return seen[-1]

    assert event(0, "loading the transformer", 0, 1).left is None  # nothing tells how fast this machine computes
    assert event(5, "loading the transformer", 1, 1).left is None
    event(5, "stage 1", 0, 8)
    first = event(8, "stage 1", 1, 8)  # three times as slow as expected, and so will be what was not seen yet
    rest = 3 * (7 + 6 + 1) + 5 + 3 * (8 + 6 + 1) + 10  # the second load, and the second video
    assert first.left == pytest.approx(rest) and first.step == pytest.approx(3.0)
    assert first.share == pytest.approx(8 / (8 + rest))
    event(29, "stage 1", 8, 8)
    event(30, "loading the transformer", 0, 1)  # the second between is the rest of the first stage
    event(35, "loading the transformer", 1, 1)
    event(35, "stage 2", 0, 3)
    event(53, "stage 2", 3, 3)
    event(53, "decoding the video", 0, 9)
    event(54, "decoding the video", 9, 9)  # the next three belong to it too
    event(57, "encoding video", 1, None)
    assert run.left() == pytest.approx(10 + 3 * 14 + 4)
    clock.now = 58
    found = run.finish()
    assert found.seconds == {
        "loading the transformer": 10.0,
        "stage 1": 25.0,
        "stage 2": 18.0,
        "decoding the video": 5.0,
    }
    assert sum(found.seconds.values()) == 58
    real, expected = run.measured()
    assert real[DENOISING] / expected[DENOISING] == pytest.approx(42 / 14)


def test_a_run_of_toys_tells_nothing_of_other_work() -> None:
    clock, seen = Clock(), list[State]()
    run = Run([{"stage 1": Cost(DENOISING, 1e-4), "decoding the video": Cost(DECODING, 1e-3)}], {}, seen.append, clock)
    run("stage 1", 0, 8)
    clock.now = 5.0
    run("stage 1", 8, 8)
    assert seen[-1].left is None and seen[-1].share is None


def test_a_log_has_a_line_for_each_phase_and_one_a_minute() -> None:
    clock, stream = Clock(), io.StringIO()
    shown = Lines(stream, clock)
    run = Run([{}], {}, shown.show, clock)
    for step in range(41):
        clock.now = step * 3.5
        run("denoising", step, 40)
    run("decoding the audio", 0, 1)
    run("decoding the audio", 1, 1)
    lines = stream.getvalue().splitlines()
    assert [line.split(" | ")[0] for line in lines] == [
        "denoising 18 of 40",
        "denoising 36 of 40",
        "denoising 40 of 40",
        "decoding the audio",  # without "1 of 1"
    ]


def test_a_terminal_has_one_line_that_fits_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = io.StringIO()
    shown = OneLine(stream)
    run = Run([{"stage 1": Cost(DENOISING, 1.0)}], {DENOISING: 2.0}, shown.show)
    for step in range(4):
        run("stage 1", step, 3)
    shown.say("a note\x1b[31m")
    drawn = stream.getvalue().split("\r")[1:]
    assert all(line.endswith("\x1b[K") and len(line) <= 39 + 3 for line in drawn[:-1]), drawn
    assert drawn[-1] == "\x1b[Ka note\\x1b[31m\n" and drawn[3].startswith("[####")


def test_paces_are_kept_for_the_next_run_and_a_bad_file_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert costs.paces() == {}
    costs.remember({DENOISING: 30.0, DECODING: 1.0}, {DENOISING: 10.0, DECODING: 0.001})
    assert costs.paces() == {DENOISING: 3.0}  # of a thousandth of a second nothing is remembered
    costs.remember({READING: 4.0}, {READING: 8.0})
    assert costs.paces() == {DENOISING: 3.0, READING: 0.5}
    (file,) = tmp_path.rglob("*.json")
    for text in ("[", "[]", '{"cpu": 3}', '{"cpu": {"denoising": "x"}}', '{"cpu": {"denoising": -1}}'):
        file.write_text(text)
        assert costs.paces() == {}, text
    costs.remember({READING: 4.0}, {READING: 8.0})
    assert costs.paces() == {READING: 0.5}


def test_a_duration_is_in_the_unit_that_people_use() -> None:
    assert [duration(s) for s in (0.04, 59.9, 59.96, 80, 3599.6, 7500)] == [
        "0.0 s",
        "59.9 s",
        "1:00 min",
        "1:20 min",
        "1:00 h",
        "2:05 h",
    ]


# ---- previews -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("loaded_once")
def test_a_preview_changes_no_byte_and_shows_every_step(
    flags: list[str],
    colours: LatentColours,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[Denoised] = []

    class Noting(Preview):
        def __call__(self, step: Denoised) -> None:
            seen.append(step)
            super().__call__(step)

    monkeypatch.setattr(making, "latent_colours", lambda ledger: colours)
    monkeypatch.setattr(making, "Preview", Noting)
    flags = [*flags, "--prompt", "a fox", "--output-path"]
    assert main(["generate", *flags, str(tmp_path / "plain.mp4")]) == 0
    shown = ["--preview", str(tmp_path / "steps"), "--preview-every", "3", "--json", "--quiet"]
    capsys.readouterr()
    assert main(["generate", *flags, str(tmp_path / "shown.mp4"), *shown]) == 0
    out, err = capsys.readouterr()
    assert (tmp_path / "plain.mp4").read_bytes() == (tmp_path / "shown.mp4").read_bytes() and err == ""
    names = ["stage-1-3.png", "stage-1-6.png", "stage-1-8.png", "stage-2-3.png"]
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == names
    first, last = (Image.open(tmp_path / "steps" / name) for name in (names[0], names[-1]))
    assert first.size == (2 * 256, 256) and last.size == (2 * 256, 256)  # both latent frames
    assert np.asarray(first).std() > 1 and (np.asarray(first) != np.asarray(last)).mean() > 0.5
    events = [json.loads(line) for line in out.splitlines()]
    assert [Path(e["path"]).name for e in events if e["event"] == "preview"] == names
    kinds = [event["event"] for event in events]
    assert kinds[0] == "plan" and kinds[-2:] == ["video", "end"] and "progress" in kinds
    video = events[-2]
    assert video["seed"] == 10 and video["bytes"] == (tmp_path / "shown.mp4").stat().st_size
    assert {"stage 1", "stage 2", "decoding the video"} <= video["seconds"].keys() and video["peak"] > 0
    assert [(step.stage, step.step, step.steps) for step in seen] == [
        *(("stage 1", n, 8) for n in range(1, 9)),
        *(("stage 2", n, 3) for n in range(1, 4)),
    ]
    assert seen[0].latent.shape == (1, 128, 2, 1, 1) and seen[-1].latent.shape == (1, 128, 2, 2, 2)
    assert all((a.latent != b.latent).any().item() for a, b in pairwise(seen[8:]))
    again = [*flags, str(tmp_path / "again.mp4"), "--preview", str(tmp_path / "steps")]
    assert main(["generate", *again]) == 2 and "has pictures" in capsys.readouterr().err
    assert plan(parse("plan", [*again, "--overwrite"])).problems == []
    Preview(tmp_path / "steps", 1, colours, print, print)
    assert list((tmp_path / "steps").iterdir()) == []  # those of another run do not stay beside new ones


def test_the_fit_finds_a_linear_decoder() -> None:
    rng = np.random.default_rng(3)
    cells, weights = rng.standard_normal((400, 128)), rng.standard_normal((128, 3)) * 0.05
    found = fitted(cells, cells @ weights + 0.25)
    assert found.explained > 0.99 and np.abs(found.weights[:-1] - weights).max() < 0.01
    latent = np.zeros((1, 128, 3, 2, 5), np.float32)
    latent[0, 7, 2, 1, 4] = 4.0
    picture = np.asarray(found.picture(mx.array(latent)), np.float64)
    scale = picture.shape[0] // 2
    assert picture.shape == (2 * scale, 3 * 5 * scale, 3)
    plain, marked = picture[scale // 2, scale // 2], picture[-scale // 2, -scale // 2]
    assert np.abs(plain - (1.25 / 2) * 255).max() < 2
    expected = np.clip((1.25 + 4 * weights[7]) / 2, 0, 1) * 255
    assert np.abs(marked - expected).max() < 8  # the enlargement blurs


def test_the_fit_shows_what_the_decoder_makes(colours: LatentColours) -> None:
    """Of random weights, whose colours are no sum of channels; a fit of other pictures' colours gives less than 0."""
    assert colours.weights.shape == (129, 3) and 0.4 < colours.explained <= 1


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        (["--preview", "steps.jpg"], "ends in .jpg; use .png"),
        (["--preview", "x.mp4"], "ends in .mp4; use .png"),
        (["--preview", "x/steps"], "lie in each other"),
        (["--preview", "there.png"], "there.png exists; give another name, or --overwrite"),
        (["--preview", "other"], "a folder that holds notes.txt"),
        (["--preview", "a.png", "--placeholder"], "--placeholder has none"),
        (["--preview-every", "2"], "has no effect without --preview"),
        (["--preview", "a.png", "--preview-every", "0"], "expected 1 or more"),
    ],
)
def test_a_preview_that_cannot_be_is_a_problem_of_the_plan(
    more: list[str], problem: str, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.png").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    problems = plan(parse("plan", [*flags, "--prompt", "a fox", "--output-path", "x", *more])).problems
    assert len(problems) == 1 and problem in problems[0]


# ---- several videos -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_steps")
def test_several_videos_are_each_that_of_its_own_run_and_load_once(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def noting(module: object, name: str, words: Callable[[Any], list[str]]) -> None:
        real = getattr(module, name)

        def noted(first: Any, *rest: Any, **named: Any) -> Any:
            loaded.extend(words(first))
            return real(first, *rest, **named)

        monkeypatch.setattr(module, name, noted)

    noting(ledger, "load", lambda part: [part])
    noting(stages, "encode_prompts", list)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("an owl\n\n  a boat \n")
    kept = flags.index("--context")
    alone = [*flags[:kept], "--context", str(tmp_path / "kept.safetensors"), "--seed", "3", "--output-path"]
    alone = [*flags[kept + 2 :], *alone]
    assert main(["generate", *alone, str(tmp_path / "x"), "--prompts-file", str(prompts)]) == 0
    assert sorted(loaded) == ["a boat", "an owl", "transformer", "upsampler", "video_decoder", "video_encoder"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["x-1", "x-2"]
    assert main(["generate", *alone, str(tmp_path / "single"), "--prompt", "a boat"]) == 0
    frames = sorted((tmp_path / "single").glob("*.png"))
    assert len(frames) == 9
    for frame in frames:
        assert frame.read_bytes() == (tmp_path / "x-2" / frame.name).read_bytes()
        assert frame.read_bytes() != (tmp_path / "x-1" / frame.name).read_bytes()


def test_an_error_in_one_of_several_says_which_are_finished(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[Path] = []

    def failing(planned: object, progress: object, settings: object) -> Path:
        made.append(planned.request.output_path)
        if len(made) == 2:
            raise InputError("the disk is gone")
        return made[-1]

    monkeypatch.setattr(making, "generate", failing)
    argv = [*flags, "--prompt", "a fox", "--num-videos", "3", "--output-path", str(tmp_path / "x.mp4"), "--json"]
    assert main(["generate", *argv, "--placeholder"]) == 2
    out, err = capsys.readouterr()
    assert err.splitlines()[-2:] == [
        f"ltx2-mlx: 1 of 3 videos are finished: {tmp_path}/x-seed10.mp4",
        "ltx2-mlx: the disk is gone",
    ]
    assert json.loads(out.splitlines()[-1]) == {
        "event": "error",
        "message": "the disk is gone",
        "finished": [f"{tmp_path}/x-seed10.mp4"],
    }


@pytest.mark.parametrize(
    ("more", "names"),
    [
        (["--prompt", "x"], ["fox.mp4"]),
        (["--prompt", "x", "--seed", "7"], ["fox.mp4"]),
        (["--prompt", "x", "--seed", "7", "2"], ["fox-seed7.mp4", "fox-seed2.mp4"]),
        (["--prompt", "x", "--num-videos", "2"], ["fox-seed10.mp4", "fox-seed11.mp4"]),
        (["--prompt", "x", "--num-videos", "1"], ["fox.mp4"]),
        (["--prompts-file", "-"], ["fox-1.mp4", "fox-2.mp4"]),
        (["--prompts-file", "-", "--seed", "1", "2"], [f"fox-{k}-seed{s}.mp4" for k in (1, 2) for s in (1, 2)]),
    ],
)
def test_the_names_of_several_do_not_collide(
    more: list[str], names: list[str], flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo\n"))
    output = ["--output-path", str(tmp_path / "fox.mp4"), "--preview", str(tmp_path / "fox.png")]
    made = parse_all("generate", [*flags, *more, *output])
    assert [request.output_path.name for request in made] == names
    assert [request.preview.name for request in made] == [name.replace("mp4", "png") for name in names]
    (tmp_path / names[-1]).touch()
    planned = plan(*made)
    assert len(planned.problems) == 1 and f"{names[-1]} exists" in planned.problems[0]
    assert [request.output_path.name for request in planned.requests] == names


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ([], "required: --prompt (or --prompts-file)"),
        (["--prompt", "x", "--prompts-file", "-"], "give one of them"),
        (["--prompts-file", "none.txt"], "--prompts-file none.txt: No such file"),
        (["--prompts-file", "-"], "it has no prompt"),
        (["--prompt", "x", "--seed", "1", "1"], "a seed is given twice"),
        (["--prompt", "x", "--seed", "1", "2", "--num-videos", "2"], "give one of them"),
        (["--prompt", "x", "--num-videos", "0"], "--num-videos is 0, expected 1"),
        (["--prompt", "x", "--num-videos", "1001"], "expected 1 to 1,000"),
        (["--prompt", "x", "--seed", "-1", "5"], "seeds of several videos are 0 or more"),
        (["--prompt", "x", "--promt", "y"], "did you mean --prompt?"),
        (["--prompt", "x", "--audio-path", "y"], "--pipeline a2vid_two_stage takes it"),
        (["--pipeline", "distiled"], "did you mean distilled?"),
        (["--dtype", "bf16"], "did you mean"),
    ],
)
def test_words_that_make_no_sense_are_one_line(
    more: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(" \n"))
    with pytest.raises(SystemExit, match="2"):
        main(["generate", *more])
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


def test_a_shell_completes_flags_pipelines_and_commands(tmp_path: Path) -> None:
    """Asked of bash itself, which is where it must work."""
    (tmp_path / "complete.sh").write_text(shtab.complete(completion.parser(), "bash"))
    for words, expected in (
        ("pl", "plan"),
        ("generate --num-v", "--num-videos"),
        ("plan --audio-p", "--audio-path"),  # of another pipeline than the default
        ("generate --pipeline ic", "ic_lora"),
        ("info --video-v", "--video-vae-path"),
    ):
        line = f"ltx2-mlx {words}"
        script = (
            f"source complete.sh; COMP_WORDS=({line}); COMP_CWORD={line.count(' ')}; _shtab_ltx2_mlx; echo $COMPREPLY"
        )
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.split() == [expected], (words, done)


def test_what_is_kept_fits_into_its_budget() -> None:
    loaded: list[str] = []

    def model(name: str, kilobytes: int) -> nn.Module:
        def load() -> nn.Linear:
            loaded.append(name)
            return nn.Linear(kilobytes, 250, bias=False)

        return kept.model((name[0], name), load)

    kept = Kept(30_000)
    first = model("transformer a", 20)
    assert model("transformer a", 20) is first and model("vae", 5) is model("vae", 5)
    assert loaded == ["transformer a", "vae"]
    model("transformer b", 20)  # goes for a; the smaller one stays
    model("vae", 5)
    assert loaded == ["transformer a", "vae", "transformer b"]
    model("whole", 40)  # more than all that may be kept
    assert len(kept._models) == 0 and model("transformer b", 20) is not None and loaded[-1] == "transformer b"


# ---- signals and macOS --------------------------------------------------------------------------------------------


def test_a_signal_that_python_does_not_see_ends_the_process_in_time() -> None:
    """As while MLX computes: here within a call that no handler interrupts."""
    script = (
        "import os, sys, time, mlx.core as mx\n"
        "from ltx2_mlx.cli.stopping import in_time, raising, stopping\n"
        "def end(number): print('ended', number, flush=True); os._exit(128 + number)\n"
        "with stopping(raising), in_time(end, grace=0.3):\n"
        "    x = mx.random.normal((700, 700))\n"
        "    for _ in range(4000): x = mx.tanh(x @ x)\n"
        "    print('begun', flush=True)\n"
        "    mx.eval(x)\n"
    )
    run = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert run.stdout.readline() == "begun\n"
    time.sleep(0.2)
    begun = time.monotonic()
    run.send_signal(signal.SIGTERM)
    try:
        assert run.communicate(timeout=60)[0] == "ended 15\n" and run.returncode == 143
    finally:
        run.kill()
    assert time.monotonic() - begun < 10


def test_a_signal_that_python_sees_is_cleaned_up_after() -> None:
    ended: list[int] = []
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt), stopping.stopping(stopping.raising), stopping.in_time(ended.append, 0.5):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        finally:
            time.sleep(0.7)  # cleaning up may take its time: more than a process has to see the signal
    assert ended == [] and threading.active_count() == threads


def test_on_macos_the_machine_stays_awake_while_it_generates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With programs of that name that say how they were called: this is not macOS."""
    for name, said in (("caffeinate", "exec sleep 60"), ("sysctl", "echo 2")):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/{name}.log\n{said}\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("sys.platform", "darwin")
    before = mx.set_cache_limit(1 << 40)
    log, clock, notes = tmp_path / "caffeinate.log", Clock(), list[str]()
    try:
        with macos.undisturbed():
            deadline = time.monotonic() + 20
            while not (log.exists() and log.read_text()) and time.monotonic() < deadline:  # made, and then written
                time.sleep(0.01)
            assert log.read_text() == f"-i -w {os.getpid()}\n"
            assert mx.set_cache_limit(1 << 40) < 1 << 40
            begun = time.monotonic()
        assert time.monotonic() - begun < 30  # caffeinate would last longer by itself
        assert mx.set_cache_limit(1 << 40) == 1 << 40
    finally:
        mx.set_cache_limit(before)
    pressure = macos.Pressure(notes.append, clock)
    for now in (0.0, 1.0, 30.0):
        clock.now = now
        pressure.look()
    assert len(notes) == 1 and "macOS is short of memory" in notes[0]
    monkeypatch.setattr("sys.platform", "linux")
    log.unlink()
    with macos.undisturbed():
        pass
    assert not log.exists()
