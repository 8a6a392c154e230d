"""Arrays of more than 2³¹ elements: what 32 bits of an index do not reach. Bytes, so that they fit in 6 GB."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import mlx.core as mx
import numpy as np

from ..judge.sampled import Array
from .line import Check, Line, Setting, equal

LEFT_OUT = 7  # columns at the left of a view


@cache
def _table(setting: Setting) -> tuple[mx.array, Array, Array]:
    """Bytes ``rows[r] + columns[c]``, the largest of a row in the columns that views leave out; and the two."""
    height, width = setting.size((32_775, 65_536), (32_775, 65_536), (75, 128))
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(0, 64, height, np.uint8), rng.integers(0, 63, width, np.uint8)
    columns[:LEFT_OUT] = 64
    found = mx.array(np.add.outer(rows, columns))
    mx.eval(found)
    return found, rows, columns


def _row_numbers(height: int) -> mx.array:
    """Some rows: the first ones, the last ones, and others."""
    return mx.array(np.unique(np.r_[:8, height - 8 : height, np.random.default_rng(1).integers(0, height, 240)]))


def _asked(
    make: Callable[[mx.array, Array, Array], tuple[str, mx.array, Array]],
) -> Callable[[Setting], Iterator[Check]]:
    """The checks of a line that makes integers of a table, which must be exact."""

    def checks(setting: Setting) -> Iterator[Check]:
        table, rows, columns = _table(setting)
        what, ours, exact = make(table, rows, columns)
        yield equal(f"{what}, {len(rows):,} × {len(columns):,} bytes", np.array(ours), exact)

    return checks


@_asked
def _max(table: mx.array, rows: Array, columns: Array) -> tuple[str, mx.array, Array]:
    return "max(x[:, 7:])", mx.max(table[:, LEFT_OUT:], axis=-1), rows + columns[LEFT_OUT:].max()


@_asked
def _slice(table: mx.array, rows: Array, columns: Array) -> tuple[str, mx.array, Array]:
    some = _row_numbers(len(rows))
    y = mx.add(table[:, LEFT_OUT:], 100)
    return "x[:, 7:] + 100", y[some], np.add.outer(rows[np.array(some)], columns[LEFT_OUT:]) + np.uint8(100)


@_asked
def _split(table: mx.array, rows: Array, columns: Array) -> tuple[str, mx.array, Array]:
    some = _row_numbers(len(rows))
    left, right = mx.split(table, 2, axis=1)
    halves = np.split(columns, 2)
    return (
        "sum of split(x, 2)",
        mx.add(left, right)[some],
        np.add.outer(2 * rows[np.array(some)], halves[0] + halves[1]),
    )


@_asked
def _copy(table: mx.array, rows: Array, columns: Array) -> tuple[str, mx.array, Array]:
    part = slice(len(columns) // 2, len(columns) // 2 + 64)
    return "a copy of a few columns", mx.contiguous(table[:, part]), np.add.outer(rows, columns[part])


@_asked
def _gather(table: mx.array, rows: Array, columns: Array) -> tuple[str, mx.array, Array]:
    some = _row_numbers(len(rows))
    return "rows by number", mx.take(table, some, axis=0), np.add.outer(rows[np.array(some)], columns)


def _short_axis(setting: Setting) -> Iterator[Check]:
    """Pixels out of channels, as the video VAE has them at its end."""
    frames, height, width = setting.size((25, 128, 192), (65, 256, 384), (3, 4, 5))
    x = mx.arange(frames * height * width * 48, dtype=mx.int32).reshape(frames, height, width, 3, 4, 4)
    y = mx.contiguous(x.transpose(0, 1, 5, 2, 4, 3))
    exact = np.arange(x.size, dtype=np.int32).reshape(x.shape).transpose(0, 1, 5, 2, 4, 3)
    yield equal(f"{x.size:,} elements, rearranged", np.array(y), exact)


def _line(name: str, title: str, checks: Callable[[Setting], Iterator[Check]], *sources: int) -> Line:
    """A line that shares the table with the others like it."""
    return Line(
        f"large.{name}",
        title,
        "nothing of an official size in ltx2_mlx; untiled decoding of 1080p comes near",
        "MLX takes an index of 32 bits by the number of elements of the view, and not by how far it reaches",
        "smaller pieces (ltx2-mlx decodes in tiles by itself), or another release of MLX",
        checks,
        sources,
        gigabytes=(5.0, 5.0),
        together="table",
    )


LINES = (
    _line("max", "max over a slice of 2³¹ elements", _max, 4539),
    _line("slice", "arithmetic on a slice of 2³¹ elements", _slice, 4548, 3836),
    _line("split", "arithmetic on halves of 2³¹ elements", _split, 4548),
    _line("copy", "a copy out of 2³¹ elements", _copy, 3836, 3327),
    _line("rows", "rows out of 2³¹ elements", _gather, 3327),
    Line(
        "large.rearranged",
        "a rearranged copy of a large array with short last axes",
        "nothing in ltx2_mlx, which copies in pieces (nn.conv.in_pieces)",
        "MLX 0.31.1 on CUDA cannot launch a copy of more than 65,535 · 1,024 elements whose last axis is short",
        "copy in pieces, or a later MLX",
        _short_axis,
        gigabytes=(1.5, 5.0),
    ),
)
