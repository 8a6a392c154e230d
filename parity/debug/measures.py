"""Numbers that tell a picture from noise, and one tensor from another. All in float64."""

from __future__ import annotations

import numpy as np

from ..tap.trace import Tensor, Trace

NOISE_RATIO = (
    0.7  # local-variance ratio above which values read as noise: reported for the 19B model; white noise: 1.13
)
STRUCTURE = (
    0.7  # autocorrelation of latents that show something, at least; real ones 0.9, textured noise 0.02–0.2: same
)


def std(x: np.ndarray) -> float:
    return float(np.std(x, dtype=np.float64)) if x.size else float("nan")


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r over all elements; NaN where one of them is constant."""
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    a, b = a - a.mean(), b - b.mean()
    scale = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / scale) if scale else float("nan")


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """‖a − b‖ / ‖b‖; infinite where ``a`` is not finite and ``b`` is, or where the shapes differ."""
    if a.shape != b.shape:
        return float("inf")
    a, b = a.astype(np.float64), b.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    kept = np.isfinite(b)
    norm, gap = np.linalg.norm(b[kept]), np.linalg.norm(a[kept] - b[kept])
    return float(gap / norm) if norm else (0.0 if not gap else float("inf"))


def autocorrelation(x: np.ndarray) -> float:
    """Correlation of each value with its right and lower neighbour, ``(…, H, W)``, each map about its own mean."""
    x = x.astype(np.float64)
    x = x - x.mean(axis=(-2, -1), keepdims=True)
    pairs = [(x[..., 1:], x[..., :-1]), (x[..., 1:, :], x[..., :-1, :])]
    energy = sum(np.sum(a * a) + np.sum(b * b) for a, b in pairs) / 2
    return float(sum(np.sum(a * b) for a, b in pairs) / energy) if energy else float("nan")


def local_variance_ratio(x: np.ndarray) -> float:
    """Mean |difference of neighbours| / standard deviation, ``(…, H, W)``: 1.13 of white noise, near 0 of a picture."""
    x = x.astype(np.float64)
    steps = np.concatenate([np.abs(np.diff(x, axis=axis)).ravel() for axis in (-2, -1)])
    return float(steps.mean() / x.std()) if steps.size and x.std() else float("nan")


def dc_ratio(x: np.ndarray) -> float:
    """The share of the energy that is the mean of its map, ``(…, H, W)``."""
    x = x.astype(np.float64)
    energy = np.sum(x * x)
    means = x.mean(axis=(-2, -1))
    return float(np.sum(means * means) * x.shape[-1] * x.shape[-2] / energy) if energy else float("nan")


def tolerance(dtype: str) -> float:
    """Relative distance up to which two free runs agree. Correct float32 runs of the tiny checkpoints end within 1e-5,
    a planted fault starts above 1e-2; bfloat16 has 8 bits, and both sides round at each operation."""
    return 1e-3 if dtype == "float32" else 0.1


def departures(ours: Trace, reference: Trace) -> list[tuple[str, float]]:
    """(place, relative distance) of every tensor that both sides have, in the order in which ours came to be."""
    found = []
    for kind, tap, index in ours.events:
        call, other = ours.calls[tap, index], reference.calls.get((tap, index))
        if other is None:
            continue
        leaves, others = (call.inputs, other.inputs) if kind == "in" else (call.outputs, other.outputs)
        for name, leaf in leaves.items():
            wanted = others.get(name)
            if isinstance(leaf, Tensor) and isinstance(wanted, Tensor) and leaf.values.dtype.kind == "f":
                place = f"{tap}:{name}" if kind == "in" else f"{tap}.{name}" if name else tap
                found.append((place, distance(leaf.values, wanted.values)))
    return found


def first_departure(found: list[tuple[str, float]], allowed: float) -> tuple[str, float] | None:
    return next(((place, gap) for place, gap in found if not gap <= allowed), None)
