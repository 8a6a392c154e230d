"""Conditioning beside the prompt: images, reference videos, regions to keep. Each item changes a latent state.

Mirrors ``ltx_core.conditioning`` and the mask of ``ltx_pipelines.retake``. Items that add tokens add them at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import mlx.core as mx
import numpy as np

from ..errors import InputError
from ..types import LatentState, VideoLatentShape
from .behaviour import Behaviour, latent_frame
from .latent_state import AudioLatentTools, VideoLatentTools
from .patchifiers import get_pixel_coords

Tools = TypeVar("Tools", bound=VideoLatentTools | AudioLatentTools, contravariant=True)


class ConditioningItem(Protocol[Tools]):
    """Anything that changes a latent state before denoising."""

    def apply_to(self, latent_state: LatentState, latent_tools: Tools) -> LatentState: ...


@dataclass(frozen=True)
class VideoConditionByLatentIndex:
    """Puts latent frames in the place of those from ``latent_idx`` on.

    latent: ``(B, C, F, H, W)`` of the target's size. strength: 1 keeps them as they are, 0 denoises them fully.
    """

    latent: mx.array
    strength: float
    latent_idx: int

    def apply_to(self, latent_state: LatentState, latent_tools: VideoLatentTools) -> LatentState:
        target = latent_tools.target_shape
        B, C, F, H, W = self.latent.shape
        if (target.batch, target.channels, target.height, target.width) != (B, C, H, W):
            raise InputError(
                f"a conditioning latent is {self.latent.shape}, expected the batch, channels and size of "
                f"{tuple(target)}"
            )
        if not 0 <= self.latent_idx <= target.frames - F:
            raise InputError(f"{F} latent frames at {self.latent_idx} do not fit into the video's {target.frames}")
        tokens = latent_tools.patchifier.patchify(self.latent)
        before = target._replace(frames=self.latent_idx).token_count()
        at = slice(before, before + tokens.shape[1])
        mask = mx.full((B, tokens.shape[1], 1), 1.0 - self.strength, latent_state.denoise_mask.dtype)
        return replace(
            latent_state,
            latent=_put(latent_state.latent, at, latent_tools.behaviour.start(latent_state.latent[:, at], tokens)),
            clean_latent=_put(latent_state.clean_latent, at, tokens),
            denoise_mask=_put(latent_state.denoise_mask, at, mask),
        )


def _put(x: mx.array, at: slice, tokens: mx.array) -> mx.array:
    return mx.concatenate([x[:, : at.start], tokens.astype(x.dtype), x[:, at.stop :]], axis=1)


@dataclass(frozen=True)
class VideoConditionByKeyframeIndex:
    """Adds tokens of an image (or clip) that lies at ``frame_idx``, in frames of the video.

    keyframes: ``(B, C, F, H, W)``. strength: 1 keeps them clean, 0 denoises them fully.
    """

    keyframes: mx.array
    frame_idx: int
    strength: float

    def apply_to(self, latent_state: LatentState, latent_tools: VideoLatentTools) -> LatentState:
        # A latent frame spans eight frames; at frame 0 it spans one, as the first latent frame does.
        causal = latent_tools.causal_fix and self.frame_idx == 0
        span = latent_tools.behaviour.keyframe_span if self.keyframes.shape[2] == 1 else latent_frame
        positions = _positions(self.keyframes, latent_tools, causal, self.frame_idx, span)
        return _append(latent_state, latent_tools, self.keyframes, positions, self.strength)


@dataclass(frozen=True)
class VideoConditionByReferenceLatent:
    """Adds tokens of a reference video that lies over the whole clip, as in-context LoRAs are trained.

    latent: ``(B, C, F, H, W)``. downscale_factor: how many times larger the target is. strength: as above.
    """

    latent: mx.array
    downscale_factor: int = 1
    strength: float = 1.0

    def apply_to(self, latent_state: LatentState, latent_tools: VideoLatentTools) -> LatentState:
        positions = _positions(self.latent, latent_tools, latent_tools.causal_fix)
        positions[:, 1:] *= np.float32(self.downscale_factor)
        return _append(latent_state, latent_tools, self.latent, positions, self.strength)


def _positions(
    latent: mx.array,
    tools: VideoLatentTools,
    causal_fix: bool,
    frame_idx: int = 0,
    span: Callable[[np.ndarray], np.ndarray] = latent_frame,
) -> np.ndarray:
    """``(B, 3, T, 2)`` float32 (seconds, pixels, pixels) of the tokens, ``frame_idx`` frames into the video."""
    bounds = tools.patchifier.get_patch_grid_bounds(VideoLatentShape(*latent.shape))
    coords = np.array(get_pixel_coords(bounds, tools.scale_factors, causal_fix))
    coords[:, 0] += frame_idx
    positions = span(coords).astype(np.float32)
    positions[:, 0] /= np.float32(tools.fps)
    return positions


def _append(
    state: LatentState, tools: VideoLatentTools, latent: mx.array, positions: np.ndarray, strength: float
) -> LatentState:
    """Append ``latent`` as tokens. Positions become float32 even where the video's own are rounded to bfloat16, and
    the mask goes through the latent's dtype (0.2 is 0.2002 in bfloat16), both as in the reference. What is given is
    no keyframe that the model makes, so it is not marked."""
    tokens = tools.patchifier.patchify(latent)
    mask = mx.full((*tokens.shape[:2], 1), 1.0 - strength, latent.dtype).astype(state.denoise_mask.dtype)
    start, marks = tools.behaviour.start(mx.zeros_like(tokens), tokens), state.keyframes_mask
    return LatentState(
        latent=mx.concatenate([state.latent, start], axis=1),
        denoise_mask=mx.concatenate([state.denoise_mask, mask], axis=1),
        positions=mx.concatenate([state.positions.astype(mx.float32), mx.array(positions)], axis=2),
        clean_latent=mx.concatenate([state.clean_latent, tokens], axis=1),
        attention_mask=update_attention_mask(state, None, tools.target_shape.token_count(), tokens.shape[1]),
        keyframes_mask=None if marks is None else mx.concatenate([marks, mx.zeros((*tokens.shape[:2], 1))], axis=1),
    )


@dataclass(frozen=True)
class ConditioningItemAttentionStrengthWrapper:
    """Limits how far the tokens that ``conditioning`` adds and the video's own attend to each other.

    attention_mask: a strength in [0, 1], or one for each added token, ``(M,)`` or ``(B, M)``.
    """

    conditioning: ConditioningItem[VideoLatentTools]
    attention_mask: float | mx.array

    def apply_to(self, latent_state: LatentState, latent_tools: VideoLatentTools) -> LatentState:
        state = self.conditioning.apply_to(latent_state, latent_tools)
        added = state.latent.shape[1] - latent_state.latent.shape[1]
        if added == 0:
            return state
        own = latent_tools.target_shape.token_count()
        return replace(state, attention_mask=update_attention_mask(latent_state, self.attention_mask, own, added))


def update_attention_mask(
    latent_state: LatentState, attention_mask: float | mx.array | None, num_noisy_tokens: int, num_new_tokens: int
) -> mx.array | None:
    """``(B, N+M, N+M)`` for M new tokens behind the state's N, of which the first ``num_noisy_tokens`` are the video's.

    None stays None; where there is a mask already, new tokens without a strength of their own get 1.
    """
    if attention_mask is None and latent_state.attention_mask is None:
        return None
    B, N, _ = latent_state.latent.shape
    strength = resolve_cross_mask(
        1.0 if attention_mask is None else attention_mask, num_new_tokens, B, latent_state.latent.dtype
    )
    return build_attention_mask(latent_state.attention_mask, num_noisy_tokens, N, strength)


def resolve_cross_mask(
    attention_mask: float | mx.array, num_new_tokens: int, batch_size: int, dtype: mx.Dtype
) -> mx.array:
    """``(B, M)`` from one strength, from one for each new token, or from one for each of each sample."""
    mask = mx.array(attention_mask).astype(dtype)
    if mask.ndim > 2 or (mask.ndim and mask.shape[-1] != num_new_tokens):
        raise InputError(f"an attention mask is {mask.shape}, expected one strength or {num_new_tokens} of them")
    if mask.ndim == 2 and mask.shape[0] not in (1, batch_size):
        raise InputError(f"an attention mask has a batch of {mask.shape[0]}, expected 1 or {batch_size}, the latent's")
    return mx.broadcast_to(mask, (batch_size, num_new_tokens))


def build_attention_mask(
    existing_mask: mx.array | None, num_noisy_tokens: int, num_existing_tokens: int, cross_mask: mx.array
) -> mx.array:
    """Attention strengths ``(B, N+M, N+M)`` in [0, 1] after M tokens joined N.

    The new tokens see each other fully, and no other added tokens; between them and the video's own tokens the strength
    is ``cross_mask`` ``(B, M)``, both ways.
    """
    B, M = cross_mask.shape
    N, dtype = num_existing_tokens, cross_mask.dtype
    existing = mx.ones((B, N, N), dtype) if existing_mask is None else existing_mask.astype(dtype)
    others = mx.zeros((B, N - num_noisy_tokens, M), dtype)
    to_new = mx.concatenate([mx.broadcast_to(cross_mask[:, None], (B, num_noisy_tokens, M)), others], axis=1)
    from_new = mx.concatenate([to_new.transpose(0, 2, 1), mx.ones((B, M, M), dtype)], axis=2)
    return mx.concatenate([mx.concatenate([existing, to_new], axis=2), from_new], axis=1)


@dataclass(frozen=True)
class FrozenStream:
    """Keeps all tokens of a stream, at the noise level that ``behaviour.frozen`` gives them."""

    behaviour: Behaviour

    def apply_to(self, latent_state: LatentState, latent_tools: VideoLatentTools | AudioLatentTools) -> LatentState:
        return self.behaviour.frozen(replace(latent_state, denoise_mask=mx.zeros_like(latent_state.denoise_mask)))


@dataclass(frozen=True)
class TemporalRegionMask:
    """Denoises the tokens that touch [start_time, end_time) in seconds, and keeps all others. ``fps`` of the video."""

    start_time: float
    end_time: float
    fps: float

    def apply_to(self, latent_state: LatentState, latent_tools: VideoLatentTools | AudioLatentTools) -> LatentState:
        seconds = latent_tools.bounds()
        if isinstance(latent_tools, VideoLatentTools):
            frames = get_pixel_coords(seconds, latent_tools.scale_factors, latent_tools.causal_fix)
            seconds = frames.astype(mx.float32) / self.fps
        start, end = seconds[:, 0, :, 0], seconds[:, 0, :, 1]
        inside = (end > self.start_time) & (start < self.end_time)
        return replace(latent_state, denoise_mask=inside[..., None].astype(latent_state.denoise_mask.dtype))
