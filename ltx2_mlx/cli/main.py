"""``ltx2-mlx``: what people type. Errors are one line on stderr and exit code 2."""

from __future__ import annotations

import argparse
import logging
import sys
from math import prod
from pathlib import Path

from tqdm import tqdm

from .. import __version__
from ..errors import LTX2Error, WeightsError
from ..loading.load import COMPONENTS, PREFIXES, SHARED, build, read_checkpoint


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    try:
        if argv and argv[0] in ("generate", "plan"):
            return _generate(argv[0], argv[1:])
        args = _parser().parse_args(argv)
        return _info(args.checkpoint)
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ltx2-mlx", description="LTX-2 in MLX: video with sound from a prompt.")
    parser.add_argument("--version", action="version", version=f"ltx2-mlx {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("generate", help="make a video with sound (see: ltx2-mlx generate --help)")
    commands.add_parser("plan", help="what generate would do with the same flags, and what would go wrong")
    info = commands.add_parser("info", help="what a checkpoint holds, and whether it is whole")
    info.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    return parser


def _generate(command: str, argv: list[str]) -> int:
    from .flags import parse  # media and pipelines are slow to import
    from .generate import generate
    from .plan import plan, show

    args = parse(command, argv)
    planned = plan(args, download=command == "generate")
    if command == "plan" or planned.problems:
        print(show(planned), file=sys.stdout if command == "plan" else sys.stderr)
        return 2 if planned.problems else 0
    logging.basicConfig(format="note: %(message)s")
    logging.captureWarnings(True)
    with _Bars() as progress:
        output = generate(args, progress)
    print(output)
    return 0


class _Bars:
    """Progress on stderr: a bar for each part of the work that is under way, with the seconds that are left."""

    def __init__(self) -> None:
        self.bars: dict[str, tqdm] = {}

    def __call__(self, name: str, done: int, total: int | None) -> None:
        if name not in self.bars:
            self.bars[name] = tqdm(total=total, desc=name, unit="", file=sys.stderr, dynamic_ncols=True)
        self.bars[name].update(done - self.bars[name].n)
        if done == total:
            self.bars.pop(name).close()

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *error: object) -> None:
        while self.bars:
            self.bars.popitem()[1].close()


def _info(path: Path) -> int:
    checkpoint = read_checkpoint(path)
    version, config = checkpoint.version, checkpoint.config
    parts = checkpoint.components()
    if unknown := parts.get(""):
        names = list(unknown)
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise WeightsError(f"{path}: left over, of no known part: {', '.join(names[:8])}{more}")
    states = {}
    for part in dict.fromkeys(PREFIXES.values()):
        if part in COMPONENTS and checkpoint.holds(part):
            build(part, checkpoint)
            states[part] = "whole: every key used once, every shape right"
        elif users := [c for c, shared in SHARED.items() if part in shared.values()]:
            states[part] = f"used by {' and '.join(users)}" if part in parts else "missing"
        else:
            states[part] = "present, not checked: this version does not build it" if part in parts else "missing"
    named = "model_version" in checkpoint.metadata
    total = sum(info.nbytes for info in checkpoint.tensors.values())
    print(f"{path}\n  version   {version}{'' if named else ' (not stated; read as ltx-pipelines reads it)'}")
    print(f"  sections  {', '.join(config)}\n  tensors   {_size(total)}\n")
    print(f"  {'part':<20}{'tensors':>8}{'parameters':>16}{'size':>11}  {'dtypes':<10} state")
    for part, state in states.items():
        infos = [checkpoint.tensors[key] for key in parts.get(part, {}).values()]
        parameters = sum(prod(i.shape) for i in infos)
        dtypes = "/".join(sorted({i.dtype for i in infos})) or "-"
        size = _size(sum(i.nbytes for i in infos))
        print(f"  {part:<20}{len(infos):>8}{parameters:>16,}{size:>11}  {dtypes:<10} {state}")
    return 0


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.2f} MB"
