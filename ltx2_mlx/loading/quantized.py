"""Weights in a few bits, packed by MLX: each group of numbers of a row is ``scale · q + bias``, q an integer.

Only the linear layers of repeated blocks are packed, without gates: that is 96 % of the transformer's and 91 % of
Gemma's weights. What makes the modulation, the text's projection, embeddings, norms and tables keep their precision:
they are small, and each of them acts on every block. A LoRA stays beside a packed layer, in the layer's dtype.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from ..config.reading import cut
from ..errors import InputError, WeightsError
from ..nn.module import Module
from ..nn.norm import on_cuda
from ..text.gemma3 import Gemma3TextScaledWordEmbedding
from .header import TensorInfo
from .paging import in_pages

BITS = (4, 8)  # that are made here
GROUP_SIZES = (32, 64, 128)  # that MLX has
_BITS_READ = (2, 3, 4, 5, 6, 8)
_GATES = ".to_gate_logits"
PACKED = ("transformer", "gemma")  # the components whose blocks can be packed


def quantized_bytes(shape: tuple[int, ...], bits: int, group_size: int = 64, itemsize: int = 2) -> int:
    """The bytes of a packed weight of this shape, with a scale and a bias of ``itemsize`` bytes for each group."""
    return prod(shape) * bits // 8 + prod(shape) // group_size * 2 * itemsize


@dataclass(frozen=True)
class Quantization:
    """How layers are packed. keep: patterns of layers that stay as they are (``*.ff.net.2``). Raises InputError for
    what MLX does not have."""

    bits: int
    group_size: int = 64
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise InputError(f"bits is {self.bits}, expected {' or '.join(map(str, BITS))}")
        if self.group_size not in GROUP_SIZES:
            raise InputError(f"the group size is {self.group_size}, expected {', '.join(map(str, GROUP_SIZES))}")

    def __str__(self) -> str:
        return f"{self.bits} bits, groups of {self.group_size}"


FEW = 16  # rows; more are multiplied by the unpacked weight on CUDA
POLICIES = {f"q{bits}": Quantization(bits) for bits in (8, 4)}


class QuantizedLinear(Module):
    """A linear layer whose weight is packed; what it computes is in its input's dtype.

    rank: of the LoRAs beside it, all together; 0 where there is none.
    """

    def __init__(
        self, input_dims: int, output_dims: int, bias: bool, bits: int, group_size: int, dtype: mx.Dtype = mx.float32
    ):
        super().__init__()
        self.bits, self.group_size = bits, group_size
        self.weight = mx.zeros((output_dims, input_dims * bits // 32), mx.uint32)
        self.scales = mx.zeros((output_dims, input_dims // group_size), dtype)
        self.biases = mx.zeros((output_dims, input_dims // group_size), dtype)
        if bias:
            self.bias = mx.zeros((output_dims,), dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """``(output_dims, input_dims)``: of the weight, were it not packed."""
        return self.weight.shape[0], self.weight.shape[1] * 32 // self.bits

    def put_beside(self, rank: int) -> None:
        """Make room for LoRAs of this rank."""
        output_dims, input_dims = self.shape
        self.lora_A, self.lora_B = mx.zeros((rank, input_dims)), mx.zeros((output_dims, rank))

    def __call__(self, x: mx.array) -> mx.array:
        """``(…, input_dims)`` → ``(…, output_dims)``: x·Wᵀ + bias + (x·Aᵀ)·Bᵀ."""
        y = self._product(x)
        if "bias" in self:
            y = y + self.bias
        return y.astype(x.dtype) + (x @ self.lora_A.T) @ self.lora_B.T if "lora_A" in self else y.astype(x.dtype)

    def _product(self, x: mx.array) -> mx.array:
        """x·Wᵀ; on a CPU in float32."""
        size, bits = self.group_size, self.bits
        if mx.default_device() != mx.Device(mx.cpu):
            parts = (self.weight, self.scales, self.biases)
            if on_cuda() and x.size > FEW * x.shape[-1]:  # 40 to 60 times the time on an H100, MLX 0.31.1
                return x @ mx.dequantize(*parts, group_size=size, bits=bits).T
            return mx.quantized_matmul(x, *parts, transpose=True, group_size=size, bits=bits)
        # MLX 0.32.4 sums half precision in half precision there (7 % off for 4,096 terms), and takes 5 to 30 times
        # longer. In float32 only the result is rounded.
        scales, biases = self.scales.astype(mx.float32), self.biases.astype(mx.float32)
        return x.astype(mx.float32) @ mx.dequantize(self.weight, scales, biases, group_size=size, bits=bits).T


class QuantizedWordEmbedding(Gemma3TextScaledWordEmbedding):
    """Gemma's embedding with a packed table, as other programs write it."""

    def __init__(self, rows: int, width: int, bits: int, group_size: int):
        nn.Module.__init__(self)
        self.bits, self.group_size = bits, group_size
        self.weight = mx.zeros((rows, width * bits // 32), mx.uint32)
        self.scales, self.biases = mx.zeros((rows, width // group_size)), mx.zeros((rows, width // group_size))

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, width)``: of the table, were it not packed."""
        return self.weight.shape[0], self.weight.shape[1] * 32 // self.bits

    def __call__(self, input_ids: mx.array, dtype: mx.Dtype | None = None) -> mx.array:
        """``(B, T)`` ids → ``(B, T, D)`` in ``dtype``, or in that of the scales."""
        parts = (self.weight[input_ids], self.scales[input_ids], self.biases[input_ids])
        rows = mx.dequantize(*parts, group_size=self.group_size, bits=self.bits)
        rows = rows.astype(dtype or rows.dtype)
        return rows * mx.array(self.shape[1] ** 0.5, mx.float32).astype(rows.dtype)


PackedLayer = QuantizedLinear | QuantizedWordEmbedding


def pack(weight: mx.array, how: Quantization) -> tuple[mx.array, mx.array, mx.array]:
    """``(out, in)`` → packed weight, scales and biases. A group that holds NaN or ∞, which integers would hide, has the
    scale NaN."""
    packed, scales, biases = mx.quantize(weight, group_size=how.group_size, bits=how.bits)
    finite = mx.isfinite(weight.reshape(weight.shape[0], -1, how.group_size)).all(axis=-1)
    return packed, mx.where(finite, scales, mx.array(float("nan"), scales.dtype)), biases


# ---- which layers --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """The layers that are packed. kept: how many of those that could be are not, by a pattern of ``keep``;
    undivided: because their input channels are no multiple of the group size."""

    layers: tuple[str, ...]
    kept: int
    undivided: int


def choose(module: nn.Module, how: Quantization) -> Choice:
    """The layers of a module that ``how`` packs. Raises InputError for a pattern of ``keep`` that fits none, and where
    nothing is left to pack."""
    linear = {path: layer for path, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    _, pages = in_pages(module, [f"{path}.weight" for path in linear])
    inside = {name.removesuffix(".weight") for names in pages.values() for name in names}
    able = [path for path in linear if path in inside and not path.endswith(_GATES)]
    for pattern in how.keep:
        if not any(fnmatchcase(path, pattern) for path in able):
            raise InputError(f"no layer is named {cut(repr(pattern))}; a layer is one like {next(iter(able), 'none')}")
    left = [path for path in able if not any(fnmatchcase(path, pattern) for pattern in how.keep)]
    layers = tuple(path for path in left if linear[path].weight.shape[1] % how.group_size == 0)
    if not layers:
        why = f"{len(able) - len(left)} are kept, and the channels of {len(left)} are no multiple of {how.group_size}"
        raise InputError(f"none of {len(able)} layers can be packed: {why}")
    return Choice(layers, len(able) - len(left), len(left) - len(layers))


def amend_with_packed(module: nn.Module, layers: Mapping[str, Quantization]) -> None:
    """Put a ``QuantizedLinear`` in the place of each of these layers; its path stays."""
    paths = dict(module.named_modules())
    made = {}
    for path, how in layers.items():
        output_dims, input_dims = paths[path].weight.shape
        made[path] = QuantizedLinear(input_dims, output_dims, "bias" in paths[path], how.bits, how.group_size)
    module.update_modules(tree_unflatten(list(made.items())))


def packed_layers(module: nn.Module) -> dict[str, PackedLayer]:
    """The packed layers of a module by their paths."""
    return {
        path: layer
        for path, layer in module.named_modules()
        if isinstance(layer, (QuantizedLinear, QuantizedWordEmbedding))
    }


# ---- files whose weights are packed ---------------------------------------------------------------------------------


def amend_as_in_file(module: nn.Module, infos: Mapping[str, TensorInfo]) -> None:
    """Put packed layers in the place of those whose weights are packed in the file. infos: of the module's parameters.

    Bits and group size of each layer follow from the shapes. Raises WeightsError for what fits none.
    """
    made: dict[str, nn.Module] = {}
    for path, layer in module.named_modules():
        info = infos.get(f"{path}.weight")
        if info is None or info.dtype != "U32" or len(info.shape) != 2:
            continue
        if isinstance(layer, (nn.Linear, Gemma3TextScaledWordEmbedding)):
            rows, width = layer.weight.shape
            bits, group_size = _bits(info, width), _group_size(infos.get(f"{path}.scales"), info, width)
            if isinstance(layer, nn.Linear):
                made[path] = QuantizedLinear(width, rows, "bias" in layer, bits, group_size)
            else:
                made[path] = QuantizedWordEmbedding(rows, width, bits, group_size)
    module.update_modules(tree_unflatten(list(made.items())))


def _bits(weight: TensorInfo, width: int) -> int:
    bits, rest = divmod(weight.shape[1] * 32, width)
    if rest or bits not in _BITS_READ:
        raise WeightsError(f"misshaped {weight}: {weight.shape} does not hold rows of {width} numbers in 2 to 8 bits")
    return bits


def _group_size(scales: TensorInfo | None, weight: TensorInfo, width: int) -> int:
    """The group size that the scales state; the usual one where they are missing, which is then said of them."""
    if scales is None:
        return 64 if width % 64 == 0 else 32
    if scales.dtype == "U8":
        raise WeightsError(f"{weight} is packed with scales of 8 bits (mxfp4, mxfp8 or nvfp4), which is not read here")
    columns = scales.shape[-1] if scales.shape else 0
    if columns == 0 or width % columns or width // columns not in GROUP_SIZES:
        raise WeightsError(f"misshaped {scales}: {scales.shape} is no scale for each 32, 64 or 128 of {width} numbers")
    return width // columns


def said_of(layers: Iterable[PackedLayer]) -> str:
    """The bits of packed layers in words: ``8 bits``; "" where there are none."""
    bits = sorted({layer.bits for layer in layers})
    return f"{' and '.join(map(str, bits))} bits" if bits else ""
