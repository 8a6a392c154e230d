"""The flags of ``generate`` and ``plan`` that the reference does not have, and all pipelines do."""

from __future__ import annotations

from ..diffusion.behaviour import BEHAVIOURS
from ..distributed.table import WAYS
from ..media.encoding import CODECS
from .request import DTYPES, NOISE, TILINGS
from .terminal import Parser
from .values import output_path, size_of_memory


def add_ours(parser: Parser) -> None:
    """Add the flags that all pipelines have."""
    group = parser.add_argument_group("how it runs")
    group.add_argument(
        "--overwrite", action="store_true", help="replace what is at --output-path; otherwise it is refused"
    )
    group.add_argument(
        "--no-audio", dest="audio", action="store_false", help="do not decode or write audio; the frames stay the same"
    )
    group.add_argument(
        "--dtype", choices=tuple(DTYPES), default="bfloat16", help="of weights and latents (default: bfloat16)"
    )
    group.add_argument(
        "--low-memory",
        action="store_true",
        help="keep two of the network's blocks in memory at a time and read them for every pass; slower",
    )
    group.add_argument(
        "--memory-limit",
        type=size_of_memory,
        metavar="SIZE",
        help="the most memory to take, such as 16GB or 12.5GiB: the video is decoded in smaller slabs, then in tiles, "
        "then --low-memory is turned on, and no more of them than it takes; refused where that is not enough",
    )
    group.add_argument(
        "--noise",
        choices=tuple(NOISE),
        default="numpy",
        help="where the noise comes from; torch: the same numbers as PyTorch on a CPU (default: numpy)",
    )
    group.add_argument(
        "--behaviour",
        choices=tuple(BEHAVIOURS),
        help="compute as ltx-pipelines 1.0.0 does, or as upstream does today, where they differ (default: 1.0.0, or "
        "upstream for 2.5)",
    )
    group.add_argument(
        "--tiling",
        choices=tuple(TILINGS),
        default="auto",
        help="decode the video in tiles. auto: only if memory is short; default: the reference's tiles of 512 pixels "
        "and 64 frames; none: the whole clip, which passes through in slabs of frames, without seams (default: auto)",
    )
    group.add_argument(
        "--context",
        type=output_path,
        metavar="FILE",
        help="a cache of encoded prompts, a .safetensors file: read where it has the prompt, written where it has not",
    )
    group.add_argument(
        "--parallel",
        choices=WAYS,
        help="what several processes (mlx.launch -n 2, or --hosts) share. tensor: every layer, so that each holds a "
        "part of the weights; guidance: the passes of a guided step, so that each holds all of them (default: guidance "
        "where each gets a pass and has the memory for it, or else tensor)",
    )
    _add_encoding(parser)
    _add_settings(parser)
    _add_several(parser)
    _add_shown(parser)
    group = parser.add_argument_group("diagnostics")
    group.add_argument("--placeholder", action="store_true", help="run neither Gemma nor the transformer: decode noise")
    group.add_argument(
        "--cross-attn-scale",
        type=float,
        default=1.0,
        metavar="X",
        help="scale the prompt's effect on each transformer block (default: 1)",
    )
    group.add_argument(
        "--early-layers-only", action="store_true", help="use only Gemma's input embeddings, not its layers"
    )


def _add_several(parser: Parser) -> None:
    group = parser.add_argument_group("several videos")
    group.add_argument(
        "--num-videos", type=int, metavar="N", help="as many videos, whose seeds are --seed and those that follow it"
    )
    group.add_argument(
        "--prompts-file",
        metavar="FILE",
        help="a video for each line of a text file, or of the standard input (-), in the place of --prompt",
    )


def _add_shown(parser: Parser) -> None:
    group = parser.add_argument_group("while it runs")
    group.add_argument(
        "--preview",
        type=output_path,
        metavar="PATH",
        help="a small picture of the video after each denoising step: a .png file that the next one replaces, or a "
        "folder that keeps all",
    )
    group.add_argument("--preview-every", type=int, metavar="N", help="after each N-th step and the last (default: 1)")
    group.add_argument("--quiet", action="store_true", help="show no progress, notes and summary, but errors")
    group.add_argument("--json", action="store_true", help="write events as lines of JSON to the standard output")
    group.add_argument("--yes", action="store_true", help="download the default models without asking")


def _add_encoding(parser: Parser) -> None:
    group = parser.add_argument_group("how the video is compressed")
    group.add_argument(
        "--codec", choices=tuple(CODECS), help="of the video; prores goes into a .mov (default: h264, in .mp4 or .mov)"
    )
    group.add_argument(
        "--crf",
        type=float,
        metavar="N",
        help="how strongly, 0 (without loss) to 51; 6 more is half the size (default: 23 of h264, 28 of hevc)",
    )
    group.add_argument(
        "--preset",
        metavar="NAME",
        help="ultrafast to veryslow: the slower, the smaller (default: medium); of prores proxy, lt, standard or hq "
        "(default: standard)",
    )


def _add_settings(parser: Parser) -> None:
    group = parser.add_argument_group("settings that travel with the video")
    group.add_argument(
        "--config",
        metavar="FILE",
        help="take the settings that are in a video, a WAV file, a folder of frames or a JSON file; flags that are "
        "given as well win",
    )
    group.add_argument(
        "--without", nargs="+", metavar="NAME", help="settings of --config to leave out: --without image low-memory"
    )
    group.add_argument(
        "--no-metadata",
        dest="metadata",
        action="store_false",
        help="do not write prompt, seed and settings into the file. Without this they are there; files are named "
        "without their folders",
    )
