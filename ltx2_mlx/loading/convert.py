"""Files with packed weights, made of a checkpoint or of a Gemma: a tensor at a time, whole or not at all.

What is packed is what ``load`` packs with ``quantization``, to the last bit; every other tensor is copied as it is.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from ..errors import CheckpointError, InputError, MediaError
from ..media.outputs import check_weights, whole_file, whole_folder
from .checkpoint import Checkpoint, read_checkpoint
from .gemma import GemmaFolder, is_gemma_file, read_gemma
from .header import TensorInfo
from .hub import GEMMA_PATTERNS
from .load import build
from .quantization import beside, scale_of
from .quantized import Choice, Quantization, choose, packed_layers, said_of
from .weights import Weights

CHUNK = 1 << 26  # bytes that are copied at one time
Progress = Callable[[int, int], None]


class Entry(NamedTuple):
    """One tensor of the new file."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Conversion:
    """What was made. before, after: bytes of the tensors."""

    path: Path
    how: Quantization
    choice: Choice
    before: int
    after: int

    def __str__(self) -> str:
        choice, stay = self.choice, []
        if choice.kept:
            stay.append(f"{choice.kept:,} kept by --keep")
        if choice.undivided:
            stay.append(f"{choice.undivided:,} kept whose channels are no multiple of {self.how.group_size}")
        sizes = f"{self.before / 1e9:.2f} GB became {self.after / 1e9:.2f} GB"
        return f"{self.path}: {', '.join([f'{len(choice.layers):,} layers in {self.how}', *stay])}; {sizes}"


def convert(
    source: str | Path,
    path: str | Path,
    how: Quantization,
    *,
    overwrite: bool = False,
    progress: Progress = lambda done, total: None,
) -> Conversion:
    """Write ``source``, a checkpoint or a Gemma (a folder, or the file of a text encoder), with packed weights to
    ``path``, a file or a folder.

    Memory is that of one tensor. ``progress(done, total)`` counts bytes of the new file. Raises InputError for a path
    that cannot be written or exists, CheckpointError for a source that is damaged, packed already, or has nothing to
    pack, and MediaError for a disk that is full.
    """
    source, path = Path(source), Path(path)
    folder = source.is_dir()
    check_weights(path, folder=folder, overwrite=overwrite, inputs=[source])
    gemma = folder or is_gemma_file(source)
    checkpoint = read_gemma(source) if gemma else read_checkpoint(source)
    file = Contents(checkpoint, "gemma" if gemma else "transformer", how)
    _check_space(path, file.nbytes)
    if isinstance(checkpoint, GemmaFolder):
        with whole_folder(path, check_replaced) as part:
            _copy_small(checkpoint, how, part)
            with (part / "model.safetensors").open("wb") as opened:
                file.write(opened, {"format": "mlx"}, progress)
    else:
        with whole_file(path) as part, part.open("wb") as opened:
            file.write(opened, checkpoint.metadata | {"quantization": file.stated()}, progress)
    before = sum(info.nbytes for info in checkpoint.tensors.values())
    return Conversion(path, how, file.choice, before, sum(entry.nbytes for entry in file.entries))


