"""The video decoder over ranks: the numbers of one process, and the memory that a rank takes.

The ranks are threads here, which take turns: one runs until all have something to tell each other.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
import pytest

from ltx2_mlx import vae_memory
from ltx2_mlx.config import VideoVAEConfig
from ltx2_mlx.distributed.table import bounds
from ltx2_mlx.loading.load import load
from ltx2_mlx.nn import conv
from ltx2_mlx.nn.noise import Generator
from ltx2_mlx.nn.slabs import Share
from ltx2_mlx.vae_memory import can_share, share_memory, shares, slab_size
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


def test_a_rank_takes_the_memory_that_is_planned_for_it(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces less than at once; and where it does not fit, or frames are too few, the ranks do not share."""
    tiny = load("video_decoder", checkpoints / "tiny-2.3.safetensors", mx.float32)
    config: VideoVAEConfig = dataclasses.replace(tiny.config, decoder_base_channels=16)
    decoder, latent = VideoDecoder(config), mx.random.normal((1, 128, 8, 2, 3))
    mx.eval(decoder.parameters(), latent)
    taken = []
    for most in (2**60, 2**17):
        monkeypatch.setattr(vae_memory, "slab_size", lambda most=most: most)
        share = Share(1, 2, 4, 8, lambda x: mx.stack([x, x]), most)
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(decoder.whole(latent, None, None, share))
        taken.append(mx.get_peak_memory() - before)
        estimate = share_memory(config, latent.shape, 4, 2)
        assert 0.85 * taken[-1] <= estimate <= 1.5 * taken[-1]
        assert shares(config, latent.shape, 4, 2, estimate) and not shares(config, latent.shape, 4, 2, estimate - 1)
    assert taken[1] < 0.7 * taken[0]
    assert not can_share(config, (1, 128, 3, 2, 3), 4) and can_share(config, (1, 128, 4, 2, 3), 4)
    causal = dataclasses.replace(config, causal_decoder=True)
    assert not can_share(causal, (1, 128, 7, 2, 3), 4) and can_share(causal, (1, 128, 2, 2, 3), 2)
