"""Work spread over processes."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from ..judge.results import Results
from .environment import environment
from .resume import Part


def in_processes(
    work: Callable[[Any], Part],
    tasks: Sequence[Any],
    device: str,
    progress: Callable[[str], None] = lambda line: None,
    known: Sequence[Part | None] | None = None,
) -> Results:
    """``work`` on every task that is not ``known``, one process a core; what they found, in the order of the tasks."""
    known = known or [None] * len(tasks)
    open_tasks = [task for task, part in zip(tasks, known, strict=True) if part is None]
    results = Results(environment=environment(device))
    jobs = max(1, min(len(open_tasks), os.cpu_count() or 1))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        found = pool.map(work, open_tasks)
        for done, earlier in enumerate(known, 1):
            part, peak = earlier or next(found)
            progress(f"{done} of {len(tasks)} cells done")
            results.rows += part.rows
            results.coverage += part.coverage
            results.pipelines += part.pipelines
            results.carried += part.carried
            results.peak_gb = max(results.peak_gb, peak)
    results.peak_gb *= jobs
    for order, row in enumerate(results.rows):
        row.order = order
    return results


def peak_gb() -> float:
    """The most memory that this process held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def show_progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K  {line}", end="", file=sys.stderr, flush=True)
