"""Timestep embeddings, AdaLN-single and the caption projection (PixArt-α, arXiv:2310.00426, section 2.3)."""

from __future__ import annotations

import functools
import math

import mlx.core as mx
import numpy as np

from .activation import GELUTanh, SiLU
from .linear import Linear
from .module import Module


@functools.lru_cache(maxsize=4)
def _frequencies(half: int) -> np.ndarray:
    # Arguments reach 1000 rad, so one ulp of a frequency shows: the exponent is rounded as torch rounds it, and the
    # exponential once. MLX's own float32 exp differs from that in 91 of 128 places, torch's in 2.
    exponent = np.float32(-math.log(10000)) * np.arange(half, dtype=np.float32) / np.float32(half)
    return np.exp(exponent.astype(np.float64)).astype(np.float32)


def get_timestep_embedding(timesteps: mx.array, embedding_dim: int) -> mx.array:
    """``(N,)`` float32 → ``(N, embedding_dim)`` float32 sinusoids, cosines first (tap: adaln_single.emb.time_proj)."""
    angles = timesteps.astype(mx.float32)[:, None] * mx.array(_frequencies(embedding_dim // 2))
    return mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)


class Timesteps(Module):
    """``get_timestep_embedding`` as a layer."""

    def __init__(self, num_channels: int):
        super().__init__()
        self.num_channels = num_channels

    def __call__(self, timesteps: mx.array) -> mx.array:
        """``(N,)`` → ``(N, num_channels)`` float32."""
        return get_timestep_embedding(timesteps, self.num_channels)


class TimestepEmbedding(Module):
    """Two linear layers with SiLU between them."""

    def __init__(self, in_channels: int, time_embed_dim: int):
        super().__init__()
        self.linear_1 = Linear(in_channels, time_embed_dim)
        self.act = SiLU()
        self.linear_2 = Linear(time_embed_dim, time_embed_dim)

    def __call__(self, sample: mx.array) -> mx.array:
        """``(N, in_channels)`` → ``(N, time_embed_dim)``."""
        return self.linear_2(self.act(self.linear_1(sample)))


class PixArtAlphaCombinedTimestepSizeEmbeddings(Module):
    """The timestep's sinusoid and its embedding."""

    def __init__(self, embedding_dim: int):
        super().__init__()
        self.time_proj = Timesteps(256)
        self.timestep_embedder = TimestepEmbedding(256, embedding_dim)

    def __call__(self, timestep: mx.array, hidden_dtype: mx.Dtype) -> mx.array:
        """``(N,)`` → ``(N, D)`` in ``hidden_dtype``; the sinusoid itself is float32."""
        return self.timestep_embedder(self.time_proj(timestep).astype(hidden_dtype))


class AdaLayerNormSingle(Module):
    """One embedding of the timestep, projected to ``embedding_coefficient`` modulation rows for all blocks."""

    def __init__(self, embedding_dim: int, embedding_coefficient: int):
        super().__init__()
        self.emb = PixArtAlphaCombinedTimestepSizeEmbeddings(embedding_dim)
        self.silu = SiLU()
        self.linear = Linear(embedding_dim, embedding_coefficient * embedding_dim)

    def __call__(self, timestep: mx.array, hidden_dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """``(N,)`` scaled timesteps → rows ``(N, coefficient·D)`` and the embedding ``(N, D)``."""
        embedded_timestep = self.emb(timestep, hidden_dtype=hidden_dtype)
        return self.linear(self.silu(embedded_timestep)), embedded_timestep


class PixArtAlphaTextProjection(Module):
    """Two linear layers with GELU between them, from the text's width to the model's."""

    def __init__(self, in_features: int, hidden_size: int):
        super().__init__()
        self.linear_1 = Linear(in_features, hidden_size)
        self.act_1 = GELUTanh()
        self.linear_2 = Linear(hidden_size, hidden_size)

    def __call__(self, caption: mx.array) -> mx.array:
        """``(B, S, in_features)`` → ``(B, S, hidden_size)``."""
        return self.linear_2(self.act_1(self.linear_1(caption)))
