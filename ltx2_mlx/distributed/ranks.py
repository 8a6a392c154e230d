"""The processes that run one network together. No socket is opened here: MLX's engine has them, and ``mlx.launch`` or
``mpirun`` starts the processes and says in the environment how they find each other.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np

from ..config.reading import cut
from ..errors import RanksError
from .table import check_ranks

# Engine → the variables that its launcher sets.
_ENGINES = {
    "ring": ("MLX_RANK", "MLX_HOSTFILE"),
    "jaccl": ("MLX_RANK", "MLX_IBV_DEVICES", "MLX_JACCL_COORDINATOR"),
    "nccl": ("MLX_RANK", "MLX_WORLD_SIZE", "NCCL_HOST_IP", "NCCL_PORT"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
}
_EVERY = 0.25  # seconds between two looks at the other ranks
_LAST = 5.0  # seconds at most for which the other ranks let the first end before them
_APART = 0.1  # relative distance of two ranks' latents that no rounding explains


@dataclass
class Ranks:
    """This process and its peers. group: None where a run is only planned. sockets: the numbers of the engine's.
    working: this rank is within a network that is split, where its peers wait for its sums and for nothing else.
    alone: another rank has ended before its time."""

    rank: int
    size: int
    group: mx.distributed.Group | None = field(default=None, repr=False)
    sockets: frozenset[int] = frozenset()
    working: bool = False
    alone: bool = False

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, x: mx.array) -> mx.array:
        """The sum of the arrays of all ranks, each of the same shape."""
        return mx.distributed.all_sum(x, group=self.group)

    def gather(self, x: mx.array) -> mx.array:
        """The arrays of all ranks, each of the same shape, along a new first axis; computed when this returns."""
        every = mx.distributed.all_gather(x[None], group=self.group)
        mx.eval(every)
        self.check()
        return every

    def told(self, words: str) -> list[str]:
        """What each rank says here. Every rank must call this."""
        own = np.frombuffer(words.encode(), np.uint8).astype(np.int32)
        lengths = np.array(mx.distributed.all_gather(mx.array([len(own)], mx.int32), group=self.group))
        self.check()
        padded = mx.array(np.pad(own, (0, int(lengths.max()) - len(own))))
        every = np.array(mx.distributed.all_gather(padded, group=self.group)).reshape(self.size, -1)
        self.check()
        return [row[:length].astype(np.uint8).tobytes().decode() for row, length in zip(every, lengths, strict=True)]

    def check(self) -> None:
        """Raises RanksError where another rank has ended: the ring's sums are then no sums, and it does not say so."""
        if _closed(self.sockets):
            raise RanksError("another rank has ended")

    def agree(self, facts: Mapping[str, str] | None = None, trouble: str = "") -> None:
        """Compare what every rank states. Raises RanksError on all of them where one has trouble, or states something
        else than the first; but not on one that has the trouble, and says so itself."""
        said = [json.loads(words) for words in self.told(json.dumps([trouble, dict(facts or {})]))]
        if trouble:
            return
        for rank, (wrong, _) in enumerate(said):
            if wrong and rank != self.rank:
                raise RanksError(f"rank {rank}: {wrong}")
        for rank, (_, others) in enumerate(said):
            for name in [name for name in said[0][1] | others if others.get(name) != said[0][1].get(name)]:
                here, there = (cut(str(each.get(name, "none")), 120) for each in (said[0][1], others))
                raise RanksError(f"{name}: rank 0 has {here}, rank {rank} has {there}; they must be the same")

    @contextmanager
    def together(self) -> Iterator[None]:
        """Every rank runs what is within, or none does: one that has had an error before has said so here."""
        self.agree()
        self.working = True
        yield
        self.check()
        self.working = False  # and stays true after an error: the others do not listen

    def tell(self, trouble: str) -> None:
        """Make an error of this rank one of all, where the others will listen: at their next ``together``."""
        if not self.working:
            with suppress(RanksError):
                self.agree(trouble=trouble)

    def led(self, name: str, x: mx.array) -> mx.array:
        """The first rank's ``x``, on every rank, so that machines which round otherwise do not drift apart. Raises
        RanksError on all of them where one has something else."""
        first = self.sum(x if self.first else mx.zeros_like(x))
        wide = first.astype(mx.float32)
        apart = self.sum(mx.square(x.astype(mx.float32) - wide).sum(keepdims=True))
        mx.eval(first, apart)
        self.check()
        if not (apart <= _APART**2 * mx.square(wide).sum()).all().item():  # NaN as well
            raise RanksError(f"the ranks have different {name}: their noise, inputs or weights are not the same")
        return first


def together(ranks: Ranks | None) -> AbstractContextManager[None]:
    """``Ranks.together``, or nothing for a process that runs alone."""
    return nullcontext() if ranks is None else ranks.together()


def rank_here() -> int | None:
    """The rank that a launcher has given to this process; None where it runs alone."""
    engine = _engine()
    return None if engine is None else int(os.environ[_ENGINES[engine][0]])


def _engine() -> str | None:
    found = (name for name, needed in _ENGINES.items() if all(os.environ.get(variable) for variable in needed))
    engine = next(found, None)
    if engine == "ring":
        with suppress(OSError):  # which the engine says better
            if not Path(os.environ["MLX_HOSTFILE"]).read_text().strip():  # of mlx.launch -n 1
                return None
    return engine


def join() -> Ranks:
    """Meet the other ranks of this launch. Raises RanksError where they cannot be reached, InputError for a number of
    them that is not supported."""
    engine = _engine()
    group, sockets = _joined(engine)
    check_ranks(group.size())
    return Ranks(group.rank(), group.size(), group, sockets)


@cache
def _joined(engine: str | None) -> tuple[mx.distributed.Group, frozenset[int]]:
    """The group of this process, and the sockets that join it to the others. MLX makes one in a process."""
    before = _sockets()
    try:
        group = mx.distributed.init(strict=True, backend=engine or "any")
    except (RuntimeError, ValueError) as error:
        raise RanksError(f"the ranks do not reach each other ({engine}): {cut(str(error))}") from None
    made = _sockets() - before if engine == "ring" else set()
    made -= _closed(made)  # attempts that came before another rank listened
    if group.rank():  # a launcher ends all ranks where one has failed, and the first one says why
        atexit.register(_closed, made, _LAST if made else 1.0)  # without sockets, all of that time
    return group, frozenset(made)


def _sockets() -> set[int]:
    """The numbers of this process's open sockets."""
    result = set()
    for name in os.listdir("/dev/fd"):
        with suppress(OSError):  # the folder's own number is closed by now
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                result.add(int(name))
    return result


def _closed(sockets: Iterable[int], seconds: float = 0) -> set[int]:
    """Those of the sockets whose other end is closed, or the first of them that is within this time."""
    looks = select.poll()
    for number in sockets:
        looks.register(number, getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR)
    return {number for number, _ in looks.poll(1000 * seconds)}


@contextmanager
def watching(ranks: Ranks, gone: Callable[[], None]) -> Iterator[None]:
    """Within, this process gets SIGTERM when another rank or the launcher has gone, for the engines wait for ever for
    one that does not answer. ``gone`` is called before, and ``ranks.alone`` is set.

    The ring's sockets are looked at (the other end is closed), and the process that started this one. The launchers of
    the other engines end every rank when one ends.
    """
    over, parent = threading.Event(), os.getppid()

    def watch() -> None:
        while not over.wait(_EVERY):
            # One that has ended well may be a little ahead of this one
            if (_closed(ranks.sockets) or os.getppid() != parent) and not over.wait(_EVERY):
                ranks.alone = True
                gone()
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
