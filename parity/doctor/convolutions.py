"""Convolutions: Winograd's algorithm, TF32, inputs of more than 2³² unfolded elements; and the product's own layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ltx2_mlx.nn.conv import CausalConv3d, Conv2d

from ..judge import sampled
from .line import Check, Line, Setting, at_positions, layer, numbers, random

HALF = (mx.bfloat16, mx.float16)


def _convolution(
    convolve: Callable[..., mx.array],
    sizes: tuple[int, ...],
    out: int,
    kernel: tuple[int, ...],
    dtype: mx.Dtype,
    padding: tuple[int, ...] = (),
    **options: Any,
) -> Check:
    """Of ``sizes`` (N, …, C), with a kernel that makes ``out`` channels."""
    terms = int(np.prod(kernel)) * sizes[-1]
    x, weight = (
        random("x", *sizes, dtype=dtype),
        random("weight", out, *kernel, sizes[-1], dtype=dtype, scale=terms**-0.5),
    )
    y = convolve(x, weight, padding=padding if len(padding) > 1 else sum(padding), **options)
    what = f"{' × '.join(map(str, sizes[:-1]))}, {sizes[-1]} → {out} channels, kernel {' × '.join(map(str, kernel))}"
    return layer(what, "convolution", y, (x, weight), padding=padding, **options)


def _video(setting: Setting) -> tuple[tuple[int, ...], int]:
    """A tile of the video VAE at its second level, with the frames that are repeated and room for the kernel."""
    return setting.size(((1, 6, 32, 48, 512), 512), ((1, 10, 64, 96, 512), 512), ((1, 4, 12, 13, 32), 32))


def _frames(setting: Setting) -> tuple[tuple[int, ...], int]:
    """A latent in the upsampler, frame by frame."""
    return setting.size(((11, 16, 24, 1024), 1024), ((16, 32, 48, 1024), 4096), ((2, 9, 13, 32), 64))


def _in_slices(setting: Setting) -> Iterator[Check]:
    sizes, out = _video(setting)
    for dtype in HALF if setting.device != "cpu" or setting.small else HALF[:1]:
        yield _convolution(mx.conv3d, sizes, out, (3, 3, 3), dtype, (0, 1, 1))


def _winograd(setting: Setting) -> Iterator[Check]:
    sizes, out = _frames(setting)
    for dtype in HALF if setting.device != "cpu" or setting.small else HALF[:1]:
        yield _convolution(mx.conv2d, sizes, out, (3, 3), dtype, (1, 1))


def _float32(setting: Setting) -> Iterator[Check]:
    sizes, out = setting.size(((1, 64, 64, 256), 256), ((4, 64, 64, 352), 352), ((1, 12, 13, 32), 32))
    yield _convolution(mx.conv2d, sizes, out, (3, 3), mx.float32, (1, 1))
    sizes, out = setting.size(((1, 400, 256), 256), ((1, 12_500, 768), 768), ((1, 90, 32), 32))
    yield _convolution(mx.conv1d, sizes, out, (11,), mx.float32, (25,), dilation=5)


def _unfolded(setting: Setting) -> Iterator[Check]:
    frames, height, width = setting.size((6, 242, 418), (6, 242, 418), (4, 10, 11))
    for out in (16, 24):
        yield _convolution(
            mx.conv3d, (1, frames, height, width, setting.size(512, 512, 32)), out, (3, 3, 3), mx.bfloat16
        )


def _transposed(setting: Setting) -> Iterator[Check]:
    """The vocoders' first layers."""
    frames = setting.size(40, 2004, 30)
    for width, kernel, stride in ((1536, 11, 5), (1024, 16, 6)):
        width = setting.size(width, width, 64)
        x = random("x", 1, frames, width)
        weight = random("weight", width // 2, kernel, width, scale=(width * kernel / stride) ** -0.5)
        padding = (kernel - stride) // 2
        y = mx.conv_transpose1d(x, weight, stride=stride, padding=padding)
        at = sampled.positions(y.shape[:-1])
        exact = sampled.transposed(at, numbers(x), numbers(weight), stride, padding)
        ratio = sampled.ratio(at_positions(y, at), exact, "float32", width * -(-kernel // stride))
        what = f"{frames} steps, {width} → {width // 2} channels, kernel {kernel}, stride {stride}"
        yield Check(f"{what}, float32", ratio, sampled.limit("float32"))


# ---- the product's own layers ----------------------------------------------------------------------------------------


def _filled(module: nn.Module, terms: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
    """Random weights for a convolution of the product: what it then holds."""
    weight = random("weight", *module.weight.shape, dtype=dtype, scale=terms**-0.5)
    module.weight, module.bias = weight, mx.zeros((len(weight),), dtype)
    return module.weight, module.bias


def _causal(setting: Setting) -> Iterator[Check]:
    sizes, out = _video(setting)
    module = CausalConv3d(sizes[-1], out)
    weight, _ = _filled(module.conv, 27 * sizes[-1], mx.bfloat16)
    x = random("x", 1, sizes[1] - 2, *sizes[2:], dtype=mx.bfloat16)
    edges = mx.concatenate([x[:, :1], x, x[:, -1:]], axis=1)
    what = f"CausalConv3d, {' × '.join(map(str, x.shape[:-1]))}, {sizes[-1]} → {out} channels"
    yield layer(what, "convolution", module(x, causal=False), (edges, weight), padding=(0, 1, 1))


def _plane(setting: Setting) -> Iterator[Check]:
    sizes, out = _frames(setting)
    module = Conv2d(sizes[-1], out, 3, padding=(1, 1))
    weight, _ = _filled(module, 9 * sizes[-1], mx.bfloat16)
    x = random("x", *sizes, dtype=mx.bfloat16)
    what = f"Conv2d, {' × '.join(map(str, sizes[:-1]))}, {sizes[-1]} → {out} channels"
    yield layer(what, "convolution", module(x), (x, weight), padding=(1, 1))


_LAYERS = "nothing in ltx2_mlx, whose layers go around it: see the lines ltx2_mlx.*"
_REPORT = "report it to ltx2-mlx with doctor.json: its way around Winograd is not taken, or another fault is new"
LINES = (
    Line(
        "conv3d.winograd",
        "3-D convolution in half precision",
        _LAYERS,
        "from MLX 0.32.2 on Metal computes it in slices by Winograd's algorithm, and adds them in half precision",
        "pad the depth by 1 and drop both ends, or compute in float32",
        _in_slices,
        (3785, 4242),
        gigabytes=(2.5, 3.0),
        gigaflops=90,
    ),
    Line(
        "conv2d.winograd",
        "2-D convolution in half precision",
        _LAYERS,
        "Metal computes 3 × 3 kernels over many channels by Winograd's algorithm, and rounds between its steps",
        "compute in float32 and round once; if all is zero, the working set was too large: take fewer frames at once",
        _winograd,
        (4242, 3979),
        gigabytes=(2.5, 4.0),
        gigaflops=90,
    ),
    Line(
        "conv.float32",
        "1-D and 2-D convolution in float32",
        "vocoder, and whatever runs in float32",
        "TF32: float32 operands are rounded to 11 bits, and Winograd's transforms multiply that",
        "export MLX_ENABLE_TF32=0 before Python starts (parity does so by itself)",
        _float32,
        (4242, 3860),
        gigaflops=10,
        plain_float32=True,
    ),
    Line(
        "conv3d.unfolded",
        "3-D convolution of more than 2³² unfolded elements",
        "the video VAE on large frames without tiles",
        "the index into the unfolded input has 32 bits: what is beyond is computed from other places",
        "decode in tiles (ltx2-mlx chooses them by itself), or another release of MLX",
        _unfolded,
        (3138, 3248),
        gigabytes=(26.0, 5.0),
        elsewhere="on a CPU MLX writes the unfolded input out, 22 GB of it, and would fail for want of memory",
    ),
    Line(
        "conv1d.transposed",
        "transposed convolution in float32",
        "the vocoders' upsampling",
        "TF32, or a kernel that leaves the last steps out",
        "another release of MLX; export MLX_ENABLE_TF32=0 before Python starts",
        _transposed,
        gigaflops=3,
    ),
    Line(
        "ltx2_mlx.conv3d",
        "the product's 3-D convolution",
        "the video VAE and the upsamplers",
        "this layer is made to avoid what the line conv3d.winograd looks for",
        _REPORT,
        _causal,
        (3785,),
        gigabytes=(2.5, 3.0),
        gigaflops=60,
    ),
    Line(
        "ltx2_mlx.conv2d",
        "the product's 2-D convolution",
        "the audio VAE and the spatial upsamplers",
        "this layer is made to avoid what the line conv2d.winograd looks for",
        _REPORT,
        _plane,
        (4242,),
        gigabytes=(2.5, 4.0),
        gigaflops=90,
    ),
)
