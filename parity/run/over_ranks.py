"""Ours over several processes, in the isolated lane: each rank is given its part of the recorded inputs, and the parts
of what it makes are put together again before they are judged. Of the stage ``denoising`` they share the passes of a
guided step.

The ranks run as ``python -m parity.run.over_ranks`` and meet through MLX's ring on this machine. Parts are put together
along the one axis along which they are smaller than the reference's: heads, channels, or frames. A tap that every rank
has whole counts as the rank that is farthest from the reference has it, and so do frames that two neighbours have.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from ltx2_mlx.loading.checkpoint import CheckpointPath

from ..declare.inputs import seeded
from ..declare.stages import stages
from ..sides import mlx as mlx_side
from ..sides.loading import read
from ..sides.mlx import MLX
from ..sides.pair import Pair
from ..tap.session import Session
from ..tap.trace import Call, Tensor, Trace
from .recorded import Recorded
from .replay import probes_of, run_tapped

STAGES = ("transformer", "gemma", "embeddings_processor", "video_decoder", "denoising")


@dataclass(frozen=True)
class Job:
    """One case for the ranks. around: what the product is run in (a planted fault)."""

    stage: str
    paths: dict[str, CheckpointPath]
    dtype: str
    case: str
    taps: tuple[str, ...]
    trace: Trace
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    around: Callable[[], AbstractContextManager[Any]] = nullcontext


def job_of(recorded: Recorded, seed: int = 0) -> Job:
    """The job that replays what was recorded."""
    pair = recorded.pair
    case = recorded.name, recorded.case.taps
    return Job(pair.stage.name, pair.paths, pair.dtype, *case, recorded.trace, seed, pair.options)


class Ranks:
    """Processes that are started once, and replay job after job."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]):
        self.processes = processes

    def replay(self, job: Job) -> Trace:
        """The trace of all ranks together. Raises what a rank raises."""
        for process in self.processes:
            pickle.dump(job, _pipe(process.stdin))
            _pipe(process.stdin).flush()
        found: list[Trace | Exception] = [pickle.load(_pipe(process.stdout)) for process in self.processes]
        for result in found:
            if isinstance(result, Exception):
                raise result
        drawn = {tap.name for tap in stages()[job.stage].functions if tap.injected}
        return whole([trace for trace in found if isinstance(trace, Trace)], job.trace, drawn)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise TypeError("a process without a pipe")
    return stream


@contextlib.contextmanager
def started(size: int) -> Iterator[Ranks]:
    """So many ranks, which end with this."""
    command = [sys.executable, "-m", "parity.run.over_ranks"]
    with ring(size) as environments:
        processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | own)
            for own in environments
        ]
        try:
            yield Ranks(processes)
        finally:
            for process in processes:
                process.kill()
                process.communicate()


