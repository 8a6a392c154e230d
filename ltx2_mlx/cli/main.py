"""``ltx2-mlx``: errors are one line on stderr and exit code 2.

MLX is imported by the commands only, so that its absence is an error like any other.
"""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from .. import __version__
from ..errors import InputError, LTX2Error, printable
from .terminal import Parser, claim_streams, one_line


def main(argv: list[str] | None = None) -> int:
    # On CUDA MLX 0.31.1 keeps 128 plans of convolutions and stops with an error when a second video's tiles need more.
    os.environ.setdefault("MLX_CUDA_CONV_CACHE_SIZE", "1024")
    argv = sys.argv[1:] if argv is None else argv
    claim_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may lack letters
            stream.reconfigure(errors="backslashreplace")
    try:
        with _stopping(_raise):
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
        _say("ltx2-mlx: stopped; nothing was written")
        return _code(stop)
    except BrokenPipeError:  # the reader of a plan or of the help has read enough
        _forget(sys.stdout)
        return 2 if argv[:1] == ["generate"] else 0
    except OSError as error:  # a full disk, a file that went away
        _say(f"ltx2-mlx: {error}")
        return 2


# ---- stopping -----------------------------------------------------------------------------------------------------


class _Signalled(KeyboardInterrupt):
    """SIGTERM or SIGHUP: cleaned up after as Ctrl-C is."""

    def __init__(self, number: int):
        self.number = number


def _code(stop: KeyboardInterrupt) -> int:
    """The exit code of a shell for a stopped program: 130 for Ctrl-C."""
    return 128 + (stop.number if isinstance(stop, _Signalled) else signal.SIGINT)


def _raise(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else _Signalled(number)


def _exit(number: int, frame: FrameType | None) -> None:
    _say("ltx2-mlx: stopped; nothing was written")
    os._exit(128 + number)


@contextmanager
def _stopping(stop: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within, Ctrl-C, SIGTERM and SIGHUP call ``stop``: ``_raise`` where there may be something to clean up, ``_exit``
    while modules are imported, where an exception comes out as another one: NumPy says that it is badly installed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ignored = [number for number in numbers if signal.getsignal(number) is signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, stop) for number in numbers if number not in ignored}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        with _stopping(_exit):
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
    info = commands.add_parser("info", help="show the components of a checkpoint, and whether each is whole")
    info.add_argument("checkpoint_path", nargs="?", metavar="CHECKPOINT", help="a .safetensors file")
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
    with _stopping(_exit):
        from ..loading.convert import convert
        from ..loading.hub import GEMMA_PATTERNS, resolve
        from ..loading.quantized import Quantization

    how = Quantization(args.bits, args.group_size, tuple(args.keep))
    source = resolve(args.source, None if args.source.endswith(".safetensors") else GEMMA_PATTERNS)
    with _Bars() as progress:
        made = convert(
            source,
            Path(args.path).expanduser(),
            how,
            overwrite=args.overwrite,
            progress=lambda done, total: progress("writing", done, total),
        )
    print(printable(made), flush=True)
    return 0


def _info(files: dict[str, str]) -> int:
    with _stopping(_exit):
        from ..loading.checkpoint import CheckpointFiles
        from .info import info

    if not files:
        raise InputError("info needs a file: see ltx2-mlx info --help")
    print(info(files["checkpoint_path"] if {*files} == {"checkpoint_path"} else CheckpointFiles(**files)))
    return 0


def _generate(command: str, argv: list[str]) -> int:
    with _stopping(_exit):
        from mlx.core import get_peak_memory, reset_peak_memory

        from .generate import generate
        from .info import gigabytes
        from .plan import plan, show
        from .recipes import parse

    planned = plan(parse(command, argv), download=command == "generate")
    if command == "plan" or planned.problems:
        print(show(planned), file=sys.stdout if command == "plan" else sys.stderr, flush=True)
        return 2 if planned.problems else 0
    for note in planned.notes:
        _say(f"note: {note}")
    logging.basicConfig(format="note: %(message)s")
    logging.captureWarnings(True)
    written = [path for path in (planned.request.output_path, planned.request.context) if path is not None]
    before = [_state(path) for path in written]
    reset_peak_memory()
    try:
        with _Bars() as progress:
            output = generate(planned, progress)
        _say(f"peak of memory: {gigabytes(get_peak_memory())}")
    except KeyboardInterrupt as stop:
        new = [str(path) for path, state in zip(written, before, strict=True) if _state(path) != state]
        _say(f"ltx2-mlx: stopped; {' and '.join(new) or 'nothing'} was written")
        return _code(stop)
    try:
        print(printable(output), flush=True)
    except OSError:  # nobody reads it; the file is there
        _forget(sys.stdout)
    return 0


def _state(path: Path) -> tuple[int, ...] | None:
    """What tells one version of a file from another; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


class _Bars:
    """Progress on stderr: a bar for each part of the work that is under way, with the seconds that are left."""

    def __init__(self) -> None:
        try:
            from tqdm import tqdm
        except ValueError as error:
            raise InputError(
                f"a variable TQDM_… of the environment is not what tqdm reads ({error}); unset it"
            ) from None
        self.bar, self.bars, self.silent = tqdm, dict[str, tqdm](), sys.stderr is None

    def __call__(self, name: str, done: int, total: int | None) -> None:
        """Show the progress. Where nobody reads it any more (a closed terminal, ``| head``), the work goes on."""
        if self.silent:
            return
        try:
            self._show(name, done, total)
        except OSError:
            self.silent = True
            _forget(sys.stderr)

    def _show(self, name: str, done: int, total: int | None) -> None:
        if name not in self.bars:
            self.bars[name] = self.bar(total=total, desc=name, unit="", file=sys.stderr, dynamic_ncols=True)
        self.bars[name].update(done - self.bars[name].n)
        if done == total:
            self.bars.pop(name).close()

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):
            while self.bars:
                self.bars.popitem()[1].close()
