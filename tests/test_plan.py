"""What ``plan`` says of values: a sentence for those that cannot be used, a note for those that surprise, and the same
from the pipelines themselves."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image
from test_plan_agrees import stand_ins  # noqa: F401 (a fixture)

from ltx2_mlx.cli.main import main
from ltx2_mlx.cli.plan import Plan, plan
from ltx2_mlx.cli.recipes import RECIPES, parse
from ltx2_mlx.cli.shown import show
from ltx2_mlx.diffusion.guiders import MultiModalGuiderFactory, MultiModalGuiderParams
from ltx2_mlx.diffusion.samplers import euler_denoising_loop, res2s_audio_video_denoising_loop
from ltx2_mlx.diffusion.schedulers import LTX2Scheduler, falls
from ltx2_mlx.errors import InputError, NotFiniteError
from ltx2_mlx.loading.checkpoint import read_checkpoint
from ltx2_mlx.loading.lora import LoraPathStrength
from ltx2_mlx.nn.noise import Generator
from ltx2_mlx.pipelines import (
    DistilledPipeline,
    RetakePipeline,
    Settings,
    TI2VidOneStagePipeline,
    TI2VidTwoStagesHQPipeline,
)
from ltx2_mlx.types import ImageConditioningInput, LatentState

ONE_STAGE = ["--pipeline", "ti2vid_one_stage"]
pytestmark = pytest.mark.usefixtures("short_prompts", "built_once")


def flags_of(pipeline: str, checkpoints: Path, output: Path) -> list[str]:
    """The smallest flags of a pipeline that ``plan`` accepts."""
    tiny, media = checkpoints / "tiny-2.0", checkpoints / "media"
    distilled = pipeline in ("distilled", "ic_lora")
    flags = ["--pipeline", pipeline, "--prompt", "a fox", "--output-path", output]
    flags += ["--distilled-checkpoint-path" if distilled else "--checkpoint-path", f"{tiny}.safetensors"]
    flags += ["--gemma-root", checkpoints / "tiny-gemma"]
    if pipeline != "retake":
        flags += ["--height", "64", "--width", "64", "--num-frames", "9"]
    if pipeline not in ("retake", "ti2vid_one_stage"):
        flags += ["--spatial-upsampler-path", f"{tiny}-upsampler-x2.safetensors"]
    if not distilled:
        flags += ["--num-inference-steps", "2", "--video-stg-blocks", "1"]
        flags += [] if pipeline == "a2vid_two_stage" else ["--audio-stg-blocks", "1"]
    if pipeline in ("ti2vid_two_stages", "ti2vid_two_stages_hq", "a2vid_two_stage", "keyframe_interpolation"):
        flags += ["--distilled-lora", f"{tiny}-distilled-lora.safetensors"]
    more: dict[str, list[Any]] = {
        "ic_lora": ["--video-conditioning", media / "clip.mp4", "1"],
        "a2vid_two_stage": ["--audio-path", media / "audio.wav"],
        "retake": ["--video-path", media / "clip.mp4", "--start-time", "0.2", "--end-time", "0.5"],
    }
    return list(map(str, [*flags, *more.get(pipeline, [])]))


def planned(pipeline: str, checkpoints: Path, tmp_path: Path, *flags: str) -> Plan:
    return plan(parse("plan", [*flags_of(pipeline, checkpoints, tmp_path / "x.mp4"), *flags]))


@pytest.mark.parametrize(
    ("version", "flags", "behaviour", "crf", "labelled"),
    [
        ("2.0.0", (), "1.0.0", 33, False),
        ("2.0.0", ("--behaviour", "upstream"), "upstream", 33, False),
        ("2.5.0", (), "upstream", 18, True),
        ("2.5.0", ("--behaviour", "1.0.0"), "1.0.0", 18, True),
    ],
)
def test_a_plan_shows_what_the_version_chooses(
    version: str, flags: tuple[str, ...], behaviour: str, crf: int, labelled: bool, checkpoints: Path, tmp_path: Path
) -> None:
    header, path = read_checkpoint(checkpoints / "tiny-2.0.safetensors"), tmp_path / "versioned.safetensors"
    mx.save_safetensors(str(path), dict(header.arrays()), {**header.metadata, "model_version": version})
    image = ("--image", str(checkpoints / "media" / "image-0.png"), "0", "1")
    made = planned(
        "ti2vid_one_stage", checkpoints, tmp_path, "--checkpoint-path", str(path), "--placeholder", *image, *flags
    )
    shown = show(made)
    assert f"  behaviour  {behaviour}\n" in shown and f"at frame 0, CRF {crf})" in shown
    assert ("has_subtitles" in shown) == labelled and made.request.steps == 2
    assert [each.crf for each in made.request.pictures] == [crf]


# ---- flags --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e30", "-101"])
@pytest.mark.parametrize(
    ("pipeline", "flag"),
    [
        *(
            ("ti2vid_one_stage", flag)
            for flag in (
                "--video-cfg-guidance-scale",
                "--audio-cfg-guidance-scale",
                "--video-stg-guidance-scale",
                "--audio-stg-guidance-scale",
                "--video-rescale-scale",
                "--audio-rescale-scale",
                "--a2v-guidance-scale",
                "--v2a-guidance-scale",
                "--frame-rate",
                "--cross-attn-scale",
            )
        ),
        ("ti2vid_two_stages_hq", "--distilled-lora-strength-stage-1"),
        ("ti2vid_two_stages_hq", "--distilled-lora-strength-stage-2"),
        ("a2vid_two_stage", "--audio-start-time"),
        ("a2vid_two_stage", "--audio-max-duration"),
        ("retake", "--start-time"),
        ("retake", "--end-time"),
    ],
)
def test_a_number_that_is_not_finite_or_far_too_large_is_refused_by_its_flag(
    pipeline: str, flag: str, value: str, checkpoints: Path, tmp_path: Path
) -> None:
    request = parse("plan", [*flags_of(pipeline, checkpoints, tmp_path / "x.mp4"), f"{flag}={value}"])
    problems = list(RECIPES[pipeline].problems(request))  # which every plan begins with
    assert len([problem for problem in problems if problem.startswith(f"{flag} is ")]) == 1, problems


@pytest.mark.parametrize(
    ("pipeline", "flags", "problem"),
    [
        ("ti2vid_one_stage", ["--num-inference-steps", "99999999999999999999"], "--num-inference-steps is 99999999999"),
        ("ti2vid_one_stage", ["--num-inference-steps", "9" * 4000], "a number of more than 20 digits"),
        ("ti2vid_one_stage", ["--num-inference-steps", "-1"], "--num-inference-steps is -1, expected 1 to 1000"),
        ("ti2vid_one_stage", ["--num-inference-steps", "1"], "one step cannot be stretched"),
        ("ti2vid_one_stage", ["--video-skip-step", "-1"], "--video-skip-step is -1, expected 0"),
        ("ti2vid_one_stage", ["--audio-skip-step", "-1"], "--audio-skip-step is -1, expected 0"),
        ("ti2vid_one_stage", ["--video-rescale-scale", "1.5"], "--video-rescale-scale is 1.5, expected 0 to 1"),
        ("ti2vid_one_stage", ["--seed", "-1"], "--seed is -1, expected 0 or more"),
        ("ti2vid_one_stage", ["--seed", "18446744073709551616"], "--seed is 18446744073709551616, expected"),
        ("ti2vid_one_stage", ["--frame-rate", "1e-4"], "--frame-rate is 0.0001, expected 0.001 to 1000"),
        ("ti2vid_one_stage", ["--frame-rate", "0"], "--frame-rate is 0, expected"),
        ("ti2vid_one_stage", ["--frame-rate", "1000"], "less than the 0.02 s that audio needs"),
        ("ti2vid_one_stage", ["--height", "9" * 30], "a number of more than 20 digits"),
        ("ti2vid_one_stage", ["--num-frames", "8000001"], "tokens, expected 1,048,576 at most"),
        ("ti2vid_one_stage", ["--width", "64000000"], "tokens, expected 1,048,576 at most"),
        ("ti2vid_one_stage", ["--prompt", "a \udcff fox"], "--prompt is not UTF-8 (at character 3)"),
        ("ti2vid_one_stage", ["--negative-prompt", "\ud800"], "--negative-prompt is not UTF-8"),
        ("ti2vid_one_stage", ["--image", "IMAGE", "9", "1"], "frame 9 is not in the video"),
        ("ti2vid_one_stage", ["--image", "IMAGE", "-1", "1"], "frame -1 is not in the video"),
        ("ti2vid_one_stage", ["--image", "IMAGE", "0", "nan"], "the strength is nan, expected 0 to 1"),
        ("ti2vid_one_stage", ["--image", "IMAGE", "0", "1", "60"], "CRF 60, expected 0 to 51"),
        ("ti2vid_one_stage", ["--image", "IMAGE", "0", "1", "-1"], "CRF -1, expected 0 to 51"),
        ("ic_lora", ["--video-conditioning", "CLIP", "1.5"], "the strength is 1.5, expected 0 to 1"),
        ("ic_lora", ["--video-conditioning", "CLIP", "nan"], "the strength is nan, expected 0 to 1"),
        ("ic_lora", ["--conditioning-attention-mask", "CLIP", "-1"], "the strength is -1, expected 0 to 1"),
        ("ic_lora", ["--num-frames", "17", "--conditioning-attention-mask", "IMAGE", "1"], "has 1 of the 17 frames"),
        ("a2vid_two_stage", ["--audio-start-time", "-1"], "--audio-start-time is -1, expected 0"),
        ("a2vid_two_stage", ["--audio-max-duration", "0"], "--audio-max-duration is 0, expected 0.001"),
        ("retake", ["--start-time", "-1"], "--start-time is -1, expected 0"),
    ],
)
def test_a_value_that_cannot_be_used_is_one_problem(
    pipeline: str, flags: list[str], problem: str, checkpoints: Path, tmp_path: Path
) -> None:
    media = {"IMAGE": checkpoints / "media" / "image-0.png", "CLIP": checkpoints / "media" / "clip.mp4"}
    problems = planned(pipeline, checkpoints, tmp_path, *(str(media.get(flag, flag)) for flag in flags)).problems
    assert len(problems) == 1 and problem in problems[0] and "\n" not in problems[0], problems


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--lora", "x.safetensors", "nan"], "argument --lora: "),
        (["--lora", "x.safetensors", "1e30"], "argument --lora: "),
        (["--lora", "~nosuchuser/x"], "argument --lora: "),
        (["--gemma-root", "~nosuchuser"], "argument --gemma-root: "),
        (["--gemma-root", ""], "argument --gemma-root: the path is empty"),
        (["--output-path", " "], "argument --output-path: the path is empty"),
        (["--output-path", "~nosuchuser/x.mp4"], "argument --output-path: "),
        (["--output-path", "a\0b.mp4"], "argument --output-path: "),
        (["--checkpoint-path", "/a\0b"], "argument --checkpoint-path: "),
        (["--checkpoint-path", "a" * 5000], "argument --checkpoint-path: "),
        (["--context", "\udcff.safetensors"], "argument --context: "),
        (["--image", "~nosuchuser/a.png", "0", "1"], "argument --image: "),
        (["--image", "a.png", "9" * 5000, "1"], "argument --image: "),
        (["--num-inference-steps", "9" * 5000], "argument --num-inference-steps: "),
    ],
)
def test_what_no_path_or_number_can_be_is_an_error_of_its_flag(
    flags: list[str], reason: str, checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("plan", "generate"):
        with pytest.raises(SystemExit, match="2"):
            main([command, *flags_of("ti2vid_one_stage", checkpoints, tmp_path / "x.mp4"), *flags])
        assert reason in capsys.readouterr().err


def test_blocks_are_checked_only_where_their_guidance_is_on(checkpoints: Path, tmp_path: Path) -> None:
    blocks = ["--video-stg-blocks", "29", "--audio-stg-blocks", "-5"]
    problems = planned("ti2vid_one_stage", checkpoints, tmp_path, *blocks).problems
    assert [problem.split(":")[0] for problem in problems] == ["--video-stg-blocks 29", "--audio-stg-blocks -5"]
    off = ["--video-stg-guidance-scale", "0", "--audio-stg-guidance-scale", "0"]
    assert planned("ti2vid_one_stage", checkpoints, tmp_path, *blocks, *off).problems == []


# ---- schedules ----------------------------------------------------------------------------------------------------


def test_every_schedule_falls_or_is_refused_with_one_that_does() -> None:
    for steps in (2, 3, 8, 15, 30, 40, 200, 1000):
        for tokens in (1, 1024, 4096, 20_000, 34_000, 36_000, 38_760, 50_000, 250_000, 1 << 20):
            try:
                assert falls(LTX2Scheduler().execute(steps, tokens))
            except InputError as error:
                words = str(error).replace(",", "").split()
                if "take" in words:
                    assert falls(LTX2Scheduler().execute(int(words[words.index("take") + 1]), tokens))
                if "with" in words:
                    assert falls(LTX2Scheduler().execute(steps, int(words[words.index("with") + 1])))
                assert {"take", "with"} & set(words), error


def test_a_schedule_that_repeats_a_sigma_is_refused_in_the_plan(checkpoints: Path, tmp_path: Path) -> None:
    large = ["--height", "2176", "--width", "3840", "--num-frames", "145", "--num-inference-steps", "15"]
    problems = planned("ti2vid_two_stages_hq", checkpoints, tmp_path, *large).problems
    assert [problem for problem in problems if "repeats a sigma in float32: take 8 steps" in problem], problems
    request = parse("plan", [*flags_of("ti2vid_two_stages", checkpoints, tmp_path / "x.mp4"), *large])
    assert list(RECIPES["ti2vid_two_stages"].problems(request)) == []


@pytest.mark.parametrize(
    "flags",
    [
        ["--seed", "\x1b[31m"],
        ["--dtype", "9" * 5000],
        ["--pipeline", "a\n::error::x"],
        ["a", "\x1b]0;t\x07", "\u202e"],
        ["--image", "\x1b[31m", "0"],
        ["--nothing=\ud800\x9b"],
    ],
)
@pytest.mark.parametrize("command", ["plan", "generate", "info"])
def test_an_error_of_the_command_line_is_one_line_that_steers_nothing(
    command: str, flags: list[str], checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = flags if command == "info" else [*flags_of("ti2vid_one_stage", checkpoints, tmp_path / "x.mp4"), *flags]
    with pytest.raises(SystemExit, match="2"):
        main([command, *flags])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable() and len(line) < 2100 and line.endswith(" --help)") and not line.startswith("::")


def test_a_long_path_is_cut_in_the_middle(
    checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", f"{'x/' * 3000}file.safetensors"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "…" in line and "/file.safetensors: cannot be read (File name too long)" in line and len(line) < 400
    result = planned("ti2vid_one_stage", checkpoints, tmp_path, "--preview", f"{'x/' * 3000}a.png")
    assert result.problems and all(len(line) < 700 for line in show(result).splitlines())


def test_audio_that_lasts_long_is_in_the_memory_that_a_plan_states(checkpoints: Path, tmp_path: Path) -> None:
    """Nine frames at 0.001 a second are 2.5 hours of audio."""
    found = planned("ti2vid_one_stage", checkpoints, tmp_path, "--frame-rate", "0.001")
    assert any("takes about" in problem and "of memory" in problem for problem in found.problems)
    assert any(stage.name == "audio" and stage.memory > 1e12 for stage in found.stages)


# ---- notes --------------------------------------------------------------------------------------------------------


def rotated(path: Path) -> Path:
    """A picture that its EXIF data turn."""
    picture = Image.new("RGB", (64, 32), "red")
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)
    return path


@pytest.mark.parametrize(
    ("pipeline", "flags", "note"),
    [
        ("retake", ["--seed", "-1"], "--seed -1 takes a random seed"),
        ("ti2vid_one_stage", ["--seed", "-1", "--noise", "torch"], "--seed -1 is PyTorch's seed of that number"),
        ("ti2vid_one_stage", ["--prompt", " "], "--prompt is empty"),
        (
            "ti2vid_one_stage",
            ["--prompt", "fox " * 1500 + "END"],
            "--prompt has more than 1,024 tokens, and is cut before",
        ),
        ("retake", ["--keep-video", "--keep-audio"], "nothing to re-create"),
        ("a2vid_two_stage", [], "goes on after the"),
        ("retake", ["--end-time", "900"], "--end-time 900 is as good as that"),
        ("ic_lora", ["--frame-rate", "50"], "25 frames a second, and is followed frame by frame at 50"),
        ("ti2vid_one_stage", ["--image", "ROTATED", "0", "1"], "is turned as its EXIF data say"),
    ],
)
def test_what_a_user_may_not_expect_is_a_note_of_the_plan_and_a_line_of_generate(
    pipeline: str,
    flags: list[str],
    note: str,
    checkpoints: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stand_ins: None,  # noqa: F811
) -> None:
    turned = rotated(tmp_path / "turned.jpg")
    flags = [str(turned) if flag == "ROTATED" else flag for flag in flags]
    argv = [*flags_of(pipeline, checkpoints, tmp_path / "x.MP4"), "--no-audio", *flags]
    argv += [] if "tokens" in note else ["--placeholder"]
    assert main(["plan", *argv]) == 0
    assert f"note: {note}" in (out := capsys.readouterr().out) or note in out
    assert main(["generate", *argv]) == 0
    assert any(line.startswith("note: ") and note in line for line in capsys.readouterr().err.splitlines())


def test_the_other_flags_have_no_note(checkpoints: Path, tmp_path: Path) -> None:
    assert planned("ti2vid_one_stage", checkpoints, tmp_path).notes == []


# ---- the pipelines themselves -------------------------------------------------------------------------------------

SIZE: dict[str, Any] = {"seed": 1, "height": 64, "width": 64, "num_frames": 9, "frame_rate": 24.0}
NEUTRAL = MultiModalGuiderParams()
FULL: dict[str, Any] = {
    "negative_prompt": "",
    "num_inference_steps": 2,
    "video_guider_params": NEUTRAL,
    "audio_guider_params": NEUTRAL,
}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (
            {"video_guider_params": MultiModalGuiderParams(cfg_scale=float("nan"))},
            "video_guider_params.cfg_scale is nan",
        ),
        ({"audio_guider_params": MultiModalGuiderParams(skip_step=-1)}, "audio_guider_params.skip_step is -1"),
        ({"video_guider_params": MultiModalGuiderParams(stg_scale=1.0, stg_blocks=[3])}, "stg_blocks 3: the model has"),
        (
            {"video_guider_params": MultiModalGuiderFactory(None, ((0.5, MultiModalGuiderParams(rescale_scale=2.0)),))},
            "rescale_scale is 2, expected 0 to 1",
        ),
        ({"frame_rate": float("nan")}, "frame_rate is nan"),
        ({"frame_rate": "24"}, "frame_rate is '24', expected a number"),
        ({"num_frames": 9.0}, "num_frames is 9.0, expected a whole number"),
        ({"num_inference_steps": 1}, "one step cannot be stretched"),
        ({"num_inference_steps": 10**20}, "num_inference_steps is"),
        ({"prompt": "\ud800"}, "prompt is not UTF-8"),
        ({"prompt": b"a fox"}, "expected a text"),
        ({"images": [ImageConditioningInput("none.png", 0, 1.0, 60)]}, "CRF 60"),
        ({"seed": 2**64}, "seed is"),
        ({"seed": -1}, "the seed is -1, expected 0 or more"),
    ],
)
def test_a_pipeline_refuses_the_same_before_it_loads_anything(
    wrong: dict[str, Any], reason: str, checkpoints: Path
) -> None:
    pipeline = TI2VidOneStagePipeline(checkpoint_path=checkpoints / "tiny-2.0.safetensors", gemma_root="/none")
    with pytest.raises(InputError, match=reason.replace("(", r"\(")):
        pipeline(**{"prompt": "a fox", **SIZE, **FULL, **wrong})


def test_every_pipeline_checks_its_call(checkpoints: Path) -> None:
    tiny = str(checkpoints / "tiny-2.0")
    distilled = DistilledPipeline(
        distilled_checkpoint_path=f"{tiny}.safetensors",
        gemma_root=None,
        spatial_upsampler_path=f"{tiny}-upsampler-x2.safetensors",
    )
    with pytest.raises(InputError, match="frame_rate is inf"):
        distilled(prompt="a fox", **{**SIZE, "frame_rate": float("inf")})
    retake = RetakePipeline(checkpoint_path=f"{tiny}.safetensors", gemma_root=None)
    with pytest.raises(InputError, match="start_time is nan"):
        retake(video_path="none.mp4", prompt="a fox", start_time=float("nan"), end_time=1.0, seed=1)
    hq = TI2VidTwoStagesHQPipeline(
        checkpoint_path=f"{tiny}.safetensors",
        gemma_root=None,
        spatial_upsampler_path=f"{tiny}-upsampler-x2.safetensors",
        distilled_lora=[LoraPathStrength(f"{tiny}-distilled-lora.safetensors")],
        distilled_lora_strength_stage_1=0.25,
        distilled_lora_strength_stage_2=0.5,
    )
    with pytest.raises(InputError, match="repeats a sigma"):
        large = {"height": 2176, "width": 3840, "num_frames": 145, "num_inference_steps": 15}
        hq(prompt="a fox", **{**SIZE, **FULL, **large})


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e30])
def test_settings_refuse_a_scale_that_is_not_finite(scale: float) -> None:
    with pytest.raises(InputError, match="cross_attn_scale"):
        Settings(cross_attn_scale=scale)


# ---- finite on the way --------------------------------------------------------------------------------------------


def _state(tokens: int) -> LatentState:
    x = mx.array(np.random.default_rng(tokens).standard_normal((1, tokens, 4), np.float32))
    return LatentState(x, mx.ones((1, tokens, 1)), mx.zeros((1, 3, tokens, 2)), x, None)


@pytest.mark.parametrize("loop", ["euler", "res2s"])
@pytest.mark.parametrize("stream", ["video", "audio"])
@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_ends_the_loop_there(loop: str, stream: str, step: int, value: float) -> None:
    sigmas = np.array([1.0, 0.7, 0.3, 0.0], np.float32)
    asked: list[float] = []

    def denoise(video: LatentState, audio: LatentState, sigmas: np.ndarray, i: int) -> tuple[mx.array, mx.array]:
        asked.append(float(sigmas[i]))
        results = {"video": video.latent * 0.5, "audio": audio.latent * 0.5}
        if float(sigmas[i]) <= float(np.float32((1.0, 0.7, 0.3)[step])):
            results[stream] = results[stream] + mx.where(mx.arange(4) == 2, value, 0.0)
        return results["video"], results["audio"]

    noise = {} if loop == "euler" else {"step_generator": Generator(1), "substep_generator": Generator(2)}
    run = euler_denoising_loop if loop == "euler" else res2s_audio_video_denoising_loop
    with pytest.raises(
        NotFiniteError, match=rf"step {step + 1} of 3 gave NaN or infinite numbers in the {stream} latent"
    ):
        run(sigmas, _state(5), _state(3), denoise, **noise)
    assert asked[-1] > 0.01


def test_the_stage_is_named(checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights that are finite, and give products that are not."""
    flags = flags_of("distilled", checkpoints, tmp_path / "x.mp4")
    flags += ["--dtype", "float16", "--no-audio", "--cross-attn-scale", "100"]
    _overflowing(checkpoints / "tiny-2.0.safetensors", tmp_path / "model.safetensors")
    flags += ["--distilled-checkpoint-path", str(tmp_path / "model.safetensors")]
    assert main(["plan", *flags]) == 0
    capsys.readouterr()
    assert main(["generate", *flags]) == 2
    assert "ltx2-mlx: stage 1: step 1 of 8 gave NaN or infinite" in capsys.readouterr().err
    assert not (tmp_path / "x.mp4").exists()


def _overflowing(source: Path, target: Path) -> None:
    """A checkpoint with weights that are finite, and whose products are not in float16."""
    data = bytearray(source.read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    entry = header["model.diffusion_model.proj_out.weight"]
    start, end = (8 + length + offset for offset in entry["data_offsets"])
    width = 4 if entry["dtype"] == "F32" else 2
    big = struct.pack("<f", 60000.0)[4 - width :] if width == 2 else struct.pack("<f", 60000.0)
    for at in range(start, end, width):
        data[at : at + width] = big
    target.write_bytes(data)
