"""Layers too large for a float64 oracle, judged at sampled positions: a few hundred outputs are computed exactly, in
seconds, whatever the size of the rest. NumPy alone, so that it serves any framework's arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, Literal

import numpy as np

from . import metrics, tolerance
from .device import counted
from .rules import ratios

Array = np.ndarray
Kind = Literal["linear", "convolution", "attention"]
COUNT = 256  # positions


def ratio(ours: Array, exact: Array, dtype: str, terms: int, primitive: str = "matmul") -> float:
    """How far ``ours`` is from the exact values, in units of honest rounding; infinite for NaN or another shape.

    Honest is, in half precision, the exact values rounded once, and in float32 the floor of so many terms.
    """
    if ours.shape != exact.shape or not np.isfinite(ours).all():
        return float("inf")
    least = tolerance.Floor("float32", counted(primitive, terms)).value
    return ratios(metrics.compare(ours, rounded(exact, dtype), exact), least)[1]


def limit(dtype: str) -> float:
    """The largest ratio that is rounding. Half precision is compared with its own rounding, and float32 with a floor
    that says nothing of how well a function is approximated."""
    return tolerance.DEVICE if dtype == "float32" else tolerance.K


def rounded(exact: Array, dtype: str) -> Array:
    """Values in half precision, to the nearest and to even; others as they are, since their floor stands for it."""
    if dtype == "float16":
        return exact.astype(np.float16).astype(np.float64)
    if dtype == "bfloat16":
        bits = exact.astype(np.float32).view(np.uint32)
        bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return (bits & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    return exact


def judge_layer(kind: Kind, at: Array, ours: Array, operands: tuple[Array, ...], dtype: str, **options: Any) -> float:
    """The :func:`ratio` of a large layer at sampled positions of its output.

    kind: linear (x, weight[, bias]), convolution (x, weight[, bias]; channels-last, weights ``(out, …, in)``) or
    attention (q, k, v, each ``(B, H, T, D)``). at: :func:`positions` of the output without its last axis.
    ours: the output there. options: those of :func:`linear`, :func:`convolution` or :func:`attention`.
    """
    # Without a fused kernel the keys of attention are summed as a matrix product is.
    terms = operands[1].shape[-2] if kind == "attention" else operands[1][0].size
    return ratio(ours, _KINDS[kind](at, *operands, **options), dtype, terms)


def positions(shape: tuple[int, ...], count: int = COUNT) -> Array:
    """Random positions ``(count, axes)``, every corner among them: tails and edges go wrong first."""
    corners = [
        tuple(n - 1 if last else 0 for n, last in zip(shape, at, strict=True))
        for at in product((0, 1), repeat=len(shape))
    ]
    rng = np.random.default_rng(len(shape) + sum(shape))
    random = [rng.integers(0, n, max(count - len(corners), 0)) for n in shape]
    return np.concatenate([np.array(corners, np.int64), np.stack(random, axis=1)])


# ---- exact values ----------------------------------------------------------------------------------------------------


def linear(at: Array, x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Rows of ``x @ weight.T + bias``: ``(…, in)`` and ``(out, in)`` → ``(positions, out)``."""
    found: Array = x[tuple(at.T)].astype(np.float64) @ weight.astype(np.float64).T
    return found if bias is None else found + bias.astype(np.float64)


def convolution(
    at: Array,
    x: Array,
    weight: Array,
    bias: Array | None = None,
    stride: int = 1,
    padding: tuple[int, ...] = (),
    dilation: int = 1,
) -> Array:
    """Outputs of a convolution of ``(N, …, C)``, zeros around it → ``(positions, out)``."""
    kernel = weight.shape[1:-1]
    patches = np.zeros((len(at), *kernel, x.shape[-1]))
    for offset in np.ndindex(*kernel):
        where = at[:, 1:] * stride + np.multiply(offset, dilation) - (padding or 0)
        inside = ((where >= 0) & (where < x.shape[1:-1])).all(axis=1)
        patches[(inside, *offset)] = x[(at[inside, 0], *where[inside].T)]
    found: Array = patches.reshape(len(at), -1) @ weight.astype(np.float64).reshape(len(weight), -1).T
    return found if bias is None else found + bias.astype(np.float64)


def transposed(at: Array, x: Array, weight: Array, stride: int, padding: int = 0) -> Array:
    """Outputs of a transposed convolution of ``(N, T, C)``; weights ``(out, k, in)`` → ``(positions, out)``."""
    found = np.zeros((len(at), len(weight)))
    for tap in range(weight.shape[1]):
        begun = at[:, 1] + padding - tap
        hit = (begun % stride == 0) & (begun >= 0) & (begun < stride * x.shape[1])
        found[hit] += x[at[hit, 0], begun[hit] // stride].astype(np.float64) @ weight[:, tap].astype(np.float64).T
    return found


def attention(at: Array, q: Array, k: Array, v: Array, scale: float | None = None, mask: Array | None = None) -> Array:
    """Outputs of softmax(qkᵀ·scale + mask)v at ``(batch, head, query)`` → ``(positions, D)``. mask: additive; its shape
    broadcasts to ``(B, H, T, S)``."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    found = np.empty((len(at), v.shape[-1]))
    whole = None if mask is None else np.broadcast_to(mask, (*q.shape[:3], k.shape[2]))
    for batch, head in {(int(b), int(h)) for b, h, _ in at}:
        mine = (at[:, 0] == batch) & (at[:, 1] == head)
        rows = at[mine, 2]
        scores = q[batch, head, rows].astype(np.float64) @ k[batch, head].astype(np.float64).T * scale
        if whole is not None:
            scores += whole[batch, head, rows].astype(np.float64)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        found[mine] = weights @ v[batch, head].astype(np.float64) / weights.sum(-1, keepdims=True)
    return found


_KINDS: dict[Kind, Callable[..., Array]] = {"linear": linear, "convolution": convolution, "attention": attention}
