"""The parser, the messages and the standard streams of both command lines. Needs no library, so that one that is
missing can be named."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from ..errors import printable

LONGEST = 2000  # characters of a message
_LONG_WORD = re.compile(r"(\S{200})\S+(\S{100})")


def one_line(text: object) -> str:
    """The text as a message: on one line, with no character that steers a terminal, and cut where it is long. Of a long
    word, such as a path, both ends stay."""
    line = _LONG_WORD.sub(r"\1…\2", printable(text))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def nearest(word: str, names: Iterable[str]) -> str:
    """A question with the name that is most like ``word``, to be put behind an error; empty where none is like it."""
    bare = {name.lstrip("-"): name for name in names}  # the dashes are no likeness
    found = get_close_matches(word.lstrip("-"), list(bare), 1)
    return f"; did you mean {bare[found[0]]}?" if found else ""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line: what was wrong, the nearest name, and how to see the flags."""

    elsewhere: Callable[[str], str] = staticmethod(lambda flag: "")  # what to say of a flag that another parser has

    def flags(self) -> list[str]:
        """Its flags, and those of its commands."""
        found = [name for a in self._actions if a.help != argparse.SUPPRESS for name in a.option_strings]
        return [*found, *(flag for command in self.commands().values() for flag in command.flags())]

    def commands(self) -> dict[str, Parser]:
        """Its commands, by their names."""
        groups = [a.choices for a in self._actions if isinstance(a, argparse._SubParsersAction)]
        return {name: command for group in groups for name, command in group.items()}

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """As argparse's, with the nearest flag where one is not known."""
        values, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self.about_unknown(unknown)}")
        return values

    def about_unknown(self, words: Sequence[str]) -> str:
        """What to do about the first of these words that looks like a flag and is none."""
        word = next((word.partition("=")[0] for word in words if word.startswith("--")), "")
        return (self.elsewhere(word) or nearest(word, self.flags())) if word else ""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse's, with the nearest choice in the place of all of them where one is near."""
        choices = [] if action.choices is None else list(map(str, action.choices))
        if action.choices is not None and value not in action.choices:
            said = nearest(str(value), choices) or f"; choose from {', '.join(choices)}"
            raise argparse.ArgumentError(action, f"invalid choice: {str(value)!r}{said}")


def claim_streams() -> None:
    """Open the standard streams that the shell has closed (``<&-``), to nowhere: the first files that are opened would
    get their numbers, and MLX takes the number 0 for a file that cannot be read."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
