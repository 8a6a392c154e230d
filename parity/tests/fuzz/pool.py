"""Cases in processes of their own, each with a limit of time and of memory. What breaks a limit is killed and named."""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

SECONDS, BYTES = 20.0, 3 << 30  # of one case; the seconds are the processor's, since a busy machine takes longer
WAITING = 6  # times as many seconds of a clock, for a case that waits
START = 600.0  # seconds to import everything and make the whole files

Case = tuple[str, int]


def results(cases: list[Case], seed: int, jobs: int) -> Iterator[tuple[Case, str, str]]:
    """Case, outcome, why; in any order."""
    context, left = get_context("spawn"), deque(cases)
    running: dict[Connection, dict[str, Any]] = {}

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, seed), daemon=True)
        process.start()
        theirs.close()
        running[ours] = {"process": process, "case": None, "since": time.monotonic(), "done": 0}

    def give(pipe: Connection) -> None:
        running[pipe].update(case=left.popleft() if left else None, since=time.monotonic())
        running[pipe].update(cpu=_seconds(running[pipe]["process"].pid))
        if running[pipe]["case"] is None:
            pipe.close()
            running.pop(pipe)["process"].join(5)
        else:
            pipe.send(running[pipe]["case"])

    for _ in range(min(jobs, len(cases))):
        start()
    for pipe in list(running):
        give(pipe)
    while running:
        for pipe in wait(list(running), timeout=0.2):
            assert isinstance(pipe, Connection)
            state = running[pipe]
            try:
                found = pipe.recv()
            except (EOFError, OSError):
                state["process"].join(5)
                yield state["case"], "crash", f"exit code {state['process'].exitcode}"
                running.pop(pipe)
                if left:
                    start()
                    give(list(running)[-1])
                continue
            state["done"] += 1
            yield state["case"], *found
            give(pipe)
        for pipe, state in list(running.items()):
            waited, pid = time.monotonic() - state["since"], state["process"].pid
            if state["done"]:
                slow = _seconds(pid) - state["cpu"] > SECONDS or waited > WAITING * SECONDS
            else:
                slow = waited > START
            large = _resident(pid) > BYTES
            if slow or large:
                state["process"].kill()
                yield state["case"], "hang" if slow else "memory", f"{waited:.0f} s"
                running.pop(pipe)
                if left:
                    start()
                    give(list(running)[-1])


def _seconds(pid: int) -> float:
    """Of the processor, that a process has taken."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0


def _serve(pipe: Connection, seed: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        from .formats import outcome, warm

        warm()
        while True:
            try:
                name, number = pipe.recv()
            except (EOFError, OSError):
                return
            folder = Path(temporary) / "case"
            folder.mkdir(exist_ok=True)
            pipe.send(outcome(name, number, seed, folder))
