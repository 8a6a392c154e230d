"""The look of a difference: a set of short signs, from the arrays of the first tensor that fails and its place.

No sign decides alone; ``explain`` weighs them by how often each was seen with faults whose cause is known.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ..judge import tolerance
from ..judge.results import Reason, Row
from ..tap.side import PROBE
from ..tap.trace import Tensor, Trace

Signs = frozenset[str]

# What the name of a tap says about the work done there; the first that fits.
_PLACES = {
    "at an eps": r":eps$",
    "at a mask": r"mask",
    "at rotary tables": r"freqs|rotary_emb(?!\.)|:pe|position_embeddings",
    "at a rotation": r"apply_rotary",
    "at positions": r"position|bounds|coords",
    "at sigmas": r"sigma|timestep|adaln|time_proj|^ltx2\.",
    "at modulation": r"ada_values|scale_shift",
    "at statistics": r"normalize|_norm_and_concat|_rescale|per_token_rms",
    "at a norm": r"norm\d?(:x|\.low)?$",
    "at an activation": r"act[_.\d]*|non_linearity|net\.0|\.act",
    "at a resampling": r"upsample|downsample|resample|blur|pixel_shuffle|lowpass",
    "at tiles": r"tile",
    "at a patchifier": r"patchify",
    "at a spectrum": r"mel|stft",
    "at attention": r"attn|attention|to_out|o_proj",
    "at guidance": r"^(multi|cfg|apg|stg|skip|bin)",
    "at text": r"registers|connector|embed|Gemma|caption",
    "at a convolution": r"conv|ups\.\d",
    "at a projection": r"proj|linear",
}


def signs(row: Row, rows: list[Row], reference: Any, ours: Any, trace: Trace) -> Signs:
    """Signs of one failing row, with all rows of its run, the two values there, and all that the reference recorded."""
    found = {next((place for place, pattern in _PLACES.items() if re.search(pattern, row.name)), "elsewhere")}
    found.add("flows in" if ":" in row.name else "comes out")
    if re.search(rf"\.{PROBE}(\.|$)", row.name):
        found.add("on small inputs only")
    found |= _spread(row, rows)
    if not isinstance(reference, Tensor) or not isinstance(ours, Tensor):
        return frozenset(found | _constants(row, reference, ours))
    if reference.dtype != ours.dtype:
        found.add("other dtype")
    m, r = ours.values, reference.values
    if m.shape != r.shape:
        return frozenset(found | _shapes(m.shape, r.shape))
    found |= _values(m.astype(np.float64), r.astype(np.float64), reference.dtype)
    return frozenset(found | _elsewhere(row, m, r, trace))


def _spread(row: Row, rows: list[Row]) -> Signs:
    """How much of the run fails: this tap alone, or what is named alike in other layers as well."""
    failed = {(r.name, r.call) for r in rows if r.verdict != "pass"}
    kind = re.sub(r"\d+", "#", row.name)
    alike = {(r.name, r.call) for r in rows if re.sub(r"\d+", "#", r.name) == kind}
    found = {"one tensor fails" if len(failed) == 1 else "a few fail" if len(failed) < 10 else "many fail"}
    if len(alike) > 1:
        share = len(alike & failed) / len(alike)
        found.add("in all layers alike" if share == 1 else "in some layers" if share > 0.1 else "in one layer")
    return frozenset(found)


def _elsewhere(row: Row, m: np.ndarray, r: np.ndarray, trace: Trace) -> Signs:
    """Signs that the value, or the error, is another tensor that the reference recorded; what it owes to the input."""
    found = set()
    if m.size < 3 or m.dtype.kind != "f" or not np.ptp(r):
        return frozenset()
    error, before = m.astype(np.float64) - r, True
    for side, name, index in trace.events:
        call = trace.calls[name, index]
        here = row.call == index and row.name.startswith(name)
        before = before and not (here and (side == "out" or ":" in row.name))
        for other in (call.inputs if side == "in" else call.outputs).values():
            if not isinstance(other, Tensor) or other.values.shape != m.shape or not np.ptp(other.values):
                continue
            if _same(m, other.values):
                when = "its own input" if here and side == "in" else "a sibling" if here else "an earlier tensor"
                found.add(f"is {when}" if here or before else "is a later tensor")
            elif _same(-error, other.values):
                found.add("another tensor is lacking")
            elif _same(error, other.values):
                found.add("another tensor is added")
            if here and side == "in" and ":" not in row.name:
                found |= _by_input(error, r, other.values)
    return frozenset(found | _curve(error, r))


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Up to float32 rounding; told by a few elements where it is not."""
    few = slice(None, None, max(1, a.size // 64))
    atol = 1e-5 * (float(np.abs(b.ravel()[few]).max()) or 1.0)
    return np.allclose(a.ravel()[few], b.ravel()[few], 1e-4, atol) and np.allclose(a, b, 1e-4, atol)


def _by_input(error: np.ndarray, r: np.ndarray, x: np.ndarray) -> Signs:
    """An error that the input decides: element by element, or by the size of its rows."""
    found = {"error follows the input"} if _curve(error, x.astype(np.float64)) else set()
    sizes, errors, values = (np.sqrt(np.mean(a.astype(np.float64) ** 2, axis=-1)).ravel() for a in (x, error, r))
    if sizes.size > 8 and sizes.min() > 0 and errors.min() > 0 and np.ptp(sizes):
        rank = [np.argsort(np.argsort(a)).astype(np.float64) for a in (sizes, errors / np.maximum(values, 1e-30))]
        slope = np.corrcoef(rank[0], rank[1])[0, 1]
        if abs(slope) > 0.6:
            found.add("worse where inputs are small" if slope < 0 else "worse where inputs are large")
    return frozenset(found)


def _curve(error: np.ndarray, by: np.ndarray) -> Signs:
    """A sign if equal values have equal errors, as with another pointwise function."""
    if error.size < 100 or not np.ptp(error):
        return frozenset()
    ordered = error.ravel()[np.argsort(by, axis=None)]
    smooth = np.abs(np.diff(ordered)).mean() < 0.2 * np.abs(ordered - ordered.mean()).mean()
    return frozenset({"error follows the value"} if smooth else ())


def _constants(row: Row, reference: Any, ours: Any) -> Signs:
    if row.verdict == "missing":
        return frozenset({"not called"})
    told = {Reason.EXTRA: "called by ours alone", Reason.ERROR: "raises"}
    if row.reason in told:
        return frozenset({told[row.reason]})
    if isinstance(reference, Tensor) or isinstance(ours, Tensor):
        return frozenset({"an array on one side only"})
    return frozenset({"other argument", f"of type {type(reference).__name__}"})


def _shapes(ours: tuple[int, ...], reference: tuple[int, ...]) -> Signs:
    if sorted(ours) == sorted(reference):
        return frozenset({"shape transposed"})
    if len(ours) != len(reference):
        return frozenset({"other rank"})
    steps = [a - b for a, b in zip(ours, reference, strict=True) if a != b]
    return frozenset({"longer" if sum(steps) > 0 else "shorter", "by one" if abs(steps[0]) == 1 else "by more"})


def _values(m: np.ndarray, r: np.ndarray, dtype: str) -> Signs:
    if not np.array_equal(np.isfinite(m), np.isfinite(r)):
        return frozenset({"not finite"})
    keep = np.isfinite(m) & (np.abs(r) < 1e30) & (np.abs(m) < 1e30)
    if not keep.all():
        same = np.array_equal(np.abs(m) < 1e30, np.abs(r) < 1e30)
        found = {"masked elements"} if same else {"masked elements", "masked on one side only"}
        m, r = np.where(keep, m, 0), np.where(keep, r, 0)
    else:
        found = set()
    error, rms = m - r, float(np.sqrt(np.mean(r * r))) or 1.0
    u = tolerance.UNIT_ROUNDOFF.get(dtype, 0.0)
    off = np.abs(error) > 4 * u * (np.abs(r) + rms)
    if not off.any():
        return frozenset(found | {"within rounding, element by element"})
    found |= _size(m, r, error, rms, off) | _order(m, r, 16 * u * rms) | _fits(m, r, error) | _where(error, off)
    if dtype == "float32" and np.array_equal(m, _bfloat16(m)) and not np.array_equal(r, _bfloat16(r)):
        found.add("rounded to bfloat16")
    if dtype == "float32" and (np.abs(error) <= 2.0**-8 * np.abs(r)).all() and np.abs(error).mean() > 2.0**-12 * rms:
        found.add("error of a bfloat16 rounding")
    return frozenset(found)


def _bfloat16(x: np.ndarray) -> np.ndarray:
    bits = x.astype(np.float32).view(np.uint32)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def _size(m: np.ndarray, r: np.ndarray, error: np.ndarray, rms: float, off: np.ndarray) -> Signs:
    relative = float(np.sqrt(np.mean(error * error))) / rms
    sizes = {1e-6: "error under 1e-6", 1e-4: "error under 1e-4", 1e-2: "error under 1 %", 0.3: "error under 30 %"}
    found = {next((name for limit, name in sizes.items() if relative < limit), "error as large as the values")}
    share = float(off.mean())
    found.add("few elements" if share < 0.03 else "a part of the elements" if share < 0.6 else "most elements")
    if np.any((m == 0) & (r != 0) & off):
        found.add("zeros for values")
    if np.any((r == 0) & (m != 0) & off):
        found.add("values for zeros")
    if m.size > 1 and np.ptp(m) == 0:
        found.add("all the same")
    if m.size > 2 and m.std() and r.std():
        r_value = float(np.corrcoef(m.ravel(), r.ravel())[0, 1])
        found.add("correlated" if r_value > 0.999 else "half correlated" if r_value > 0.5 else "uncorrelated")
        if r_value < 0.999 and abs(m.std() / r.std() - 1) < 0.01:
            found.add("spread kept")
    if m.size > 20:
        large = np.abs(r) > np.median(np.abs(r))
        if large.any() and not large.all():
            ratio = np.abs(error)[large].mean() / (np.abs(error)[~large].mean() or 1e-30)
            if not 0.7 < ratio < 3:
                found.add("error grows with the values" if ratio > 1 else "error shrinks with the values")
    return frozenset(found)


def _order(m: np.ndarray, r: np.ndarray, atol: float) -> Signs:
    """Permutations: of all values, along one axis, mirrored, shifted by one."""
    found = set()
    if m.size > 2 and np.allclose(np.sort(m, axis=None), np.sort(r, axis=None), rtol=0, atol=atol):
        found.add("same values, another order")
    for axis in range(m.ndim):
        if m.shape[axis] < 3:
            continue
        if found and np.allclose(np.sort(m, axis=axis), np.sort(r, axis=axis), rtol=0, atol=atol):
            found.add("another order along one axis")
        if np.allclose(np.flip(m, axis), r, rtol=0, atol=atol):
            found.add("mirrored")
        if m.shape[axis] % 2 == 0 and np.allclose(np.roll(m, m.shape[axis] // 2, axis), r, rtol=0, atol=atol):
            found.add("halves exchanged")
        a, b = np.moveaxis(m, axis, 0), np.moveaxis(r, axis, 0)
        if np.ptp(b) and (
            np.allclose(a[1:], b[:-1], rtol=0, atol=atol) or np.allclose(a[:-1], b[1:], rtol=0, atol=atol)
        ):
            found.add("shifted by one")
    return frozenset(found)


def _fits(m: np.ndarray, r: np.ndarray, error: np.ndarray) -> Signs:
    """Signs of a factor or an offset, one for all or one for each slice along an axis, that takes the error away."""
    total = float((error * error).sum())
    found: set[str] = set()

    def explains(axes: tuple[int, ...] | None, each: str = "") -> Signs:
        kind, where = ("a", f" for each {each}") if each else ("one", "")
        power = (r * r).sum(axis=axes, keepdims=True)
        factor = np.divide((m * r).sum(axis=axes, keepdims=True), power, out=np.ones_like(power), where=power > 0)
        fits = set()
        if float(((m - factor * r) ** 2).sum()) < 0.02 * total:
            fits.add(f"{kind} factor{where}")
            if axes is None and abs(float(factor.ravel()[0]) + 1) < 1e-3:
                fits.add("the sign")
        if float(((error - error.mean(axis=axes, keepdims=True)) ** 2).sum()) < 0.02 * total:
            fits.add(f"{kind} offset{where}")
        return frozenset(fits)

    if m.size > 4:
        found |= explains(None)
    if found or m.ndim < 2:
        return frozenset(found)
    for axis in range(m.ndim):
        rest = tuple(i for i in range(m.ndim) if i != axis)
        if m.shape[axis] > 1 and m.size // m.shape[axis] > 4:
            found |= explains(rest, "slice")
    for axis in {m.ndim - 1, 1}:
        if m.shape[axis] > 4:
            found |= explains((axis,), "position")
    return frozenset(found)


def _where(error: np.ndarray, off: np.ndarray) -> Signs:
    """Which slices along an axis are off: one, a few, the ends; whether the error grows."""
    found = set()
    for axis in range(error.ndim):
        n = error.shape[axis]
        if n < 4:
            continue
        rest = tuple(i for i in range(error.ndim) if i != axis)
        wrong = np.flatnonzero(off.any(axis=rest))
        energy = np.sqrt((error**2).mean(axis=rest))
        if len(wrong) == 1:
            found.add("one slice")
        if len(wrong) < n:
            edge = max(1, n // 6)
            head, tail = wrong < edge, wrong >= n - edge
            if (head | tail).all():
                both = head.any() and tail.any()
                found.add("at both ends only" if both else "at the start only" if head.any() else "at the end only")
            else:
                found.add("in some slices")
        elif n >= 6 and energy.min() > 0 and np.corrcoef(np.arange(n), np.log(energy))[0, 1] > 0.8:
            found.add("grows along an axis")
    return frozenset(found)
