"""The memory that the video decoder takes, and the slabs and tiles that bound it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import product
from math import ceil, prod
from typing import NamedTuple

import mlx.core as mx

from .config import DiffusionDecoderConfig, VideoVAEConfig
from .errors import InputError
from .nn import neighborhood
from .nn.slabs import slabs
from .tiling import SpatialTilingConfig, TemporalTilingConfig, TilingConfig, largest_tile_for_decoding
from .types import VIDEO_SCALE_FACTORS

_TIME, _SIDE = VIDEO_SCALE_FACTORS.time, VIDEO_SCALE_FACTORS.height


def slab_size() -> int:
    """About the most elements of an activation of one slab.

    On a CPU a convolution writes out the 27 neighbours of each position. On an H100, larger slabs are a little faster
    (2.3, 121x512x768: 260 ms so, 253 with 2^26) and take more memory (4.8 GB so, 6.4 with 2^26). MLX
    0.31.1 on CUDA cannot launch a sum of two arrays of more than 2^28 elements, as of a convolution and its bias.
    """
    return 2**21 if _on_cpu() else 3 * 2**24


class Level(NamedTuple):
    """What one block works on: frames and cells that come in, its channels, and those that its convolution makes.

    convolutions: how many it has, one after the other. work: what it does besides, in convolutions of equal length.
    """

    frames: int
    height: int
    width: int
    channels: int
    made: int
    convolutions: int
    work: float = 0.0

    @property
    def size(self) -> int:
        """The most elements of an activation of one sample."""
        return self.frames * self.height * self.width * max(self.channels, self.made)


def decoder_levels(config: VideoVAEConfig, shape: Sequence[int]) -> list[Level]:
    """The levels of the decoder's blocks, in order, and of its last convolution, for a latent ``(B, C, F, H, W)``."""
    _, _, T, H, W = shape
    channels, levels = config.decoder_base_channels * 8, []
    for block in config.decoder_blocks[::-1]:
        t, h, w = block.stride
        if block.kind.startswith("compress"):
            made = channels * t * h * w // block.multiplier
            levels.append(Level(T, H, W, channels, made, 1, 3.0 if block.residual else 0.0))
        else:
            levels.append(Level(T, H, W, channels, channels, 2 * block.num_layers))
        T, H, W, channels = T * t - (t - 1), H * h, W * w, channels // block.multiplier
    return [*levels, Level(T, H, W, channels, config.out_channels * config.patch_size**2, 1)]


