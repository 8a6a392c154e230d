"""``ltx2-mlx generate`` as one of several ranks that ``mlx.launch`` or ``mpirun`` has started with the same words.

The first rank plans, prints and writes. The others compute with it, say nothing, and write nothing: what they have to
tell, they tell the first rank.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TextIO

import mlx.core as mx

from .. import __version__
from ..distributed.ranks import Ranks, join, rank_here, watching
from ..errors import LTX2Error, RanksError
from ..loading.identity import fingerprint
from .plan import Plan, inputs, plan
from .request import Request
from .stopping import in_time


@contextmanager
def launched() -> Iterator[Ranks | None]:
    """The ranks of this launch, None without one. Within, an error of this process becomes one of all ranks, and it
    ends where another rank or the launcher has ended. Raises RanksError where the others cannot be reached."""
    if (rank := rank_here()) is None:
        yield None
        return
    stderr = _own_stderr()
    if rank:
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    ranks = join()

    def aloud() -> None:
        sys.stderr = stderr

    def gone() -> None:
        if ranks.size == 2:  # the other one may have been the first, which speaks otherwise
            aloud()

    with in_time(_end), watching(ranks, gone):
        try:
            yield ranks
        except (LTX2Error, OSError, RuntimeError) as error:
            try:
                ranks.check()
            except RanksError as ended:  # whatever else has come of it
                gone()
                raise ended from None
            if ranks.working and not ranks.first and not isinstance(error, RanksError):  # which every rank has
                aloud()
                raise RanksError(f"rank {rank}: {error}") from None
            if not isinstance(error, RanksError):
                ranks.tell(str(error))
            raise


def _end(number: int) -> None:
    with suppress(OSError, ValueError):
        print("ltx2-mlx: stopped; nothing was written", file=sys.stderr, flush=True)
    os._exit(128 + number)


def _own_stderr() -> TextIO:
    """Give Python's stderr a number of its own, and pass on what libraries write to number 2, but for the ring's many
    lines about a socket that is closed: that is said in one."""
    kept, (reading, writing) = os.dup(2), os.pipe()
    os.dup2(writing, 2)
    os.close(writing)

    def forward() -> None:
        with os.fdopen(reading, "rb") as lines, suppress(OSError):
            for line in lines:
                if not line.startswith(b"[ring]"):
                    os.write(kept, line)

    threading.Thread(target=forward, daemon=True).start()
    sys.stderr = os.fdopen(kept, "w", buffering=1, errors="backslashreplace", closefd=False)
    return sys.stderr


def of_rank(requests: Sequence[Request], ranks: Ranks) -> tuple[Request, ...]:
    """The requests as a rank sees them: all but the first write nowhere, and their machine may lack the folder."""
    memory = f"{platform.node()}{f', GPU of rank {ranks.rank}' if mx.cuda.is_available() else ''}"
    beside = ranks.told(memory).count(memory)
    own = [replace(request, ranks=ranks.size, beside=beside) for request in requests]
    if not ranks.first:
        nowhere = Path(tempfile.gettempdir()) / f"ltx2-mlx-{os.getpid()}"
        own = [
            replace(each, output_path=nowhere.with_name(f"{nowhere.name}-{i}.mp4"), preview=None, audio=False)
            for i, each in enumerate(own)
        ]
    return tuple(own)


def agreed(ranks: Ranks, argv: Sequence[str], requests: Sequence[Request], planned: Plan) -> Plan:
    """The plan of this rank, with which all others agree. Where not every one has the memory for whole networks, all
    split them. Raises RanksError as ``agree`` does."""
    agree(ranks, argv, planned)
    if planned.problems or len(set(ranks.told(planned.request.parallel or ""))) == 1:
        return planned
    if planned.request.parallel == "guidance":
        planned = plan(*(replace(request, parallel="tensor") for request in requests))
    ranks.agree(trouble="; ".join(planned.problems))
    return planned


def agree(ranks: Ranks, argv: Sequence[str], planned: Plan) -> None:
    """Compare versions, words, files and prompts of all ranks. Raises RanksError where they differ, or where the plan
    of another rank has a problem."""
    if planned.problems:
        ranks.agree(trouble="; ".join(planned.problems))
        return
    request, version = planned.request, {"ltx2-mlx": __version__, "MLX": version_of("mlx")}
    facts = version | {"the command line": json.dumps(list(argv)), "prompts to encode": str(planned.encodes)}
    read = [file for file in inputs(request) if file != request.context or request.context.exists()]
    facts |= {f"file {i + 1}, {Path(file).name}": fingerprint(file) for i, file in enumerate(read)}
    ranks.agree(facts)
