"""The flags of ``generate`` and ``plan``: the reference's names for each of its pipelines, and ours for all of them.

Nothing beyond this file sees an ``argparse.Namespace``: ``requests`` makes a Request for each video of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..diffusion.guiders import MultiModalGuiderParams
from ..loading.checkpoint import OWNERS, CheckpointFiles
from ..pipelines.constants import (
    LTX_2_3_HQ_PARAMS,
    LTX_2_3_PARAMS,
    LTX_2_4_PARAMS,
    LTX_2_PARAMS,
    PipelineParams,
)
from .names import DISTILLED, DISTILLED_LORA, FULL, GEMMA, UPSAMPLER, assume
from .own_flags import add_ours
from .request import Request
from .settings_file import arguments
from .several import named_after, videos, with_mark
from .terminal import Parser
from .values import (
    Refused,
    Values,
    bare_lora,
    image,
    local_path,
    lora,
    output_path,
    path_and_strength,
)

# Defaults by the checkpoint's version, the oldest first. Where they differ, a flag's default is None until it is known.
BY_VERSION = (LTX_2_PARAMS, LTX_2_3_PARAMS, LTX_2_4_PARAMS)
ALWAYS_HQ = (LTX_2_3_HQ_PARAMS,)
Versions = tuple[PipelineParams, ...]


def chosen(argv: Sequence[str], command: str, names: Iterable[str], default: str) -> str:
    """The name after ``--pipeline``, which decides what other flags there are."""
    first = Parser(prog=f"ltx2-mlx {command}", add_help=False, allow_abbrev=False)
    first.add_argument("--pipeline", choices=tuple(names), default=default, metavar="NAME")
    known, _ = first.parse_known_args([arg for arg in argv if arg not in ("-h", "--help")])
    return str(known.pipeline)


def parser(
    command: str, name: str, about: str, add_flags: Callable[[Parser], None], names: Iterable[str], default: str
) -> Parser:
    """The parser of one pipeline, without the values of a checkpoint."""
    result = Parser(
        prog=f"ltx2-mlx {command}",
        description=f"{name}: {about}.",
        epilog=f"Each pipeline has its own flags: see --pipeline NAME --help. Pipelines: {', '.join(names)}.",
        allow_abbrev=False,
    )
    result.add_argument(
        "--pipeline", choices=tuple(names), default=default, metavar="NAME", help=f"the pipeline (default: {default})"
    )
    add_flags(result)
    add_ours(result)
    if command == "plan":  # generate counts those that the launcher has started
        result.add_argument(
            "--ranks", type=int, default=1, metavar="N", help="plan what mlx.launch -n N runs: 2 or 4 (default: 1)"
        )
    elif command == "generate":
        result.add_argument(
            "--hosts",
            type=Path,
            metavar="FILE",
            help="make the video on the 2 or 4 machines of a file that mlx.distributed_config has written, through "
            "mlx.launch",
        )
    return result


def requests(parser: Parser, argv: Sequence[str]) -> tuple[Request, ...]:
    """The request of each video that ``argv`` asks for. Reads no file but that of prompts; exits with a message where
    the flags make no sense."""
    values: dict[str, Any] = vars(parser.parse_args(argv))
    made = videos(parser, values)
    output, preview = values["output_path"] or named_after(made), values["preview"]
    first = _request(parser, values | {"prompt": made[0].prompt, "seed": made[0].seed, "output_path": output})
    return tuple(
        replace(
            first,
            prompt=video.prompt,
            seed=video.seed,
            output_path=with_mark(output, video.mark),
            preview=None if preview is None else with_mark(preview, video.mark),
        )
        for video in made
    )


def _request(parser: Parser, values: dict[str, Any]) -> Request:
    values["assumed"] = assume(parser, values, whole=files(dict(values)) is None)
    values["arguments"] = arguments(parser, values)
    values["from_settings"] = values.pop("config") is not None
    del values["without"]  # like those of --config, its words are in argv already
    for stream, source in _STREAMS:
        names = {field: _name(flag.format(stream, source)) for flag, field, *_ in _GUIDANCE}
        given = {field: values.pop(name) for field, name in names.items() if name in values}
        values[f"{stream}_guider_params"] = MultiModalGuiderParams(**given)
    values["checkpoint_path"] = files(values)
    if values["quantization"]:
        values["quantization"], *more = values["quantization"]
        if more and values["quantization"] != "fp8-scaled-mm":
            parser.error(f"argument --quantization: {values['quantization']} takes no AMAX_PATH; leave it out")
    values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Request(**values)


def _name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


# ---- defaults by version ------------------------------------------------------------------------------------------


def _by_version(values: Sequence[Any]) -> tuple[Any, str]:
    """The default of a flag, None where it depends on the checkpoint's version; and how ``--help`` states it."""
    first, last = values[0], values[-1]
    if first == last:
        return first, f"(default: {_said(first)})"
    return None, f"(default: {_said(first)}, or {_said(last)} from 2.3 on)"


