"""The command line from flags to a file: what is written, what is refused, what is released."""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from mlx.utils import tree_flatten

from ltx2_mlx import __version__, pipelines
from ltx2_mlx.cli import generate, recipes
from ltx2_mlx.cli.main import main
from ltx2_mlx.cli.names import DISTILLED_LORA
from ltx2_mlx.cli.names import FULL as FULL_MODEL
from ltx2_mlx.cli.plan import Plan, plan
from ltx2_mlx.cli.progress import State
from ltx2_mlx.cli.recipes import RECIPES, parse
from ltx2_mlx.cli.request import Request
from ltx2_mlx.cli.settings_file import FORMAT
from ltx2_mlx.diffusion.guiders import MultiModalGuiderParams
from ltx2_mlx.errors import InputError
from ltx2_mlx.loading.header import read_header
from ltx2_mlx.loading.lora import LoraPathStrength
from ltx2_mlx.media.images import decode_image
from ltx2_mlx.media.reading import probe
from ltx2_mlx.nn.noise import Generator
from ltx2_mlx.pipelines import Settings, TI2VidTwoStagesHQPipeline
from ltx2_mlx.pipelines.a2vid_two_stage import with_silence
from ltx2_mlx.pipelines.ledger import ModelLedger
from ltx2_mlx.transformer import X0Model
from ltx2_mlx.types import Audio

SIZE = ["--height", "64", "--width", "128", "--num-frames", "9"]
pytestmark = pytest.mark.usefixtures("short_prompts", "built_once")


@pytest.fixture
def files(checkpoints: Path) -> list[str]:
    """The flags of the files of the distilled pipeline, and a small size."""
    flags = {
        "--distilled-checkpoint-path": checkpoints / "tiny-2.0.safetensors",
        "--gemma-root": checkpoints / "tiny-gemma",
        "--spatial-upsampler-path": checkpoints / "tiny-2.0-upsampler-x2.safetensors",
        "--prompt": "a fox in the snow",
    }
    return [*(str(x) for pair in flags.items() for x in pair), *SIZE]


# ---- flags --------------------------------------------------------------------------------------------------------

FULL = [
    name for name, recipe in RECIPES.items() if not recipe.distilled and name not in ("ti2vid_two_stages_hq", "retake")
]


def test_given_values_are_kept_whatever_the_version(checkpoints: Path) -> None:
    flags = ["--num-inference-steps", "7", "--video-stg-blocks", "0", "1", "--audio-stg-blocks"]
    for version in ("2.0", "2.3"):
        request = _planned("ti2vid_one_stage", checkpoints / f"tiny-{version}.safetensors", *flags).request
        assert (request.steps, request.video_guidance.stg_blocks) == (7, [0, 1])
        assert request.audio_guidance.stg_blocks == []


def _planned(name: str, checkpoint: Path, *flags: str) -> Plan:
    """A plan with the checkpoint; the other files that the pipeline requires are not there."""
    needed = ("prompt", "output_path", "gemma_root", "spatial_upsampler_path", "distilled_lora")
    actions = [a for a in recipes.parser("plan", name)._actions if a.required or a.dest in needed]
    given = [word for a in actions for word in (a.option_strings[0], "none")]
    return plan(parse("plan", ["--pipeline", name, "--checkpoint-path", str(checkpoint), *given, *flags]))


def test_help_states_the_defaults_of_both_versions(capsys: pytest.CaptureFixture[str]) -> None:
    for name in RECIPES:
        with pytest.raises(SystemExit) as exit:
            main(["generate", "--pipeline", name, "--help"])
        assert exit.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        assert ("denoising steps (default: 40, or 30 from 2.3 on)" in text) is (name in FULL)


