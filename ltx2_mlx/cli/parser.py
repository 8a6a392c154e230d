"""The parser of both command lines. Needs no library, so that one that is missing can be named."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from ..errors import printable

LONGEST = 1000  # characters of a message
_LONG_WORD = re.compile(r"(\S{200})\S+")


def one_line(text: object) -> str:
    """The text as a message: on one line, with no character that steers a terminal, and cut where it is long."""
    line = _LONG_WORD.sub(r"\1…", printable(text))
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line: what was wrong, and how to see the flags."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)\n")
