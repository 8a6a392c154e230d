"""``ltx2-mlx``: errors are one line on stderr and exit code 2.

MLX is imported by the commands only, so that its absence is an error like any other.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys

from .. import __version__
from ..errors import InputError, LTX2Error


def main(argv: list[str] | None = None) -> int:
    # On CUDA MLX 0.31.1 keeps 128 plans of convolutions and stops with an error when a second video's tiles need more.
    os.environ.setdefault("MLX_CUDA_CONV_CACHE_SIZE", "1024")
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv and argv[0] in ("generate", "plan"):
            _require_backend()
            return _generate(argv[0], argv[1:])
        args = _parser().parse_args(argv)
        _require_backend()
        return _info({name: file for name, file in vars(args).items() if name.endswith("_path") and file is not None})
    except LTX2Error as error:
        print(f"ltx2-mlx: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ltx2-mlx: stopped; nothing was written", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:  # a full disk, a file that went away
        print(f"ltx2-mlx: {error}", file=sys.stderr)
        return 2


def _require_backend() -> None:
    """Raises InputError where MLX cannot be imported: on Linux it is installed without a backend by default."""
    try:
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
    return parser


def _info(files: dict[str, str]) -> int:
    from ..loading.checkpoint import CheckpointFiles
    from .info import info

    if not files:
        raise InputError("info needs a file: see ltx2-mlx info --help")
    print(info(files["checkpoint_path"] if {*files} == {"checkpoint_path"} else CheckpointFiles(**files)))
    return 0


def _generate(command: str, argv: list[str]) -> int:
    from .generate import generate
    from .plan import plan, show
    from .recipes import parse

    planned = plan(parse(command, argv), download=command == "generate")
    if command == "plan" or planned.problems:
        print(show(planned), file=sys.stdout if command == "plan" else sys.stderr)
        return 2 if planned.problems else 0
    logging.basicConfig(format="note: %(message)s")
    logging.captureWarnings(True)
    with _Bars() as progress:
        output = generate(planned, progress)
    print(output)
    return 0


class _Bars:
    """Progress on stderr: a bar for each part of the work that is under way, with the seconds that are left."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self.bar, self.bars = tqdm, dict[str, tqdm]()

    def __call__(self, name: str, done: int, total: int | None) -> None:
        if name not in self.bars:
            self.bars[name] = self.bar(total=total, desc=name, unit="", file=sys.stderr, dynamic_ncols=True)
        self.bars[name].update(done - self.bars[name].n)
        if done == total:
            self.bars.pop(name).close()

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *error: object) -> None:
        while self.bars:
            self.bars.popitem()[1].close()
