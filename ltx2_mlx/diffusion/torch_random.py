"""torch's CPU generator in NumPy, so that a seed gives the noise that the reference draws from it.

The stream is MT19937. Normals are made by Box–Muller: tensors of sixteen numbers and more in groups of sixteen, smaller
ones a pair at a time in float64. Source: ATen's ``CPUGeneratorImpl``, ``DistributionsHelper.h`` and
``native/cpu/DistributionTemplates.h``. A GPU's generator draws other numbers, and is not reproduced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ..errors import InputError

DType = Literal["float32", "bfloat16", "float64"]
GROUP = 16  # eight radii, then eight angles; also the smallest tensor that is drawn in groups


class TorchGenerator:
    """The stream of ``torch.Generator("cpu").manual_seed(seed)``: the same draws in the same order give its numbers.

    Equal to torch up to the rounding of log, sine and cosine: 4e-7 in float32 beside torch with AVX2. Its other code
    paths round the angle otherwise, and are 2e-6 from it and from here. seed: −2⁶³ to 2⁶⁴ − 1, of which MT19937 takes
    the lower 32 bits.
    """

    def __init__(self, seed: int):
        if not -(2**63) <= seed < 2**64:
            raise InputError(f"the seed is {seed}, expected one of 64 bits: −2⁶³ to 2⁶⁴ − 1")
        self._engine = np.random.RandomState(seed & 0xFFFFFFFF)  # NumPy has frozen this class and its seeding
        self._cached: float | None = None  # the second normal of a pair, until the next small tensor takes it

    def randn(self, shape: Sequence[int], dtype: DType = "float32") -> np.ndarray:
        """Standard normal numbers; "bfloat16" comes as float32 already rounded to it."""
        size = math.prod(shape)
        if dtype not in ("float32", "bfloat16", "float64"):
            raise InputError(f'dtype {dtype!r}, expected "float32", "bfloat16" or "float64"')
        kind = np.float64 if dtype == "float64" else np.float32
        if size < GROUP:
            values: np.ndarray = np.array([self._one() for _ in range(size)], kind)
        else:
            # torch 2.13 fills a float tensor's incomplete group before drawing it again, but not a bfloat16 tensor's
            values = self._many(size, kind, spare=0 if dtype == "bfloat16" else size % GROUP)
        if dtype == "bfloat16":
            values = _round_to_bfloat16(values)
        return values.reshape(shape)

    def _words(self, count: int) -> np.ndarray:
        """``(count,)`` uint32, straight from the engine."""
        return self._engine.randint(0, 2**32, count, dtype=np.uint32)

    def _uniform(self, count: int, kind: type) -> np.ndarray:
        """``(count,)`` in [0, 1): the lower 24 bits of a word in float32; of two, high word first, 53 in float64."""
        if kind is np.float32:
            return (self._words(count) & np.uint32(2**24 - 1)).astype(np.float32) * np.float32(2**-24)
        high, low = self._words(2 * count).reshape(count, 2).T.astype(np.uint64)
        return ((high << np.uint64(32) | low) & np.uint64(2**53 - 1)).astype(np.float64) * 2**-53

    def _many(self, size: int, kind: type, spare: int) -> np.ndarray:
        """``size`` ≥ 16 normals. Where the last group is incomplete, the last sixteen are drawn again, after ``spare``
        unused numbers."""
        whole = size - size % GROUP
        values: np.ndarray = np.empty(size, kind)
        values[:whole] = _box_muller(self._uniform(whole, kind))
        if whole < size:
            self._uniform(spare, kind)
            values[-GROUP:] = _box_muller(self._uniform(GROUP, kind))
        return values

    def _one(self) -> float:
        """One normal by the scalar path, which keeps the other of the pair whatever is drawn in between."""
        if self._cached is not None:
            value, self._cached = self._cached, None
            return value
        u1, u2 = self._uniform(2, np.float64).tolist()
        radius, theta = math.sqrt(-2.0 * math.log1p(-u2)), 2.0 * math.pi * u1
        self._cached = radius * math.sin(theta)
        return radius * math.cos(theta)


def _box_muller(uniform: np.ndarray) -> np.ndarray:
    """``(16·n,)`` uniforms → normals, in their dtype. The angle is rounded to it before the cosine, as torch does."""
    one, two_pi = uniform.dtype.type(1), uniform.dtype.type(2 * math.pi)
    u1, u2 = uniform.reshape(-1, 2, GROUP // 2).transpose(1, 0, 2)
    radius, theta = np.sqrt(-2 * np.log(one - u1)), two_pi * u2
    return np.stack([radius * np.cos(theta), radius * np.sin(theta)], axis=1).reshape(-1)


def _round_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Finite float32 rounded to the nearest bfloat16, halves to even, as float32."""
    bits = values.view(np.uint32)
    bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)
