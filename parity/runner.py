"""stages → inputs → reference → ours → verdicts: one loop over stages, configs, lanes and cases."""

from __future__ import annotations

import importlib.util
import os
import platform
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from math import prod
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from ltx2_mlx.errors import CheckpointError
from ltx2_mlx.weights import Checkpoint, build, read_checkpoint, read_gemma

from .inputs import FIXTURES
from .judge import judge
from .ours import MLX
from .reference import Torch
from .registry import Case, Stage
from .results import Coverage, Results, Row
from .stages import PHASES, stages
from .tapping import Session, Side, flatten
from .trace import Tensor, Trace

HALF = ("bfloat16", "float16")


def read(path: Path) -> Checkpoint:
    """The header of a checkpoint, or of a Gemma folder."""
    return read_gemma(path) if (path / "config.json").exists() else read_checkpoint(path)


@dataclass
class Pair:
    """A stage's components (name → module) loaded on both sides in one dtype, with their oracles."""

    stage: Stage
    paths: dict[str, Path]
    config: dict[str, Any]
    dtype: str
    reference: dict[str, Any]
    oracle: dict[str, Any]
    ours: dict[str, Any]

    @property
    def main(self) -> Any:
        """The reference's module for the component that the stage is about."""
        return self.reference[self.stage.component]


@dataclass
class Recorded:
    """What the reference did on one case: recorded once, judged against as often as ours is run."""

    pair: Pair
    case: Case
    trace: Trace
    oracle: Trace
    repeats: bool


