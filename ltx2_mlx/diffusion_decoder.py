"""LTX-2.5's diffusion video decoder: neighbourhood attention, and one step from noise to pixels.

Parameter and module paths are those of the checkpoint below ``vae.decoder.``; classes carry the names of
``ltx_core.model.video_vae`` 1.2.0. Arrays are ``(B, T, H, W, C)`` inside, ``(B, C, F, H, W)`` at the public calls.

Stages 1 to 4 make a context of a latent, with a cell for each 4 × 4 pixels. Stage 5 makes pixels of noise and of the
context. Large clips pass through a block in slabs of frames. A slab reads all frames that its windows see, so that the
numbers are those of the whole clip, and nothing is blended.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from .config import DiffusionDecoderConfig
from .errors import InputError
from .nn.activation import SiLU, silu
from .nn.conv import depth_to_space
from .nn.embedding import Timesteps
from .nn.linear import Linear
from .nn.module import Module
from .nn.neighborhood import Sizes3, Slab, neighborhood_attention
from .nn.noise import Generator, randn
from .nn.norm import PerChannelStatistics, RMSNorm
from .nn.slabs import assembled, slabs
from .tiling import TilingConfig
from .types import VIDEO_SCALE_FACTORS
from .vae_memory import choose_frames, decode_budget
from .video_vae import patchify, unpatchify

_TIME, _SIDE = VIDEO_SCALE_FACTORS.time, VIDEO_SCALE_FACTORS.height
_TOKENS = 2**14  # of which a feed-forward layer computes at once


# ---- layers -------------------------------------------------------------------------------------------------------


class RotaryPosEmb3D(Module):
    """Rotary embedding of a place in the grid: a quarter of a head turns with time, the rest with height and width."""

    def __init__(self, head_dim: int):
        super().__init__()
        time = head_dim // 4 // 2 * 2
        time -= (head_dim - time) // 2 % 2 * 2
        self.dims = time, (head_dim - time) // 2

    def __call__(self, x: mx.array, slab: Slab | None = None) -> mx.array:
        """``(B, T, H, W, heads, D)`` → the same shape. slab: the clip's frames that are here."""
        _, T, H, W, _, _ = x.shape
        first = slab.first if slab else 0
        parts = mx.split(x, [self.dims[0], sum(self.dims)], axis=-1)
        places = np.arange(first, first + T), np.arange(H), np.arange(W)
        turned = [_turned(part, axis, at) for axis, (part, at) in enumerate(zip(parts, places, strict=True), 1)]
        return mx.concatenate(turned, axis=-1)


