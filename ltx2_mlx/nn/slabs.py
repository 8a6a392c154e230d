"""A clip in slabs of frames, one after the other, with the numbers of the whole clip.

Nothing is computed twice and nothing is blended: each convolution keeps the last frames that it saw and puts them
before the next slab, so that every frame has its true neighbours. A convolution that looks ahead gives its last frames
only when the next slab comes, and what goes around it waits for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

if TYPE_CHECKING:
    from .conv import CausalConv3d


class WaitingError(Exception):
    """Nothing comes out yet: a convolution keeps what it was given, and needs the next slab."""


class Flow:
    """One pass of a clip through layers, slab by slab: what each layer keeps from one slab to the next.

    Arrays are channels-last, ``(B, T, H, W, C)``.
    """

    def __init__(self, last: bool = False) -> None:
        self.last = last  # the slab on its way is the clip's last
        self._kept: dict[tuple[int, str], mx.array] = {}
        self._begun: set[int] = set()
        self._started: mx.array | None = None

    def convolved(self, layer: CausalConv3d, x: mx.array, before: int, after: int) -> mx.array:
        """What a layer's convolution along time makes of the next frames; it reads ``before`` and ``after`` each."""
        return layer.conv(self.window(layer, x, before, after, layer.conv.stride[0]))

    def joined(self, x: mx.array) -> mx.array:
        """``(B, T, …)`` of all frames of the clip, from that of those which are here."""
        return x

    def window(self, layer: object, x: mx.array, before: int, after: int, stride: int = 1) -> mx.array:
        """The next frames that a convolution along time reads: those it still needs, the slab, and at both ends of the
        clip the repeated edge frame. Raises WaitingError for too few."""
        kept = self._kept.get((id(layer), "window"))
        parts = [x[:, :1]] * before if kept is None else [kept]
        window = mx.concatenate([*parts, x, *([x[:, -1:]] * after if self.last else [])], axis=1)
        outputs = (window.shape[1] - before - after - 1) // stride + 1
        self._keep(layer, "window", window[:, max(outputs, 0) * stride :])
        if outputs < 1:
            raise WaitingError
        self._begun.add(id(layer))
        return window

    def hold(self, layer: object, x: mx.array) -> None:
        """Put aside what goes around a layer's convolutions, until they have made its frames."""
        kept = self._kept.get((id(layer), "held"))
        self._kept[id(layer), "held"] = x if kept is None else mx.concatenate([kept, x], axis=1)

    def take(self, layer: object, frames: int) -> mx.array:
        """The first ``frames`` frames of what was put aside; the rest waits."""
        x = self._kept.pop((id(layer), "held"))
        if frames < x.shape[1]:
            self._keep(layer, "held", x[:, frames:])
        return x[:, :frames]

    def begun(self, layer: object) -> bool:
        """Say whether this convolution has made the clip's first frame."""
        return id(layer) in self._begun

    def pace(self, x: mx.array) -> mx.array:
        """Compute a layer's output. On a GPU it is started, and the one before is waited for: no more than two are in
        memory at a time."""
        if mx.default_device().type == mx.cpu:
            mx.eval(x, *self._kept.values())
            return x
        mx.async_eval(x, *self._kept.values())  # type: ignore[no-untyped-call]
        if self._started is not None:
            mx.eval(self._started)
        self._started = x
        return x

    def _keep(self, layer: object, name: str, x: mx.array) -> None:
        self._kept[id(layer), name] = mx.contiguous(x)  # a copy: a view would hold the whole slab in memory


class Share(Flow):
    """The frames of a clip that one of several processes has, all at once. What a convolution reads beyond them comes
    from the processes that have the frames before and after, so that the numbers are those of the whole clip.

    rank: of ``size`` processes, in order of time. first, last: its latent frames. gather: the equally large arrays of
    all processes, along a new first axis; every process calls it at the same time. most: about the most elements of an
    activation that is computed at once.
    """

    def __init__(
        self, rank: int, size: int, first: int, last: int, gather: Callable[[mx.array], mx.array], most: int
    ) -> None:
        super().__init__()
        self.rank, self.size, self.first, self.end = rank, size, first, last
        self.gather, self.most = gather, most

    def own(self, x: mx.array) -> mx.array:
        """Its frames of the whole latent, ``(B, T, …)``."""
        return x[:, self.first : self.end]

    def begun(self, layer: object) -> bool:
        """Say whether the clip's first frame is another process's."""
        return self.rank > 0

    def convolved(self, layer: CausalConv3d, x: mx.array, before: int, after: int) -> mx.array:
        left, right = self.neighbours(x, before, after)
        T = x.shape[1]

        def seen(begin: int, end: int) -> mx.array:
            """Frames ``begin`` to ``end`` of this process's, which may be one of its neighbours'."""
            here = x[:, max(begin, 0) : end]
            return mx.concatenate([left[:, begin + before :], here, right[:, : max(end - T, 0)]], axis=1)

        most = x[:, 0].size // x.shape[-1] * max(x.shape[-1], layer.conv.weight.shape[0])
        cuts = slabs(T, max(1, self.most // most))
        return assembled((layer.conv(seen(begin - before, end + after)) for begin, end in cuts), T)

    def neighbours(self, x: mx.array, before: int, after: int) -> tuple[mx.array, mx.array]:
        """The frames before and after those of this process; at the clip's ends its edge frame, repeated."""
        T = x.shape[1]
        start, end = [x[:, :1]] * before, [x[:, -1:]] * after
        last = mx.concatenate([*start, x[:, max(T - before, 0) :]], axis=1)[:, -before:]
        every = self.gather(mx.concatenate([x[:, :after], last], axis=1))
        left = every[self.rank - 1][:, after:] if self.rank else mx.concatenate([x[:, :0], *start], axis=1)
        alone = self.rank == self.size - 1
        right = mx.concatenate([x[:, :0], *end], axis=1) if alone else every[self.rank + 1][:, :after]
        return left, right

    def joined(self, x: mx.array) -> mx.array:
        counts: list[int] = np.array(self.gather(mx.array(x.shape[1]))).tolist()
        missing = mx.zeros((x.shape[0], max(counts) - x.shape[1], *x.shape[2:]), x.dtype)
        every = self.gather(mx.concatenate([x, missing], axis=1))
        return mx.concatenate([part[:, :count] for part, count in zip(every, counts, strict=True)], axis=1)


def assembled(parts: Iterable[mx.array], frames: int) -> mx.array:
    """All ``frames`` of some parts in one array; each part is computed before the next one."""
    whole, at = None, 0
    for part in parts:
        if part.shape[1] == frames:
            return part
        if whole is None:
            whole = mx.zeros((part.shape[0], frames, *part.shape[2:]), part.dtype)
        whole[:, at : at + part.shape[1]] = part
        mx.eval(whole)
        at += part.shape[1]
    assert whole is not None and at == frames
    return whole


def slabs(frames: int, size: int) -> list[tuple[int, int]]:
    """Cut ``frames`` into slabs of ``size`` at most, all about as long."""
    count = -(-frames // size)
    return list(pairwise(frames * i // count for i in range(count + 1)))
