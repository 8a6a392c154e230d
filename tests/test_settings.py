"""Settings that travel with a video: what is in the file, what is not, and the video made again from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from ltx2_mlx import media
from ltx2_mlx.cli import places
from ltx2_mlx.cli.main import main
from ltx2_mlx.cli.plan import plan
from ltx2_mlx.cli.recipes import parse
from ltx2_mlx.cli.settings_file import FORMAT
from ltx2_mlx.loading.identity import fingerprint

pytestmark = pytest.mark.usefixtures("built_once")
PROMPT = 'a fox; 雪, "quoted" and ünusual \U0001f98a'


@pytest.fixture(scope="module")
def throughout(short_prompts_throughout: None, few_steps_throughout: None) -> None:
    """What makes a run small, also where a video is made again."""


@pytest.fixture(scope="module")
def made(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory, throughout: None) -> Iterator[Path]:
    """The smallest video that an image and a LoRA have a part in, and the list of places that it leaves."""
    folder = tmp_path_factory.mktemp("secret-folder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "file", lambda: folder / "places.json")
        tiny = folder / "models"
        tiny.mkdir()
        for name in ("", "-upsampler-x2", "-lora"):
            (tiny / f"tiny-2.0{name}.safetensors").symlink_to(checkpoints / f"tiny-2.0{name}.safetensors")
        shutil.copy(checkpoints / "media" / "image-0.png", tiny / "first.png")
        flags = ["--distilled-checkpoint-path", tiny / "tiny-2.0.safetensors", "--prompt", PROMPT, "--seed", "7"]
        flags += ["--spatial-upsampler-path", tiny / "tiny-2.0-upsampler-x2.safetensors", "--noise", "torch"]
        flags += ["--gemma-root", checkpoints / "tiny-gemma", "--lora", tiny / "tiny-2.0-lora.safetensors", "-0.7"]
        flags += ["--image", tiny / "first.png", "0", "0.9", "--height", "64", "--width", "128", "--num-frames", "9"]
        flags += ["--no-audio"]  # which is what takes time here
        output = folder / "fox.mp4"
        assert main(["generate", *map(str, flags), "--crf", "12", "--output-path", str(output)]) == 0
        yield output


def parsed(*words: object) -> dict[str, object]:
    """What a command line asks for, without what belongs to a run."""
    request = parse("generate", list(map(str, words)))
    return {name: value for name, value in vars(request).items() if name not in ("output_path", "arguments")}


# ---- the file -----------------------------------------------------------------------------------------------------


def test_a_video_says_how_its_colours_and_settings_are_read(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with av.open(str(made)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        said = json.loads(container.metadata["comment"])
    assert said["format"] == FORMAT and said["arguments"]["prompt"] == PROMPT
    assert said["arguments"]["image"] == [["first.png", 0, 0.9, 33]]
    assert said["arguments"]["lora"] == [["tiny-2.0-lora.safetensors", -0.7]]
    assert said["files"]["first.png"] == fingerprint(made.parent / "models" / "first.png")
    data = made.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "a browser plays it before all of it is there"
    assert b"secret-folder" not in data and b"models" not in data, "folders are nobody's business"
    assert main(["info", str(made)]) == 0
    shown = capsys.readouterr().out
    for part in ("9 frames of 64x128, 24 per second; h264, yuv420p, colours BT.709, limited range", "first.png", "mlx"):
        assert part in shown, part


def test_a_video_is_made_again_from_its_own_settings(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "--config", str(made), "--output-path", "again.mp4"]) == 0
    assert (tmp_path / "again.mp4").read_bytes() == made.read_bytes()


def test_what_is_typed_wins_over_the_settings(made: Path) -> None:
    first = parsed("--config", made, "--output-path", "x.mp4")
    changed = ["--seed", "8", "--image", made.parent / "models" / "first.png", "8", "0.5", "--dtype", "float32"]
    changed = parsed("--config", made, "--output-path", "x.mp4", *changed, "--without", "lora", "noise")
    assert (first["seed"], changed["seed"], changed["dtype"]) == (7, 8, "float32")
    assert [image.frame_idx for image in changed["images"]] == [8], "not beside the first one"
    assert len(first["loras"]) == 1 and changed["loras"] == () and changed["noise"] == "numpy"
    same = {"prompt", "height", "width", "num_frames", "frame_rate", "checkpoint_path", "crf"}
    assert {name: first[name] for name in same} == {name: changed[name] for name in same}


def test_frames_and_audio_have_their_settings_too_and_none_where_none_are_wanted(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(places, "file", lambda: tmp_path / "no" / "such" / "folder.json")
    tiny = checkpoints / "tiny-2.0"
    flags = [
        "--distilled-checkpoint-path",
        f"{tiny}.safetensors",
        "--height",
        "64",
        "--width",
        "64",
        "--num-frames",
        "1",
    ]
    flags += ["--spatial-upsampler-path", f"{tiny}-upsampler-x2.safetensors", "--prompt", "rare words", "--placeholder"]
    given = parsed(*flags, "--output-path", "x")
    for name in ("frames", "a.wav"):
        assert main(["generate", *flags, "--output-path", str(tmp_path / name)]) == 0
        monkeypatch.chdir(checkpoints)  # where files of the right content are found by their names
        found = parsed("--config", tmp_path / name, "--output-path", "x")
        assert {k: v for k, v in found.items() if given[k] != v} == {"from_settings": True, "behaviour": "1.0.0"}
        assert main(["info", str(tmp_path / name)]) == 0 and "rare words" in capsys.readouterr().out
    assert media.probe(tmp_path / "a.wav").samples
    assert main(["generate", *flags, "--no-metadata", "--overwrite", "--output-path", str(tmp_path / "b.mp4")]) == 0
    assert main(["info", str(tmp_path / "b.mp4")]) == 0 and "settings  none" in capsys.readouterr().out
    assert b"rare words" not in (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize("lora", ["mine.safetensors", ["mine.safetensors"], [["mine.safetensors"]]])
def test_a_flag_with_one_value_needs_no_list(lora: object, tmp_path: Path, checkpoints: Path) -> None:
    (tmp_path / "mine.safetensors").symlink_to(checkpoints / "tiny-2.0-lora.safetensors")
    files = {"distilled-checkpoint-path": "tiny-2.0.safetensors", "spatial-upsampler-path": "x.safetensors"}
    arguments = {"prompt": "a fox", "placeholder": True, "lora": lora, **files}
    settings = tmp_path / "mine.json"
    settings.write_text(json.dumps({"format": FORMAT, "arguments": arguments, "files": {}}))
    loras = parsed("--config", settings, "--output-path", "x.mp4")["loras"]
    assert isinstance(loras, tuple) and [Path(lora.path).name for lora in loras] == ["mine.safetensors"]


def test_a_file_of_the_same_name_is_not_taken_for_another(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(places, "file", lambda: tmp_path / "none.json")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first.png").write_bytes(b"another picture")
    assert main(["plan", "--config", str(made), "--output-path", "x.mp4"]) == 2
    said = capsys.readouterr().err
    for flag in ("--distilled-checkpoint-path", "--spatial-upsampler-path", "--lora", "--image first.png (sha256"):
        assert flag in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--crf", "51.5"], "CRF 51.5, expected 0 to 51"),
        (["--crf", "nan"], "CRF nan"),
        (["--codec", "prores"], "prores goes into a file that ends in .mov, not .mp4"),
        (["--codec", "prores", "--crf", "9", "--output-path", "x.mov"], "prores has no CRF"),
        (["--codec", "hevc", "--preset", "hq"], "the preset hq of hevc"),
        (["--codec", "hevc", "--output-path", "frames"], "--codec has no effect on"),
        (["--crf", "9", "--output-path", "x.wav"], "--crf has no effect on"),
        (["--codec", "hevc"], "PyAV's FFmpeg has no libx265"),
    ],
)
def test_how_a_video_cannot_be_compressed_is_known_to_the_plan(
    flags: list[str], problem: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "libx265" in problem:
        monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx265"})
    asked = parse("plan", ["--config", str(made), "--without", "crf", "no-audio", "--output-path", "x.mp4", *flags])
    found = plan(asked).problems
    assert len(found) == 1 and problem in found[0]


# ---- settings of others -------------------------------------------------------------------------------------------

_GOOD = {"format": FORMAT, "arguments": {"prompt": "x", "output-path": "y.mp4"}}
HOSTILE: dict[str, tuple[object, str]] = {
    "cut": ('{"format": "ltx2-mlx-sett', "not JSON"),
    "nested": ('{"a":' * 100_000, "not JSON"),
    "thousands of digits": ('{"format": ' + "9" * 5000 + "}", "not JSON"),
    "a list": ("[]", "cannot be read"),
    "nothing": ("", "empty"),
    "of another program": ({"prompt": {"3": {"class_type": "KSampler"}}}, "have the format None"),
    "of another version": ({**_GOOD, "format": "ltx2-mlx-settings/9"}, "settings/9"),
    "without arguments": ({"format": FORMAT}, "no 'arguments'"),
    "an unknown part": ({**_GOOD, "command": "rm"}, "'command'"),
    "arguments in a list": ({**_GOOD, "arguments": ["--prompt", "x"]}, "'arguments'"),
    "a hash that is none": ({**_GOOD, "files": {"a": 3}}, "expected a text"),
    "an unknown setting": ({"sed": 3}, "'sed' is no setting of distilled; did you mean seed?"),
    "an underscore": ({"num_frames": 9}, "did you mean num-frames?"),
    "a setting with a value in its name": ({"seed=3": 1}, "no setting"),
    "an output": ({"output-path": "/etc/x.mp4"}, "output-path is not taken from settings"),
    "an overwrite": ({"overwrite": True}, "overwrite is not taken from settings"),
    "a cache": ({"context": "/root/x.safetensors"}, "context is not taken from settings"),
    "settings in settings": ({"config": "other.mp4"}, "config is not taken from settings"),
    "a flag in a list": ({"video-stg-blocks": [1, "--overwrite"], "pipeline": "retake"}, "taken for a flag"),
    "a flag as a value": ({"seed": "--overwrite"}, "invalid int value"),
    "a text for a number": ({"seed": "ten"}, "invalid int value"),
    "a fraction": ({"num-frames": 9.5}, "invalid int value"),
    "nothing for a value": ({"seed": None}, "expected a text or a number"),
    "an object for a value": ({"prompt": {"a": 1}}, "expected a text or a number"),
    "no for a value": ({"prompt": False}, "expected a text or a number"),
    "yes for a value": ({"prompt": True}, "expected one argument"),
    "a value for yes": ({"low-memory": "yes"}, "ignored explicit argument"),
    "too few values": ({"image": [["a.png", 0]]}, "takes 3 or 4 values"),
    "nests": ({"image": [[["a.png"], 0, 1]]}, "expected a text or a number"),
    "another pipeline": ({"pipeline": "sora"}, "there is no pipeline 'sora'"),
    "a pipeline that is no name": ({"pipeline": ["retake"]}, "pipeline is ['retake'], expected a text"),
    "a flag of another pipeline": ({"skip-stage-2": True}, "no setting of distilled"),
    "a required setting that is missing": ({"seed": 3}, "arguments are required: --prompt"),
    "files that are not there": (
        {"distilled-checkpoint-path": "/none/x.safetensors", "spatial-upsampler-path": "/dev/zero", "prompt": "x"},
        "/none/x.safetensors: no such file",
    ),
    "a steering text": ({"\x1b[2J": 1}, "no setting"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_settings_of_others_are_refused_in_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content, reason = HOSTILE[name]
    monkeypatch.chdir(tmp_path)
    if isinstance(content, dict) and "format" not in content and name != "of another program":
        content = {"format": FORMAT, "arguments": content}
    (tmp_path / "his.json").write_text(content if isinstance(content, str) else json.dumps(content))
    try:
        code = main(["plan", "--config", "his.json", "--output-path", "mine.mp4"])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2 and reason in out + err, out + err
    assert "\x1b" not in out + err and "Traceback" not in err
    assert out or err.count("\n") == 1, "one line, or a plan with its list of problems"
    assert [path.name for path in tmp_path.iterdir()] == ["his.json"]


def test_a_file_without_settings_is_named(
    tmp_path: Path, checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (checkpoints / "media" / "clip.mp4", checkpoints / "media" / "audio.wav"):
        assert main(["plan", "--config", str(path), "--output-path", "x.mp4"]) == 2
        assert capsys.readouterr().err == f"ltx2-mlx: {path}: holds no settings of ltx2-mlx\n"
    for path in (checkpoints / "tiny-2.0.safetensors", tmp_path, tmp_path / "none.mp4"):
        assert main(["plan", "--config", str(path), "--output-path", "x.mp4"]) == 2
        assert str(path) in capsys.readouterr().err