def _said(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- flags of the reference ---------------------------------------------------------------------------------------


def _add_files(parser: Parser, distilled: bool = False) -> None:
    flag = "--distilled-checkpoint-path" if distilled else "--checkpoint-path"
    parser.add_argument(
        flag,
        dest="checkpoint_path",
        type=local_path,
        metavar="FILE",
        help=f"the {'distilled' if distilled else 'full'} model: a file, or owner/name/file on Hugging Face "
        f"(default: {DISTILLED if distilled else FULL})",
    )
    add_parts(parser)
    parser.add_argument(
        "--gemma-root",
        type=local_path,
        metavar="FOLDER",
        help="Gemma 3: a folder, or owner/name on Hugging Face; not needed if --context has the prompts (default: "
        f"{GEMMA})",
    )
    parser.add_argument("--prompt", metavar="TEXT", help="what is seen and heard")
    parser.add_argument(
        "--output-path",
        type=output_path,
        metavar="PATH",
        help="an .mp4 or .mov file; a .wav file for the audio alone; or a folder for PNG frames and audio.wav "
        "(default: an .mp4 named after the prompt and the seed)",
    )


def add_parts(parser: Parser) -> None:
    """The flags for the files of a checkpoint that is split."""
    for role, what in (
        ("transformer_path", "the transformer"),
        ("text_encoder_path", "the text projection and connectors, and from 2.5 on Gemma 4"),
        ("video_vae_path", "the video VAE"),
        ("audio_vae_path", "the audio VAE and the vocoder"),
    ):
        flag = f"--{role.replace('_', '-')}"
        parser.add_argument(flag, type=local_path, metavar="FILE", help=f"{what}, where it is in a file of its own")


def files(values: dict[str, Any]) -> CheckpointFiles | str | None:
    """The checkpoint of the flags, which are taken out of ``values``: one file, or several; None without any."""
    parts = {role: file for role in OWNERS if (file := values.pop(role)) is not None}
    whole: str | None = values.pop("checkpoint_path")
    return CheckpointFiles(whole, **parts) if parts else whole


def _add_quantization(parser: Parser) -> None:
    parser.add_argument(
        "--quantization",
        nargs="+",
        metavar=("POLICY", "AMAX_PATH"),
        help="the transformer's weights in fewer bits. fp8-cast: in float8, as the reference does it; q8, q4: in 8 or "
        "4 bits as MLX packs them, which is what ltx2-mlx convert writes",
    )


def _add_basic(parser: Parser, versions: Versions, *, distilled: bool, two_stages: bool) -> None:
    _add_files(parser, distilled)
    params = versions[-1]
    height, width = params.stage_1_height, params.stage_1_width
    if two_stages:
        height, width = params.stage_2_height, params.stage_2_width
    step = 64 if two_stages else 32
    _add_seed(parser, params.seed, f"the seed of the noise; a video for each of several (default: {params.seed})")
    for flag, size in (("--height", height), ("--width", width)):
        text = f"in pixels, a multiple of {step} (default: {size})"
        parser.add_argument(flag, type=int, default=size, metavar="N", help=text)
    parser.add_argument(
        "--num-frames",
        type=int,
        default=params.num_frames,
        metavar="N",
        help=f"the number of frames, 8k + 1: 9, 17, 25 … (default: {params.num_frames})",
    )
    parser.add_argument(
        "--frame-rate",
        type=float,
        default=params.frame_rate,
        metavar="FPS",
        help=f"frames per second (default: {params.frame_rate:g})",
    )
    if distilled:
        reason = "a distilled model takes its own 8 and 3 steps"
        parser.add_argument("--num-inference-steps", action=Refused, reason=reason)
    else:
        _add_steps(parser, [params.num_inference_steps for params in versions])
    parser.add_argument(
        "--image",
        dest="images",
        action=Values,
        made=image,
        counts=(3, 4),
        metavar=("PATH FRAME STRENGTH", "CRF"),
        help="an image to show at a frame (0: the first). STRENGTH: 0 to 1, how closely to keep to it. CRF: how "
        "strongly it is first compressed, as videos are (default: 33, or 18 from 2.4 on; 0: not at all). Can be given "
        "several times",
    )
    _add_lora(parser, "--lora", "loras", "a LoRA and its strength (default: 1); can be given several times")
    parser.add_argument(
        "--enhance-prompt",
        action="store_true",
        help="let Gemma rewrite the prompt in more detail (needs mlx-lm; with --image, which Gemma then sees, mlx-vlm)",
    )
    _add_quantization(parser)


def _add_seed(parser: Parser, default: int, text: str) -> None:
    parser.add_argument("--seed", type=int, nargs="+", default=default, metavar="N", help=text)


def _add_lora(parser: Parser, flag: str, dest: str, text: str) -> None:
    parser.add_argument(
        flag,
        dest=dest,
        action=Values,
        made=lora,
        counts=(1, 2),
        metavar=("PATH", "STRENGTH"),
        help=text,
    )


def _add_steps(parser: Parser, defaults: Sequence[int]) -> None:
    default, said = _by_version(defaults)
    parser.add_argument("--num-inference-steps", type=int, default=default, metavar="N", help=f"denoising steps {said}")


_GUIDANCE = (  # flag, field, type, help; {0} is the stream, {1} the two streams, {2} the other stream
    ("--{0}-cfg-guidance-scale", "cfg_scale", float, "how closely the {0} follows the prompt; 1: no guidance"),
    ("--{0}-stg-guidance-scale", "stg_scale", float, "guidance of the {0} by skipped self-attention; 0: none"),
    ("--{0}-rescale-scale", "rescale_scale", float, "how far the contrast of guided {0} is restored, 0 to 1"),
    ("--{0}-stg-blocks", "stg_blocks", int, "the blocks whose {0} self-attention is skipped"),
    ("--{1}-guidance-scale", "modality_scale", float, "how closely the {0} follows the {2}; 1: no guidance"),
    ("--{0}-skip-step", "skip_step", int, "guide the {0} at every (N + 1)-th step only"),
)
_STREAMS = (("video", "a2v"), ("audio", "v2a"))


def named(argument: str) -> str:
    """The flag of a pipeline's argument, or of a field of its guidance."""
    for stream, source in _STREAMS:
        for flag, field, *_ in _GUIDANCE:
            if argument == f"{stream}_guider_params.{field}":
                return flag.format(stream, source)
    return f"--{argument.replace('_', '-')}"


def _add_guidance(parser: Parser, versions: Versions, negative: str | None = None, audio_refused: str = "") -> None:
    """negative: what is avoided by default; None for the prompt of the checkpoint's version."""
    said = "a list of common flaws" if negative is None else negative or "nothing"
    parser.add_argument("--negative-prompt", default=negative, metavar="TEXT", help=f"what to avoid (default: {said})")
    for stream, source in _STREAMS:
        other = "audio" if stream == "video" else "video"
        for flag, field, kind, text in _GUIDANCE:
            name = flag.format(stream, source)
            if stream == "audio" and audio_refused:
                parser.add_argument(name, action=Refused, reason=audio_refused)
                continue
            guidance = [p.video_guider_params if stream == "video" else p.audio_guider_params for p in versions]
            default, said = _by_version([vars(params)[field] for params in guidance])
            parser.add_argument(
                name,
                type=kind,
                default=default,
                nargs="*" if field == "stg_blocks" else None,
                metavar="N" if kind is int else "X",
                help=f"{text.format(stream, source, other)} {said}",
            )


def _add_upsampler(parser: Parser) -> None:
    parser.add_argument(
        "--spatial-upsampler-path",
        type=local_path,
        metavar="FILE",
        help="the latent upsampler: a file, or owner/name/file on Hugging Face (default: with the default checkpoint, "
        f"{UPSAMPLER})",
    )


def add_one_stage(parser: Parser) -> None:
    _add_basic(parser, BY_VERSION, distilled=False, two_stages=False)
    _add_guidance(parser, BY_VERSION)


def add_two_stages(
    parser: Parser,
    versions: Versions = BY_VERSION,
    distilled_lora: str = "the distilled LoRA, for the second stage, and its strength (default: 1)",
    audio_refused: str = "",
) -> None:
    _add_basic(parser, versions, distilled=False, two_stages=True)
    _add_guidance(parser, versions, audio_refused=audio_refused)
    text = f"{distilled_lora} (default: with the default checkpoint, {DISTILLED_LORA})"
    _add_lora(parser, "--distilled-lora", "distilled_lora", text)
    _add_upsampler(parser)


def add_hq(parser: Parser) -> None:
    add_two_stages(
        parser, ALWAYS_HQ, "the distilled LoRA, for both stages; its STRENGTH is replaced by those of the stages"
    )
    for stage, default in ((1, 0.25), (2, 0.5)):
        parser.add_argument(
            f"--distilled-lora-strength-stage-{stage}",
            type=float,
            default=default,
            metavar="X",
            help=f"the strength of the distilled LoRA in stage {stage} (default: {default})",
        )


def add_distilled(parser: Parser) -> None:
    _add_basic(parser, BY_VERSION, distilled=True, two_stages=True)
    _add_upsampler(parser)


def add_ic_lora(parser: Parser) -> None:
    add_distilled(parser)
    for flag, metavar, required, text in (
        (
            "--video-conditioning",
            "PATH",
            True,
            "a reference video to follow, and its strength; can be given several times",
        ),
        (
            "--conditioning-attention-mask",
            "MASK_PATH",
            False,
            "a grey video that shows where the reference videos count (white) and where not (black), and its strength",
        ),
    ):
        parser.add_argument(
            flag,
            action=Values,
            made=path_and_strength,
            counts=(2,),
            metavar=(metavar, "STRENGTH"),
            required=required,
            help=text,
        )
    parser.add_argument("--skip-stage-2", action="store_true", help="stop after stage 1, at half the height and width")


def add_a2vid(parser: Parser) -> None:
    add_two_stages(parser, audio_refused="the audio is given, so it is not guided")
    parser.add_argument(
        "--audio-path",
        type=local_path,
        required=True,
        metavar="FILE",
        help="the audio: any file that has an audio track",
    )
    parser.add_argument(
        "--audio-start-time", type=float, default=0.0, metavar="SECONDS", help="where in the file to start (default: 0)"
    )
    parser.add_argument(
        "--audio-max-duration",
        type=float,
        metavar="SECONDS",
        help="the longest audio to take (default: the length of the video)",
    )


def add_retake(parser: Parser) -> None:
    parser.add_argument("--video-path", type=local_path, required=True, metavar="FILE", help="the video to change")
    for flag, text in (("--start-time", "start"), ("--end-time", "end")):
        text = f"the {text} of the time span that is re-created"
        parser.add_argument(flag, type=float, required=True, metavar="SECONDS", help=text)
    _add_files(parser)
    _add_seed(parser, 42, "the seed of the noise, -1: a random one; a video for each of several (default: 42)")
    parser.add_argument(
        "--loras",
        nargs="*",
        type=bare_lora,
        default=[],
        metavar="PATH",
        help="LoRAs, all at strength 1",
    )
    _add_quantization(parser)
    _add_steps(parser, [40])
    _add_guidance(parser, BY_VERSION, negative="")
    parser.add_argument(
        "--distilled", action="store_true", help="the checkpoint is a distilled model: 8 steps without guidance"
    )
    parser.add_argument("--keep-video", action="store_true", help="re-create the audio alone")
    parser.add_argument("--keep-audio", action="store_true", help="re-create the video alone")
    parser.add_argument(
        "--enhance-prompt", action="store_true", help="let Gemma rewrite the prompt in more detail (needs mlx-lm)"
    )
