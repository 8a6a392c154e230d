"""``ltx2-parity``: run the comparison, list what it holds. Exit codes: 0 pass, 1 diverged or invalid, 2 usage,
3 incomplete, 4 inconclusive."""

from __future__ import annotations

import argparse
import json
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path

from ltx2_mlx.errors import LTX2Error

from .results import EXIT_USAGE
from .stages import stages

REPORTS = Path("reports") / "latest"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="ltx2-parity", description="LTX-2 in MLX beside its PyTorch reference.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run both, judge every tensor, write a report")
    run.add_argument("--stage", default="*", metavar="GLOB", help="which stages (default: all)")
    run.add_argument("--config", default="*", metavar="NAME", help="which configs, as a glob (default: all)")
    run.add_argument(
        "--lane", default="A,B,C", help="A: isolated float32, the gate; B: half precision; C: free-running"
    )
    run.add_argument(
        "--json", type=Path, default=REPORTS / "results.json", metavar="PATH", help="where results.json goes"
    )
    run.add_argument(
        "--checkpoint", type=Path, metavar="PATH", help="this checkpoint (or Gemma folder) instead of the tiny ones"
    )
    run.add_argument("--device", choices=("cpu", "gpu"), help="where MLX runs (default: its own choice)")
    commands.add_parser("list", help="stages, configs, cases and taps")
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
    args = parser.parse_args(argv)
    try:
        return {"list": lambda args: _list(), "run": _run, "debug": _debug_text}[args.command](args)
    except LTX2Error as error:
        print(f"ltx2-parity: {error}", file=sys.stderr)
        return EXIT_USAGE


def _run(args: argparse.Namespace) -> int:
    start = time.monotonic()
    try:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.open("a").close()
    except OSError as error:
        print(f"ltx2-parity: {args.json}: cannot be written ({error.strerror})", file=sys.stderr)
        return EXIT_USAGE
    from .report import plots, summary, terminal
    from .runner import check_checkpoint, ensure_fixtures, run, select

    lanes = args.lane.replace(",", "").upper()
    if not lanes or set(lanes) - set("ABC"):
        print(f"ltx2-parity: no lane '{args.lane}'; there are A, B and C, as in --lane A,C", file=sys.stderr)
        return EXIT_USAGE
    if args.checkpoint:
        named = [stage for stage in check_checkpoint(args.checkpoint) if fnmatchcase(stage.name, args.stage)]
        chosen = [(stage, args.checkpoint.stem) for stage in named]
    else:
        ensure_fixtures()
        chosen = select(args.stage, args.config)
    if not chosen:
        print(f"ltx2-parity: no stage '{args.stage}' with config '{args.config}'; see: parity list", file=sys.stderr)
        return EXIT_USAGE

    def progress(line: str) -> None:
        clear = "\r\x1b[K" if sys.stderr.isatty() else ""
        print(f"{clear}[{time.monotonic() - start:4.0f} s] {line}", file=sys.stderr, flush=True)

    results = run(chosen, lanes, args.checkpoint, args.device, progress)
    pictures = plots.by_depth(results, args.json.parent)
    results.seconds = time.monotonic() - start
    results.write(args.json)
    text = args.json.parent / "summary.md"
    text.write_text(summary.markdown(json.loads(args.json.read_text())))
    terminal.show(results, [args.json, text, *pictures])
    return results.exit_code()


def _debug_text(args: argparse.Namespace) -> int:
    from .debug import text
    from .inputs import FIXTURES, GEMMA
    from .runner import ensure_fixtures

    if (args.checkpoint is None) is not (args.gemma is None):
        print("ltx2-parity: --checkpoint and --gemma go together", file=sys.stderr)
        return EXIT_USAGE
    if args.checkpoint is None:
        ensure_fixtures()
    checkpoint = args.checkpoint or FIXTURES / f"{args.config}.safetensors"
    found = text.differentiate(
        tuple(args.prompts),
        checkpoint,
        args.gemma or GEMMA,
        args.padding,
        args.early_layers_only,
        args.dtype,
        args.without_reference,
    )
    text.show(found, tuple(args.prompts))
    print(f"written   {text.draw(found, tuple(args.prompts), args.plot)}")
    return 0


def _list() -> int:
    from .runner import FIXTURES, ensure_fixtures, read

    ensure_fixtures()
    for stage in stages().values():
        print(f"{stage.name}  ({len(stage.functions)} function taps; every leaf module)")
        for config in stage.configs:
            path = FIXTURES / (config if stage.folder else f"{config}.safetensors")
            cases = stage.cases(read(path).config if stage.component else {})
            print(f"  {config:<24}{', '.join(cases)}")
    return 0
