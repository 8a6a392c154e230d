"""Primitives with the faults that devices are known for, to be put in the place of MLX's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np

from ltx2_mlx.nn import conv
from ltx2_mlx.nn.norm import GroupNorm
from parity.doctor.line import numbers
from parity.judge.sampled import rounded

Array = np.ndarray

# ---- Winograd's F(6, 3): 8 × 8 inputs make 6 × 6 outputs of a 3 × 3 kernel -------------------------------------------

_INPUT = np.array(
    [
        [1, 0, -21 / 4, 0, 21 / 4, 0, -1, 0],
        [0, 1, 1, -17 / 4, -17 / 4, 1, 1, 0],
        [0, -1, 1, 17 / 4, -17 / 4, -1, 1, 0],
        [0, 1 / 2, 1 / 4, -5 / 2, -5 / 4, 2, 1, 0],
        [0, -1 / 2, 1 / 4, 5 / 2, -5 / 4, -2, 1, 0],
        [0, 2, 4, -5 / 2, -5, 1 / 2, 1, 0],
        [0, -2, 4, 5 / 2, -5, -1 / 2, 1, 0],
        [0, -1, 0, 21 / 4, 0, -21 / 4, 0, 1],
    ]
)
_KERNEL = np.array(
    [
        [1, 0, 0],
        [-2 / 9, -2 / 9, -2 / 9],
        [-2 / 9, 2 / 9, -2 / 9],
        [1 / 90, 1 / 45, 2 / 45],
        [1 / 90, -1 / 45, 2 / 45],
        [32 / 45, 16 / 45, 8 / 45],
        [32 / 45, -16 / 45, 8 / 45],
        [0, 0, 1],
    ]
)
_OUTPUT = np.array(
    [
        [1, 1, 1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 1 / 2, -1 / 2, 0],
        [0, 1, 1, 4, 4, 1 / 4, 1 / 4, 0],
        [0, 1, -1, 8, -8, 1 / 8, -1 / 8, 0],
        [0, 1, 1, 16, 16, 1 / 16, 1 / 16, 0],
        [0, 1, -1, 32, -32, 1 / 32, -1 / 32, 1],
    ]
)


def winograd(x: Array, weight: Array, dtype: str) -> Array:
    """A 3 × 3 convolution of ``(N, H, W, C)``, zeros around it, as Metal computes it: the transformed kernel, the
    transformed input and their product are each rounded to ``dtype``; sums are exact."""
    N, H, W, _ = x.shape
    rows, columns = -(-H // 6), -(-W // 6)
    x = np.pad(x, [(0, 0), (1, 1 + 6 * rows - H), (1, 1 + 6 * columns - W), (0, 0)])
    tiles = np.lib.stride_tricks.sliding_window_view(x, (8, 8), axis=(1, 2))[:, ::6, ::6]  # (N, rows, columns, C, 8, 8)
    given = rounded(_INPUT @ tiles @ _INPUT.T, dtype)
    kernel = rounded(_KERNEL @ np.moveaxis(weight.astype(float), -1, 1) @ _KERNEL.T, dtype)  # (O, C, 8, 8)
    made = rounded(np.einsum("nrscij,ocij->nrsoij", given, kernel, optimize=True), dtype)
    out = _OUTPUT @ made @ _OUTPUT.T  # (N, rows, columns, O, 6, 6)
    out = out.transpose(0, 1, 4, 2, 5, 3).reshape(N, 6 * rows, 6 * columns, -1)
    found: Array = rounded(out[:, :H, :W], dtype)
    return found


def winograd_in_slices(x: Array, weight: Array, dtype: str) -> Array:
    """A 3-D convolution of ``(1, T, H, W, C)`` without padding of depth: 2-D ones whose sum is kept in ``dtype``."""
    depth = weight.shape[1]
    frames = x.shape[1] - depth + 1
    total = winograd(x[0, :frames], weight[:, 0], dtype)
    for tap in range(1, depth):
        total = rounded(total + winograd(x[0, tap : tap + frames], weight[:, tap], dtype), dtype)
    return total[None]


def _conv2d(x: mx.array, w: mx.array, stride: Any = 1, padding: Any = 0, **rest: Any) -> mx.array:
    if x.dtype == mx.float32 or w.shape[1:3] != (3, 3):
        return PLAIN_CONV2D(x, w, stride, padding, **rest)
    return mx.array(winograd(numbers(x), numbers(w), _name(x))).astype(x.dtype)


def _conv3d(x: mx.array, w: mx.array, stride: Any = 1, padding: Any = 0, **rest: Any) -> mx.array:
    if x.dtype == mx.float32 or padding[0]:
        return PLAIN_CONV3D(x, w, stride, padding, **rest)
    return mx.array(winograd_in_slices(numbers(x), numbers(w), _name(x))).astype(x.dtype)


PLAIN_CONV2D, PLAIN_CONV3D = mx.conv2d, mx.conv3d


def _name(x: mx.array) -> str:
    return str(x.dtype).removeprefix("mlx.core.")


# ---- the rest --------------------------------------------------------------------------------------------------------


def tf32(x: mx.array) -> mx.array:
    """Float32 with 10 bits behind the point."""
    if x.dtype != mx.float32:
        return x
    return mx.array(((numbers(x).view(np.uint32) + 0x1000) & 0xFFFFE000).view(np.float32))


def _narrow(original: Callable[..., mx.array], operands: int) -> Callable[..., mx.array]:
    return lambda *args, **options: original(*map(tf32, args[:operands]), *args[operands:], **options)


def _split_sum(parts: int, dtype: mx.Dtype | None = None, lost: int = 0) -> Callable[[mx.array, mx.array], mx.array]:
    """A product whose shared axis is split: the parts' sums are kept in ``dtype``, and the last ones are lost."""

    def product(a: mx.array, b: mx.array) -> mx.array:
        kept = dtype or mx.float32
        size = -(-a.shape[-1] // parts)
        total = mx.zeros((a.shape[0], b.shape[1]), kept)
        for i in range(parts - lost):
            part = slice(i * size, (i + 1) * size)
            total = (total + (a[:, part].astype(mx.float32) @ b[part].astype(mx.float32)).astype(kept)).astype(kept)
        return total.astype(a.dtype)

    return product


def _narrow_quantised(x: mx.array, *args: Any, transpose: bool = True, **options: Any) -> mx.array:
    """Columns beyond the last whole tile of 64 are left out where the weights are not transposed."""
    y = QUANTISED(x, *args, transpose=transpose, **options)
    whole = y.shape[-1] // 64 * 64
    return y if transpose or whole == y.shape[-1] else mx.where(mx.arange(y.shape[-1]) < whole, y, 0)


def _without_tail(x: mx.array, *args: Any, transpose: bool = True, **options: Any) -> mx.array:
    """The terms beyond the last whole tile of 64 are left out."""
    whole = x.shape[-1] // 64 * 64
    return QUANTISED(mx.where(mx.arange(x.shape[-1]) < whole, x, 0), *args, transpose=transpose, **options)


QUANTISED, ATTENTION = mx.quantized_matmul, mx.fast.scaled_dot_product_attention


def _last_zero(original: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """What comes after a 32-bit index has run over is zero."""

    def call(*args: Any, **options: Any) -> mx.array:
        y = original(*args, **options)
        flat = y.reshape(-1)
        return mx.where(mx.arange(flat.size) < flat.size * 3 // 4, flat, mx.zeros_like(flat)).reshape(y.shape)

    return call


def _blind(q: mx.array, k: mx.array, v: mx.array, **options: Any) -> mx.array:
    """The last keys are not seen."""
    seen = k.shape[2] * 9 // 10
    mask = options.pop("mask", None)
    mask = None if mask is None else mask[..., :seen]
    return ATTENTION(q, k[:, :, :seen], v[:, :, :seen], mask=mask, **options)


def _unmasked(q: mx.array, k: mx.array, v: mx.array, **options: Any) -> mx.array:
    """The mask of the last query is not read."""
    y, whole = ATTENTION(q, k, v, **options), ATTENTION(q, k, v, scale=options["scale"])
    return mx.where((mx.arange(q.shape[2]) < q.shape[2] - 1)[:, None], y, whole)


def _fast(function: Callable[[mx.array], mx.array]) -> Callable[[mx.array], mx.array]:
    """The angle reduced with a π of seven digits."""
    return lambda x: function(x - mx.round(x / 6.283185) * 6.283184)


def _drifting(function: Callable[[mx.array], mx.array]) -> Callable[[mx.array], mx.array]:
    """An error that grows with the argument."""
    return lambda x: function(x) * (1 + 3e-6 * x)


def _half_softmax(x: mx.array, axis: int) -> mx.array:
    return SOFTMAX(x.astype(mx.bfloat16), axis=axis).astype(x.dtype)


def _one_pass(x: mx.array, weight: mx.array, bias: Any, eps: float) -> mx.array:
    wide = x.astype(mx.float32)
    mean = wide.mean(-1, keepdims=True)
    variance = (wide * wide).mean(-1, keepdims=True) - mean * mean
    return ((wide - mean) * mx.rsqrt(variance + eps) * weight).astype(x.dtype)


def _half_mean(y: mx.array) -> mx.array:
    return y.astype(mx.bfloat16).mean(axis=(1, 2, 3, 5), keepdims=True).astype(mx.float32)


def _repeating(shape: Any, **options: Any) -> mx.array:
    half = NORMAL((shape[0] // 2,), **options)
    return mx.concatenate([half, half])


def _cut(shape: Any, **options: Any) -> mx.array:
    return mx.clip(NORMAL(shape, **options), -2.0, 2.0)


NORMAL, COMPILE, MAX, ADD, CONTIGUOUS, TAKE, SOFTMAX = (
    mx.random.normal, mx.compile, mx.max, mx.add, mx.contiguous, mx.take, mx.softmax,
)  # fmt: skip


def _wrapped(x: mx.array, axis: int) -> mx.array:
    """``x`` whose last row along ``axis`` is read from its beginning, and all others from one further on."""
    return mx.roll(x, 1, axis=axis)


def _failing(*args: Any, **options: Any) -> mx.array:
    raise RuntimeError("[copy] cudaGraphAddKernelNode failed: invalid argument")


# Line → hazards by name, each as (owner, attribute, what is put in its place).
Patch = tuple[Any, str, Any]
HAZARDS: dict[str, dict[str, list[Patch]]] = {
    "matmul.float32": {"TF32": [(mx, "matmul", _narrow(mx.matmul, 2))]},
    "matmul.16384": {
        "the last part of a split sum lost": [(mx, "matmul", _split_sum(16, lost=1))],
        "split sums in bfloat16": [(mx, "matmul", _split_sum(16, mx.bfloat16))],
    },
    "matmul.188160": {
        "the last part of a split sum lost": [(mx, "matmul", _split_sum(40, lost=1))],
        "split sums in bfloat16": [(mx, "matmul", _split_sum(40, mx.bfloat16))],
    },
    "matmul.accumulate": {
        "sums in bfloat16": [(mx, "matmul", _split_sum(256, mx.bfloat16))],
        "sums in float16": [(mx, "matmul", _split_sum(256, mx.float16))],
    },
    "quantized.transpose": {"columns left out": [(mx, "quantized_matmul", _narrow_quantised)]},
    "quantized.tails": {"terms left out": [(mx, "quantized_matmul", _without_tail)]},
    "conv3d.winograd": {"Winograd in slices": [(mx, "conv3d", _conv3d)]},
    "conv2d.winograd": {
        "Winograd": [(mx, "conv2d", _conv2d)],
        "all zero": [(mx, "conv2d", lambda *args, **options: mx.zeros_like(PLAIN_CONV2D(*args, **options)))],
    },
    "conv.float32": {
        "TF32 in 2-D": [(mx, "conv2d", _narrow(mx.conv2d, 2))],
        "TF32 in 1-D": [(mx, "conv1d", _narrow(mx.conv1d, 2))],
    },
    "conv3d.unfolded": {"outputs left out": [(mx, "conv3d", _last_zero(mx.conv3d))]},
    "conv1d.transposed": {
        "TF32": [(mx, "conv_transpose1d", _narrow(mx.conv_transpose1d, 2))],
        "the last steps left out": [(mx, "conv_transpose1d", _last_zero(mx.conv_transpose1d))],
    },
    "ltx2_mlx.conv3d": {"Winograd, and no way around": [(mx, "conv3d", _conv3d)]},
    "ltx2_mlx.conv2d": {"Winograd, and no way around": [(mx, "conv2d", _conv2d)]},
    "attention.24576": {"the last keys not seen": [(mx.fast, "scaled_dot_product_attention", _blind)]},
    "attention.odd": {
        "the last query's mask not read": [(mx.fast, "scaled_dot_product_attention", _unmasked)],
        "the last keys not seen": [(mx.fast, "scaled_dot_product_attention", _blind)],
    },
    "attention.float32": {"TF32": [(mx.fast, "scaled_dot_product_attention", _narrow(ATTENTION, 3))]},
    "sin.cos": {"fast sin": [(mx, "sin", _fast(mx.sin))], "fast cos": [(mx, "cos", _fast(mx.cos))]},
    "exp": {name: [(mx, name, _drifting(getattr(mx, name)))] for name in ("exp", "sigmoid", "tanh")},
    "softmax": {
        "the largest not taken out": [(mx, "softmax", lambda x, axis: mx.exp(x) / mx.exp(x).sum(axis, keepdims=True))],
        "sums in half precision": [(mx, "softmax", _half_softmax)],
    },
    "norms": {
        "variance in one pass": [(mx.fast, "layer_norm", _one_pass)],
        "half precision": [
            (mx.fast, "rms_norm", lambda x, w, eps: x * mx.rsqrt((x * x).astype(mx.float16).mean(-1, keepdims=True)))
        ],
    },
    "group_norm": {"sums in half precision": [(GroupNorm, "_mean", staticmethod(_half_mean))]},
    "compiled": {"fast functions": [(mx, "compile", lambda f: lambda *args: f(*args) * (1 + 2e-2))]},
    "random": {
        "numbers that repeat": [(mx.random, "normal", _repeating)],
        "tails cut": [(mx.random, "normal", _cut)],
        "other numbers from one key": [(mx.random, "normal", lambda shape, key: NORMAL(shape))],
    },
    "large.max": {"other rows read": [(mx, "max", lambda x, axis: MAX(_wrapped(x, 0), axis=axis))]},
    "large.slice": {"other rows read": [(mx, "add", lambda a, b: ADD(_wrapped(a, 0), b))]},
    "large.split": {"other rows read": [(mx, "add", lambda a, b: ADD(_wrapped(a, 0), b))]},
    "large.copy": {"other rows read": [(mx, "contiguous", lambda x: CONTIGUOUS(_wrapped(x, 0)))]},
    "large.rows": {"other rows read": [(mx, "take", lambda x, i, axis: TAKE(x, i + 1, axis=axis))]},
    "large.rearranged": {
        "a copy that is not launched": [(mx, "contiguous", _failing)],
        "other rows read": [(mx, "contiguous", lambda x: CONTIGUOUS(_wrapped(x, 0)))],
    },
}


@contextmanager
def hazard(patches: list[Patch], metal: bool = False) -> Iterator[None]:
    """MLX as a faulty device has it. metal: the product believes to be on Metal."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(conv, "on_metal", lambda: metal))
        for owner, name, faulty in patches:
            stack.enter_context(mock.patch.object(owner, name, faulty))
        yield
