"""Text that fits on one line of a terminal. Needs no library, so that one that is missing can be named."""

from __future__ import annotations


def printable(text: object) -> str:
    """The text on one line, without a character that steers a terminal or starts a command of a CI job."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
