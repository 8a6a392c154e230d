"""A line of the doctor: one primitive, the known ways in which devices get it wrong, and how it is asked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import mlx.core as mx
import numpy as np

from ..judge import sampled
from ..judge.sampled import Array

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """Where a line is asked, and whether at the real sizes or at ones that take no time (for tests)."""

    device: str = "cpu"
    small: bool = False

    def size(self, cpu: T, gpu: T, small: T) -> T:
        """The size to take. On a CPU it is the real one where that takes seconds, and else as much of it as does."""
        return small if self.small else cpu if self.device == "cpu" else gpu


@dataclass(frozen=True)
class Check:
    """One case of a line: how far it is off, in units of honest rounding, and how far rounding goes.

    detail: what is wrong, where a ratio does not say it.
    """

    what: str
    ratio: float
    limit: float
    detail: str = ""

    @property
    def sound(self) -> bool:
        return self.ratio <= self.limit  # NaN is not


@dataclass(frozen=True)
class Line:
    """What is measured, and what to say of it where it is wrong.

    used: where the product depends on it. sources: issues of ml-explore/mlx. gigabytes: the most memory that it takes
    on a CPU and on a GPU. gigaflops: what it computes on a CPU. elsewhere: why it is not asked on a CPU.
    together: neighbours of the same word share a process, and what they keep in memory.
    plain_float32: it is asked with ``MLX_ENABLE_TF32`` as the caller's shell has it, and not with 0.
    """

    name: str
    title: str
    used: str
    reason: str
    remedy: str
    checks: Callable[[Setting], Iterator[Check]] = field(repr=False)
    sources: tuple[int, ...] = ()
    gigabytes: tuple[float, float] = (1.0, 1.0)
    gigaflops: float = 1.0
    elsewhere: str = ""
    together: str = ""
    plain_float32: bool = False


def random(name: str, *shape: int, dtype: mx.Dtype = mx.float32, scale: float = 1.0, offset: float = 0.0) -> mx.array:
    """Normal numbers that depend on the name alone."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    values *= np.float32(scale)
    values += np.float32(offset)
    return mx.array(values).astype(dtype)


def numbers(x: mx.array) -> Array:
    """An array's values for NumPy; half precision as float32."""
    return np.array(x.astype(mx.float32) if x.dtype in (mx.bfloat16, mx.float16) else x)


def name_of(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")


def at_positions(y: mx.array, at: Array) -> Array:
    """The vectors of a channels-last output at these positions, taken on the device."""
    mx.eval(y)
    return numbers(y[tuple(mx.array(index) for index in at.T)])


def layer(
    what: str,
    kind: sampled.Kind,
    y: mx.array,
    operands: tuple[mx.array, ...],
    count: int = sampled.COUNT,
    **options: object,
) -> Check:
    """The output of a large layer at sampled positions."""
    dtype = name_of(operands[0].dtype)
    at = sampled.positions(y.shape[:-1], count)
    ours = at_positions(y, at)
    found = sampled.judge_layer(kind, at, ours, tuple(map(numbers, operands)), dtype, **options)
    return Check(f"{what}, {dtype}", found, sampled.limit(dtype))


def whole(what: str, y: mx.array, exact: Array, dtype: mx.Dtype, terms: int, primitive: str = "matmul") -> Check:
    """An output that is small enough to be compared whole."""
    name = name_of(dtype)
    return Check(f"{what}, {name}", sampled.ratio(numbers(y), exact, name, terms, primitive), sampled.limit(name))


def equal(what: str, ours: Array, exact: Array) -> Check:
    """Integers, which are right or wrong."""
    if ours.shape != exact.shape:
        return Check(what, float("inf"), 0.0, f"shape {ours.shape}, expected {exact.shape}")
    wrong = np.flatnonzero((ours != exact).reshape(len(ours), -1).any(axis=1))
    if not len(wrong):
        return Check(what, 0.0, 0.0)
    return Check(what, float("inf"), 0.0, f"{len(wrong):,} of {len(ours):,} rows are wrong, the first is {wrong[0]:,}")
