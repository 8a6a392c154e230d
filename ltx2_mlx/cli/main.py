"""``ltx2-mlx``: errors are one line on stderr and exit code 2.

MLX is imported by the commands only, so that its absence is an error like any other.
"""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import InputError, LTX2Error, printable
from .stopping import code, in_time, raising, stopping
from .terminal import Parser, claim_streams, one_line

if TYPE_CHECKING:
    from ..distributed.ranks import Ranks
    from .plan import Plan
    from .progress import Display
    from .request import Request


def main(argv: list[str] | None = None) -> int:
    # On CUDA MLX 0.31.1 keeps 128 plans of convolutions and stops with an error when a second video's tiles need more.
    os.environ.setdefault("MLX_CUDA_CONV_CACHE_SIZE", "1024")
    os.environ.setdefault("MLX_CUDA_GRAPH_CACHE_SIZE", "8192")
    argv = sys.argv[1:] if argv is None else argv
    claim_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack letters
            stream.reconfigure(errors="backslashreplace")
    try:
        with stopping(raising):
            if argv and argv[0] in ("generate", "plan"):
                _require_backend()
                return _generate(argv[0], argv[1:])
            args = _parser().parse_args(argv)
            _require_backend()
            if args.command == "convert":
                return _convert(args)
            return _info({k: file for k, file in vars(args).items() if k.endswith("_path") and file is not None})
    except LTX2Error as error:
        _say(f"ltx2-mlx: {error}")
        return 2
    except KeyboardInterrupt as stop:
        _say(f"ltx2-mlx: stopped; {' and '.join(map(str, _finished)) or 'nothing'} was written")
        return code(stop)
    except BrokenPipeError:  # the reader of a plan or of the help has read enough
        _forget(sys.stdout)
        return 2 if argv[:1] == ["generate"] else 0
    except OSError as error:  # a full disk, a file that went away
        _say(f"ltx2-mlx: {error}")
        return 2


# ---- stopping -----------------------------------------------------------------------------------------------------


_finished: list[Path] = []  # what the command that runs has written whole


def _exit(number: int, frame: FrameType | None) -> None:
    _say("ltx2-mlx: stopped; nothing was written")
    os._exit(128 + number)


def _say(text: str) -> None:
    """A line on stderr, if anyone still reads it."""
    with suppress(OSError):
        print(one_line(text), file=sys.stderr, flush=True)


