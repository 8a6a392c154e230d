"""Faults of a network that is split over ranks, each as what stands in the place of a function of the product.

They are put into the ranks' own processes, so that nothing is imported again for each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np

from ltx2_mlx.distributed.ranks import Ranks
from ltx2_mlx.nn.noise import Generator
from ltx2_mlx.nn.norm import GroupNorm
from ltx2_mlx.nn.slabs import Share
from ltx2_mlx.video_vae import VideoDecoder

_gather, _randn, _randn64 = Ranks.gather, Generator.randn, Generator.randn64
_LAYERS, _TABLE = "ltx2_mlx.distributed.layers", "ltx2_mlx.distributed.table"
_SHARE, _NORM = "ltx2_mlx.nn.slabs.Share", "ltx2_mlx.nn.norm.GroupNorm"


def summed_nowhere(cls: Any) -> Any:
    return cls.__call__


def first_heads(tables: Any, attention: Any) -> Any:
    return tables and tuple(table[:, : attention.heads] for table in tables)


def in_another_order(count: int, rank: int, size: int) -> tuple[int, int]:
    return count * (size - 1 - rank) // size, count * (size - rank) // size


def norm_of_own_heads(cls: Any) -> Any:
    return cls.__call__


def kept_everywhere(part: Any, array: np.ndarray) -> np.ndarray:
    if part.empty:
        return array
    return np.ascontiguousarray(array[(slice(None),) * part.axis + (slice(part.first, part.last),)])


def other_axis(split: Any, leaf: str, shape: tuple[int, ...]) -> int | None:
    if split.name == "ROWS":
        return 0 if leaf == "weight" else None
    return None if shape == () else 0


# ---- a video decoder over ranks: the frames are dealt out


def of_the_wrong_neighbour(share: Any, x: Any, before: int, after: int) -> Any:
    share.rank = share.size - 1 - share.rank
    left, right = _neighbours(share, x, before, after)
    share.rank = share.size - 1 - share.rank
    return left, right


def left_out(share: Any, x: Any, before: int, after: int) -> Any:
    left, right = _neighbours(share, x, before, after)
    return (left * 0 if share.rank else left), (right if share.rank == share.size - 1 else right * 0)


def never_begun(share: Any, layer: object) -> bool:
    return False


def of_own_frames(y: Any, flow: Any = None) -> Any:
    return _mean(y)


def last_first(share: Any, x: Any) -> Any:
    share.gather, gather = lambda x: gather(x)[::-1], share.gather
    return _joined(share, x)


def drawn_by_each(decoder: Any, sample: Any, timestep: Any, generator: Any, share: Any = None) -> Any:
    if share is None:
        return _begun(decoder, sample, timestep, generator)
    with mock.patch.object(Share, "own", lambda share, x: x):
        return _begun(decoder, sample[:, :, share.first : share.end], timestep, generator, share)


_neighbours, _joined, _mean, _begun = Share.neighbours, Share.joined, GroupNorm._mean, VideoDecoder._begun


# ---- passes that ranks share, and noise that each draws for itself


def turns_from_the_last(count: int, rank: int, size: int) -> range:
    return range(rank, count, size)[::-1] if rank == 0 else range(rank, count, size)


def turns_of_the_first(count: int, rank: int, size: int) -> range:
    return range(0, count, size)


def without_the_last(ranks: Any, x: Any) -> Any:
    kept = mx.arange(len(x)) < len(x) - (ranks.rank == ranks.size - 1)
    return _gather(ranks, x * kept.reshape(-1, 1, 1, 1).astype(x.dtype))


def along_the_other_axis(ranks: Any, x: Any) -> Any:
    return _gather(ranks, x).swapaxes(0, 1)


def _sign() -> int:
    return 1 - 2 * (int(os.environ["MLX_RANK"]) % 2)


def noise_of_the_rank(generator: Any, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
    return _randn(generator, shape, dtype) * _sign()


def audio_noise_of_the_rank(generator: Any, shape: Sequence[int], dtype: mx.Dtype) -> mx.array:
    generator.drawn = getattr(generator, "drawn", 0) + 1  # video, then audio
    return _randn(generator, shape, dtype) * (_sign() if generator.drawn % 2 == 0 else 1)


def steps_noise_of_the_rank(generator: Any, shape: Sequence[int]) -> np.ndarray:
    return _randn64(generator, shape) * _sign()


def _put(place: str, function: Callable[..., Any]) -> Callable[[], Any]:
    return partial(mock.patch, place, function)


# What is wrong → how it is planted, and the tap that must see it first.
FAULTS = {
    "a sum over the ranks is left out": (_put(f"{_LAYERS}._summed", summed_nowhere), "attn1.to_out.0"),
    "rotary tables are those of the first heads": (_put(f"{_LAYERS}._of_heads", first_heads), "attn1.apply_rotary_emb"),
    "heads are dealt out in another order": (_put(f"{_TABLE}.bounds", in_another_order), "attn1.to_v"),
    "a norm is over the rank's own heads": (_put(f"{_LAYERS}._spread", norm_of_own_heads), "attn1.q_norm"),
    "every rank adds the bias": (_put(f"{_TABLE}.Part.cut", kept_everywhere), "attn1.to_out.0"),
    "weights are cut along the other axis": (_put(f"{_TABLE}._axis", other_axis), "attn1.to_out.0"),
}
DECODER_FAULTS = {
    "frames of the wrong neighbour": (_put(f"{_SHARE}.neighbours", of_the_wrong_neighbour), "conv_in.conv"),
    "zeros in the place of a neighbour's frames": (_put(f"{_SHARE}.neighbours", left_out), "conv_in.conv"),
    "every rank drops its first frame": (_put(f"{_SHARE}.begun", never_begun), "up_blocks.1"),
    "a group norm over the rank's own frames": (_put(f"{_NORM}._mean", of_own_frames), "up_blocks.4.norm3"),
    "frames are gathered in another order": (_put(f"{_SHARE}.joined", last_first), "VideoDecoder"),
    "each rank draws noise for its own frames": (
        _put("ltx2_mlx.video_vae.VideoDecoder._begun", drawn_by_each),
        "randn",
    ),
}
# The same of the passes of a guided step, which ranks share: each is seen at the first step that has all four.
_TURNS, _GATHER = "ltx2_mlx.distributed.models.turns", "ltx2_mlx.distributed.ranks.Ranks.gather"
OF_PASSES = {
    "two passes are exchanged": _put(_TURNS, turns_from_the_last),
    "a rank's pass is counted twice": _put(_TURNS, turns_of_the_first),
    "a pass is left out of what is gathered": _put(_GATHER, without_the_last),
    "passes are gathered along the other axis": _put(_GATHER, along_the_other_axis),
}
# Noise that each rank draws for itself, and what a run says of it: it is seen at the next pass, which all begin with
# the first rank's latents (tests/test_ranks.py).
_NOISE = "ltx2_mlx.nn.noise.Generator"
OF_NOISE = {
    "noise is drawn per rank": (_put(f"{_NOISE}.randn", noise_of_the_rank), "different video latents"),
    "the audio's noise is drawn per rank": (
        _put(f"{_NOISE}.randn", audio_noise_of_the_rank),
        "different audio latents",
    ),
    "a step's noise is drawn per rank": (_put(f"{_NOISE}.randn64", steps_noise_of_the_rank), "different video latents"),
}
