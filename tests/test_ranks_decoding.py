"""The video decoder over ranks: the numbers of one process, and the memory that a rank takes.

The ranks are threads here, which take turns: one runs until all have something to tell each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
import pytest

from ltx2_mlx.config import VideoVAEConfig
from ltx2_mlx.distributed.table import bounds
from ltx2_mlx.loading.load import load
from ltx2_mlx.nn import conv
from ltx2_mlx.nn.noise import Generator
from ltx2_mlx.nn.slabs import Share
from ltx2_mlx.vae_memory import share_memory, shares_latent, slab_size
from ltx2_mlx.video_vae import VideoDecoder

Result = TypeVar("Result")
SMALL = 2**11  # elements, of which an activation has a few hundred a frame


def over(size: int, frames: int, run: Callable[[Share], Result], most: int | None = None) -> list[Result]:
    """What each of the ranks makes of its share of a latent of so many frames."""
    turn, met = threading.Lock(), threading.Barrier(size)
    told: list[Any] = [None] * size
    results: list[Any] = [None] * size

    def gather(rank: int, x: mx.array) -> mx.array:
        told[rank] = np.array(x)
        turn.release()
        met.wait(60)
        every = np.stack(told)
        met.wait(60)
        turn.acquire()
        return mx.array(every)

    def rank_of(rank: int) -> None:
        share = Share(rank, size, *bounds(frames, rank, size), lambda x: gather(rank, x), most or slab_size())
        with turn:
            try:
                results[rank] = run(share)
            except BaseException:
                met.abort()
                raise

    threads = [threading.Thread(target=rank_of, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
def frame_by_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions that compute each frame by itself: a BLAS sums the last rows of a larger matrix in another order."""
    plain = conv._conv3d

    def each(x: mx.array, weight: mx.array, *told: Any) -> mx.array:
        starts = range(x.shape[1] - weight.shape[1] + 1)
        frames = [plain(x[:, i : i + weight.shape[1]], weight, *told) for i in starts]
        return mx.concatenate(frames, axis=1)

    monkeypatch.setattr(conv, "_conv3d", each)


@pytest.mark.parametrize(("size", "most"), [(2, None), (4, SMALL)])
@pytest.mark.parametrize("name", ["tiny-2.0", "tiny-2.3", "tiny-2.0-timestep"])
def test_the_frames_of_all_ranks_are_those_of_one_process_to_the_last_bit(
    frame_by_frame: None, checkpoints: Path, name: str, size: int, most: int | None
) -> None:
    decoder: VideoDecoder = load("video_decoder", checkpoints / f"{name}.safetensors", mx.float32)  # type: ignore[assignment]
    frames = 2 * size if decoder.causal else size + 1
    latent = mx.random.normal((1, decoder.config.latent_channels, frames, 2, 3), key=mx.random.key(1))
    whole = np.array(decoder(latent, generator=Generator(1)))
    parts = over(size, frames, lambda share: np.array(decoder.whole(latent, None, Generator(1), share)), most)
    assert all(part.shape[2] > 0 for part in parts)
    assert np.array_equal(np.concatenate(parts, axis=2), whole)
