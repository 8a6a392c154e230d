"""Noise on a latent state. Source: ``ltx_core.components.noisers``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from ..nn.noise import Generator
from ..types import LatentState
from .behaviour import V1_0_0, Behaviour
from .torch_random import TorchGenerator


@dataclass(frozen=True)
class GaussianNoiser:
    """Mixes noise into each token, in the share that its mask and the scale give, by ``behaviour.noised``."""

    generator: Generator
    behaviour: Behaviour = V1_0_0

    def __call__(self, latent_state: LatentState, noise_scale: float = 1.0) -> LatentState:
        """Add noise to a state.

        noise_scale: in [0, 1], the sigma that denoising starts from. Appended tokens draw noise as well, and a scale
        of 0 draws too, so that the stream of numbers depends only on shapes.
        """
        latent = latent_state.latent
        noise = self.generator.randn(latent.shape, latent.dtype)
        return replace(latent_state, latent=self.behaviour.noised(noise, latent_state, noise_scale))


class TorchNoise(Generator):
    """Draws the numbers that torch's generator of the same seed draws on a CPU; use it in place of ``Generator``.

    torch draws bfloat16 in a way of its own, which is followed; float16 is rounded from float32.
    """

    def __init__(self, seed: int):
        self.torch = TorchGenerator(seed)

    def randn(self, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
        return mx.array(self.torch.randn(shape, "bfloat16" if dtype == mx.bfloat16 else "float32")).astype(dtype)

    def randn64(self, shape: Sequence[int]) -> np.ndarray:
        return self.torch.randn(shape, "float64")
