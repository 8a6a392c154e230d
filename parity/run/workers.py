"""Processes that work on tasks one at a time. One that dies is noticed, with what it worked on; none outlives a run."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, Self, cast

from ltx2_mlx.errors import LTX2Error

PATIENCE = 5.0  # seconds that a worker has to end before it is killed


class WorkerDiedError(LTX2Error):
    """A worker ended in the middle of a task: killed, or crashed below Python."""


class Workers:
    """``count`` processes that call ``work`` on what they are given. Used with ``with``: at its end none is left."""

    def __init__(self, work: Callable[[Any], Any], count: int):
        self._context, self._work = get_context("spawn"), work
        self._processes: dict[Connection, BaseProcess] = {}
        self._busy: dict[Connection, tuple[int, str]] = {}
        self._count = count

    def __enter__(self) -> Self:
        for _ in range(self._count):
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_serve, args=(self._work, theirs), daemon=True)
            process.start()
            theirs.close()  # so that the worker's end is the only one, and its death is the end of the pipe
            self._processes[ours] = process
        return self

    @property
    def idle(self) -> list[Connection]:
        return [pipe for pipe in self._processes if pipe not in self._busy]

    def give(self, index: int, name: str, task: Any) -> None:
        """A task for a worker that is idle."""
        pipe = self.idle[0]
        self._busy[pipe] = index, name
        try:
            pipe.send(task)
        except OSError:
            self._died(pipe)

    def answers(self) -> dict[int, Any]:
        """What has come back, by the index of the task; waits for one at least. Raises what ``work`` raised, or
        WorkerDiedError."""
        found = {}
        for pipe in cast(list[Connection], wait(list(self._busy))):
            try:
                good, answer = pipe.recv()
            except (EOFError, OSError):
                self._died(pipe)
            index, name = self._busy.pop(pipe)
            if not good:
                answer.add_note(f"in a worker process, at: {name}")
                raise answer
            found[index] = answer
        return found

    def _died(self, pipe: Connection) -> None:
        process, (_, name) = self._processes[pipe], self._busy[pipe]
        process.join(PATIENCE)
        code = process.exitcode or 0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"gone with exit code {code}"
        raise WorkerDiedError(f"{name}: its process was {how}. If that was for want of memory, try --jobs 1")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for pipe, process in self._processes.items():
            pipe.close()  # an idle one ends of its own accord
            if kind is not None and pipe in self._busy:
                process.terminate()
        for process in self._processes.values():
            process.join(PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()


def _serve(work: Callable[[Any], Any], pipe: Connection) -> None:
    """The life of a worker. Ctrl-C is its parent's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = True, work(task)
        except Exception as error:
            answer = False, _portable(error)
        pipe.send(answer)


def _end_with_parent() -> None:
    """Else one that is in the middle of a cell would go on for minutes after its parent was killed."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _portable(error: Exception) -> Exception:
    """The error with its traceback as a note; as a RuntimeError where it cannot go through a pipe."""
    text = "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.add_note(text)
    return copy if isinstance(copy, Exception) else RuntimeError(text)