@contextlib.contextmanager
def ring(size: int) -> Iterator[list[dict[str, str]]]:
    """The variables of each rank of a ring on this machine. Its ports are the system's choice, and are held while this
    lasts: the ring shares a port with whoever has bound it to be shared."""
    with contextlib.ExitStack() as stack:
        ports = []
        for _ in range(size):
            held = stack.enter_context(socket.socket())
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            held.bind(("127.0.0.1", 0))
            ports.append(held.getsockname()[1])
        hosts = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "hosts.json"
        hosts.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in ports]))
        yield [{"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)} for rank in range(size)]


# ---- parts -----------------------------------------------------------------------------------------------------------


def whole(traces: Sequence[Trace], reference: Trace, drawn: Set[str] = frozenset()) -> Trace:
    """The ranks' traces as one. What was split has another shape than in the reference's, along one axis. drawn: the
    functions of noise, which every rank asks for all of it."""
    first = traces[0]
    calls = {}
    for key, call in first.calls.items():
        known = reference.calls.get(key, Call(*key))
        others = [trace.calls.get(key) for trace in traces]
        if any(other is None for other in others):
            continue  # missing is what it is
        made = [other for other in others if other is not None]
        if key[0].rpartition(".")[2] in drawn:
            calls[key] = next((other for other in made if other.inputs != call.inputs), call)
            continue
        inputs = {n: _whole([o.inputs.get(n) for o in made], known.inputs.get(n)) for n in call.inputs}
        outputs = {n: _whole([o.outputs.get(n) for o in made], known.outputs.get(n)) for n in call.outputs}
        calls[key] = replace(call, inputs=inputs, outputs=outputs, error=next((o.error for o in made if o.error), None))
    raised = next((trace.raised for trace in traces if trace.raised is not None), None)
    return Trace(calls, first.events, first.places, raised)


def _whole(values: list[Any], known: Any) -> Any:
    if isinstance(known, int) and not isinstance(known, bool) and sum(values) == known:  # heads that were dealt out
        return known
    if not (isinstance(known, Tensor) and all(isinstance(value, Tensor) for value in values)):
        return values[0]
    shapes = [value.values.shape for value in values]
    if shapes[0] == known.values.shape:
        return max(values, key=lambda value: _apart(value.values, known.values))
    axis = _axis(shapes[0], known.values.shape)
    if axis is None:
        return values[0]
    shared, rest = divmod(sum(shape[axis] for shape in shapes) - known.values.shape[axis], len(values) - 1)
    if rest or not 0 <= shared <= min(shape[axis] for shape in shapes):
        return values[0]
    return Tensor(_joined([value.values for value in values], known.values, axis, shared), values[0].dtype)


def _joined(parts: list[np.ndarray], known: np.ndarray, axis: int, shared: int) -> np.ndarray:
    """Parts one after another. Two neighbours both have ``shared`` of an axis, as what a convolution reads beyond its
    own frames: the one that is farther from what is known counts."""
    parts, known = [np.moveaxis(part, axis, 0) for part in parts], np.moveaxis(known, axis, 0)
    whole = parts[0]
    for part in parts[1:]:
        at = len(whole) - shared
        both = whole[at:], part[:shared]
        seam = max(both, key=lambda value: _apart(value, known[at : at + shared]))
        whole = np.concatenate([whole[:at], seam, part[shared:]])
    return np.moveaxis(whole, 0, axis)


def _apart(values: np.ndarray, known: np.ndarray) -> float:
    if values.shape != known.shape or values.dtype.kind != "f":
        return float(not np.array_equal(values, known))
    with np.errstate(all="ignore"):
        distance = float(np.abs(values.astype(np.float64) - known).sum())
    return distance if np.isfinite(distance) else np.inf


def _axis(part: tuple[int, ...], known: tuple[int, ...]) -> int | None:
    """The one axis along which a part is smaller; None where there is no such."""
    differing = [i for i, (a, b) in enumerate(zip(part, known, strict=False)) if a != b]
    return differing[0] if len(part) == len(known) and len(differing) == 1 else None


class RankSession(Session):
    """Grafts a rank's part of what was recorded."""

    rank, size = 0, 1

    def known_inputs(self, call: Call, known: Call) -> dict[str, Any]:
        return {name: self._part(value, call.inputs.get(name)) for name, value in known.inputs.items()}

    def known_outputs(self, call: Call, known: Call) -> dict[str, Any]:
        return {name: self._part(value, call.outputs.get(name)) for name, value in known.outputs.items()}

    def _probe(self, call: Call, known: Call | None, *more: Any) -> None:
        super()._probe(call, known and replace(known, inputs=self.known_inputs(call, known)), *more)

    def _part(self, recorded: Any, own: Any) -> Any:
        """The first rank has the first of an axis, the last rank the last; one between them begins at its share."""
        if not (isinstance(recorded, Tensor) and isinstance(own, Tensor)):
            return recorded
        axis = _axis(own.values.shape, recorded.values.shape)
        if axis is None:
            return recorded
        length, full = own.values.shape[axis], recorded.values.shape[axis]
        first = full - length if self.rank == self.size - 1 else full * self.rank // self.size
        own_slice = (slice(None),) * axis + (slice(first, first + length),)
        return Tensor(np.ascontiguousarray(recorded.values[own_slice]), recorded.dtype)


# ---- a rank ----------------------------------------------------------------------------------------------------------


def _replayed(job: Job) -> Trace:
    """This rank's trace of a job."""
    import importlib

    stage, mlx = stages()[job.stage], MLX()
    ranks = importlib.import_module("ltx2_mlx.distributed.ranks").join()
    RankSession.rank, RankSession.size = ranks.rank, ranks.size
    mlx_side.ranks = ranks
    load = importlib.import_module("ltx2_mlx").load
    ours = {name: load(name, path, mlx.dtype(job.dtype), ranks=ranks) for name, path in job.paths.items()}
    config = read(job.paths[stage.main]).config if job.paths else {}
    pair = Pair(stage, job.paths, config, job.dtype, {}, {}, ours, job.options)
    with seeded(job.seed):
        case = stage.cases(config)[job.case].only(job.taps)
    recorded = Recorded(pair, case, job.trace, None, True)
    return run_tapped(mlx, pair, ours, recorded, job.dtype, RankSession(mlx, job.trace, probes_of(pair)))


def main() -> None:
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what anything else prints is no result
    while True:
        try:
            job = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            with job.around():
                result: Trace | Exception = _replayed(job)
        except Exception as error:  # of a planted fault, to be judged by who gave the job
            result = RuntimeError(f"{type(error).__name__}: {error}")
        pickle.dump(result, results)
        results.flush()


if __name__ == "__main__":
    main()
