"""The video autoencoder: 8 frames of 32 × 32 pixels make one latent cell; the first frame makes a cell by itself.

Parameter and module paths are those of the checkpoint below ``vae.encoder.`` and ``vae.decoder.``; classes carry the
names of ``ltx_core.model.video_vae``. Latents and videos are ``(B, C, F, H, W)`` at the public calls and channels-last
inside, where shapes read ``(B, T, H, W, C)``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import groupby
from math import prod
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn

from .config import VAEBlock, VideoVAEConfig
from .errors import InputError, LTX2Error
from .nn.activation import SiLU
from .nn.conv import CausalConv3d, Conv3d, depth_to_space, in_pieces, space_to_depth
from .nn.embedding import PixArtAlphaCombinedTimestepSizeEmbeddings
from .nn.module import Module
from .nn.noise import Generator, randn
from .nn.norm import GroupNorm, PerChannelStatistics, PixelNorm
from .nn.slabs import Flow, Share, WaitingError, slabs
from .tiling import Tile, TilingConfig, tiles_for_decoding, tiles_for_encoding
from .types import VIDEO_SCALE_FACTORS, VideoLatentShape
from .vae_memory import choose_pieces, decode_budget, decoder_slabs, encoder_slabs

_TIME, _SIDE = VIDEO_SCALE_FACTORS.time, VIDEO_SCALE_FACTORS.height


def patchify(x: mx.array, patch_size_hw: int) -> mx.array:
    """``(B, T, h·q, w·r, C)`` → ``(B, T, h, w, C·r·q)``: width comes before height among the channels."""
    return in_pieces(lambda band: _patchify(band, patch_size_hw), x, rows=patch_size_hw)


def _patchify(x: mx.array, patch_size_hw: int) -> mx.array:
    B, T, H, W, C = x.shape
    x = x.reshape(B, T, H // patch_size_hw, patch_size_hw, W // patch_size_hw, patch_size_hw, C)
    return x.transpose(0, 1, 2, 4, 6, 5, 3).reshape(B, T, H // patch_size_hw, W // patch_size_hw, -1)


def unpatchify(x: mx.array, patch_size_hw: int) -> mx.array:
    """``(B, T, h, w, C·r·q)`` → ``(B, T, h·q, w·r, C)``."""
    return in_pieces(lambda band: _unpatchify(band, patch_size_hw), x)


def _unpatchify(x: mx.array, patch_size_hw: int) -> mx.array:
    B, T, H, W, _ = x.shape
    x = x.reshape(B, T, H, W, -1, patch_size_hw, patch_size_hw).transpose(0, 1, 2, 6, 3, 5, 4)
    return x.reshape(B, T, H * patch_size_hw, W * patch_size_hw, -1)


class ResnetBlock3D(Module):
    """Norm, SiLU, convolution, twice, added to the input. The norms can be modulated by the timestep."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        reflect: bool,
        inject_noise: bool = False,
        timestep_conditioning: bool = False,
    ):
        super().__init__()
        self.inject_noise, self.timestep_conditioning = inject_noise, timestep_conditioning
        self.norm1 = PixelNorm()
        self.non_linearity = SiLU()
        self.conv1 = CausalConv3d(in_channels, out_channels, reflect=reflect)
        self.norm2 = PixelNorm()
        self.dropout = nn.Identity()
        self.conv2 = CausalConv3d(out_channels, out_channels, reflect=reflect)
        if inject_noise:
            self.per_channel_scale1 = mx.zeros((in_channels, 1, 1))
            self.per_channel_scale2 = mx.zeros((in_channels, 1, 1))
        same = in_channels == out_channels
        self.conv_shortcut = nn.Identity() if same else Conv3d(in_channels, out_channels, 1)
        self.norm3 = nn.Identity() if same else GroupNorm(1, in_channels, eps=1e-6)
        if timestep_conditioning:
            self.scale_shift_table = mx.zeros((4, in_channels))

    def __call__(
        self,
        input_tensor: mx.array,
        causal: bool = True,
        timestep: mx.array | None = None,
        generator: Generator | None = None,
        flow: Flow | None = None,
    ) -> mx.array:
        """``(B, T, H, W, C)`` → ``(B, T, H, W, out)``. timestep: ``(B, 1, 1, 1, 4·C)`` embedding."""
        if flow is not None:
            flow.hold(self, input_tensor)
        first = second = None
        if self.timestep_conditioning:
            shift1, scale1, shift2, scale2 = _rows(self.scale_shift_table, timestep, input_tensor.dtype)
            first, second = (shift1, scale1), (shift2, scale2)
        x = _modulated(input_tensor, self.norm1, self.non_linearity, first)
        x = self.conv1(x, causal=causal, flow=flow)
        if self.inject_noise:
            x = self._feed_spatial_noise(x, self.per_channel_scale1.astype(x.dtype), generator)
        x = _modulated(x, self.norm2, self.non_linearity, second)
        x = self.conv2(self.dropout(x), causal=causal, flow=flow)
        if self.inject_noise:
            x = self._feed_spatial_noise(x, self.per_channel_scale2.astype(x.dtype), generator)
        if flow is not None:
            input_tensor = flow.take(self, x.shape[1])
        told = (flow,) if isinstance(self.norm3, GroupNorm) else ()
        return self.conv_shortcut(self.norm3(input_tensor, *told)) + x

    def _feed_spatial_noise(
        self, hidden_states: mx.array, per_channel_scale: mx.array, generator: Generator | None = None
    ) -> mx.array:
        """One noise ``(H, W)`` for all frames and samples, scaled for each channel by ``(C, 1, 1)``."""
        noise = randn(hidden_states.shape[2:4], hidden_states.dtype, generator)
        return hidden_states + noise[..., None] * per_channel_scale[:, 0, 0]