def encoder_levels(config: VideoVAEConfig, shape: Sequence[int]) -> list[Level]:
    """The levels of the encoder's first convolution, its blocks in order, and its last convolution, for a video
    ``(B, 3, F, H, W)``."""
    _, C, T, H, W = shape
    H, W, channels = H // config.patch_size, W // config.patch_size, config.latent_channels
    levels = [Level(T, H, W, C * config.patch_size**2, channels, 1)]
    for block in config.encoder_blocks:
        t, h, w = block.stride
        out = channels * block.multiplier
        if block.kind.startswith("compress"):
            T += t - 1  # the first frame comes twice
            made, work = (out // (t * h * w), 0.5) if block.kind.endswith("_res") else (out, 0.0)
            levels.append(Level(T, H, W, channels, made, 1, work))
        else:
            levels.append(Level(T, H, W, channels, out, 2 * block.num_layers))
        T, H, W, channels = T // t, H // h, W // w, out
    return [*levels, Level(T, H, W, channels, config.encoder_out_channels, 1)]


def decoder_slabs(config: VideoVAEConfig, shape: Sequence[int], slab: int | None = None) -> list[int]:
    """Frames of a slab, for each of the decoder's last blocks and its last convolution, for a latent
    ``(B, C, F, H, W)``; empty where all of it is small. slab: about the most elements of an activation of one slab,
    ``slab_size`` when None.

    The blocks before them see the whole clip: one that has a group norm or noise of its own must.
    """
    levels, slab = decoder_levels(config, shape), slab or slab_size()
    if shape[0] * max(level.size for level in levels) <= slab:
        return []
    blocks = config.decoder_blocks[::-1]
    whole = max((i + 1 for i, block in enumerate(blocks) if block.kind == "res_x_y" or block.inject_noise), default=0)
    return [max(1, level.frames * slab // (shape[0] * level.size)) for level in levels[whole:]]


def encoder_slabs(config: VideoVAEConfig, shape: Sequence[int]) -> tuple[int, list[tuple[int, int]]]:
    """How many blocks of the encoder take a video ``(B, 3, F, H, W)`` in slabs, and these slabs: 8k frames, the first
    8k + 1. The blocks after them are small."""
    B, _, F, H, W = shape
    T, H, W = F, H // config.patch_size, W // config.patch_size
    channels, sizes = config.latent_channels, []
    for block in config.encoder_blocks:
        sizes.append(B * T * H * W * channels)
        t, h, w = block.stride
        T, H, W, channels = (T - 1) // t + 1, H // h, W // w, channels * block.multiplier
    whole = next((i for i, block in enumerate(config.encoder_blocks) if block.kind == "res_x_y"), len(sizes))
    stop = max((i + 1 for i in range(whole) if sizes[i] > slab_size()), default=0)
    if not stop or F == 1:
        return 0, [(0, F)]
    cells = slabs((F - 1) // _TIME, max(1, F * slab_size() // (max(sizes) * _TIME)))
    return stop, [(begin * _TIME + (begin > 0), end * _TIME + 1) for begin, end in cells]


def decode_memory(config: VideoVAEConfig, shape: Sequence[int], itemsize: int, slab: int | None = None) -> int:
    """Estimate the peak memory, in bytes, of decoding a latent ``(B, C, F, H, W)`` in slabs, without the weights.

    In slabs, what each convolution keeps for the next slab is alive beside the slab that is under way. On an H100
    121x512x768 took 3.0 GB (2.0) and 3.7 GB (2.3), where this says 3.2 and 4.0, and 257x1024x1536 took 9.3 GB, where it
    says 8.8. On a CPU it is compared with real runs (tests/test_memory.py).
    """
    levels = decoder_levels(config, shape)
    sizes = decoder_slabs(config, shape, slab)
    if not sizes:
        return shape[0] * _whole(levels, itemsize)
    whole, streamed = levels[: -len(sizes)], levels[-len(sizes) :]
    waiting = 0 if config.causal_decoder else 2  # frames that the clip's last slab brings beside its own
    held, comes, steps = 0, streamed[0].frames, [_step(level, level.frames, itemsize) for level in whole]
    for level, size, after in zip(streamed, sizes, [*streamed[1:], streamed[-1]], strict=True):
        frames = min(size, comes)
        # Frames before each convolution, those that go around two of them, and the slab
        held += (3 * level.convolutions + frames) * level.height * level.width * level.channels * itemsize
        steps.append(_step(level, min(frames + waiting, level.frames), itemsize))
        comes = 2 * frames if after.frames > level.frames else frames
    return shape[0] * (held * (1 if _on_cpu() else 2) + max(steps))


def encode_memory(config: VideoVAEConfig, shape: Sequence[int], itemsize: int) -> int:
    """Estimate the peak memory, in bytes, of encoding a video ``(B, 3, F, H, W)``, without the weights."""
    video = prod(shape) * (4 + itemsize)  # as it is read, and in the dtype
    levels, (stop, cuts) = encoder_levels(config, shape), encoder_slabs(config, shape)
    if len(cuts) < 2:
        return video + shape[0] * _whole(levels, itemsize)
    part = max(end - begin for begin, end in cuts) / shape[2]
    cut = [_step(level, ceil(level.frames * part) + 2, itemsize) for level in levels[: stop + 1]]
    rest = [_step(level, level.frames, itemsize) for level in levels[stop + 1 :]]
    last = levels[stop + 1]  # its frames come together from the slabs
    return video + shape[0] * (max(cut + rest) + 2 * last.frames * last.height * last.width * last.channels * itemsize)


_AHEAD = 6  # convolutions that MLX prepares on a CPU before the first of them is computed (measured, MLX 0.32.4)


def _whole(levels: Sequence[Level], itemsize: int) -> int:
    """Bytes of one sample that passes through all levels at once.

    On a CPU a convolution writes out the 27 neighbours of each position, in float32 (and a kernel in half precision as
    well), and MLX does so ahead of time: several of them are alive. On a GPU the widest convolution decides, with its
    padded input, its output and the skip connection.
    """
    if not _on_cpu():
        return (
            max(
                (n + 2) * (h + 2) * (w + 2) * (28 * channels + 3 * made) + 27 * channels * made
                for n, h, w, channels, made, _, _ in levels
            )
            * itemsize
        )
    columns = [
        (_columns(level, level.frames, itemsize), 1 + level.work) for level in levels for _ in range(level.convolutions)
    ]
    most = 0
    for first in range(len(columns)):
        work = 0.0
        size = 0
        for bytes_, cost in columns[first:]:
            work += cost
            if work > _AHEAD:
                break
            size += bytes_
        most = max(most, size)
    return most


def _step(level: Level, frames: int, itemsize: int) -> int:
    """Bytes of one step in slabs: two convolutions with what is around them, where there are as many."""
    if _on_cpu():
        around = 10 * 4 * frames * level.height * level.width * level.channels
        return min(level.convolutions, 2) * _columns(level, frames, itemsize) + around
    values = (frames + 2) * (level.height + 2) * (level.width + 2) * max(level.channels, level.made)
    return 10 * values * itemsize


def _columns(level: Level, frames: int, itemsize: int) -> int:
    """What a convolution on a CPU writes out for so many frames: 27 neighbours of each position, in float32."""
    kernel = 0 if itemsize == 4 else 27 * level.channels * level.made * 4
    return 27 * 4 * frames * level.height * level.width * level.channels + kernel


def _on_cpu() -> bool:
    return bool(mx.default_device().type == mx.cpu)


_LEAST_SLAB = 2**10  # elements: a frame of any block has more, or all of its frames are few


class Pieces(NamedTuple):
    """The pieces in which a latent is decoded: slabs of about so many elements, and in tiles or None; and what that
    takes, in bytes beside the weights."""

    slab: int
    tiling: TilingConfig | None
    memory: int


def choose_pieces(config: VideoVAEConfig, shape: Sequence[int], budget: int, itemsize: int = 2) -> Pieces:
    """Choose the largest pieces with which decoding a latent ``(B, C, F, H, W)`` stays within ``budget`` bytes.

    The budget is beside the weights. Raises InputError when even the smallest tiles are too large.
    """
    pieces = fitting_pieces(config, shape, budget, itemsize)
    if pieces.memory > budget:
        raise InputError(
            f"decoding a latent of {tuple(shape)} takes {pieces.memory / 1e9:.2f} GB in the smallest pieces, and the "
            f"budget is {budget / 1e9:.2f} GB: give more memory, or make a smaller or shorter video"
        )
    return pieces


def fitting_pieces(config: VideoVAEConfig, shape: Sequence[int], budget: int, itemsize: int = 2) -> Pieces:
    """The largest pieces that fit into ``budget``, or the smallest of all.

    The usual slabs come first, then smaller ones, down to a frame: the pixels stay the same. Then tiles, which are
    blended.
    """
    slab = slab_size()
    while True:
        needed = decode_memory(config, shape, itemsize, slab)
        if needed <= budget:
            return Pieces(slab, None, needed)
        if set(decoder_slabs(config, shape, slab)) == {1} or slab < _LEAST_SLAB:
            break
        slab //= 2
    tilings = [
        TilingConfig(SpatialTilingConfig(pixels, overlap), TemporalTilingConfig(frames, lap))
        for (frames, lap), (pixels, overlap) in product(_FRAMES, _PIXELS)
    ]
    tried = [
        Pieces(size, tiling, tiles_memory(config, shape, tiling, itemsize, size))
        for tiling, size in product(tilings, (slab_size(), slab))
    ]
    least = min((*tried, Pieces(slab, None, needed)), key=_memory_of)
    return max((p for p in tried if p.memory <= budget), key=_memory_of, default=least)


def _memory_of(pieces: Pieces) -> int:
    return pieces.memory


def tiles_memory(
    config: VideoVAEConfig, shape: Sequence[int], tiling: TilingConfig, itemsize: int, slab: int | None = None
) -> int:
    """Estimate the peak memory, in bytes, of decoding a latent ``(B, C, F, H, W)`` in tiles, without the weights."""
    largest = largest_tile_for_decoding(shape, tiling)
    # The stretch of time being summed, the one before, and the chunk that is passed on.
    sums = 3 * config.out_channels * shape[0] * (largest[2] * _TIME) * shape[3] * shape[4] * _SIDE**2 * itemsize
    return decode_memory(config, largest, itemsize, slab) + sums


# Sizes and overlaps that are tried.
_FRAMES = ((128, 24), (64, 24), (40, 16), (24, 8), (16, 8))
_PIXELS = ((1024, 64), (768, 64), (512, 64), (384, 64), (256, 64), (192, 64), (128, 32), (64, 32))


# ---- several ranks ------------------------------------------------------------------------------------------------


def can_share(config: VideoVAEConfig, shape: Sequence[int], size: int) -> bool:
    """Say whether ``size`` ranks can decode a latent ``(B, C, F, H, W)`` together: each has one of its frames at least.
    A causal convolution reads two frames before, and asks one neighbour for them."""
    least = 2 if config.causal_decoder and size > 2 else 1
    return shape[2] >= least * size


def shares(config: VideoVAEConfig, shape: Sequence[int], itemsize: int, size: int, budget: int) -> bool:
    """Say whether ``size`` ranks decode a latent together, not in tiles: they can, and each stays within ``budget``
    bytes beside the weights. The first one decodes alone otherwise."""
    return can_share(config, shape, size) and share_memory(config, shape, itemsize, size) <= budget


def share_memory(config: VideoVAEConfig, shape: Sequence[int], itemsize: int, size: int) -> int:
    """Estimate the peak memory, in bytes, of the rank that has most of a latent ``(B, C, F, H, W)``, without the
    weights. It has all of its frames of an activation, and computes some of them at a time."""
    B, _, F, _, _ = shape
    steps = []
    for level in decoder_levels(config, shape):
        frames = -(-level.frames * -(-F // size) // F)
        a_frame = B * level.height * level.width
        some = min(frames, max(1, slab_size() // (a_frame * max(level.channels, level.made))))
        # What goes around a block, what its convolution reads and makes, and what came of the one before
        held = 4 * level.channels if level.convolutions > 1 else 2 * level.channels + 2 * level.made
        steps.append(held * frames * a_frame * itemsize + B * _step(level, some, itemsize))
    return max(steps)


def share_sent(config: VideoVAEConfig, shape: Sequence[int], itemsize: int, size: int) -> int:
    """Bytes that a rank sends: of each convolution two frames of what it reads, to every other rank; and its part of
    the sum in which the bytes of all other ranks' frames come to the first."""
    B, C, F, H, W = shape
    edges = 2 * B * H * W * C
    for level in decoder_levels(config, shape):
        edges += 2 * level.convolutions * B * level.height * level.width * level.channels
    pixels = 3 * (F * _TIME - (_TIME - 1)) * H * W * _SIDE**2 * (size - 1) // size
    return edges * itemsize * (size - 1) + 2 * (size - 1) * pixels // size


# ---- the diffusion decoder ----------------------------------------------------------------------------------------


class Frames(NamedTuple):
    """The frames of a slab of a diffusion decoder, and the bytes that decoding takes beside the weights."""

    frames: int
    memory: int


_SLABS = (32, 16, 8, 4, 2, 1)  # frames that are tried


def choose_frames(config: DiffusionDecoderConfig, shape: Sequence[int], budget: int, itemsize: int = 2) -> Frames:
    """Choose the longest slabs with which decoding a latent ``(B, C, F, H, W)`` stays within ``budget`` bytes.

    Raises InputError when even slabs of one frame are too large.
    """
    chosen = fitting_frames(config, shape, budget, itemsize)
    if chosen.memory > budget:
        raise InputError(
            f"decoding a latent of {tuple(shape)} takes {chosen.memory / 1e9:.2f} GB in the shortest slabs, and the "
            f"budget is {budget / 1e9:.2f} GB: give more memory, or make a smaller or shorter video"
        )
    return chosen


def fitting_frames(config: DiffusionDecoderConfig, shape: Sequence[int], budget: int, itemsize: int = 2) -> Frames:
    """The longest slabs that fit into ``budget``, or the shortest of all."""
    tried = [Frames(frames, diffusion_memory(config, shape, itemsize, frames)) for frames in _SLABS]
    return next((each for each in tried if each.memory <= budget), tried[-1])


def diffusion_memory(config: DiffusionDecoderConfig, shape: Sequence[int], itemsize: int, frames: int) -> int:
    """Estimate the peak memory, in bytes, of decoding a latent ``(B, C, F, H, W)`` with a diffusion decoder in slabs of
    ``frames``, without the weights. It is compared with real runs (tests/test_diffusion_decoder.py); below 25 MB it
    may be too low by a third."""
    T, H, W = (max(size, least) for size, least in zip(shape[2:], config.least_size, strict=True))
    T += config.ghost_frames
    steps = []
    kernels = (*config.stage_kernels[: len(config.upsamples)], config.stage5_kernel)
    for i, (channels, kernel) in enumerate(zip(config.stage_channels, kernels, strict=True)):
        whole, last = T * H * W * channels, i == len(config.upsamples)
        seen = min(T, frames + kernel[0] - 1) * H * W * channels
        # What comes in and what is made, the context of the last stage, and a slab's queries, keys and values
        step = (3 if last else 2) * whole * itemsize + seen * (10 * itemsize + 16)
        steps.append(step + _scores(channels // config.head_dim, (min(frames, T), H, W), kernel))
        if not last:
            (t, h, w), before = config.upsamples[i].stride, whole
            T, H, W = T * t - (t - 1), H * h, W * w
            steps.append((before + T * H * W * config.stage_channels[i + 1]) * itemsize)
    noise = T * H * W * config.out_channels * config.patch_size**2 * itemsize
    T -= config.ghost_frames * _TIME
    pixels, whole = T * H * W * config.out_channels * config.patch_size**2, T * H * W * config.stage_channels[-1]
    # Where a cell has many pixels and few channels, the pixels count more than the blocks: noise is drawn in float32
    # and cast; those of a slab are made, turned and passed on beside it (measured on a CPU).
    drawn = pixels * (itemsize + (4 if itemsize < 4 else 1)) + whole * itemsize
    share = -(-T // -(-T // frames)) / T  # slabs are of about equal length
    made = pixels * (itemsize + share * (4 + 1.5 * itemsize)) + 2 * whole * itemsize
    return int(shape[0] * max(max(steps) + noise, drawn, made))


def _scores(heads: int, grid: Sequence[int], kernel: Sequence[int]) -> int:
    """Bytes of the scores of attention to windows, which a CPU writes out: four arrays of those of one call."""
    if not _on_cpu():
        return 0
    axes = list(zip(grid, kernel, neighborhood.BLOCK, strict=True))
    block = heads * prod(min(n, b) * min(n, b + k - 1) for n, k, b in axes)
    return 16 * max(block, min(neighborhood.scores(), block * ceil(grid[2] / neighborhood.BLOCK[2])))


def decode_budget(low_memory: bool = False) -> int:
    """Bytes that decoding may take beside the weights, where nothing else is said."""
    return memory_size() // (8 if low_memory else 2)


def memory_size() -> int:
    """Bytes of the device's memory, or of the machine's."""
    size = mx.device_info().get("memory_size") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(size)
