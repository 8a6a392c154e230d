"""Metal's Winograd paths are never taken in half precision: every convolution of every component at real size, by its
shapes alone; and what is done instead gives the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any
from unittest import mock

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from released import UPSAMPLERS, config

from ltx2_mlx.audio_vae import CausalConv2d
from ltx2_mlx.config.audio import CausalityAxis
from ltx2_mlx.loading.load import COMPONENTS
from ltx2_mlx.nn import conv
from ltx2_mlx.nn.conv import CausalConv3d, Conv2d, Conv3d


@dataclass(frozen=True)
class Convolution:
    """One call of ``mx.conv2d`` or ``mx.conv3d``: ``(N, …, C)`` and ``(O, …, C)``."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    dtype: mx.Dtype

    @property
    def out(self) -> list[int]:
        sizes = zip(self.x[1:-1], self.weight[1:-1], self.stride, self.padding, self.dilation, strict=True)
        return [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in sizes]

    @property
    def winograd(self) -> bool:
        """The first rule, as MLX 0.32 has it for 2-D convolutions: F(6, 3)."""
        C, O = self.x[-1], self.weight[0]  # noqa: E741
        plain = set(self.stride + self.dilation) == {1} and self.groups == 1
        wide = C % 32 == O % 32 == 0 and C + O >= 256
        return plain and wide and self.weight[1:3] == (3, 3) and prod(self.x[:3]) >= 4096

    @property
    def sliced(self) -> bool:
        """The second rule: a 3-D convolution in slices along its depth, whatever it does in height and width."""
        C, O = self.x[-1], self.weight[0]  # noqa: E741
        plain = self.x[0] == self.stride[0] == self.dilation[0] == self.groups == 1 and not self.padding[0]
        return plain and C % 16 == O % 16 == 0 and self.weight[1] <= 7

    @property
    def hazardous(self) -> bool:
        return self.dtype != mx.float32 and (self.winograd if len(self.x) == 4 else self.sliced)


@contextmanager
def metal(yes: bool = True) -> Iterator[list[Convolution]]:
    """The product believes to be on Metal, or not to be; its convolutions are written down."""
    calls: list[Convolution] = []

    def recorded(original: Callable[..., mx.array], n: int) -> Callable[..., mx.array]:
        def call(
            x: mx.array, w: mx.array, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1, **rest: Any
        ) -> mx.array:
            each = [v if isinstance(v, tuple) else (v,) * n for v in (stride, padding, dilation)]
            assert x.dtype == w.dtype and not rest
            calls.append(Convolution(x.shape, w.shape, *each, groups, x.dtype))
            return original(x, w, stride, padding, dilation, groups)

        return call

    def unexpected(*args: Any, **kwargs: Any) -> mx.array:
        raise AssertionError("a convolution that is not written down")

    with (
        mock.patch.object(conv, "on_metal", lambda: yes),
        mock.patch.object(mx, "conv2d", recorded(mx.conv2d, 2)),
        mock.patch.object(mx, "conv3d", recorded(mx.conv3d, 3)),
        mock.patch.object(mx, "conv_general", unexpected),
    ):
        yield calls


# ---- every convolution at real size ----------------------------------------------------------------------------------

LATENTS = ((1, 128, 16, 16, 24), (1, 128, 16, 32, 48), (1, 128, 9, 16, 16), (1, 128, 1, 34, 60))
VIDEOS = ((1, 3, 1, 512, 768), (1, 3, 121, 512, 768), (1, 3, 65, 1088, 1920))
SPECTROGRAMS, AUDIO_LATENTS = ((1, 2, 501, 64),), ((1, 8, 126, 16), (1, 8, 501, 16))
MELS = ((1, 2, 501, 64),)
SIZES = {
    "video_encoder": VIDEOS,
    "video_decoder": LATENTS,
    "audio_encoder": SPECTROGRAMS,
    "audio_decoder": AUDIO_LATENTS,
    "vocoder": MELS,
    "upsampler": LATENTS,
}
WITHOUT = {"transformer", "embeddings_processor", "gemma"}  # no layer of theirs is a convolution
NETWORKS = [
    *((name, version, config(version)) for name in SIZES if name != "upsampler" for version in ("2.0", "2.3")),
    *(("upsampler", name, own) for name, own in UPSAMPLERS.items()),
]


