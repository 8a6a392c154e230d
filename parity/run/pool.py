"""Work spread over processes."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def processes(tasks: int) -> int:
    """How many processes ``tasks`` are spread over: one a core."""
    return max(1, min(tasks, os.cpu_count() or 1))


def in_processes(
    work: Callable[[Task], Result], tasks: Sequence[Task], later: Callable[[Task], int] = lambda task: 0
) -> Iterator[Result]:
    """Yield what ``work`` returns for each task, in the order of the tasks.

    later: tasks with a smaller number are begun first; the longest should be, so that all processes end together.
    """
    with ProcessPoolExecutor(processes(len(tasks)), mp_context=get_context("spawn")) as pool:
        try:
            begun = {i: pool.submit(work, tasks[i]) for i in sorted(range(len(tasks)), key=lambda i: later(tasks[i]))}
            for i in range(len(tasks)):
                yield begun.pop(i).result()
        finally:
            pool.shutdown(cancel_futures=True)


def peak_gb() -> float:
    """The most memory that this process held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def show_progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K  {line}", end="", file=sys.stderr, flush=True)