def _modulated(x: mx.array, norm: nn.Module, activation: nn.Module, rows: Sequence[mx.array] | None) -> mx.array:
    """Norm, shift and scale where there are any, and activation: what comes before a convolution."""
    x = norm(x)
    if rows is not None:
        shift, scale = rows
        x = x * (1 + scale) + shift
    activated: mx.array = activation(x)
    return activated


def _rows(table: mx.array, timestep: mx.array | None, dtype: mx.Dtype) -> tuple[mx.array, ...]:
    """Table ``(rows, C)`` + timestep ``(B, 1, 1, 1, rows·C)``, each row ``(B, 1, 1, 1, C)``."""
    assert timestep is not None  # the decoder gives one to what is conditioned by it
    rows = timestep.reshape(timestep.shape[0], 1, 1, 1, *table.shape) + table.astype(dtype)
    return tuple(rows[..., i, :] for i in range(table.shape[0]))


class UNetMidBlock3D(Module):
    """Residual blocks in a row, at one size."""

    def __init__(self, channels: int, block: VAEBlock, reflect: bool, timestep_conditioning: bool = False):
        super().__init__()
        self.timestep_conditioning = timestep_conditioning
        if timestep_conditioning:
            self.time_embedder = PixArtAlphaCombinedTimestepSizeEmbeddings(channels * 4)
        self.res_blocks = [
            ResnetBlock3D(channels, channels, reflect, block.inject_noise, timestep_conditioning)
            for _ in range(block.num_layers)
        ]

    def __call__(
        self,
        hidden_states: mx.array,
        causal: bool = True,
        timestep: mx.array | None = None,
        generator: Generator | None = None,
        flow: Flow | None = None,
    ) -> mx.array:
        """``(B, T, H, W, C)`` → the same shape. timestep: ``(B,)``, scaled."""
        embedded = None
        if self.timestep_conditioning and timestep is not None:
            embedded = self.time_embedder(timestep=timestep.flatten(), hidden_dtype=hidden_states.dtype)
            embedded = embedded[:, None, None, None]
        for block in self.res_blocks:
            hidden_states = block(hidden_states, causal=causal, timestep=embedded, generator=generator, flow=flow)
            if flow is not None:
                hidden_states = flow.pace(hidden_states)
        return hidden_states


