"""The Gemma 4 12B text model (``gemma4_unified``) as an encoder: what it has otherwise than Gemma 3.

Parameter and module paths are those of the official file below ``model.``; classes carry the names of transformers'
``models/gemma4_unified/modeling_gemma4_unified.py``. Pads are counted here too, so that the position of a prompt's
first token is the number of pads before it.
"""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from ..config import Gemma4UnifiedTextConfig
from ..nn.linear import Linear
from ..nn.module import Module
from ..nn.norm import rms_norm
from .gemma3 import (
    Gemma3DecoderLayer,
    Gemma3MLP,
    Gemma3RotaryEmbedding,
    Gemma3TextModel,
    Gemma3TextScaledWordEmbedding,
    Tables,
    _inverse_frequencies,
    attend,
    rotate_half,
)

PAD = 0


class Gemma4UnifiedRMSNorm(Module):
    """x / rms(x) · weight over the last axis, in float32, rounded once; without ``with_scale`` there is no weight."""

    def __init__(self, dim: int, eps: float, with_scale: bool = True):
        super().__init__()
        self.eps = eps
        if with_scale:
            self.weight = mx.ones((dim,))

    def __call__(self, hidden_states: mx.array) -> mx.array:
        weight = self.weight.astype(mx.float32) if "weight" in self else None
        return rms_norm(hidden_states.astype(mx.float32), weight, self.eps).astype(hidden_states.dtype)


class Gemma4UnifiedTextRotaryEmbedding(Gemma3RotaryEmbedding):
    """Rotary tables. In a global layer only the first pairs of a head turn, at the frequencies that they have among all
    of its pairs: ``base^(−2i/512)`` for i < 64, and 0 for the other 192."""

    config: Gemma4UnifiedTextConfig

    def __init__(self, config: Gemma4UnifiedTextConfig):
        Module.__init__(self)
        self.config = config

    def frequencies(self, layer_type: str) -> np.ndarray:
        base, turning = self.config.rope(layer_type)
        width, _ = self.config.heads(layer_type)
        frequencies = _inverse_frequencies(base, 1.0, width)
        return np.where(np.arange(width // 2) < turning, frequencies, np.float32(0))


def apply_rotary_pos_emb(x: mx.array, cos: mx.array, sin: mx.array, unsqueeze_dim: int = 1) -> mx.array:
    """Turn pairs (i, i + D/2) of ``(B, H, T, D)`` by tables ``(1, T, D)``; of ``(B, T, H, D)`` with unsqueeze_dim 2."""
    cos, sin = mx.expand_dims(cos, unsqueeze_dim), mx.expand_dims(sin, unsqueeze_dim)
    return x * cos + rotate_half(x) * sin


class Gemma4UnifiedTextAttention(Module):
    """Grouped queries. Queries, keys and values are normalised per head, values without a weight; scores are not
    scaled. A global layer has no projection for values: they are its keys before their norm and their turn."""

    def __init__(self, config: Gemma4UnifiedTextConfig, layer_type: str):
        super().__init__()
        self.head_dim, groups = config.heads(layer_type)
        width, eps = config.num_attention_heads * self.head_dim, config.rms_norm_eps
        has_values = layer_type == "sliding_attention"
        self.q_proj = Linear(config.hidden_size, width, bias=False)
        self.k_proj = Linear(config.hidden_size, groups * self.head_dim, bias=False)
        self.v_proj = Linear(config.hidden_size, groups * self.head_dim, bias=False) if has_values else None
        self.o_proj = Linear(width, config.hidden_size, bias=False)
        self.q_norm = Gemma4UnifiedRMSNorm(self.head_dim, eps)
        self.k_norm = Gemma4UnifiedRMSNorm(self.head_dim, eps)
        self.v_norm = Gemma4UnifiedRMSNorm(self.head_dim, eps, with_scale=False)

    def __call__(
        self, hidden_states: mx.array, position_embeddings: Tables, attention_mask: mx.array
    ) -> tuple[mx.array, None]:
        """``(B, T, D)`` → the same shape, and None where transformers has room for attention weights.

        attention_mask: ``(B, 1, T, T)``, true where a query sees a key.
        """
        B, T, _ = hidden_states.shape

        def heads(x: mx.array) -> mx.array:
            return x.reshape(B, T, -1, self.head_dim)

        q, k = heads(self.q_proj(hidden_states)), heads(self.k_proj(hidden_states))
        v = k if self.v_proj is None else heads(self.v_proj(hidden_states))
        q = apply_rotary_pos_emb(self.q_norm(q), *position_embeddings, unsqueeze_dim=2)
        k = apply_rotary_pos_emb(self.k_norm(k), *position_embeddings, unsqueeze_dim=2)
        v = self.v_norm(v)
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        return self.o_proj(attend(q, k, v, 1.0, attention_mask)), None


class Gemma4UnifiedTextDecoderLayer(Gemma3DecoderLayer):
    """Gemma 3's layer, and its whole result, residual included, times a number of the checkpoint's."""

    def __init__(self, config: Gemma4UnifiedTextConfig, layer_type: str):
        Module.__init__(self)
        self.self_attn = Gemma4UnifiedTextAttention(config, layer_type)
        self.mlp = Gemma3MLP(config)
        for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            self[f"{name}_layernorm"] = Gemma4UnifiedRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.layer_scalar = mx.ones((1,))

    def __call__(self, hidden_states: mx.array, position_embeddings: Tables, attention_mask: mx.array) -> mx.array:
        """``(B, T, D)`` → the same shape."""
        return super().__call__(hidden_states, position_embeddings, attention_mask) * self.layer_scalar


class Gemma4UnifiedTextModel(Gemma3TextModel):
    """Embedding, layers of two kinds and final norm; there is no output projection."""

    config: Gemma4UnifiedTextConfig

    def __init__(self, config: Gemma4UnifiedTextConfig):
        Module.__init__(self)
        self.config = config
        self.embed_tokens = Gemma3TextScaledWordEmbedding(config.vocab_size, config.hidden_size)
        self.layers = [Gemma4UnifiedTextDecoderLayer(config, kind) for kind in config.layer_types]
        self.norm = Gemma4UnifiedRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = Gemma4UnifiedTextRotaryEmbedding(config)

    def __call__(
        self, input_ids: mx.array, attention_mask: mx.array, early_layers_only: bool = False
    ) -> tuple[mx.array, ...]:
        """``(B, T)`` ids and mask → ``num_hidden_layers`` + 1 states ``(B, T, D)``, as Gemma 3's.

        A token that stands for an image, a video or audio has the embedding of a pad: the text brings none of them.
        """
        for token in self.config.placeholders:
            input_ids = mx.where(input_ids == token, PAD, input_ids)
        return super().__call__(input_ids, attention_mask, early_layers_only)
