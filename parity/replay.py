"""From a recording to verdicts: ours on the reference's recorded inputs, whether recorded just now or read from a file.

Nothing here knows torch.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from .cells import Part
from .inputs import FIXTURES
from .judge import judge
from .ours import MLX
from .recording import Inventory, Pair, Recorded, Recording, read
from .registry import Stage
from .results import Coverage, Results, Row
from .tapping import Session, Side
from .trace import Trace


def loading_options(stage: Stage, config: str) -> dict[str, Any]:
    """How both sides load the stage's component: LoRAs fused, weights in float8."""
    loras = tuple((FIXTURES / f"{name.format(config=config)}.safetensors", by) for name, by in stage.loras)
    return {"loras": loras, "quantization": stage.quantization}


def load_ours(mlx: MLX, paths: dict[str, Path], dtype: str, **options: Any) -> dict[str, Any]:
    """Component → module of ours."""
    return {part: mlx.load(part, p, read(p).config, dtype, **options) for part, p in paths.items()}


def replay(mlx: MLX, recorded: Recorded, ours: dict[str, Any] | None = None) -> Trace:
    """Ours (or other modules in their place), every tap on the reference's recorded inputs."""
    pair = recorded.pair
    session = Session(mlx, recorded.trace, probes_of(pair))
    return run_tapped(mlx, pair, ours or pair.ours, recorded, pair.dtype, session)


def replay_free(mlx: MLX, recorded: Recorded) -> Trace:
    """Ours from the inputs on, module by module, but for what ``Stage.defined`` hands over."""
    pair = recorded.pair
    session = Session(mlx, recorded.trace, only=handed_over(pair))
    return run_tapped(mlx, pair, pair.ours, recorded, pair.dtype, session)


def run_tapped(
    side: Side, pair: Pair, modules: dict[str, Any], recorded: Recorded, model: str, session: Session
) -> Trace:
    """The trace of one run. An exception is kept on the call that raised; what it never reached is missing."""
    try:
        side.execute(pair.stage, modules, recorded.case, pair.dtype, model, session)
    except Exception:
        if side.key == "reference" or not any(call.error for call in session.trace.calls.values()):
            raise
    return session.trace


def handed_over(pair: Pair) -> tuple[str, ...]:
    """Taps (globs) that a free run starts from."""
    # In half precision all three start from the inputs as the reference had them, rounded.
    return pair.stage.defined if pair.dtype == "float32" else (*pair.stage.defined, pair.root)


def probes_of(pair: Pair) -> tuple[str, ...]:
    """None in float16: squares of scaled inputs and an eps of 1e-8 are zero there, and the reference divides by it."""
    return () if pair.dtype == "float16" else pair.stage.probes


def function_names(stage: Stage) -> set[str]:
    return {tap.name for tap in stage.functions}


def module_taps(stage: Stage, trace: Trace) -> set[str]:
    """The taps of a trace that are modules."""
    return {tap for tap, _ in trace.calls if tap.rsplit(".", 1)[-1] not in function_names(stage)}


# ---- a cell ----------------------------------------------------------------------------------------------------------


def judge_recording(recording: Recording, results: Results) -> None:
    """Judge every case in the lanes that it was recorded for; coverage of the isolated lane at the end."""
    mlx, stage = MLX(), recording.stage
    compared: set[str] = set()
    moving: dict[str, float] = {}
    for recorded in recording.cases:
        half = recorded.pair.dtype != "float32"
        name = f"{recorded.name}@{recorded.pair.dtype}" if half else recorded.name
        where = {"stage": stage.name, "config": recording.config, "case": name}
        if recorded.oracle is not None:
            where["lane"] = "B" if half else "A"
            rows = judge(results, where, stage, recorded.trace, recorded.oracle, replay(mlx, recorded))
            _require_repeat(rows, recorded)
            if not half:
                compared |= {tap for tap, _ in recorded.trace.calls}
                moving |= {k: max(share, moving.get(k, 0.0)) for k, share in recorded.moving.items()}
        if recorded.free is not None:
            where["lane"] = "B" if half else "C"
            handed = {tap for tap, _ in recorded.trace.calls if any(fnmatchcase(tap, p) for p in stage.defined)}
            outputs_of = module_taps(stage, recorded.trace) - handed
            judge(results, where, stage, recorded.trace, recorded.free, replay_free(mlx, recorded), outputs_of)
    if recording.inventory:
        results.coverage.append(_coverage(stage, recording.config, recording.inventory, compared, moving))


def _coverage(
    stage: Stage, config: str, inventory: Inventory, compared: set[str], moving: dict[str, float]
) -> Coverage:
    # A leaf without a call of its own is compared through its methods.
    functions, idle = function_names(stage), stage.idle.get(config, ())
    compared |= {tap.rpartition(".")[0] for tap in compared if tap.rpartition(".")[2] in functions}
    sizes = {name: size for name, size in inventory.sizes.items() if name not in idle or moving.get(name)}
    missed = [name for name in inventory.leaves if name not in compared] + [n for n in sizes if not moving.get(n)]
    missed += [f"{name} (declared idle)" for name in idle if moving.get(name) or name not in inventory.sizes]
    return Coverage(
        stage.name,
        config,
        leaves=len(inventory.leaves),
        leaves_compared=sum(name in compared for name in inventory.leaves),
        parameters=len(sizes),
        parameters_moving=sum(bool(moving.get(name)) for name in sizes),
        elements=sum(sizes.values()),
        elements_moving=round(sum(moving.get(name, 0.0) * size for name, size in sizes.items())),
        uncovered=missed,
    )


def _require_repeat(rows: list[Row], recorded: Recorded) -> None:
    if not recorded.repeats:
        for row in rows:
            if row.verdict == "pass":
                row.verdict, row.why = "inconclusive", "the reference does not repeat itself"


# ---- many cells ------------------------------------------------------------------------------------------------------


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


def use_device(device: str) -> None:
    """Run MLX there from now on, in this process."""
    import mlx.core as mx

    mx.set_default_device(getattr(mx, device))


def peak_gb() -> float:
    """The most memory that this process held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def show_progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K  {line}", end="", file=sys.stderr, flush=True)


def unseen(results: Results, chosen: list[tuple[Stage, str]]) -> list[str]:
    """Declared function taps that no case reached: holes in the manifest."""
    holes = []
    for stage in {stage.name: stage for stage, _ in chosen}.values():
        ran = {config for s, config in chosen if s.name == stage.name}
        rows = (row for row in results.rows if row.stage == stage.name)
        seen = {part for row in rows for part in row.name.partition("<")[0].split(".")}
        for tap in stage.functions:
            if ran & set(tap.configs or stage.configs) and tap.name not in seen:
                holes.append(f"{stage.name} {tap.name}")
    return holes


def default_device() -> str:
    """Where MLX runs in this process: ``cpu`` or ``gpu``."""
    import mlx.core as mx

    return "gpu" if mx.default_device().type == mx.gpu else "cpu"


def environment(device: str) -> dict[str, str]:
    """Machine and versions, for the report; without those that are not installed."""
    names = ("ltx-core", "ltx-pipelines", "torch", "mlx", "numpy", "transformers")
    cpu, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    versions = {name: found for name in names if (found := _version(name))}
    return {
        "machine": f"{platform.system()} {platform.machine()}, {cpu}, {os.cpu_count()} cores",
        "device": device,
        "python": platform.python_version(),
        **versions,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
