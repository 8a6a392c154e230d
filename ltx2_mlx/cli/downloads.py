"""What is known of models on Hugging Face before they are downloaded."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

from ..errors import CheckpointError, InputError
from ..loading.checkpoint import Checkpoint, CheckpointFiles, CheckpointPath, checkpoint_of, merged
from ..loading.gemma import CONFIG as GEMMA_CONFIG
from ..loading.gemma import GemmaFile
from ..loading.header import TensorInfo, Tensors, read_header
from ..loading.hub import Remote
from .info import gigabytes
from .request import Request

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def header_of(path: CheckpointPath, remote: Mapping[str, Remote]) -> Checkpoint:
    """The header of a file or of several, or of names that ``remote`` has."""

    def header(file: Path) -> tuple[dict[str, str], Tensors]:
        found = remote.get(str(file))
        return read_header(file) if found is None else (found.metadata, found.tensors)

    return merged(path, header) if isinstance(path, CheckpointFiles) else checkpoint_of(Path(path), *header(Path(path)))


def gemma_of(name: str, remote: Remote) -> GemmaFile | None:
    """The text encoder of LTX-2.5 under a name; None for a folder, whose config.json is not read. Raises
    CheckpointError for another file."""
    if GEMMA_CONFIG in remote.metadata:
        return GemmaFile(Path(name), remote.metadata, remote.tensors)
    if name.endswith(".safetensors"):
        raise CheckpointError(f"{name}: it holds no Gemma ('{GEMMA_CONFIG}' is not in its metadata): use --gemma-root")
    return None


def gemma_name(remote: Remote) -> str:
    """``Gemma 3`` or ``Gemma 4``, by the names of a folder's tensors: only Gemma 4 scales its layers."""
    return f"Gemma {4 if any(key.endswith('.layer_scalar') for key in remote.tensors) else 3}"


def gemma_memory(remote: Remote, request: Request) -> tuple[int, int]:
    """Bytes of a Gemma's weights in memory, and about those that it works with, from its headers."""
    tensors = {key: info for key, info in remote.tensors.items() if "vision" not in key and "projector" not in key}
    layers: dict[str, list[TensorInfo]] = {}
    for key, info in tensors.items():
        if match := _LAYER.search(key):
            layers.setdefault(match[1], []).append(info)
    held = _size(tensors.values(), request.itemsize)
    if request.low_memory and layers:
        sizes = sorted(_size(layer, request.itemsize) for layer in layers.values())
        held += sum(sizes[-2:]) - sum(sizes)
    width = next((info.shape[-1] for key, info in tensors.items() if key.endswith("embed_tokens.weight")), 0)
    return held, 1024 * width * (len(layers) + 1) * request.itemsize * 2


def _size(tensors: Iterable[TensorInfo], itemsize: int) -> int:
    return sum(prod(info.shape) * itemsize for info in tensors)


def check_disk(size: int) -> None:
    """Raises InputError where a download does not fit on the disk of Hugging Face's cache."""
    if not size:
        return
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    there = next(folder for folder in (cache, *cache.absolute().parents) if folder.is_dir())
    if (free := shutil.disk_usage(there).free) < size:
        raise InputError(
            f"{gigabytes(size)} are to be downloaded, and {cache} has {gigabytes(free)} free: make room, or set HF_HOME"
        )
