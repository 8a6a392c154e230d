"""The Gemma 3 text model as an encoder: token ids in, every hidden state out (arXiv:2503.19786).

Parameter and module paths are those of the official shards below ``language_model.model.``; classes and arguments
carry the names of transformers' ``models/gemma3/modeling_gemma3.py``. ltx-core runs it without position ids: pads are
counted, so the position of a prompt's first token is the number of pads before it.
"""

from __future__ import annotations

import functools

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..config import Gemma3TextConfig, GemmaTextConfig
from ..errors import InputError
from ..nn.activation import GELUTanh
from ..nn.attention import scaled_dot_product_attention
from ..nn.linear import Linear
from ..nn.module import Module
from ..nn.norm import rms_norm

Tables = tuple[mx.array, mx.array]


class Gemma3TextScaledWordEmbedding(nn.Embedding):
    """Embedding · √hidden, the factor rounded to the dtype of the network: in bfloat16, √3840 = 61.9677 is 62."""

    looked_up = ("weight",)

    def __call__(self, input_ids: mx.array, dtype: mx.Dtype | None = None) -> mx.array:
        """``(B, T)`` ids → ``(B, T, D)`` in ``dtype``, or in that of the table."""
        rows = self.weight[input_ids].astype(dtype or self.weight.dtype)
        return rows * mx.array(self.weight.shape[1] ** 0.5, mx.float32).astype(rows.dtype)


