"""One step of a sampler, in latents ``(B, T, C)``. Source: ``ltx_core.components.diffusion_steps``."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from ..errors import InputError


def to_velocity(sample: mx.array, sigma: float, denoised_sample: mx.array) -> mx.array:
    """(sample − denoised) / sigma in float32, rounded to the dtype of ``sample``. Source: ``ltx_core.utils``."""
    if sigma == 0:
        raise InputError("sigma is 0, and the velocity divides by it: expected a sigma above 0")
    return ((sample.astype(mx.float32) - denoised_sample.astype(mx.float32)) / sigma).astype(sample.dtype)


class EulerDiffusionStep:
    """First order: along the velocity from one sigma to the next."""

    def step(self, sample: mx.array, denoised_sample: mx.array, sigmas: np.ndarray, step_index: int) -> mx.array:
        """``(B, T, C)`` noisy and denoised latents → noisy latents at ``sigmas[step_index + 1]``, in the same dtype.

        The velocity is rounded to that dtype before the float32 step, as in the reference.
        """
        sigma, after = np.float32(sigmas[step_index]), np.float32(sigmas[step_index + 1])
        velocity = to_velocity(sample, float(sigma), denoised_sample)
        return (sample.astype(mx.float32) + velocity.astype(mx.float32) * float(after - sigma)).astype(sample.dtype)


@dataclass(frozen=True)
class EulerAncestralDiffusionStep:
    """First order, down to a lower sigma than the next and back to it with fresh noise, so that the variance is kept.

    eta: how far down, above 0 to 1; s_noise: a factor of the noise. The rectified flow's x = (1 − σ)·x₀ + σ·ε is what
    makes the signal's share 1 − σ. Source: ``EulerAncestralDiffusionStep`` of ltx-core 1.2.0.
    """

    eta: float = 1.0
    s_noise: float = 1.0

    def coefficients(self, sigma: np.float32, sigma_next: np.float32) -> tuple[np.float32, np.float32, np.float32]:
        """(a, r, c): the step is a·(r·x + (1 − r)·x₀) + c·ε. In float32: near σ = 1 the rounding of 1 − σ shows."""
        one, eta = np.float32(1), np.float32(self.eta)
        down = sigma_next * (one + (sigma_next / sigma - one) * eta)
        signal = (one - sigma_next) / (one - down)
        return signal, down / sigma, np.sqrt(max(sigma_next**2 - down**2 * signal**2, np.float32(0)))

    def step(
        self, sample: mx.array, denoised_sample: mx.array, sigmas: np.ndarray, step_index: int, noise: mx.array
    ) -> mx.array:
        """``(B, T, C)`` noisy and denoised latents → float32 ones at ``sigmas[step_index + 1]``, which is above 0."""
        coefficients = self.coefficients(np.float32(sigmas[step_index]), np.float32(sigmas[step_index + 1]))
        a, r, c = map(float, coefficients)
        x, x0, fresh = (array.astype(mx.float32) for array in (sample, denoised_sample, noise))
        return a * (r * x + (1 - r) * x0) + self.s_noise * c * fresh


class Res2sDiffusionStep:
    """A step with fresh noise that keeps the variance, for the second-order sampler. NumPy: it computes in float64."""

    @staticmethod
    def get_sde_coeff(sigma_next: np.floating, sigma_up: np.floating) -> tuple[np.floating, np.floating, np.floating]:
        """(alpha_ratio, sigma_down, sigma_up): how much of the step is signal, what noise it goes down to, and how much
        is added. Works in the precision of its arguments."""
        number = type(sigma_next)
        sigma_up = min(sigma_up, sigma_next * number(0.9999))
        residual = np.sqrt(max(sigma_next**2 - sigma_up**2, number(0)))
        alpha_ratio = number(1) - sigma_next + residual
        return alpha_ratio, residual / alpha_ratio, sigma_up

    def step(
        self, sample: np.ndarray, denoised_sample: np.ndarray, sigmas: np.ndarray, step_index: int, noise: np.ndarray
    ) -> np.ndarray:
        """float64 latents at ``sigmas[step_index]`` and where the step would lead without noise → with it.

        The coefficients have the precision of ``sigmas``: float32 for a whole step, float64 for a half one.
        """
        sigma, sigma_next = sigmas[step_index], sigmas[step_index + 1]
        half = type(sigma_next)(0.5)
        alpha_ratio, sigma_down, sigma_up = self.get_sde_coeff(sigma_next, sigma_up=sigma_next * half)
        if sigma_up == 0 or sigma_next == 0:
            return denoised_sample
        eps = (sample - denoised_sample) / (sigma - sigma_next)
        clean = sample - sigma * eps
        stepped: np.ndarray = alpha_ratio * (clean + sigma_down * eps) + sigma_up * noise
        return stepped
