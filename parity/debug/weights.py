"""Every tensor in memory against the file: its values, shape and dtype; which are constant, zero or identical; and what
a LoRA changed.
"""

from __future__ import annotations

import argparse
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import permutations
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ltx2_mlx.errors import InputError, LTX2Error
from ltx2_mlx.loading.load import build
from ltx2_mlx.loading.lora import LoraPathStrength, fitted_to, read_lora

from ..run.cells import IN_MEMORY, needed_for
from .finding import Finding, Lines, Table
from .measures import distance, std
from .subject import Subject


@dataclass(frozen=True)
class Loaded:
    """The facts kept of a parameter: its size, the std in memory and in the file, its one value if it has only one, a
    hash of its values, and whether they are the file's in some order of axes."""

    part: str
    name: str
    size: int
    std: float
    std_in_file: float
    constant: float | None
    digest: tuple[tuple[int, ...], int]
    right: bool

    @property
    def place(self) -> str:
        return f"{self.part} {self.name}"


def look(subject: Subject, args: argparse.Namespace) -> Finding:
    parts = [p for p in subject.file.components() if p and "statistics" not in p and fnmatchcase(p, args.component)]
    loaded: list[Loaded] = []
    rows = []
    for part in parts:
        try:
            large = needed_for(part, subject.file) > IN_MEMORY  # ours alone is loaded
            module = None if large else subject.load("ours", part)
        except LTX2Error as error:
            return Finding(f"{part} does not load: {error}")
        if large:
            raise InputError(
                f"{part} of {subject.checkpoint} is too large to be held in memory. Look at another part with "
                "--component, or at this one's blocks with: parity run --checkpoint"
            )
        found = list(_compare(subject, part, module))
        loaded += found
        stds = [t.std for t in found]
        wrong = sum(not t.right for t in found)
        rows.append((part, len(found), sum(t.size for t in found), wrong, min(stds), max(stds)))
    columns = ("part", "tensors", "parameters", "not the file's", "smallest std", "largest std")
    tables = [Table(f"{subject.checkpoint}", columns, rows)]
    constant = [t for t in loaded if t.size > 1 and t.constant is not None]
    twins = _identical(loaded)
    odd = [
        ("constant", len(constant), constant[0].place if constant else None),
        ("of them zero", sum(t.constant == 0 for t in constant), None),
        ("identical to another", len(twins), twins[0] if twins else None),
    ]
    tables.append(Table("worth a look", ("", "tensors", "the first"), odd))
    memory, file = (
        [max(value, 1e-12) for value in values] for values in ([t.std for t in loaded], [t.std_in_file for t in loaded])
    )
    series = {"ours": memory, "reference: the file": file}
    charts = [Lines("std of every tensor", "std", [t.place for t in loaded], series, True)]
    said = _sentence(subject, loaded, constant, twins)
    if args.lora:
        table, lora = _lora(subject, args.lora)
        tables.append(table)
        said = lora if "every" in said else f"{said} {lora}"
    return Finding(said, [t for t in tables if t.rows], charts)


def _sentence(subject: Subject, loaded: list[Loaded], constant: list[Loaded], twins: list[str]) -> str:
    if wrong := [t for t in loaded if not t.right]:
        parts = ", ".join(f"{n} of {part}" for part, n in Counter(t.part for t in wrong).items())
        zero = sum(t.constant == 0 for t in wrong)
        return (
            f"{len(wrong)} of {len(loaded)} tensors do not hold the file's values ({parts}; {zero} of them are zero): "
            f"they were not loaded. The first is {wrong[0].place}."
        )
    odd = [f"{len(constant)} constant" if constant else "", f"{len(twins)} identical to another" if twins else ""]
    said = " and ".join(o for o in odd if o) or "none is constant, none like another"
    return f"All {len(loaded)} tensors hold the file's values, every one of them; {said}."


def _compare(subject: Subject, part: str, module: Any) -> Iterator[Loaded]:
    _, keys = build(part, subject.file)
    arrays = subject.file.arrays()
    for name, value in dict(tree_flatten(module.parameters())).items():
        memory, file = (
            subject.as_numpy(value),
            subject.as_numpy(_in_file(subject, arrays, keys[name]).astype(value.dtype)),
        )
        constant = float(memory.flat[0]) if np.ptp(memory) == 0 else None
        digest = (memory.shape, hash(memory.tobytes()))
        yield Loaded(part, name, memory.size, std(memory), std(file), constant, digest, _right(file, memory))


def _in_file(subject: Subject, arrays: Mapping[str, mx.array], key: str) -> mx.array:
    """A tensor as the file means it: float8 by its values, scaled where a scale lies beside it."""
    if subject.file.tensors[key].dtype != "F8_E4M3":
        return arrays[key]
    values = mx.from_fp8(arrays[key], mx.float32)
    return values * arrays[f"{key}_scale"] if f"{key}_scale" in arrays else values


def _right(file: np.ndarray, memory: np.ndarray) -> bool:
    """The same values, with the axes in some order: convolutions are channels-last in memory."""
    orders = permutations(range(file.ndim))
    fitting = (order for order in orders if tuple(file.shape[i] for i in order) == memory.shape)
    return any(np.array_equal(file.transpose(order), memory) for order in fitting)


def _identical(loaded: list[Loaded]) -> list[str]:
    """Tensors that hold the same values as an earlier one (of more than one value, not constant). Encoders and decoders
    share their statistics, and that is right."""
    seen: dict[tuple[tuple[int, ...], int], str] = {}
    twins = []
    for t in loaded:
        if t.constant is not None or "per_channel_statistics" in t.name:
            continue
        other = seen.setdefault(t.digest, t.place)
        if other != t.place:
            twins.append(f"{t.place} is {other}")
    return twins


def _lora(subject: Subject, path: Path) -> tuple[Table, str]:
    """A LoRA fused at strength 1, against W + B·A·α/rank worked out here."""
    empty = Table("", (), [])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pairs that meet no layer: said below
            module = subject.sides["ours"].load("transformer", subject.checkpoint, {}, subject.dtype, ((path, 1.0),))
        fused, plain = (dict(tree_flatten(m.parameters())) for m in (module, subject.load("ours", "transformer")))
        lora, report = fitted_to(read_lora(LoraPathStrength(path)), {name: x.shape for name, x in plain.items()})
    except LTX2Error as error:
        return empty, f"The LoRA does not fit, and would do nothing: {error}"
    rows = []
    for layer, pair in sorted(lora.pairs.items()):
        a, b = map(subject.as_numpy, pair)
        before, after = (subject.as_numpy(weights[f"{layer}.weight"]) for weights in (plain, fused))
        meant = before + lora.scales.get(layer, 1.0) * (b @ a)
        rows.append((f"{layer}.weight", distance(meant, before), distance(after, before), distance(after, meant)))
    mx.clear_cache()
    table = Table(f"LoRA {path}", ("weight", "change meant", "change found", "off by"), rows)
    changed = sum(found > 0 for _, _, found, _ in rows)
    allowed = 1e-2  # both the product and the sum are rounded to the file's bfloat16
    right = sum(off <= allowed for *_, off in rows)
    said = f"{report.matched} of {report.pairs} pairs of the LoRA match a weight"
    if not changed:
        return table, f"{said}, and not one weight is changed: the LoRA does nothing on this load path."
    if right < len(rows):
        return table, f"{said}, {changed} weights are changed, but only {right} to W + B·A."
    return (
        table,
        f"{said}, and each of the {changed} weights is W + B·A, changed by {max(r[1] for r in rows):.1%} at most.",
    )
