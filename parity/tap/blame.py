"""Who raised an exception: ours, or the harness around it. A crash of the harness says nothing about ours."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

HARNESS = Path(__file__).resolve().parents[1]
STAND_INS = HARNESS / "sides"  # functions and generators that ours calls in place of its own are there
TAPS = HARNESS / "tap" / "patch.py"  # a tapped module's own call is made there
PASSED_ON = (HARNESS / "tap", STAND_INS)  # calls of ours go through these
ARGUMENTS = re.compile("(?<!incompatible function )argument")  # what a function says that is called wrongly


def crash(error: BaseException, ours: Path) -> str:
    """The place in the harness, ``file:line``, that is to blame for an exception; "" where ours (a folder) is.

    It is whoever's frame is the innermost. Ours is to blame as well for a stand-in that it calls and that cannot work
    with what it is given, for a call with arguments that the function does not take, and for what a library's layer
    raises that it calls through a tap.
    """
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [(file, line) for file, line in frames if file.is_relative_to(ours) or file.is_relative_to(HARNESS)]
    passed_on = own and any(own[-1][0].is_relative_to(folder) for folder in PASSED_ON)
    if passed_on and isinstance(error, TypeError) and ARGUMENTS.search(str(error)):
        return ""
    called = any(file.is_relative_to(ours) for file, _ in own)
    if called and own[-1][0] == TAPS and frames[-1] != own[-1]:
        return ""
    for file, line in reversed(own):
        if file.is_relative_to(ours):
            return ""
        if not (called and file.is_relative_to(STAND_INS)):
            return f"{file.relative_to(HARNESS.parent).as_posix()}:{line}"
    return ""


def importing(error: BaseException, ours: Path) -> bool:
    """True for what was raised while a module of ours (a folder) was imported."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(frame.name == "<module>" and Path(frame.filename).is_relative_to(ours) for frame in frames)
