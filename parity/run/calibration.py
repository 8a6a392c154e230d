"""The rounding of the device, measured before a run: each primitive of MLX against NumPy's float64.

A constant is what a verdict's ratio would be where torch made no error: 1 is what the floor assumes, and 3 is allowed.
Nothing of the product is called, so that a fault in it cannot widen its own tolerance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, prod

import mlx.core as mx
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from ..declare.inputs import normal
from ..judge import metrics, tolerance
from ..judge.device import Device, Measure, counted
from ..judge.rules import ratios

Array = np.ndarray


@dataclass(frozen=True)
class Probe:
    """One call of a primitive: how the device makes it and how NumPy does, from the same arrays."""

    primitive: str
    terms: int
    arrays: tuple[Array, ...]
    device: Callable[..., mx.array]
    exact: Callable[..., Array]


def measure(device: str, lanes: str = "ABC") -> Device:
    """The constants of ``device`` (cpu or gpu): in float32, and for lane B in half precision."""
    found: dict[tuple[str, str], Measure] = {}
    with mx.stream(getattr(mx, device)):
        for dtype in ("float32", *(("bfloat16", "float16") if "B" in lanes else ())):
            for probe in _probes() if dtype == "float32" else _half_probes():
                constant = _constant(probe, dtype, device)
                before = found.get((probe.primitive, dtype))
                if before is None or not constant <= before.constant:
                    found[probe.primitive, dtype] = Measure(probe.primitive, dtype, constant, probe.terms)
    return Device(tuple(found.values()))


def _constant(probe: Probe, dtype: str, device: str) -> float:
    """The ratio of a probe's error to the floor, rounded up so that it repeats; infinite for NaN."""
    given = [mx.array(a).astype(getattr(mx, dtype)) for a in probe.arrays]
    exact = probe.exact(*(np.array(a.astype(mx.float32)).astype(np.float64) for a in given))
    ours = np.array(probe.device(*given).astype(mx.float32))
    if ours.shape != exact.shape or not np.isfinite(ours).all():
        return float("inf")
    least = tolerance.Floor(dtype, counted(probe.primitive, probe.terms)).value
    return ceil(10 * ratios(metrics.compare(ours, exact, exact), least)[1]) / 10


# ---- in float32 ------------------------------------------------------------------------------------------------------


def _probes() -> Iterator[Probe]:
    yield from _products()
    yield from _reductions()
    yield from _elementwise()


def _half_probes() -> Iterator[Probe]:
    """The primitives that the product runs in half precision; activations, sums and group norms it runs in float32."""
    yield from (probe for probe in _products() if probe.terms < 4000 and probe.primitive != "softmax")
    yield from (probe for probe in _reductions() if probe.primitive in ("rms_norm", "layer_norm"))


def _products() -> Iterator[Probe]:
    """Matrix products, convolutions and attention, at the sizes of the small checkpoints and of the real ones."""
    for terms in (128, 896, 4096):
        a, b = normal("calibrate a", 48, terms), normal("calibrate b", terms, 40, scale=terms**-0.5)
        yield Probe("matmul", terms, (a, b), mx.matmul, np.matmul)
        bias = normal("calibrate bias", 40)
        yield Probe("matmul", terms, (bias, a, b), mx.addmm, _added_product)
    for sizes, kernel, channels in (
        ((70,), (7,), 128),
        ((40,), (3,), 512),
        ((9, 14), (3, 3), 64),
        ((9, 14), (3, 3), 256),
        ((5, 8, 9), (3, 3, 3), 32),
        ((4, 7, 6), (3, 3, 3), 128),
    ):
        n, terms = len(sizes), channels * prod(kernel)
        x = normal("calibrate x", 1, *sizes, channels)
        w = normal("calibrate w", 24, *kernel, channels, scale=terms**-0.5)
        yield Probe(f"conv{n}d", terms, (x, w), getattr(mx, f"conv{n}d"), _convolved)
    x, w = normal("calibrate x", 1, 40, 128), normal("calibrate w", 24, 16, 128, scale=512**-0.5)
    yield Probe("conv1d_transposed", 512, (x, w), lambda x, w: mx.conv_transpose1d(x, w, 4), _convolved_transposed)
    for keys in (48, 700):
        scores = normal("calibrate scores", 24, keys, scale=4.0)
        yield Probe("softmax", keys, (scores,), lambda x: mx.softmax(x, axis=-1), softmax)
        q, k, v = (normal(f"calibrate {n}", 1, 2, t, 64) for n, t in (("q", 24), ("k", keys), ("v", keys)))
        yield Probe("attention", keys, (q, k, v), attention, _attended)


