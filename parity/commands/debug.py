"""``parity debug``: the views for what people ask when a video looks wrong."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..debug.views import REPORTS, VIEWS, look
from ..judge.lines import printable
from ..judge.results import EXIT_OK


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    views = commands.add_parser(
        "debug", help="look at one question that people ask when a video looks wrong"
    ).add_subparsers(dest="view", required=True)
    for name, view in VIEWS.items():
        parser = views.add_parser(name, help=view.help)
        for names, kwargs in view.flags:
            parser.add_argument(*names, **kwargs)
        if name != "video":
            parser.add_argument("--config", default=view.config, help=f"which tiny checkpoint (default: {view.config})")
            parser.add_argument("--checkpoint", type=Path, metavar="PATH", help="look at this checkpoint instead")
            parser.add_argument("--gemma", type=Path, metavar="FOLDER", help="the Gemma 3 folder of --checkpoint")
            parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
            parser.add_argument("--without-reference", action="store_true", help="run only ours, in half the memory")
        parser.add_argument(
            "--plot", type=Path, default=REPORTS / f"{name}.png", metavar="PATH", help="where the picture is written"
        )
        parser.set_defaults(handler=_show)
    table = views.add_parser("symptoms", help="the table from a symptom to its command, as Markdown")
    table.set_defaults(handler=_symptoms)


def _show(args: argparse.Namespace) -> int:
    from ..debug import finding

    found = look(args)
    finding.show(found)
    if path := finding.draw(found, args.plot):
        print(f"written   {printable(path)}")
    return EXIT_OK


def _symptoms(args: argparse.Namespace) -> int:
    from ..debug.symptoms import markdown

    print(markdown())
    return EXIT_OK
