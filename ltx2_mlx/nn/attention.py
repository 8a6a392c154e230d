"""Multi-head attention with q/k norm, rotary embeddings, per-head gates and perturbation; the feed-forward layer."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from . import fused
from .activation import gelu_tanh
from .linear import Linear
from .module import Module
from .norm import on_cuda
from .rope import LTXRopeType, apply_rotary_emb, normed_split_on_cuda

FUSED = (64, 128)  # widths of heads for which MLX has a GPU kernel that rounds once (measured on an H100, v0.31.1)


def scaled_dot_product_attention(
    q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None = None
) -> mx.array:
    """MLX's attention of ``(B, H, T, D)``. Half precision is computed in float32 and rounded once, as GPU kernels do,
    where there is no such kernel: scores and weights would be rounded too (5.4 times honest rounding with heads of 256
    on an H100), and on a CPU every intermediate."""
    if q.dtype == mx.float32 or (mx.default_device() != mx.Device(mx.cpu) and q.shape[-1] in FUSED):
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)
    if mask is not None and mask.dtype != mx.bool_:
        mask = mask.astype(mx.float32)
    wide = (x.astype(mx.float32) for x in (q, k, v))
    return mx.fast.scaled_dot_product_attention(*wide, scale=scale, mask=mask).astype(q.dtype)


def attention_function(q: mx.array, k: mx.array, v: mx.array, heads: int, mask: mx.array | None = None) -> mx.array:
    """softmax(qkᵀ/√D + mask)v for ``(B, T, H·D)`` queries and ``(B, S, H·D)`` keys and values → ``(B, T, H·D)``.

    ``mask`` is an additive bias in the dtype of ``q``: ``(T, S)``, ``(B, T, S)`` or ``(B, 1|H, T|1, S)``.
    """
    B, T, inner = q.shape
    q, k, v = (x.reshape(B, -1, heads, inner // heads).swapaxes(1, 2) for x in (q, k, v))
    if mask is not None and mask.ndim == 2:
        mask = mask[None]
    if mask is not None and mask.ndim == 3:
        mask = mask[:, None]
    out = scaled_dot_product_attention(q, k, v, scale=(inner // heads) ** -0.5, mask=mask)
    return out.swapaxes(1, 2).reshape(B, T, inner)


@fused.fused
def gate_heads(out: mx.array, logits: mx.array) -> mx.array:
    """out · 2·sigmoid(logits), so that a zero logit is the identity (tap: to_out.0, its input)."""
    gates = 2.0 * mx.sigmoid(logits)
    return out * gates


class Attention(Module):
    """Multi-head attention. Source: ``ltx_core.model.transformer.attention.Attention``.

    The q/k norms span all heads together. ``to_gate_logits`` exists in gated checkpoints (2.3) only.
    """

    def __init__(
        self,
        query_dim: int,
        context_dim: int | None,
        heads: int,
        dim_head: int,
        norm_eps: float,
        rope_type: LTXRopeType,
        apply_gated_attention: bool,
    ):
        super().__init__()
        self.rope_type, self.heads, self.dim_head = rope_type, heads, dim_head
        inner_dim = heads * dim_head
        context_dim = query_dim if context_dim is None else context_dim
        self.q_norm = nn.RMSNorm(inner_dim, eps=norm_eps)
        self.k_norm = nn.RMSNorm(inner_dim, eps=norm_eps)
        self.to_q = Linear(query_dim, inner_dim)
        self.to_k = Linear(context_dim, inner_dim)
        self.to_v = Linear(context_dim, inner_dim)
        self.to_gate_logits = Linear(query_dim, heads) if apply_gated_attention else None
        self.to_out = [Linear(inner_dim, query_dim), nn.Identity()]

    def __call__(
        self,
        x: mx.array,
        context: mx.array | None = None,
        mask: mx.array | None = None,
        pe: tuple[mx.array, mx.array] | None = None,
        k_pe: tuple[mx.array, mx.array] | None = None,
        perturbation_mask: mx.array | None = None,
        all_perturbed: bool = False,
    ) -> mx.array:
        """``(B, T, query_dim)`` → the same shape.

        context: ``(B, S, context_dim)``, ``x`` itself when None. pe, k_pe: rotary tables of queries and keys.
        perturbation_mask: ``(B, 1, 1)``, 0 where a sample's attention gives way to its values.
        all_perturbed: every sample does; queries and keys are not computed.
        """
        context = x if context is None else context
        v = self.to_v(context)
        if all_perturbed:
            out = v
        else:
            q = self._turned(self.q_norm, self.to_q(x), pe)
            k = self._turned(self.k_norm, self.to_k(context), pe if k_pe is None else k_pe)
            out = attention_function(q, k, v, self.heads, mask)
            if perturbation_mask is not None:
                out = out * perturbation_mask + v * (1 - perturbation_mask)
        if self.to_gate_logits is not None:
            out = gate_heads(
                out.reshape(*out.shape[:2], self.heads, self.dim_head), self.to_gate_logits(x)[..., None]
            ).reshape(out.shape)
        projected: mx.array = self.to_out[1](self.to_out[0](out))
        return projected

    def _turned(self, norm: nn.Module, x: mx.array, pe: tuple[mx.array, mx.array] | None) -> mx.array:
        """Queries or keys ``(B, T, H·D)`` normed, and turned by their rotary tables where they have some."""
        normed: mx.array = norm(x)
        if pe is None:
            return normed
        if self.rope_type is LTXRopeType.SPLIT and type(norm) is nn.RMSNorm and fused.pays() and on_cuda():
            return normed_split_on_cuda(x, norm.weight, norm.eps, *pe)  # what is normed apart is never computed then
        return apply_rotary_emb(normed, pe, self.rope_type)


class GELUApprox(Module):
    """A projection and its activation. ``(…, dim_in)`` → ``(…, dim_out)``."""

    def __init__(self, dim_in: int, dim_out: int, bias: bool = True):
        super().__init__()
        self.proj = Linear(dim_in, dim_out, bias)

    def __call__(self, x: mx.array) -> mx.array:
        return gelu_tanh(self.proj(x))


class FeedForward(Module):
    """D → 4D → D. ``net`` is a plain list: parameters are ``net.0.proj`` and ``net.2``, as in the checkpoint."""

    def __init__(self, dim: int, dim_out: int, mult: int = 4, bias: bool = True):
        super().__init__()
        self.net = [GELUApprox(dim, dim * mult, bias), nn.Identity(), Linear(dim * mult, dim_out, bias)]

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.net:
            x = layer(x)
        return x
