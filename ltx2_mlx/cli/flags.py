"""The flags of ``generate`` and ``plan``: the reference's names for each of its pipelines, and ours for all of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..diffusion.guiders import MultiModalGuiderParams
from ..errors import LTX2Error
from ..loading.hub import resolve
from ..loading.lora import LoraPathStrength
from ..pipelines.constants import (
    DEFAULT_NEGATIVE_PROMPT,
    LTX_2_3_HQ_PARAMS,
    LTX_2_3_PARAMS,
    PipelineParams,
    detect_params,
)
from ..types import ImageConditioningInput


@dataclass(frozen=True)
class Recipe:
    """A pipeline on the command line. two_stages: sizes are of the second stage, the first has half of them."""

    about: str
    add: Callable[[argparse.ArgumentParser, PipelineParams], None]
    two_stages: bool = True
    distilled: bool = False
    params: PipelineParams | None = None  # fixed defaults, whatever the checkpoint's version is


def parse(command: str, argv: Sequence[str]) -> argparse.Namespace:
    """``argv`` of ``ltx2-mlx generate`` or ``plan``. The defaults are those of the checkpoint's version."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--pipeline", choices=RECIPES, default=DEFAULT)
    first.add_argument("--checkpoint-path", "--distilled-checkpoint-path", dest="checkpoint_path")
    known, _ = first.parse_known_args([arg for arg in argv if arg not in ("-h", "--help")])
    recipe = RECIPES[known.pipeline]
    parser = recipe_parser(
        command, known.pipeline, recipe.params or _detected(known.checkpoint_path, command == "generate")
    )
    return parser.parse_args(argv)


def _detected(checkpoint: str | None, download: bool) -> PipelineParams:
    """The defaults for a checkpoint; where it cannot be read, the plan says so and the defaults do not matter."""
    try:
        return detect_params(resolve(checkpoint, download=download)) if checkpoint else LTX_2_3_PARAMS
    except LTX2Error:
        return LTX_2_3_PARAMS


def recipe_parser(command: str, name: str, params: PipelineParams = LTX_2_3_PARAMS) -> argparse.ArgumentParser:
    """The parser of one pipeline, with ``params`` for defaults."""
    recipe = RECIPES[name]
    others = ", ".join(RECIPES)
    parser = argparse.ArgumentParser(
        prog=f"ltx2-mlx {command}",
        description=f"{name}: {recipe.about}",
        epilog=f"Flags differ by pipeline. Pipelines: {others}.",
        allow_abbrev=False,
    )
    parser.add_argument("--pipeline", choices=RECIPES, default=DEFAULT, help=f"which recipe (default: {DEFAULT})")
    recipe.add(parser, params)
    _add_ours(parser)
    return parser


# ---- values -------------------------------------------------------------------------------------------------------


class _Values(argparse.Action):
    """One use of a flag with several values, appended to the list; ``made`` turns the strings into what is kept."""

    def __init__(self, *args: object, made: Callable[[list[str]], object], counts: tuple[int, ...], **kwargs: object):
        super().__init__(*args, nargs="+", **kwargs)
        self.made, self.counts = made, counts

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        if len(values) not in self.counts:
            expected = " or ".join(map(str, self.counts))
            raise argparse.ArgumentError(self, f"takes {expected} values, and {len(values)} were given")
        try:
            made = self.made(values)
        except ValueError as error:
            raise argparse.ArgumentError(self, str(error)) from None
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), made])


