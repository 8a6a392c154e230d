"""What is written is whole or not there, replaces nothing unasked, and is known to be possible before the work.

``--kills N`` kills N runs of ``generate`` (default: 4): ``pytest tests/test_output_files.py -k killed --kills 200``.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from ltx2_mlx import media
from ltx2_mlx.cli.main import main
from ltx2_mlx.errors import InputError, LTX2Error, MediaError
from ltx2_mlx.media import outputs
from ltx2_mlx.media.encoding import check_encoding
from ltx2_mlx.pipelines.contexts import load_contexts, save_contexts
from ltx2_mlx.text.embeddings import EmbeddingsProcessorOutput
from ltx2_mlx.types import Audio

SIZE = ["--height", "64", "--width", "128", "--num-frames", "9"]
pytestmark = pytest.mark.usefixtures("built_once")


def frames(count: int = 3, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def sound(samples: int = 24000) -> Audio:
    return Audio(mx.random.uniform(-0.5, 0.5, (2, samples)), 24000)


@pytest.fixture
def flags(checkpoints: Path) -> list[str]:
    """The cheapest run: a second."""
    tiny = checkpoints / "tiny-2.0"
    files = ["--distilled-checkpoint-path", f"{tiny}.safetensors"]
    files += ["--spatial-upsampler-path", f"{tiny}-upsampler-x2.safetensors"]
    return [*files, "--prompt", "a fox", "--placeholder", *SIZE]


def problems(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The problems that ``plan`` finds; ``generate`` has to find the same, and to write nothing."""
    words = [str(word) for word in argv]
    code, planned = main(["plan", *words]), capsys.readouterr().out
    assert code == main(["generate", *words]) == 2
    found = planned[planned.index("problem") :]
    assert capsys.readouterr().err.endswith(found) and "Traceback" not in found
    return found


# ---- before the work ----------------------------------------------------------------------------------------------


def test_what_exists_is_replaced_only_when_asked(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.mp4", "a.wav"):
        (tmp_path / name).write_text("precious")
        assert "exists; give another name, or --overwrite" in problems(capsys, *flags, "--output-path", tmp_path / name)
        assert (tmp_path / name).read_text() == "precious"
    media.save_png_frames(tmp_path / "frames", [frames(12)])
    assert "--overwrite" in problems(capsys, *flags, "--output-path", tmp_path / "frames")
    for name in ("a.mp4", "frames"):
        output = str(tmp_path / name)
        assert main(["generate", *flags, "--no-audio", "--overwrite", "--output-path", output]) == 0
    assert media.probe(tmp_path / "a.mp4").frames == len(list((tmp_path / "frames").glob("*.png"))) == 9
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "a.wav", "frames"]


OUTPUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "another ending": (lambda at: at / "a.avi", "ends in .avi"),
    "a folder named .mp4": (lambda at: _made(at / "a.mp4"), "a folder, and .mp4 is a file"),
    "a file without an ending": (lambda at: _text(at / "frames"), "PNG frames go into a folder"),
    "below a file": (lambda at: _text(at / "x") / "a.mp4", "cannot be written"),
    "a device": (lambda at: Path("/dev/null"), "PNG frames go into a folder"),
    "a pipe": (lambda at: _fifo(at / "a.mp4"), "a pipe or a device"),
    "a name that is too long": (lambda at: at / ("a" * 300 + ".mp4"), "too long"),
    "a folder with other files": (lambda at: _text(_made(at / "f") / "notes.txt").parent, "holds notes.txt"),
}


def _made(path: Path) -> Path:
    path.mkdir()
    return path


def _text(path: Path) -> Path:
    path.write_text("precious")
    return path


