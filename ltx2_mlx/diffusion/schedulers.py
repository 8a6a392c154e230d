"""Noise schedules: ``(steps + 1,)`` sigmas from 1 to 0 as float32 NumPy arrays, equal to the reference's.

Schedules live on the host: they are short, every step needs their values as numbers, and a sigma that differs by one
unit in the last place is another schedule. Operations follow torch's order; a scalar over a tensor is torch's
``reciprocal() * scalar``. Source: ``ltx_core.components.schedulers`` and ``ltx_pipelines.utils.constants``.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import InputError

DISTILLED_SIGMA_VALUES = [1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0]
STAGE_2_DISTILLED_SIGMA_VALUES = [0.909375, 0.725, 0.421875, 0.0]

BASE_SHIFT_ANCHOR, MAX_SHIFT_ANCHOR = 1024, 4096
_ONE = np.float32(1)


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise InputError(f"a schedule needs at least one step, got {steps}")


def _linspace_down(steps: int) -> np.ndarray:
    """torch.linspace(1, 0, steps + 1): filled from both ends, float32 steps with a fused multiply-add."""
    step = np.float64(np.float32(-1) / np.float32(steps))  # the float64 sum below is exact, so it rounds once
    i = np.arange(steps + 1)
    from_start, from_end = 1 + step * i, -step * (steps - i)
    return np.where(i < (steps + 1) // 2, from_start, from_end).astype(np.float32)


def _shifted(sigmas: np.ndarray, mu: float) -> np.ndarray:
    """exp(mu) / (exp(mu) + 1/sigma − 1) in float32: the resolution-dependent time shift of FLUX."""
    scale = np.float32(math.exp(mu))
    return _ONE / (scale + (_ONE / sigmas - _ONE)) * scale


class LTX2Scheduler:
    """Linear steps, shifted by the number of tokens, stretched to end at ``terminal`` before 0."""

    def execute(
        self,
        steps: int,
        tokens: int = MAX_SHIFT_ANCHOR,
        max_shift: float = 2.05,
        base_shift: float = 0.95,
        stretch: bool = True,
        terminal: float = 0.1,
    ) -> np.ndarray:
        """Sigmas ``(steps + 1,)``.

        tokens: frames · height · width of the latent. All pipelines except the HQ one leave it at 4096.
        """
        _check_steps(steps)
        if stretch and steps == 1:  # the reference divides zero by zero here and samples with NaN
            raise InputError("one step cannot be stretched to the terminal sigma; take two, or stretch=False")
        slope = (max_shift - base_shift) / (MAX_SHIFT_ANCHOR - BASE_SHIFT_ANCHOR)
        mu = tokens * slope + base_shift - slope * BASE_SHIFT_ANCHOR
        sigmas = _shifted(_linspace_down(steps)[:-1], mu)
        if stretch:
            rest = _ONE - sigmas
            sigmas = _ONE - rest / (rest[-1] / np.float32(1.0 - terminal))
        return np.append(sigmas, np.float32(0))
