"""Does a run fit into the memory? ``--memory-limit`` picks what it takes to fit, and where nothing does, this says what
would."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ..errors import InputError
from ..vae_memory import memory_size
from .info import gigabytes
from .memory import Stage
from .recipes import RECIPES
from .request import Request

StagesOf = Callable[[Request], list[Stage]]
POLICIES = ("fp8-cast", "q8", "q4")  # of --quantization, from many bits to few


@dataclass
class Fitted:
    """A request with what was picked for it, the stages of its run, and a sentence for each pick or problem."""

    request: Request
    stages: list[Stage]
    picked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def fitted(request: Request, stages_of: StagesOf) -> Fitted:
    """Fit a run into ``--memory-limit``, or into the machine's memory.

    Measures in their order, each only if it is needed: smaller slabs of the decoder, then tiles (both where the stages
    are made, see ``vae_memory.fitting_pieces``); then ``--low-memory``. Weights with fewer bits change the result, so
    they are proposed and never picked.
    """
    result = Fitted(request, stages_of(request))
    limit = available(request)
    if request.memory_limit is not None and not request.low_memory and not _fits(result.stages, limit):
        paged = replace(request, low_memory=True)
        if _most(stages := stages_of(paged)) < _most(result.stages):
            result = Fitted(
                paged, stages, [f"--low-memory: two of a network's blocks are in memory at a time{_cost(stages)}"]
            )
    frames = next((stage for stage in result.stages if stage.name == "frames"), None)
    if request.memory_limit is not None and frames is not None:
        result.request = replace(result.request, decode_budget=max(limit - frames.weights, 1))
        if frames.picked:
            result.picked.insert(0, frames.picked)
    for stage in result.stages:
        if stage.memory > limit:
            result.problems.append(_refusal(stage, result.request, limit, stages_of))
    return result


def available(request: Request) -> int:
    """Bytes that each process of a run may take."""
    own = memory_size() // request.beside
    return min(own, request.memory_limit or own)


def _fits(stages: Sequence[Stage], limit: int) -> bool:
    return _most(stages) <= limit


def _most(stages: Sequence[Stage]) -> int:
    return max((stage.memory for stage in stages), default=0)


def _cost(stages: Sequence[Stage]) -> str:
    reading = sum(stage.reading for stage in stages)
    return f", and {gigabytes(reading)} are read from the files in all" if reading else ""


def _refusal(stage: Stage, request: Request, limit: int, stages_of: StagesOf) -> str:
    """A sentence: what a stage takes, and what would fit."""
    whose = "--memory-limit" if request.memory_limit == limit else "memory"
    ways = list(_ways(request, limit, stages_of))
    advice = f"use {', or '.join(ways)}" if ways else stage.remedy
    return f"{stage.name} takes about {gigabytes(stage.memory)} of {gigabytes(limit)} of {whose}: {advice}"


def _ways(request: Request, limit: int, stages_of: StagesOf) -> Iterator[str]:
    """The changes of a request that make it fit, the smallest ones first."""

    def fit(changed: Request) -> bool:
        try:
            return _fits(stages_of(changed), limit)
        except InputError:
            return False

    if request.parallel == "guidance" and fit(replace(request, parallel="tensor")):
        yield "--parallel tensor"
    paged = replace(request, low_memory=True)
    more = "" if request.low_memory else " with --low-memory"
    if more and fit(paged):
        yield "--low-memory"
    for policy in POLICIES if request.quantization is None and request.cross_attn_scale == 1.0 else ():
        if fit(replace(request, quantization=policy)):
            yield f"--quantization {policy}"
        elif more and fit(replace(paged, quantization=policy)):
            yield f"--quantization {policy}{more}"
    if RECIPES[request.pipeline].of_source:
        return
    if frames := _largest(1, (request.num_frames - 1) // 8 - 1, lambda k: fit(replace(paged, num_frames=8 * k + 1))):
        yield f"--num-frames {8 * frames + 1}{more}"
    step = 64 if RECIPES[request.pipeline].two_stages else 32
    sizes = [_scaled(request, part / 16, step) for part in range(1, 16)]
    index = _largest(0, len(sizes) - 1, lambda i: fit(replace(paged, height=sizes[i][0], width=sizes[i][1])))
    if index is not None:
        yield f"--height {sizes[index][0]} --width {sizes[index][1]}{more}"


def _scaled(request: Request, factor: float, step: int) -> tuple[int, int]:
    """A smaller size of about the same shape, in multiples of ``step``."""
    height, width = (max(64, int(side * factor) // step * step) for side in (request.height, request.width))
    return height, width


def _largest(first: int, last: int, fits: Callable[[int], bool]) -> int | None:
    """The largest number from ``first`` to ``last`` that fits, where all smaller ones do; None where none does."""
    if last < first or not fits(first):
        return None
    while first < last:
        middle = (first + last + 1) // 2
        first, last = (middle, last) if fits(middle) else (first, middle - 1)
    return first
