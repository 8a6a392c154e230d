"""A clip in slabs of frames, one after the other, with the numbers of the whole clip.

Nothing is computed twice and nothing is blended: each convolution keeps the last frames that it saw and puts them
before the next slab, so that every frame has its true neighbours. A convolution that looks ahead gives its last frames
only when the next slab comes, and what goes around it waits for them.
"""

from __future__ import annotations

from itertools import pairwise

import mlx.core as mx


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


def slabs(frames: int, size: int) -> list[tuple[int, int]]:
    """Cut ``frames`` into slabs of ``size`` at most, all about as long."""
    count = -(-frames // size)
    return list(pairwise(frames * i // count for i in range(count + 1)))
