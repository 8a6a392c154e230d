"""What a difference looks like: a set of short signs, from the arrays of the first tensor that fails and its place.

No sign decides alone; ``explain`` weighs them by how often each was seen with faults whose cause is known.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from . import tolerance
from .results import Row
from .tapping import PROBE
from .trace import Tensor

Signs = frozenset[str]

# What the name of a tap says about the work done there; the first that fits.
_PLACES = {
    "at an eps": r"<eps$",
    "at a mask": r"mask",
    "at rotary tables": r"freqs|rotary_emb(?!\.)|<pe|position_embeddings",
    "at a rotation": r"apply_rotary",
    "at positions": r"position|bounds|coords",
    "at sigmas": r"sigma|timestep|adaln|time_proj|^ltx2\.|^linear_quadratic|^beta\.",
    "at modulation": r"ada_values|scale_shift",
    "at statistics": r"normalize|_norm_and_concat|_rescale|per_token_rms",
    "at a norm": r"norm\d?(<x|\.low)?$",
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


def signs(row: Row, reference: Any, ours: Any, rows: list[Row]) -> Signs:
    """Of one failing row, the two values there, and all rows of its run."""
    found = {next((place for place, pattern in _PLACES.items() if re.search(pattern, row.name)), "elsewhere")}
    found.add("flows in" if "<" in row.name else "comes out")
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
    return frozenset(found | _values(m.astype(np.float64), r.astype(np.float64), reference.dtype))


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


def _constants(row: Row, reference: Any, ours: Any) -> Signs:
    if row.verdict == "missing":
        return frozenset({"not called"})
    if "the reference does not" in row.why:
        return frozenset({"called by ours alone"})
    if "Error" in row.why:
        return frozenset({"raises"})
    return frozenset({"other argument" if not isinstance(reference, Tensor) else "an array on one side only"})


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
    size = np.abs(r[off])
    if off.sum() > 20 and size.min() > 0:
        small = size < np.median(size)
        ratio = np.mean(np.abs(error[off])[small] / size[small]) / np.mean(np.abs(error[off])[~small] / size[~small])
        if not 0.2 < ratio < 5:
            found.add("worse where values are small" if ratio > 1 else "worse where values are large")
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
        a, b = np.moveaxis(m, axis, 0), np.moveaxis(r, axis, 0)
        if np.ptp(b) and (
            np.allclose(a[1:], b[:-1], rtol=0, atol=atol) or np.allclose(a[:-1], b[1:], rtol=0, atol=atol)
        ):
            found.add("shifted by one")
    return frozenset(found)


def _fits(m: np.ndarray, r: np.ndarray, error: np.ndarray) -> Signs:
    """What a factor or an offset, one for all or one for each slice along an axis, takes away of the error."""
    total, found = float((error * error).sum()), set()

    def explains(axes: tuple[int, ...] | None) -> Signs:
        kind = "one" if axes is None else "a"
        where = "" if axes is None else " for each slice"
        over = {"axis": axes, "keepdims": True}
        power = (r * r).sum(**over)
        factor = np.divide((m * r).sum(**over), power, out=np.ones_like(power), where=power > 0)
        fits = set()
        if float(((m - factor * r) ** 2).sum()) < 0.02 * total:
            fits.add(f"{kind} factor{where}")
            if axes is None and abs(float(factor.ravel()[0]) + 1) < 1e-3:
                fits.add("the sign")
        if float(((error - error.mean(**over)) ** 2).sum()) < 0.02 * total:
            fits.add(f"{kind} offset{where}")
        return frozenset(fits)

    if m.size > 4:
        found |= explains(None)
    if not found and m.ndim > 1:
        for axis in range(m.ndim):
            rest = tuple(i for i in range(m.ndim) if i != axis)
            if m.size // m.shape[axis] > 4:
                found |= explains(rest)
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
