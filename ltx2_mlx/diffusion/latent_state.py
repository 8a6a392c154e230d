"""Latent states: from a latent's shape to tokens with positions, and back. Mirrors ``ltx_core.tools``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Generic

import mlx.core as mx
import numpy as np

from ..errors import InputError
from ..types import VIDEO_SCALE_FACTORS, AudioLatentShape, LatentState, SpatioTemporalScaleFactors, VideoLatentShape
from .behaviour import V1_0_0, Behaviour
from .patchifiers import AudioPatchifier, Patchifier, Shape, VideoLatentPatchifier, get_pixel_coords


class _LatentTools(Generic[Shape]):
    patchifier: Patchifier[Shape]
    target_shape: Shape

    def bounds(self) -> mx.array:
        """``(B, axes, T, 2)``: [start, end) of each token, in latent cells for video, in seconds for audio."""
        return self.patchifier.get_patch_grid_bounds(self.target_shape)

    def _positions(self, dtype: mx.Dtype) -> mx.array:
        raise NotImplementedError

    def _keyframes_mask(self) -> mx.array | None:
        return None

    def create_initial_state(self, dtype: mx.Dtype, initial_latent: mx.array | None = None) -> LatentState:
        """All tokens to be denoised, starting from ``initial_latent`` or from zeros."""
        shape = tuple(self.target_shape)
        latent = mx.zeros(shape, dtype) if initial_latent is None else initial_latent
        if latent.shape != shape:
            raise InputError(f"the initial latent is {latent.shape}, expected {shape}")
        mask = mx.ones(tuple(self.target_shape.mask_shape()), mx.float32)
        tokens = self.patchifier.patchify(latent)
        state = LatentState(tokens, self.patchifier.patchify(mask), self._positions(dtype), tokens)
        return replace(state, keyframes_mask=self._keyframes_mask())

    def unpatchify(self, state: LatentState) -> LatentState:
        """Tokens back to ``target_shape``; conditioning tokens must have been cleared."""
        unpatchify, shape = self.patchifier.unpatchify, self.target_shape
        return replace(
            state,
            latent=unpatchify(state.latent, output_shape=shape),
            clean_latent=unpatchify(state.clean_latent, output_shape=shape),
            denoise_mask=unpatchify(state.denoise_mask, output_shape=shape.mask_shape()),
        )

    def clear_conditioning(self, state: LatentState) -> LatentState:
        """Drop the tokens that conditioning appended, and its changes to the masks."""
        n = self.patchifier.get_token_count(self.target_shape)
        return LatentState(
            latent=state.latent[:, :n],
            denoise_mask=mx.ones_like(state.denoise_mask)[:, :n],
            positions=state.positions[:, :, :n],
            clean_latent=state.clean_latent[:, :n],
            keyframes_mask=None if state.keyframes_mask is None else state.keyframes_mask[:, :n],
        )


@dataclass(frozen=True)
class VideoLatentTools(_LatentTools[VideoLatentShape]):
    """The tools of a video latent. ``fps``, in frames per second, places the tokens in time. ``keyframes``: mark the
    first latent frame, which holds a single picture, for a transformer that is told so (2.5). ``behaviour``: of
    positions and of conditioning."""

    patchifier: VideoLatentPatchifier
    target_shape: VideoLatentShape
    fps: float
    scale_factors: SpatioTemporalScaleFactors = VIDEO_SCALE_FACTORS
    causal_fix: bool = True
    behaviour: Behaviour = V1_0_0
    keyframes: bool = False

    def _keyframes_mask(self) -> mx.array | None:
        """``(B, T, 1)`` float32: 1 for the tokens of the first latent frame, whatever it is made from."""
        if not self.keyframes:
            return None
        shape = self.target_shape.mask_shape()
        first = mx.arange(shape.frames)[:, None, None] == 0
        return self.patchifier.patchify(mx.broadcast_to(first, tuple(shape)).astype(mx.float32))

    def _positions(self, dtype: mx.Dtype) -> mx.array:
        """``(B, 3, T, 2)`` in (seconds, pixels, pixels); ``behaviour.positions`` may round them to the latent's dtype,
        which 1.0.0 does for video and not for audio."""
        coords = np.array(get_pixel_coords(self.bounds(), self.scale_factors, self.causal_fix)).astype(np.float32)
        coords[:, 0] = coords[:, 0] / np.float32(self.fps)
        return self.behaviour.positions(mx.array(coords), dtype)


@dataclass(frozen=True)
class AudioLatentTools(_LatentTools[AudioLatentShape]):
    """The tools of an audio latent."""

    patchifier: AudioPatchifier
    target_shape: AudioLatentShape

    def _positions(self, dtype: mx.Dtype) -> mx.array:
        """``(B, 1, T, 2)`` seconds, float32 in every run."""
        return self.bounds()
