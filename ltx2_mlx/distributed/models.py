"""The denoiser of several ranks: its transformer is split over them, or whole on each, and they share the passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import mlx.core as mx

from ..diffusion.denoisers import Denoiser, Pass
from ..diffusion.perturbations import BatchedPerturbationConfig
from ..diffusion.samplers import Latents
from ..transformer import LTXModel, X0Model
from ..types import Modality
from .ranks import Ranks
from .table import turns


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


class SharedX0Model(SplitX0Model):
    """The same with a transformer that every rank has whole: the passes of a step are dealt out. One that is alone,
    without guidance, is computed by every rank."""

    def shared(self, passes: Sequence[Pass]) -> list[Latents]:
        """The prediction of each pass over one state: the same on every rank."""
        with self.ranks.together():
            video, audio, _ = passes[0]
            latents = (self.ranks.led("video latents", video.latent), self.ranks.led("audio latents", audio.latent))
            led = [(replace(v, latent=latents[0]), replace(a, latent=latents[1]), skips) for v, a, skips in passes]
            return dealt_out(self.ranks, led, cast(Denoiser, super(SplitX0Model, self).__call__))


def dealt_out(ranks: Ranks, passes: Sequence[Pass], run: Denoiser) -> list[Latents]:
    """The prediction of each pass, which one rank computes and all get. Every rank must call this.

    As many are gathered of each rank as the first one has; zeros stand for one that it does not have.
    """
    own: list[Latents] = []
    for i in turns(len(passes), ranks.rank, ranks.size):
        own.append(run(*passes[i]))
        mx.eval(own[-1])
    zeros = tuple(mx.zeros_like(stream.latent) for stream in passes[0][:2])
    own += [cast(Latents, zeros)] * (len(turns(len(passes), 0, ranks.size)) - len(own))
    video, audio = (ranks.gather(mx.stack([made[k] for made in own])) for k in range(2))
    places = [divmod(i, ranks.size)[::-1] for i in range(len(passes))]  # whose it is, and which of them
    return [(video[rank, number], audio[rank, number]) for rank, number in places]
