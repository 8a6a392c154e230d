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
