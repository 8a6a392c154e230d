"""``ltx2-parity``: the parser of all verbs, and what every verb has in common: how it ends when it is stopped, when a
disk is full, when nobody reads its output, or when the terminal lacks a letter. Exit codes: 0 pass, 1 diverged or
invalid, 2 usage, 3 incomplete, 4 inconclusive, 128 + the signal's number when stopped."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import FrameType
from typing import Any

from ltx2_mlx import __version__
from ltx2_mlx.cli.terminal import Parser, claim_streams, one_line
from ltx2_mlx.errors import LTX2Error

VERBS = (
    "run", "list", "check", "record", "report", "diff", "accept", "explain", "bisect", "selftest", "margins", "debug",
    "doctor",
    "tables",
)  # fmt: skip
EXIT_USAGE = 2
OURS = ("ltx2_mlx", "parity")
EXTRAS = "cpu,parity,reference" if sys.platform == "linux" else "parity,reference"


def parser(word: str = "") -> Parser:
    """Every verb with its flags; where the first word of a command line is a verb, that one alone, since each imports
    what it needs. A verb that cannot be imported, for want of an extra, is there and says so."""
    made = Parser(prog="ltx2-parity", description="LTX-2 in MLX beside its PyTorch reference.")
    made.add_argument("--version", action="version", version=f"ltx2-mlx {__version__}")
    commands = made.add_subparsers(dest="command", required=True)
    for verb in (word,) if word in VERBS else VERBS:
        try:
            import_module(f".commands.{verb}", __package__).register(commands)
        except ImportError as error:
            lacking = commands.add_parser(verb, help=_remedy(error), add_help=False)
            lacking.set_defaults(lacking=_remedy(error))
    return made


def _remedy(error: ImportError) -> str:
    """Advice to install the library that an import did not find. Raises the error for a module of this project."""
    library = (error.name or "").partition(".")[0]
    if not library or library in OURS:
        raise error
    return f"needs {library}, which cannot be imported: pip install 'ltx2-mlx[{EXTRAS}]'"


def main(argv: list[str] | None = None) -> int:
    """Run a verb. What goes wrong outside this program (a signal, a disk, a reader that left) is one line on stderr."""
    _open_streams()
    argv = sys.argv[1:] if argv is None else argv
    try:
        with _stopping(_exit):
            args, rest = parser(*argv[:1]).parse_known_args(argv)
        if remedy := getattr(args, "lacking", None):
            _say(f"{args.command} {remedy}")
            return EXIT_USAGE
        if rest:
            whole = parser()  # the nearest flag may be that of another verb
            whole.error(f"unrecognized arguments: {' '.join(rest)}{whole.about_unknown(rest)}")
        with _stopping(_raise):
            code = _verb(args)
            if sys.stdout is not None:
                sys.stdout.flush()
        return code
    except KeyboardInterrupt as stop:
        number, *hints = stop.args or (signal.SIGINT,)
        _say("; ".join(["interrupted", *hints]))
        return 128 + int(number)
    except OSError as error:  # a full disk, a file that went away
        _say(f"{f'{error.filename}: ' if error.filename else ''}{error.strerror or error}")
        _forget(sys.stdout)
        return EXIT_USAGE
    except MemoryError:
        _say("out of memory")
        return EXIT_USAGE


def _verb(args: argparse.Namespace) -> int:
    try:
        return int(args.handler(args))
    except LTX2Error as error:
        _say(str(error))
    except ImportError as error:
        _say(f"{args.command} {_remedy(error)}")
    return EXIT_USAGE


# ---- streams --------------------------------------------------------------------------------------------------------


class _Pipe(io.FileIO):
    """A stream whose reader may leave (``| head -1``): what is written after that goes nowhere, and the verb goes on to
    its own exit code."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            return memoryview(data).nbytes


def _open_streams() -> None:
    """Standard streams that are there, can write every letter, and do not mind a reader that leaves."""
    claim_streams()
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream, own = getattr(sys, name), getattr(sys, f"__{name}__")
        if stream is None:  # closed by the shell
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif stream is own and isinstance(stream, io.TextIOWrapper) and not _is_pipe(stream):
            with suppress(OSError, ValueError):
                stream.flush()
                buffer = io.BufferedWriter(_Pipe(number, "w", closefd=False))
                live = name == "stderr" or stream.isatty()
                made = io.TextIOWrapper(buffer, stream.encoding, "backslashreplace", line_buffering=live)
                setattr(sys, name, made)
                setattr(sys, f"__{name}__", made)


def _is_pipe(stream: io.TextIOWrapper) -> bool:
    return isinstance(getattr(stream.buffer, "raw", stream.buffer), _Pipe)


def _say(text: str) -> None:
    """A line on stderr, if anyone still reads it; without what would steer a terminal."""
    try:
        print(f"ltx2-parity: {one_line(text)}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _forget(sys.stderr)


def _forget(stream: object) -> None:
    """Lead what is left for a stream that cannot be written to nowhere, so that Python can end without an error."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[attr-defined]


# ---- signals --------------------------------------------------------------------------------------------------------


def _raise(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def _exit(number: int, frame: FrameType | None) -> None:
    os.write(2, b"ltx2-parity: interrupted\n")
    os._exit(128 + number)


@contextmanager
def _stopping(stop: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within, Ctrl-C, SIGTERM and SIGHUP call ``stop``: ``_exit`` while modules are imported, where an exception comes
    out as another one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
