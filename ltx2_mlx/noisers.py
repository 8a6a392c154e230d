"""Noise on a latent state. Source: ``ltx_core.components.noisers``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .nn.noise import Generator
from .types import LatentState


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
