"""One step of a sampler. Source: ``ltx_core.components.diffusion_steps``."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from .errors import InputError


def to_velocity(sample: mx.array, sigma: float, denoised_sample: mx.array) -> mx.array:
    """(sample − denoised) / sigma in float32, rounded to the dtype of ``sample``. Source: ``ltx_core.utils``."""
    if sigma == 0:
        raise InputError("there is no velocity at sigma 0")
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