class Runner:
    def __init__(self, checkpoint: Path | None = None, progress: Callable[[str], None] = lambda line: None):
        self.torch, self.mlx = Torch(), MLX()
        self.checkpoint, self.progress = checkpoint, progress

    def load(self, stage: Stage, config: str, dtype: str) -> Pair:
        if stage.component is None:
            return Pair(stage, {}, {}, dtype, {}, {}, {})
        path = self.checkpoint or FIXTURES / (config if stage.folder else f"{config}.safetensors")
        paths = {stage.component: path}
        paths |= {part: FIXTURES / f"{other}.safetensors" if other else path for part, other in stage.also.items()}
        reference = {part: self.torch.load(part, p, read(p).config, dtype) for part, p in paths.items()}
        oracle = {part: self.torch.oracle(module) for part, module in reference.items()}
        return Pair(stage, paths, read(path).config, dtype, reference, oracle, self.ours(paths, dtype))

    def ours(self, paths: dict[str, Path], dtype: str) -> dict[str, Any]:
        return {part: self.mlx.load(part, p, read(p).config, dtype) for part, p in paths.items()}

    # ---- one case -------------------------------------------------------------------------------------------------

    def record(self, pair: Pair, case: Case, repeat: bool = True, isolated: bool = True) -> Recorded:
        """The reference's run, its oracle's run grafted from it (if it is to be judged isolated), and whether the
        reference repeats itself untapped (taken for granted without ``repeat``)."""
        stage, dtype = pair.stage, pair.dtype
        trace, result = self._run(
            self.torch, pair, pair.reference, case, dtype, Session(self.torch, probes=_probes(pair))
        )
        if case.steps:
            session = Session(self.torch, trace, oracle=True)
            with self.torch.widened():
                oracle, _ = self._run(self.torch, pair, pair.oracle, case, "float64", session)
            return Recorded(pair, case, trace, oracle, True)
        again = self.torch.execute(stage, pair.reference, case, dtype, dtype, None) if repeat else result
        repeats = _equal(flatten(result, "", self.torch, {}), flatten(again, "", self.torch, {}))
        if not isolated:
            return Recorded(pair, case, trace, Trace(), repeats)
        session = Session(self.torch, trace, _probes(pair), oracle=True)
        with self.torch.widened():
            oracle, _ = self._run(self.torch, pair, pair.oracle, case, "float64", session)
        return Recorded(pair, case, trace, oracle, repeats)

    def replay(self, recorded: Recorded, ours: dict[str, Any] | None = None) -> Trace:
        """Ours (or other modules in their place), every tap on the reference's recorded inputs."""
        pair = recorded.pair
        session = Session(self.mlx, recorded.trace, _probes(pair))
        return self._run(self.mlx, pair, ours or pair.ours, recorded.case, pair.dtype, session)[0]

    def _run(
        self, side: Side, pair: Pair, modules: dict[str, Any], case: Case, model: str, session: Session
    ) -> tuple[Trace, Any]:
        result = None
        try:
            result = side.execute(pair.stage, modules, case, pair.dtype, model, session)
        except Exception:
            # Kept on the call that raised; what it never reached is missing. The reference must not raise.
            if side is self.torch or not any(call.error for call in session.trace.calls.values()):
                raise
        return session.trace, result

    # ---- everything -----------------------------------------------------------------------------------------------

    def run(self, chosen: list[tuple[Stage, str]], lanes: str = "ABC") -> Results:
        """Judge every case of the chosen cells in the chosen lanes."""
        results = Results()
        for stage, config in chosen:
            if "A" in lanes or "C" in lanes:
                self._float32(results, stage, config, lanes)
            if "B" in lanes:
                self._half(results, stage, config)
        return results

    def _float32(self, results: Results, stage: Stage, config: str, lanes: str) -> None:
        pair = self.load(stage, config, "float32")
        compared: set[str] = set()
        moving: dict[str, float] = {}
        for name, case in stage.cases(pair.config).items():
            self.progress(f"{stage.name} {config} {name}: float32")
            where = {"stage": stage.name, "config": config, "case": name}
            recorded = self.record(pair, case)
            if "A" in lanes:
                rows = judge(
                    results, where | {"lane": "A"}, stage, recorded.trace, recorded.oracle, self.replay(recorded)
                )
                _require_repeat(rows, recorded)
                compared |= {tap for tap, _ in recorded.trace.calls}
                if not case.steps:
                    shares = self.torch.influence(stage, pair.oracle, case, "float32", recorded.trace)
                    moving = {name: max(share, moving.get(name, 0.0)) for name, share in shares.items()}
            if "C" in lanes and not case.steps:
                self._free(results, where | {"lane": "C"}, pair, case, recorded)
        if "A" in lanes and pair.reference:
            results.coverage.append(self._coverage(stage, config, pair, compared, moving))

    def _free(self, results: Results, where: dict[str, str], pair: Pair, case: Case, recorded: Recorded) -> None:
        """Lane C: the whole chain from the inputs on, module by module, but for what ``Stage.defined`` hands over."""
        stage = pair.stage
        # In half precision all three start from the inputs as the reference had them, rounded.
        only = stage.defined if pair.dtype == "float32" else (*stage.defined, type(pair.main).__name__)
        session = Session(self.torch, recorded.trace, only=only)
        oracle, _ = self._run(self.torch, pair, pair.oracle, case, "float64", session)
        session = Session(self.mlx, recorded.trace, only=only)
        ours, _ = self._run(self.mlx, pair, pair.ours, case, pair.dtype, session)
        handed = {tap for tap, _ in recorded.trace.calls if any(fnmatchcase(tap, p) for p in stage.defined)}
        modules = {tap for tap, _ in recorded.trace.calls if tap.rsplit(".", 1)[-1] not in _names(stage)}
        judge(results, where, pair.stage, recorded.trace, oracle, ours, modules - handed)

    def _half(self, results: Results, stage: Stage, config: str) -> None:
        """Lane B: the shipped precisions, against the reference's own error in them."""
        for dtype in HALF:
            pair = self.load(stage, config, dtype)
            for name, case in stage.cases(pair.config).items():
                if case.half:
                    self.progress(f"{stage.name} {config} {name}: {dtype}")
                    recorded = self.record(pair, case, repeat=False, isolated=not stage.float32)
                    where = {"stage": stage.name, "config": config, "case": f"{name}@{dtype}", "lane": "B"}
                    if stage.float32:
                        self._free(results, where, pair, case, recorded)
                    else:
                        judge(results, where, stage, recorded.trace, recorded.oracle, self.replay(recorded))

    def _coverage(
        self, stage: Stage, config: str, pair: Pair, compared: set[str], moving: dict[str, float]
    ) -> Coverage:
        leaves = self.torch.leaves(pair.main)
        # A leaf without a call of its own is compared through its methods.
        compared |= {tap.rpartition(".")[0] for tap in compared if tap.rpartition(".")[2] in _names(stage)}
        tensors, idle = self.torch.tensors(pair.main), stage.idle.get(config, ())
        sizes = {name: tensor.numel() for name, tensor in tensors.items() if name not in idle or moving.get(name)}
        missed = [name for name in leaves if name not in compared] + [n for n in sizes if not moving.get(n)]
        missed += [f"{name} (declared idle)" for name in idle if moving.get(name) or name not in tensors]
        return Coverage(
            stage.name,
            config,
            leaves=len(leaves),
            leaves_compared=sum(name in compared for name in leaves),
            parameters=len(sizes),
            parameters_moving=sum(bool(moving.get(name)) for name in sizes),
            elements=sum(sizes.values()),
            elements_moving=round(sum(moving.get(name, 0.0) * size for name, size in sizes.items())),
            uncovered=missed,
        )


def _probes(pair: Pair) -> tuple[str, ...]:
    """None in float16: squares of scaled inputs and an eps of 1e-8 are zero there, and the reference divides by it."""
    return () if pair.dtype == "float16" else pair.stage.probes


def _names(stage: Stage) -> set[str]:
    return {tap.name for tap in stage.functions}