class Contents:
    """The new file: its entries are known before a weight is read."""

    def __init__(self, checkpoint: Checkpoint, component: str, how: Quantization):
        module, keys = _built(checkpoint, component)
        self.how, self.choice, self._tensors = how, choose(module, how), checkpoint.tensors
        self._source = Weights(
            checkpoint,
            keys,
            (),
            None,
            None,
            {},
            checkpoint.arrays(),
            frozenset(self.choice.layers),
            dict.fromkeys(self.choice.layers, how),
        )
        self._names = {keys[f"{layer}.weight"]: f"{layer}.weight" for layer in self.choice.layers}
        dropped = {other for key in self._names for other in (*scale_of(key), *beside(key))}
        self._keys = [key for key in sorted(checkpoint.tensors) if key not in dropped]
        self.entries = [entry for key in self._keys for entry in self._entries(key)]
        self.nbytes = sum(entry.nbytes for entry in self.entries)

    def stated(self) -> str:
        """What the metadata says of the weights."""
        layers = {"layers": len(self.choice.layers), "keep": list(self.how.keep)}
        return json.dumps(_stated(self.how) | layers | {"by": "ltx2-mlx convert"})

    def _entries(self, key: str) -> Iterator[Entry]:
        info = self._tensors[key]
        if key not in self._names:
            yield Entry(key, info.dtype, info.shape, info.nbytes)
            return
        layer, (rows, width), how = key.removesuffix("weight"), info.shape, self.how
        dtype = {mx.bfloat16: "BF16", mx.float16: "F16", mx.float32: "F32"}[
            self._source.dtype_of(self._names[key].removesuffix("weight") + "scales")
        ]
        columns, groups = width * how.bits // 32, width // how.group_size
        yield Entry(key, "U32", (rows, columns), rows * columns * 4)
        for part in ("scales", "biases"):
            yield Entry(f"{layer}{part}", dtype, (rows, groups), rows * groups * (4 if dtype == "F32" else 2))

    def write(self, file: BinaryIO, metadata: dict[str, str], progress: Progress) -> None:
        """Write the header, then tensor after tensor."""
        header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
        offset = 0
        for entry in self.entries:
            place = [offset, offset + entry.nbytes]
            header[entry.key] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": place}
            offset += entry.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        file.write(struct.pack("<Q", len(text)) + text)
        done = 0
        progress(0, self.nbytes)
        for key in self._keys:
            for piece in self._pieces(key):
                file.write(piece)
                done += len(piece)
                progress(done, self.nbytes)
            mx.clear_cache()

    def _pieces(self, key: str) -> Iterator[memoryview]:
        """The bytes of a tensor of the source, or of what it becomes, in the order of its entries."""
        if (name := self._names.get(key)) is None:
            yield from _copied(self._tensors[key])
            return
        parts = dict(self._source.read([name]))
        layer = name.removesuffix("weight")
        for part in (name, f"{layer}scales", f"{layer}biases"):
            bits = parts[part].view(mx.uint16) if parts[part].dtype == mx.bfloat16 else parts[part]
            yield np.ascontiguousarray(np.array(bits)).data.cast("B")


def _built(checkpoint: Checkpoint, component: str) -> tuple[nn.Module, dict[str, str]]:
    """The network whose layers are packed, and its keys. Raises CheckpointError for a file without it, and for one that
    is packed already."""
    if component != "gemma" and not checkpoint.holds(component):
        raise CheckpointError(f"{checkpoint.path} holds {checkpoint.contents()}, and only a transformer is packed")
    module, keys = build(component, checkpoint)
    if packed := packed_layers(module):
        said = f"its weights are packed in {said_of(packed.values())} already"
        raise CheckpointError(f"{checkpoint.path}: {said}. Convert the original file")
    return module, keys


def _copied(info: TensorInfo) -> Iterator[memoryview]:
    """The bytes of a tensor as they stand in its file. Raises CheckpointError where they end too early."""
    with info.file.open("rb") as file:
        file.seek(info.offset)
        left = info.nbytes
        while left:
            piece = file.read(min(left, CHUNK))
            if not piece:
                raise CheckpointError(f"{info}: the file has become shorter. Start again, and leave it as it is")
            left -= len(piece)
            yield memoryview(piece)


def _stated(how: Quantization) -> dict[str, object]:
    """As MLX's own programs write it."""
    return {"group_size": how.group_size, "bits": how.bits, "mode": "affine"}


def _copy_small(source: GemmaFolder, how: Quantization, folder: Path) -> None:
    """Copy the folder's small files, with what is packed in its ``config.json``."""
    for pattern in GEMMA_PATTERNS:
        for file in source.path.glob(pattern):
            if file.suffix != ".safetensors" and file.name not in _OF_WEIGHTS:
                shutil.copyfile(file, folder / file.name)
    config = source.config | {"quantization": _stated(how)}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


_OF_WEIGHTS = ("config.json", "model.safetensors.index.json")


def check_replaced(path: Path) -> None:
    """Raises InputError for a folder that is not one of ``convert``: it would be replaced whole."""
    names = {entry.name for entry in path.iterdir()}
    if names and not {"config.json", "model.safetensors"} <= names:
        raise InputError(f"{path}: a folder that holds {min(names)} and no converted Gemma; give a new or empty folder")


def _check_space(path: Path, needed: int) -> None:
    there = next(folder for folder in path.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise MediaError(f"{path} takes {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free")