def _forget(stream: object) -> None:
    """Lead what is left for a stream that nobody reads to nowhere, so that Python can end without an error."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[attr-defined]


# ---- commands -----------------------------------------------------------------------------------------------------


def _require_backend() -> None:
    """Raises InputError where MLX cannot be imported: on Linux it is installed without a backend by default."""
    try:
        with stopping(_exit):
            importlib.import_module("mlx.core")
    except ImportError as error:
        if sys.platform != "linux":
            raise InputError(f"MLX cannot be imported here ({error}): pip install --force-reinstall mlx") from None
        raise InputError("MLX has no backend here: pip install 'ltx2-mlx[cpu]', or [cuda13] on NVIDIA") from None


def _version() -> str:
    """The version, and in the same line that MLX has no backend where it has none."""
    try:
        _require_backend()
    except InputError as error:
        return f"ltx2-mlx {__version__} ({error})"
    return f"ltx2-mlx {__version__}"


def _parser() -> Parser:
    parser = Parser(
        prog="ltx2-mlx",
        description="LTX-2 in MLX: video with audio from a prompt.",
        formatter_class=argparse.RawDescriptionHelpFormatter,  # the version stays in one line
    )
    parser.add_argument("--version", action="version", version=_version(), help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("generate", help="make a video with audio (see: ltx2-mlx generate --help)")
    commands.add_parser("plan", help="show what generate would do with the same flags, and every problem")
    info = commands.add_parser(
        "info", help="show the components of a checkpoint, and whether each is whole; or what made a video"
    )
    info.add_argument(
        "checkpoint_path", nargs="?", metavar="FILE", help="a .safetensors file; or an output of generate"
    )
    for part in ("transformer", "text-encoder", "video-vae", "audio-vae"):
        info.add_argument(f"--{part}-path", metavar="FILE", help=f"the {part} where it is in a file of its own")
    convert = commands.add_parser("convert", help="write a checkpoint, or a Gemma folder, with weights in 8 or 4 bits")
    convert.add_argument(
        "source", metavar="CHECKPOINT", help="a .safetensors file, or a folder of Gemma 3; or its name on Hugging Face"
    )
    convert.add_argument("path", metavar="OUT", help="the new .safetensors file, or the new folder")
    convert.add_argument("--bits", type=int, required=True, metavar="N", help="of a packed number: 8 or 4")
    convert.add_argument(
        "--group-size",
        type=int,
        default=64,
        metavar="N",
        help="how many numbers of a row share a scale and a bias: 32, 64 or 128 (default: 64)",
    )
    convert.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="GLOB",
        help="layers that stay as they are, such as '*.ff.net.2' or 'transformer_blocks.0.*'; can be given several "
        "times. Whatever is not a linear layer of a block stays in any case",
    )
    convert.add_argument("--overwrite", action="store_true", help="replace what is at OUT; otherwise it is refused")
    return parser


def _convert(args: argparse.Namespace) -> int:
    with stopping(_exit):
        from ..loading.convert import convert
        from ..loading.hub import GEMMA_PATTERNS, expanded, resolve
        from ..loading.quantized import Quantization

    how = Quantization(args.bits, args.group_size, tuple(args.keep))
    source = resolve(args.source, None if args.source.endswith(".safetensors") else GEMMA_PATTERNS)
    made = convert(source, expanded(args.path), how, overwrite=args.overwrite, progress=_written)
    print(printable(made), flush=True)
    return 0


def _written(done: int, total: int) -> None:
    """One line for a terminal."""
    if sys.stderr.isatty():
        print(f"\rwriting: {done / max(total, 1):4.0%}", end="\n" if done >= total else "", file=sys.stderr, flush=True)


def _info(files: dict[str, str]) -> int:
    with stopping(_exit):
        from ..loading.checkpoint import CheckpointFiles
        from ..loading.hub import expanded
        from .info import info, is_output, made_by

    if not files:
        raise InputError("info needs a file: see ltx2-mlx info --help")
    one = expanded(files["checkpoint_path"]) if {*files} == {"checkpoint_path"} else None
    if one is not None and is_output(one):
        print(made_by(one))
    else:
        print(info(files["checkpoint_path"] if one is not None else CheckpointFiles(**files)))
    return 0


def _generate(command: str, argv: list[str]) -> int:
    if command == "plan":
        return _planned(command, argv, None)
    with stopping(_exit):
        from .hosts import on_hosts
        from .launch import launched
        from .recipes import parse_all

    if any(word.partition("=")[0] == "--hosts" for word in argv) and (file := parse_all(command, argv)[0].hosts):
        return on_hosts(file, argv)
    with launched() as ranks:
        return _planned(command, argv, ranks)


def _planned(command: str, argv: list[str], ranks: Ranks | None) -> int:
    with stopping(_exit):
        from .launch import agreed, of_rank
        from .plan import plan
        from .progress import display
        from .recipes import parse_all
        from .shown import event, show

    requests = parse_all(command, argv)
    if ranks is not None:
        requests = of_rank(requests, ranks)
    shown = display(requests[0].quiet, requests[0].json)
    try:
        planned = plan(*requests, download=command == "generate", confirm=_confirm)
        if ranks is not None:
            planned = agreed(ranks, argv, requests, planned)
    except LTX2Error as error:
        shown.event("error", message=str(error), finished=[])
        raise
    shown.event("plan", **event(planned))
    if command == "generate" and not planned.problems:
        return _make(planned, shown, ranks)
    if command == "generate" or not requests[0].json:
        print(show(planned), file=sys.stdout if command == "plan" else sys.stderr, flush=True)
    return 2 if planned.problems else 0


def _make(planned: Plan, shown: Display, ranks: Ranks | None) -> int:
    from .macos import undisturbed
    from .making import make

    for note in planned.notes:
        shown.say(f"note: {note}")
    logging.basicConfig(handlers=[_Notes(shown)])
    logging.captureWarnings(True)
    written = [path for each in planned.requests for path in (each.output_path, each.context, each.preview) if path]
    before = {path: _state(path) for path in written}
    finished = _finished
    finished.clear()

    def stopped(number: int) -> None:
        new = [str(path) for path in before if _state(path) != before[path]]
        shown.event("stopped", written=new)
        why = ": another rank has ended" if ranks is not None and ranks.alone else ""
        _say(f"ltx2-mlx: stopped{why}; {' and '.join(new) or 'nothing'} was written")

    def end(number: int) -> None:
        stopped(number)
        os._exit(128 + number)

    try:
        with undisturbed(), in_time(end):
            for output in make(planned, shown, ranks):
                finished.append(output)
                _print(output, planned.request.json)
            if ranks is not None:
                ranks.agree()  # the others stay until the first has written
    except KeyboardInterrupt as stop:
        shown.close()
        stopped(code(stop))
        return code(stop)
    except (LTX2Error, OSError) as error:
        shown.close()
        shown.event("error", message=str(error), finished=list(map(str, finished)))
        if len(planned.requests) > 1:
            names = ", ".join(map(str, finished)) or "none"
            _say(f"ltx2-mlx: {len(finished)} of {len(planned.requests)} videos are finished: {names}")
        raise
    shown.event("end", finished=list(map(str, finished)))
    return 0


def _print(output: Path, events: bool) -> None:
    """The path of a video, for who reads the standard output; events have it already."""
    try:
        if not events:
            print(printable(output), flush=True)
    except OSError:  # nobody reads it; the file is there
        _forget(sys.stdout)


def _confirm(names: Iterable[str], size: str, request: Request) -> None:
    """Ask before a download of models that are a default, or may be named by the settings of somebody else. Raises
    InputError where the answer is no, or nobody can be asked."""
    unnamed = [name for name in names if name in request.assumed or request.from_settings]
    if not unnamed or request.yes:
        return
    text = f"{' and '.join(unnamed)} would be downloaded, {size} in all"
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        raise InputError(f"{text}: give --yes for that, or the paths of models")
    print(f"{one_line(text)}. Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("nothing was downloaded")


class _Notes(logging.Handler):
    """What libraries warn of, as a line beside the progress."""

    def __init__(self, shown: Display):
        super().__init__()
        self.shown = shown

    def emit(self, record: logging.LogRecord) -> None:
        self.shown.say(f"note: {record.getMessage()}")


def _state(path: Path) -> tuple[int, ...] | None:
    """What tells one version of a file from another; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
