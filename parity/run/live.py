"""The live source of recordings: the reference runs here, case by case, and ``replay`` judges ours by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ltx2_mlx.loading.checkpoint import CheckpointPath

from ..declare.model import Case, Stage
from ..judge.results import Results
from ..sides.loading import load_ours, loading_options, read, tiny
from ..sides.mlx import MLX
from ..sides.pair import Pair
from ..tap.execute import execute
from ..tap.nest import flatten
from ..tap.session import Session
from ..tap.trace import Tensor, Trace
from .recorded import Inventory, Recorded, Recording, close_to
from .replay import Replayed, handed_over, judge_recording, module_taps, probes_of, replay, run_tapped

HALF = ("bfloat16", "float16")


class Runner:
    """files: component → its file, where that is neither the checkpoint nor a tiny one."""

    def __init__(
        self,
        checkpoint: Path | None = None,
        progress: Callable[[str], None] = lambda line: None,
        files: Mapping[str, CheckpointPath] = MappingProxyType({}),
    ):
        self.mlx = MLX()
        self.checkpoint, self.progress, self.files = checkpoint, progress, files

    def side(self, stage: Stage) -> Any:
        """The reference's side of a stage."""
        from ..sides.torch import reference_of  # not above: what only imports this module does without torch

        return reference_of(stage)

    def load(self, stage: Stage, config: str, dtype: str) -> Pair:
        if stage.component is None:
            return Pair(stage, {}, {}, dtype, {}, {}, {})
        paths = self.paths(stage, config)
        options = loading_options(stage, config)
        side = self.side(stage)
        reference = {name: side.load(name, p, read(p).config, dtype, **options) for name, p in paths.items()}
        oracle = {name: side.oracle(module) for name, module in reference.items()}
        ours = self.ours(paths, dtype, **options)
        config_of = read(paths[stage.main]).config
        return Pair(stage, paths, config_of, dtype, reference, oracle, ours, options)

    def paths(self, stage: Stage, config: str) -> dict[str, CheckpointPath]:
        """Component → its file."""
        paths = {stage.main: self.files.get(stage.main) or self.checkpoint or tiny(config, stage.folder)}
        for name, other in stage.also.items():
            own = tiny(other) if other else paths[stage.main]
            paths[name] = self.files.get(name, own)
        return paths

    def ours(self, paths: dict[str, CheckpointPath], dtype: str, **options: Any) -> dict[str, Any]:
        return load_ours(self.mlx, paths, dtype, **options)

    # ---- one case -------------------------------------------------------------------------------------------------

    def record(
        self, pair: Pair, case: Case, repeat: bool = True, isolated: bool = True, free: bool = False
    ) -> Recorded:
        """The reference's run, its oracle's runs (grafted from it if it is to be judged isolated, and free), and
        whether the reference repeats itself untapped (taken for granted without ``repeat``)."""
        stage, dtype, torch = pair.stage, pair.dtype, self.side(pair.stage)
        session = pair.session("reference", torch, probes=probes_of(pair))
        result = execute(torch, stage, pair.reference, case, dtype, dtype, session)
        recorded = Recorded(pair, case, session.trace, None, True)
        if repeat and not case.steps and not case.taps:
            recorded.repeats = self.repeats(recorded, session, result)
        if isolated and case.steps and all(step.exact for step in case.steps):
            recorded.oracle = recorded.trace  # what must be equal to the reference is measured from it
        elif isolated:
            session = pair.session("oracle", torch, recorded.trace, probes_of(pair), oracle=True)
            with torch.widened():
                recorded.oracle = self.oracle(recorded, session)
        if free and not case.steps and not case.taps:
            session = pair.session("oracle free", torch, recorded.trace, only=handed_over(pair), keeps="module outputs")
            oracle = self.oracle(recorded, session)
            recorded.free = _outputs(oracle, module_taps(stage, oracle))
        return recorded

    def repeats(self, recorded: Recorded, session: Session, result: Any) -> bool:
        """True if the reference gives the same result again, untapped."""
        pair, torch = recorded.pair, self.side(recorded.pair.stage)
        again = execute(torch, pair.stage, pair.reference, recorded.case, pair.dtype, pair.dtype, None)
        return equal(flatten(result, "", torch, {}), flatten(again, "", torch, {}))

    def oracle(self, recorded: Recorded, session: Session) -> Trace:
        pair = recorded.pair
        return close_to(
            recorded.trace, run_tapped(self.side(pair.stage), pair, pair.oracle, recorded, "float64", session)
        )

    def influence(self, recorded: Recorded, known: dict[str, float]) -> dict[str, float]:
        """Parameter → share of it that moves a compared tensor, without those ``known`` to move whole."""
        pair = recorded.pair
        moved: dict[str, float] = self.side(pair.stage).influence(
            pair.stage, pair.oracle, recorded.case, recorded.trace, known
        )
        return moved

    def replay(self, recorded: Recorded, ours: dict[str, Any] | None = None) -> Trace:
        """Ours (or other modules in their place), every tap on the reference's recorded inputs."""
        return replay(self.mlx, recorded, ours)

    # ---- a cell ---------------------------------------------------------------------------------------------------

    def recording(self, stage: Stage, config: str, lanes: str, case: str = "*") -> Recording:
        """Every case (of those that match a glob) in the chosen lanes, recorded as it is asked for."""
        pair = self.load(stage, config, "float32") if set(lanes) & {"A", "C"} else None
        inventory = None
        if pair and "A" in lanes and stage.component and case == "*":
            main, side = pair.reference[stage.component], self.side(stage)
            sizes = {name: tensor.numel() for name, tensor in side.tensors(main).items()}
            inventory = Inventory(side.leaves(main), sizes)
        return Recording(stage, config, inventory, self._cases(stage, config, lanes, case, pair))

    def _cases(self, stage: Stage, config: str, lanes: str, glob: str, pair: Pair | None) -> Iterator[Recorded]:
        moving: dict[str, float] = {}
        if pair:
            for name, case, own in self.matching(pair, glob):
                if not (case.isolated or "C" in lanes):
                    continue
                self.progress(f"{stage.name} {config} {name}: float32")
                isolated = case.isolated and "A" in lanes
                recorded = self.record(own, case, isolated=isolated, free="C" in lanes)
                if isolated and not case.steps and not case.taps:
                    recorded.moving = self.influence(recorded, moving)
                    moving |= {name: max(share, moving.get(name, 0.0)) for name, share in recorded.moving.items()}
                yield replace(recorded, name=name)
        for dtype in HALF if "B" in lanes else ():
            pair = self.load(stage, config, dtype)
            for name, case, own in self.matching(pair, glob):
                if case.half:
                    self.progress(f"{stage.name} {config} {name}: {dtype}")
                    recorded = self.record(own, case, False, isolated=not stage.float32, free=stage.float32)
                    yield replace(recorded, name=name)

    def matching(self, pair: Pair, glob: str) -> Iterator[tuple[str, Case, Pair]]:
        """The stage's cases by name, and what each is run on."""
        cases = pair.stage.cases(pair.config).items()
        return ((name, case, pair) for name, case in cases if fnmatchcase(name, glob))

    def run(self, chosen: list[tuple[Stage, str]], lanes: str = "ABC", replayed: Replayed | None = None) -> Results:
        """Judge every case of the chosen cells in the chosen lanes. replayed: see ``judge_recording``."""
        results = Results()
        for stage, config in chosen:
            judge_recording(self.recording(stage, config, lanes), results, replayed)
        return results


def _outputs(trace: Trace, taps: set[str]) -> Trace:
    """Only the outputs of these taps."""
    calls = {key: replace(call, inputs={}) for key, call in trace.calls.items() if key[0] in taps}
    return Trace(calls)


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Two flattened results, to the last bit."""
    return a.keys() == b.keys() and all(
        np.array_equal(v.values, b[k].values, equal_nan=True) if isinstance(v, Tensor) else v == b[k]
        for k, v in a.items()
    )