@pytest.mark.parametrize(
    ("pipeline", "flags", "reason"),
    [
        ("distilled", ["--num-inference-steps", "12"], "its own 8 and 3 steps"),
        ("a2vid_two_stage", ["--audio-cfg-guidance-scale", "3"], "the audio is given"),
        ("distilled", ["--image", "a.png", "0"], "takes 3 or 4 values"),
        ("distilled", ["--lora", "a", "strong"], "could not convert"),
    ],
)
def test_a_flag_without_effect_or_sense_is_refused(
    pipeline: str, flags: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        recipes.parser("generate", pipeline).parse_args(flags)
    assert reason in capsys.readouterr().err


# ---- the plan -----------------------------------------------------------------------------------------------------


def test_plan_names_every_problem_at_once(
    files: list[str], checkpoints: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = ["--height", "100", "--num-frames", "18", "--image", "none.png", "40", "2", "--output-path", "/none/x.avi"]
    wrong += ["--spatial-upsampler-path", str(checkpoints / "tiny-2.3-upsampler-x1.5.safetensors")]
    wrong += ["--lora", str(checkpoints / "tiny-2.3-lora.safetensors"), "--quantization", "fp8-scaled-mm"]
    assert main(["plan", *files, *wrong]) == 2
    text = capsys.readouterr().out
    for part in ("use 128x128", "use 17", "none.png", "frame 40", ".avi", "scales by 1.5", "tiny-2.3-lora", "fp8-cast"):
        assert part in text, part
    assert main(["generate", *files, *wrong]) == 2  # nothing is loaded, and the same is said
    assert "frame 40" in capsys.readouterr().err


def test_plan_tells_stages_files_and_memory(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *files, "--output-path", str(tmp_path / "x.mp4")]) == 0
    text = capsys.readouterr().out
    for part in ("version 2.0.0", "stage 1", "9 frames of 32x64, 4 + 9 tokens, 8 steps", "3 steps", "peak about"):
        assert part in text, part


def test_plans_weights_are_those_that_load(files: list[str], tmp_path: Path) -> None:
    for flags in ([], ["--quantization", "fp8-cast"], ["--dtype", "float32"]):
        planned = plan(parse("plan", [*files, "--output-path", str(tmp_path / "x.mp4"), *flags]))
        stage = next(s for s in planned.stages if s.name == "stage 1")
        settings = generate.settings(planned.request)
        model = ModelLedger(planned.request.checkpoint_path, settings=settings).transformer()
        assert sum(x.nbytes for _, x in tree_flatten(model.parameters())) == stage.weights


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of encoded prompts, so that Gemma runs once for all pipelines."""
    return tmp_path_factory.mktemp("contexts") / "kept.safetensors"


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize("name", RECIPES)
def test_a_run_takes_the_stages_steps_and_passes_of_its_plan(
    name: str, checkpoints: Path, contexts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(parse("generate", _flags(name, checkpoints, contexts, tmp_path / "x.mp4")))
    assert not planned.problems
    ran: dict[str, int] = {}
    passes = 0

    def progress(name: str, done: int, total: int | None) -> None:
        ran[name] = total or 0

    def counted(self: X0Model, *args: object) -> object:
        nonlocal passes
        passes += 1
        return call(self, *args)

    call = X0Model.__call__
    monkeypatch.setattr(X0Model, "__call__", counted)
    frames, audio = generate.run(planned.request, generate.settings(planned.request, progress))
    shape = planned.recipe.shape(planned.request)
    assert audio is None and np.concatenate(list(frames)).shape == (shape.frames, shape.height, shape.width, 3)
    expected = planned.recipe.denoising(planned.request, shape)
    assert {stage.name: stage.steps for stage in expected}.items() <= ran.items()
    assert passes == sum(stage.evaluations * stage.passes for stage in expected)
    assert [stage.name for stage in planned.stages if "steps" in stage.what] == [stage.name for stage in expected]


def _flags(name: str, checkpoints: Path, contexts: Path, output: Path) -> list[str]:
    """The smallest run of a pipeline that has all that it can have, but audio."""
    tiny, media = checkpoints / "tiny-2.0", checkpoints / "media"
    known = {
        "checkpoint_path": [f"{tiny}.safetensors"],
        "prompt": ["a fox in the snow"],
        "output_path": [output],
        "spatial_upsampler_path": [f"{tiny}-upsampler-x2.safetensors"],
        "distilled_lora": [f"{tiny}-distilled-lora.safetensors", "1"],
        "video_conditioning": [media / "clip.mp4", "0.9"],
        "audio_path": [media / "audio.wav"],
        "video_path": [media / "clip.mp4"],
        "start_time": ["0.2"],
        "end_time": ["0.5"],
    }
    actions = recipes.parser("generate", name)._actions
    needed = [a for a in actions if a.dest in known]
    flags = [word for a in needed for word in (a.option_strings[0], *known[a.dest])]
    options = {option for action in actions if action.help != argparse.SUPPRESS for option in action.option_strings}
    if "--height" in options:
        flags += [*SIZE, "--image", media / "image-0.png", "0", "1"]
    if name == "ic_lora":  # whose reference videos have half the size of the first stage
        flags += ["--lora", f"{tiny}-ic-lora.safetensors", "--height", "128"]
    for option in ("--num-inference-steps", "--video-stg-blocks", "--audio-stg-blocks"):
        flags += [option, "2"] if option in options else []
    flags += ["--pipeline", name, "--no-audio", "--context", contexts, "--gemma-root", checkpoints / "tiny-gemma"]
    return list(map(str, flags))


@pytest.mark.parametrize(
    ("name", "flags", "problem"),
    [
        ("retake", ["--start-time", "0.6"], "the start time, 0.6 s, is not before the end time, 0.5 s"),
        ("retake", ["--end-time", "9", "--start-time", "5"], "the video lasts 0.68 s"),
        ("a2vid_two_stage", ["--audio-start-time", "60"], "has no audio from 60 s on"),
        ("a2vid_two_stage", ["--audio-path", "image-0.png"], "has no audio from 0 s on"),
        ("ic_lora", ["--conditioning-attention-mask", "clip.mp4", "1.5"], "is 1.5, expected 0 to 1"),
        ("ic_lora", ["--height", "64"], "multiples of 128"),
        ("ti2vid_two_stages_hq", ["--distilled-lora", "LORA"], "2 distilled LoRAs were given, expected one"),
        ("ti2vid_one_stage", ["--num-inference-steps", "0"], "--num-inference-steps is 0, expected 1 to 1000"),
        ("ti2vid_one_stage", ["--audio-stg-blocks", "3"], "--audio-stg-blocks 3: the model has blocks 0 to 2"),
    ],
)
def test_what_a_pipeline_would_refuse_is_a_problem_of_the_plan(
    name: str, flags: list[str], problem: str, checkpoints: Path, tmp_path: Path
) -> None:
    files = {file: str(checkpoints / "media" / file) for file in ("clip.mp4", "image-0.png")}
    files["LORA"] = str(checkpoints / "tiny-2.0-distilled-lora.safetensors")
    base = _flags(name, checkpoints, tmp_path / "none.safetensors", tmp_path / "x.mp4")
    assert plan(parse("plan", base)).problems == []
    planned = plan(parse("plan", [*base, *(files.get(flag, flag) for flag in flags)]))
    assert len(planned.problems) == 1 and problem in planned.problems[0]
    with pytest.raises(InputError, match=re.escape(problem)):
        generate.generate(planned)


# ---- before a download --------------------------------------------------------------------------------------------

NAMED = ["--distilled-checkpoint-path", "owner/model/x.safetensors", "--gemma-root", "owner/gemma", "--prompt", "a fox"]


class FakeHub:
    """Hugging Face with an empty cache. It has the headers of the tiny files under other names, notes each download
    that is asked for, and fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, checkpoints: Path):
        self.asked: list[str] = []
        self.files = {
            "x.safetensors": checkpoints / "tiny-2.0.safetensors",
            "ltx-2-19b-distilled.safetensors": checkpoints / "tiny-2.0.safetensors",
            "ltx-2-spatial-upscaler-x2-1.0.safetensors": checkpoints / "tiny-2.0-upsampler-x2.safetensors",
        }
        self.gemma = sorted((checkpoints / "tiny-gemma").glob("*.safetensors"))
        self.files |= {path.name: path for path in self.gemma}
        monkeypatch.setattr("huggingface_hub.hf_hub_download", self.download)
        monkeypatch.setattr("huggingface_hub.snapshot_download", self.download)
        monkeypatch.setattr("huggingface_hub.HfApi.parse_safetensors_file_metadata", self.header)
        monkeypatch.setattr("huggingface_hub.HfApi.model_info", self.info)

    def header(self, repository: str, file: str) -> SimpleNamespace:
        metadata, tensors = read_header(self.files[file])
        infos = {
            k: SimpleNamespace(dtype=t.dtype, shape=t.shape, data_offsets=(t.offset, 0)) for k, t in tensors.items()
        }
        return SimpleNamespace(metadata=metadata, tensors=infos)

    def info(self, repository: str, files_metadata: bool) -> SimpleNamespace:
        sizes = {path.name: path.stat().st_size for path in self.gemma} | {"README.md": 10**15}
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name, size=size) for name, size in sizes.items()])

    def download(self, repository: str, *file: str, local_files_only: bool, **options: object) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not in the cache")
        self.asked.append("/".join((repository, *file)))
        raise ConnectionError("a download was begun")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, checkpoints: Path) -> FakeHub:
    return FakeHub(monkeypatch, checkpoints)