def _equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Two flattened results, to the last bit."""
    return a.keys() == b.keys() and all(
        np.array_equal(v.values, b[k].values, equal_nan=True) if isinstance(v, Tensor) else v == b[k]
        for k, v in a.items()
    )


def _require_repeat(rows: list[Row], recorded: Recorded) -> None:
    if not recorded.repeats:
        for row in rows:
            if row.verdict == "pass":
                row.verdict, row.why = "inconclusive", "the reference does not repeat itself"


def run(
    chosen: list[tuple[Stage, str]],
    lanes: str = "ABC",
    checkpoint: Path | None = None,
    device: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Results:
    """Every chosen cell, one process a core; what they found, in the order in which they were chosen."""
    device = device or default_device()
    results = Results(environment=environment(device))
    tasks = [(stage.name, config, lanes, checkpoint, device) for stage, config in chosen]
    jobs = min(len(tasks), os.cpu_count() or 1)
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done, (part, peak) in enumerate(pool.map(_run_cell, tasks), 1):
            progress(f"{done} of {len(tasks)} cells done")
            results.rows += part.rows
            results.coverage += part.coverage
            results.carried += part.carried
            results.peak_gb = max(results.peak_gb, peak)
    results.peak_gb *= jobs
    for order, row in enumerate(results.rows):
        row.order = order
    results.stages = manifest(chosen)
    results.unseen = _unseen(results, chosen) if "A" in lanes and checkpoint is None else []
    return results


def _run_cell(task: tuple[str, str, str, Path | None, str]) -> tuple[Results, float]:
    import mlx.core as mx

    name, config, lanes, checkpoint, device = task
    mx.set_default_device(getattr(mx, device))
    part = Runner(checkpoint, _progress).run([(stages()[name], config)], lanes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
    return part, peak


def _progress(line: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K  {line}", end="", file=sys.stderr, flush=True)


def manifest(chosen: list[tuple[Stage, str]]) -> list[dict[str, Any]]:
    """Every stage there is, in data order, for the report: which of its configs ran, and what it declares not to
    compare or to be no fault."""
    ran = {stage.name: [config for other, config in chosen if other.name == stage.name] for stage, _ in chosen}
    phases = {name: phase for phase, names in PHASES.items() for name in names}
    order = list(phases)
    return [
        {
            "stage": stage.name,
            "phase": phases.get(stage.name, ""),
            "configs": list(stage.configs),
            "ran": ran.get(stage.name, []),
            "layout": stage.layout,
            "reference_only": stage.reference_only,
            "constant": stage.constant,
            "idle": {config: list(names) for config, names in stage.idle.items()},
            "defined": list(stage.defined),
            "injected": [tap.name for tap in stage.functions if tap.injected],
        }
        for stage in sorted(stages().values(), key=lambda s: order.index(s.name) if s.name in phases else len(order))
    ]


def _unseen(results: Results, chosen: list[tuple[Stage, str]]) -> list[str]:
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


def select(stage: str = "*", config: str = "*", registry: dict[str, Stage] | None = None) -> list[tuple[Stage, str]]:
    """The cells (stage, config) that match two globs."""
    return [
        (s, c)
        for s in (registry or stages()).values()
        for c in s.configs
        if fnmatchcase(s.name, stage) and fnmatchcase(c, config)
    ]


def check_checkpoint(path: Path) -> list[Stage]:
    """The stages of the parts that a file holds.

    Raises CheckpointError unless each part is whole, and fits in memory on both sides.
    """
    checkpoint = read(path)
    fitting = [s for s in stages().values() if s.component and checkpoint.holds(s.component)]
    for component in dict.fromkeys(stage.component for stage in fitting) or ["transformer"]:
        _, keys = build(component, checkpoint)
        parameters = sum(prod(checkpoint.tensors[key].shape) for key in keys.values())
        needed = parameters * 20 / 1e9  # float32 on both sides, the float64 oracle, and its gradients
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
        if needed > memory:
            raise CheckpointError(
                f"{path}: {parameters / 1e9:.1f} billion parameters need about {needed:.0f} GB here (float32 on "
                f"both sides and a float64 oracle), this machine has {memory:.0f} GB. Use a smaller checkpoint"
            )
    return fitting


def ensure_fixtures() -> None:
    """Build the tiny checkpoints that are missing, and check all of them against their pinned hashes."""
    spec = importlib.util.spec_from_file_location("fixtures_make", FIXTURES.parent / "make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    make.ensure(FIXTURES)


def default_device() -> str:
    """Where MLX runs in this process: ``cpu`` or ``gpu``."""
    import mlx.core as mx

    return "gpu" if mx.default_device().type == mx.gpu else "cpu"


def environment(device: str) -> dict[str, str]:
    """Machine and versions, for the report."""
    names = ("ltx-core", "ltx-pipelines", "torch", "mlx", "numpy", "transformers")
    cpu, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    return {
        "machine": f"{platform.system()} {platform.machine()}, {cpu}, {os.cpu_count()} cores",
        "device": device,
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }
