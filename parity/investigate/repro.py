"""One wrong tensor in a file, judged again by the same rules: the inputs of the tap that makes it, what its inner taps
pass on, its parameters, what the reference and its float64 oracle gave. Only to ask the reference again needs torch.
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltx2_mlx.errors import LTX2Error
from ltx2_mlx.loading.checkpoint import CheckpointPath

from ..declare.inputs import FIXTURES
from ..declare.model import Stage
from ..declare.stages import stages
from ..judge.files import read_bytes, write_whole
from ..judge.lines import printable
from ..judge.results import Results, Row
from ..judge.verdicts import judge
from ..run.recorded import Recorded
from ..sides.loading import files_of, joined, load_ours, loading_options, read
from ..sides.mlx import MLX
from ..sides.pair import Pair
from ..tap.side import Side
from ..tap.trace import Call, Tensor, Trace
from .scope import At, Focus, Target, inner_calls, module_at, tensors_of

WHERE = ("stage", "config", "case", "lane")


@dataclass(frozen=True)
class Repro:
    """source: the calls that the scope is run on; expected: the call with the wrong tensor, of both references."""

    where: dict[str, str]
    case: str
    dtype: str
    paths: dict[str, CheckpointPath]
    scope: At
    target: Target
    name: str  # the row's
    source: Trace
    expected: dict[str, Trace]
    parameters: dict[str, np.ndarray]

    @property
    def stage(self) -> Stage:
        return stages()[self.where["stage"]]

    @property
    def options(self) -> dict[str, Any]:
        return loading_options(self.stage, self.where["config"])

    @property
    def place(self) -> str:
        return f"{' '.join(self.where.values())} {self.name}"

    # ---- running ----------------------------------------------------------------------------------------------------

    def _run(self, side: Side, modules: dict[str, Any]) -> Trace:
        """The scope's code on the recorded values; everything before it runs as it does."""
        config = read(self.paths[self.stage.component]).config if self.stage.component else {}
        pair = Pair(self.stage, self.paths, config, self.dtype, {}, {}, modules)
        recorded = Recorded(pair, self.stage.cases(config)[self.case], self.source, None, True)
        focus = Focus(side, self.scope, {"": self.source}, self.target)
        found = focus.ask(recorded, modules, self.dtype)[""]
        call = Call(*self.target.at)
        if found is not None:
            (call.inputs if self.target.side == "in" else call.outputs)[self.target.leaf] = found
        return Trace({self.target.at: call} if focus.reached else {}, [])

    def judge_ours(self) -> Row:
        """Ours, as it is now."""
        mlx = MLX()
        ours = self._run(mlx, load_ours(mlx, self.paths, self.dtype, **self.options))
        reference, oracle = self.expected["reference"], self.expected["oracle"]
        rows = judge(Results(), self.where, self.stage, reference, oracle, ours)
        stage, config, case, lane = (self.where[key] for key in WHERE)
        passed_on = Row(self.name, stage, config, case, lane, self.target.at[1], 0, "")
        return next((row for row in rows if row.name == self.name), passed_on)

    def differing_parameters(self) -> list[str]:
        """The scope's own parameters that are not as the reference has them."""
        mlx = MLX()
        module = module_at(mlx, load_ours(mlx, self.paths, self.dtype, **self.options), self.stage, self.scope[0])
        own = tensors_of(module) if module is not None else {}
        return [n for n, values in self.parameters.items() if n not in own or not np.array_equal(own[n], values)]

    def reference_now(self) -> float:
        """How far what the reference gives now is from what it gave. Raises ImportError without torch."""
        from ..sides.torch import reference_of

        torch = reference_of(self.stage)
        modules = {
            part: torch.load(part, path, read(path).config, self.dtype, **self.options)
            for part, path in self.paths.items()
        }
        now, then = (self.target.of(trace) for trace in (self._run(torch, modules), self.expected["reference"]))
        if not (isinstance(now, Tensor) and isinstance(then, Tensor)):
            return 0.0 if now == then else float("inf")
        a, b = (t.values.astype(np.float64) for t in (now, then))
        return float(np.linalg.norm(a - b) / (np.linalg.norm(b) or 1.0))

    # ---- on disk ----------------------------------------------------------------------------------------------------

    @classmethod
    def of(cls, recorded: Recorded, row: Row, scope: At, target: Target) -> Repro:
        trace, pair = recorded.trace, recorded.pair
        assert recorded.oracle is not None  # recorded to be judged isolated
        calls = [scope, *inner_calls(scope, target, trace.events)]
        source = Trace({at: trace.calls[at] for at in calls})
        expected = {}
        for name, of in (("reference", trace), ("oracle", recorded.oracle)):
            call = of.calls.get(target.at, Call(*target.at))
            own = {target.leaf: target.of(of)} if target.of(of) is not None else {}
            inputs = own if target.side == "in" else call.inputs
            outputs = own if target.side == "out" else {}
            kept = Call(*target.at, inputs, outputs, None, call.sums, call.sums_before)
            expected[name] = Trace({target.at: kept}, [(target.side, *target.at)])
        where = {key: getattr(row, key) for key in WHERE}
        module = module_at_reference(pair, scope[0])
        parameters = tensors_of(module) if module is not None else {}
        name = row.case.partition("@")[0]
        return cls(where, name, pair.dtype, pair.paths, scope, target, row.name, source, expected, parameters)

    def save(self, path: Path) -> None:
        arrays = {f"parameter|{name}": values for name, values in self.parameters.items()}
        head = {
            "where": self.where,
            "case": self.case,
            "dtype": self.dtype,
            "paths": {
                part: [str(file).replace(str(FIXTURES), "checkpoints:") for file in files_of(path)]
                for part, path in self.paths.items()
            },
            "scope": self.scope,
            "target": [self.target.side, self.target.at, self.target.leaf],
            "name": self.name,
            "source": _pack(self.source, "source", arrays),
            "expected": {name: _pack(trace, name, arrays) for name, trace in self.expected.items()},
        }
        packed = io.BytesIO()
        np.savez_compressed(packed, allow_pickle=False, head=np.array(json.dumps(head)), **arrays)
        write_whole(path, packed.getvalue())

    @classmethod
    def load(cls, path: Path) -> Repro:
        """Raises LTX2Error where a checkpoint is not there, and where the file is not as ``save`` left it."""
        try:
            return cls._loaded(path)
        except LTX2Error:
            raise
        except Exception as error:  # of zip, of NumPy's headers, of JSON, of names that are not there
            said = printable(f"{type(error).__name__}: {error}")[:120]
            raise LTX2Error(f"{path}: not a reproduction that parity bisect wrote ({said}); run it again") from None

    @classmethod
    def _loaded(cls, path: Path) -> Repro:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        head = json.loads(str(arrays.pop("head")))
        files = {
            part: [Path(name.replace("checkpoints:", str(FIXTURES))) for name in names]
            for part, names in head["paths"].items()
        }
        for missing in (file for some in files.values() for file in some if not file.exists()):
            raise LTX2Error(f"{missing}: not there; the tiny checkpoints are built by: make fixtures")
        side, at, leaf = head["target"]
        target = Target(side, tuple(at), leaf)
        expected = {name: _unpack(calls, arrays) for name, calls in head["expected"].items()}
        for trace in expected.values():
            trace.events = [(side, *target.at)]
        prefix = "parameter|"
        parameters = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
        source = _unpack(head["source"], arrays)
        rest = (target, head["name"], source, expected, parameters)
        paths = {part: joined(some) for part, some in files.items()}
        return cls(head["where"], head["case"], head["dtype"], paths, tuple(head["scope"]), *rest)


