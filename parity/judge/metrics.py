"""Numbers about two arrays and the oracle between them. Norms accumulate in float64; nothing here decides."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def compare(ours: np.ndarray, reference: np.ndarray, oracle: np.ndarray) -> dict[str, float]:
    """Errors of both sides against the oracle, and the familiar similarities of ours to the reference.

    Written for many small arrays: each sum is made once, and a reduction is the ufunc's own (``np.mean`` takes longer
    than the sum that it makes). Of large ones no more than six are held at a time: what leaves the processor's cache
    costs twice as much as all the arithmetic.
    """
    m, r, o = (np.asarray(a, dtype=np.float64).ravel() for a in (ours, reference, oracle))
    n, nan, spare = m.size, float("nan"), np.empty(m.size)
    with np.errstate(all="ignore"):
        norm_m, norm_r, norm_o = _norm(m), _norm(r), _norm(o)
        rms = norm_o / math.sqrt(max(n, 1)) or 1.0
        error, tail, p999 = _errors(m, o, spare)
        error_reference, tail_reference, p999_reference = _errors(r, o, spare)
        peak, product = _max(np.abs(o, out=spare)), float(m @ r)
        mean_m, mean_r = _mean(m), _mean(r)
        dm, dr = m - mean_m, r - mean_r
        std_m, std_r = (np.sqrt(_mean(np.multiply(d, d, out=spare))) for d in (dm, dr))
        covariance = _mean(np.multiply(dm, dr, out=spare))
        slope = covariance / (std_r * std_r) if std_r else nan
        both = std_m and std_r
        if both:
            apart = np.subtract(np.divide(dm, std_m, out=dm), np.divide(dr, std_r, out=dr), out=dm)
            apart_squared = _mean(np.multiply(apart, apart, out=spare))
        return {
            "pearson": covariance / (std_m * std_r) if both else nan,
            "one_minus_r": apart_squared / 2 if both else nan,
            "cosine": product / (norm_m * norm_r) if norm_m and norm_r else nan,
            "mean_ref": mean_r,
            "mean_mlx": mean_m,
            "std_ref": std_r,
            "std_mlx": std_m,
            "std_ratio": std_m / std_r if std_r else nan,
            "slope": slope,
            "offset": mean_m - slope * mean_r,
            "rel_l2": error / (norm_o or 1.0),
            "rel_l2_reference": error_reference / (norm_o or 1.0),
            "max_abs": tail,
            "tail": tail / rms,
            "tail_reference": tail_reference / rms,
            "p999": p999 / rms,
            "p999_reference": p999_reference / rms,
            "peak": peak / rms or 1.0,
        }


def _errors(a: np.ndarray, oracle: np.ndarray, spare: np.ndarray) -> tuple[float, float, float]:
    """The norm of the errors, the largest of them, and their 99.9 % quantile. spare: an array that is overwritten."""
    errors = np.abs(np.subtract(a, oracle, out=spare), out=spare)
    largest = _max(errors)
    return _norm(errors), largest, _quantile(errors, largest)


def _norm(a: np.ndarray) -> float:
    return math.sqrt(a @ a)


def _mean(a: np.ndarray) -> float:
    return np.add.reduce(a) / a.size if a.size else float("nan")


def _max(a: np.ndarray) -> float:
    return float(np.maximum.reduce(a, initial=0.0))


def _quantile(a: np.ndarray, largest: float) -> float:
    """The 99.9 % quantile (the next larger element): the largest of fewer than 1,000 elements."""
    k = math.ceil(0.999 * (a.size - 1))
    if k >= a.size - 1:
        return largest
    if a.size > SAMPLED and not math.isnan(largest):  # a NaN is the largest to sort, and larger than nothing
        top = a[a >= _bound(a)]
        if top.size >= a.size - k:
            a, k = top, k - (a.size - top.size)  # the same element, among few
    return float(np.partition(a, k)[k])


SAMPLED = 20_000  # elements; of more than these only the largest are sorted


def _bound(a: np.ndarray) -> float:
    """About the 99 % quantile, from 2,000 of the elements."""
    return float(np.partition(a[:: a.size // 2000], -20)[-20])


BINS = 64  # of a profile, along each axis


def profile(ours: np.ndarray, reference: np.ndarray, oracle: np.ndarray) -> dict[str, Any]:
    """Where the errors are: their root mean square in units of the oracle's, in at most ``BINS`` bins an axis.

    axes: for each axis longer than 1, its number, its size, and the error of ours and of the reference by bin.
    map: ours over the two longest of them (the earlier one down, the later one across), in whole decibels.
    """
    m, r, o = (np.asarray(a, dtype=np.float64) for a in (ours, reference, oracle))
    hidden = np.abs(o) > 1e37  # a mask's lowest values; that they agree is decided elsewhere
    with np.errstate(all="ignore"):
        scale = np.mean(np.where(hidden, 0.0, o) ** 2) or 1.0
        squares = [np.where(hidden, 0.0, a - o) ** 2 / scale for a in (m, r)]
        long = [axis for axis, size in enumerate(o.shape) if size > 1]
        axes = []
        for axis in long:
            sides = (np.sqrt(_binned(square, [axis])) for square in squares)
            mine, theirs = ([_three_digits(value) for value in side] for side in sides)
            axes.append({"axis": axis, "size": o.shape[axis], "ours": mine, "reference": theirs})
        found: dict[str, Any] = {"axes": axes}
        if len(long) > 1:
            pair = sorted(sorted(long, key=lambda axis: -o.shape[axis])[:2])
            decibels = 10 * np.log10(_binned(squares[0], pair))
            rows = [[round(value) if np.isfinite(value) else None for value in row] for row in decibels.tolist()]
            found["map"] = {"axes": pair, "ours": rows}
    return found


def _binned(square: np.ndarray, axes: list[int]) -> np.ndarray:
    """Mean over all axes but ``axes``, and over the bins of these."""
    mean: np.ndarray = np.mean(square, axis=tuple(axis for axis in range(square.ndim) if axis not in axes))
    for axis in range(mean.ndim):
        edges = np.linspace(0, mean.shape[axis], min(BINS, mean.shape[axis]), endpoint=False).astype(int)
        width = np.diff([*edges, mean.shape[axis]]).reshape([-1 if i == axis else 1 for i in range(mean.ndim)])
        mean = np.add.reduceat(mean, edges, axis=axis) / width
    return mean


def _three_digits(value: float) -> float | None:
    return float(f"{value:.3g}") if np.isfinite(value) else None


def fault(array: np.ndarray) -> str | None:
    """NaN or Inf, if any."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return None
    return "NaN" if np.isnan(array).any() else "Inf"


def is_constant(array: np.ndarray) -> bool:
    return array.size > 1 and bool((array == array.flat[0]).all())


_LOWEST: dict[str, float] = {
    "float16": -65504.0,
    "bfloat16": -3.3895313892515355e38,
    "float32": float(np.finfo(np.float32).min),
    "float64": np.finfo(np.float64).min,  # not a Python number: that would be cast to the array's dtype, and overflow
}


def masked(array: np.ndarray, dtype: str) -> np.ndarray | None:
    """Where an additive mask stands at its dtype's lowest value; None where nothing does."""
    lowest = _LOWEST.get(dtype, _LOWEST["float32"])
    if not array.size or np.minimum.reduce(array, axis=None) > lowest:  # of no NaN this is true
        return None
    hidden: np.ndarray = np.less_equal(array, lowest)
    return hidden if hidden.any() else None


NAMES = tuple(compare(np.ones(1), np.ones(1), np.ones(1)))
