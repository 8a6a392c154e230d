"""The one loop over cells: each is judged in a process of its own, live or from a trace file."""

from __future__ import annotations

import gc
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import nlargest
from pathlib import Path
from typing import Protocol

from ltx2_mlx.errors import LTX2Error
from ltx2_mlx.loading.checkpoint import CheckpointPath

from ..declare.inputs import seeded
from ..declare.model import Pipeline, Stage
from ..declare.stages import pipelines, stages
from ..judge.device import UNMEASURED, Device, calibrated
from ..judge.results import ORIGIN, Results
from ..sides.loading import files_of
from ..sides.once import headers_read_once
from . import pipelines as pipeline_runs
from .calibration import measure
from .cells import RealCells, manifest
from .coverage import silent, unseen
from .environment import chosen_device, code_digest, environment, use_device
from .pool import cores, held_gb, jobs_for_tasks, keep_freed_memory, peak_gb, show_progress, spread
from .replay import judge_recording
from .resume import CellResult, Cells
from .resume import key as cells_key
from .streaming import Streaming
from .tracefile import open_trace


class CellError(LTX2Error):
    """A cell could not be judged: which one, and what was raised."""


class Source(Protocol):
    """Where what the reference did comes from."""

    @property
    def cost(self) -> str:
        """The things that a cell's time and memory depend on beside its name."""

    def judged(self, name: str, config: str) -> Results:
        """One cell, judged."""


@dataclass(frozen=True)
class Live:
    """The reference runs here. files: component → its file, where that is no tiny one. streamed: stages whose
    components are larger than memory, which ``streaming`` is for. ranks: processes that ours is split over."""

    lanes: str
    files: Mapping[str, CheckpointPath] = field(default_factory=dict)
    seed: int = 0
    streaming: Streaming | None = None
    streamed: frozenset[str] = frozenset()
    ranks: int = 1

    @property
    def cost(self) -> str:
        return f"run {self.lanes}"

    def judged(self, name: str, config: str) -> Results:
        if name not in self.streamed:
            keep_freed_memory()
        with seeded(self.seed):
            if name in pipelines():
                return Results(pipelines=pipeline_runs.run(pipelines()[name], config, self.lanes, show_progress))
            from .live import Runner  # not above: a trace file is judged without torch
            from .over_ranks import job_of, started

            stage = stages()[name]
            if self.ranks > 1:
                with started(self.ranks) as several:
                    runner = Runner(None, show_progress, self.files)
                    return runner.run([(stage, config)], self.lanes, lambda r: several.replay(job_of(r, self.seed)))
            if name not in self.streamed or self.streaming is None:
                return Runner(None, show_progress, self.files).run([(stage, config)], self.lanes)
            from ..sides.torch.paging import threads
            from .streamed import StreamedRunner

            with threads(cores()):  # one cell runs at a time
                paged = StreamedRunner(self.streaming, self.files, _page_by_page(time.monotonic()))
                return paged.run([(stage, config)], self.lanes)


def _page_by_page(start: float) -> Callable[[str], None]:
    """Prints what has been done, and the time and memory that it took."""

    def show(line: str) -> None:
        print(f"[{time.monotonic() - start:5.0f} s, {held_gb():4.1f} GB] {line}", file=sys.stderr, flush=True)

    return show


@dataclass(frozen=True)
class FromFile:
    """The reference ran elsewhere, and left a trace."""

    path: Path
    checkpoint: Path | None = None

    @property
    def cost(self) -> str:
        return "check"

    def judged(self, name: str, config: str) -> Results:
        results, trace = Results(), open_trace(self.path, self.checkpoint)
        for index, (stage, recorded_config) in enumerate(trace.cells):
            if (stage.name, recorded_config) == (name, config):
                with seeded(trace.seed):
                    judge_recording(trace.recording(index), results)
        return results


@dataclass(frozen=True)
class CellTask:
    """One cell for a process to judge; ``keep``: where its result is then put."""

    source: Source
    name: str
    config: str
    device: str
    keep: Cells | None = None
    measured: Device = UNMEASURED

    @property
    def cost(self) -> str:
        """The name under which its time and memory are kept."""
        return f"{self.source.cost} {self.name} {self.config}"


def judge_cell(task: CellTask) -> CellResult:
    gc.set_threshold(100_000, 50)  # a run keeps most of the many objects that it makes: looking for garbage costs 5 %
    use_device(task.device)
    try:
        with calibrated(task.measured), headers_read_once():
            found = CellResult(task.source.judged(task.name, task.config), peak_gb())
        if task.keep:
            task.keep.save(task.name, task.config, found)
    except (LTX2Error, OSError) as error:
        raise CellError(f"{task.name} {task.config}: {type(error).__name__}: {error}") from error
    return found


# For a stage whose cells have not run here: the longest begin first, so that none is left at the end.
SECONDS = {
    "command_line": 24.0,
    "transformer": 17.0,
    "video_decoder_25": 12.0,
    "video_encoder": 11.0,
    "denoising": 11.0,
    "lora": 11.0,
    "embeddings_processor": 10.0,
    "video_decoder": 9.0,
    "vocoder": 9.0,
    "files": 8.0,
    "transformer_25": 8.0,
    "transformer_fp8": 7.0,
}


