"""The values of flags: several for one use of a flag, paths, and flags that are refused."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ..config.reading import cut
from ..loading.lora import LoraPathStrength
from ..types import ImageConditioningInput


class Values(argparse.Action):
    """One use of a flag with several values, appended to the list; ``made`` turns the strings into what is kept."""

    def __init__(
        self,
        option_strings: Sequence[str],
        dest: str,
        *,
        made: Callable[[list[str]], object],
        counts: tuple[int, ...],
        metavar: tuple[str, ...],
        default: Sequence[object] = (),
        required: bool = False,
        help: str | None = None,
    ):
        nargs = "+" if len(counts) > 1 else counts[0]
        super().__init__(
            option_strings, dest, nargs=nargs, default=list(default), required=required, help=help, metavar=metavar
        )
        self.made, self.counts = made, counts

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if len(values) not in self.counts:
            expected = " or ".join(map(str, self.counts))
            raise argparse.ArgumentError(self, f"takes {expected} values, and {len(values)} were given")
        try:
            made = self.made(values)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise argparse.ArgumentError(self, str(error)) from None
        setattr(namespace, self.dest, [*getattr(namespace, self.dest), made])


class Refused(argparse.Action):
    """A flag of the reference that has no effect there. Where it is given, an error says why."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, reason: str):
        super().__init__(option_strings, dest, nargs="*", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        self.reason = reason

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> NoReturn:
        raise argparse.ArgumentError(self, f"has no effect here: {self.reason}")


def local_path(text: str) -> str:
    """An absolute path where ``text`` is one; a name on Hugging Face stays as it is."""
    with _named_path(text) as path:
        return str(path.resolve()) if path.exists() or text.startswith(("/", "~", ".")) else text


def output_path(text: str) -> Path:
    if text == "-":
        raise argparse.ArgumentTypeError("- is no file: nothing is written to the standard output; give a name")
    with _named_path(text) as path:
        return path.resolve()


_UNITS = {"": 10**9, "GB": 10**9, "G": 10**9, "MB": 10**6, "M": 10**6, "GIB": 2**30, "MIB": 2**20}


def size_of_memory(text: str) -> int:
    """Bytes of ``16``, ``16GB``, ``12.5GiB`` or ``800MB``; a number alone is in GB."""
    found = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise argparse.ArgumentTypeError(f"{cut(text)!r} is not a size of memory: write 16GB, 12.5GiB or 800MB")
    size = int(float(found[1]) * unit)
    if size < 10**6:
        raise argparse.ArgumentTypeError(f"{cut(text)!r} is less than 1MB: write 16GB, 12.5GiB or 800MB")
    return size


@contextmanager
def _named_path(text: str) -> Iterator[Path]:
    """The path of a flag. What no path can be, and an error within, becomes one of argparse."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the path is empty")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{ascii(text)[1:-1]} is not UTF-8; give the file another name") from None
    try:
        yield Path(text).expanduser()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, ~nosuchuser
        reason = getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(f"{cut(text)}: {reason}") from None


def lora(values: list[str]) -> LoraPathStrength:
    return LoraPathStrength(local_path(values[0]), *map(float, values[1:]))


def bare_lora(text: str) -> LoraPathStrength:
    """A LoRA at strength 1."""
    return LoraPathStrength(local_path(text))


def image(values: list[str]) -> ImageConditioningInput:
    return ImageConditioningInput(
        local_path(values[0]), int(values[1]), float(values[2]), *(int(crf) for crf in values[3:])
    )


def path_and_strength(values: list[str]) -> tuple[str, float]:
    return local_path(values[0]), float(values[1])
