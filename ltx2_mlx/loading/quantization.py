"""Weights kept in float8 (e4m3) and cast up at each call: half the memory of bfloat16.

Source: ``ltx_core.quantization.fp8_cast``. MLX has no float8 dtype: such values are kept as their bytes, so that
``uint8`` means float8 in everything that holds weights here.
"""

from __future__ import annotations

from collections.abc import Mapping

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..errors import InputError
from ..nn.linear import product
from ..nn.module import Module

FP8 = mx.uint8
FP8_MAX = 448.0
# Within a block: these layers' weights and biases. Norms, gates and tables keep their precision.
DOWNCAST = (".to_q", ".to_k", ".to_v", ".to_out.0", "ff.net.0.proj", "ff.net.2")


def check_policy(quantization: str | None) -> None:
    """Raises InputError for anything but None, ``fp8-cast``, and ``q8`` and ``q4`` (see ``quantized``)."""
    if quantization == "fp8-scaled-mm":
        raise InputError("quantization is 'fp8-scaled-mm', which needs TensorRT-LLM (CUDA only): use fp8-cast")
    if quantization not in (None, "fp8-cast", "q8", "q4"):
        raise InputError(f"quantization is {quantization!r}, expected fp8-cast, q8, q4 or None")


def is_downcast(name: str) -> bool:
    """True for the transformer's parameters that fp8-cast keeps in float8."""
    layer, _, leaf = name.rpartition(".")
    return name.startswith("transformer_blocks.") and layer.endswith(DOWNCAST) and leaf in ("weight", "bias")


def to_fp8(x: mx.array) -> mx.array:
    """Bytes of the nearest e4m3 values, ties to even; beyond ±448 the largest, NaN stays NaN. Any shape."""
    return mx.where(mx.isnan(x), mx.array(0x7F, mx.uint8), mx.to_fp8(x))


def nan_for_infinity(x: mx.array) -> mx.array:
    """``x`` with NaN for ±∞, which ``to_fp8`` would make the largest number: a damaged weight must stay one."""
    return mx.where(mx.isinf(x), mx.array(float("nan"), x.dtype), x)


def from_fp8(x: mx.array, dtype: mx.Dtype) -> mx.array:
    """Bytes of e4m3 → their values, exact in every floating dtype. Any shape."""
    return mx.from_fp8(x, dtype)


def from_e5m2(x: mx.array, dtype: mx.Dtype) -> mx.array:
    """Bytes of e5m2, the upper halves of float16 → their values. Any shape."""
    return (x.astype(mx.uint16) << 8).view(mx.float16).astype(dtype)


def scale_of(name: str) -> tuple[str, ...]:
    """The names that the scale of a float8 weight has beside it: ``w = bytes · scale``."""
    layer = name.removesuffix("weight")
    return f"{layer}weight_scale", f"{layer}scale_weight"


def beside(name: str) -> tuple[str, ...]:
    """What else stands beside float8 weights, for kernels that multiply in float8, and is not part of the weight."""
    layer = name.removesuffix("weight")
    return f"{layer}input_scale", f"{layer}scale_input", f"{layer}comfy_quant"


def per_row(scale: mx.array, weight: tuple[int, ...]) -> mx.array:
    """A scale as ``()`` or ``(out, 1)`` float32, for one number or one for each row of the weight of this shape."""
    scale = scale.astype(mx.float32)
    return scale.reshape(()) if scale.size == 1 else scale.reshape(-1, *[1] * (len(weight) - 1))


def quantize_weight_to_fp8_per_tensor(weight: mx.array) -> tuple[mx.array, mx.array]:
    """``(out, in)`` float32 → bytes with the largest value at ±448, and the scale ``()`` that undoes it."""
    scale = FP8_MAX * (1 / mx.abs(weight).max())  # two roundings, as torch divides a number by a tensor
    return to_fp8(weight * scale), 1 / scale


class Fp8Linear(Module):
    """A linear layer whose weight, and bias where there is one, are float8. It computes in its input's dtype.

    scale: the shape of ``weight_scale``, which the bytes are multiplied by, as in checkpoints that are released in
    float8; None where there is none.
    """

    def __init__(self, input_dims: int, output_dims: int, bias: bool = True, scale: tuple[int, ...] | None = None):
        super().__init__()
        self.weight = mx.zeros((output_dims, input_dims), FP8)
        if bias:
            self.bias = mx.zeros((output_dims,), FP8)
        if scale is not None:
            self.weight_scale = mx.ones(scale)

    def __call__(self, x: mx.array) -> mx.array:
        """``(…, input_dims)`` → ``(…, output_dims)``."""
        if "weight_scale" in self:
            weight = (from_fp8(self.weight, mx.float32) * self.weight_scale).astype(x.dtype)
        else:
            weight = from_fp8(self.weight, x.dtype)
        return product(x, weight, from_fp8(self.bias, x.dtype) if "bias" in self else None)


def amend_forward_with_upcast(model: nn.Module, scales: Mapping[str, tuple[int, ...]] | None = None) -> None:
    """Put an ``Fp8Linear`` in the place of each layer that fp8-cast keeps in float8; parameter paths stay.

    scales: paths of the ``weight_scale`` that there are → their shapes.
    """
    scales = scales or {}
    layers = {
        path: Fp8Linear(
            layer.weight.shape[1], layer.weight.shape[0], "bias" in layer, scales.get(f"{path}.weight_scale")
        )
        for path, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and is_downcast(f"{path}.weight")
    }
    model.update_modules(tree_unflatten(list(layers.items())))
