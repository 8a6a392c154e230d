"""Attention: at the longest length of a video, at odd lengths, and with masks."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import numpy as np

from ..run.calibration import attention as fused
from .line import Check, Line, Setting, layer, random


def _case(
    heads: int,
    queries: int,
    keys: int,
    width: int,
    dtype: mx.Dtype,
    masked: bool = False,
    batch: int = 1,
) -> Check:
    """Views of ``(B, T, H·D)``, as projections give them. A mask hides some keys from each query."""

    def split(name: str, length: int, scale: float = 1.0) -> mx.array:
        flat = random(name, batch, length, heads * width, dtype=dtype, scale=scale)
        return flat.reshape(batch, length, heads, width).swapaxes(1, 2)

    count = 64
    q, k, v = split("q", queries, scale=3.0), split("k", keys), split("v", keys)
    what = f"{heads} heads of {width}, {queries:,} queries, {keys:,} keys" + (f", {batch} windows" * (batch > 1))
    if not masked:
        return layer(what, "attention", fused(q, k, v), (q, k, v), count)
    hidden = np.random.default_rng(0).random((1, 1, queries, keys)) < 0.4
    hidden[..., 0] = False
    mask = mx.array(np.where(hidden, -1e4, 0.0).astype(np.float32)).astype(dtype)
    plain = np.where(hidden, -1e4, 0.0)
    return layer(f"{what}, masked", "attention", fused(q, k, v, mask), (q, k, v), count, mask=plain)


def _long(setting: Setting) -> Iterator[Check]:
    keys = setting.size(24_576, 24_576, 600)
    for dtype in (mx.bfloat16, mx.float32):
        yield _case(*setting.size((2, 512), (32, keys), (2, 40)), keys, 128, dtype)


def _odd(setting: Setting) -> Iterator[Check]:
    """Audio over video, video over audio, a prompt's 1,024 keys, the wide heads of Gemma 3 and 4, the windows of 2.5's
    video decoder, and lengths that fit no tile."""
    few = setting.small
    for heads, queries, keys, width, masked, batch in (
        (8, 82, 82, 64, False, 1),
        (4 if few else 32, 126, 300 if few else 6144, 64, False, 1),
        (4, 300 if few else 1536, 126, 64, False, 1),
        (4, 37 if few else 1027, 100 if few else 1024, 128, True, 1),
        (2, 33 if few else 257, 33 if few else 257, 256, True, 1),
        (2, 33 if few else 257, 33 if few else 257, 512, True, 1),
        (4, 27, 125 if few else 343, 64, True, 3 if few else 64),
    ):
        for dtype in (mx.bfloat16, mx.float32):
            yield _case(heads, queries, keys, width, dtype, masked, batch)


def _float32(setting: Setting) -> Iterator[Check]:
    yield _case(*setting.size((2, 500, 1536), (32, 1536, 1536), (2, 24, 60)), 128, mx.float32)


LINES = (
    Line(
        "attention.24576",
        "attention over 24,576 tokens",
        "the transformer at 121 frames of 1024 × 1536",
        "an index or a running sum of the fused kernel does not reach so far",
        "a smaller or shorter video, or another release of MLX",
        _long,
        (3585, 2894),
        gigabytes=(1.5, 3.5),
        gigaflops=25,
    ),
    Line(
        "attention.odd",
        "attention at odd lengths, and with masks",
        "audio over video, video over audio, prompts, Gemma 3 and 4, the video decoder of 2.5",
        "the last tile of queries or keys is read or masked wrongly",
        "another release of MLX",
        _odd,
        (3585, 3360),
        gigaflops=25,
    ),
    Line(
        "attention.float32",
        "attention in float32",
        "whatever runs in float32",
        "TF32: float32 operands are rounded to 11 bits",
        "export MLX_ENABLE_TF32=0 before Python starts (parity does so by itself)",
        _float32,
        (3534, 3860),
        gigaflops=5,
        plain_float32=True,
    ),
)
