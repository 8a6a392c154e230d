"""A network as one rank has it: its part of the weights, and the sums over all ranks.

MLX's own ``ShardedToAllLinear`` knows neither float8 nor a LoRA beside packed weights, and adds the bias after the sum,
which rounds once more. Here the layer keeps its class, whatever it is, and the first rank alone has the bias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from ..nn.attention import Attention
from ..nn.fused import fused
from ..nn.rope import LTXRopeType
from .ranks import Ranks
from .table import Split, bounds, check_rules, is_split, parts_of, rule_of, shapes_of

Tables = tuple[mx.array, mx.array]


def shard(component: str, module: nn.Module, ranks: Ranks) -> None:
    """Make a module that has no weights yet a rank's: its shapes and heads, and the layers that sum over the ranks.

    Raises WeightsError where the table of rules does not name each parameter once.
    """
    if not is_split(module):
        return
    parameters: dict[str, mx.array] = dict(tree_flatten(module.parameters()))
    check_rules(component, parameters)
    parts = parts_of(component, module, shapes_of(module), ranks.rank, ranks.size)
    splits = {name.rpartition(".")[0]: rule_of(component, name).split for name in parameters}
    for path, layer in module.named_modules():
        if isinstance(layer, Attention):
            _become(layer, _own_heads, ranks)
            layer.first, layer.last = bounds(layer.heads, ranks.rank, ranks.size)
            layer.heads = layer.last - layer.first
        elif splits.get(path) is Split.ROWS:
            _become(layer, _summed, ranks)
        elif splits.get(path) is Split.SPREAD:
            _become(layer, _spread, ranks)
            layer.channels = layer.weight.size
    own = [(name, mx.zeros(part.of(parameters[name].shape), parameters[name].dtype)) for name, part in parts.items()]
    module.update(tree_unflatten(own))


def _become(layer: nn.Module, call: Callable[..., Any], ranks: Ranks) -> None:
    """Put another call in the place of a layer's. MLX looks it up on the class: a subclass of the same name leaves
    parameters and paths as they are."""
    cls = type(layer)
    layer.ranks = ranks
    object.__setattr__(layer, "__class__", type(cls.__name__, (cls,), {"__call__": call(cls)}))


def _summed(cls: type[nn.Module]) -> Callable[..., mx.array]:
    def call(self: Any, x: mx.array) -> mx.array:
        """``(…, input channels of the rank)`` → ``(…, output channels)``, the sum of all ranks' products."""
        total: mx.array = self.ranks.sum(cls.__call__(self, x))
        return total

    return call


def _spread(cls: type[nn.Module]) -> Callable[..., mx.array]:
    def call(self: Any, x: mx.array) -> mx.array:
        """x / √(mean(x²) + eps) · weight; the mean is over the channels of all ranks, ``(…, C of the rank)``."""
        total = self.ranks.sum(_squares(x))
        return _scaled(x, total / self.channels, self.weight, mx.array(self.eps, mx.float32))

    return call


@fused
def _squares(x: mx.array) -> mx.array:
    wide = x.astype(mx.float32)
    return (wide * wide).sum(axis=-1, keepdims=True)


@fused
def _scaled(x: mx.array, mean: mx.array, weight: mx.array, eps: mx.array) -> mx.array:
    return (x.astype(mx.float32) * mx.rsqrt(mean + eps)).astype(x.dtype) * weight


def _own_heads(cls: type[nn.Module]) -> Callable[..., mx.array]:
    def call(
        self: Any,
        x: mx.array,
        context: mx.array | None = None,
        mask: mx.array | None = None,
        pe: Tables | None = None,
        k_pe: Tables | None = None,
        perturbation_mask: mx.array | None = None,
        all_perturbed: bool = False,
    ) -> mx.array:
        """``Attention`` with the rotary tables of the rank's heads."""
        pe, k_pe = (_of_heads(tables, self) for tables in (pe, k_pe))
        result: mx.array = cls.__call__(self, x, context, mask, pe, k_pe, perturbation_mask, all_perturbed)
        return result

    return call


def _of_heads(tables: Tables | None, attention: Any) -> Tables | None:
    """``(B, H, T, D/2)`` of split rotary tables, ``(B, T, H·D)`` of interleaved ones."""
    if tables is None:
        return None
    if attention.rope_type is LTXRopeType.SPLIT:
        own = slice(attention.first, attention.last)
        return tables[0][:, own], tables[1][:, own]
    own = slice(attention.first * attention.dim_head, attention.last * attention.dim_head)
    return tables[0][..., own], tables[1][..., own]
