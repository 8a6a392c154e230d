"""Text features from Gemma's hidden states: each state is normalised, all are flattened and projected once.

Source: ``ltx_core.text_encoders.gemma.feature_extractor``. Where arithmetic narrows to the model's dtype and where it
stays float32 is the reference's choice, kept here step by step.
"""

from __future__ import annotations

from math import sqrt

import mlx.core as mx

from ..errors import InputError
from ..nn.linear import Linear
from ..nn.module import Module

HiddenStates = mx.array | list[mx.array] | tuple[mx.array, ...]
EPS = 1e-6


def _add_eps(x: mx.array) -> mx.array:
    """x + eps, added in float32 and rounded once, because neither bfloat16 nor float16 holds eps itself."""
    return (x.astype(mx.float32) + EPS).astype(x.dtype)


def _norm_and_concat_padded_batch(
    encoded_text: mx.array, sequence_lengths: mx.array, padding_side: str = "right"
) -> mx.array:
    """Normalise each state by its mean and range over the valid tokens: ``(B, T, D, L)`` → ``(B, T, D·L)``, pads zero.

    sequence_lengths: ``(B,)`` valid tokens. Half-precision states come out in float32, as in the reference: the mean
    does, because its denominator is an integer.
    """
    B, T, D, L = encoded_text.shape
    dtype, token = encoded_text.dtype, mx.arange(T)[None]
    if padding_side == "right":
        valid = token < sequence_lengths[:, None]
    elif padding_side == "left":
        valid = token >= T - sequence_lengths[:, None]
    else:
        raise InputError(f"padding_side is {padding_side!r}, expected 'left' or 'right'")
    valid = valid[:, :, None, None]
    # Summed over D, then over T, in float32 (tap: the features' own)
    total = mx.where(valid, encoded_text, 0).astype(mx.float32).sum(axis=2, keepdims=True).sum(axis=1, keepdims=True)
    count = (sequence_lengths * D).astype(mx.float32).reshape(B, 1, 1, 1)
    mean = total.astype(dtype).astype(mx.float32) / (count + EPS)
    lowest = mx.where(valid, encoded_text, mx.inf).min(axis=(1, 2), keepdims=True)
    highest = mx.where(valid, encoded_text, -mx.inf).max(axis=(1, 2), keepdims=True)
    normed = 8 * (encoded_text - mean) / _add_eps(highest - lowest)
    return mx.where(valid, normed, 0).reshape(B, T, D * L)


def norm_and_concat_per_token_rms(encoded_text: mx.array, attention_mask: mx.array) -> mx.array:
    """Divide each token's state by its root mean square: ``(B, T, D, L)`` → ``(B, T, D·L)``, same dtype, pads zero."""
    B, T, D, L = encoded_text.shape
    square = (encoded_text * encoded_text).astype(mx.float32)
    variance = square.mean(axis=2, keepdims=True).astype(encoded_text.dtype)
    normed = (encoded_text * mx.rsqrt(_add_eps(variance))).reshape(B, T, D * L)
    return mx.where(attention_mask.astype(mx.bool_)[:, :, None], normed, mx.zeros_like(normed))


def _rescale_norm(x: mx.array, target_dim: int, source_dim: int) -> mx.array:
    """x · √(target / source); the factor is not rounded to the dtype of ``x``."""
    return (x.astype(mx.float32) * sqrt(target_dim / source_dim)).astype(x.dtype)


def _stack(hidden_states: HiddenStates, width: int) -> mx.array:
    """``(B, T, D, L)`` from L states ``(B, T, D)``; ``width`` is what D · L must be."""
    encoded = mx.stack(list(hidden_states), axis=-1) if isinstance(hidden_states, (list, tuple)) else hidden_states
    _, _, D, L = encoded.shape
    if width != D * L:
        raise InputError(f"{L} hidden states of width {D} were given; the projection takes {width} features in all")
    return encoded


class FeatureExtractorV1(Module):
    """2.0: normalised per prompt; one projection for both streams."""

    def __init__(self, aggregate_embed: Linear, is_av: bool = False):
        super().__init__()
        self.aggregate_embed = aggregate_embed
        self.is_av = is_av

    def __call__(
        self, hidden_states: HiddenStates, attention_mask: mx.array, padding_side: str = "left"
    ) -> tuple[mx.array, mx.array | None]:
        """L states ``(B, T, D)`` and a mask ``(B, T)`` of 1 and 0 → video and audio features ``(B, T, D)``."""
        encoded = _stack(hidden_states, self.aggregate_embed.weight.shape[1])
        lengths = attention_mask.sum(axis=-1)
        normed = _norm_and_concat_padded_batch(encoded, lengths, padding_side)
        features = self.aggregate_embed(normed.astype(encoded.dtype))
        return features, features if self.is_av else None


class FeatureExtractorV2(Module):
    """2.3: normalised per token; a projection for each stream, its input scaled to keep the variance."""

    def __init__(self, video_aggregate_embed: Linear, embedding_dim: int, audio_aggregate_embed: Linear | None = None):
        super().__init__()
        self.video_aggregate_embed = video_aggregate_embed
        self.audio_aggregate_embed = audio_aggregate_embed
        self.embedding_dim = embedding_dim

    def __call__(
        self, hidden_states: HiddenStates, attention_mask: mx.array, padding_side: str = "left"
    ) -> tuple[mx.array, mx.array | None]:
        """L states ``(B, T, D)`` and a mask ``(B, T)`` of 1 and 0 → video features ``(B, T, Dv)`` and audio's."""
        encoded = _stack(hidden_states, self.video_aggregate_embed.weight.shape[1])
        normed = norm_and_concat_per_token_rms(encoded, attention_mask)

        def project(linear: Linear) -> mx.array:
            return linear(_rescale_norm(normed, linear.weight.shape[0], self.embedding_dim))

        video = project(self.video_aggregate_embed)
        return video, project(self.audio_aggregate_embed) if self.audio_aggregate_embed is not None else None
