"""How the harness reads and writes its files: only regular ones of a sane size, strictly, and whole or not at all."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import TypeVar

import msgspec

from ltx2_mlx.errors import LTX2Error

from .lines import printable

LARGEST = 1 << 29  # bytes; results.json of all cells has a tenth of that
# In JSON, as bytes: characters that steer a terminal, or turn the direction of text, written out or as they are; and
# the half of a pair of UTF-16 by itself, which is no character and which strict readers refuse.
_STEERING = re.compile(
    rb"(?<!\\)(?:\\\\)*\\(?:[bf]|u00(?:0[0-8bcef]|1[0-9a-f]|7f|[89][0-9a-f])|u20(?:2[a-e89]|6[6-9])"
    rb"|ud[89ab][0-9a-f]{2}(?!\\ud[c-f])|(?<!\\ud[89ab][0-9a-f]{2}\\)ud[c-f][0-9a-f]{2})"
    rb"|\x7f|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]",
    re.IGNORECASE,
)
_MARKS = (b"\\", b"\x7f", b"\xc2", b"\xe2")  # what each of them has in it
T = TypeVar("T")


class RunError(LTX2Error):
    """A file is not what it should be: which file, which field, and what to do."""


def steering(text: bytes) -> str:
    """The first character of a JSON text that steers a terminal; "" without one."""
    # The expression takes five seconds for all cells, and nearly every line has nothing that it could match.
    lines = (line for line in text.splitlines() if any(mark in line for mark in _MARKS))
    found = next((match for line in lines if (match := _STEERING.search(line))), None)
    return found[0].lstrip(b"\\").decode("utf-8", "replace").encode("unicode_escape").decode() if found else ""


def without_steering(text: str) -> str:
    """A JSON text of our own with other characters in the place of those that steer a terminal, or are none."""
    content = text.encode("utf-8", "backslashreplace")
    return _STEERING.sub(b"?", content).decode() if steering(content) else text


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_bytes(path: Path, hint: str = "") -> bytes:
    """The content of a regular file. Raises RunError for anything else; a pipe does not block."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise RunError(f"{path}: {'a folder' if stat.S_ISDIR(found.st_mode) else 'not a file'}. {hint}".strip())
            if found.st_size > LARGEST:
                raise RunError(f"{path}: {found.st_size:,} bytes, more than any such file has. {hint}".strip())
            return file.read()
    except OSError as error:
        reason = "a folder" if isinstance(error, IsADirectoryError) else error.strerror
        raise RunError(f"{path}: cannot be read ({reason}). {hint}".strip()) from None
    except ValueError:
        raise RunError(f"{path}: cannot be read (no such name). {hint}".strip()) from None


def decode(path: Path, text: bytes, kind: type[T], known: str) -> T:
    """The JSON text of a file as a value of this type, every field of it. Raises RunError. known: what it is not."""
    try:
        found = msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise RunError(f"{path}: {known}, or changed since it was written: {_said(error)}") from None
    if character := steering(text):
        raise RunError(f"{path}: {known}, or changed since it was written: a text in it holds {character}")
    return found


def convert(path: Path, value: object, kind: type[T], known: str) -> T:
    """The same for a value that has been decoded."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise RunError(f"{path}: {known}, or changed since it was written: {_said(error)}") from None


def _said(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    said = printable(str(error).replace("`", "'"))
    return said if len(said) < 200 else f"{said[:200]}…"


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_whole(path: Path, content: str | bytes) -> None:
    """The file with this content, or as it was before. What a killed run left beside it is removed. Raises RunError."""
    from ltx2_mlx.media.outputs import whole_file

    try:
        if path.exists() and not path.is_file():
            raise RunError(f"{path}: cannot be written (it is {'a folder' if path.is_dir() else 'not a file'})")
        with whole_file(path) as part:
            part.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
    except (LTX2Error, OSError, ValueError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise RunError(f"{path}: cannot be written ({getattr(cause, 'strerror', None) or cause})") from None