class Gemma3RMSNorm(Module):
    """x / rms(x) · (1 + weight) over the last axis, in float32, rounded once."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.eps = eps
        self.weight = mx.zeros((dim,))

    def __call__(self, x: mx.array) -> mx.array:
        weight = 1.0 + self.weight.astype(mx.float32)
        return rms_norm(x.astype(mx.float32), weight, self.eps).astype(x.dtype)


@functools.lru_cache(maxsize=4)
def _inverse_frequencies(base: float, factor: float, dim: int) -> np.ndarray:
    """``(dim // 2,)`` float32: 1 / base^(2i/dim) / factor, the power rounded once."""
    exponent = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    power = np.power(np.float64(base), exponent.astype(np.float64)).astype(np.float32)
    return np.float32(1) / power / np.float32(factor)


class Gemma3RotaryEmbedding(Module):
    """Rotary tables: base 10,000 in windowed layers; 1,000,000, eight times slower, in global ones."""

    config: GemmaTextConfig

    def __init__(self, config: Gemma3TextConfig):
        super().__init__()
        self.config = config

    def frequencies(self, layer_type: str) -> np.ndarray:
        """``(head_dim // 2,)`` float32: how far each pair turns from one position to the next."""
        base, factor = self.config.rope(layer_type)
        return _inverse_frequencies(base, factor, self.config.head_dim)

    def __call__(self, x: mx.array, position_ids: mx.array, layer_type: str) -> Tables:
        """Positions ``(1, T)`` → cosine and sine ``(1, T, head_dim)`` in the dtype of ``x``, two equal halves."""
        positions = np.array(position_ids).astype(np.float32)
        freqs = positions[..., None] * self.frequencies(layer_type)
        angles = np.concatenate([freqs, freqs], axis=-1).astype(np.float64)
        cos, sin = (mx.array(f(angles).astype(np.float32)).astype(x.dtype) for f in (np.cos, np.sin))
        return cos, sin


def rotate_half(x: mx.array) -> mx.array:
    """(x1, x2) → (−x2, x1), the halves of the last axis."""
    x1, x2 = mx.split(x, 2, axis=-1)
    return mx.concatenate([-x2, x1], axis=-1)


def apply_rotary_pos_emb(
    q: mx.array, k: mx.array, cos: mx.array, sin: mx.array, unsqueeze_dim: int = 1
) -> tuple[mx.array, mx.array]:
    """Turn pairs (i, i + D/2) of ``(B, H, T, D)`` queries and keys by tables ``(1, T, D)``."""
    cos, sin = mx.expand_dims(cos, unsqueeze_dim), mx.expand_dims(sin, unsqueeze_dim)
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


def attend(q: mx.array, k: mx.array, v: mx.array, scale: float, attention_mask: mx.array) -> mx.array:
    """``(B, H, T, D)`` queries, and keys and values of fewer heads → ``(B, T, H·D)``."""
    B, _, T, _ = q.shape
    out = scaled_dot_product_attention(q, k, v, scale=scale, mask=attention_mask)
    # A pad on the left sees nothing. Its result is zero, as in torch, and neither NaN nor a mean (tap: o_proj:x)
    out = mx.where(attention_mask.any(axis=-1, keepdims=True), out, 0)
    return out.swapaxes(1, 2).reshape(B, T, -1)


class Gemma3Attention(Module):
    """Grouped queries; queries and keys normalised per head."""

    def __init__(self, config: Gemma3TextConfig):
        super().__init__()
        self.head_dim, self.scaling = config.head_dim, config.scaling
        self.groups = config.num_key_value_heads
        heads, groups = config.num_attention_heads * config.head_dim, self.groups * config.head_dim
        self.q_proj = Linear(config.hidden_size, heads, bias=False)
        self.k_proj = Linear(config.hidden_size, groups, bias=False)
        self.v_proj = Linear(config.hidden_size, groups, bias=False)
        self.o_proj = Linear(heads, config.hidden_size, bias=False)
        self.q_norm = Gemma3RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = Gemma3RMSNorm(config.head_dim, config.rms_norm_eps)

    def __call__(
        self, hidden_states: mx.array, position_embeddings: Tables, attention_mask: mx.array
    ) -> tuple[mx.array, None]:
        """``(B, T, D)`` → the same shape, and None where transformers has room for attention weights.

        attention_mask: ``(B, 1, T, T)``, true where a query sees a key.
        """
        B, T, _ = hidden_states.shape

        def heads(x: mx.array) -> mx.array:
            return x.reshape(B, T, -1, self.head_dim).swapaxes(1, 2)

        q, k, v = (heads(project(hidden_states)) for project in (self.q_proj, self.k_proj, self.v_proj))
        q, k = apply_rotary_pos_emb(self.q_norm(q), self.k_norm(k), *position_embeddings)
        return self.o_proj(attend(q, k, v, self.scaling, attention_mask)), None


class Gemma3MLP(Module):
    """``down(gelu(gate(x)) · up(x))``."""

    def __init__(self, config: GemmaTextConfig):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = GELUTanh()

    def __call__(self, x: mx.array) -> mx.array:
        y: mx.array = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return y


class Gemma3DecoderLayer(Module):
    """Attention and MLP, normalised before and after."""

    self_attn: Module

    def __init__(self, config: Gemma3TextConfig):
        super().__init__()
        self.self_attn = Gemma3Attention(config)
        self.mlp = Gemma3MLP(config)
        for name in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            self[f"{name}_layernorm"] = Gemma3RMSNorm(config.hidden_size, config.rms_norm_eps)

    def __call__(self, hidden_states: mx.array, position_embeddings: Tables, attention_mask: mx.array) -> mx.array:
        """``(B, T, D)`` → the same shape."""
        attended, _ = self.self_attn(
            hidden_states=self.input_layernorm(hidden_states),
            position_embeddings=position_embeddings,
            attention_mask=attention_mask,
        )
        hidden_states = hidden_states + self.post_attention_layernorm(attended)
        mixed = self.mlp(self.pre_feedforward_layernorm(hidden_states))
        hidden_states = hidden_states + self.post_feedforward_layernorm(mixed)
        return hidden_states


def attention_masks(attention_mask: mx.array, sliding_window: int) -> dict[str, mx.array]:
    """``(B, T)`` of 1 and 0 → for each kind of layer ``(B, 1, T, T)``, true where a query sees a key.

    No query sees what follows it, or a pad; in a windowed layer it sees itself and ``sliding_window`` − 1 before.
    """
    token = mx.arange(attention_mask.shape[1])
    behind = token[:, None] - token[None]
    seen = (behind >= 0)[None, None] & attention_mask.astype(mx.bool_)[:, None, None]
    return {"full_attention": seen, "sliding_attention": seen & (behind < sliding_window)}


class Gemma3TextModel(Module):
    """Embedding, layers and final norm; there is no output projection."""

    repeated = ("layers",)
    config: GemmaTextConfig
    norm: Module

    def __init__(self, config: Gemma3TextConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = Gemma3TextScaledWordEmbedding(config.vocab_size, config.hidden_size)
        self.layers = [Gemma3DecoderLayer(config) for _ in range(config.num_hidden_layers)]
        self.norm = Gemma3RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = Gemma3RotaryEmbedding(config)

    def __call__(
        self, input_ids: mx.array, attention_mask: mx.array, early_layers_only: bool = False
    ) -> tuple[mx.array, ...]:
        """``(B, T)`` ids and mask → ``num_hidden_layers`` + 1 states ``(B, T, D)``.

        The first is the scaled embedding, then each layer's output; the last is after the final norm, in place of the
        last layer's. early_layers_only: a diagnostic; the embedding stands in for every state, no layer is run.
        """
        if input_ids.shape != attention_mask.shape:
            raise InputError(f"the mask is {attention_mask.shape}, expected {input_ids.shape}, the shape of the ids")
        hidden_states = self.embed_tokens(input_ids, self.norm.weight.dtype)
        if early_layers_only:
            return (hidden_states,) * (len(self.layers) + 1)
        masks = attention_masks(attention_mask, self.config.sliding_window)
        position_ids = mx.arange(input_ids.shape[1])[None]
        kinds = self.config.layer_types
        tables = {kind: self.rotary_emb(hidden_states, position_ids, kind) for kind in sorted(set(kinds))}
        states = [hidden_states]
        for layer, kind in zip(self.layers, kinds, strict=True):
            states.append(layer(states[-1], position_embeddings=tables[kind], attention_mask=masks[kind]))
        states[-1] = self.norm(states[-1])
        return tuple(states)