def judge_cells(
    tasks: Sequence[CellTask],
    device: str,
    progress: Callable[[str], None] = lambda line: None,
    known: Sequence[CellResult | None] | None = None,
    jobs: int | None = None,
) -> Results:
    """Judge every cell that is not ``known``, in ``jobs`` processes; the results are in the order of the tasks."""
    known = known or [None] * len(tasks)
    left = [task for task, earlier in zip(tasks, known, strict=True) if earlier is None]
    results = Results(environment=environment(device), code=code_digest())
    names = [task.cost for task in left]
    jobs = jobs or jobs_for_tasks(names)
    guesses = [10.0 if task.name in pipelines() else SECONDS.get(task.name, 3.0) for task in left]
    # Pipelines of one config load the same models and encode the same prompts.
    groups = [task.config if task.name in pipelines() else task.cost for task in left]
    ended = itertools.count(len(tasks) - len(left) + 1)
    found = spread(
        *(judge_cell, left, names, jobs, guesses, groups),
        finished=lambda: progress(f"{next(ended)} of {len(tasks)} cells done"),
    )
    peaks: list[float] = []
    for earlier in known:
        cell = earlier or next(found)
        results.rows += cell.results.rows
        results.coverage += cell.results.coverage
        results.pipelines += cell.results.pipelines
        results.carried += cell.results.carried
        results.silent += cell.results.silent
        peaks.append(cell.peak_gb)
    results.peak_gb = sum(nlargest(jobs, peaks))
    found.close()
    for order, row in enumerate(results.rows):
        row.order = order
    return results


def run(
    chosen: Sequence[tuple[Stage | Pipeline, str]],
    lanes: str = "ABC",
    real: RealCells | None = None,
    device: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
    keep: Path | None = None,
    resume: bool = False,
    jobs: int | None = None,
    seed: int = 0,
    every_lane: bool = False,
    streaming: Streaming | None = None,
    ranks: int = 1,
) -> Results:
    """Judge every chosen cell beside the reference, with inputs of a seed.

    keep: a folder for the cells as they finish. resume: do not run those that are in it and still as they would be.
    real: of files in the place of the tiny ones; streaming: how the largest of them are compared.
    every_lane: each lane was asked for by name, so that something must be judged in it. ranks: processes that ours is
    split over (see ``over_ranks``).
    """
    device = chosen_device(device)
    paths = list(dict.fromkeys(file for path in real.files.values() for file in files_of(path))) if real else []
    named = ", ".join(map(str, paths))
    measured, origin = measure(device, lanes), ORIGIN | {"seed": str(seed), "checkpoint": named}
    conditions = environment(device) | {"calibration": json.dumps(measured.document())}
    if streaming and streaming.blocks is not None:
        origin["blocks"] = ", ".join(map(str, sorted(streaming.blocks)))
    if ranks > 1:
        origin["ranks"] = str(ranks)
    cells = Cells(keep, cells_key(lanes, paths, conditions, origin)) if keep else None
    if cells and not resume:
        cells.clear()
    known = [cells.load(stage.name, config) if cells else None for stage, config in chosen]
    if resume:
        progress(f"{sum(cell is not None for cell in known)} of {len(chosen)} cells kept from the run before")
    if streaming and cells:
        streaming = replace(streaming, folder=cells.folder / "pages", key=cells.key)
    source = Live(lanes, real.files if real else {}, seed, streaming, real.streamed if real else frozenset(), ranks)
    tasks = [CellTask(source, stage.name, config, device, cells, measured) for stage, config in chosen]
    results = judge_cells(tasks, device, progress, known, jobs)
    results.device, results.origin = measured, origin
    results.silent += silent(results, [(stage.name, config) for stage, config in chosen], lanes if every_lane else "")
    of_stages = [(stage, config) for stage, config in chosen if isinstance(stage, Stage)]
    results.stages = manifest(of_stages)
    results.unseen = unseen(results, of_stages) if "A" in lanes and real is None else []
    return results


def check(path: Path, checkpoint: Path | None = None, device: str | None = None, jobs: int | None = None) -> Results:
    """Judge ours against every cell of a trace. Raises TraceError where it is not as it was recorded."""
    trace, device = open_trace(path, checkpoint), chosen_device(device)
    source = FromFile(path, checkpoint)
    cells = dict.fromkeys((stage.name, config) for stage, config in trace.cells)
    measured = measure(device)
    tasks = [CellTask(source, *cell, device, measured=measured) for cell in cells]
    results = judge_cells(tasks, device, jobs=jobs)
    results.device = measured
    results.origin = ORIGIN | {"seed": str(trace.seed), "trace": str(path), "checkpoint": str(checkpoint or "")}
    results.silent += silent(results, list(cells))
    recorded = {name: value for name, value in trace.manifest["versions"].items() if name not in ("device", "mlx")}
    results.environment |= {f"{name} of the trace": value for name, value in recorded.items()}
    whole = [cell for cell, entry in zip(trace.cells, trace.manifest["cells"], strict=True) if entry["inventory"]]
    results.unseen = unseen(results, whole)
    return results
