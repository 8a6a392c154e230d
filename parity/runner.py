"""stages → inputs → reference → ours → verdicts: one loop over stages, configs, lanes and cases."""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ltx2_mlx.weights import build, read_checkpoint

from .judge import judge
from .ours import MLX
from .reference import Torch
from .registry import Case, Stage, stages
from .results import Coverage, Results, Row
from .tapping import Session
from .trace import Tensor, Trace

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "checkpoints"
HALF = ("bfloat16", "float16")


@dataclass
class Pair:
    """One component loaded on both sides in one dtype, with its oracle."""

    stage: Stage
    config: dict[str, Any]
    dtype: str
    reference: Any
    oracle: Any
    ours: Any


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
            return Pair(stage, {}, dtype, None, None, None)
        path = self.checkpoint or FIXTURES / f"{config}.safetensors"
        description = read_checkpoint(path).config
        reference = self.torch.load(stage.component, path, description, dtype)
        ours = self.mlx.load(stage.component, path, description, dtype)
        return Pair(stage, description, dtype, reference, self.torch.oracle(reference), ours)

    # ---- one case -------------------------------------------------------------------------------------------------

    def record(self, pair: Pair, case: Case) -> Recorded:
        """The reference's run, its oracle's run grafted from it, and whether the reference repeats itself untapped."""
        stage, dtype = pair.stage, pair.dtype
        trace = self._run(self.torch, pair, pair.reference, case, dtype, Session(self.torch, probes=stage.probes))
        if pair.reference is None:
            return Recorded(pair, case, trace, trace, True)
        again = self.torch.execute(stage, pair.reference, case, dtype, dtype, None)
        root = trace.calls[stage.wrapper or type(pair.reference).__name__, 0].outputs
        flat = [self.torch.to_numpy(value).values for value in again if value is not None]
        repeats = all(
            np.array_equal(a.values, b) for a, b in zip((t for t in root.values() if isinstance(t, Tensor)), flat, strict=True)
        )
        session = Session(self.torch, trace, stage.probes, oracle=True)
        with self.torch.widened():
            oracle = self._run(self.torch, pair, pair.oracle, case, "float64", session)
        return Recorded(pair, case, trace, oracle, repeats)

    def replay(self, recorded: Recorded) -> Trace:
        """Ours, every tap on the reference's recorded inputs."""
        pair = recorded.pair
        session = Session(self.mlx, recorded.trace, pair.stage.probes)
        return self._run(self.mlx, pair, pair.ours, recorded.case, pair.dtype, session)

    def _run(self, side: Any, pair: Pair, module: Any, case: Case, model: str, session: Session) -> Trace:
        try:
            side.execute(pair.stage, module, case, pair.dtype, model, session)
        except Exception:
            # Kept on the call that raised; what it never reached is missing. The reference must not raise.
            if side is self.torch or not any(call.error for call in session.trace.calls.values()):
                raise
        return session.trace

    # ---- everything -----------------------------------------------------------------------------------------------

    def run(self, chosen: list[tuple[Stage, str]], lanes: str = "ABC") -> Results:
        """Judge every case of the chosen cells in the chosen lanes."""
        start, results = time.monotonic(), Results(environment=environment())
        for stage, config in chosen:
            if "A" in lanes or "C" in lanes:
                self._float32(results, stage, config, lanes)
            if "B" in lanes and stage.component is not None:
                self._half(results, stage, config)
        self._unseen(results, chosen, lanes)
        results.seconds = time.monotonic() - start
        results.peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)
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
                rows = judge(results, where | {"lane": "A"}, stage, recorded.trace, recorded.oracle, self.replay(recorded))
                _require_repeat(rows, recorded)
                compared |= {tap for tap, _ in recorded.trace.calls}
                if pair.oracle is not None:
                    for parameter, share in self.torch.influence(stage, pair.oracle, case, "float32", recorded.trace).items():
                        moving[parameter] = max(moving.get(parameter, 0.0), share)
            if "C" in lanes and pair.reference is not None:
                self._free(results, where | {"lane": "C"}, pair, case, recorded)
        if "A" in lanes and pair.reference is not None:
            results.coverage.append(self._coverage(stage, config, pair, compared, moving))

    def _free(self, results: Results, where: dict[str, str], pair: Pair, case: Case, recorded: Recorded) -> None:
        """Lane C: the whole chain from the inputs on, module by module, but for what ``Stage.defined`` hands over."""
        stage = pair.stage
        session = Session(self.torch, recorded.trace, only=stage.defined)
        oracle = self._run(self.torch, pair, pair.oracle, case, "float64", session)
        session = Session(self.mlx, recorded.trace, only=stage.defined)
        ours = self._run(self.mlx, pair, pair.ours, case, "float32", session)
        roots = {pair.stage.wrapper, type(pair.reference).__name__}
        modules = roots | {name for name, _ in self.torch.named_modules(pair.reference)}
        modules = {name for name in modules if not any(fnmatchcase(name, pattern) for pattern in stage.defined)}
        judge(results, where, pair.stage, recorded.trace, oracle, ours, modules)

    def _half(self, results: Results, stage: Stage, config: str) -> None:
        """Lane B: the shipped precisions, against the reference's own error in them."""
        for dtype in HALF:
            pair = self.load(stage, config, dtype)
            for name, case in stage.cases(pair.config).items():
                if case.half:
                    self.progress(f"{stage.name} {config} {name}: {dtype}")
                    recorded = self.record(pair, case)
                    where = {"stage": stage.name, "config": config, "case": name, "lane": "B"}
                    judge(results, where, stage, recorded.trace, recorded.oracle, self.replay(recorded))

    def _coverage(
        self, stage: Stage, config: str, pair: Pair, compared: set[str], moving: dict[str, float]
    ) -> Coverage:
        leaves = self.torch.leaves(pair.reference)
        sizes = {name: p.numel() for name, p in pair.reference.named_parameters()}
        missed = [name for name in leaves if name not in compared] + [n for n in sizes if not moving.get(n)]
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

    def _unseen(self, results: Results, chosen: list[tuple[Stage, str]], lanes: str) -> None:
        """A declared function tap that no case of a whole stage reached is a hole in the manifest."""
        for stage in {stage.name: stage for stage, _ in chosen}.values():
            ran = {config for s, config in chosen if s.name == stage.name}
            seen = {row.name.partition("<")[0].split(".")[i] for row in results.rows if row.stage == stage.name for i in range(row.name.partition("<")[0].count(".") + 1)}
            for tap in stage.functions:
                if "A" in lanes and ran & set(tap.configs or stage.configs) and tap.name not in seen:
                    results.unseen.append(f"{stage.name} {tap.name}")


