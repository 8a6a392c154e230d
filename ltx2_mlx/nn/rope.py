"""Rotary position embeddings.

Angles reach ±15,708 rad, where one unit in the last place of a float32 angle is 1e-3 rad. Two implementations agree
only if they round at the same places, so the tables are made on the host in the reference's order: a grid computed in
float64 and cast to float32, positions in their own dtype, one float32 product; cosine and sine of that product with
full range reduction. Source: ``ltx_core.model.transformer.rope``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from enum import Enum
from typing import cast

import mlx.core as mx
import numpy as np

from .fused import SUM_OF_GROUP, fused


class LTXRopeType(Enum):
    """The pairs that turn together: neighbours (interleaved), or one number of each half of a head (split)."""

    INTERLEAVED = "interleaved"
    SPLIT = "split"


@functools.lru_cache(maxsize=8)
def generate_freq_grid_np(
    positional_embedding_theta: float, positional_embedding_max_pos_count: int, inner_dim: int
) -> np.ndarray:
    """``(inner_dim // 2·axes,)`` float32 frequencies π/2 · θ^[0, 1], computed in float64."""
    n = inner_dim // (2 * positional_embedding_max_pos_count)
    grid = np.power(positional_embedding_theta, np.linspace(0.0, 1.0, n, dtype=np.float64))
    return (grid * math.pi / 2).astype(np.float32)


@functools.lru_cache(maxsize=8)
def generate_freq_grid_pytorch(
    positional_embedding_theta: float, positional_embedding_max_pos_count: int, inner_dim: int
) -> np.ndarray:
    """The grid as float32 computes it, for checkpoints without ``frequencies_precision: float64``.

    The exponents are float32 numbers, filled from both ends as torch does; each power is rounded once.
    """
    n = inner_dim // (2 * positional_embedding_max_pos_count)
    step = np.float32(1.0) / np.float32(max(n - 1, 1))
    i = np.arange(n)
    exponent = np.where(i < n // 2, i.astype(np.float32) * step, np.float32(1) - (n - 1 - i).astype(np.float32) * step)
    power = np.power(np.float64(positional_embedding_theta), exponent.astype(np.float64)).astype(np.float32)
    return power * np.float32(math.pi) / np.float32(2)


def get_fractional_positions(indices_grid: mx.array, max_pos: list[int]) -> mx.array:
    """``(B, axes, T)`` → ``(B, T, axes)``: each axis as a fraction of its ``max_pos``, in the positions' dtype."""
    return mx.stack([indices_grid[:, i] / max_pos[i] for i in range(indices_grid.shape[1])], axis=-1)


def generate_freqs(
    indices: np.ndarray, indices_grid: mx.array, max_pos: list[int], use_middle_indices_grid: bool
) -> np.ndarray:
    """Angles ``(B, T, n·axes)`` float32, frequency-major and axis-minor, from positions ``(B, axes, T[, 2])``."""
    with mx.stream(mx.cpu):  # a GPU's division may not round correctly; 1 ulp here is 1e-3 rad at the top frequency
        if use_middle_indices_grid:
            indices_grid = (indices_grid[..., 0] + indices_grid[..., 1]) / 2.0
        elif indices_grid.ndim == 4:
            indices_grid = indices_grid[..., 0]
        centred = get_fractional_positions(indices_grid, max_pos) * 2 - 1
        fractions = np.array(centred.astype(mx.float32))
    angles: np.ndarray = indices * fractions[..., None]
    return angles.swapaxes(-1, -2).reshape(*angles.shape[:2], -1)


def split_freqs_cis(freqs: np.ndarray, pad_size: int, num_attention_heads: int) -> tuple[mx.array, mx.array]:
    """``(B, T, n)`` angles → cosine and sine ``(B, H, T, D/2)``; each head gets its own slice of the frequencies.

    Where ``n`` falls short of half the width, ``pad_size`` pairs at the front do not turn.
    """
    B, T, _ = freqs.shape
    angles = np.pad(freqs, ((0, 0), (0, 0), (pad_size, 0))).reshape(B, T, num_attention_heads, -1).swapaxes(1, 2)
    return _cos_sin(angles)


def interleaved_freqs_cis(freqs: np.ndarray, pad_size: int) -> tuple[mx.array, mx.array]:
    """``(B, T, n)`` angles → cosine and sine ``(B, T, 2n + pad_size)``, each angle twice, padding at the front."""
    return _cos_sin(np.pad(np.repeat(freqs, 2, axis=-1), ((0, 0), (0, 0), (pad_size, 0))))


def _cos_sin(angles: np.ndarray) -> tuple[mx.array, mx.array]:
    wide = angles.astype(np.float64)
    return mx.array(np.cos(wide).astype(np.float32)), mx.array(np.sin(wide).astype(np.float32))


def precompute_freqs_cis(
    indices_grid: mx.array,
    dim: int,
    out_dtype: mx.Dtype,
    theta: float,
    max_pos: list[int],
    use_middle_indices_grid: bool,
    num_attention_heads: int,
    rope_type: LTXRopeType,
    freq_grid_generator: Callable[[float, int, int], np.ndarray],
) -> tuple[mx.array, mx.array]:
    """Cosine and sine tables for positions ``(B, axes, T, 2)`` and an attention width of ``dim``."""
    axes = indices_grid.shape[1]
    indices = freq_grid_generator(theta, axes, dim)
    freqs = generate_freqs(indices, indices_grid, max_pos, use_middle_indices_grid)
    if rope_type is LTXRopeType.SPLIT:
        cos, sin = split_freqs_cis(freqs, dim // 2 - freqs.shape[-1], num_attention_heads)
    else:
        cos, sin = interleaved_freqs_cis(freqs, dim % (2 * axes))
    return cos.astype(out_dtype), sin.astype(out_dtype)


def apply_rotary_emb(input_tensor: mx.array, freqs_cis: tuple[mx.array, mx.array], rope_type: LTXRopeType) -> mx.array:
    """Turn ``(B, T, H·D)`` by the tables; the result has the same shape and dtype."""
    apply = _apply_split if rope_type is LTXRopeType.SPLIT else _apply_interleaved
    return apply(input_tensor, *freqs_cis)


# ``_apply_split`` as one kernel: compiled it is four, a tenth of a step on an H100. Each thread turns RUN neighbours,
# which it reads and writes as one word. Products are float32 and rounded once.
_SPLIT_KERNEL = """
    struct alignas(RUN * sizeof(T)) Word { T at[RUN]; };
    const unsigned heads = cos_shape[1], tokens = cos_shape[2], words = cos_shape[3] / RUN;
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x, batch = blockIdx.y;
    if (i >= tokens * heads * words) return;
    const unsigned word = i % words, head = i / words % heads, token = i / words / heads;
    const size_t first = ((size_t(batch) * tokens + token) * heads + head) * 2 * words + word;
    const size_t entry = ((size_t(cos_shape[0] > 1 ? batch : 0) * heads + head) * tokens + token) * words + word;
    const Word* in = reinterpret_cast<const Word*>(x) + first;
    const Word x1 = in[0], x2 = in[words];
    const Word c = reinterpret_cast<const Word*>(cos)[entry], s = reinterpret_cast<const Word*>(sin)[entry];
    Word y1, y2;
    for (int k = 0; k < RUN; k++) {
        const float a = x1.at[k], b = x2.at[k], cosine = c.at[k], sine = s.at[k];
        y1.at[k] = T(a * cosine - b * sine);
        y2.at[k] = T(b * cosine + a * sine);
    }
    Word* turned = reinterpret_cast<Word*>(out) + first;
    turned[0] = y1;
    turned[words] = y2;
"""
# The same for what its norm has not divided yet: a group of threads a token.
_NORM_SPLIT_KERNEL = (
    """
    struct alignas(RUN * sizeof(T)) Word { T at[RUN]; };
    __shared__ float sums[32];
    const unsigned heads = cos_shape[1], tokens = cos_shape[2], words = cos_shape[3] / RUN, pairs = heads * words;
    const size_t batch = blockIdx.x / tokens, token = blockIdx.x % tokens;
    const Word* in = reinterpret_cast<const Word*>(x) + size_t(blockIdx.x) * 2 * pairs;
    Word* turned = reinterpret_cast<Word*>(out) + size_t(blockIdx.x) * 2 * pairs;
    const Word* by = reinterpret_cast<const Word*>(weight);
    float sum = 0;
    for (unsigned i = threadIdx.x; i < 2 * pairs; i += blockDim.x) {
        const Word word = in[i];
        for (int k = 0; k < RUN; k++) sum += float(word.at[k]) * float(word.at[k]);
    }
"""
    + SUM_OF_GROUP
    + """    const float factor = rsqrtf(sum / (2 * pairs * RUN) + EPS);
    for (unsigned i = threadIdx.x; i < pairs; i += blockDim.x) {
        const unsigned head = i / words, word = i % words, first = head * 2 * words + word;
        const size_t entry = (((cos_shape[0] > 1 ? batch : 0) * heads + head) * tokens + token) * words + word;
        const Word x1 = in[first], x2 = in[first + words], w1 = by[first], w2 = by[first + words];
        const Word c = reinterpret_cast<const Word*>(cos)[entry], s = reinterpret_cast<const Word*>(sin)[entry];
        Word y1, y2;
        for (int k = 0; k < RUN; k++) {
            const float a = float(x1.at[k]) * factor * float(w1.at[k]), b = float(x2.at[k]) * factor * float(w2.at[k]);
            y1.at[k] = T(a * float(c.at[k]) - b * float(s.at[k]));
            y2.at[k] = T(b * float(c.at[k]) + a * float(s.at[k]));
        }
        turned[first] = y1;
        turned[first + words] = y2;
    }
"""
)
_WORD = 16  # bytes that a thread reads at once


def _split_on_cuda(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """``_apply_split`` on an NVIDIA GPU. The tables' batch may be 1."""
    B, T, _ = x.shape
    _, heads, _, half = cos.shape
    run = math.gcd(half, _WORD // x.itemsize)
    (out,) = _split_kernel()(
        inputs=[x, cos.astype(x.dtype), sin.astype(x.dtype)],
        template=[("T", x.dtype), ("RUN", run)],
        grid=(T * heads * (half // run), B, 1),
        threadgroup=(256, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    return out


def normed_split_on_cuda(x: mx.array, weight: mx.array, eps: float, cos: mx.array, sin: mx.array) -> mx.array:
    """``(B, T, H·D)`` after its norm and the tables of split pairs, on an NVIDIA GPU: one kernel in place of two."""
    B, T, _ = x.shape
    (out,) = _norm_split_kernel(eps)(
        inputs=[x, weight.astype(x.dtype), cos.astype(x.dtype), sin.astype(x.dtype)],
        template=[("T", x.dtype), ("RUN", math.gcd(cos.shape[-1], _WORD // x.itemsize))],
        grid=(B * T * 256, 1, 1),
        threadgroup=(256, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    return out


@functools.cache
def _norm_split_kernel(eps: float) -> Callable[..., list[mx.array]]:
    source = _NORM_SPLIT_KERNEL.replace("EPS", f"{eps!r}f")
    kernel = mx.fast.cuda_kernel("normed_split_rotary", ["x", "weight", "cos", "sin"], ["out"], source)
    return cast("Callable[..., list[mx.array]]", kernel)


@functools.cache
def _split_kernel() -> Callable[..., list[mx.array]]:
    kernel = mx.fast.cuda_kernel("split_rotary", ["x", "cos", "sin"], ["out"], _SPLIT_KERNEL)
    return cast("Callable[..., list[mx.array]]", kernel)


@functools.partial(fused, kernel=_split_on_cuda)
def _apply_split(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Pairs (i, i + D/2) of each head. ``cos``, ``sin``: ``(B, H, T, D/2)``."""
    B, T, _ = x.shape
    cos, sin = cos.swapaxes(1, 2), sin.swapaxes(1, 2)
    halves = x.reshape(B, T, cos.shape[2], 2, -1)
    x1, x2 = halves[..., 0, :], halves[..., 1, :]
    return mx.stack([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-2).reshape(x.shape)


@fused
def _apply_interleaved(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Pairs (2i, 2i + 1). ``cos``, ``sin``: ``(B, T, H·D)``."""
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    turned = mx.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    return x * cos + turned * sin
