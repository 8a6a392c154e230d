"""Safetensors files with NumPy alone: float64 (which MLX does not read) goes in and out as it is."""

from __future__ import annotations

import hashlib
import json
import struct
from math import prod
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple

import msgspec
import numpy as np

from ltx2_mlx.errors import LTX2Error

_NAMES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}
_BYTES = {name: np.dtype(kind).itemsize for name, kind in _NAMES.items()}
_BYTES |= {"F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "U32": 4, "U64": 8}  # of checkpoints
_CODES = {np.dtype(name): code for code, name in _NAMES.items()}

Raw = tuple[str, list[int], bytes]  # dtype by safetensors' name, shape, little-endian bytes


def write_raw(path: Path, tensors: dict[str, Raw], metadata: dict[str, str] | None = None) -> None:
    """The file, its keys in order: the same tensors give the same bytes."""
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name, (dtype, shape, data) in sorted(tensors.items()):
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, (_, _, data) in sorted(tensors.items()):
            file.write(data)


def read_raw(path: Path) -> tuple[dict[str, Raw], dict[str, str]]:
    """Tensors and metadata of a file. Raises LTX2Error for one that is not whole."""
    with path.open("rb") as file:
        entries, metadata, start = _header(path, file)
        raw = {}
        for name, entry in entries.items():
            first, last = entry.data_offsets
            file.seek(start + first)
            raw[name] = (entry.dtype, entry.shape, file.read(last - first))
    return raw, metadata


def sizes(path: Path) -> dict[str, int]:
    """The number of elements of each tensor that ``decode`` can read, from the header. Raises LTX2Error for a file that
    is not whole."""
    with path.open("rb") as file:
        entries = _header(path, file)[0]
    return {name: prod(entry.shape) for name, entry in entries.items() if entry.dtype in _NAMES}


class Place(NamedTuple):
    """A tensor in its file: dtype by safetensors' name, shape, and the byte that it begins at."""

    dtype: str
    shape: list[int]
    offset: int


def places(path: Path) -> tuple[dict[str, Place], dict[str, str]]:
    """Where each tensor of a file is, and its metadata. Raises LTX2Error for a file that is not whole."""
    with path.open("rb") as file:
        entries, metadata, start = _header(path, file)
    found = {name: Place(entry.dtype, entry.shape, start + entry.data_offsets[0]) for name, entry in entries.items()}
    return found, metadata


class _Entry(msgspec.Struct):
    """A tensor in the header."""

    dtype: str
    shape: list[Annotated[int, msgspec.Meta(ge=0, lt=1 << 48)]]
    data_offsets: tuple[Annotated[int, msgspec.Meta(ge=0)], Annotated[int, msgspec.Meta(ge=0)]]


def _header(path: Path, file: BinaryIO) -> tuple[dict[str, _Entry], dict[str, str], int]:
    """Entries by name, metadata, and where the data begins. The entries' data fill the file exactly."""
    size, head = path.stat().st_size, file.read(8)
    start = 8 + (struct.unpack("<Q", head)[0] if len(head) == 8 else size)
    if start > size:
        raise LTX2Error(f"{path}: truncated or damaged: it ends in its header")
    try:
        header = msgspec.json.decode(file.read(start - 8), type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(header.pop("__metadata__", b"{}"), type=dict[str, str])
        entries = {name: msgspec.json.decode(entry, type=_Entry) for name, entry in header.items()}
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise LTX2Error(f"{path}: damaged: its header cannot be read ({str(error)[:120]})") from None
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        first, last = entry.data_offsets
        item = _BYTES.get(entry.dtype, 0)
        if not item or first != end or last - first != prod(entry.shape) * item:
            raise LTX2Error(f"{path}: damaged: the tensor {name[:80]!r} is not where its header says, or of its size")
        end = last
    if start + end != size:
        raise LTX2Error(f"{path}: truncated or damaged: its data end at byte {start + end:,}, the file at {size:,}")
    return entries, metadata, start


def encode(array: np.ndarray) -> Raw:
    """Raises KeyError for a dtype that has no name here."""
    code = _CODES[array.dtype]
    return code, list(array.shape), np.ascontiguousarray(array, _NAMES[code]).tobytes()


def decode(raw: Raw) -> np.ndarray:
    dtype, shape, data = raw
    return np.frombuffer(data, _NAMES[dtype]).reshape(shape)


def sha256(path: Path) -> str:
    """The digest of a file, or of a folder: of its files' names and digests."""
    if path.is_dir():
        lines = [f"{sha256(file)}  {file.relative_to(path)}\n" for file in sorted(path.rglob("*")) if file.is_file()]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