def _require_repeat(rows: list[Row], recorded: Recorded) -> None:
    if not recorded.repeats:
        for row in rows:
            if row.verdict == "pass":
                row.verdict, row.why = "inconclusive", "the reference does not repeat itself"


def select(stage: str = "*", config: str = "*", registry: dict[str, Stage] | None = None) -> list[tuple[Stage, str]]:
    """The cells (stage, config) that match two globs."""
    return [
        (s, c)
        for s in (registry or stages()).values()
        for c in s.configs
        if fnmatchcase(s.name, stage) and fnmatchcase(c, config)
    ]


def check_checkpoint(path: Path) -> None:
    """Raise CheckpointError unless every part that we build is whole."""
    checkpoint = read_checkpoint(path)
    for stage in stages().values():
        if stage.component:
            build(stage.component, checkpoint)


def environment() -> dict[str, str]:
    import mlx.core as mx

    names = ("ltx-core", "ltx-pipelines", "torch", "mlx", "numpy", "transformers")
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    return {
        "machine": f"{platform.system()} {platform.machine()}, {cpu}",
        "python": platform.python_version(),
        "device": str(mx.default_device()),
        **{name: version(name) for name in names},
    }


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


__all__ = ["FIXTURES", "Pair", "Recorded", "Results", "Runner", "check_checkpoint", "environment", "field", "read", "select"]
