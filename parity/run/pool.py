"""Work spread over processes, as many as the cores and the free memory allow."""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from ..judge.documents import Size
from ..judge.files import RunError, decode, read_bytes, write_whole
from .workers import Workers

Task = TypeVar("Task")
Result = TypeVar("Result")
Costs = dict[str, tuple[float, float]]  # by the name of a task: seconds, and the most memory (GB) that its process held

COSTS = Path("reports") / "costs.json"  # of the last run of each task
UNKNOWN = (0.0, 2.2)  # of a task that has not run here; 2.2 GB is the most that one of the tiny checkpoints' cells took
SPARE = 0.9  # the part of the free memory that may be used


def spread(
    work: Callable[[Task], Result],
    tasks: Sequence[Task],
    names: Sequence[str],
    jobs: int | None = None,
    guesses: Sequence[float] | None = None,
    groups: Sequence[str] | None = None,
    finished: Callable[[], None] = lambda: None,
) -> Generator[Result, None, None]:
    """``work`` on every task, the longest first by the last run's times; the results in the order of the tasks.

    guesses: seconds for each task that has not run here. groups: tasks of one group have work in common, which a
    process does once: they stay in one process as long as there is other work for the rest. finished: called as each
    task ends, whichever it is.

    Raises what ``work`` raises, and WorkerDiedError.
    """
    costs = known_costs()
    found: Costs = {}
    seconds_of = [
        costs.get(name, (guess, 0.0))[0] for name, guess in zip(names, guesses or [0.0] * len(names), strict=True)
    ]
    order = sorted(range(len(tasks)), key=lambda index: -seconds_of[index])
    group_of, done = groups or names, dict[int, Result]()
    own: dict[object, str] = {}  # worker → the group of its last task
    try:
        with Workers(partial(_measured, work), min(jobs or jobs_for_tasks(names), len(tasks))) as workers:
            for index in range(len(tasks)):
                while index not in done:
                    while order and (idle := workers.idle):
                        given = _next([group_of[i] for i in order], own.pop(idle[0], None), set(own.values()))
                        own[idle[0]] = group_of[given := order.pop(given)]
                        workers.give(given, names[given], tasks[given])
                    for answered, (result, seconds, peak) in workers.answers().items():
                        found[names[answered]] = round(seconds, 2), round(peak, 3)
                        done[answered] = result
                        finished()
                yield done.pop(index)
    finally:
        _keep(costs | found)


def _next(groups: list[str], own: str | None, others: set[str]) -> int:
    """The place of the task that a worker does next. groups: of all that are left; own: the worker's; others: of the
    other workers."""
    if own in groups:
        return groups.index(own)
    return next((place for place, group in enumerate(groups) if group not in others), 0)


def _measured(work: Callable[[Task], Result], task: Task) -> tuple[Result, float, float]:
    start = time.monotonic()
    return work(task), time.monotonic() - start, peak_gb()


# ---- how many --------------------------------------------------------------------------------------------------------


def jobs_for(cores: int, free_bytes: float, peaks: Sequence[float]) -> int:
    """The most processes, up to one a core and one a task, whose tasks fit the memory even if the largest meet.

    peaks: bytes that each task takes at its most. One process is the least, whatever is free.
    """
    jobs, taken = 0, 0.0
    for peak in sorted(peaks, reverse=True)[:cores]:
        taken += peak
        if taken > SPARE * free_bytes:
            break
        jobs += 1
    return max(jobs, 1)


def jobs_for_tasks(names: Sequence[str]) -> int:
    """``jobs_for`` on this machine, now, by what the tasks of these names took the last time."""
    costs = known_costs()
    return jobs_for(cores(), free_bytes(), [costs.get(name, UNKNOWN)[1] * 1e9 for name in names])


def jobs_for_workers() -> int:
    """``jobs_for`` where each process may take as much as the largest cell: for the workers of pytest."""
    return jobs_for(cores(), free_bytes(), [UNKNOWN[1] * 1e9] * cores())


def count(text: str) -> int:
    """The number of ``--jobs``."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def seed(text: str) -> int:
    """The number of ``--seed``: one that results.json can hold."""
    if not 0 <= (number := int(text)) < 2**62:
        raise ValueError(text)
    return number


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def free_bytes() -> float:
    """Memory that processes can take without swapping: on this machine, or in this container where that is less."""
    if sys.platform == "darwin":
        return free_on_macos(subprocess.run(["vm_stat"], capture_output=True, text=True, check=True).stdout)
    found = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
    free = int(found[1]) * 1024.0 if found else float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES"))
    try:
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        return free
    return free if limit == "max" else min(free, float(limit) - float(used))


def free_on_macos(vm_stat: str) -> float:
    """Pages that are free or can be at once, from the output of ``vm_stat``."""
    page = re.search(r"page size of (\d+) bytes", vm_stat)
    counts = re.findall(r"^Pages (?:free|inactive|speculative|purgeable): +(\d+)\.", vm_stat, re.MULTILINE)
    return sum(map(int, counts)) * float(page[1] if page else 16384)


# ---- what tasks took -------------------------------------------------------------------------------------------------


def known_costs() -> Costs:
    """The time and memory that each task took the last time that it ran here."""
    try:
        return decode(COSTS, read_bytes(COSTS), dict[str, tuple[Size, Size]], "no times of tasks")
    except RunError:
        return {}


def _keep(costs: Costs) -> None:
    """Write ``COSTS``, whole or not at all. Without it the next run is slower, no more: a failure is no error."""
    with suppress(RunError):
        write_whole(COSTS, json.dumps(costs, indent=1, sort_keys=True) + "\n")


def keep_freed_memory() -> None:
    """Keep what this process frees, and take more of it at once, from now on: a cell takes and frees the same sizes
    thousands of times, and each time Linux would clear the pages anew, for 7 % of the processor's time."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option, value in _MALLOC.items():
            libc.mallopt(option, value)


_MALLOC = {-1: 2**31 - 1, -2: 2**26, -3: 2**30}  # M_TRIM_THRESHOLD, M_TOP_PAD and M_MMAP_THRESHOLD of <malloc.h>


def peak_gb() -> float:
    """The most memory that this process held."""
    if sys.platform == "linux":  # there ru_maxrss begins at what the parent process held
        if found := re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def held_gb() -> float:
    """The memory that this process holds now; where only its peak is known, that."""
    if sys.platform == "linux" and (found := re.search(r"VmRSS:\s*(\d+) kB", Path("/proc/self/status").read_text())):
        return int(found[1]) / 1e6
    return peak_gb()


def show_progress(line: str) -> None:
    """Overwrite the terminal's last line; nothing where there is no terminal."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K  {line}", end="", file=sys.stderr, flush=True)
