"""The memory that networks take, and what ``--low-memory`` reads from the files in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import mlx.core as mx

from ..config import TransformerConfig
from ..loading.checkpoint import Checkpoint
from ..loading.load import build
from ..loading.lora import LoraPathStrength
from ..loading.paging import in_pages
from ..loading.quantization import is_downcast
from ..loading.quantized import POLICIES, choose, quantized_bytes
from .request import Request


@dataclass(frozen=True)
class Weights:
    """Bytes of a network's weights. held: in memory at one time. read: from the files, each time that it runs."""

    held: int
    read: int = 0


def weights(
    checkpoint: Checkpoint, component: str, request: Request, loras: Iterable[LoraPathStrength] = (), paged: bool = True
) -> Weights:
    """The weights of a component. paged: with ``--low-memory`` its blocks are read when they are called, with what the
    LoRAs change in them; two of them are in memory."""
    size = _sizes(component, request)
    keys = checkpoint.components().get(component, {})
    infos = {name: checkpoint.tensors[key] for name, key in keys.items()}
    taken = {n: info.nbytes if info.dtype == "U32" else prod(info.shape) * size(n) for n, info in infos.items()}
    packed = _packed(component, checkpoint, request)
    taken |= packed
    beside = sum(_size_of(loras)) if packed or any(info.dtype == "U32" for info in infos.values()) else 0
    if not (paged and request.low_memory):
        return Weights(sum(taken.values()) + beside)
    module, keys = build(component, checkpoint)
    resident, pages = in_pages(module, keys)
    in_file = {name: checkpoint.tensors[key].nbytes for name, key in keys.items()}
    largest = sorted(max(_sum(taken, page), _sum(in_file, page)) for page in pages.values())
    read = sum(_sum(in_file, page) for page in pages.values())
    read += sum(_size_of(loras))
    return Weights(_sum(taken, resident) + sum(largest[-2:]) + 2 * beside // len(pages), read)


def _packed(component: str, checkpoint: Checkpoint, request: Request) -> dict[str, int]:
    """The weights that are packed while they are loaded → their bytes."""
    how = POLICIES.get(request.quantization or "") if component == "transformer" else None
    if how is None:
        return {}
    module, _ = build(component, checkpoint)
    layers = dict(module.named_modules())
    return {
        f"{path}.weight": quantized_bytes(layers[path].weight.shape, how.bits, how.group_size, request.itemsize)
        for path in choose(module, how).layers
    }


def _size_of(loras: Iterable[LoraPathStrength]) -> Iterator[int]:
    return (path.stat().st_size for lora in loras if (path := Path(lora.path)).is_file())


def _sum(sizes: Mapping[str, int], names: Iterable[str]) -> int:
    return sum(sizes[name] for name in names)


def _sizes(component: str, request: Request) -> Callable[[str], int]:
    """The bytes of each number of a parameter, by its path."""
    if component == "transformer" and request.quantization == "fp8-cast":
        return lambda name: 1 if is_downcast(name) else request.itemsize
    return lambda name: 4 if component == "vocoder" else request.itemsize


def transformer_memory(checkpoint: Checkpoint, tokens: int, of_audio: int, itemsize: int, held: int) -> int:
    """About the peak, in bytes, of one pass over ``tokens`` video and ``of_audio`` audio tokens beside the weights, of
    which ``held`` are in memory.

    On an H200 the 19B model took 8.7 GB for 6,144 tokens and 12.0 GB for 24,576: 22 values of the inner width for each
    token, and a fifth of the weights' bytes (more with fp8-cast). On a CPU every head's scores are written out as well.
    """
    config = TransformerConfig.from_metadata(checkpoint.config)
    values, longest = 22 * (tokens * config.inner_dim + of_audio * config.audio_inner_dim), max(tokens, of_audio)
    if mx.default_device().type == mx.cpu:
        values += 3 * config.num_attention_heads * longest * (longest + 1024)
    return values * itemsize + held // 5
