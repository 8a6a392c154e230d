"""The video decoder over several ranks: each has a stretch of the latent's frames, in order of time, and computes what
comes of them. A convolution along time asks its neighbours for the frames that it reads beyond them.
"""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..nn.noise import Generator
from ..nn.slabs import Share, slabs
from ..tiling import TilingConfig
from ..types import VIDEO_SCALE_FACTORS
from ..vae_memory import can_share, shares, slab_size
from ..video_vae import DecodesVideo, VideoDecoder, decode_video, to_uint8
from .ranks import Ranks
from .table import bounds

_SENT = 16  # frames that are sent to the first rank at a time


class SplitVideoDecoder(VideoDecoder):
    """``VideoDecoder`` on every rank at once. alone: this rank decodes by itself."""

    ranks: Ranks
    alone: bool = False

    def __call__(
        self, sample: mx.array, timestep: mx.array | None = None, generator: Generator | None = None
    ) -> mx.array:
        """The whole video, on every rank."""
        if not self._is_shared(sample):
            return super().__call__(sample, timestep, generator)
        with self.ranks.together():
            share = self._share(sample)
            video = share.joined(self.whole(sample, timestep, generator, share).swapaxes(1, 2)).swapaxes(1, 2)
            mx.eval(video)
        return video

    def decode_in_slabs(
        self, sample: mx.array, timestep: mx.array | None = None, generator: Generator | None = None
    ) -> Iterator[mx.array]:
        if self._is_shared(sample):
            yield self(sample, timestep, generator)
        else:
            yield from super().decode_in_slabs(sample, timestep, generator)

    def own(self, latent: mx.array, generator: Generator | None) -> mx.array:
        """The frames of this rank, ``(B, 3, T, 32H, 32W)``. They are computed when this returns."""
        with self.ranks.together():
            frames = self.whole(latent, None, generator, self._share(latent))
            mx.eval(frames)
        return frames

    def _is_shared(self, latent: mx.array) -> bool:
        return not self.alone and can_share(self.config, self._checked(latent), self.ranks.size)

    def _share(self, latent: mx.array) -> Share:
        rank, size = self.ranks.rank, self.ranks.size
        return Share(rank, size, *bounds(latent.shape[2], rank, size), self.ranks.gather, slab_size())


def split_decoder(module: nn.Module, ranks: Ranks) -> None:
    """Make a video decoder one of several ranks'. A diffusion decoder, as any other module, stays as it is."""
    if type(module) is VideoDecoder:
        object.__setattr__(module, "__class__", type("VideoDecoder", (SplitVideoDecoder,), {}))
        module.ranks = ranks


def decode_over(
    ranks: Ranks,
    latent: mx.array,
    decoder: DecodesVideo,
    tiling_config: TilingConfig | None,
    generator: Generator,
    memory_budget: int,
) -> Iterator[mx.array]:
    """``decode_video`` of all ranks: the chunks come on the first one, and none on the others. Every rank must call
    this, and run through it.

    The first rank decodes alone where the decoder, the latent or the memory does not allow anything else.
    """
    with ranks.together():
        latent = ranks.led("video latents", latent)
        budget = min(map(int, ranks.told(str(memory_budget))))
    together = False
    if isinstance(decoder, SplitVideoDecoder):
        config, size = decoder.config, ranks.size
        if tiling_config is not None:
            together = can_share(config, latent.shape, size)  # a tile may still be too short
        else:
            together = shares(config, latent.shape, latent.dtype.size, size, budget)
        decoder.alone = not together
        if together and tiling_config is None:
            yield from _sent(ranks, _bytes(decoder.own(latent, generator)), latent.shape[2])
            return
    if ranks.first or together:
        for chunk in decode_video(latent, decoder, tiling_config, generator, memory_budget):
            if ranks.first:
                yield chunk


def _bytes(frames: mx.array) -> np.ndarray:
    """``to_uint8`` of some frames at a time, ``(F, H, W, 3)``."""
    cuts = slabs(frames.shape[2], _SENT)
    return np.concatenate([np.array(to_uint8(frames[0, :, begin:end])) for begin, end in cuts])


def _sent(ranks: Ranks, own: np.ndarray, latents: int) -> Iterator[mx.array]:
    """The frames of each rank in turn, some at a time, on the first rank. Every engine of MLX can send them as the sum
    of one rank's bytes and of the others' zeros."""
    for rank in range(ranks.size):
        first, last = bounds(latents, rank, ranks.size)
        frames = (last - first) * VIDEO_SCALE_FACTORS.time - (VIDEO_SCALE_FACTORS.time - 1 if rank == 0 else 0)
        for begin, end in slabs(frames, _SENT):
            if rank == 0:
                if ranks.first:
                    yield mx.array(own[begin:end])
                continue
            with ranks.together():
                piece = own[begin:end] if ranks.rank == rank else np.zeros((end - begin, *own.shape[1:]), np.uint8)
                chunk = ranks.sum(mx.array(piece))
                mx.eval(chunk)
            if ranks.first:
                yield chunk
