"""Neighbourhood attention (arXiv:2204.07143) over a grid of time, height and width, in blocks of queries.

Each query sees a window of keys around it: ``kernel`` of them along each axis, or all where there are fewer. At the
ends of an axis a window is not cut but shifted inward, so that every query sees as many keys. A block of queries is
computed with the keys of its windows alone, so memory does not grow with the square of the grid, and the numbers are
those of a mask over all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx
import numpy as np

from .attention import scaled_dot_product_attention

Sizes3 = tuple[int, int, int]

# Queries of a block along time, height and width. With a window of 11³ a block reads 14·18·18 keys, 3.4 windows.
BLOCK: Sizes3 = (4, 8, 8)


def scores() -> int:
    """About the most scores (heads · queries · keys) of one call of MLX's attention, which a CPU writes out."""
    return 2**22 if mx.default_device().type == mx.cpu else 2**26


def window_starts(positions: np.ndarray, size: int, kernel: int) -> np.ndarray:
    """The first key of each query's window, along an axis of ``size`` keys."""
    kept = min(kernel, size)
    starts: np.ndarray = np.clip(positions - kept // 2, 0, size - kept)
    return starts


@dataclass(frozen=True)
class Slab:
    """Frames ``begin`` to ``end`` of a clip of ``frames``, and those that their windows see, ``first`` to ``last``."""

    frames: int
    begin: int
    end: int
    first: int
    last: int

    @staticmethod
    def of(begin: int, end: int, frames: int, kernel: int) -> Slab:
        """The slab of these frames, where a window has ``kernel`` frames."""
        first, last = window_starts(np.array([begin, end - 1]), frames, kernel).tolist()
        return Slab(frames, begin, end, first, last + min(kernel, frames))

    @staticmethod
    def whole(frames: int) -> Slab:
        return Slab(frames, 0, frames, 0, frames)

    def own(self, x: mx.array) -> mx.array:
        """Its own frames of an array of the frames that it sees, ``(B, T, …)``."""
        return x[:, self.begin - self.first : self.end - self.first]


class Block(NamedTuple):
    """A block along one axis: its queries from ``begin`` on and its keys from ``first`` on, as they are at hand.

    skip: how many of its queries the block before has as well. seen: ``(queries, keys)``, whether a query's window has
    the key.
    """

    begin: int
    first: int
    skip: int
    seen: np.ndarray

    @property
    def queries(self) -> slice:
        return slice(self.begin, self.begin + self.seen.shape[0])

    @property
    def keys(self) -> slice:
        return slice(self.first, self.first + self.seen.shape[1])


def blocks_of(slab: Slab, kernel: int, block: int) -> list[Block]:
    """Blocks of ``block`` queries along an axis, which have equal sizes: the last one begins before the one before it
    ends. slab: the axis' queries and keys that are at hand."""
    block, kept = min(block, slab.end - slab.begin), min(kernel, slab.frames)
    length, found = min(block + kept - 1, slab.last - slab.first), list[Block]()
    for wanted in range(slab.begin, slab.end, block):
        begin = min(wanted, slab.end - block)
        starts = window_starts(np.arange(begin, begin + block), slab.frames, kernel)[:, None]
        first = min(int(starts[0, 0]), slab.last - length)
        keys = first + np.arange(length)
        seen = (keys >= starts) & (keys < starts + kept)
        found.append(Block(begin - slab.begin, first - slab.first, wanted - begin, seen))
    return found


def neighborhood_attention(q: mx.array, k: mx.array, v: mx.array, kernel: Sizes3, slab: Slab | None = None) -> mx.array:
    """softmax(qkᵀ)v over the window of each query, ``(B, T, H, W, heads, D)`` → the same shape. No scale is applied.

    slab: the frames of a clip that are here: its own in ``q``, all that it sees in ``k`` and ``v``.
    """
    B, T, H, W, heads, _ = q.shape
    axes = (slab or Slab.whole(T), Slab.whole(H), Slab.whole(W))
    times, lines, columns = map(blocks_of, axes, kernel, BLOCK)
    some = max(1, scores() // (B * heads * times[0].seen.size * lines[0].seen.size * columns[0].seen.size))
    groups = [columns[i : i + some] for i in range(0, len(columns), some)]
    frames = []
    for time in times:
        rows = []
        for line in lines:
            row = mx.concatenate([_attend(q, k, v, time, line, group) for group in groups], axis=3)
            rows.append(row[:, time.skip :, line.skip :])
        frames.append(mx.concatenate(rows, axis=2))
    return mx.concatenate(frames, axis=1)


def _attend(q: mx.array, k: mx.array, v: mx.array, time: Block, line: Block, columns: list[Block]) -> mx.array:
    """One block along time and height, and some neighbours along width: ``(B, t, h, their own, heads, D)``."""
    B, *_, heads, D = q.shape
    count, size = len(columns), (*(len(block.seen) for block in (time, line, columns[0])),)

    def cells(parts: list[mx.array]) -> mx.array:
        """``(B, t, h, w, heads, D)`` of each block → ``(B · blocks, heads, t · h · w, D)``."""
        return mx.stack(parts, axis=1).transpose(0, 1, 5, 2, 3, 4, 6).reshape(B * count, heads, -1, D)

    queries = cells([q[:, time.queries, line.queries, block.queries] for block in columns])
    keys, values = (cells([x[:, time.keys, line.keys, block.keys] for block in columns]) for x in (k, v))
    seen = time.seen[:, None, None, :, None, None] & line.seen[None, :, None, None, :, None]
    mask = mx.array(seen) & mx.array(np.stack([block.seen for block in columns])[:, None, None, :, None, None])
    mask = mx.tile(mask.reshape(count, 1, queries.shape[2], keys.shape[2]), (B, 1, 1, 1))
    out = scaled_dot_product_attention(queries, keys, values, 1.0, mask)
    out = out.reshape(B, count, heads, *size, D).transpose(0, 1, 3, 4, 5, 2, 6)
    return mx.concatenate([out[:, i, :, :, block.skip :] for i, block in enumerate(columns)], axis=3)