@pytest.fixture
def named(checkpoints: Path, tmp_path: Path) -> list[str]:
    """Flags of which two name files on Hugging Face."""
    upsampler = ["--spatial-upsampler-path", str(checkpoints / "tiny-2.0-upsampler-x2.safetensors")]
    return [*NAMED, *SIZE, *upsampler, "--output-path", str(tmp_path / "x.mp4")]


@pytest.mark.parametrize(
    ("flags", "code"),
    [(["--help"], 0), (["--lora", "a", "strong"], 2), (["--seed", "x"], 2), (["--quantization", "fp8-cast", "x"], 2)],
)
def test_parsing_downloads_nothing(hub: FakeHub, named: list[str], flags: list[str], code: int) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["generate", *named, *flags])
    assert exit.value.code == code and not hub.asked


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--height", "100"], "height x width is 100x128, expected multiples of 64"),
        (["--quantization", "fp8-scaled-mm"], "use fp8-cast"),
        (["--seed", "-2"], "expected 0 or more"),
        (["--output-path", "x.avi"], "ends in .avi"),
        (["--image", "none.png", "0", "1"], "none.png"),
        (["--spatial-upsampler-path", "upsampler.safetensors"], "no such file or folder"),
        (["--spatial-upsampler-path", "UPSAMPLER"], "scales by 1.5"),
        (["--lora", __file__], "test_generate.py"),
    ],
)
def test_a_problem_that_is_here_is_told_before_a_download(
    hub: FakeHub,
    named: list[str],
    checkpoints: Path,
    flags: list[str],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wrong = str(checkpoints / "tiny-2.3-upsampler-x1.5.safetensors")
    assert main(["generate", *named, *(wrong if flag == "UPSAMPLER" else flag for flag in flags)]) == 2
    text = capsys.readouterr().err
    assert problem in text and "1 problem:" in text and not hub.asked


def test_what_is_missing_is_downloaded_when_all_else_is_right(
    hub: FakeHub, named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *named]) == 0
    said = capsys.readouterr().out
    size = sum(path.stat().st_size for path in (hub.files["x.safetensors"], *hub.gemma))
    assert f"downloads {size / 1e6:.2f} MB first" in said and "version 2.0.0" in said and not hub.asked
    for stage in ("prompts", "stage 1", "frames"):
        assert f"\n{stage}" in said, said
    assert main(["generate", *named]) == 2  # what the command line names is not asked about
    assert hub.asked == ["owner/model/x.safetensors", "owner/gemma"]
    assert "a download was begun" in capsys.readouterr().err


