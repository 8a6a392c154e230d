"""The memory that the video decoder takes, and the slabs and tiles that bound it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import mlx.core as mx

from .config import VideoVAEConfig
from .errors import InputError
from .nn.slabs import slabs
from .tiling import SpatialTilingConfig, TemporalTilingConfig, TilingConfig, tiles_for_decoding
from .types import VIDEO_SCALE_FACTORS

_TIME, _SIDE = VIDEO_SCALE_FACTORS.time, VIDEO_SCALE_FACTORS.height


def slab_size() -> int:
    """About the most elements of an activation of one slab.

    On a CPU a convolution writes out the 27 neighbours of each position. On an H100, larger slabs are a little faster
    (2.3, 121x512x768: 260 ms so, 253 with 2^26) and take more memory (4.8 GB so, 6.4 with 2^26). MLX
    0.31.1 on CUDA cannot launch a sum of two arrays of more than 2^28 elements, as of a convolution and its bias.
    """
    return 2**21 if mx.default_device().type == mx.cpu else 3 * 2**24


class Level(NamedTuple):
    """What one block works on: frames and cells that come in, its channels, and those that its convolution makes."""

    frames: int
    height: int
    width: int
    channels: int
    made: int

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
        made = channels * t * h * w // block.multiplier if block.kind.startswith("compress") else channels
        levels.append(Level(T, H, W, channels, made))
        T, H, W, channels = T * t - (t - 1), H * h, W * w, channels // block.multiplier
    return [*levels, Level(T, H, W, channels, config.out_channels * config.patch_size**2)]


def decoder_slabs(config: VideoVAEConfig, shape: Sequence[int]) -> list[int]:
    """Frames of a slab, for each of the decoder's last blocks and its last convolution, for a latent
    ``(B, C, F, H, W)``; empty where all of it is small.

    The blocks before them see the whole clip: one that has a group norm or noise of its own must.
    """
    levels = decoder_levels(config, shape)
    if shape[0] * max(level.size for level in levels) <= slab_size():
        return []
    blocks = config.decoder_blocks[::-1]
    whole = max((i + 1 for i, block in enumerate(blocks) if block.kind == "res_x_y" or block.inject_noise), default=0)
    return [max(1, level.frames * slab_size() // (shape[0] * level.size)) for level in levels[whole:]]


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


def decode_memory(config: VideoVAEConfig, shape: Sequence[int], itemsize: int) -> int:
    """Estimate the peak memory, in bytes, of decoding a latent ``(B, C, F, H, W)`` in one piece, without the weights.

    The widest convolution decides: its input, the padded copy, the output and the skip connection are alive at once.
    On a CPU MLX also writes out the 27 neighbours of every position, and up to five such copies were seen alive
    (test_the_estimate_of_memory_holds). On an H100 121x512x768 took 3.0 GB (2.0) and 3.7 GB (2.3), where this says 4.7
    and 5.2, and 257x1024x1536 took 9.3 GB, where it says 8.4.
    """
    levels = decoder_levels(config, shape)
    frames, held = [level.frames for level in levels], 0
    if sizes := decoder_slabs(config, shape):
        streamed = levels[-len(sizes) :]
        frames[-len(sizes) :] = [min(n, level.frames) for n, level in zip(sizes, streamed, strict=True)]
        layers = ([2 * block.num_layers for block in config.decoder_blocks[::-1]] + [1])[-len(sizes) :]
        for n, count, level in zip(layers, frames[-len(sizes) :], streamed, strict=True):
            held += (3 * n + count) * level.size // level.frames  # before and around each convolution, and the slab
    copies = 5 * 27 if mx.default_device().type == mx.cpu else 24
    working = [
        shape[0] * (n + 2) * (level.height + 2) * (level.width + 2) * (level.channels * (4 + copies) + 3 * level.made)
        + 27 * level.channels * level.made  # the kernel in another order
        for n, level in zip(frames, levels, strict=True)
    ]
    return (max(working) + shape[0] * held) * itemsize


def choose_tiling(config: VideoVAEConfig, shape: Sequence[int], budget: int, itemsize: int = 2) -> TilingConfig | None:
    """Choose the largest tiles with which decoding a latent ``(B, C, F, H, W)`` stays within ``budget`` bytes.

    The budget is beside the weights. None where no tiles are needed. Raises InputError when even the smallest tiles
    are too large.
    """
    if decode_memory(config, shape, itemsize) <= budget:
        return None
    needed = []
    for (frames, lap), (pixels, overlap) in product(_FRAMES, _PIXELS):
        tiling = TilingConfig(SpatialTilingConfig(pixels, overlap), TemporalTilingConfig(frames, lap))
        tiles = tiles_for_decoding(shape, tiling)
        largest = [max(tile.in_coords[axis].stop - tile.in_coords[axis].start for tile in tiles) for axis in range(5)]
        # The stretch of time being summed, the one before, and the chunk that is passed on.
        sums = 3 * config.out_channels * shape[0] * (largest[2] * _TIME) * shape[3] * shape[4] * _SIDE**2 * itemsize
        needed.append((decode_memory(config, largest, itemsize) + sums, prod(largest), tiling))
    fitting = [entry for entry in needed if entry[0] <= budget]
    if not fitting:
        least = min(entry[0] for entry in needed)
        raise InputError(
            f"decoding a latent of {tuple(shape)} takes {least / 1e9:.2f} GB in the smallest tiles, and the budget is "
            f"{budget / 1e9:.2f} GB: give more memory, or make a smaller or shorter video"
        )
    return max(fitting, key=lambda entry: entry[1])[2]


# Sizes and overlaps that are tried.
_FRAMES = ((128, 24), (64, 24), (40, 16), (24, 8), (16, 8))
_PIXELS = ((1024, 64), (768, 64), (512, 64), (384, 64), (256, 64), (192, 64), (128, 32), (64, 32))


def memory_size() -> int:
    """Bytes of the device's memory, or of the machine's."""
    size = mx.device_info().get("memory_size") or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(size)
