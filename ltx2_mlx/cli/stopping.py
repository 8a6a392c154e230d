"""Ctrl-C, SIGTERM and SIGHUP: cleaned up after, and in time even while MLX computes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

GRACE = 5.0  # seconds in which Python gets to see a signal; within MLX it sees none
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signalled(KeyboardInterrupt):
    """SIGTERM or SIGHUP: cleaned up after as Ctrl-C is."""

    def __init__(self, number: int):
        self.number = number


def code(stop: KeyboardInterrupt) -> int:
    """The exit code of a shell for a stopped program: 130 for Ctrl-C."""
    return 128 + (stop.number if isinstance(stop, Signalled) else signal.SIGINT)


_seen = threading.Event()  # Python has come to see the last signal


def raising(number: int, frame: FrameType | None) -> None:
    _seen.set()
    raise KeyboardInterrupt if number == signal.SIGINT else Signalled(number)


@contextmanager
def stopping(stop: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within, Ctrl-C, SIGTERM and SIGHUP call ``stop``: ``raising`` where there may be something to clean up, another
    one while modules are imported, where an exception comes out as another one: NumPy says that it is badly
    installed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ignored = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN]  # nohup
    before = {number: signal.signal(number, stop) for number in SIGNALS if number not in ignored}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def in_time(end: Callable[[int], None], grace: float = GRACE) -> Iterator[None]:
    """Within, the process is ended ``grace`` seconds after a signal that Python has not come to see.

    Python runs a handler between two of its own steps, and one evaluation of MLX can last a minute. ``end`` is called
    with the signal's number, in a thread, and is to end the process.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    _seen.clear()
    previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def watch() -> None:
        while (number := os.read(reading, 1)) and number != b"\0":
            if number[0] in SIGNALS and not _seen.wait(grace):
                end(number[0])

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        _seen.set()
        signal.set_wakeup_fd(previous)
        with suppress(OSError):
            os.write(writing, b"\0")
        thread.join()
        _seen.clear()  # for one around this
        os.close(reading)
        os.close(writing)