def module_at_reference(pair: Pair, tap: str) -> Any:
    """The reference's module of a tap; None without the reference, or for a function's tap."""
    if not pair.reference:
        return None
    from ..sides.torch import reference_of

    return module_at(reference_of(pair.stage), pair.reference, pair.stage, tap)


def _pack(trace: Trace, name: str, arrays: dict[str, np.ndarray]) -> list[Any]:
    """Calls with constants; the arrays go into ``arrays`` as ``name|tap|call|in or out|leaf``."""
    calls = []
    for (tap, index), call in trace.calls.items():
        sides: dict[str, dict[str, Any]] = {}
        for side, leaves in (("in", call.inputs), ("out", call.outputs)):
            sides[side] = {}
            for leaf, value in leaves.items():
                key = f"{name}|{tap}|{index}|{side}|{leaf}"
                if isinstance(value, Tensor):
                    arrays[key] = value.values
                sides[side][leaf] = {"key": key, "dtype": value.dtype} if isinstance(value, Tensor) else {"is": value}
        calls.append([tap, index, sides["in"], sides["out"], call.sums, call.sums_before])
    return calls


def _unpack(calls: list[Any], arrays: dict[str, np.ndarray]) -> Trace:
    def leaf(entry: dict[str, Any]) -> Any:
        return Tensor(arrays[entry["key"]], entry["dtype"]) if "key" in entry else entry["is"]

    trace = Trace()
    for tap, index, *sides, sums, sums_before in calls:
        inputs, outputs = ({name: leaf(entry) for name, entry in side.items()} for side in sides)
        trace.calls[tap, index] = Call(tap, index, inputs, outputs, None, sums, sums_before)
    return trace


SCRIPT = '''"""{place}
{why}

{story}
"""

import sys
from pathlib import Path

from parity.investigate.repro import Repro

repro = Repro.load(Path(__file__).with_suffix(".npz"))
row = repro.judge_ours()
print(f"ours now       {{row.verdict}}: {{row.why or f'ratio {{row.needed_k:.2f}}'}}")
for name in repro.differing_parameters():
    print(f"parameter      {{name}} is not the reference's")
try:
    print(f"reference now  {{repro.reference_now():.1e}} from what it gave when this was written")
except ImportError:
    print("reference now  torch is not installed: judged against what it gave when this was written")
sys.exit(row.verdict != "pass")
'''


def _quoted(text: str) -> str:
    """The text within a docstring."""
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def write_script(repro: Repro, row: Row, story: str, folder: Path) -> Path:
    """The ``.npz`` and the Python beside it that judges ours on it."""
    stem = "".join(c if c.isalnum() or c in "-_." else "_" for c in repro.place)
    repro.save(folder / f"{stem}.npz")
    path = folder / f"{stem}.py"
    said = [_quoted(text) for text in (repro.place, f"{row.verdict}: {row.why}", story.rstrip())]
    write_whole(path, SCRIPT.format(place=said[0], why=said[1], story=said[2]))
    return path