def _turned(x: mx.array, axis: int, places: np.ndarray) -> mx.array:
    """The pairs (2j, 2j + 1) turned by angles that grow along an axis, in float32 and rounded once."""
    angles = (places.astype(np.float32)[:, None] * _frequencies(x.shape[-1])).astype(np.float64)
    shape = [len(places) if i == axis else 1 for i in range(x.ndim - 1)]
    cos, sin = (mx.array(f(angles).astype(np.float32)).reshape(*shape, -1) for f in (np.cos, np.sin))
    pairs = x.astype(mx.float32).reshape(*x.shape[:-1], -1, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = mx.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


@functools.lru_cache(maxsize=8)
def _frequencies(dim: int) -> np.ndarray:
    """``(dim / 2,)`` float32: 10000^(−2j / dim), computed in float64."""
    return (1.0 / 10000.0 ** (np.arange(0, dim, 2, dtype=np.float64) / dim)).astype(np.float32)


class NeighborhoodAttention3D(Module):
    """Attention to a window of ``kernel_size`` cells, with q/k norm of each head. ``qkv`` is one layer, as in files."""

    def __init__(self, dim: int, kernel_size: Sizes3, head_dim: int):
        super().__init__()
        self.kernel_size, self.head_dim = kernel_size, head_dim
        self.qkv = Linear(dim, 3 * dim)
        self.q_norm, self.k_norm = RMSNorm(head_dim), RMSNorm(head_dim)
        self.rope = RotaryPosEmb3D(head_dim)
        self.proj = Linear(dim, dim)

    def __call__(self, x: mx.array, slab: Slab | None = None) -> mx.array:
        """``(B, frames that are seen, H, W, C)`` → ``(B, the slab's own frames, H, W, C)``."""
        q, k, v = self.project_qkv(x, slab)
        out = neighborhood_attention(slab.own(q) if slab else q, k, v, self.kernel_size, slab)
        return self.proj(out.reshape(*out.shape[:4], -1))

    def project_qkv(self, x: mx.array, slab: Slab | None = None) -> tuple[mx.array, ...]:
        """Queries, which carry the scale, keys and values: each ``(B, T, H, W, heads, D)``."""
        parts = mx.split(self.qkv(x), 3, axis=-1)
        q, k, v = (part.reshape(*x.shape[:-1], -1, self.head_dim) for part in parts)
        return self.rope(self.q_norm(q) * self.head_dim**-0.5, slab), self.rope(self.k_norm(k), slab), v


class SwiGLU(Module):
    """The gated feed-forward layer, some tokens at a time: the numbers between are four times as wide."""

    def __init__(self, dim: int, hidden_dim: int):
        super().__init__()
        self.w_up = Linear(dim, hidden_dim, bias=False)
        self.w_gate = Linear(dim, hidden_dim, bias=False)
        self.w_down = Linear(hidden_dim, dim, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """``(B, T, H, W, C)`` → the same shape."""
        if x.size <= _TOKENS * x.shape[-1]:
            return self._gated(x)
        tokens = x.reshape(-1, x.shape[-1])
        parts = [self._gated(tokens[i : i + _TOKENS]) for i in range(0, len(tokens), _TOKENS)]
        return mx.concatenate(parts).reshape(x.shape)

    def _gated(self, x: mx.array) -> mx.array:
        return self.w_down(silu(self.w_gate(x)) * self.w_up(x))


def _hidden(dim: int) -> int:
    return -(-4 * dim // 16) * 16


class NABlock(Module):
    """A block of stages 1 to 4."""

    def __init__(self, dim: int, kernel_size: Sizes3, head_dim: int):
        super().__init__()
        self.norm1 = RMSNorm(dim)
        self.attn = NeighborhoodAttention3D(dim, kernel_size, head_dim)
        self.norm2 = RMSNorm(dim)
        self.mlp = SwiGLU(dim, _hidden(dim))

    def __call__(self, x: mx.array, slab: Slab | None = None) -> mx.array:
        """``(B, frames that are seen, H, W, C)`` → ``(B, the slab's own frames, H, W, C)``."""
        attended = self.attn(self.norm1(x), slab)
        x = (slab.own(x) if slab else x) + attended
        return x + self.mlp(self.norm2(x))


class AdaLNZero(Module):
    """Seven rows of modulation of one timestep, shared by all blocks of stage 5. Gates are among them, and unused."""

    def __init__(self, dim: int, t_emb_dim: int):
        super().__init__()
        self.proj = Linear(t_emb_dim, 7 * dim)

    def __call__(self, t_emb: mx.array) -> tuple[mx.array, ...]:
        """``(B, t_emb_dim)`` → seven of ``(B, 1, 1, 1, C)``."""
        return tuple(mx.split(self.proj(silu(t_emb))[:, None, None, None], 7, axis=-1))


class DiffusionNABlock(Module):
    """A block of stage 5: the context is added, and the norms are modulated by the timestep."""

    def __init__(self, dim: int, kernel_size: Sizes3, context_channels: int, head_dim: int):
        super().__init__()
        self.context_proj = Linear(context_channels, dim)
        self.scale_shift_table = mx.zeros((7, dim))
        self.norm1 = RMSNorm(dim)
        self.attn = NeighborhoodAttention3D(dim, kernel_size, head_dim)
        self.norm2 = RMSNorm(dim)
        self.mlp = SwiGLU(dim, _hidden(dim))

    def __call__(
        self, x: mx.array, context: mx.array, modulation: tuple[mx.array, ...], slab: Slab | None = None
    ) -> mx.array:
        """``(B, frames that are seen, H, W, C)``, and the context of these frames → the slab's own frames."""
        scale_msa, shift_msa, _, scale_mlp, shift_mlp, _, _ = (
            row + table for row, table in zip(modulation, self.scale_shift_table, strict=True)
        )
        x = x + self.context_proj(context)
        attended = self.attn(self.norm1(x) * (1 + scale_msa) + shift_msa, slab)
        x = (slab.own(x) if slab else x) + attended
        return x + self.mlp(self.norm2(x) * (1 + scale_mlp) + shift_mlp)


class LinearPixelShuffleUpsample(Module):
    """A layer whose channels become cells; of the clip's two first frames the first is dropped."""

    def __init__(self, in_channels: int, stride: Sizes3, reduction: int):
        super().__init__()
        self.stride = stride
        self.proj = Linear(in_channels, in_channels // reduction * stride[0] * stride[1] * stride[2])

    def __call__(self, x: mx.array, drop_leading_frame: bool = True) -> mx.array:
        """``(B, T, H, W, C)`` → ``(B, t·T [− 1], h·H, w·W, C / reduction)``."""
        x = depth_to_space(self.proj(x), self.stride)
        return x[:, 1:] if self.stride[0] == 2 and drop_leading_frame else x


class TimestepEmbedder(Module):
    """The sinusoid of a timestep, and two layers with SiLU between them."""

    def __init__(self, t_emb_dim: int):
        super().__init__()
        self.time_proj = Timesteps(256)
        self.mlp = [Linear(256, t_emb_dim), SiLU(), Linear(t_emb_dim, t_emb_dim)]

    def __call__(self, timestep: mx.array, hidden_dtype: mx.Dtype) -> mx.array:
        """``(B,)`` → ``(B, t_emb_dim)``; the sinusoid itself is float32."""
        x = self.time_proj(timestep).astype(hidden_dtype)
        for layer in self.mlp:
            x = layer(x)
        return x


# ---- the decoder --------------------------------------------------------------------------------------------------


class DiffusionVideoDecoder(Module):
    """Normalised latents to videos, in one step from noise. Source:
    ``ltx_core.model.video_vae.diffusion_video_decoder.DiffusionVideoDecoder`` 1.2.0.

    slab: frames that a block computes at once; all of them when None.
    """

    repeated = ("diff_blocks",)
    # Of the file: the marker of keyframes, which no decoder of 1.2.0 reads, and a coarse preview.
    unused_in_file = ("type_emb", "coarse_*")

    def __init__(self, config: DiffusionDecoderConfig):
        super().__init__()
        self.config = config
        self.slab: int | None = None
        channels, head = config.stage_channels, config.head_dim
        self.per_channel_statistics = PerChannelStatistics(config.in_channels)
        self.conv_in = Linear(config.in_channels, channels[0])
        self.det_stages = [
            [NABlock(dim, kernel, head) for _ in range(depth)]
            for dim, kernel, depth in zip(channels[:-1], config.stage_kernels, config.stage_depths, strict=False)
        ]
        self.upsamples = [
            LinearPixelShuffleUpsample(dim, up.stride, up.reduction)
            for dim, up in zip(channels, config.upsamples, strict=False)
        ]
        patch = config.out_channels * config.patch_size**2
        self.t_embedder = TimestepEmbedder(config.t_emb_dim)
        self.conv_in_x_t = Linear(patch, channels[-1])
        self.shared_adaln = AdaLNZero(channels[-1], config.t_emb_dim)
        self.diff_blocks = [
            DiffusionNABlock(channels[-1], config.stage5_kernel, channels[-1], head)
            for _ in range(config.stage_depths[-1])
        ]
        self.norm_out = RMSNorm(channels[-1])
        self.conv_out = Linear(channels[-1], patch)

    def __call__(self, sample: mx.array, generator: Generator | None = None) -> mx.array:
        """``(B, C, F, H, W)`` → ``(B, 3, 8(F−1)+1, 32H, 32W)``, about [−1, 1]. generator: where the noise comes from.

        Raises InputError for a latent that does not fit.
        """
        return mx.concatenate(list(self.decode_in_slabs(sample, generator)), axis=2)

    def decode_in_slabs(self, sample: mx.array, generator: Generator | None = None) -> Iterator[mx.array]:
        """Chunks of what ``__call__`` gives, in order of time, of ``slab`` frames at most."""
        frames, height, width = self._checked(sample)
        padded, before = self._padded(sample)
        context = self._context(padded)
        B, T, H, W, _ = context.shape
        side = self.config.patch_size
        noise = randn((B, self.config.out_channels, T, H * side, W * side), sample.dtype, generator)
        top, left = (cells * _SIDE for cells in before)
        wanted = frames * _TIME - (_TIME - 1)
        for pixels in self._denoised(context, noise):
            pixels = pixels[:, :, :wanted, top : top + height * _SIDE, left : left + width * _SIDE]
            wanted -= pixels.shape[2]
            if pixels.shape[2]:
                yield pixels

    def decoded(
        self,
        latent: mx.array,
        tiling_config: TilingConfig | None = None,
        generator: Generator | None = None,
        memory_budget: int | None = None,
    ) -> Iterator[mx.array]:
        """Chunks ``(B, 3, F, H, W)`` in order of time, in slabs that a budget of memory allows."""
        check_tiling(tiling_config)
        budget = memory_budget or decode_budget()
        self.slab = choose_frames(self.config, latent.shape, budget, latent.dtype.size).frames
        yield from self.decode_in_slabs(latent, generator)

    # ---- stages 1 to 4 ----

    def _padded(self, sample: mx.array) -> tuple[mx.array, tuple[int, int]]:
        """The latent, its edges repeated to the least size: at the end of time, at both sides of a frame. And how many
        rows and columns come before it."""
        before = []
        for axis, least in enumerate(self.config.least_size, 2):
            size = sample.shape[axis]
            need = max(least - size, 0)
            before.append(0 if axis == 2 else need // 2)
            sample = _edges_repeated(sample, axis, before[-1], need - before[-1])
        return sample, (before[1], before[2])

    def _context(self, latent: mx.array) -> mx.array:
        """``(B, C, F, H, W)`` → ``(B, 8F − 7, H, W, C)`` with a cell for each patch of pixels.

        The last frame is repeated, or the windows of the clip's last frames would be shifted; what comes of it is
        left out.
        """
        ghosts = self.config.ghost_frames
        latent = self.per_channel_statistics.un_normalize(_edges_repeated(latent, 2, 0, ghosts))
        x = self.conv_in(latent.transpose(0, 2, 3, 4, 1))
        for blocks, upsample in zip(self.det_stages, self.upsamples, strict=True):
            for block in blocks:
                x = self._through(block, x, block.attn.kernel_size[0])
            x = self._upsampled(upsample, x)
        return x[:, : x.shape[1] - ghosts * _TIME]

    def _upsampled(self, upsample: LinearPixelShuffleUpsample, x: mx.array) -> mx.array:
        T, stride = x.shape[1], upsample.stride[0]
        parts = (upsample(x[:, begin:end], begin == 0) for begin, end in slabs(T, self.slab or T))
        return assembled(parts, stride * T - (stride - 1))

    # ---- stage 5 ----

    def _denoised(self, context: mx.array, noise: mx.array) -> Iterator[mx.array]:
        """Pixels ``(B, 3, T, H, W)``, a slab of frames at a time."""
        timestep = mx.full((context.shape[0],), 1.0) * self.config.timestep_scale_multiplier
        modulation = self.shared_adaln(self.t_embedder(timestep, hidden_dtype=context.dtype))
        T = context.shape[1]
        parts = (self.conv_in_x_t(self._patches(noise[:, :, begin:end])) for begin, end in slabs(T, self.slab or T))
        x = assembled(parts, T)
        for block in self.diff_blocks:
            x = self._through(block, x, block.attn.kernel_size[0], context, modulation)
        for begin, end in slabs(T, self.slab or T):
            pixels = unpatchify(self.conv_out(self.norm_out(x[:, begin:end])), patch_size_hw=self.config.patch_size)
            yield pixels.transpose(0, 4, 1, 2, 3)

    def _patches(self, noise: mx.array) -> mx.array:
        return patchify(noise.transpose(0, 2, 3, 4, 1), patch_size_hw=self.config.patch_size)

    # ---- slabs ----

    def _through(
        self,
        block: nn.Module,
        x: mx.array,
        kernel: int,
        context: mx.array | None = None,
        modulation: tuple[mx.array, ...] = (),
    ) -> mx.array:
        """What a block makes of a clip, whose windows have ``kernel`` frames."""
        T = x.shape[1]
        cuts = slabs(T, self.slab or T)

        def run(begin: int, end: int) -> mx.array:
            slab = Slab.of(begin, end, T, kernel)
            seen = slice(slab.first, slab.last)
            told = () if context is None else (context[:, seen], modulation)
            out: mx.array = block(x[:, seen], *told, slab=slab)
            return out

        if len(cuts) > 1:
            return assembled((run(*cut) for cut in cuts), T)
        whole: mx.array = block(x) if context is None else block(x, context, modulation)
        return whole

    def _checked(self, sample: mx.array) -> tuple[int, int, int]:
        """Frames, height and width of a latent."""
        expected = self.config.in_channels
        if sample.ndim != 5 or sample.shape[1] != expected:
            raise InputError(f"the latent is {sample.shape}, expected (batch, {expected}, frames, height, width)")
        if not min(sample.shape):
            raise InputError(f"the latent is {sample.shape}, expected at least one frame, row and column")
        _, _, F, H, W = sample.shape
        return F, H, W


def check_tiling(tiling_config: TilingConfig | None) -> None:
    """Raises InputError for tiles, which this decoder is not computed in."""
    if tiling_config is not None and (tiling_config.spatial_config or tiling_config.temporal_config):
        raise InputError(
            "tiles do not apply to this checkpoint's video decoder, a diffusion decoder, which computes the whole clip "
            "in slabs of frames: leave the tiling out (--tiling auto)"
        )


def _edges_repeated(x: mx.array, axis: int, before: int, after: int) -> mx.array:
    """``x`` with its first and last slice along an axis repeated so often."""
    if not before + after:
        return x
    size = x.shape[axis]
    return mx.take(x, mx.array(np.clip(np.arange(-before, size + after), 0, size - 1)), axis=axis)
