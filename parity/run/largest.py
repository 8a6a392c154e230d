"""The largest layers of a real file on the device: their own weights, inputs of production size, judged at sampled
positions. What goes wrong at these sizes alone is seen here, where a float64 oracle of the whole would take hours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx
import numpy as np

from ltx2_mlx.loading.checkpoint import CheckpointPath
from ltx2_mlx.loading.header import Arrays, TensorInfo
from ltx2_mlx.nn.conv import Conv2d, Conv3d

from ..declare.inputs import normal
from ..judge import sampled
from ..judge.device import Measure
from ..sides.loading import read

TOKENS = 6144  # of a linear layer's input
# Axes of a kernel → sizes of its input: a vocoder's steps, a spectrogram, a tile of the video VAE.
SIZES = {1: (2500,), 2: (64, 64), 3: (6, 32, 48)}
FLOATS = ("BF16", "F16", "F32")


def largest_layers(files: Mapping[str, CheckpointPath], lanes: str, tokens: int = TOKENS) -> tuple[Measure, ...]:
    """The largest layer of each kind of each component, in the dtypes of these lanes. One that is off by more than
    rounding makes a run inconclusive, as a primitive does that is measured before it. files: component → its file."""
    dtypes = [mx.float32] * bool(set(lanes) & {"A", "C"}) + [mx.bfloat16] * ("B" in lanes)
    return tuple(
        _measured(f"{component} {name}", weight, dtype, tokens)
        for component, path in files.items()
        for name, weight in _largest(path, component)
        for dtype in dtypes
    )


def _largest(path: CheckpointPath, component: str) -> Iterator[tuple[str, mx.array]]:
    """Parameter and weight ``(out, …, in)`` of the largest linear layer, 1-D, 2-D and 3-D convolution."""
    checkpoint = read(path)
    infos = {name: checkpoint.tensors[key] for name, key in checkpoint.components()[component].items()}
    weights = {name: info for name, info in infos.items() if _is_layer(name, info)}
    for axes in sorted({len(info.shape) for info in weights.values()}):
        name = max((n for n, info in weights.items() if len(info.shape) == axes), key=lambda n: weights[n].nbytes)
        yield name, mx.moveaxis(Arrays({name: weights[name]})[name], 1, -1)


def _is_layer(name: str, info: TensorInfo) -> bool:
    """A matrix or a kernel of two or more channels; tables of embeddings are looked up and not multiplied."""
    shaped = 2 <= len(info.shape) <= 5 and min(info.shape[:2]) > 1 and len(set(info.shape[2:])) <= 1
    return name.endswith(".weight") and shaped and info.dtype in FLOATS and "embed_tokens" not in name


def _measured(name: str, weight: mx.array, dtype: mx.Dtype, tokens: int) -> Measure:
    out, *kernel, width = weight.shape
    weight = weight.astype(dtype)
    padding = (0, *(k // 2 for k in kernel[1:]))
    sizes = (1, *SIZES[len(kernel)]) if kernel else (tokens,)
    x = mx.array(normal("largest", *sizes, width)).astype(dtype)
    kind: sampled.Kind = "convolution" if kernel else "linear"
    options: dict[str, Any] = {}
    if len(kernel) < 2:
        y = mx.conv1d(x, weight) if kernel else mx.matmul(x, weight.T)
    else:
        layer = (Conv2d if len(kernel) == 2 else Conv3d)(1, 1, 1, padding=padding)
        layer.weight, layer.bias = weight, mx.zeros((out,), dtype)
        y, options = layer(x), {"padding": padding}
    text = str(dtype).removeprefix("mlx.core.")
    at = sampled.positions(y.shape[:-1])
    ours = _numbers(y[tuple(mx.array(index) for index in at.T)])
    ratio = sampled.judge_layer(kind, at, ours, (_numbers(x), _numbers(weight)), text, **options)
    return Measure(name, text, ratio, weight[0].size)


def _numbers(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32))
