"""Noise on a latent state. Source: ``ltx_core.components.noisers``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from ..nn.noise import Generator
from ..types import LatentState
from .torch_random import TorchGenerator


@dataclass(frozen=True)
class GaussianNoiser:
    """Replaces each token by noise as far as its mask and the scale say; the rest of it stays."""

    generator: Generator

    def __call__(self, latent_state: LatentState, noise_scale: float = 1.0) -> LatentState:
        """noise_scale: in [0, 1], the sigma that denoising starts from. Appended tokens draw noise as well, and a scale
        of 0 draws too: the stream of numbers depends on shapes alone."""
        latent = latent_state.latent
        noise = self.generator.randn(latent.shape, latent.dtype)
        mask = latent_state.denoise_mask * noise_scale  # float32, and so is the mix (tap: GaussianNoiser)
        return replace(latent_state, latent=(noise * mask + latent * (1 - mask)).astype(latent.dtype))


class TorchNoise(Generator):
    """In place of ``nn.noise.Generator``: the numbers that torch's generator of this seed draws on a CPU. Torch draws
    bfloat16 in its own way; float16 is rounded from float32 here."""

    def __init__(self, seed: int):
        self.torch = TorchGenerator(seed)

    def randn(self, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
        return mx.array(self.torch.randn(shape, "bfloat16" if dtype == mx.bfloat16 else "float32")).astype(dtype)

    def randn64(self, shape: Sequence[int]) -> np.ndarray:
        return self.torch.randn(shape, "float64")
