"""Numbers about two arrays and the oracle between them. Norms accumulate in float64; nothing here decides."""

from __future__ import annotations

from typing import Any

import numpy as np


def compare(ours: np.ndarray, reference: np.ndarray, oracle: np.ndarray) -> dict[str, float]:
    """Errors of both sides against the oracle, and the familiar similarities of ours to the reference."""
    m, r, o = (np.asarray(a, dtype=np.float64).ravel() for a in (ours, reference, oracle))
    with np.errstate(all="ignore"):
        rms = _norm(o) / np.sqrt(max(o.size, 1)) or 1.0
        em, er = np.abs(m - o), np.abs(r - o)
        mean_m, mean_r = m.mean(), r.mean()
        dm, dr = m - mean_m, r - mean_r
        std_m, std_r = np.sqrt(np.mean(dm * dm)), np.sqrt(np.mean(dr * dr))
        covariance = np.mean(dm * dr)
        slope = covariance / (std_r * std_r) if std_r else float("nan")
        return {
            "pearson": covariance / (std_m * std_r) if std_m and std_r else float("nan"),
            "one_minus_r": float(np.mean((dm / std_m - dr / std_r) ** 2) / 2) if std_m and std_r else float("nan"),
            "cosine": float(m @ r) / (_norm(m) * _norm(r)) if _norm(m) and _norm(r) else float("nan"),
            "mean_ref": mean_r,
            "mean_mlx": mean_m,
            "std_ref": std_r,
            "std_mlx": std_m,
            "std_ratio": std_m / std_r if std_r else float("nan"),
            "slope": slope,
            "offset": mean_m - slope * mean_r,
            "rel_l2": _norm(em) / (_norm(o) or 1.0),
            "rel_l2_reference": _norm(er) / (_norm(o) or 1.0),
            "max_abs": em.max(initial=0.0),
            "tail": em.max(initial=0.0) / rms,
            "tail_reference": er.max(initial=0.0) / rms,
            "p999": _quantile(em) / rms,
            "p999_reference": _quantile(er) / rms,
            "peak": np.abs(o).max(initial=0.0) / rms or 1.0,
        }


def _norm(a: np.ndarray) -> float:
    return float(np.sqrt(a @ a))


def _quantile(a: np.ndarray) -> float:
    """The 99.9 % quantile (the next larger element), the maximum for fewer than 1,000 elements."""
    if not a.size:
        return 0.0
    k = int(np.ceil(0.999 * (a.size - 1)))
    return float(np.partition(a, k)[k])


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
    mean = square.mean(axis=tuple(axis for axis in range(square.ndim) if axis not in axes))
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


def masked(array: np.ndarray, dtype: str) -> np.ndarray:
    """Where an additive mask stands at its dtype's lowest value."""
    lowest: Any = {"float16": -65504.0, "bfloat16": -3.3895313892515355e38, "float64": np.finfo(np.float64).min}
    return array <= lowest.get(dtype, float(np.finfo(np.float32).min))


NAMES = tuple(compare(np.ones(1), np.ones(1), np.ones(1)))
