"""Headers of ``.safetensors`` files, read by their own library, and their tensors, read when they are used."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors import SafetensorError, safe_open

from ..config.reading import cut
from ..distributed.table import Part
from ..errors import CheckpointError
from .kinds import _UNFINISHED, check_regular, kind_of_file

LIMIT = 100_000_000  # bytes of a header, the library's own limit
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "U16": 16, "I16": 16, "F16": 16}
_BITS |= {"BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64}
_BITS |= {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
# What MLX cannot read, and refuses a whole file for: numpy's dtype for the bytes, and ours.
_BY_NUMPY = ("F8_E5M2", "F64")
_OURS: dict[str, tuple[Any, mx.Dtype | None]] = {"F8_E5M2": (np.uint8, None), "F8_E4M3": (np.uint8, None)}
_OURS |= {"U8": (np.uint8, None), "U32": (np.uint32, None), "F16": (np.float16, None), "BF16": (np.uint16, mx.bfloat16)}
_OURS |= {"F32": (np.float32, None), "F64": (np.float64, None)}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: its dtype by safetensors' name, its shape, its size in bytes, and where it is."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: Path
    key: str
    offset: int

    def __str__(self) -> str:
        return f"{self.file}: {self.key}"


Tensors = dict[str, TensorInfo]


def read_header(path: Path) -> tuple[dict[str, str], Tensors]:
    """The metadata and the tensors of a file. Raises CheckpointError in one line for what is no whole safetensors file:
    the tensors must fill it exactly."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            head = file.read(9)
            length = struct.unpack("<Q", head[:8])[0] if len(head) == 9 else 0
            if len(head) < 9 or head[8:] != b"{":
                raise CheckpointError(f"{path}: {kind_of_file(path)}")
            size = path.stat().st_size
            if length > min(size - 8, LIMIT):
                claims = f"the header claims {length:,} bytes, the file has {size:,}"
                raise CheckpointError(f"{path}: {_unfinished(path)}truncated or damaged: {claims}")
            raw = b"{" + file.read(length - 1)
        with safe_open(str(path), framework="np") as opened:
            metadata = dict(opened.metadata() or {})
            slices = {key: opened.get_slice(key) for key in opened.offset_keys()}
            found = {key: (str(part.get_dtype()), tuple(part.get_shape())) for key, part in slices.items()}
        json.loads(raw, object_pairs_hook=_without_doubles)  # the library keeps the last of two
    except (SafetensorError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {_unfinished(path)}{_damage(raw, size - 8 - length, error)}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    tensors, offset = {}, 8 + length
    for key, (dtype, shape) in found.items():
        if dtype not in _BITS:
            raise CheckpointError(f"{path}: {cut(key)} is in the number format {dtype}, which is not known here")
        nbytes = prod(shape) * _BITS[dtype] // 8
        tensors[key] = TensorInfo(dtype, shape, nbytes, path, key, offset)
        offset += nbytes
    return metadata, {key: tensors[key] for key in sorted(tensors)}


def bits(dtype: str) -> int:
    """The bits of one number, by safetensors' name of its dtype; 8 for one that is not known here."""
    return _BITS.get(dtype, 8)


def _unfinished(path: Path) -> str:
    ending = path.name.lower().endswith(_UNFINISHED) or path.with_name(f"{path.name}.aria2").exists()
    return "its download has not ended; " if ending else ""


def _without_doubles(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"{cut(twice)} stands twice")


def _damage(raw: bytes, data_size: int, error: Exception) -> str:
    """What is wrong with a file that the library refuses."""
    reason = cut(str(error).removeprefix("Error while deserializing header: "), 160)
    try:
        entries = [entry for name, entry in json.loads(raw).items() if name != "__metadata__"]
        end = max((entry["data_offsets"][1] for entry in entries), default=0)
        if end > data_size:
            return f"truncated: tensor data should end at byte {end:,} and ends at {data_size:,}"
        if end < data_size:
            return f"damaged: {data_size - end:,} bytes follow the last tensor"
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        pass
    if "offset" in reason or "metadata" in reason:
        return f"damaged: its tensors do not fill it exactly ({reason})"
    return f"not a safetensors file (its header cannot be read: {reason})"


# ---- tensors ------------------------------------------------------------------------------------------------------


class Arrays(Mapping[str, mx.array]):
    """The arrays of ``tensors`` by the same names. Lazy: each is read when it is first used. None is kept here, so that
    its memory is free when its last user drops it; whoever asks again gets an array that is read again.

    Values of float8 are kept as their bytes. stream: a CPU stream that reads, so that ``start`` reads beside other
    work. parts: the slices of tensors that are read in the place of the whole. Raises CheckpointError.
    """

    def __init__(self, tensors: Tensors, stream: mx.Stream | None = None, parts: Mapping[str, Part] | None = None):
        self.tensors, self.stream, self.parts = tensors, stream, parts or {}
        self._odd = {info.file for info in tensors.values() if info.dtype in _BY_NUMPY}
        self._states = {file: _state(file) for file in dict.fromkeys(info.file for info in tensors.values())}
        self._opened: dict[Path, dict[str, mx.array]] = {}  # what has not been asked for since the file was opened
        self._started: dict[str, mx.array] = {}

    def start(self, names: Iterable[str]) -> None:
        """Begin to read these arrays, and return at once. Each is kept until it is asked for, or until ``stop``."""
        lazy = (name for name in names if name not in self.parts and self.tensors[name].file not in self._odd)
        self._started |= {name: self[name] for name in lazy}
        mx.async_eval(list(self._started.values()))  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """Drop what was started and not asked for."""
        self._started.clear()

    def __getitem__(self, name: str) -> mx.array:
        if name in self._started:
            return self._started.pop(name)
        info, part = self.tensors[name], self.parts.get(name)
        if info.file not in self._odd and part is None:
            return self._lazy(info)
        if info.dtype not in _OURS:
            raise CheckpointError(f"{info} is {info.dtype}, which is not read here")
        dtype, ours = _OURS[info.dtype]
        if not info.nbytes:
            return mx.zeros(info.shape)
        mapped: np.ndarray = np.memmap(info.file, dtype, "r", info.offset, info.shape or (1,))
        if part is not None:
            self.check()
            mapped = part.cut(mapped)
        array = mx.array(mapped) if info.shape else mx.array(mapped).reshape(())
        return array if ours is None else array.view(ours)

    def _lazy(self, info: TensorInfo) -> mx.array:
        opened = self._opened.get(info.file, {})
        if info.key not in opened:
            self.check()
            opened = self._opened[info.file] = _load(info.file, self.stream)
        return opened.pop(info.key)

    def check(self) -> None:
        """Raises CheckpointError where a file has changed since this was made."""
        for file, state in self._states.items():
            if _state(file) != state:
                raise CheckpointError(f"{file}: it has changed since it was opened. Start again, and leave it as it is")

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def _state(file: Path) -> tuple[int, int, int]:
    """Inode, size and time of the last change."""
    try:
        state = file.stat()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror or error})") from None
    return state.st_ino, state.st_size, state.st_mtime_ns


def _load(path: Path, stream: mx.Stream | None) -> dict[str, mx.array]:
    try:
        arrays = mx.load(str(path), format="safetensors", stream=stream)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: MLX cannot read it ({cut(str(error))})") from None
    assert isinstance(arrays, dict)  # one array is what .npy files hold
    return arrays
