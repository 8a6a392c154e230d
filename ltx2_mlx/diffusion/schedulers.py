"""Noise schedules: ``(steps + 1,)`` sigmas from 1 to 0 as float32 NumPy arrays, equal to the reference's.

Schedules live on the host: they are short, every step needs their values as numbers, and a sigma that differs by one
unit in the last place is another schedule. Operations follow torch's order; a scalar over a tensor is torch's
``reciprocal() * scalar``. Source: ``ltx_core.components.schedulers`` and ``ltx_pipelines.utils.constants``.
"""

from __future__ import annotations

import math
from functools import cache

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
        """tokens: frames · height · width of the latent. All pipelines but the HQ one leave it at 4096."""
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


class LinearQuadraticScheduler:
    """Linear up to ``threshold_noise``, then quadratic."""

    def execute(self, steps: int, threshold_noise: float = 0.025, linear_steps: int | None = None) -> np.ndarray:
        _check_steps(steps)
        if steps == 1:
            return np.float32([1.0, 0.0])
        n = steps // 2 if linear_steps is None else linear_steps
        noise = [i * threshold_noise / n for i in range(n)]
        if (quadratic_steps := steps - n) > 0:
            rest = n - threshold_noise * steps
            square = rest / (n * quadratic_steps**2)
            linear = threshold_noise / n - 2 * rest / (quadratic_steps**2)
            noise += [square * (i**2) + linear * i + square * (n**2) for i in range(n, steps)]
        return np.float32([1.0 - x for x in [*noise, 1.0]])


class BetaScheduler:
    """Steps at the quantiles of a beta distribution (arXiv:2407.12173); equal ones are merged."""

    shift = 2.37
    timesteps_length = 10000

    def execute(self, steps: int, alpha: float = 0.6, beta: float = 0.6) -> np.ndarray:
        from scipy.stats import beta as beta_distribution  # a slow import, for this schedule alone

        _check_steps(steps)
        sigmas = _flux_sigmas(self.shift, self.timesteps_length)
        quantiles = beta_distribution.ppf(1 - np.linspace(0, 1, steps, endpoint=False), alpha, beta)
        chosen = dict.fromkeys(np.rint(quantiles * (len(sigmas) - 1)).astype(int).tolist())
        return np.append(sigmas[list(chosen)], np.float32(0))


@cache
def _flux_sigmas(shift: float, length: int) -> np.ndarray:
    return _shifted(np.arange(1, length + 1).astype(np.float32) / np.float32(length), shift)
