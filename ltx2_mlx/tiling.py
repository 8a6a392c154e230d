"""Tiles of a video or a latent that overlap, and the masks that blend them.

The plan (how many tiles, where, with which ramps) and the masks' float32 values are those of
``ltx_core.model.video_vae.tiling``, so that a tiled result can be compared with the reference's tiled result.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from .errors import InputError
from .types import VIDEO_SCALE_FACTORS

_TIME, _SIDE = VIDEO_SCALE_FACTORS.time, VIDEO_SCALE_FACTORS.height


@dataclass(frozen=True)
class SpatialTilingConfig:
    """Tiles of a frame: size along the longer side and overlap in pixels, multiples of 32, the size at least 64."""

    tile_size_in_pixels: int
    tile_overlap_in_pixels: int = 0

    def __post_init__(self) -> None:
        _check("pixels", self.tile_size_in_pixels, self.tile_overlap_in_pixels, 64, 32)


@dataclass(frozen=True)
class TemporalTilingConfig:
    """Tiles along time: length and overlap in frames, multiples of 8, the length at least 16."""

    tile_size_in_frames: int
    tile_overlap_in_frames: int = 0

    def __post_init__(self) -> None:
        _check("frames", self.tile_size_in_frames, self.tile_overlap_in_frames, 16, 8)


def _check(unit: str, size: int, overlap: int, least: int, step: int) -> None:
    if size < least or size % step:
        raise InputError(f"tile_size_in_{unit} is {size}, expected a multiple of {step} from {least} on")
    if overlap < 0 or overlap % step or overlap >= size:
        raise InputError(f"tile_overlap_in_{unit} is {overlap}, expected a multiple of {step} below the size, {size}")


@dataclass(frozen=True)
class TilingConfig:
    """Tiles along space and time; None leaves an axis whole."""

    spatial_config: SpatialTilingConfig | None = None
    temporal_config: TemporalTilingConfig | None = None

    @classmethod
    def default(cls) -> TilingConfig:
        return cls(SpatialTilingConfig(512, 64), TemporalTilingConfig(64, 24))


@dataclass(frozen=True)
class DimensionIntervals:
    """One axis cut into intervals [start, end), each with the lengths over which it fades in and out."""

    starts: list[int]
    ends: list[int]
    left_ramps: list[int]
    right_ramps: list[int]


class Tile(NamedTuple):
    """One tile: where it is cut from the input, where its result belongs in the output, its mask along each axis."""

    in_coords: tuple[slice, ...]
    out_coords: tuple[slice, ...]
    masks_1d: tuple[np.ndarray | None, ...]

    @property
    def blend_mask(self) -> np.ndarray:
        """The axes' masks multiplied, float32, 1 along an axis that has none."""
        mask = np.ones((1,) * len(self.masks_1d), dtype=np.float32)
        for axis, values in enumerate(self.masks_1d):
            if values is not None:
                mask = mask * values.reshape([-1 if i == axis else 1 for i in range(len(self.masks_1d))])
        return mask


# ---- masks --------------------------------------------------------------------------------------------------------