def _fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("more", [[], ["--overwrite"]], ids=["plain", "overwrite"])
def test_an_output_that_cannot_be_is_refused(
    name: str, more: list[str], flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, reason = OUTPUTS[name]
    assert reason in problems(capsys, *flags, "--output-path", make(tmp_path), *more)
    assert all(path.is_dir() or path.is_fifo() or path.read_text() == "precious" for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("way", ["the path", "a link", "a hard link", "the folder"])
def test_an_input_is_never_the_output(
    way: str, flags: list[str], checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For an image, and for the video of a retake."""
    folder = _made(tmp_path / "frames")
    media.save_png_frames(folder, [frames(1, 64, 96)])
    media.encode_video([frames(9, 64, 96)], 24, None, tmp_path / "source.mp4")
    source, output = tmp_path / "source.mp4", tmp_path / "other.mp4"
    retake = ["--pipeline", "retake", "--checkpoint-path", checkpoints / "tiny-2.0.safetensors", "--placeholder"]
    retake += ["--prompt", "x", "--start-time", "0.1", "--end-time", "0.2", "--video-path", source]
    argv = [*retake, "--video-stg-blocks", "1", "--audio-stg-blocks", "1"]
    if way == "the path":
        output = source
    elif way == "a link":
        output.symlink_to(source)
    elif way == "a hard link":
        output.hardlink_to(source)
    else:
        argv, output = [*flags, "--image", folder / "frame_00000.png", "0", "1"], folder
    before = source.read_bytes()
    assert "an input of this run" in problems(capsys, *argv, "--overwrite", "--output-path", output)
    assert source.read_bytes() == before and (folder / "frame_00000.png").exists()


def test_a_link_to_itself_is_an_input_that_is_not_there(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    Path("a.mp4").write_text("precious")
    assert "loop" in problems(capsys, *flags, "--lora", "loop", "1", "--overwrite", "--output-path", "a.mp4")


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        ("c.json", "must be named .safetensors"),
        ("none/c.safetensors", "there is no folder"),
        ("out/c.safetensors", "written as a whole"),
        ("folder.safetensors", "not a file"),
    ],
)
def test_a_file_of_contexts_that_cannot_be_written_is_known_before_gemma_runs(
    context: str, reason: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _made(tmp_path / "folder.safetensors")
    argv = [*flags, "--context", tmp_path / context, "--output-path", tmp_path / "out"]
    assert reason in problems(capsys, *argv)


@pytest.mark.parametrize("rate", ["0", "nan", "inf", "1e-4", "-24", "1001"])
def test_a_frame_rate_that_no_file_states_is_refused(
    rate: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = problems(capsys, *flags, f"--frame-rate={rate}", "--output-path", tmp_path / "a.mp4")
    assert "--frame-rate is " in found and "expected 0.001 to 1000" in found


@pytest.mark.parametrize("rate", [0.001, 0.5, 120, 1000])
def test_every_frame_rate_that_is_allowed_can_be_written(rate: float, tmp_path: Path) -> None:
    media.encode_video([frames()], rate, None, tmp_path / "a.mp4")
    assert media.probe(tmp_path / "a.mp4").fps == media.frame_rate(rate)


def test_frames_that_h264_does_not_take_are_refused(tmp_path: Path) -> None:
    for height, width in ((33, 48), (32, 16386)):
        with pytest.raises(InputError, match=r"yuv420p|16384"):
            check_encoding(height, width)
        with pytest.raises(InputError, match=r"yuv420p|16384"):
            media.encode_video([frames(1, height, width)], 24, None, tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rate", "channels", "seconds", "notes"),
    [
        (37800, 2, 0.375, ["has audio at 37800 Hz, which a video gets at 44100 Hz"]),
        (192000, 1, 0.375, ["has audio at 192000 Hz, which a video gets at 96000 Hz"]),
        (48000, 6, 0.375, ["has 6 channels of audio, which are mixed down to stereo"]),
        (24000, 2, 0.2, ["gives 0.20 s of audio, and silence follows to 0.38 s"]),
        (24000, 2, 3.0, ["goes on after the 0.38 s that are used"]),
    ],
)
def test_given_audio_of_any_kind_makes_a_video_and_a_note(
    rate: int,
    channels: int,
    seconds: float,
    notes: list[str],
    flags: list[str],
    checkpoints: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    loaded_once: None,
) -> None:
    samples = np.random.default_rng(2).integers(-9000, 9000, (round(rate * seconds), channels), dtype=np.int16)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    argv = ["--pipeline", "a2vid_two_stage", "--checkpoint-path", *flags[1:], "--audio-path", str(tmp_path / "a.wav")]
    argv += ["--distilled-lora", str(checkpoints / "tiny-2.0-distilled-lora.safetensors"), "--video-stg-blocks", "1"]
    argv += ["--num-inference-steps", "2", "--output-path", str(tmp_path / "a.mp4")]
    assert main(["plan", *argv]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert [line.removeprefix(f"note: {tmp_path / 'a.wav'} ") for line in told] == notes
    assert main(["generate", *argv]) == 0
    assert media.probe(tmp_path / "a.mp4").channels == 2 and media.probe(tmp_path / "a.mp4").frames == 9
    if rate == 37800:  # of one kind is enough
        argv += ["--overwrite", "--audio-max-duration", "0"]
        assert "--audio-max-duration is 0, expected 0.001" in problems(capsys, *argv)


def test_odd_files_are_a_word_in_the_plan(flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    Image.new("RGBA", (64, 64), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    argv = [*flags, "--image", str(tmp_path / "clear.png"), "0", "1", "--output-path", str(tmp_path / "A.MP4")]
    assert main(["plan", *argv]) == 0
    assert "clear.png is transparent in places" in capsys.readouterr().out
    assert "CRF 60" in problems(capsys, *argv, "--image", tmp_path / "clear.png", "0", "1", "60")


def test_nothing_that_is_not_finite_is_written(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NaN in the decoder of the video, and in that of the audio: the error names the stage."""
    from ltx2_mlx.video_vae import VideoDecoder
    from ltx2_mlx.vocoder import Vocoder

    for network, stage, more in ((VideoDecoder, "video", ["--no-audio"]), (Vocoder, "audio", [])):
        call = network.__call__
        with monkeypatch.context() as patch:
            patch.setattr(network, "__call__", lambda *a, call=call, **k: call(*a, **k) * float("nan"))
            assert main(["generate", *flags, *more, "--output-path", str(tmp_path / "a.mp4")]) == 2
        assert f"decoding the {stage} gave NaN or infinite" in capsys.readouterr().err
    with pytest.raises(InputError, match="NaN"):
        media.save_wav(tmp_path / "a.wav", Audio(mx.full((2, 9), float("inf")), 24000))
    assert list(tmp_path.iterdir()) == []


# ---- whole or not at all ------------------------------------------------------------------------------------------


def test_only_remains_of_this_program_are_removed(tmp_path: Path) -> None:
    foreign = [".a.1234abcd.part.mp4", ".a.ltx2-part.mp4", "a.1234abcd.ltx2-part.mp4", ".a.XYZ.ltx2-part", ".hidden"]
    for name in foreign:
        _text(tmp_path / name)
    (tmp_path / ".link.0123abcd.ltx2-part").symlink_to(tmp_path / ".hidden")
    remains = tmp_path / ".old.0123abcd.ltx2-part.mp4", _made(tmp_path / ".old.0123abcd.ltx2-part")
    _text(remains[0])
    _text(remains[1] / "frame_00000.png")
    with outputs.whole_file(tmp_path / "b.wav") as part, outputs.whole_folder(tmp_path / "c") as folder:
        assert not any(path.exists() for path in remains)
        outputs.remove_remains(tmp_path)  # those of a run that lives
        assert part.exists() and folder.exists()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*foreign, ".link.0123abcd.ltx2-part", "b.wav", "c"}


def test_a_folder_with_a_foreign_file_is_never_replaced(tmp_path: Path) -> None:
    for name in ("notes.txt", "frame_1.png", "frame_00000.png.bak", ".DS"):
        folder = _made(tmp_path / f"folder {name}")
        _text(folder / name)
        with pytest.raises(InputError, match="not a frame"):
            media.save_png_frames(folder, [frames()])
        assert [path.name for path in folder.iterdir()] == [name]
    assert all(path.name.startswith("folder") for path in tmp_path.iterdir())


def test_an_error_leaves_the_folder_of_before(tmp_path: Path) -> None:
    def failing() -> Iterator[np.ndarray]:
        yield frames()
        raise KeyboardInterrupt

    media.save_png_frames(tmp_path / "f", [frames(5)], sound(99))
    with pytest.raises(KeyboardInterrupt):
        media.save_png_frames(tmp_path / "f", failing())
    assert len(list((tmp_path / "f").glob("*.png"))) == 5 and (tmp_path / "f" / "audio.wav").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.fixture
def contexts(checkpoints: Path) -> Callable[[Path], None]:
    context = EmbeddingsProcessorOutput(mx.ones((1, 1024, 44)), mx.ones((1, 1024, 44)), mx.ones((1, 1024)))
    made_with = (checkpoints / "tiny-2.0.safetensors", checkpoints / "tiny-gemma")
    return lambda path: save_contexts(path, ["x"], [context], *made_with)


@pytest.mark.parametrize("kind", ["mp4", "wav", "frames", "contexts"])
@pytest.mark.parametrize("limit", [0, 100, 3000])
def test_a_full_disk_leaves_what_was_there(kind: str, limit: int, tmp_path: Path, contexts: Callable) -> None:
    """No file may be longer than ``limit`` bytes: writing fails as it does on a full disk."""
    names = {"mp4": "a.mp4", "wav": "a.wav", "frames": "a", "contexts": "a.safetensors"}
    path = tmp_path / names[kind]
    write = {
        "mp4": lambda: media.encode_video([frames(9, 64, 96)], 24, sound(), path),
        "wav": lambda: media.save_wav(path, sound()),
        "frames": lambda: media.save_png_frames(path, [frames(3, 64, 96)], sound()),
        "contexts": lambda: contexts(path),
    }[kind]
    for _ in range(2):  # first without an older one, then over it
        before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(LTX2Error) as caught:
                write()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
        assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
        assert len(list(tmp_path.iterdir())) == bool(before)
        write()


# ---- processes ----------------------------------------------------------------------------------------------------


def started(argv: list[str], *program: str, **streams: object) -> subprocess.Popen[str]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | streams
    return subprocess.Popen([sys.executable, *(program or ("-m", "ltx2_mlx")), "generate", *argv], **options)


@pytest.mark.parametrize("readers", ["both", "stderr", "stdout"])
def test_the_work_goes_on_when_nobody_reads_the_progress(readers: str, flags: list[str], tmp_path: Path) -> None:
    """``generate … 2>&1 | head``."""
    reading, writing = os.pipe()
    os.close(reading)
    argv = [*flags, "--no-audio", "--output-path", str(tmp_path / "a.mp4")]
    closed = {name: writing for name in ("stdout", "stderr") if readers in ("both", name)}
    run = started(argv, **closed)
    os.close(writing)
    _, error = run.communicate(timeout=120)
    assert run.returncode == 0 and "Traceback" not in (error or "") and "Exception" not in (error or "")
    assert media.probe(tmp_path / "a.mp4").frames == 9


def test_a_refusal_that_cannot_be_written_is_one_all_the_same(flags: list[str], tmp_path: Path) -> None:
    output = _text(tmp_path / "a.mp4")
    with open("/dev/full", "w") as full:
        run = started([*flags, "--output-path", str(output)], stdout=full, stderr=full)
        run.communicate(timeout=120)
    assert run.returncode == 2 and output.read_text() == "precious"


def test_odd_surroundings_change_nothing(flags: list[str], tmp_path: Path) -> None:
    """Standard streams that the shell has closed, and a terminal without letters."""
    argv = [sys.executable, "-m", "ltx2_mlx", "generate", *flags, "--no-audio", "--overwrite", "--output-path"]
    for number, name in enumerate(("é×.mp4", "b.mp4", "c.mp4")):  # "$@" <&-
        shell = ["sh", "-c", f'"$@" {number}{"<" if number == 0 else ">"}&-', "sh", *argv, str(tmp_path / name)]
        done = subprocess.run(shell, capture_output=True, text=True, env=os.environ | {"PYTHONIOENCODING": "ascii"})
        assert done.returncode == 0 and "Traceback" not in done.stderr, done
        assert number == 1 or (done.stdout.isascii() and Path(name).suffix in done.stdout)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.mp4", "c.mp4", "é×.mp4"]


def test_ctrl_c_while_importing_is_one_line(flags: list[str], tmp_path: Path) -> None:
    """NumPy makes an ImportError, of forty lines, of a KeyboardInterrupt."""
    script = (
        "import builtins, os, signal, sys; from ltx2_mlx.cli.main import main; real = builtins.__import__\n"
        "def stop(name, *rest, **named):\n"
        "    if name == sys.argv[1]: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return real(name, *rest, **named)\n"
        "builtins.__import__ = stop; sys.exit(main(['generate', *sys.argv[2:]]))"
    )
    for module in ("numpy", "datetime", "av"):
        argv = [sys.executable, "-c", script, module, *flags, "--output-path", str(tmp_path / "a.mp4")]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (130, "ltx2-mlx: stopped; nothing was written\n"), (module, done)


KINDS = ("a.mp4", "frames", "a.wav", "contexts")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kill" in metafunc.fixturenames:
        metafunc.parametrize("kill", range(metafunc.config.getoption("--kills")))


SHORT = (
    "import sys; from functools import partial; from ltx2_mlx.cli.main import main; "
    "from ltx2_mlx.pipelines import contexts, prompts; contexts.MAX_LENGTH = 128; "
    "prompts.LTXVGemmaTokenizer = partial(prompts.LTXVGemmaTokenizer, max_length=128); sys.exit(main(sys.argv[1:]))"
)  # ``ltx2-mlx`` with the fixture short_prompts


def test_a_killed_run_leaves_nothing_half_done(
    kill: int, flags: list[str], checkpoints: Path, tmp_path: Path, short_prompts: None, few_steps: None
) -> None:
    """At a random time, or a moment after its temporary file appears: the target is absent or whole, a run that could
    clean up left nothing, and the next run leaves nothing but its output."""
    rng = random.Random(kill)
    kind, number = KINDS[kill % 4], SIGNALS[(kill // 4 + kill) % 3]
    folder = _made(tmp_path / "out")
    output = folder / ("a.mp4" if kind == "contexts" else kind)
    argv = [*flags, "--output-path", str(output)] + (["--no-audio"] if kind in ("a.mp4", "contexts") else [])
    if kind == "contexts":
        argv = [word for word in argv if word != "--placeholder"]
        argv += ["--gemma-root", str(checkpoints / "tiny-gemma"), "--context", str(folder / "c.safetensors")]
    run = started(argv, *(("-c", SHORT) if kind == "contexts" else ()))
    _wait(run, folder, rng)
    run.send_signal(number)
    _, error = run.communicate(timeout=120)
    written = check_whole(folder, checkpoints)
    if number != signal.SIGKILL:
        assert not remains(folder), (kill, error)
    if run.returncode in (130, 143):
        said = error.splitlines()[-1]
        assert all(name in said for name in written) and ("nothing" in said) is (not written), (said, written)
    assert main(["generate", *argv, "--overwrite"]) == 0
    assert not remains(folder) and output.name in check_whole(folder, checkpoints)


def _wait(run: subprocess.Popen[str], folder: Path, rng: random.Random) -> None:
    """Until a random time; or, in three of four cases, until a file is being written."""
    begun = time.monotonic()
    limit = rng.uniform(0.3, 2.5) if rng.random() < 0.25 else 60
    while time.monotonic() - begun < limit and run.poll() is None and not (limit == 60 and remains(folder)):
        time.sleep(0.001)
    time.sleep(rng.choice((0, 0.002, 0.01, 0.05)))


def remains(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if "ltx2-part" in path.name]


def check_whole(folder: Path, checkpoints: Path) -> set[str]:
    """The names of the outputs in a folder, each of which has to be whole."""
    names = {path.name for path in folder.iterdir()} - set(remains(folder))
    for name in names:
        path = folder / name
        if name == "a.mp4":
            assert media.probe(path).frames == 9
        elif name == "a.wav":
            assert media.probe(path).samples > 1000
        elif name == "c.safetensors":
            assert list(load_contexts(path, checkpoints / "tiny-2.0.safetensors")) == ["a fox"]
        else:
            assert len(list(path.glob("*.png"))) == 9 and (path / "audio.wav").exists()
            assert [media.decode_image(file).shape for file in path.glob("*.png")] == [(64, 128, 3)] * 9
    return names


def test_a_wrong_check_is_noticed(tmp_path: Path, checkpoints: Path) -> None:
    """The checks above fail for a half file."""
    _text(tmp_path / "a.mp4")
    with pytest.raises(MediaError):
        check_whole(tmp_path, checkpoints)
