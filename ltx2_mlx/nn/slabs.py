"""A clip in slabs of frames, one after the other, with the numbers of the whole clip.

Nothing is computed twice and nothing is blended: each convolution keeps the last frames that it saw and puts them
before the next slab, so that every frame has its true neighbours. A convolution that looks ahead gives its last frames
only when the next slab comes, and what goes around it waits for them.
"""

from __future__ import annotations

from itertools import pairwise

import mlx.core as mx


class Flow:
    """One pass of a clip through layers, slab by slab: what each layer keeps from one slab to the next.

    Arrays are channels-last, ``(B, T, H, W, C)``.
    """

    def __init__(self, last: bool = False) -> None:
        self.last = last  # the slab on its way is the clip's last
        self._kept: dict[tuple[int, str], mx.array] = {}
        self._started: mx.array | None = None

    def window(self, layer: object, x: mx.array, before: int, after: int, stride: int = 1) -> mx.array:
        """The next frames that a convolution along time reads: those it still needs, the slab, and at both ends of the
        clip the repeated edge frame."""
        kept = self._kept.get((id(layer), "window"))
        parts = [x[:, :1]] * before if kept is None else [kept]
        parts = [*parts, x, *([x[:, -1:]] * after if self.last else [])]
        window = mx.concatenate(parts, axis=1)
        outputs = (window.shape[1] - before - after - 1) // stride + 1
        self._keep(layer, "window", window[:, outputs * stride :])
        return window

    def delayed(self, layer: object, x: mx.array, frames: int) -> mx.array:
        """The next ``frames`` frames of what goes around a layer's convolutions; the rest waits."""
        kept = self._kept.get((id(layer), "delayed"))
        x = x if kept is None else mx.concatenate([kept, x], axis=1)
        self._keep(layer, "delayed", x[:, frames:])
        return x[:, :frames]

    def begun(self, layer: object) -> bool:
        """Say whether a slab has come to this convolution before."""
        return (id(layer), "window") in self._kept

    def pace(self, x: mx.array) -> mx.array:
        """Compute a layer's output. On a GPU it is started, and the one before is waited for: no more than two are in
        memory at a time."""
        if mx.default_device().type == mx.cpu:
            mx.eval(x, *self._kept.values())
            return x
        mx.async_eval(x, *self._kept.values())
        if self._started is not None:
            mx.eval(self._started)
        self._started = x
        return x

    def _keep(self, layer: object, name: str, x: mx.array) -> None:
        self._kept[id(layer), name] = mx.contiguous(x)  # a copy: a view would hold the whole slab in memory


def slabs(frames: int, size: int, ahead: int = 0) -> list[tuple[int, int]]:
    """Cut ``frames`` into slabs of ``size``, the first longer by ``ahead``.

    ahead: how many frames the convolutions of a pass look ahead together, so that the first slab comes through.
    """
    cuts = [0, *range(size + ahead, frames, size), frames]
    return list(pairwise(cuts))
