"""The parser, the messages and the standard streams of both command lines. Needs no library, so that one that is
missing can be named."""

from __future__ import annotations

import argparse
import os
import re
from typing import NoReturn

from ..errors import printable

LONGEST = 2000  # characters of a message
_LONG_WORD = re.compile(r"(\S{200})\S+(\S{100})")


def one_line(text: object) -> str:
    """The text as a message: on one line, with no character that steers a terminal, and cut where it is long. Of a long
    word, such as a path, both ends stay."""
    line = _LONG_WORD.sub(r"\1…\2", printable(text))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line: what was wrong, and how to see the flags."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")


def claim_streams() -> None:
    """Open the standard streams that the shell has closed (``<&-``), to nowhere: the first files that are opened would
    get their numbers, and MLX takes the number 0 for a file that cannot be read."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
