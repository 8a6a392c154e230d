"""Contexts from text features: learned registers replace pads, then each stream has a small transformer.

Source: ``ltx_core.text_encoders.gemma.{embeddings_connector,embeddings_processor}``. The reference takes one prompt at
a time; ours takes a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from ..config import ConnectorConfig, EmbeddingsProcessorConfig
from ..errors import ConfigError, InputError
from ..nn.attention import Attention, FeedForward
from ..nn.linear import Linear
from ..nn.module import Module
from ..nn.norm import rms_norm
from ..nn.rope import generate_freq_grid_np, generate_freq_grid_pytorch, precompute_freqs_cis
from .feature_extractor import FeatureExtractorV1, FeatureExtractorV2, HiddenStates

MASKED = -9000.0  # what an additive mask holds below this is a pad


class EmbeddingsProcessorOutput(NamedTuple):
    """Contexts ``(B, T, Dv)`` and ``(B, T, Da)``, and their mask ``(B, T)``, which is all ones."""

    video_encoding: mx.array
    audio_encoding: mx.array | None
    attention_mask: mx.array


def convert_to_additive_mask(attention_mask: mx.array, dtype: mx.Dtype) -> mx.array:
    """``(B, T)`` of 1 and 0 → ``(B, 1, 1, T)`` bias of 0 and the dtype's lowest value."""
    bias = (attention_mask.astype(mx.int64) - 1).astype(dtype)
    return bias.reshape(attention_mask.shape[0], 1, -1, attention_mask.shape[-1]) * mx.finfo(dtype).max


def _to_binary_mask(encoded: mx.array, encoded_mask: mx.array) -> tuple[mx.array, mx.array]:
    """Zero what the bias ``(B, 1, 1, T)`` hides in ``(B, T, D)``; the mask as ``(B, T, 1)`` of 1 and 0."""
    binary_mask = (encoded_mask < 0.000001).astype(mx.int64).reshape(*encoded.shape[:2], 1)
    return encoded * binary_mask.astype(encoded.dtype), binary_mask


class _BasicTransformerBlock1D(Module):
    """Self-attention and feed-forward, each on the normalised residual. The norms have no weights."""

    def __init__(self, config: ConnectorConfig):
        super().__init__()
        heads, dim = config.num_attention_heads, config.inner_dim
        gated = config.apply_gated_attention
        self.attn1 = Attention(dim, None, heads, config.attention_head_dim, 1e-6, config.rope_type, gated)
        self.ff = FeedForward(dim, dim)

    def __call__(
        self,
        hidden_states: mx.array,
        attention_mask: mx.array | None = None,
        pe: tuple[mx.array, mx.array] | None = None,
    ) -> mx.array:
        """``(B, T, D)`` → the same shape."""
        hidden_states = self.attn1(rms_norm(hidden_states), mask=attention_mask, pe=pe) + hidden_states
        return self.ff(rms_norm(hidden_states)) + hidden_states


