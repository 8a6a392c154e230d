"""Noise schedules: ``(steps + 1,)`` sigmas from 1 to 0 as float32 NumPy arrays, equal to the reference's.

Schedules live on the host: they are short, every step needs their values as numbers, and a sigma that differs by one
unit in the last place is another schedule. Operations follow torch's order; a scalar over a tensor is torch's
``reciprocal() * scalar``. Source: ``ltx_core.components.schedulers`` and ``ltx_pipelines.utils.constants``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..errors import InputError

DISTILLED_SIGMA_VALUES = [1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0]
STAGE_2_DISTILLED_SIGMA_VALUES = [0.909375, 0.725, 0.421875, 0.0]

BASE_SHIFT_ANCHOR, MAX_SHIFT_ANCHOR = 1024, 4096
_ONE = np.float32(1)


MAX_STEPS = 1000


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise InputError(f"a schedule needs at least one step, got {steps}")
    if steps > MAX_STEPS:
        raise InputError(f"a schedule of {steps} steps, expected {MAX_STEPS} at most")


def falls(sigmas: np.ndarray) -> bool:
    """True where all sigmas are finite and each is smaller than the one before."""
    return bool(np.isfinite(sigmas).all() and (np.diff(sigmas) < 0).all())


def _linspace_down(steps: int) -> np.ndarray:
    """torch.linspace(1, 0, steps + 1): filled from both ends, float32 steps with a fused multiply-add."""
    step = np.float64(np.float32(-1) / np.float32(steps))  # the float64 sum below is exact, so it rounds once
    i = np.arange(steps + 1)
    from_start, from_end = 1 + step * i, -step * (steps - i)
    return np.where(i < (steps + 1) // 2, from_start, from_end).astype(np.float32)


def _shifted(sigmas: np.ndarray, mu: float) -> np.ndarray:
    """exp(mu) / (exp(mu) + 1/sigma − 1) in float32: the resolution-dependent time shift of FLUX."""
    scale = np.float32(math.exp(min(mu, 80.0)))  # larger ones give ones only, and then overflow
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

        tokens: frames · height · width of the latent. All pipelines except the HQ one leave it at 4096. Raises
        InputError where float32 has no falling sigmas for so many tokens or steps, unless ``terminal`` is 0 as well.
        """
        _check_steps(steps)
        if stretch and steps == 1:
            # (1 − 1) / (1 − 1) in the reference, or the terminal alone where the shift rounds 1 down: at 4096 tokens
            raise InputError(
                f"one step cannot be stretched: it would begin at the terminal sigma, {terminal:g}, and leave the "
                "noise in the video, or at NaN; take two steps or more"
            )

        def made(steps: int, tokens: int) -> np.ndarray:
            return _made(steps, _mu(tokens, max_shift, base_shift), terminal if stretch else None)

        sigmas = made(steps, tokens)
        if (terminal > 0 or not stretch) and not falls(sigmas):
            raise InputError(
                f"the schedule of {steps} steps for {tokens:,} tokens repeats a sigma in float32: "
                f"{_remedy(made, steps, tokens)}"
            )
        return sigmas


def _mu(tokens: int, max_shift: float, base_shift: float) -> float:
    slope = (max_shift - base_shift) / (MAX_SHIFT_ANCHOR - BASE_SHIFT_ANCHOR)
    return tokens * slope + base_shift - slope * BASE_SHIFT_ANCHOR


def _made(steps: int, mu: float, terminal: float | None) -> np.ndarray:
    """Shifted linear steps, stretched to end at ``terminal`` where it is given, and 0."""
    sigmas = _shifted(_linspace_down(steps)[:-1], mu)
    if terminal is not None:
        rest = _ONE - sigmas
        with np.errstate(all="ignore"):  # nothing is left of 1 − σ: NaN, which is refused
            sigmas = _ONE - rest / (rest[-1] / np.float32(1.0 - terminal))
    return np.append(sigmas, np.float32(0))


def _remedy(made: Callable[[int, int], np.ndarray], steps: int, tokens: int) -> str:
    """A smaller number of steps, and one of tokens, with which the schedule falls."""
    fewer = next((n for n in range(steps - 1, 1, -1) if falls(made(n, tokens))), None)
    low, high = 0, tokens
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if falls(made(steps, middle)) else (low, middle)
    ways = [f"take {fewer} steps"] if fewer else []
    ways += [f"a smaller or shorter video, with {low:,} tokens in this stage"] if low else []
    return ", or ".join(ways) or "take fewer steps"