def test_what_settings_of_others_name_is_not_downloaded_unasked(
    hub: FakeHub, named: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "theirs.json"
    theirs = {"gemma-root": "owner/gemma", "prompt": "a fox", "distilled-checkpoint-path": "owner/model/x.safetensors"}
    settings.write_text(json.dumps({"format": FORMAT, "arguments": theirs}))
    mine = [word for word in named if word not in NAMED]
    assert main(["generate", "--config", str(settings), *mine]) == 2
    assert "would be downloaded" in capsys.readouterr().err and not hub.asked
    assert main(["generate", "--config", str(settings), *mine, "--yes"]) == 2 and hub.asked


def test_what_hugging_face_refuses_is_a_problem_before_a_download(
    hub: FakeHub, named: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*args: object, **options: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    for command in ("plan", "generate"):
        assert main([command, *named]) == 2
        out, err = capsys.readouterr()
        assert "1 problem:" in out + err and "owner/gemma: a whole copy of it is not in the cache" in out + err
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    assert main(["plan", *named]) == 2
    assert "make room, or set HF_HOME" in capsys.readouterr().out and not hub.asked


def test_a_prompt_alone_is_enough_and_the_default_models_are_asked_for(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--prompt", "A red fox, in snow!", *SIZE]
    assert main(["plan", *flags]) == 0
    assert "Lightricks/LTX-2/ltx-2-19b-distilled.safetensors" in capsys.readouterr().out
    assert main(["generate", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "google/gemma-3-12b-it would be downloaded" in line and "--yes" in line and not hub.asked
    assert main(["generate", *flags, "--yes"]) == 2
    assert [name.rpartition("/")[2] for name in hub.asked] == [*list(hub.files)[1:3], "gemma-3-12b-it"]
    assert parse("plan", flags).output_path == tmp_path / "a-red-fox-in-snow-seed10.mp4"
    asked = parse("plan", [*flags, "--pipeline", "ti2vid_two_stages"])
    assert asked.checkpoint_path == FULL_MODEL and asked.distilled_lora == (LoraPathStrength(DISTILLED_LORA),)
    for more in (["--placeholder"], ["--context", __file__]):  # nothing is encoded, or perhaps nothing
        assert parse("plan", [*flags, *more]).gemma_root is None
    with pytest.raises(SystemExit):  # an upsampler belongs to its checkpoint
        parse("plan", [*flags, "--distilled-checkpoint-path", "x.safetensors"])
    assert "required: --spatial-upsampler-path" in capsys.readouterr().err


def test_without_a_backend_every_command_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    wanted = "MLX has no backend here: pip install 'ltx2-mlx[cpu]', or [cuda13] on NVIDIA"
    for argv in (["info", "x.safetensors"], ["generate", "--help"], ["plan"]):
        assert main(argv) == 2
        assert capsys.readouterr() == ("", f"ltx2-mlx: {wanted}\n")
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])
    assert capsys.readouterr() == (f"ltx2-mlx {__version__} ({wanted})\n", "")


# ---- what is written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("/etc/hostname/fox.mp4", "cannot be written"),
        ("/etc/hosts", "a file"),
    ],
)
def test_where_nothing_can_be_written_is_refused(files: list[str], output: str, reason: str) -> None:
    problems = plan(parse("plan", [*files, "--output-path", output])).problems
    assert len(problems) == 1 and reason in problems[0]


@pytest.mark.usefixtures("few_steps")
def test_an_mp4_with_every_frame_and_sample(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "videos" / "fox.mp4"
    assert main(["generate", *files, "--output-path", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == str(path)
    for stage in ("encoding the prompts", "loading the transformer", "stage 1", "stage 2", "decoding the video"):
        assert stage in err
    found = probe(path)
    assert (found.width, found.height, found.frames, found.fps) == (128, 64, 9, 24)
    assert (found.sample_rate, found.channels) == (24000, 2) and found.samples > 0
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.usefixtures("loaded_once")
def test_frames_as_images_audio_alone_and_neither(files: list[str], tmp_path: Path) -> None:
    noise = ["--no-metadata", "--placeholder"]
    for name in ("a", "b.wav"):
        generate.generate(plan(parse("generate", [*files, *noise, "--output-path", str(tmp_path / name)])))
    images = sorted((tmp_path / "a").glob("*.png"))
    assert len(images) == 9 and decode_image(images[0]).shape == (64, 128, 3)
    assert (tmp_path / "a" / "audio.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    silent = parse("generate", [*files, *noise, "--no-audio", "--output-path", str(tmp_path / "c.mp4")])
    generate.generate(plan(silent))
    assert probe(tmp_path / "c.mp4").samples is None
    assert list((tmp_path).glob("*.png")) == []


@pytest.mark.usefixtures("loaded_once", "few_steps")
def test_contexts_are_kept_and_given_back(files: list[str], tmp_path: Path) -> None:
    kept = ["--context", str(tmp_path / "kept.safetensors"), "--output-path", str(tmp_path / "a.mp4")]
    first = _frames(parse("generate", [*files, *kept]))
    without = [x for x in files if x not in ("--gemma-root", files[3])]
    again = parse("generate", [*without, *kept])
    assert again.gemma_root is None and plan(again).problems == []
    np.testing.assert_array_equal(first, _frames(again))
    other = parse("generate", [*without, *kept, "--prompt", "another one"])
    assert any("--gemma-root is missing" in problem for problem in plan(other).problems)


def _frames(request: Request) -> np.ndarray:
    """The frames alone: the vocoder is what takes time here."""
    planned = plan(request)
    assert not planned.problems
    frames, _ = generate.run(planned.request, replace(generate.settings(planned.request), audio=False))
    return np.concatenate(list(frames))


def test_stopping_leaves_nothing(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(self: object, state: State) -> None:
        if state.phase == "decoding the video" and state.done:
            raise KeyboardInterrupt

    monkeypatch.setattr("ltx2_mlx.cli.progress.Lines.show", stop)
    argv = [*files, "--placeholder", "--no-audio", "--output-path", str(tmp_path / "x.mp4")]
    assert main(["generate", *argv]) == 130
    assert list(tmp_path.iterdir()) == [] and "nothing was written" in capsys.readouterr().err


# ---- what it depends on -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("loaded_once")
def test_a_seed_repeats_and_another_one_differs(files: list[str], contexts: Path, plain: np.ndarray) -> None:
    shared = [*files, "--context", str(contexts), "--output-path", "x.mp4", "--seed"]
    again, other = (_frames(parse("generate", [*shared, seed])) for seed in ("10", "4"))
    np.testing.assert_array_equal(plain, again)
    assert (plain != other).mean() > 0.5


def test_noise_is_drawn_on_the_host() -> None:
    """So that it is the same on every device: these are NumPy's numbers, rounded only in the end."""
    drawn = Generator(11).randn((2, 3), mx.bfloat16)
    expected = np.random.default_rng(11).standard_normal((2, 3), dtype=np.float32)
    np.testing.assert_array_equal(
        np.array(drawn.astype(mx.float32)), np.array(mx.array(expected).astype(mx.bfloat16).astype(mx.float32))
    )


@pytest.mark.usefixtures("loaded_once")
@pytest.mark.parametrize(
    ("flags", "of_contexts"),
    [
        (["--cross-attn-scale", "0.2"], False),
        (["--early-layers-only"], True),
        (["--placeholder"], True),
        (["--quantization", "fp8-cast"], False),
        (["--noise", "torch"], False),
        (["--dtype", "float32"], True),
    ],
    ids=lambda flags: flags[0] if isinstance(flags, list) else "",
)
def test_a_flag_has_its_effect(
    files: list[str], flags: list[str], of_contexts: bool, contexts: Path, plain: np.ndarray
) -> None:
    more = flags if of_contexts else [*flags, "--context", str(contexts)]
    assert (_frames(parse("generate", [*files, "--output-path", "x.mp4", *more])) != plain).mean() > 0.01


@pytest.fixture
def plain(few_steps: None, files: list[str], contexts: Path) -> np.ndarray:
    return _plain((*files, "--context", str(contexts)))


@cache
def _plain(files: tuple[str, ...]) -> np.ndarray:
    return _frames(parse("generate", [*files, "--output-path", "x.mp4"]))


def test_low_memory_gives_the_same_video(files: list[str], plain: np.ndarray) -> None:
    np.testing.assert_array_equal(_frames(parse("generate", [*files, "--output-path", "x", "--low-memory"])), plain)


def test_pipelines_take_arguments_by_keyword_only() -> None:
    classes = [value for value in vars(pipelines).values() if inspect.isclass(value) and "Pipeline" in value.__name__]
    classes = [cls for cls in classes if cls is not pipelines.PipelineParams]
    assert len(classes) == len(RECIPES)
    for function in (f for cls in classes for f in (cls.__init__, cls.__call__)):
        _, *parameters = inspect.signature(function).parameters.values()
        assert len(parameters) > 3 and {p.kind for p in parameters} == {inspect.Parameter.KEYWORD_ONLY}


# ---- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_steps")
def test_every_stage_holds_its_own_weights_only(files: list[str], tmp_path: Path) -> None:
    """When a stage begins, nothing of those before is left but latents and contexts."""
    planned = plan(parse("generate", [*files, "--low-memory", "--output-path", str(tmp_path / "x.mp4")]))
    held: dict[str, int] = {}
    mx.clear_cache()
    before = mx.get_active_memory()

    def watch(name: str, done: int, total: int | None) -> None:
        if done == 0:
            held.setdefault(name, mx.get_active_memory() - before)

    frames, _ = generate.run(planned.request, generate.settings(planned.request, watch))
    assert sum(len(chunk) for chunk in frames) == 9
    print(held)
    weights = {stage.name: stage.weights for stage in planned.stages}
    small = min(weights["prompts"], weights["stage 1"], weights["audio"]) // 2
    kept = 128 * (44 + 44) * 2  # the contexts, until both stages have been denoised
    for name in ("loading the transformer", "upsampling", "decoding the audio", "decoding the video"):
        assert held[name] < kept + small, (name, held, weights)
    assert mx.get_active_memory() - before < small


# ---- where the reference goes wrong -------------------------------------------------------------------------------


def test_audio_shorter_than_its_video_is_followed_by_silence(caplog: pytest.LogCaptureFixture) -> None:
    audio = Audio(mx.ones((1, 2, 12000)), 24000)
    longer = with_silence(audio, 17 / 24)
    assert longer.waveform.shape == (1, 2, 17000) and "0.21 s shorter" in caplog.text
    assert mx.all(longer.waveform[..., :12000] == 1).item() and mx.all(longer.waveform[..., 12000:] == 0).item()
    assert with_silence(audio, 0.4) is audio


def test_the_hq_samplers_noise_follows_the_seed(checkpoints: Path) -> None:
    asked: list[int] = []

    def noise(seed: int) -> Generator:
        asked.append(seed)
        return Generator(max(seed, 0))

    files = {
        name: str(checkpoints / f"tiny-2.0{name}.safetensors") for name in ("", "-distilled-lora", "-upsampler-x2")
    }
    pipeline = TI2VidTwoStagesHQPipeline(
        checkpoint_path=files[""],
        distilled_lora=[LoraPathStrength(files["-distilled-lora"])],
        distilled_lora_strength_stage_1=0.25,
        distilled_lora_strength_stage_2=0.5,
        spatial_upsampler_path=files["-upsampler-x2"],
        gemma_root=None,
        settings=Settings(noise=noise, placeholder=True, audio=False),
    )
    size = {"height": 64, "width": 128, "num_frames": 9, "frame_rate": 24.0, "num_inference_steps": 2}
    guidance = {f"{stream}_guider_params": MultiModalGuiderParams() for stream in ("video", "audio")}
    given = {"prompt": "x", "negative_prompt": "", **size, **guidance}
    for seed in (3, 4):
        frames, _ = pipeline(seed=seed, **given)
        assert sum(len(chunk) for chunk in frames) == 9
    first, second = asked[: len(asked) // 2], asked[len(asked) // 2 :]
    assert len(first) == len(set(first)) == 5 and not set(first) & set(second)
    asked.clear()
    pipeline(seed=3, **given, noise_seed=-1)
    assert asked == [3, -1, 9999, -1, 9999], "the reference's, whatever the seed is"