class Embeddings1DConnector(Module):
    """Registers in place of pads, then transformer blocks, then a norm."""

    repeated = ("transformer_1d_blocks",)

    def __init__(self, config: ConnectorConfig):
        super().__init__()
        self.config = config
        self.transformer_1d_blocks = [_BasicTransformerBlock1D(config) for _ in range(config.num_layers)]
        self.learnable_registers = mx.zeros((config.num_learnable_registers, config.inner_dim))

    def _replace_padded_with_learnable_registers(
        self, hidden_states: mx.array, attention_mask: mx.array
    ) -> tuple[mx.array, mx.array]:
        """Valid tokens first, in their order; then registers, each at its own position modulo their number.

        ``(B, T, D)`` and bias ``(B, 1, 1, T)`` → the same shapes, the bias zero. As in the reference, which positions
        keep tokens is the mask *reversed*: right where pads are on the left. Pads on the right put the registers first
        and zeros after the tokens; no pipeline does that.
        """
        B, T, _ = hidden_states.shape
        registers = self.learnable_registers.astype(hidden_states.dtype)
        if T % registers.shape[0]:
            raise InputError(
                f"the prompt has {T} tokens, expected a multiple of {registers.shape[0]}, the number of registers"
            )
        valid = attention_mask.reshape(B, T) >= MASKED
        token = mx.arange(T)
        order = mx.argsort(mx.where(valid, token, token + T), axis=1)  # unique keys: stable whatever the sort is
        aligned = mx.take_along_axis(hidden_states, order[:, :, None], axis=1)
        aligned = mx.where((token < valid.sum(axis=1, keepdims=True))[:, :, None], aligned, 0)
        tiled = mx.tile(registers, (T // registers.shape[0], 1))[None]
        return mx.where(valid[:, ::-1, None], aligned, tiled), mx.zeros_like(attention_mask)

    def __call__(self, hidden_states: mx.array, attention_mask: mx.array) -> tuple[mx.array, mx.array]:
        """Features ``(B, T, D)`` and bias ``(B, 1, 1, T)`` → context ``(B, T, D)`` and its bias, zero everywhere."""
        hidden_states, attention_mask = self._replace_padded_with_learnable_registers(hidden_states, attention_mask)
        config = self.config
        freqs_cis = precompute_freqs_cis(
            mx.arange(hidden_states.shape[1], dtype=mx.float32)[None, None],
            dim=config.inner_dim,
            out_dtype=hidden_states.dtype,
            theta=config.theta,
            max_pos=list(config.max_pos),
            use_middle_indices_grid=False,
            num_attention_heads=config.num_attention_heads,
            rope_type=config.rope_type,
            freq_grid_generator=generate_freq_grid_np if config.double_precision_rope else generate_freq_grid_pytorch,
        )
        for block in self.transformer_1d_blocks:
            hidden_states = block(hidden_states, attention_mask=attention_mask, pe=freqs_cis)
        return rms_norm(hidden_states), attention_mask


class EmbeddingsProcessor(Module):
    """Feature extractor and connectors: Gemma's hidden states to the contexts that the transformer reads.

    flat_features: width of the extractor's input, Gemma's width times the number of its hidden states. The config does
    not say it; the projection's weight in the file does.
    """

    def __init__(self, config: EmbeddingsProcessorConfig, flat_features: int):
        super().__init__()
        width = config.hidden_size
        if flat_features % width:
            raise ConfigError(
                f"text_embedding_projection takes {flat_features} features, expected a multiple of "
                f"transformer.caption_channels ({width})"
            )
        self.num_hidden_states = flat_features // width
        self.feature_extractor: FeatureExtractorV1 | FeatureExtractorV2
        if config.caption_proj_before_connector:
            video = Linear(flat_features, config.video_features)
            audio = Linear(flat_features, config.audio_features)
            self.feature_extractor = FeatureExtractorV2(video, width, audio)
        else:
            self.feature_extractor = FeatureExtractorV1(Linear(flat_features, width, bias=False), is_av=True)
        self.video_connector = Embeddings1DConnector(config.video_connector)
        self.audio_connector = Embeddings1DConnector(config.audio_connector)

    def create_embeddings(
        self, video_features: mx.array, audio_features: mx.array, additive_attention_mask: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Features ``(B, T, Dv)`` and ``(B, T, Da)`` with their bias → contexts of the same shapes, mask ``(B, T)``."""
        video_encoded, video_mask = self.video_connector(video_features, additive_attention_mask)
        video_encoded, binary_mask = _to_binary_mask(video_encoded, video_mask)
        audio_encoded, _ = self.audio_connector(audio_features, additive_attention_mask)
        return video_encoded, audio_encoded, binary_mask.squeeze(-1)

    def process_hidden_states(
        self, hidden_states: HiddenStates, attention_mask: mx.array, padding_side: str = "left"
    ) -> EmbeddingsProcessorOutput:
        """L states ``(B, T, D)`` and the tokenizer's mask ``(B, T)`` → contexts for video and audio."""
        video_feats, audio_feats = self.feature_extractor(hidden_states, attention_mask, padding_side)
        assert audio_feats is not None  # video-only checkpoints are refused by their config
        additive_mask = convert_to_additive_mask(attention_mask, video_feats.dtype)
        return EmbeddingsProcessorOutput(*self.create_embeddings(video_feats, audio_feats, additive_mask))
