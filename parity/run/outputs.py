"""Outputs that a program in any language left in a safetensors file, beside a trace: see ``parity/sides/README.md``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ltx2_mlx.errors import InputError

from ..declare.inputs import seeded
from ..judge.results import ORIGIN, Results
from ..judge.verdicts import judge
from ..sides.mlx import MLX
from ..sides.port import NotComparableError
from ..tap import raw_safetensors as shards
from ..tap.matching import narrowed
from ..tap.side import PROBE
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
    arrays: dict[str, Tensor]
    used: set[str] = field(default_factory=set)

    def of(self, place: str) -> dict[tuple[str, int], dict[str, Tensor]]:
        """(tap, call) → leaf → array, of one case. Raises InputError for a key that names no call, or one twice."""
        found: dict[tuple[str, int], dict[str, Tensor]] = {}
        for key, values in self.arrays.items():
            if not key.startswith(f"{place}/"):
                continue
            tap, _, leaf = key.removeprefix(f"{place}/").partition("/")
            name, _, number = tap.partition("#")
            if number and not re.fullmatch(r"[0-9]{1,9}", number):
                raise InputError(f"{self.path}: {key[:100]!r}: '{number[:20]}' is no number of a call")
            leaves = found.setdefault((name, int(number or 0)), {})
            if leaf in leaves:
                raise InputError(f"{self.path}: {key[:100]!r} is there twice, by another name")
            leaves[leaf] = values
            self.used.add(key)
        return found


def read_outputs(path: Path) -> Outputs:
    """Raises InputError for a file that is none, or says another lane."""
    try:
        raw, metadata = shards.read_raw(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    arrays = {key: _tensor(path, key, tensor) for key, tensor in raw.items()}
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
    recorded_by = {name: value for name, value in trace.manifest["versions"].items() if name not in ("device", "mlx")}
    subject.results.environment = {f"{name} of the trace": value for name, value in recorded_by.items()}
    return subject


def _judge(
    results: Results,
    where: dict[str, str],
    recorded: Recorded,
    lane: str,
    found: dict[tuple[str, int], dict[str, Tensor]],
    alignment: Alignment,
) -> None:
    stage, free = recorded.pair.stage, lane == "C"
    if (oracle := recorded.free if free else recorded.oracle) is None:
        raise NotComparableError(f"the trace was not recorded in lane {lane}")
    calls = {key: Call(*key, outputs=_outputs(where, key, leaves, recorded)) for key, leaves in found.items()}
    trace = Trace(calls, [(side, *key) for key in calls for side in ("in", "out")])
    taps = module_taps(stage, recorded.trace) if free else {tap for tap, _ in recorded.trace.calls}
    met = {tap for tap, _ in trace.calls}
    parts = {key[0] for key, call in calls.items() if set(_names(key, recorded)) - set(call.outputs)}
    alignment.taps += len(taps)
    alignment.compared += len(taps & met)
    alignment.leave("the file has nothing of it", len(taps - met))
    alignment.leave("the file has a part of its arrays", len(taps & parts))
    own, truth = narrowed(recorded.trace, trace), narrowed(oracle, trace)
    judge(results, where, stage, own, truth, trace, met - set(handed_over(recorded.pair)) if free else None)


def _outputs(
    where: dict[str, str], key: tuple[str, int], leaves: dict[str, Tensor], recorded: Recorded
) -> dict[str, Tensor]:
    """The arrays of a call under the trace's names. Raises InputError for one that the trace does not know."""
    place = f"{where['stage']} {where['config']} {where['case']}"
    if key not in recorded.trace.calls:
        raise InputError(f"{place}: there is no tap '{key[0][:100]}'" + (f" with a call {key[1]}" if key[1] else ""))
    names = _names(key, recorded)
    if len(names) == 1 and list(leaves) == [""]:
        leaves = {names[0]: leaves[""]}
    if strangers := sorted(leaves.keys() - set(names)):
        has = f"its arrays are {', '.join(names)}" if names != [""] else "it has one array, without a name"
        raise InputError(f"{place}: the tap '{key[0][:100]}' has no array '{strangers[0][:100]}': {has}")
    half = recorded.pair.dtype != "float32"  # of which files may hold what was widened
    return {n: replace(t, dtype=recorded.pair.dtype) if half and t.dtype == "float32" else t for n, t in leaves.items()}


def _names(key: tuple[str, int], recorded: Recorded) -> list[str]:
    """The arrays that a call returns, without those of a second call that only this harness makes."""
    outputs = recorded.trace.calls[key].outputs.items()
    return [name for name, leaf in outputs if isinstance(leaf, Tensor) and not name.startswith(PROBE)]


def _tensor(path: Path, key: str, raw: shards.Raw) -> Tensor:
    """An array of a file; one in half precision is widened, and says so. Raises InputError for another dtype."""
    code, shape, data = raw
    if code == "BF16":
        wide = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        return Tensor(wide.reshape(shape), "bfloat16")
    if code == "F16":
        return Tensor(np.frombuffer(data, "<f2").reshape(shape).astype(np.float32), "float16")
    try:
        values = shards.decode(raw)
    except KeyError:
        raise InputError(f"{path}: {key[:100]!r} is in {code}, which no output is in") from None
    return Tensor(values, str(values.dtype))
