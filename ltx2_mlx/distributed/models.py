"""The denoiser whose transformer is split over ranks."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx

from ..diffusion.perturbations import BatchedPerturbationConfig
from ..transformer import LTXModel, X0Model
from ..types import Modality
from .ranks import Ranks


class SplitX0Model(X0Model):
    """``X0Model`` on every rank at once. The latents are those of the first rank; what goes with them is made on the
    host from the same arguments, and equal."""

    def __init__(self, velocity_model: LTXModel, ranks: Ranks):
        super().__init__(velocity_model)
        self.ranks = ranks

    def __call__(
        self,
        video: Modality | None,
        audio: Modality | None,
        perturbations: BatchedPerturbationConfig | None = None,
    ) -> tuple[mx.array | None, mx.array | None]:
        """Denoised latents ``(B, T, C)`` of video and audio. They are computed when this returns: the sums of all ranks
        must happen in one order."""
        with self.ranks.together():
            if video is not None:
                video = replace(video, latent=self.ranks.led("video latents", video.latent))
            if audio is not None:
                audio = replace(audio, latent=self.ranks.led("audio latents", audio.latent))
            result = super().__call__(video, audio, perturbations)
            mx.eval([x for x in result if x is not None])
        return result
