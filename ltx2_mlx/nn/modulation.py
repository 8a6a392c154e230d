"""Adaptive layer norm (AdaLN): shift and scale of a layer's input, and the gate of its output.

Each is a row of a table of the checkpoint's, plus a row that the timestep gives. On a GPU the two are added where they
are used: a kernel for each sum would be a sixth of all kernels of a step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, cast

import mlx.core as mx

from .fused import SUM_OF_GROUP, fused


class Row(NamedTuple):
    """Row ``at`` of ``table`` ``(rows, D)`` and row ``of`` of ``timestep`` ``(B, T|1, rows·D)``, not added up yet."""

    table: mx.array
    at: int
    timestep: mx.array
    of: int


def rows_of(table: mx.array, timestep: mx.array, rows: slice = slice(None)) -> tuple[Row, ...]:
    """Rows of a table, each with the timestep's row of the same number."""
    return tuple(Row(table, i, timestep, i) for i in range(table.shape[0])[rows])


def added(row: mx.array | Row) -> mx.array:
    """The row's values ``(B, T|1, D)``; those that are added up already as they are."""
    if isinstance(row, mx.array):
        return row
    of_timestep = row.timestep.reshape(*row.timestep.shape[:2], -1, row.table.shape[-1])[:, :, row.of]
    return row.table[row.at : row.at + 1].astype(of_timestep.dtype) + of_timestep  # an index would be a kernel


@fused
def modulate(x: mx.array, scale: mx.array | Row, shift: mx.array | Row) -> mx.array:
    """x · (1 + scale) + shift."""
    scale, shift = added(scale), added(shift)
    return x * (1 + scale) + shift


@fused
def gated(y: mx.array, gate: mx.array | Row) -> mx.array:
    """y · gate."""
    return y * added(gate)


# norm(x) · (1 + scale) + shift as one kernel, a group of threads a token. In two, of which ``mx.compile`` makes the
# second, it takes three times as long on an H100. Everything is float32 and rounded once.
_NORM_KERNEL = (
    """
    struct alignas(RUN * sizeof(T)) Word { T at[RUN]; };
    __shared__ float sums[32];
    const unsigned tokens = x_shape[1], width = x_shape[2], words = width / RUN;
    const size_t batch = blockIdx.x / tokens, token = blockIdx.x % tokens;
    const Word* in = reinterpret_cast<const Word*>(x) + size_t(blockIdx.x) * words;
    Word* result = reinterpret_cast<Word*>(out) + size_t(blockIdx.x) * words;
    const size_t step = batch * timestep_shape[1] + (timestep_shape[1] > 1 ? token : 0);
    const Word* steps = reinterpret_cast<const Word*>(timestep) + step * (timestep_shape[2] / RUN);
    const Word* rows = reinterpret_cast<const Word*>(table);
    float sum = 0;
    for (unsigned i = threadIdx.x; i < words; i += blockDim.x) {
        const Word word = in[i];
        for (int k = 0; k < RUN; k++) sum += float(word.at[k]) * float(word.at[k]);
    }
"""
    + SUM_OF_GROUP
    + """    const float factor = rsqrtf(sum / width + EPS);
    for (unsigned i = threadIdx.x; i < words; i += blockDim.x) {
        const Word word = in[i];
        const Word scale = rows[places[0] * words + i], of_scale = steps[places[1] * words + i];
        const Word shift = rows[places[2] * words + i], of_shift = steps[places[3] * words + i];
        Word y;
        for (int k = 0; k < RUN; k++) {
            const float by = 1 + float(scale.at[k]) + float(of_scale.at[k]);
            y.at[k] = T(float(word.at[k]) * factor * by + float(shift.at[k]) + float(of_shift.at[k]));
        }
        result[i] = y;
    }
"""
)
# x + y · gate, a thread a word.
_GATED_KERNEL = """
    struct alignas(RUN * sizeof(T)) Word { T at[RUN]; };
    const unsigned tokens = x_shape[1], words = x_shape[2] / RUN;
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x, batch = blockIdx.y;
    if (i >= tokens * words) return;
    const unsigned word = i % words, token = i / words;
    const size_t at = size_t(batch) * tokens * words + i;
    const size_t step = batch * timestep_shape[1] + (timestep_shape[1] > 1 ? token : 0);
    const Word a = reinterpret_cast<const Word*>(x)[at], b = reinterpret_cast<const Word*>(y)[at];
    const Word row = reinterpret_cast<const Word*>(table)[places[0] * words + word];
    const Word* steps = reinterpret_cast<const Word*>(timestep) + step * (timestep_shape[2] / RUN);
    const Word of = steps[places[1] * words + word];
    Word sum;
    for (int k = 0; k < RUN; k++) {
        sum.at[k] = T(float(a.at[k]) + float(b.at[k]) * (float(row.at[k]) + float(of.at[k])));
    }
    reinterpret_cast<Word*>(out)[at] = sum;
"""
_WORD, _THREADS = 16, 256  # bytes that a thread reads at once; threads a group


def normed_on_cuda(x: mx.array, scale: Row, shift: Row, eps: float) -> mx.array:
    """norm(x) · (1 + scale) + shift of ``(B, T, D)`` on an NVIDIA GPU. Both rows are of one table and timestep."""
    B, T, _ = x.shape
    return _run(_norm_kernel(eps), [x], scale, (scale.at, scale.of, shift.at, shift.of), (B * T * _THREADS, 1, 1))


def _add_gated_on_cuda(x: mx.array, y: mx.array, gate: mx.array | Row) -> mx.array:
    if not isinstance(gate, Row):
        return x + y * gate
    B, T, width = x.shape
    return _run(_gate_kernel(), [x, y], gate, (gate.at, gate.of), (T * width // _run_of(x), B, 1))


@functools.partial(fused, kernel=_add_gated_on_cuda)
def add_gated(x: mx.array, y: mx.array, gate: mx.array | Row) -> mx.array:
    """x + y · gate."""
    return x + y * added(gate)


def _run_of(x: mx.array) -> int:
    return math.gcd(x.shape[-1], _WORD // x.itemsize)


def _run(
    kernel: Callable[..., list[mx.array]],
    inputs: list[mx.array],
    row: Row,
    places: tuple[int, ...],
    grid: tuple[int, int, int],
) -> mx.array:
    """A kernel's result, of the shape and dtype of the first input. places: of rows in the table and the timestep."""
    x = inputs[0]
    (out,) = kernel(
        inputs=[*inputs, row.table.astype(x.dtype), row.timestep.astype(x.dtype), _places(*places)],
        template=[("T", x.dtype), ("RUN", _run_of(x))],
        grid=grid,
        threadgroup=(_THREADS, 1, 1),
        output_shapes=[x.shape],
        output_dtypes=[x.dtype],
    )
    return out


@functools.cache
def _places(*numbers: int) -> mx.array:
    return mx.array(numbers, dtype=mx.int32)


@functools.cache
def _norm_kernel(eps: float) -> Callable[..., list[mx.array]]:
    return _made("modulated_norm", ["x"], _NORM_KERNEL.replace("EPS", f"{eps!r}f"))


@functools.cache
def _gate_kernel() -> Callable[..., list[mx.array]]:
    return _made("add_gated", ["x", "y"], _GATED_KERNEL)


def _made(name: str, inputs: list[str], source: str) -> Callable[..., list[mx.array]]:
    kernel = mx.fast.cuda_kernel(name, [*inputs, "table", "timestep", "places"], ["out"], source)
    return cast("Callable[..., list[mx.array]]", kernel)
