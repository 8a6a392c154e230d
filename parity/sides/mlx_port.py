"""A port in MLX: see ``port``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from .mlx import MLX
from .port import Port


class MLXPort(Port, MLX):
    """A side whose components are ``mlx.nn.Module``."""

    def parameters_of(self, module: nn.Module) -> dict[str, tuple[int, ...]]:
        """Those of names that begin with an underscore as well, which MLX itself leaves out."""
        arrays = module.filter_and_map(lambda module, name, value: isinstance(value, (dict, list, mx.array)))
        return {name: array.shape for name, array in dict(tree_flatten(arrays)).items()}

    def assign(self, module: nn.Module, tensors: dict[str, mx.array]) -> nn.Module:
        module.load_weights(list(tensors.items()), strict=False)  # what it has of its own is declared
        mx.eval(module.parameters())
        return module.eval()

    def modules_of(self, module: nn.Module) -> Iterator[tuple[str, Any]]:
        return iter(module.named_modules())
