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


POLICIES = {f"q{bits}": Quantization(bits) for bits in (8, 4)}
