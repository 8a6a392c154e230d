"""Reads a component's weights from a checkpoint: decoded, in their dtype, with LoRAs, and finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from math import prod

import mlx.core as mx

from ..config.reading import cut
from ..errors import CheckpointError, WeightsError
from ..nn.finite import all_finite, every_finite
from .checkpoint import Checkpoint
from .gates import folded, gate_key
from .header import Arrays
from .lora import Lora, beside_layer, check_change, fuse, fuse_scaled
from .quantization import FP8, from_e5m2, from_fp8, is_downcast, nan_for_infinity, per_row, scale_of, to_fp8
from .quantized import Quantization, pack

# The dtypes of weights, by safetensors' names.
FLOATS = ("BF16", "F16", "F32", "F64", "F8_E4M3", "F8_E5M2")
FLOAT8 = ("F8_E4M3", "F8_E5M2")
DTYPES = {
    "U32": mx.uint32,
    "BF16": mx.bfloat16,
    "F16": mx.float16,
    "F32": mx.float32,
    "F64": mx.float32,
} | dict.fromkeys(FLOAT8, mx.bfloat16)
READ_AT_ONCE = 1 << 28  # bytes, to keep what is read and converted at one time small


@dataclass(frozen=True)
class Weights:
    """The parameters of a component as they are in the module: decoded, in their dtype, with LoRAs, in our axes.

    keys: parameter path → key. axes: parameter path → how the file's axes are ordered here. arrays: of the file.
    packed: the layers whose weights are packed in the module. packs: those that are packed while they are read → how.
    looked_up: parameters that stay as narrow as they are in the file.
    """

    checkpoint: Checkpoint
    keys: dict[str, str]
    loras: tuple[Lora, ...]
    dtype: mx.Dtype | None
    quantization: str | None
    axes: dict[str, tuple[int, ...]]
    arrays: Arrays
    packed: frozenset[str] = frozenset()
    packs: Mapping[str, Quantization] = field(default_factory=dict)
    looked_up: frozenset[str] = frozenset()

    def read(self, names: Iterable[str], check: bool = True) -> list[tuple[str, mx.array]]:
        """Read parameters now, some at a time. A float8 weight's scale comes with it. check: raise WeightsError, with
        the file and the tensor, where one is NaN or infinite."""
        for arrays in (self.arrays, *(lora.pairs.arrays for lora in self.loras)):
            arrays.check()
        keys = {name: self.keys[name] for name in names}
        packed = {name: keys.pop(name) for name in [*keys] if self._is_packed(name)}
        read = (
            (name, mx.contiguous(array.transpose(self.axes[name])) if name in self.axes else array)
            for name, key in keys.items()
            for name, array in self._read(name, key)
        )
        return list(_finite(chain(read, self._packed(packed)), self.checkpoint, keys | packed, self.loras, check))

    def _read(self, name: str, key: str) -> Iterator[tuple[str, mx.array]]:
        dtype = self._dtype(name, key)
        return _read(self.checkpoint, self.arrays, {name: key}, self.loras, dtype, self.quantization)

    def _dtype(self, name: str, key: str) -> mx.Dtype | None:
        """The dtype that a parameter is cast to."""
        in_file = DTYPES.get(self.checkpoint.tensors[key].dtype)
        if in_file is None or self.dtype is None or name not in self.looked_up:
            return self.dtype
        return in_file if in_file.size < self.dtype.size else self.dtype

    def _is_packed(self, name: str) -> bool:
        layer, _, leaf = name.rpartition(".")
        return leaf == "weight" and layer in self.packed

    def _packed(self, keys: dict[str, str]) -> Iterator[tuple[str, mx.array]]:
        """Yield the packed weights of layers, with what belongs to them, and with their LoRAs beside them."""
        for name, key in keys.items():
            layer = name.removesuffix(".weight")
            if how := self.packs.get(layer):
                # in the file's dtype, so that it is what ``convert`` writes
                ((_, weight),) = _read(self.checkpoint, self.arrays, {name: key}, (), None, None)
                weight, *rest = pack(weight, how)
                rest = [part.astype(self.dtype or part.dtype) for part in rest]
                mx.eval(weight, *rest)  # or whole weights of many layers would wait in memory
                yield from zip((f"{layer}.scales", f"{layer}.biases"), rest, strict=True)
            else:
                weight = self.arrays[key]
            yield name, weight
            if added := beside_layer(self.loras, layer, self.dtype_of(f"{layer}.scales")):
                yield from zip((f"{layer}.lora_A", f"{layer}.lora_B"), added, strict=True)

    def start(self, names: Iterable[str]) -> None:
        """Begin to read what ``read`` will need for these parameters, and return at once."""
        keys = [self.keys[name] for name in names]
        scales = (other for key in keys if (other := scale_key(self.checkpoint, key)) is not None)
        gates = (gate for key in keys if (gate := gate_key(self.checkpoint, key)))
        self.arrays.start([*keys, *scales, *gates])
        for lora in self.loras:
            lora.pairs.start(name.removesuffix(".weight") for name in names if name.endswith(".weight"))

    def stop(self) -> None:
        """Drop what was started and not read."""
        self.arrays.stop()
        for lora in self.loras:
            lora.pairs.arrays.stop()

    def dtype_of(self, name: str) -> mx.Dtype:
        """The dtype of a parameter of the module when it has been read."""
        layer, _, leaf = name.rpartition(".")
        if self._is_packed(name):
            return mx.uint32
        if leaf in ("lora_A", "lora_B"):
            return self.dtype_of(f"{layer}.scales")
        if leaf == "weight_scale":
            return mx.float32
        key = self.keys.get(name, self.keys.get(f"{layer}.weight", ""))
        own = self._dtype(name, key) or DTYPES[self.checkpoint.tensors[key].dtype]
        return FP8 if self.quantization and is_downcast(name) else own


def _read(
    checkpoint: Checkpoint,
    arrays: Arrays,
    keys: dict[str, str],
    loras: tuple[Lora, ...],
    dtype: mx.Dtype | None,
    quantization: str | None,
) -> Iterator[tuple[str, mx.array]]:
    """Yield each parameter decoded, with the LoRAs added, in its dtype. Lazy."""
    for name, key in keys.items():
        array, scale = arrays[key], _scale(checkpoint, arrays, key)
        in_fp8 = checkpoint.tensors[key].dtype in FLOAT8
        if checkpoint.tensors[key].dtype == "F8_E5M2":  # exact in bfloat16; ours are e4m3
            array, scale, in_fp8 = _decoded(array, scale, from_e5m2), None, False
            array = array if dtype else array.astype(mx.bfloat16)
        if gate := gate_key(checkpoint, key):
            whole = _decoded(array, scale, from_fp8) if in_fp8 else array
            array, scale, in_fp8 = folded(whole, arrays[gate]), None, False
        if quantization and is_downcast(name) and scale is not None:
            shape = scale.shape
            array, scale = fuse_scaled(loras, name, array, scale)
            yield f"{name}_scale", mx.broadcast_to(scale, shape)
            yield name, array
        elif quantization and is_downcast(name):
            array = array if in_fp8 else nan_for_infinity(array)
            yield name, fuse(loras, name, array if in_fp8 else to_fp8(array), FP8)
        else:
            if in_fp8:
                array = _decoded(array, scale, from_fp8)
            yield name, fuse(loras, name, array, dtype or (mx.bfloat16 if in_fp8 else array.dtype))


def _decoded(array: mx.array, scale: mx.array | None, decode: Callable[[mx.array, mx.Dtype], mx.array]) -> mx.array:
    """Bytes of float8 → values: exact in bfloat16, except for their scale."""
    return decode(array, mx.bfloat16) if scale is None else decode(array, mx.float32) * scale


def _scale(checkpoint: Checkpoint, arrays: Mapping[str, mx.array], key: str) -> mx.array | None:
    """The scale of a float8 weight, ``()`` or ``(out, 1)`` float32."""
    found = scale_key(checkpoint, key)
    if found is None:
        return None
    scale = per_row(arrays[found], checkpoint.tensors[key].shape)
    if (scale <= 0).any().item() and ((scale < 0) | ((scale == 0) & (arrays[key] & 127 != 0))).any().item():
        info = checkpoint.tensors[found]
        raise WeightsError(f"{info} is zero or negative, and scales a weight: the file is damaged. Get another one")
    return scale


def scale_key(checkpoint: Checkpoint, key: str) -> str | None:
    if checkpoint.tensors[key].dtype not in FLOAT8 or not key.endswith(".weight"):
        return None
    return next((other for other in scale_of(key) if other in checkpoint.tensors), None)


def scale_shapes(checkpoint: Checkpoint, keys: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """Path of a ``weight_scale`` → its shape, for the weights that stay in float8."""
    result: dict[str, tuple[int, ...]] = {}
    for name, key in keys.items():
        info = checkpoint.tensors[key]
        found = next((other for other in scale_of(key) if other in checkpoint.tensors), None)
        if info.dtype == "F8_E4M3" and found is not None and name.endswith(".weight"):
            single = prod(checkpoint.tensors[found].shape) == 1
            result[f"{name}_scale"] = () if single else (info.shape[0], 1)
    return result


def _finite(
    weights: Iterable[tuple[str, mx.array]],
    checkpoint: Checkpoint,
    keys: dict[str, str],
    loras: tuple[Lora, ...],
    check: bool = True,
) -> Iterator[tuple[str, mx.array]]:
    """The same weights, read now, some at a time. Raises WeightsError for NaN and ∞, by the file and the tensor."""
    group: list[tuple[str, mx.array]] = []
    size = 0
    for name, array in weights:
        group.append((name, array))
        size += array.nbytes
        if size > READ_AT_ONCE:
            yield from _checked(group, checkpoint, keys, loras, check)
            group, size = [], 0
    yield from _checked(group, checkpoint, keys, loras, check)


def _checked(
    group: list[tuple[str, mx.array]],
    checkpoint: Checkpoint,
    keys: dict[str, str],
    loras: tuple[Lora, ...],
    check: bool,
) -> list[tuple[str, mx.array]]:
    arrays = [array for _, array in group]
    finite = every_finite(arrays) if check else mx.array(True)
    try:
        mx.eval(finite, arrays)
    except RuntimeError as error:  # the file became shorter, or its disk went away
        if "read" not in str(error):
            raise
        raise CheckpointError(f"{checkpoint.path}: it could not be read to its end ({cut(str(error))})") from None
    for name, array in group if not finite.item() else ():
        if not all_finite(array).item():
            layer = name.rpartition(".")[0]
            weight = name if name in keys else f"{layer}.weight"
            info = checkpoint.tensors[keys[weight]]
            if _whole(checkpoint, keys[weight]):
                check_change(loras, weight)
            raise WeightsError(
                f"{info} holds NaN or ∞, or overflows in this dtype: the file is damaged. Get another one"
            )
    for name, array in group if check else ():
        if name.rpartition(".")[2] == "std-of-means" and (array <= 0).any().item():
            raise WeightsError(f"{checkpoint.tensors[keys[name]]} is zero or negative: the file is damaged")
    return group


def _whole(checkpoint: Checkpoint, key: str) -> bool:
    """True where the file's own numbers are finite."""
    arrays = checkpoint.arrays()
    array, scale = arrays[key], _scale(checkpoint, arrays, key)
    array = from_e5m2(array, mx.bfloat16) if checkpoint.tensors[key].dtype == "F8_E5M2" else array
    return bool(all_finite(array).item()) and (scale is None or bool(all_finite(scale).item()))
