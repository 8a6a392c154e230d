"""``plan`` and ``generate`` agree: for any flags both exit 0, or neither does, and nothing ends in a traceback.

The networks are stand-ins here for most settings; all that surrounds them is real. More settings: ``--settings 2000``.
"""

from __future__ import annotations

import argparse
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers

from ltx2_mlx.cli import recipes
from ltx2_mlx.cli.main import main
from ltx2_mlx.cli.recipes import RECIPES
from ltx2_mlx.media.reading import probe
from ltx2_mlx.pipelines import a2vid_two_stage, retake, stages
from ltx2_mlx.pipelines.ledger import ModelLedger
from ltx2_mlx.text.embeddings import EmbeddingsProcessorOutput
from ltx2_mlx.types import Audio, Modality, VideoLatentShape

pytestmark = pytest.mark.usefixtures("built_once")

# ---- stand-ins ----------------------------------------------------------------------------------------------------


class Encoder:
    """Zeros of the right shape."""

    def __call__(self, pixels: mx.array) -> mx.array:
        B, _, F, H, W = pixels.shape
        return mx.zeros((B, 128, (F - 1) // 8 + 1, H // 32, W // 32), pixels.dtype)


class Denoiser:
    """Half of what it is given, on a ramp: guidance divides by how far a prediction varies."""

    def __call__(self, video: Modality, audio: Modality, perturbations: object) -> tuple[mx.array, mx.array]:
        assert video.latent.shape[1] and audio.latent.shape[1]
        return _half(video.latent), _half(audio.latent)


def _half(latent: mx.array) -> mx.array:
    return latent * 0.5 + mx.linspace(-1, 1, latent.size).reshape(latent.shape).astype(latent.dtype)


def _encode_prompts(prompts: list[str], *files: object, **options: object) -> list[EmbeddingsProcessorOutput]:
    context = mx.zeros((1, 1024, 44), options.get("dtype", mx.bfloat16))
    return [EmbeddingsProcessorOutput(context, context, mx.ones((1, 1024)))] * len(prompts)


def _encode_audio(audio: Audio, encoder: object) -> mx.array:
    return mx.zeros((1, 8, int(audio.waveform.shape[-1] / audio.sampling_rate * 25), 16), audio.waveform.dtype)


def _decode_audio(latent: mx.array, decoder: object, vocoder: object) -> Audio:
    return Audio(mx.zeros((2, max(1, int(latent.shape[2] * 24000 / 25)))), 24000)


def _decode_video(latent: mx.array, *rest: object, **options: object) -> Iterator[mx.array]:
    shape = VideoLatentShape(*latent.shape).upscale()
    for _ in range(shape.frames):
        yield mx.zeros((1, shape.height, shape.width, 3), mx.uint8)


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "encode_prompts", _encode_prompts)
    monkeypatch.setattr(stages, "decode_audio", _decode_audio)
    monkeypatch.setattr(stages, "decode_video", _decode_video)
    monkeypatch.setattr(stages, "upsample_video", lambda x, *networks: mx.repeat(mx.repeat(x, 2, axis=3), 2, axis=4))
    for module in (a2vid_two_stage, retake):
        monkeypatch.setattr(module, "encode_audio", _encode_audio)
    monkeypatch.setattr(ModelLedger, "transformer", lambda self: Denoiser())
    monkeypatch.setattr(ModelLedger, "video_encoder", lambda self: Encoder())
    for name in ("video_decoder", "audio_encoder", "audio_decoder", "vocoder", "spatial_upsampler"):
        monkeypatch.setattr(ModelLedger, name, lambda self: None)


# ---- settings -----------------------------------------------------------------------------------------------------

# By the kind of a flag's value: what is usual, and what people give by accident.
INTEGERS = [
    "0",
    "1",
    "2",
    "3",
    "9",
    "17",
    "25",
    "-1",
    "-2",
    "33",
    "64",
    "1.5",
    "nan",
    "",
    "99999999999999999999",
    "1e3",
]
NUMBERS = [
    "0",
    "1",
    "0.5",
    "0.3",
    "3",
    "7.5",
    "-1",
    "24",
    "25",
    "nan",
    "inf",
    "-inf",
    "1e30",
    "1e-4",
    "1e-30",
    "1000",
    "x",
]
TEXTS = ["a fox", "", " ", "fox " * 2000, "\udcff", "🦊", "a\nb"]
SIZES = ["64", "128", "192", "96", "100", "0", "-64", "32", "1000000", "99999999999999999999", "x"]
FRAMES = ["1", "9", "17", "8", "0", "-7", "10", "1000000001", "x"]
BY_FLAG = {
    "--height": SIZES,
    "--width": SIZES,
    "--num-frames": FRAMES,
    "--num-inference-steps": ["1", "2", "3", "0", "-1", "1001", "x"],
    "--start-time": ["0", "0.2", "0.3", "0.68", "9", "-1", "nan", "inf"],
    "--end-time": ["0.5", "0.2", "0.68", "9", "0", "-1", "nan", "inf"],
    "--frame-rate": ["24", "25", "12.5", "23.976", "1", "200", "1000", "nan", "inf", "0", "-1", "1e-4", "0.01"],
    "--seed": ["0", "1", "42", "-1", "18446744073709551616", "9223372036854775807", "99999999999999999999", "1.5"],
    "--quantization": ["fp8-cast", "fp8-scaled-mm", ""],
    "--audio-start-time": ["0", "0.1", "0.5", "3", "60", "-1", "nan", "inf"],
    "--audio-max-duration": ["0.2", "1", "0", "-1", "nan", "inf", "1e-9", "1e300"],
}


def _media(folder: Path) -> list[str]:
    return [
        str(folder / "media" / name) for name in ("clip.mp4", "clip-1.mp4", "audio.wav", "audio-1.wav", "image-0.png")
    ]


def _values(draw: st.DrawFn, flag: str, dest: str, action: argparse.Action, folder: Path, bad: bool) -> list[str]:
    """The words after a flag: mostly sensible ones, as otherwise nothing is ever made."""

    def one(choices: list[str], good: int = 2) -> str:
        return draw(st.sampled_from(choices if bad else choices[:good]))

    strengths = ["1", "0.5", "0", "-1", "1.5", "nan", "inf", "x"]
    media, models = _media(folder), sorted(str(path) for path in folder.glob("tiny-2.?*.safetensors"))
    if dest == "images":
        words = [
            one([media[4], *media, "none.png", "~nosuchuser/a.png", ""], 1),
            one(["0", "8", "4", "9", "-1", "x"]),
            one(strengths),
        ]
        return [*words, *draw(st.sampled_from([[], ["33"], [one(["0", "51", "52", "60", "-1", "1.5"])]]))]
    if dest in ("loras", "distilled_lora"):
        if flag == "--loras":
            return [one([str(folder / "tiny-2.0-lora.safetensors"), *models])]
        return [
            one([str(folder / "tiny-2.0-lora.safetensors"), *models], 1),
            *draw(st.sampled_from([[], [one(strengths)]])),
        ]
    if dest in ("video_conditioning", "conditioning_attention_mask"):
        return [one([media[0], *media]), one(strengths)]
    if dest in ("audio_path", "video_path"):
        return [one([media[0] if dest == "video_path" else media[2], *media, "", "none"], 1)]
    if flag in BY_FLAG:
        return [one(BY_FLAG[flag], 3)]
    if action.choices:
        return [draw(st.sampled_from(sorted(action.choices)))]
    if dest.endswith("prompt"):
        return [one(TEXTS, 4)]
    if action.nargs == 0:
        return []
    if dest.endswith("stg_blocks"):
        return draw(
            st.lists(
                st.sampled_from(["0", "1", "2", *(["3", "29", "-1", "99999999999999999999", "x"] if bad else [])]),
                max_size=2,
            )
        )
    return [one(NUMBERS, 5) if action.type is float else one(INTEGERS, 3)]


@st.composite
def command_lines(draw: st.DrawFn, folder: Path) -> list[str]:
    """Flags of one pipeline: all that it needs, and a few others. In half of them values are allowed that are wrong."""
    name, bad = draw(st.sampled_from(sorted(RECIPES))), draw(st.booleans())
    version = draw(st.sampled_from(["2.0", "2.0", "2.3"]))
    tiny = folder / f"tiny-{version}"
    needed = {
        "checkpoint_path": [f"{tiny}.safetensors"],
        "gemma_root": [str(folder / "tiny-gemma")],
        "prompt": ["a fox"],
        "spatial_upsampler_path": [f"{tiny}-upsampler-x2.safetensors"],
        "distilled_lora": [f"{folder}/tiny-2.0-distilled-lora.safetensors"],
        "video_conditioning": [_media(folder)[0], "0.9"],
        "audio_path": [_media(folder)[2]],
        "video_path": [_media(folder)[0]],
        "start_time": ["0.2"],
        "end_time": ["0.5"],
        "height": ["64"],
        "width": ["64"],
        "num_frames": ["9"],
        "num_inference_steps": ["2"],
        "video_stg_blocks": ["1"],
        "audio_stg_blocks": ["1"],
    }
    actions = {action.dest: action for action in recipes.parser("generate", name)._actions}
    actions = {dest: action for dest, action in actions.items() if action.help != argparse.SUPPRESS}
    flags = ["--pipeline", name]
    for dest, words in needed.items():
        if dest in actions:
            flags += [actions[dest].option_strings[0], *words]
    around = {"num_videos", "prompts_file", "preview", "quiet"}  # other files, or none of the lines that are read here
    around |= {"parallel", "hosts"}  # for several processes
    skipped = {"help", "pipeline", "output_path", "overwrite", "context", "enhance_prompt", *around, *needed} - {
        *("height", "width", "num_frames", "num_inference_steps", "start_time", "end_time", "prompt", "distilled_lora"),
        *("video_conditioning", "audio_path", "video_path", "video_stg_blocks", "audio_stg_blocks"),
    }
    optional = sorted(dest for dest in actions if dest not in skipped and not dest.endswith("_vae_path"))
    optional = [dest for dest in optional if dest not in ("transformer_path", "text_encoder_path")]
    for dest in draw(st.lists(st.sampled_from(optional), max_size=5, unique=True)):
        flag = actions[dest].option_strings[0]
        flags += [flag, *_values(draw, flag, dest, actions[dest], folder, bad)]
    if bad and draw(st.integers(0, 4)) == 0:  # a file in the place of another one
        swapped = draw(
            st.sampled_from([dest for dest in ("spatial_upsampler_path", "checkpoint_path") if dest in actions])
        )
        models = sorted(str(path) for path in folder.glob("tiny-2*.safetensors"))
        flags += [actions[swapped].option_strings[0], draw(st.sampled_from([*models, *_media(folder), "none"]))]
    return flags


def _exit_code(argv: list[str]) -> int:
    try:
        return main(argv)
    except SystemExit as error:
        return int(error.code or 0)


def check_agreement(flags: list[str], folder: Path, output: str, capsys: pytest.CaptureFixture[str]) -> bool:
    """Plan, generate, compare. Returns True where something was made."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    argv = [*flags, "--output-path", str(folder / output)]
    planned = _exit_code(["plan", *argv])
    said = capsys.readouterr()
    made = _exit_code(["generate", *argv])
    err = capsys.readouterr().err
    assert {planned, made} <= {0, 2} and planned == made, (argv, planned, said.out[-600:], made, err[-600:])
    found = sorted(folder.iterdir())
    assert [path.name for path in found] == ([output] if made == 0 else [])
    if made == 0 and output.endswith(".mp4"):
        assert probe(found[0]).frames
    return made == 0


def _run(count: int, start: int, checkpoints: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> int:
    made = 0

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=False,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(command_lines(checkpoints), st.sampled_from(["x.mp4", "x.wav", "frames"]))
    def compare(flags: list[str], output: str) -> None:
        nonlocal made
        made += check_agreement(flags, folder / "out", output, capsys)

    compare()
    return made


@pytest.fixture
def few_constants(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis looks for numbers in the source of every module that is imported by now: settings would depend on
    which tests ran before, and with all of them that takes five seconds."""
    monkeypatch.setattr(providers, "_get_local_constants", lambda: providers._local_constants, raising=False)


def test_generate_makes_what_plan_accepts_and_nothing_else(
    pytestconfig: pytest.Config,
    few_constants: None,
    stand_ins: None,
    checkpoints: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    count = pytestconfig.getoption("--settings")
    made = _run(count, random.Random(count).getrandbits(32), checkpoints, tmp_path, capsys)
    assert made >= count // 10, f"only {made} of {count} settings made anything"