def convolutions(component: str, description: dict[str, Any], dtype: mx.Dtype, yes: bool = True) -> list[Convolution]:
    """Those of a component at every real size. Nothing is computed: MLX knows shapes before values."""
    parts = COMPONENTS[component]
    module = parts.make(parts.read(description), {})
    module.set_dtype(dtype)
    with metal(yes) as calls:
        for shape in SIZES[component]:
            module(mx.zeros(shape, dtype))
    return calls


def test_every_component_is_walked() -> None:
    assert set(SIZES) | WITHOUT == set(COMPONENTS)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=str)
@pytest.mark.parametrize(("component", "name", "description"), NETWORKS, ids=lambda v: v if isinstance(v, str) else "")
def test_no_convolution_in_half_precision_takes_winograds_path(
    component: str, name: str, description: dict[str, Any], dtype: mx.Dtype
) -> None:
    calls = convolutions(component, description, dtype)
    assert bool(calls) == (component != "vocoder")  # which has 1-D ones alone
    assert not [call for call in calls if call.hazardous]


@pytest.mark.parametrize("component", ["video_encoder", "video_decoder", "audio_encoder", "audio_decoder"])
def test_without_the_way_around_the_same_walk_finds_them(component: str) -> None:
    for version in ("2.0", "2.3"):
        assert any(call.hazardous for call in convolutions(component, config(version), mx.bfloat16, yes=False))


def test_the_upsamplers_plain_convolutions_would_take_it_too() -> None:
    for name in ("2.0 spatial x2", "2.3 spatial x2", "2.3 spatial x1.5"):
        assert any(call.hazardous for call in convolutions("upsampler", UPSAMPLERS[name], mx.bfloat16, yes=False))


# ---- the same numbers ------------------------------------------------------------------------------------------------


def randomised(module: nn.Module, dtype: mx.Dtype) -> nn.Module:
    rng = np.random.default_rng(0)
    weights = [(k, mx.array(rng.normal(0, 0.2, v.shape))) for k, v in tree_flatten(module.parameters())]
    module.load_weights(weights)
    module.set_dtype(dtype)
    return module


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (CausalConv3d(16, 32), (1, 4, 6, 5, 16)),
        (CausalConv3d(16, 32, reflect=True), (1, 1, 6, 5, 16)),
        (CausalConv3d(16, 32, stride=(1, 2, 2)), (1, 3, 6, 8, 16)),
        (CausalConv3d(16, 32, stride=(2, 2, 2)), (2, 3, 6, 8, 16)),
        (Conv3d(16, 32, 1), (1, 3, 4, 5, 16)),
        (Conv3d(16, 32, 3, padding=(1, 1, 1)), (2, 3, 4, 5, 16)),
        (Conv2d(32, 64, 3, padding=(1, 1)), (2, 9, 8, 32)),
        (CausalConv2d(32, 64, 3, CausalityAxis.HEIGHT), (1, 9, 8, 32)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else str(v),
)
def test_what_is_computed_on_metal_instead_is_what_is_computed_elsewhere(
    layer: nn.Module, shape: tuple[int, ...], dtype: mx.Dtype
) -> None:
    randomised(layer, dtype)
    x = mx.array(np.random.default_rng(1).normal(size=shape)).astype(dtype)
    found = []
    for yes in (False, True):
        with metal(yes):
            y = layer(x)
        assert y.dtype == dtype
        found.append(np.array(y.astype(mx.float32)))
    there, here = found
    assert there.shape == here.shape
    # A BLAS may sum in another order where there are more rows; in half precision few results then round otherwise.
    allowed = mx.finfo(dtype).eps * (2 if dtype == mx.float32 else 1 / 8)
    assert np.linalg.norm(here - there) <= allowed * np.linalg.norm(there)


def test_the_choice_is_made_by_the_device_alone() -> None:
    for device, there, yes in ((mx.cpu, True, False), (mx.gpu, False, False), (mx.gpu, True, True)):
        with (
            mock.patch.object(mx, "default_device", return_value=mx.Device(device)),
            mock.patch.object(mx.metal, "is_available", return_value=there),
        ):
            assert conv.on_metal() is yes
