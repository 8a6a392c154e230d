"""A recording on disk: a JSON manifest, and beside it a folder with one safetensors shard a case.

The manifest holds every call of every tap with its constants and its sums; shapes, dtypes and keys of its arrays; the
case's own inputs and their seed; what of the reference must be covered; versions; and the SHA-256 of each shard and
each checkpoint. Arrays are in the reference's layout, half precision widened to float32 (exactly), each distinct one
stored once. The oracle's are float32 residuals to the reference's (see ``recorded.close_to``), so reading gives back
the very bits.

``TraceFile`` refuses, by name, what is not as it was recorded: a cut or changed shard or manifest, a checkpoint with
another digest, cases or taps that have changed since.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltx2_mlx.loading.checkpoint import CheckpointPath
from ltx2_mlx.loading.load import build
from ltx2_mlx.media.outputs import whole_folder

from ..declare.inputs import FIXTURES, seed, seeded
from ..declare.model import Case, Stage
from ..declare.stages import stages
from ..judge.files import RunError, read_bytes, write_whole
from ..sides.loading import files_of, load_ours, loading_options, read
from ..sides.mlx import MLX
from ..sides.pair import Pair
from ..tap import raw_safetensors as shards
from ..tap.nest import flatten, graft
from ..tap.trace import Call, Tensor, Trace
from .manifest import SCHEMA, TraceError, read_manifest, references_problem
from .recorded import Inventory, Recorded, Recording, residual

LAYOUT = "as in the reference: channels first; names are taps"
MARK = ".parity-trace"  # the file that tells a trace's folder from another


# ---- writing ---------------------------------------------------------------------------------------------------------


class _Arrays:
    """The arrays of one shard, flat, each distinct one under a key of its own: shapes are the manifest's."""

    def __init__(self) -> None:
        self.raw: dict[str, shards.Raw] = {}
        self._keys: dict[tuple[str, bytes], str] = {}

    def add(self, values: np.ndarray) -> str:
        dtype, shape, data = shards.encode(values.reshape(-1))
        key = self._keys.setdefault((dtype, hashlib.sha256(data).digest()), f"{len(self._keys):05d}")
        self.raw[key] = (dtype, shape, data)
        return key

    def tensor(self, tensor: Tensor) -> dict[str, Any]:
        return {"dtype": tensor.dtype, "shape": list(tensor.values.shape), "data": self.add(tensor.values)}

    def leaves(self, leaves: dict[str, Any], place: str) -> dict[str, Any]:
        """Name → {dtype, shape, data} or {value}."""
        packed = {}
        for name, leaf in leaves.items():
            if not isinstance(leaf, (Tensor, str, int, float, type(None))):
                raise TraceError(f"{place} {name}: a {type(leaf).__name__} cannot be stored")
            packed[name] = self.tensor(leaf) if isinstance(leaf, Tensor) else {"value": _portable(leaf)}
        return packed

    def beside(self, leaves: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
        """The oracle's arrays: {dtype, shape} and ``to``, the reference's array that ``data``, if any, is added to;
        on its own where the sum would not be exact."""
        packed = {}
        for name, leaf in leaves.items():
            if isinstance(leaf, Tensor):
                packed[name] = self._residual(leaf, theirs.get(name)) or self.tensor(leaf)
        return packed

    def _residual(self, leaf: Tensor, reference: Any) -> dict[str, Any] | None:
        if leaf.dtype != "float64" or not isinstance(reference, Tensor):
            return None
        delta = residual(leaf.values, reference.values)
        if delta is None or not _same(reference.values + delta.astype(np.float64), leaf.values):
            return None
        packed = {"dtype": leaf.dtype, "shape": list(delta.shape), "to": self.add(reference.values)}
        return packed | ({"data": self.add(delta)} if delta.any() else {})


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """To the last bit; −0 is not 0."""
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _portable(value: Any) -> Any:
    """A path below the checkpoints' folder without the folder."""
    return value.replace(str(FIXTURES), "checkpoints:") if isinstance(value, str) else value


def _pack(recorded: Recorded, arrays: _Arrays) -> dict[str, Any]:
    """The manifest's entry of one case; its arrays go into ``arrays``."""
    trace = recorded.trace
    numbers = {key: i for i, key in enumerate(trace.calls)}
    place = f"{recorded.pair.stage.name} {recorded.name}"

    def calls(of: Trace) -> list[dict[str, Any]]:
        packed = []
        for key, call in of.calls.items():
            their = trace.calls.get(key, call)
            both = {k: arrays.beside(getattr(call, k), getattr(their, k)) for k in ("inputs", "outputs")}
            packed.append({"tap": call.name, "call": call.index} | both)
        return packed

    reference = [
        {"tap": c.name, "call": c.index, "sums": c.sums, "sums_before": c.sums_before}
        | {k: arrays.leaves(getattr(c, k), f"{place} {c.name}") for k in ("inputs", "outputs")}
        for c in trace.calls.values()
    ]
    inputs = flatten(recorded.case, "", MLX(), {})
    return {
        "case": recorded.name,
        "dtype": recorded.pair.dtype,
        "repeats": recorded.repeats,
        "moving": recorded.moving,
        "inputs_sha256": digest_of(inputs),
        "inputs": arrays.leaves(inputs, place),
        "events": [[side, numbers[tap, index]] for side, tap, index in trace.events],
        "reference": reference,
        "oracle": None if recorded.oracle is None else calls(recorded.oracle),
        "free": None if recorded.free is None else calls(recorded.free),
    }


def digest_of(leaves: dict[str, Any]) -> str:
    """SHA-256 of a case's flattened inputs: names, constants, bytes of the arrays."""
    digest = hashlib.sha256()
    for name, leaf in leaves.items():
        value = (leaf.dtype, leaf.values.shape) if isinstance(leaf, Tensor) else _portable(leaf)
        digest.update(f"{name}={value!r};".encode())
        digest.update(shards.encode(leaf.values)[2] if isinstance(leaf, Tensor) else b"")
    return digest.hexdigest()


def declaration(stage: Stage) -> dict[str, Any]:
    """The parts of a stage that decide which taps there are and what flows into them."""
    functions = [[tap.name, tap.at.reference, tap.wide, tap.injected] for tap in stage.functions]
    rest = {name: getattr(stage, name) for name in ("wrapper", "also", "probes", "defined")}
    if stage.reference != "ltx-core":  # traces from before had no other
        rest |= {"reference": stage.reference, "results": stage.results}
    portable: dict[str, Any] = json.loads(json.dumps({"functions": functions, **rest}))
    return portable


def write(out: Path, recordings: Iterable[Recording], versions: dict[str, str], weights: bool) -> dict[str, int]:
    """Write a trace: the manifest ``out``, and its shards in the folder of the same name. Cell → bytes of its shards.

    weights: put what is needed of the checkpoints into the folder as well. Raises TraceError.
    """
    folder = out.with_suffix("")
    if out.suffix != ".json":
        raise TraceError(f"{out}: the manifest's name must end in .json")
    if out.is_dir():
        raise TraceError(f"{out}: a folder, and the manifest is a file. Name another --out")
    cells: list[dict[str, Any]] = []
    needed: dict[Path, set[str]] = {}
    with whole_folder(folder, _require_own) as part:
        (part / MARK).write_text("Made by: parity record\n")
        for recording in recordings:
            cells.append(_write_cell(part, recording, needed))
            if not cells[-1]["cases"]:
                cell = f"{recording.stage.name} {recording.config}"
                raise TraceError(f"{out}: not written: there is nothing to record of {cell} in these lanes")
        checkpoints = [_write_weights(part, path, parts) if weights else _named(path) for path, parts in needed.items()]
        if folder.is_dir():
            (folder / MARK).touch()  # without its manifest it is still a trace's folder, to be replaced
        out.unlink(missing_ok=True)  # from here on the folder is not that of the manifest before
    head = {"schema": SCHEMA, "layout": LAYOUT, "versions": versions, "seed": seed()}
    manifest: dict[str, Any] = head | {"checkpoints": checkpoints, "cells": cells}
    manifest["sha256"] = _seal(manifest)
    write_whole(out, json.dumps(manifest, separators=(",", ":")) + "\n")
    return {f"{c['stage']} {c['config']}": sum(case["bytes"] for case in c["cases"]) for c in cells}


def _require_own(folder: Path) -> None:
    """Raises TraceError for a folder that is not a trace's, or that holds anything else: it is replaced whole."""
    marked = (folder / MARK).is_file() or _is_trace(folder.with_suffix(".json"))
    known = (entry.name in (MARK, "weights") or entry.suffix == ".safetensors" for entry in folder.iterdir())
    if not marked or not all(known):
        raise TraceError(f"{folder}: in the way, and not a trace's folder. Name another --out, or remove it")


def _is_trace(manifest: Path) -> bool:
    try:
        return f'"schema":"{SCHEMA.partition("/")[0]}/' in read_bytes(manifest)[:100].decode()
    except (RunError, UnicodeDecodeError):
        return False


def _write_cell(folder: Path, recording: Recording, needed: dict[Path, set[str]]) -> dict[str, Any]:
    cases, paths = [], {}
    for recorded in recording.cases:
        arrays, paths = _Arrays(), recorded.pair.paths
        entry = _pack(recorded, arrays)
        name = f"{recording.stage.name}.{recording.config}.{recorded.name}.{recorded.pair.dtype}.safetensors"
        shards.write_raw(folder / name, arrays.raw)
        size = (folder / name).stat().st_size
        cases.append(entry | {"shard": name, "sha256": shards.sha256(folder / name), "bytes": size})
    files = {component: _only(files_of(path)) for component, path in paths.items()}
    for component, path in files.items():
        needed.setdefault(path, set()).add(component)
    return {
        "stage": recording.stage.name,
        "config": recording.config,
        "declaration": declaration(recording.stage),
        "components": {component: path.name for component, path in files.items()},
        "inventory": asdict(recording.inventory) if recording.inventory else None,
        "cases": cases,
    }


def _only(files: tuple[Path, ...]) -> Path:
    """The file of a component. Raises TraceError where it lies in two."""
    if len(files) > 1:
        raise TraceError(f"{' and '.join(file.name for file in files)}: a trace names one file for a component")
    return files[0]


def _named(path: Path) -> dict[str, str]:
    return {"name": path.name, "path": _portable(str(path)), "sha256": shards.sha256(path)}


def _write_weights(folder: Path, path: Path, components: set[str]) -> dict[str, str]:
    """The components' tensors of a checkpoint, in the official format; a Gemma folder as it is."""
    target = folder / "weights" / path.name
    if path.is_dir():
        shutil.copytree(path, target)
    else:
        keys = {key for component in components for key in build(component, read(path))[1].values()}
        tensors, metadata = shards.read_raw(path)
        shards.write_raw(target, {key: tensors[key] for key in keys}, metadata)
    return {"name": path.name, "path": f"trace:{path.name}", "sha256": shards.sha256(target)}


def _seal(manifest: dict[str, Any]) -> str:
    content = json.dumps({k: v for k, v in manifest.items() if k != "sha256"}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


# ---- reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TraceFile:
    """A trace whose every file has been found as it was recorded."""

    path: Path
    manifest: dict[str, Any]
    checkpoints: dict[str, Path]

    @property
    def seed(self) -> int:
        """The seed of the cases' inputs."""
        found: int = self.manifest["seed"]
        return found

    @property
    def cells(self) -> list[tuple[Stage, str]]:
        return [(stages()[cell["stage"]], cell["config"]) for cell in self.manifest["cells"]]

    def recording(self, index: int) -> Recording:
        """The recording of a cell; its cases are read as they are asked for."""
        cell, (stage, config) = self.manifest["cells"][index], self.cells[index]
        inventory = Inventory(**cell["inventory"]) if cell["inventory"] else None
        return Recording(stage, config, inventory, self._cases(stage, cell))

    def _cases(self, stage: Stage, cell: dict[str, Any]) -> Iterator[Recorded]:
        paths: dict[str, CheckpointPath] = {
            component: self.checkpoints[name] for component, name in cell["components"].items()
        }
        config = read(paths[stage.component]).config if stage.component else {}
        with seeded(self.seed):
            cases = stage.cases(config)
        mlx, pair = MLX(), None
        for entry in cell["cases"]:
            if pair is None or pair.dtype != entry["dtype"]:
                options = loading_options(stage, cell["config"])
                ours = load_ours(mlx, paths, entry["dtype"], **options)
                pair = Pair(stage, paths, config, entry["dtype"], {}, {}, ours, options)
            raw, _ = shards.read_raw(self.path.with_suffix("") / entry["shard"])
            arrays = {key: shards.decode(tensor) for key, tensor in raw.items()}
            place = f"{self.path}: {stage.name} {cell['config']} {entry['case']}"
            if entry["case"] not in cases:
                raise TraceError(f"{place}: there is no such case any more. {_AGAIN}")
            yield _unpack(pair, cases[entry["case"]], entry, arrays, place)


_AGAIN = "Record it again: parity record"


def open_trace(path: Path, checkpoint: Path | None = None) -> TraceFile:
    """Read a manifest and check every file that it names. Raises TraceError naming what is not as it was recorded.

    checkpoint: where the one checkpoint is that the trace names, if not where it was when recorded.
    """
    manifest = read_manifest(path)
    if _seal(manifest) != manifest.get("sha256"):
        raise TraceError(f"{path}: the manifest has been changed since it was recorded. {_AGAIN}")
    for cell in manifest["cells"]:
        place = f"{path}: {cell['stage']} {cell['config']}"
        stage = stages().get(cell["stage"])
        if stage is None or declaration(stage) != cell["declaration"]:
            raise TraceError(f"{place}: the stage's taps have changed since it was recorded. {_AGAIN}")
        if stage.component and stage.component not in cell["components"]:
            raise TraceError(f"{place}: no checkpoint of its {stage.component}. {_AGAIN}")
        for case in cell["cases"]:
            shard = path.with_suffix("") / case["shard"]
            _require(shard, case["sha256"])
            if problem := references_problem(case, shards.sizes(shard)):
                raise TraceError(f"{place} {case['case']}: {problem}. {_AGAIN}")
    return TraceFile(path, manifest, _checkpoints(path, manifest["checkpoints"], checkpoint))


def _checkpoints(path: Path, entries: list[dict[str, str]], elsewhere: Path | None) -> dict[str, Path]:
    if elsewhere and len(entries) != 1:
        raise TraceError(f"{path}: names {len(entries)} checkpoints, so --checkpoint cannot stand for one")
    found = {}
    for entry in entries:
        at = entry["path"].replace("checkpoints:", str(FIXTURES))
        own = path.with_suffix("") / "weights" / entry["name"]
        found[entry["name"]] = elsewhere or (own if at.startswith("trace:") else Path(at))
        _require(found[entry["name"]], entry["sha256"])
    return found


def _require(path: Path, digest: str) -> None:
    try:
        if not path.exists():
            raise TraceError(f"{path}: not there, and the trace needs it")
        if not (path.is_file() or path.is_dir()):
            raise TraceError(f"{path}: neither a file nor a folder")
        found = shards.sha256(path)
    except (OSError, ValueError) as error:
        raise TraceError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if found != digest:
        raise TraceError(f"{path}: truncated or changed: SHA-256 {found[:12]}…, recorded with {digest[:12]}…")


def _unpack(pair: Pair, case: Case, entry: dict[str, Any], arrays: dict[str, np.ndarray], place: str) -> Recorded:
    trace = _trace(entry["reference"], arrays)
    keys = list(trace.calls)
    trace.events = [(side, *keys[number]) for side, number in entry["events"]]
    oracle, free = (None if entry[k] is None else _trace(entry[k], arrays) for k in ("oracle", "free"))
    inputs = {name: _leaf(leaf, arrays) for name, leaf in entry["inputs"].items()}
    case = _recorded_inputs(case, inputs, place)
    return Recorded(pair, case, trace, oracle, entry["repeats"], entry["case"], free, entry["moving"])


def _trace(calls: list[dict[str, Any]], arrays: dict[str, np.ndarray]) -> Trace:
    trace = Trace()
    for call in calls:
        inputs, outputs = ({k: _leaf(v, arrays) for k, v in call[side].items()} for side in ("inputs", "outputs"))
        sums = {key: call[key] for key in ("sums", "sums_before") if key in call}  # of the reference alone
        trace.calls[call["tap"], call["call"]] = Call(call["tap"], call["call"], inputs, outputs, **sums)
    return trace


def _leaf(leaf: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    if "value" in leaf:
        return leaf["value"]
    if "to" in leaf:
        delta = arrays[leaf["data"]].astype(np.float64) if "data" in leaf else 0.0
        values = arrays[leaf["to"]].astype(np.float64) + delta
    else:
        values = arrays[leaf["data"]]
    return Tensor(values.reshape(leaf["shape"]), leaf["dtype"])


def _recorded_inputs(case: Case, recorded: dict[str, Any], place: str) -> Case:
    """The case with the arrays that were recorded: another machine's libm may make them a bit off.

    Raises TraceError where they are more than that, or where anything else of the case has changed.
    """
    now = flatten(case, "", MLX(), {})
    for name in now.keys() | recorded.keys():
        if not _alike(now.get(name), recorded.get(name)):
            raise TraceError(f"{place}: its input {name} is another since it was recorded. {_AGAIN}")
    grafted: Case = graft(case, "", MLX(), recorded)
    return grafted


def _alike(now: Any, recorded: Any) -> bool:
    if not (isinstance(now, Tensor) and isinstance(recorded, Tensor)):
        return bool(_portable(now) == recorded)
    a, b = now.values, recorded.values
    return now.dtype == recorded.dtype and a.shape == b.shape and np.allclose(a, b, rtol=1e-5, atol=1e-6)