def attention(q: mx.array, k: mx.array, v: mx.array, mask: mx.array | None = None) -> mx.array:
    """On a CPU, and for heads that no kernel for a GPU takes, the product asks for it in float32 alone."""
    fused = mx.default_device() != mx.Device(mx.cpu) and q.shape[-1] in (64, 128)
    wide = [a if fused else a.astype(mx.float32) for a in (q, k, v)]
    mask = mask.astype(wide[0].dtype) if mask is not None else None
    return mx.fast.scaled_dot_product_attention(*wide, scale=q.shape[-1] ** -0.5, mask=mask).astype(q.dtype)


def _reductions() -> Iterator[Probe]:
    for n in (128, 4096):
        x = normal("calibrate rows", 24, n) + np.float32(0.5)
        yield Probe("sum", n, (x,), lambda x: mx.mean(x, axis=-1), lambda x: x.mean(-1))
        yield Probe("sum", n, (x,), lambda x: mx.sum(x * x, axis=-1), lambda x: (x * x).sum(-1))
        for primitive in ("sum", "rms_norm"):  # the reference writes this norm as a mean, and we as one operation
            yield Probe(primitive, n, (x,), lambda x: mx.fast.rms_norm(x, None, 1e-6), rms_normed)
        ones = np.ones(n, np.float32)
        yield Probe("layer_norm", n, (x, ones), lambda x, w: mx.fast.layer_norm(x, w, None, 1e-6), layer_normed)
    x = normal("calibrate groups", 2, 24, 18, 16) + np.float32(0.5)
    yield Probe("group_norm", 24 * 18 * 16, (x,), _group_norm, lambda x: whitened(x, (1, 2, 3)))


def _group_norm(x: mx.array) -> mx.array:
    """One axis after the other, as the product takes it."""

    def mean(y: mx.array) -> mx.array:
        for axis in (3, 2, 1):
            y = mx.mean(y, axis=axis, keepdims=True)
        return y

    y = x - mean(x)
    return y * mx.rsqrt(mean(y * y) + 1e-6)


def _elementwise() -> Iterator[Probe]:
    """Over the arguments that the networks have: angles of a timestep reach 1,000."""
    near, wide = np.linspace(-9, 9, 6001, dtype=np.float32), np.linspace(-1000, 1000, 6001, dtype=np.float32)
    positive = np.linspace(1e-3, 40, 6001, dtype=np.float32)
    yield Probe("exp", 1, (np.minimum(near, 3),), mx.exp, np.exp)
    yield Probe("exp", 1, (near,), mx.sigmoid, lambda x: 1 / (1 + np.exp(-x)))
    yield Probe("tanh", 1, (near,), mx.tanh, np.tanh)
    for x in (near, wide):
        yield Probe("sin", 1, (x,), mx.sin, np.sin)
        yield Probe("cos", 1, (x,), mx.cos, np.cos)
    yield Probe("rsqrt", 1, (positive,), mx.rsqrt, lambda x: 1 / np.sqrt(x))
    yield Probe("sqrt", 1, (positive,), mx.sqrt, np.sqrt)
    yield Probe("log", 1, (positive,), mx.log, np.log)


# ---- in float64 ------------------------------------------------------------------------------------------------------


def _added_product(bias: Array, a: Array, b: Array) -> Array:
    found: Array = a @ b + bias
    return found


def _convolved(x: Array, w: Array) -> Array:
    """Channels-last, without padding."""
    axes = tuple(range(1, x.ndim - 1))
    windows = sliding_window_view(x, w.shape[1:-1], axis=axes)  # (B, …, C, kernel…)
    flat = np.moveaxis(w, -1, 1).reshape(len(w), -1)
    found: Array = windows.reshape(*windows.shape[: x.ndim - 1], -1) @ flat.T
    return found


def _convolved_transposed(x: Array, w: Array) -> Array:
    """In steps of 4: each input adds a kernel's length of outputs."""
    length = (x.shape[1] - 1) * 4 + w.shape[1]
    found = np.zeros((len(x), length, len(w)))
    for t in range(x.shape[1]):
        found[:, 4 * t : 4 * t + w.shape[1]] += np.einsum("bc,okc->bko", x[:, t], w)
    return found


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    found: Array = e / e.sum(-1, keepdims=True)
    return found


def _attended(q: Array, k: Array, v: Array) -> Array:
    found: Array = softmax(q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5) @ v
    return found


def rms_normed(x: Array) -> Array:
    found: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    return found


def layer_normed(x: Array, weight: Array) -> Array:
    found: Array = weight * whitened(x, (-1,))
    return found


def whitened(x: Array, axes: tuple[int, ...]) -> Array:
    y = x - x.mean(axes, keepdims=True)
    found: Array = y / np.sqrt((y * y).mean(axes, keepdims=True) + 1e-6)
    return found