def _linspace(start: float, end: float, steps: int) -> np.ndarray:
    """float32 values filled from both ends and rounded once, as ``torch.linspace`` does (tap: _prepare_tiles)."""
    step = np.float64(np.float32(end - start) / np.float32(max(steps - 1, 1)))
    i = np.arange(steps)
    return np.where(i < steps // 2, start + step * i, end - step * (steps - 1 - i)).astype(np.float32)


def compute_trapezoidal_mask_1d(
    length: int, ramp_left: int, ramp_right: int, left_starts_from_0: bool = False
) -> np.ndarray:
    """``(length,)`` ones that fade in and out linearly. A ramp leaves out its end points 0 and 1, except for a 0 at the
    start with ``left_starts_from_0``."""
    ramp_left, ramp_right = (max(0, min(ramp, length)) for ramp in (ramp_left, ramp_right))
    mask = np.ones(length, dtype=np.float32)
    if ramp_left:
        rise = _linspace(0, 1, ramp_left + (1 if left_starts_from_0 else 2))
        mask[:ramp_left] *= rise[:-1] if left_starts_from_0 else rise[1:-1]
    if ramp_right:
        mask[-ramp_right:] *= _linspace(1, 0, ramp_right + 2)[1:-1]
    return np.clip(mask, 0, 1)


def compute_rectangular_mask_1d(length: int, left_ramp: int, right_ramp: int) -> np.ndarray:
    """``(length,)`` ones with zeros over the ramps."""
    mask = np.ones(length, dtype=np.float32)
    mask[:left_ramp] = 0
    mask[length - right_ramp :] = 0
    return mask


# ---- one axis -----------------------------------------------------------------------------------------------------

Split = Callable[[int], DimensionIntervals]
Interval = tuple[slice, np.ndarray]


def whole(length: int) -> DimensionIntervals:
    """One interval that is the whole axis."""
    return DimensionIntervals([0], [length], [0], [0])


def split_with_symmetric_overlaps(size: int, overlap: int) -> Split:
    """Intervals of ``size`` that share ``overlap`` with each neighbour; the last one ends where the axis ends."""

    def split(length: int) -> DimensionIntervals:
        if length <= size:
            return whole(length)
        amount = (length + size - 2 * overlap - 1) // (size - overlap)
        starts = [i * (size - overlap) for i in range(amount)]
        ends = [start + size for start in starts[:-1]] + [length]
        ramps = [overlap] * (amount - 1)
        return DimensionIntervals(starts, ends, [0, *ramps], [*ramps, 0])

    return split


def split_temporal_latents(size: int, overlap: int) -> Split:
    """Split latents for decoding: all intervals after the first start one latent earlier and fade in over one more.

    The reason: the first latent of a tile decodes to one frame instead of eight.
    """
    plain = split_with_symmetric_overlaps(size, overlap)

    def split(length: int) -> DimensionIntervals:
        intervals = plain(length)
        starts, ramps = intervals.starts, intervals.left_ramps
        return replace(
            intervals,
            starts=starts[:1] + [start - 1 for start in starts[1:]],
            left_ramps=ramps[:1] + [ramp + 1 for ramp in ramps[1:]],
        )

    return split


def split_temporal_frames(tile_size_frames: int, overlap_frames: int) -> Split:
    """Split frames for encoding: intervals of 8k+1 frames that do not fade out."""
    plain = split_with_symmetric_overlaps(tile_size_frames, overlap_frames)

    def split(length: int) -> DimensionIntervals:
        intervals = plain(length)
        ends = [end + 1 for end in intervals.ends[:-1]] + intervals.ends[-1:]
        return replace(intervals, ends=ends, right_ramps=[0] * len(ends))

    return split


def map_temporal_interval_to_frame(begin: int, end: int, left_ramp: int, right_ramp: int) -> Interval:
    """Latents [begin, end) → frames, and their mask."""
    start, stop = begin * _TIME, 1 + (end - 1) * _TIME
    rise = 1 + (left_ramp - 1) * _TIME if left_ramp else 0
    return slice(start, stop), compute_trapezoidal_mask_1d(stop - start, rise, right_ramp * _TIME, True)


def map_temporal_interval_to_latent(begin: int, end: int, left_ramp: int, right_ramp: int) -> Interval:
    """Frames [begin, end) → latents, without those that fade in: the tile before has them with more of the past."""
    start, stop = begin // _TIME, (end - 1) // _TIME + 1
    left = 1 + (left_ramp - 1) // _TIME if left_ramp else 0
    return slice(start, stop), compute_rectangular_mask_1d(stop - start, left, right_ramp // _TIME)


def map_spatial_interval_to_pixel(begin: int, end: int, left_ramp: int, right_ramp: int) -> Interval:
    """Latent cells [begin, end) → pixels, and their mask."""
    start, stop = begin * _SIDE, end * _SIDE
    return slice(start, stop), compute_trapezoidal_mask_1d(stop - start, left_ramp * _SIDE, right_ramp * _SIDE)


def map_spatial_interval_to_latent(begin: int, end: int, left_ramp: int, right_ramp: int) -> Interval:
    """Pixels [begin, end) → latent cells; those that saw the padding of a cut are left out."""
    start, stop = begin // _SIDE, end // _SIDE
    left = max(0, left_ramp // _SIDE - 1)
    return slice(start, stop), compute_rectangular_mask_1d(stop - start, left, 1 if right_ramp else 0)


# ---- all axes -----------------------------------------------------------------------------------------------------

Mapping = Callable[[int, int, int, int], Interval]


def create_tiles(shape: Sequence[int], axes: dict[int, tuple[Split, Mapping]]) -> list[Tile]:
    """Make a tile of each combination of the intervals of ``axes``, the last axis varying fastest; other axes stay
    whole."""
    cuts: list[list[tuple[slice, slice, np.ndarray | None]]] = []
    for axis, length in enumerate(shape):
        if axis not in axes:
            cuts.append([(slice(0, length), slice(0, None), None)])
            continue
        split, mapping = axes[axis]
        i = split(length)
        bounds = zip(i.starts, i.ends, i.left_ramps, i.right_ramps, strict=True)
        cuts.append([(slice(b[0], b[1]), *mapping(*b)) for b in bounds])
    return [Tile(*(tuple(part) for part in zip(*cut, strict=True))) for cut in itertools.product(*cuts)]


def tiles_for_decoding(shape: Sequence[int], tiling_config: TilingConfig | None) -> list[Tile]:
    """Tiles of a latent ``(B, C, F, H, W)``. The tile size is that of the longer side; the shorter side is
    cut in proportion."""
    return create_tiles(shape, _decoding_axes(shape, tiling_config))


def largest_tile_for_decoding(shape: Sequence[int], tiling_config: TilingConfig | None) -> list[int]:
    """The most cells that a tile of a latent ``(B, C, F, H, W)`` has along each axis."""
    axes = _decoding_axes(shape, tiling_config)
    cuts = [axes[axis][0](length) if axis in axes else whole(length) for axis, length in enumerate(shape)]
    return [max(end - start for start, end in zip(cut.starts, cut.ends, strict=True)) for cut in cuts]


def _decoding_axes(shape: Sequence[int], tiling_config: TilingConfig | None) -> dict[int, tuple[Split, Mapping]]:
    axes: dict[int, tuple[Split, Mapping]] = {}
    if tiling_config is not None and (temporal := tiling_config.temporal_config):
        size, overlap = temporal.tile_size_in_frames // _TIME, temporal.tile_overlap_in_frames // _TIME
        axes[2] = split_temporal_latents(size, overlap), map_temporal_interval_to_frame
    if tiling_config is not None and (spatial := tiling_config.spatial_config):
        size, overlap = spatial.tile_size_in_pixels // _SIDE, spatial.tile_overlap_in_pixels // _SIDE
        for axis in (3, 4):
            side = max(2, overlap + 1, round(size * shape[axis] / max(shape[3], shape[4])))  # half to even
            axes[axis] = split_with_symmetric_overlaps(side, overlap), map_spatial_interval_to_pixel
    return axes


def tiles_for_encoding(shape: Sequence[int], tiling_config: TilingConfig | None) -> list[Tile]:
    """Tiles of a video ``(B, 3, F, H, W)``; at least 64 pixels and 16 frames overlap, or cuts would show."""
    axes: dict[int, tuple[Split, Mapping]] = {}
    if tiling_config is not None and (temporal := tiling_config.temporal_config):
        overlap = max(16, temporal.tile_overlap_in_frames)
        _require_overlap("frames", temporal.tile_size_in_frames, overlap)
        split = split_temporal_frames(temporal.tile_size_in_frames, overlap)
        axes[2] = split, map_temporal_interval_to_latent
    if tiling_config is not None and (spatial := tiling_config.spatial_config):
        overlap = max(64, spatial.tile_overlap_in_pixels)
        _require_overlap("pixels", spatial.tile_size_in_pixels, overlap)
        split = split_with_symmetric_overlaps(spatial.tile_size_in_pixels, overlap)
        axes |= dict.fromkeys((3, 4), (split, map_spatial_interval_to_latent))
    return create_tiles(shape, axes)


def _require_overlap(unit: str, size: int, overlap: int) -> None:
    if size <= overlap:
        raise InputError(
            f"tile_size_in_{unit} is {size}, and tiles overlap by {overlap} when encoding: choose a larger size"
        )
