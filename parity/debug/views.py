"""Views for the questions that people ask when a video looks wrong. Each view is loaded when it is asked for.

A view is a module with ``look(subject, args) -> Finding``: tables, charts and one plain sentence.
"""

from __future__ import annotations

import argparse
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltx2_mlx.errors import InputError

from ..declare.inputs import FIXTURES, GEMMA

REPORTS = Path("reports") / "latest"


Flags = tuple[tuple[tuple[str, ...], dict[str, Any]], ...]


@dataclass(frozen=True)
class View:
    """help: the question. config: the tiny checkpoint that is looked at when no file is given. flags: its own."""

    help: str
    config: str = "tiny-2.0"
    flags: Flags = ()


def _flag(*names: str, **kwargs: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return names, kwargs


_PROMPTS = _flag("--prompts", nargs=2, metavar=("A", "B"), help="their contexts (default: random ones)")


_SIGMA = _flag("--sigma", type=float, default=0.725, help="noise level of the step, in (0, 1]")


_SIGMAS = _flag("--sigmas", type=float, nargs="+", metavar="S", help="falling, 0 at the end (default: the distilled)")


VIEWS = {
    "nan": View("find the first NaN or infinity, from the prompt to the audio", flags=(_SIGMAS,)),
    "velocity": View("velocity or X0: what the model gives, and what the Euler step is fed", flags=(_SIGMAS,)),
    "text": View(
        "how well the text side tells two prompts apart",
        flags=(
            _flag("texts", nargs=2, metavar="PROMPT"),
            _flag("--padding", choices=("left", "right"), default="left", help="right is not how it was trained"),
            _flag(
                "--tokens", type=int, default=1024, metavar="N", help="padded to N, a multiple of 128 (default: 1024)"
            ),
            _flag("--early-layers-only", action="store_true", help="the input embeddings for every hidden state"),
        ),
    ),
    "mask": View("what the attention masks hide, and what becomes of a row that sees nothing"),
    "adaln": View("which rows of the modulation tables are shift and which are scale; the timesteps' multipliers"),
    "denoise": View(
        "latents, step by step: how soon they are settled, and what the prompt does", flags=(_SIGMAS, _PROMPTS)
    ),
    "step": View("one step in full: every number between the latent and the next one", flags=(_SIGMA, _PROMPTS)),
    "blocks": View("std, share of the text and likeness of two prompts, block by block", flags=(_SIGMA, _PROMPTS)),
    "vae": View("dark, washed out, blocky, always the same: what the video decoder does to a latent"),
    "upsampler": View(
        "grey or exploding after the second stage",
        "tiny-2.0-upsampler-x2",
        flags=(_flag("--encoder", type=Path, metavar="PATH", help="the checkpoint whose statistics it needs"),),
    ),
    "weights": View(
        "every tensor in memory against the file",
        flags=(
            _flag("--component", default="*", metavar="GLOB", help="which parts (default: all)"),
            _flag("--lora", type=Path, metavar="PATH", help="fused into the transformer at strength 1"),
        ),
    ),
    "audio": View("silent, garbled, robotic: the audio's decoder and vocoder, stage by stage"),
    "sync": View(
        "compare the lengths of audio and picture",
        flags=(
            _flag("--frames", type=int, default=121, help="8k + 1"),
            _flag("--fps", type=float, default=24.0, help="frames a second"),
        ),
    ),
    "video": View("noise or structure, grey, dark or washed out: a finished video", flags=(_flag("file", type=Path),)),
}


def look(args: argparse.Namespace, sides: dict[str, Any] | None = None) -> Any:
    """Run a view and return its finding. sides: in place of ours and, where it is installed, the reference."""
    view = importlib.import_module(f"{__package__}.{args.view}")
    if args.view == "video":
        return view.look(args)
    from . import subject

    if args.view in ("text", "nan") and (args.checkpoint is None) is not (args.gemma is None):
        raise InputError("--checkpoint and --gemma go together")
    if args.checkpoint is None:
        subject.prepare_fixtures()
    checkpoint = args.checkpoint or FIXTURES / f"{args.config}.safetensors"
    sides = sides or subject.sides(not args.without_reference)
    return view.look(subject.Subject(checkpoint, args.gemma or GEMMA, args.dtype, sides), args)