class SpaceToDepthDownsample(Module):
    """A convolution whose cells become channels; the input, rearranged and averaged in the same way, is added."""

    def __init__(self, in_channels: int, out_channels: int, stride: tuple[int, int, int], reflect: bool):
        super().__init__()
        self.stride = stride
        self.group_size = in_channels * prod(stride) // out_channels
        self.conv = CausalConv3d(in_channels, out_channels // prod(stride), reflect=reflect)

    def __call__(self, x: mx.array, causal: bool = True, flow: Flow | None = None) -> mx.array:
        """``(B, T, H, W, C)`` → ``(B, ⌈T/t⌉, H/h, W/w, out)``."""
        if self.stride[0] == 2 and (flow is None or not flow.begun(self.conv)):
            x = mx.concatenate([x[:, :1], x], axis=1)
        skip = space_to_depth(x, self.stride)
        skip = _mean_of_last(skip.reshape(*skip.shape[:-1], -1, self.group_size))
        return space_to_depth(self.conv(x, causal=causal, flow=flow), self.stride) + skip


def _mean_of_last(x: mx.array) -> mx.array:
    """The mean over a last axis of few numbers, in float32 and rounded once. On CUDA ``mx.mean`` takes ten times as
    long."""
    total = x[..., 0].astype(mx.float32)
    for i in range(1, x.shape[-1]):
        total = total + x[..., i].astype(mx.float32)
    return (total / x.shape[-1]).astype(x.dtype)


class DepthToSpaceUpsample(Module):
    """A convolution whose channels become cells; of two first frames the first is dropped."""

    def __init__(
        self, in_channels: int, stride: tuple[int, int, int], residual: bool, reduction_factor: int, reflect: bool
    ):
        super().__init__()
        self.stride, self.residual = stride, residual
        self.repeats = prod(stride) // reduction_factor
        self.conv = CausalConv3d(in_channels, prod(stride) * in_channels // reduction_factor, reflect=reflect)

    def __call__(self, x: mx.array, causal: bool = True, flow: Flow | None = None) -> mx.array:
        """``(B, T, H, W, C)`` → ``(B, t·T [− 1], h·H, w·W, C / reduction)``."""
        first = 1 if self.stride[0] == 2 and (flow is None or not flow.begun(self.conv)) else 0
        if flow is not None:
            flow.hold(self, x)
        out = self.conv(x, causal=causal, flow=flow)
        if flow is not None:
            x = flow.take(self, out.shape[1])
        return self._shuffled(out, x)[:, first:]

    def _shuffled(self, out: mx.array, x: mx.array) -> mx.array:
        """What the convolution makes of ``x``, and ``x`` itself where it is added, with two first frames."""
        out = depth_to_space(out, self.stride)
        if self.residual:
            skip = depth_to_space(x, self.stride)
            out = out + mx.concatenate([skip] * self.repeats, axis=-1)  # channels 0 … n−1 again and again
        return out


class VideoEncoder(Module):
    """Videos to normalised latents. Source: ``ltx_core.model.video_vae.video_vae.VideoEncoder``."""

    channels_last = True
    repeated = ("down_blocks",)

    def __init__(self, config: VideoVAEConfig):
        super().__init__()
        self.config = config
        self.patch_size, self.latent_channels = config.patch_size, config.latent_channels
        reflect = config.encoder_reflects
        channels = config.latent_channels
        self.per_channel_statistics = PerChannelStatistics(channels)
        self.conv_in = CausalConv3d(config.in_channels * config.patch_size**2, channels, reflect=reflect)
        self.down_blocks = []
        for block in config.encoder_blocks:
            out = channels * block.multiplier
            self.down_blocks.append(_encoder_block(block, channels, out, reflect))
            channels = out
        self.conv_norm_out = PixelNorm()
        self.conv_act = SiLU()
        self.conv_out = CausalConv3d(channels, config.encoder_out_channels, reflect=reflect)

    def __call__(self, sample: mx.array) -> mx.array:
        """``(B, 3, 8k+1, 32h, 32w)`` in [−1, 1] → ``(B, C, k+1, h, w)``. Raises InputError for other sizes."""
        self._check(sample)
        stop, cuts = encoder_slabs(self.config, sample.shape)
        if len(cuts) > 1:
            x, flow = self._in_slabs(sample, self.down_blocks[:stop], cuts), Flow(last=True)
            for block in self.down_blocks[stop:]:
                x = flow.pace(block(x, flow=flow))
        else:
            x = self.conv_in(self._patches(sample))
            for block in self.down_blocks:
                x = block(x)
        x = self.conv_out(self.conv_act(self.conv_norm_out(x)))
        means = x[..., : self.latent_channels].transpose(0, 4, 1, 2, 3)  # without the log-variances
        return self.per_channel_statistics.normalize(means)

    def _patches(self, sample: mx.array) -> mx.array:
        return patchify(sample.transpose(0, 2, 3, 4, 1), patch_size_hw=self.patch_size)

    def _in_slabs(self, sample: mx.array, blocks: list[nn.Module], cuts: list[tuple[int, int]]) -> mx.array:
        """What the first convolution and ``blocks`` make of a video, one slab of its frames in memory at a time."""
        flow, parts = Flow(), []
        for begin, end in cuts:
            x = flow.pace(self.conv_in(self._patches(sample[:, :, begin:end]), flow=flow))
            for block in blocks:
                x = flow.pace(block(x, flow=flow))
            parts.append(x)
        return mx.concatenate(parts, axis=1)

    def tiled_encode(self, video: mx.array, tiling_config: TilingConfig | None = None) -> mx.array:
        """Encode tile by tile, with one tile in memory at a time, in the dtype of the weights."""
        self._check(video)
        dtype = self.conv_in.conv.weight.dtype
        B, _, F, H, W = video.shape
        latent = mx.zeros((B, self.latent_channels, (F - 1) // _TIME + 1, H // _SIDE, W // _SIDE), dtype)
        weights = mx.zeros((1, 1, *latent.shape[2:]), dtype)
        for tile in prepare_tiles_for_encoding(video, tiling_config):
            encoded = self(video[tile.in_coords].astype(dtype))
            mask = mx.array(tile.blend_mask).astype(dtype)
            at = tile.out_coords[2:]
            latent[:, :, *at] = latent[:, :, *at] + encoded * mask
            weights[:, :, *at] = weights[:, :, *at] + mask
            mx.eval(latent, weights)
        return latent / mx.maximum(weights, 1e-8)

    def _check(self, video: mx.array) -> None:
        if video.ndim != 5 or video.shape[1] != self.config.in_channels:
            raise InputError(f"the video is {video.shape}, expected (batch, {self.config.in_channels}, frames, H, W)")
        _, _, F, H, W = video.shape
        if F % _TIME != 1:
            near = f"{F - (F - 1) % _TIME} or {F - (F - 1) % _TIME + _TIME}"
            raise InputError(
                f"the video has {F} frames, and the encoder takes {_TIME}k+1: give {near} (crop_frames drops the rest)"
            )
        least = 2 * _SIDE if self.config.encoder_reflects else _SIDE
        if H % _SIDE or W % _SIDE or min(H, W) < least:
            why = ", two at least because the padding is mirrored" if least > _SIDE else ""
            raise InputError(f"the video is {H} × {W} pixels, and both sides must be multiples of {_SIDE}{why}")


def _encoder_block(block: VAEBlock, channels: int, out: int, reflect: bool) -> nn.Module:
    if block.kind == "res_x":
        return UNetMidBlock3D(channels, block, reflect)
    if block.kind == "res_x_y":
        return ResnetBlock3D(channels, out, reflect)
    if block.kind.endswith("_res"):
        return SpaceToDepthDownsample(channels, out, block.stride, reflect)
    return CausalConv3d(channels, out, stride=block.stride, reflect=reflect)


def crop_frames(video: mx.array) -> mx.array:
    """``(B, 3, F, H, W)`` without the last frames, down to the 8k+1 that the encoder takes."""
    return video[:, :, : video.shape[2] - (video.shape[2] - 1) % _TIME]


def prepare_tiles_for_encoding(video: mx.array, tiling_config: TilingConfig | None = None) -> list[Tile]:
    """Tiles of a video ``(B, 3, F, H, W)``; a function of its own because the reference has it as a tap."""
    return tiles_for_encoding(video.shape, tiling_config)


class VideoDecoder(Module):
    """Normalised latents to videos. Source: ``ltx_core.model.video_vae.video_vae.VideoDecoder``.

    With ``timestep_conditioning`` it is a denoiser of one step: it adds a little noise and is told how much.
    slab: about the most elements of an activation of one slab; ``vae_memory.slab_size`` when None.
    """

    channels_last = True
    repeated = ("up_blocks",)

    def __init__(self, config: VideoVAEConfig):
        super().__init__()
        self.config = config
        self.causal = config.causal_decoder
        self.slab: int | None = None
        self.timestep_conditioning = config.timestep_conditioning
        self.decode_noise_scale, self.decode_timestep = 0.025, 0.05
        reflect = config.decoder_reflects
        channels = config.decoder_base_channels * 8
        self.per_channel_statistics = PerChannelStatistics(config.latent_channels)
        self.conv_in = CausalConv3d(config.latent_channels, channels, reflect=reflect)
        self.up_blocks = []
        for block in reversed(config.decoder_blocks):
            self.up_blocks.append(_decoder_block(block, channels, reflect, self.timestep_conditioning))
            channels //= block.multiplier
        self.conv_norm_out = PixelNorm()
        self.conv_act = SiLU()
        self.conv_out = CausalConv3d(channels, config.out_channels * config.patch_size**2, reflect=reflect)
        if self.timestep_conditioning:
            self.timestep_scale_multiplier = mx.array(1000.0)
            self.last_time_embedder = PixArtAlphaCombinedTimestepSizeEmbeddings(channels * 2)
            self.last_scale_shift_table = mx.zeros((2, channels))

    def __call__(
        self, sample: mx.array, timestep: mx.array | None = None, generator: Generator | None = None
    ) -> mx.array:
        """``(B, C, F, H, W)`` → ``(B, 3, 8(F−1)+1, 32H, 32W)``, about [−1, 1].

        timestep: ``(B,)`` noise level, ``decode_timestep`` when None; generator: where the noise comes from. Both are
        used only by timestep-conditioned decoders. Raises InputError for a latent that does not fit.
        """
        if decoder_slabs(self.config, self._checked(sample), self.slab):
            return mx.concatenate(list(self.decode_in_slabs(sample, timestep, generator)), axis=2)
        return self.whole(sample, timestep, generator)

    def whole(
        self,
        sample: mx.array,
        timestep: mx.array | None = None,
        generator: Generator | None = None,
        share: Share | None = None,
    ) -> mx.array:
        """What ``__call__`` gives, with all of it in memory at a time; of a share of the clip, its frames."""
        x, scaled = self._begun(sample, timestep, generator, share)
        return self._pixels(self._through(self.up_blocks, x, scaled, generator, share), scaled, share)

    def decode_in_slabs(
        self, sample: mx.array, timestep: mx.array | None = None, generator: Generator | None = None
    ) -> Iterator[mx.array]:
        """Chunks of what ``__call__`` gives, in order of time: where it is large, one slab is in memory at a time."""
        sizes = decoder_slabs(self.config, self._checked(sample), self.slab)
        if not sizes:
            yield self(sample, timestep, generator)
            return
        x, scaled = self._begun(sample, timestep, generator)
        start = len(self.up_blocks) + 1 - len(sizes)
        x = self._through(self.up_blocks[:start], x, scaled, generator, Flow(last=True))
        yield from self._slabs(self.up_blocks[start:], sizes, x, scaled, generator, Flow(last=True))

    def _slabs(
        self,
        blocks: list[nn.Module],
        sizes: list[int],
        x: mx.array,
        scaled: mx.array | None,
        generator: Generator | None,
        flow: Flow,
    ) -> Iterator[mx.array]:
        """Pixels of the next frames ``x``, which go through each block in slabs of its own size."""
        last = flow.last
        for begin, end in slabs(x.shape[1], sizes[0]):
            flow.last = last and end == x.shape[1]
            with suppress(WaitingError):
                if blocks:
                    y = self._through(blocks[:1], x[:, begin:end], scaled, generator, flow)
                    yield from self._slabs(blocks[1:], sizes[1:], y, scaled, generator, flow)
                else:
                    yield flow.pace(self._pixels(x[:, begin:end], scaled, flow))

    def decoded(
        self,
        latent: mx.array,
        tiling_config: TilingConfig | None = None,
        generator: Generator | None = None,
        memory_budget: int | None = None,
    ) -> Iterator[mx.array]:
        """Chunks ``(B, 3, F, H, W)`` in order of time, in tiles or in slabs as ``decode_video`` says."""
        self.slab = None
        if tiling_config is None:
            budget = memory_budget or decode_budget()
            pieces = choose_pieces(self.config, latent.shape, budget, latent.dtype.size)
            self.slab, tiling_config = pieces.slab, pieces.tiling
        if tiling_config is None:
            return self.decode_in_slabs(latent, generator=generator)
        return self.tiled_decode(latent, tiling_config, generator=generator)

    def _begun(
        self,
        sample: mx.array,
        timestep: mx.array | None,
        generator: Generator | None,
        share: Share | None = None,
    ) -> tuple[mx.array, mx.array | None]:
        """What the first convolution makes of a latent, and the scaled timestep of a decoder that is told one."""
        if self.timestep_conditioning:
            noise = randn(sample.shape, sample.dtype, generator) * self.decode_noise_scale
            sample = noise + (1.0 - self.decode_noise_scale) * sample
        sample = self.per_channel_statistics.un_normalize(sample)
        scaled = self._scaled_timestep(sample, timestep) if self.timestep_conditioning else None
        x = sample.transpose(0, 2, 3, 4, 1)
        return self.conv_in(x if share is None else share.own(x), causal=self.causal, flow=share), scaled

    def _through(
        self,
        blocks: list[nn.Module],
        x: mx.array,
        scaled: mx.array | None,
        generator: Generator | None,
        flow: Flow | None = None,
    ) -> mx.array:
        for block in blocks:
            if isinstance(block, UNetMidBlock3D):
                x = block(x, causal=self.causal, timestep=scaled, generator=generator, flow=flow)
            elif isinstance(block, ResnetBlock3D):
                x = block(x, causal=self.causal, generator=generator, flow=flow)
            else:
                x = block(x, causal=self.causal, flow=flow)
            if flow is not None:
                x = flow.pace(x)
        return x

    def _pixels(self, x: mx.array, scaled: mx.array | None, flow: Flow | None = None) -> mx.array:
        """``(B, T, H, W, C)`` of the last block → ``(B, 3, T, 4H, 4W)``."""
        rows = None
        if scaled is not None:
            embedded = self.last_time_embedder(timestep=scaled.flatten(), hidden_dtype=x.dtype)
            rows = _rows(self.last_scale_shift_table, embedded[:, None, None, None], x.dtype)
        x = _modulated(x, self.conv_norm_out, self.conv_act, rows)
        x = self.conv_out(x, causal=self.causal, flow=flow)
        return unpatchify(x, patch_size_hw=self.config.patch_size).transpose(0, 4, 1, 2, 3)

    def _scaled_timestep(self, sample: mx.array, timestep: mx.array | None) -> mx.array:
        if timestep is None:
            timestep = mx.full((sample.shape[0],), self.decode_timestep, sample.dtype)
        return timestep * self.timestep_scale_multiplier.astype(sample.dtype)

    def _checked(self, sample: mx.array) -> tuple[int, ...]:
        expected = self.config.latent_channels
        if sample.ndim != 5 or sample.shape[1] != expected:
            raise InputError(f"the latent is {sample.shape}, expected (batch, {expected}, frames, height, width)")
        _, _, F, H, W = sample.shape
        if self.config.decoder_reflects and min(H, W) < 2:
            raise InputError(
                f"the latent has {H} × {W} cells, and this decoder mirrors its padding, which needs two cells along "
                f"both sides: {2 * _SIDE} pixels or more"
            )
        if not min(F, H, W):
            raise InputError(f"the latent is {sample.shape}, expected at least one frame, row and column")
        return sample.shape

    def _prepare_tiles(self, latent: mx.array, tiling_config: TilingConfig | None = None) -> list[Tile]:
        return tiles_for_decoding(latent.shape, tiling_config)

    def tiled_decode(
        self,
        latent: mx.array,
        tiling_config: TilingConfig | None = None,
        timestep: mx.array | None = None,
        generator: Generator | None = None,
    ) -> Iterator[mx.array]:
        """Decode tile by tile, with one tile in memory at a time: chunks ``(B, 3, T, 32H, 32W)`` in order of time.

        Where tiles overlap, the result is a weighted sum in the dtype of the latent, divided by the sum of the weights.
        """
        video = VideoLatentShape(*latent.shape).upscale()
        last: tuple[int, mx.array, mx.array] | None = None  # the chunk that the next one may still overlap
        tiles = self._prepare_tiles(latent, tiling_config)
        for frames, group in groupby(tiles, key=lambda tile: tile.out_coords[2].indices(video.frames)[:2]):
            start, stop = frames
            shape = video._replace(frames=stop - start)
            chunk, chunk_weights = self._decode_group(list(group), latent, shape, timestep, generator)
            if last is not None:
                begun, total, weights = last
                done = start - begun
                shared = total.shape[2] - done
                if shared > 0:
                    chunk = _seam(total[:, :, done:], chunk, shared)
                    chunk_weights = _seam(weights[:, :, done:], chunk_weights, shared)
                yield (total / mx.maximum(weights, 1e-8))[:, :, :done]
            last = start, chunk, chunk_weights
        if last is not None:
            _, total, weights = last
            yield total / mx.maximum(weights, 1e-8)

    def _decode_group(
        self,
        tiles: list[Tile],
        latent: mx.array,
        shape: VideoLatentShape,
        timestep: mx.array | None,
        generator: Generator | None,
    ) -> tuple[mx.array, mx.array]:
        """The weighted sum of the tiles of one stretch of time, and the sum of their weights."""
        total = mx.zeros(shape, latent.dtype)
        weights = mx.zeros((1, 1, *shape[2:]), latent.dtype)
        for tile in tiles:
            decoded = self(latent[tile.in_coords], timestep, generator)
            mask = mx.array(tile.blend_mask).astype(latent.dtype)
            rows, columns = tile.out_coords[3:]
            total[..., rows, columns] = total[..., rows, columns] + decoded * mask
            weights[..., rows, columns] = weights[..., rows, columns] + mask
            mx.eval(total, weights)
        return total, weights


def _seam(before: mx.array, after: mx.array, shared: int) -> mx.array:
    """``after`` with the ``shared`` frames that came before added to its own first frames."""
    return mx.concatenate([before + after[:, :, :shared], after[:, :, shared:]], axis=2)


def _decoder_block(block: VAEBlock, channels: int, reflect: bool, timestep_conditioning: bool) -> nn.Module:
    if block.kind == "res_x":
        return UNetMidBlock3D(channels, block, reflect, timestep_conditioning)
    if block.kind == "res_x_y":
        return ResnetBlock3D(channels, channels // block.multiplier, reflect, block.inject_noise)
    return DepthToSpaceUpsample(channels, block.stride, block.residual, block.multiplier, reflect)


def to_uint8(frames: mx.array) -> mx.array:
    """``(3, F, H, W)`` in [−1, 1] → ``(F, H, W, 3)`` bytes, truncated and not rounded: 0.0 becomes 127."""
    if not mx.isfinite(frames).all().item():
        raise LTX2Error(
            "decoding the video gave NaN or infinite pixels: a weight or a number in the flags is out of range"
        )
    scaled = mx.clip((frames + 1.0) / 2.0, 0.0, 1.0) * 255.0
    return scaled.astype(mx.uint8).transpose(1, 2, 3, 0)


class DecodesVideo(Protocol):
    """A video decoder, of whichever kind."""

    def decoded(
        self,
        latent: mx.array,
        tiling_config: TilingConfig | None = None,
        generator: Generator | None = None,
        memory_budget: int | None = None,
    ) -> Iterator[mx.array]: ...


def decode_video(
    latent: mx.array,
    video_decoder: DecodesVideo,
    tiling_config: TilingConfig | None = None,
    generator: Generator | None = None,
    memory_budget: int | None = None,
) -> Iterator[mx.array]:
    """Chunks ``(F, H, W, 3)`` of bytes, of the first sample, from a latent ``(B, C, F, H, W)``; one where not tiled.

    Without ``tiling_config`` the clip passes through whole, in slabs of frames that ``memory_budget`` allows (bytes
    beside the weights; half of the device's memory when None): the reference, which tiles only when told to, gives the
    same bytes. Where slabs of one frame are too large, it is decoded in the largest tiles that fit.

    On CUDA, MLX 0.31.1 keeps the plans of 128 convolutions and stops with an error when more are needed, as for a
    second video in the same process: set ``MLX_CUDA_CONV_CACHE_SIZE=1024`` in the environment first. The command line
    does so by itself.
    """
    for frames in video_decoder.decoded(latent, tiling_config, generator, memory_budget):
        yield to_uint8(frames[0])
