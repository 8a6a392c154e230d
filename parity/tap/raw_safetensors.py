"""Safetensors files with NumPy alone: float64 (which MLX does not read) goes in and out as it is."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import numpy as np

_NAMES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}
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
    """Tensors and metadata of a file that is known to be whole."""
    content = path.read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:start])
    metadata = header.pop("__metadata__", {})
    raw = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        raw[name] = (entry["dtype"], entry["shape"], content[start + first : start + last])
    return raw, metadata


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