class _Refused(argparse.Action):
    """A flag of the reference that has no effect there: given, it is an error that says why."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        raise argparse.ArgumentError(self, self.metavar_reason)

    def __init__(self, *args: object, reason: str, **kwargs: object):
        super().__init__(*args, nargs="*", help=argparse.SUPPRESS, **kwargs)
        self.metavar_reason = reason


def _path(text: str) -> str:
    """An absolute path of what is a path; a Hugging Face name stays as it is."""
    path = Path(text).expanduser()
    return str(path.resolve()) if path.exists() or text.startswith(("/", "~", ".")) else text


def _output(text: str) -> str:
    return str(Path(text).expanduser().resolve())


def _lora(values: list[str]) -> LoraPathStrength:
    return LoraPathStrength(_path(values[0]), *map(float, values[1:]))


def _image(values: list[str]) -> ImageConditioningInput:
    return ImageConditioningInput(_path(values[0]), int(values[1]), float(values[2]), *(int(crf) for crf in values[3:]))


def _path_and_strength(values: list[str]) -> tuple[str, float]:
    return _path(values[0]), float(values[1])


# ---- flags of the reference ---------------------------------------------------------------------------------------


def _add_files(parser: argparse.ArgumentParser, distilled: bool = False) -> None:
    flag = "--distilled-checkpoint-path" if distilled else "--checkpoint-path"
    model = "distilled model" if distilled else "full model"
    parser.add_argument(
        flag, dest="checkpoint_path", type=_path, required=True, help=f"{model}: a file, or owner/name/file of the Hub"
    )
    parser.add_argument(
        "--gemma-root", type=_path, help="Gemma 3 folder, or owner/name of the Hub; not needed with --context"
    )
    parser.add_argument("--prompt", required=True, help="what is seen and heard")
    parser.add_argument(
        "--output-path", type=_output, required=True, help=".mp4; .wav for the sound alone; a folder for PNG frames"
    )


def _add_quantization(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quantization",
        nargs="+",
        metavar=("POLICY", "AMAX_PATH"),
        help="fp8-cast: the transformer's weights in 8 bits, half the memory",
    )


def _add_basic(parser: argparse.ArgumentParser, params: PipelineParams, *, distilled: bool, two_stages: bool) -> None:
    _add_files(parser, distilled)
    height, width = params.stage_1_height, params.stage_1_width
    if two_stages:
        height, width = params.stage_2_height, params.stage_2_width
    step = 64 if two_stages else 32
    parser.add_argument("--seed", type=int, default=params.seed, help=f"of the noise (default: {params.seed})")
    parser.add_argument("--height", type=int, default=height, help=f"pixels, a multiple of {step} (default: {height})")
    parser.add_argument("--width", type=int, default=width, help=f"pixels, a multiple of {step} (default: {width})")
    parser.add_argument(
        "--num-frames", type=int, default=params.num_frames, help=f"8k + 1 (default: {params.num_frames})"
    )
    parser.add_argument(
        "--frame-rate", type=float, default=params.frame_rate, help=f"frames a second (default: {params.frame_rate:g})"
    )
    if distilled:
        reason = "a distilled model takes its own 8 and 3 steps"
        parser.add_argument("--num-inference-steps", action=_Refused, reason=reason)
    else:
        _add_steps(parser, params.num_inference_steps)
    parser.add_argument(
        "--image",
        dest="images",
        action=_Values,
        made=_image,
        counts=(3, 4),
        metavar="ARG",
        default=[],
        help="PATH FRAME STRENGTH [CRF]: show an image at a frame; STRENGTH 0 to 1, CRF the H.264 quality (33)",
    )
    parser.add_argument(
        "--lora",
        action=_Values,
        made=_lora,
        counts=(1, 2),
        metavar=("PATH", "STRENGTH"),
        default=[],
        help="a LoRA and its strength (default: 1); may be given several times",
    )
    parser.add_argument(
        "--enhance-prompt",
        action="store_true",
        help="let Gemma write the prompt out, seeing the first image (needs mlx-lm, with an image mlx-vlm)",
    )
    _add_quantization(parser)


def _add_steps(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--num-inference-steps", type=int, default=default, help=f"denoising steps (default: {default})"
    )


_GUIDANCE = (  # flag, field, type, help
    ("--{0}-cfg-guidance-scale", "cfg_scale", float, "how closely the {0} follows the prompt; 1 is none"),
    ("--{0}-stg-guidance-scale", "stg_scale", float, "guidance by skipped self-attention; 0 is none"),
    ("--{0}-rescale-scale", "rescale_scale", float, "how far guided {0} is scaled back to the unguided, 0 to 1"),
    ("--{0}-stg-blocks", "stg_blocks", int, "blocks whose self-attention is skipped"),
    ("--{1}-guidance-scale", "modality_scale", float, "how closely the {0} follows the other stream; 1 is none"),
    ("--{0}-skip-step", "skip_step", int, "guide every (N + 1)-th step only"),
)
_STREAMS = (("video", "a2v"), ("audio", "v2a"))


def _add_guidance(parser: argparse.ArgumentParser, params: PipelineParams, audio_refused: str = "") -> None:
    parser.add_argument("--negative-prompt", default=DEFAULT_NEGATIVE_PROMPT, help="what it should not be")
    for stream, source in _STREAMS:
        guidance = getattr(params, f"{stream}_guider_params")
        for flag, field, kind, text in _GUIDANCE:
            name = flag.format(stream, source)
            if stream == "audio" and audio_refused:
                parser.add_argument(name, action=_Refused, reason=audio_refused)
                continue
            default = getattr(guidance, field)
            several = {"nargs": "*"} if field == "stg_blocks" else {}
            parser.add_argument(
                name, type=kind, default=default, help=f"{text.format(stream)} (default: {default})", **several
            )


def guider_params(args: argparse.Namespace, stream: str) -> MultiModalGuiderParams:
    """The guidance of one stream ("video", "audio") from parsed flags."""
    source = dict(_STREAMS)[stream]
    values = {
        field: getattr(args, flag.format(stream, source).removeprefix("--").replace("-", "_"))
        for flag, field, _, _ in _GUIDANCE
    }
    return MultiModalGuiderParams(**values)


def _add_upsampler(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--spatial-upsampler-path", type=_path, required=True, help="the latent upsampler's file")


def _one_stage(parser: argparse.ArgumentParser, params: PipelineParams) -> None:
    _add_basic(parser, params, distilled=False, two_stages=False)
    _add_guidance(parser, params)


def _two_stages(parser: argparse.ArgumentParser, params: PipelineParams, audio_refused: str = "") -> None:
    _add_basic(parser, params, distilled=False, two_stages=True)
    _add_guidance(parser, params, audio_refused)
    parser.add_argument(
        "--distilled-lora",
        action=_Values,
        made=_lora,
        counts=(1, 2),
        metavar=("PATH", "STRENGTH"),
        default=[],
        required=True,
        help="the distilled LoRA of the second stage",
    )
    _add_upsampler(parser)


def _hq(parser: argparse.ArgumentParser, params: PipelineParams) -> None:
    _two_stages(parser, params)
    for stage, default in ((1, 0.25), (2, 0.5)):
        parser.add_argument(
            f"--distilled-lora-strength-stage-{stage}",
            type=float,
            default=default,
            help=f"of the distilled LoRA in stage {stage} (default: {default})",
        )


def _distilled(parser: argparse.ArgumentParser, params: PipelineParams) -> None:
    _add_basic(parser, params, distilled=True, two_stages=True)
    _add_upsampler(parser)


def _ic_lora(parser: argparse.ArgumentParser, params: PipelineParams) -> None:
    _distilled(parser, params)
    parser.add_argument(
        "--video-conditioning",
        action=_Values,
        made=_path_and_strength,
        counts=(2,),
        metavar=("PATH", "STRENGTH"),
        default=[],
        required=True,
        help="a reference video to follow; may be given several times",
    )
    parser.add_argument(
        "--conditioning-attention-mask",
        action=_Values,
        made=_path_and_strength,
        counts=(2,),
        metavar=("MASK_PATH", "STRENGTH"),
        default=[],
        help="a grey video: where the references count, and how much",
    )
    parser.add_argument("--skip-stage-2", action="store_true", help="stop at half the height and width")


def _a2vid(parser: argparse.ArgumentParser, params: PipelineParams) -> None:
    _two_stages(parser, params, audio_refused="the sound is given here, so nothing guides it")
    parser.add_argument("--audio-path", type=_path, required=True, help="the sound, from any file with a sound track")
    parser.add_argument("--audio-start-time", type=float, default=0.0, help="seconds into the file (default: 0)")
    parser.add_argument("--audio-max-duration", type=float, help="seconds (default: as long as the video)")


def _retake(parser: argparse.ArgumentParser, params: PipelineParams) -> None:
    parser.add_argument("--video-path", type=_path, required=True, help="the video to change")
    parser.add_argument("--start-time", type=float, required=True, help="seconds, from where on it is made anew")
    parser.add_argument("--end-time", type=float, required=True, help="seconds, up to where")
    _add_files(parser)
    parser.add_argument("--seed", type=int, default=42, help="of the noise, -1 for a random one (default: 42)")
    parser.add_argument(
        "--loras",
        dest="lora",
        nargs="*",
        type=lambda text: LoraPathStrength(_path(text)),
        default=[],
        help="LoRA files",
    )
    _add_quantization(parser)
    _add_steps(parser, 40)
    _add_guidance(parser, params)
    parser.set_defaults(negative_prompt="")
    parser.add_argument("--distilled", action="store_true", help="for a distilled checkpoint: 8 steps, no guidance")
    parser.add_argument("--keep-video", action="store_true", help="make only the sound anew")
    parser.add_argument("--keep-audio", action="store_true", help="make only the picture anew")
    parser.add_argument("--enhance-prompt", action="store_true", help="let Gemma write the prompt out (needs mlx-lm)")


# ---- our own flags ------------------------------------------------------------------------------------------------


def _add_ours(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it runs")
    group.add_argument("--no-audio", action="store_true", help="neither decode nor write sound; same picture")
    group.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    group.add_argument("--low-memory", action="store_true", help="keep nothing that can be loaded again; slower")
    group.add_argument(
        "--noise", choices=("numpy", "torch"), default="numpy", help="torch: the numbers that torch draws on a CPU"
    )
    group.add_argument(
        "--tiling",
        choices=("auto", "default", "none"),
        default="auto",
        help="decoding in tiles: auto by memory; default is the reference's, 512 pixels and 64 frames",
    )
    group.add_argument(
        "--context", type=_output, metavar="FILE", help="keep the prompts' contexts here, and take them from here"
    )
    group = parser.add_argument_group("to find out what is wrong")
    group.add_argument(
        "--placeholder", action="store_true", help="no transformer and no prompt: decode a random latent"
    )
    group.add_argument("--cross-attn-scale", type=float, default=1.0, help="times what blocks take from the prompt")
    group.add_argument("--early-layers-only", action="store_true", help="only the input embeddings of Gemma")


DEFAULT = "distilled"
RECIPES = {
    "distilled": Recipe("two stages of a distilled model, 8 and 3 steps", _distilled, distilled=True),
    "ti2vid_one_stage": Recipe("one guided stage of the full model", _one_stage, two_stages=False),
    "ti2vid_two_stages": Recipe("a guided stage at half size, then three distilled steps", _two_stages),
    "ti2vid_two_stages_hq": Recipe("the same with a second-order sampler", _hq, params=LTX_2_3_HQ_PARAMS),
    "keyframe_interpolation": Recipe("two stages that pass through given images", _two_stages),
    "ic_lora": Recipe("a distilled model that follows a reference video", _ic_lora, distilled=True),
    "a2vid_two_stage": Recipe("a video for a given sound", _a2vid),
    "retake": Recipe("a time span of a video made anew", _retake, two_stages=False),
}
