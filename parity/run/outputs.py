"""Outputs that a program in any language left in a safetensors file, beside a trace: see ``parity/sides/README.md``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ltx2_mlx.errors import InputError

from ..declare.inputs import seeded
from ..judge.results import ORIGIN, Results
from ..judge.verdicts import judge
from ..sides.mlx import MLX
from ..sides.port import NotComparableError
from ..tap import raw_safetensors as shards
from ..tap.matching import comparable, narrowed
from ..tap.trace import Call, Tensor, Trace
from .ports import Alignment, Subject
from .recorded import Recorded
from .replay import handed_over, module_taps
from .tracefile import open_trace

LANES = ("A", "C")


@dataclass
class Outputs:
    """The file. arrays: its keys, ``stage/config/case/tap#call`` and ``/leaf`` where a tap returns several arrays.

    lane: "C" for a run of its own from the case's inputs on, "A" where each tap was given the recorded inputs.
    """

    path: Path
    lane: str
    arrays: dict[str, np.ndarray]
    used: set[str] = field(default_factory=set)

    def of(self, place: str) -> dict[tuple[str, int], dict[str, np.ndarray]]:
        """(tap, call) → leaf → array, of one case."""
        found: dict[tuple[str, int], dict[str, np.ndarray]] = {}
        for key, values in self.arrays.items():
            if not key.startswith(f"{place}/"):
                continue
            tap, _, leaf = key.removeprefix(f"{place}/").partition("/")
            name, _, number = tap.partition("#")
            if number and not number.isdigit():
                raise InputError(f"{self.path}: {key[:100]!r}: '{number[:20]}' is no number of a call")
            found.setdefault((name, int(number or 0)), {})[leaf] = values
            self.used.add(key)
        return found


def read_outputs(path: Path) -> Outputs:
    """Raises InputError for a file that is none, or says another lane."""
    try:
        raw, metadata = shards.read_raw(path)
        arrays = {key: shards.decode(tensor) for key, tensor in raw.items()}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: not a safetensors file of outputs ({type(error).__name__}: {error})") from None
    lane = metadata.get("lane", "C")
    if lane not in LANES:
        raise InputError(
            f"{path}: its lane is {lane[:20]!r}, expected C (a run from the inputs on) or A (each tap alone)"
        )
    if not arrays:
        raise InputError(f"{path}: holds no outputs")
    return Outputs(path, lane, arrays)


def check_outputs(
    trace_path: Path,
    outputs_path: Path,
    checkpoint: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> Subject:
    """Judge the outputs by every case of a trace that they have something of."""
    outputs, trace = read_outputs(outputs_path), open_trace(trace_path, checkpoint)
    subject = Subject(str(outputs_path), MLX())
    for index, (stage, config) in enumerate(trace.cells):
        subject.alignments.append(alignment := Alignment(stage.name, config))
        with seeded(trace.seed):
            for recorded in trace.recording(index).cases:
                half = recorded.pair.dtype != "float32"
                name = f"{recorded.name}@{recorded.pair.dtype}" if half else recorded.name
                found = outputs.of(f"{stage.name}/{config}/{name}")
                if not found:
                    alignment.leave(f"case {name}: the file has nothing of it")
                    continue
                progress(f"{stage.name} {config} {name}")
                where = {"stage": stage.name, "config": config, "case": name, "lane": "B" if half else outputs.lane}
                try:
                    _judge(subject.results, where, recorded, outputs.lane, found, alignment)
                except NotComparableError as error:
                    alignment.leave(f"case {name}: {error}")
    if unused := sorted(outputs.arrays.keys() - outputs.used):
        more = f", and {len(unused) - 1} more" if len(unused) > 1 else ""
        raise InputError(f"{outputs_path}: {unused[0][:200]!r}{more}: the trace has no such case")
    subject.results.origin = ORIGIN | {"trace": str(trace_path), "subject": str(outputs_path)}
    return subject


def _judge(
    results: Results,
    where: dict[str, str],
    recorded: Recorded,
    lane: str,
    found: dict[tuple[str, int], dict[str, np.ndarray]],
    alignment: Alignment,
) -> None:
    stage, free = recorded.pair.stage, lane == "C"
    if (oracle := recorded.free if free else recorded.oracle) is None:
        raise NotComparableError(f"the trace was not recorded in lane {lane}")
    calls = {
        key: Call(*key, outputs={n: _tensor(v, recorded) for n, v in leaves.items()}) for key, leaves in found.items()
    }
    strangers = sorted(tap for tap, call in calls if (tap, call) not in recorded.trace.calls)
    if strangers:
        raise InputError(f"{where['stage']} {where['config']} {where['case']}: there is no tap {strangers[0][:100]!r}")
    theirs = Trace(calls, [(side, *key) for key in calls for side in ("in", "out")])
    trace, shapes = comparable(recorded.trace, theirs, recorded.pair.root)
    taps = module_taps(stage, recorded.trace) if free else {tap for tap, _ in recorded.trace.calls}
    met = {tap for tap, _ in trace.calls}
    alignment.taps += len(taps)
    alignment.compared += len(taps & met)
    alignment.leave("another shape", len(shapes - met))
    alignment.leave("the file has nothing of it", len(taps - {tap for tap, _ in calls}))
    own, truth = narrowed(recorded.trace, trace), narrowed(oracle, trace)
    handed = set(handed_over(recorded.pair)) if free else set[str]()
    judge(results, where, stage, own, truth, trace, met - handed)


def _tensor(values: np.ndarray, recorded: Recorded) -> Tensor:
    """An array of a file: what stands there in half precision is widened, and says so."""
    half = recorded.pair.dtype if recorded.pair.dtype != "float32" and values.dtype.kind == "f" else str(values.dtype)
    return Tensor(values, half)
