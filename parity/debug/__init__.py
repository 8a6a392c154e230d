"""Views for the questions that people ask when a video looks wrong. Each view is loaded when it is asked for."""

from __future__ import annotations

import argparse
from pathlib import Path

from ltx2_mlx.errors import InputError

from ..inputs import FIXTURES, GEMMA

REPORTS = Path("reports") / "latest"


def register(commands: argparse._SubParsersAction) -> None:
    views = commands.add_parser("debug", help="look closer").add_subparsers(dest="view", required=True)
    text = views.add_parser("text", help="how well the text side tells two prompts apart, ours and the reference")
    text.add_argument("prompts", nargs=2, metavar="PROMPT")
    text.add_argument("--config", default="tiny-2.0", help="which tiny checkpoint (default: tiny-2.0)")
    text.add_argument("--checkpoint", type=Path, metavar="PATH", help="this checkpoint instead; needs --gemma as well")
    text.add_argument("--gemma", type=Path, metavar="FOLDER", help="the Gemma 3 folder of --checkpoint")
    text.add_argument("--padding", choices=("left", "right"), default="left", help="right is not how it was trained")
    text.add_argument("--early-layers-only", action="store_true", help="the input embeddings for every hidden state")
    text.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    text.add_argument("--without-reference", action="store_true", help="ours alone, in half the memory")
    text.add_argument("--plot", type=Path, default=REPORTS / "text.png", metavar="PATH", help="where the picture goes")
    text.set_defaults(handler=_text)


def _text(args: argparse.Namespace) -> int:
    from ..runner import ensure_fixtures
    from . import text

    if (args.checkpoint is None) is not (args.gemma is None):
        raise InputError("--checkpoint and --gemma go together")
    if args.checkpoint is None:
        ensure_fixtures()
    checkpoint = args.checkpoint or FIXTURES / f"{args.config}.safetensors"
    prompts = tuple(args.prompts)
    found = text.differentiate(
        prompts,
        checkpoint,
        args.gemma or GEMMA,
        args.padding,
        args.early_layers_only,
        args.dtype,
        args.without_reference,
    )
    text.show(found, prompts)
    print(f"written   {text.draw(found, prompts, args.plot)}")
    return 0
